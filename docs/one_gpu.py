"""Countdown with four numbers on one GPU, in stages that each fit a window of minutes, without papermill.

    python docs/one_gpu.py probe   OUT                    what the card and the code on it can do
    python docs/one_gpu.py base    OUT --seconds 200      SoS and BC from scratch, traces made on the way
    python docs/one_gpu.py iterate OUT --seconds 400      ReST and Guided-ReST from the base, and all tables

Every stage writes what it has as soon as it has it and stops by itself when its seconds are used up. `--tiny`
rehearses a stage on the CPU at a thousandth of the size.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import multiprocessing
import os
import platform
import random
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file

from grlib import countdown_task, evaluation, profiles, sampling, selftrain
from grlib.countdown_data import draw, imitation_examples, make_splits, reserved_keys
from grlib.imitation import VALID_EXAMPLES, VALID_START, base_settings, imitation_rows
from grlib.model import bake, build_model, load_both, save_model
from grlib.packed_ppo import PackedLearner
from grlib.packed_training import Line, PackedScorer, lines, on, train_lines
from grlib.ppo import PPOSettings, _line, _problems, _watch
from grlib.profiles import Profile
from grlib.rollouts import batch_of
from grlib.tokenizer import build_tokenizer, encode
from grlib.training import (
    Row,
    Scored,
    TrainSettings,
    make_rows,
    micro_batches,
    padded,
    response_nll,
    score_rows,
)

BEGAN = time.monotonic()
GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
EVALUATION, PPO, AFTER_PPO = 100, 130, 40  # seconds kept back on a GPU for what follows the iterations
SLOW = 300_000  # tokens a second of training on a GPU: less is a fault
PART = 400  # examples that a worker makes at once


def say(line: str) -> None:
    print(f"[{time.monotonic() - BEGAN:6.1f} s] {line}", flush=True)


def sizes(tiny: bool) -> tuple[Profile, int]:
    """The profile, and the tokens of a training line (one optimiser step)."""
    profile = replace(
        profiles.get("gpu"),
        train_problems=12_000,
        test_problems=400,
        lr=1e-3,
        hint_problems=2000,
        ppo_actor_lr=2e-4,
    )  # what fits the window
    if not tiny:
        return profile, 131_072
    small = replace(
        profiles.get("laptop"), slots=16, train_problems=40, test_problems=4, samples=2,
        iteration_samples=2, hint_problems=4, iterations=2, rewrite_problems=40,
        engine="static", ppo_optimizer="adamw", ppo_problems=8, ppo_minibatch=4, ppo_actor_lr=1e-4,
    )  # fmt: skip
    return small, 4096


# Rows, made by all cores while the GPU trains


def part_of_rows(method: str, profile: Profile, num_count: int, start: int, count: int) -> tuple:
    """Rows start .. start+count-1 of the imitation list: all ids in a row, and of each row length and start."""
    torch.set_num_threads(1)
    examples = imitation_examples(profile.task, count, start=start, num_count=num_count)
    rows = imitation_rows(method, examples, words_of(profile.whole_numbers), profile.row_length)
    ids = np.concatenate([row.ids for row in rows]).astype(np.uint16)
    return ids, [len(row.ids) for row in rows], [row.start for row in rows]


@lru_cache(maxsize=1)
def words_of(whole_numbers: int):  # noqa: ANN201
    return build_tokenizer(whole_numbers)


def stream(
    pool: ProcessPoolExecutor, method: str, profile: Profile, stages: list[tuple[int, int]]
) -> Iterator[Row]:
    """Rows of every stage (count of numbers, examples; the last one without end), made a little ahead."""

    def parts() -> Iterator[tuple]:
        for num_count, examples in stages:
            for start in range(0, examples, PART):
                yield method, profile, num_count, start, PART
        for start in itertools.count(stages[-1][1], PART):
            yield method, profile, stages[-1][0], start, PART

    source, ahead = parts(), deque()
    while True:
        while len(ahead) < 6 * pool._max_workers:
            ahead.append(pool.submit(part_of_rows, *next(source)))
        ids, lengths, starts = ahead.popleft().result()
        place = 0
        for length, start in zip(lengths, starts, strict=True):
            yield Row(ids[place : place + length].astype(np.int32), start)
            place += length


def timed_share(seconds: float, tokens: int) -> Callable[[int], float]:
    """How much of a run is done by the clock, which starts after its first steps: those compile."""
    clock = [0.0]

    def done(step: int) -> float:
        if step < 3:
            clock[0] = time.monotonic()
            return 0.0
        took = time.monotonic() - clock[0]
        if GPU and took > 20 and step * tokens / took < SLOW:
            raise SystemExit(f"{step * tokens / took:,.0f} tokens/s after {took:.0f} s: something is wrong")
        return took / seconds

    return done


# Stage probe


def probe(out: Path, profile: Profile, tokens: int) -> None:
    """Ceilings of the card; packed attention, compiled blocks and captured sampling against references."""
    found: dict[str, object] = {"device": torch.cuda.get_device_name() if GPU else platform.machine()}
    for name, check in (
        ("ceilings", ceilings),
        ("packing", check_packing),
        ("sampling", check_sampling),
        ("training", training_pace),
    ):
        try:
            found[name] = check(profile, tokens)
        except Exception:
            found[name] = traceback.format_exc()
            print(found[name], flush=True)
        say(f"{name}: {found[name]}")
    (out / "probe.json").write_text(json.dumps(found, indent=1))


def seconds_of(work: Callable[[], object], repeat: int) -> float:
    """Seconds of one call, after one that does not count."""
    work()
    if GPU:
        torch.cuda.synchronize()
    began = time.monotonic()
    for _ in range(repeat):
        work()
    if GPU:
        torch.cuda.synchronize()
    return (time.monotonic() - began) / repeat


def ceilings(profile: Profile, tokens: int) -> dict[str, float]:
    size, width = (2**30, 8192) if GPU else (2**22, 256)
    a, b = (
        torch.empty(size, dtype=torch.uint8, device=DEVICE),
        torch.empty(size, dtype=torch.uint8, device=DEVICE),
    )
    x, y = (torch.randn(width, width, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    copied, multiplied = seconds_of(lambda: b.copy_(a), 10), seconds_of(lambda: x @ y, 10)
    return {"copy_tb_s": 2 * size / copied / 1e12, "bf16_tflop_s": 2 * width**3 / multiplied / 1e12}


def check_packing(profile: Profile, tokens: int) -> dict[str, float]:
    """Loss and gradient of a few rows, packed on the device in bfloat16, against padded rows in float32 on the
    CPU."""
    words = build_tokenizer(profile.whole_numbers)
    examples = imitation_examples(profile.task, 6, num_count=3)
    rows = imitation_rows("sos", examples, words, profile.row_length)
    model = new_model(profile, words)
    total = sum(response_nll(model, ids, mask).sum() for _, ids, mask in micro_batches(rows, 4096))
    total.backward()
    expected = torch.cat([p.grad.flatten() for p in model.parameters()])
    model.zero_grad()
    model.to(DEVICE)
    found = {}
    for compiled in (False, True):
        net = PackedScorer(model, profile.row_length, compiled)
        nats = 0.0
        for line in lines(rows, 4096):
            with torch.autocast(DEVICE.type, torch.bfloat16):
                loss = net(on(DEVICE, line))
            loss.backward()
            nats += float(loss.detach())
        got = torch.cat([p.grad.flatten().cpu() for p in model.parameters()])
        model.zero_grad()
        net.give_back()
        found |= {
            f"loss_{compiled}": nats / float(total) - 1,
            f"gradient_{compiled}": float((got - expected).norm() / expected.norm()),
        }
    return found


def check_sampling(profile: Profile, tokens: int) -> dict[str, object]:
    """Greedy text of the captured sampler against transformers' own, and how fast it samples."""
    words = build_tokenizer(profile.whole_numbers)
    model = bake(new_model(profile, words)).eval()
    problems = draw(profile.task, "probe", 64)
    ask = [sampling.Request(countdown_task.prompt_text(p), "", 64) for p, _ in problems]
    greedy = sampling.SamplingSettings("static", temperature=0, slots=32)
    ours = sampling.answer(model, words, ask, greedy, 0)
    theirs = sampling.answer(model, words, ask, replace(greedy, engine="transformers"), 0)
    same = float(np.mean([a.text == b.text for a, b in zip(ours, theirs, strict=True)]))
    first = float(np.mean([a.text[:8] == b.text[:8] for a, b in zip(ours, theirs, strict=True)]))
    found: dict[str, object] = {"greedy_equal": same, "greedy_begins_equal": first}
    for slots in (1024, 4096) if GPU else (8,):
        ask = [sampling.Request(countdown_task.prompt_text(problems[0][0]), "", profile.budget // 2)] * slots
        settings = sampling.SamplingSettings("static", slots=slots, logprobs=True)
        sampling.answer(model, words, ask[:8], settings, 0)  # makes the cache and captures
        began = time.monotonic()
        answers = sampling.answer(model, words, ask, settings, 1)
        took = time.monotonic() - began
        found[f"tokens_s_{slots}"] = sum(a.new for a in answers) / took
        found[f"mean_tokens_{slots}"] = float(np.mean([a.new for a in answers]))
    [prompt] = encode(words, [ask[0].prompt])
    again = [Row(np.array([*prompt, *a.ids], np.int32), len(prompt)) for a in answers[:8]]
    nats = score_rows(model.to(DEVICE), again)
    drawn = np.array([-sum(a.logprobs) for a in answers[:8]])
    found["rescored"] = float(
        np.abs(nats[:, 0] / drawn - 1).max()
    )  # of float32 against the sampler's bfloat16
    return found


def training_pace(profile: Profile, tokens: int) -> dict[str, float]:
    """Tokens a second of whole steps: packed and compiled, and rows padded to the longest of 64, as the
    Trainer of transformers has them; both in bfloat16."""
    words, model = build_tokenizer(profile.whole_numbers), None
    rows = imitation_rows(
        "sos", imitation_examples(profile.task, 2000 if GPU else 40), words, profile.row_length
    )
    model = new_model(profile, words).to(DEVICE)
    settings = TrainSettings(lr=1e-4, batch_rows=64, precision="bfloat16")
    packed = list(lines(rows, tokens))[:12]
    net = PackedScorer(model, profile.row_length, compiled=True)

    def take(source: list[Line]) -> float:
        began = time.monotonic()
        train_lines(net, source, settings, lambda step: 0.5, progress=lambda line: None, label="pace")
        if GPU:
            torch.cuda.synchronize()
        return sum(line.real for line in source) / (time.monotonic() - began)

    take(packed[:2])
    found = {"packed": take(packed)}
    net.give_back()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    plain = Scored(bake(model))
    began, seen = 0.0, 0
    for step in range(8):
        if step == 2:
            torch.cuda.synchronize() if GPU else None
            began, seen = time.monotonic(), 0
        batch = rows[64 * step : 64 * (step + 1)] or rows[:8]
        ids, mask = (tensor.to(DEVICE) for tensor in padded(batch))
        with torch.autocast(DEVICE.type, torch.bfloat16):
            plain(ids, mask).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        seen += sum(len(row.ids) for row in batch)
    torch.cuda.synchronize() if GPU else None
    return found | {"padded": seen / (time.monotonic() - began)}


def new_model(profile: Profile, words):  # noqa: ANN001, ANN201
    return build_model(
        words, profile.hidden, profile.layers, profile.heads, profile.intermediate, profile.row_length, 0,
        profile.kv_heads,
    )  # fmt: skip


# Stage base


def base(out: Path, profile: Profile, tokens: int, seconds: float, tiny: bool) -> None:
    """SoS and BC, each by the clock: nine tenths of the time are SoS's."""
    reserved_keys(profile.task)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["grlib.imitation"])
    with ProcessPoolExecutor(max(1, (os.cpu_count() or 2) - 1), mp_context=context) as pool:
        for method, share, stages in (
            ("sos", 0.92, [(3, 60_000 if not tiny else 400), (4, 100_000)]),
            ("bc", 0.08, [(3, 50_000 if not tiny else 400), (4, 100_000)]),
        ):
            train_one(out, method, profile, tokens, share * seconds, stages, pool)
        pool.shutdown(cancel_futures=True)


def train_one(out, method, profile, tokens, seconds, stages, pool) -> None:  # noqa: ANN001
    words = build_tokenizer(profile.whole_numbers)
    model = new_model(profile, words)
    settings = replace(base_settings(profile), precision="bfloat16", warmup=0.02)
    net = PackedScorer(model.to(DEVICE), profile.row_length, compiled=True)
    source = lines(stream(pool, method, profile, stages), tokens)
    curve = train_lines(
        net,
        source,
        settings,
        timed_share(seconds, tokens),
        progress=say,
        label=method,
        look_every=20 if GPU else 2,
    )
    net.give_back()
    valid = imitation_rows(
        method, imitation_examples(profile.task, VALID_EXAMPLES, start=VALID_START), words, profile.row_length
    )
    nats = score_rows(model, valid, 16_384 if GPU else 2048).sum(0)
    curve["valid_loss"] = [math.nan] * (len(curve) - 1) + [nats[0] / nats[1]]
    pace = (curve["tokens_seen"].iloc[-1] - curve["tokens_seen"].iloc[1]) / (
        curve["seconds"].iloc[-1] - curve["seconds"].iloc[1]
    )
    say(
        f"{method}: {len(curve)} looks, {pace:,.0f} tokens/s, validation {nats[0] / nats[1]:.4f} nats a token"
    )
    model = bake(model.cpu()).to(torch.bfloat16)
    save_model(model, words, out / "models" / method, curve)
    quick_look(profile, out / "models" / method, method)


def quick_look(profile: Profile, folder: Path, method: str) -> None:
    """pass@1 on validation problems, to be seen at once."""
    model, words = load_both(folder)
    count = 400 if GPU else 6
    items = make_splits(profile.task, 0, count, 0).valid
    began = time.monotonic()
    found = evaluation.evaluate(
        countdown_task.CountdownTask(profile.budget),
        Sampler(model, words, profile, f"look/{method}"),
        items,
        4,
    )
    took = time.monotonic() - began
    say(
        f"{method}: validation pass@1 {100 * found['correct'].mean():.1f} %, cut off "
        f"{100 * found['truncated'].mean():.1f} %, {found['tokens'].mean():.0f} tokens, "
        f"{found['tokens'].sum() / took:,.0f} tokens/s; {found['reason'].value_counts().to_dict()}"
    )


class Sampler:
    """A policy that samples in this process from a model on the CPU, which the sampler copies."""

    def __init__(self, model, words, profile: Profile, seed: str, temperature: float = 1.0) -> None:  # noqa: ANN001
        self.model, self.words, self.seed, self.times = model, words, seed, itertools.count()
        logprobs = temperature == 1  # they cost nothing
        self.settings = sampling.SamplingSettings("static", temperature, profile.slots, logprobs=logprobs)

    def __call__(self, requests):  # noqa: ANN001, ANN204
        seed = random.Random(f"{self.seed}/{next(self.times)}").getrandbits(31)
        return sampling.answer(self.model, self.words, requests, self.settings, seed)


# Stage iterate


class Trainer:
    """The base on the GPU, whose compiled blocks serve every fine-tuning: each starts from the base's weights."""

    def __init__(self, base: Path, profile: Profile, tokens: int) -> None:
        self.profile, self.tokens = profile, tokens
        self.model, self.words = load_both(base)
        self.start = {name: weights.clone() for name, weights in self.model.state_dict().items()}
        self.model.to(DEVICE)
        self.net = PackedScorer(self.model, profile.row_length, compiled=True)

    def rows(self, attempts) -> list[Row]:  # noqa: ANN001
        examples = [one for attempt in attempts for one in attempt.examples()]
        return make_rows(
            self.words, [e.prompt for e in examples], [e.response for e in examples],
            self.profile.row_length, [e.ended for e in examples],
        )  # fmt: skip

    def nats(self, model, prompts, responses, ended) -> np.ndarray:  # noqa: ANN001
        """`score_rows` of texts, in float32 on the GPU."""
        rows = make_rows(self.words, list(prompts), list(responses), self.profile.row_length, list(ended))
        try:
            return score_rows(model.to(DEVICE), rows, 32_768 if GPU else 2048)
        finally:
            model.cpu()

    def on_cpu(self):  # noqa: ANN201
        """A copy of the model as it is now, for the sampler."""
        copied = bake(new_model(self.profile, self.words))
        copied.load_state_dict({name: weights.cpu() for name, weights in self.model.state_dict().items()})
        return copied.eval()

    def reinforce(
        self, model, task, items, settings: PPOSettings, label: str, seconds: float, steps: int = 0
    ):  # noqa: ANN001, ANN201
        """PPO from `model`: (the model, its curve). `steps` 0: as many as the seconds allow, by the first three."""
        self.model.load_state_dict(model.state_dict())
        learner = PackedLearner(self.model, replace(settings, steps=steps or 1000), 0, self.net, self.tokens)
        shadow, curve, began, step = self.on_cpu(), [], time.monotonic(), 0
        while step < learner.settings.steps:
            started = time.monotonic()
            shadow.load_state_dict({name: weights.cpu() for name, weights in self.model.state_dict().items()})
            chosen = _problems(items, settings, 0, step)
            policy = Sampler(shadow, self.words, self.profile, f"{label}/{step}")
            rollouts = task.rollouts(policy, chosen, self.words, settings)
            sampled = time.monotonic()
            learner.set_rate(step)
            row = learner.update(batch_of(rollouts), random.Random(f"{label}/{step}")) | _watch(rollouts)
            step += 1
            spent = {
                "sampling_s": sampled - started,
                "updating_s": time.monotonic() - sampled - row["scoring_s"],
            }
            curve.append(row | {"step": step, "method": label} | spent)
            if step == 3 and not steps:
                each = (time.monotonic() - began) / 3
                learner.settings = replace(learner.settings, steps=max(3, int(seconds / each)))
                say(f"{label}: {each:.2f} s a step, so {learner.settings.steps} steps")
            if step % 5 == 0 or step < 4:
                say(f"{label}: {_line(curve[-1], learner.settings)}; {spent}")
        return self.on_cpu(), pd.DataFrame(curve)

    def fine_tune(self, rows: list[Row], settings: TrainSettings, seed: str, label: str, steps: int = 0):  # noqa: ANN201
        """(a model on the CPU, its curve); `steps`: as many, repeating epochs as needed; 0: the epochs."""
        self.model.load_state_dict(self.start)
        planned: list[Line] = []
        for epoch in itertools.count():
            if (len(planned) >= steps) if steps else (epoch >= settings.epochs):
                break
            order = list(rows)
            random.Random(f"{seed}/{epoch}").shuffle(order)
            planned += lines(order, self.tokens)
        planned = planned[: steps or None]
        curve = train_lines(
            self.net, planned, settings, lambda step: step / len(planned), progress=say, label=label
        )
        curve["steps"] = len(planned)
        return self.on_cpu(), curve


def difference(start, model) -> dict[str, torch.Tensor]:  # noqa: ANN001
    """The weights of `model` less those of `start`, as whole numbers -127..127 and a scale a row."""
    found = {}
    first = dict(start.named_parameters())
    for name, weights in model.named_parameters():
        change = (weights.detach() - first[name].detach()).reshape(len(weights), -1)
        scale = change.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
        found |= {name: (change / scale).round().to(torch.int8), f"{name}/scale": scale}
    return found


def with_difference(start, found: dict[str, torch.Tensor]):  # noqa: ANN001, ANN201
    """The model that `difference` was made of, changed in place from `start`."""
    with torch.no_grad():
        for name, weights in start.named_parameters():
            weights += (found[name].float() * found[f"{name}/scale"]).view_as(weights)
    return start


class Begun:
    """A task whose first attempts are there already."""

    def __init__(self, task: countdown_task.CountdownTask, attempts) -> None:  # noqa: ANN001
        self.task, self.attempts, self.rounds, self.guide = task, attempts, task.rounds, task.guide

    def attempt(self, policy, items, starts):  # noqa: ANN001, ANN201
        if self.attempts is not None and starts[0] is None:
            return self.attempts
        return self.task.attempt(policy, items, starts)


def likelihoods(trainer: Trainer, sos, gathered, count: int, keep) -> None:  # noqa: ANN001
    """How likely the SoS model finds the first traces that it solved alone, and those after guidance."""
    for kind, within in (("self_generated", (0,)), ("guided", (1, 2, 3))):
        chosen = [i for i, solved in enumerate(gathered.solved_in[:count]) if solved in within]
        attempts = [gathered.attempts[i] for i in chosen]
        nats = trainer.nats(
            sos, [a.prompt for a in attempts], [a.response for a in attempts], [a.ended for a in attempts]
        )
        keep(
            "likelihood",
            pd.DataFrame(
                {"kind": kind, "index": chosen, "nll": nats[:, 0], "nll_tokens": nats[:, 1].astype(int)}
            ),
        )
        say(
            f"likelihood {kind}: {nats[:, 0].sum() / max(1, nats[:, 1].sum()):.4f} nats a token, {len(chosen)} traces"
        )


def iterate(out: Path, profile: Profile, tokens: int, seconds: float, base_folder: Path) -> None:  # noqa: PLR0915
    """ReST and Guided-ReST, iteration by iteration, and their tables; the order is that of importance."""
    seed, budget = 0, profile.budget
    left = lambda: seconds - (time.monotonic() - BEGAN)  # noqa: E731
    (out / "results").mkdir(parents=True, exist_ok=True)
    splits = make_splits(profile.task, profile.train_problems, 0, profile.test_problems, seed)
    items = splits.train
    say(f"{len(items)} training problems drawn")
    task = countdown_task.CountdownTask(budget, rounds=profile.guided_rounds)
    sos, words = load_both(base_folder / "sos")
    trainer = Trainer(base_folder / "sos", profile, tokens // 2)
    tuning = replace(countdown_task.loop_settings(profile, "rest").training, precision="bfloat16")
    held: dict[str, list[pd.DataFrame]] = {}

    def keep(kind: str, frame: pd.DataFrame) -> None:
        held.setdefault(kind, []).append(frame)
        pd.concat(held[kind], ignore_index=True).to_parquet(out / "results" / f"{kind}.parquet")

    def measure(method: str, model, iteration: int, samples: int, temperature: float = 1.0) -> None:  # noqa: ANN001
        """Both splits in one go: a call waits for its longest trace."""
        name = f"{seed}/{method}/{iteration}/{temperature}"
        problems, half = splits.seen + splits.unseen, len(splits.seen)
        found = evaluation.evaluate(
            task, Sampler(model, words, profile, name, temperature), problems, samples
        )
        found = found.drop(columns="response").assign(method=method, iteration=iteration, seed=seed)
        found["split"] = np.where(found["index"] < half, "seen", "unseen")
        found["index"] %= half
        keep("eval" if temperature else "greedy", found)
        for split, part in found.groupby("split"):
            any_of = part.groupby("index")["correct"].any().mean()
            say(
                f"{name} {split}: {100 * part['correct'].mean():.1f} %, any of {samples} {100 * any_of:.1f} %, "
                f"{part['tokens'].mean():.0f} tokens, cut off {100 * part['truncated'].mean():.0f} %"
            )

    def save(model, name: str, curve: pd.DataFrame) -> None:  # noqa: ANN001
        """What has changed since the base, in 8 bits a weight: a file that can travel."""
        save_file(difference(sos, model), out / f"{name}.safetensors", {"steps": str(len(curve))})

    newest = {"rest": sos, "guided_rest": sos}
    first, iteration = None, 0
    kept: dict[str, list[Row]] = {}
    curves: dict[str, pd.DataFrame] = {}
    while iteration < profile.iterations:
        iteration += 1
        round_began = time.monotonic()
        for method in ("rest", "guided_rest"):
            rounds = 0 if method == "rest" else profile.guided_rounds
            began = time.monotonic()

            def policy_of_round(number: int, method=method, iteration=iteration):  # noqa: ANN001, ANN202
                name = f"{seed}/{method if iteration > 1 or number else 'first'}/{iteration}/{number}"
                return Sampler(newest[method], words, profile, name)

            started = Begun(task, first if iteration == 1 else None)
            gathered = selftrain.gather(
                started, items, policy_of_round, rounds, f"{seed}/{method}/{iteration}"
            )
            first = first or gathered.attempts
            kept[method] = trainer.rows(gathered.kept())
            solved = pd.Series(gathered.solved_in).value_counts().sort_index().to_dict()
            say(f"{method} {iteration}: solved in rounds {solved}, {time.monotonic() - began:.0f} s")
            keep("yield", selftrain._record(gathered, method, iteration).assign(seed=seed))
            epochs = profile.rest_epochs if method == "rest" else profile.guided_epochs
            newest[method], curves[method] = trainer.fine_tune(
                kept[method],
                replace(tuning, epochs=epochs),
                f"{seed}/{method}/{iteration}",
                f"{method} {iteration}",
            )
            keep("tuning", curves[method].assign(method=method, iteration=iteration))
            if iteration == 1 and method == "guided_rest":
                likelihoods(trainer, sos, gathered, profile.rewrite_problems, keep)
            save(newest[method], method, curves[method])
        spent = time.monotonic() - round_began
        if left() < 1.1 * spent + (EVALUATION + PPO + AFTER_PPO) * GPU:
            say(f"no time for another iteration of {spent:.0f} s")
            break
        if iteration < profile.iterations:
            for method in newest:
                measure(method, newest[method], iteration, profile.iteration_samples)
    finals = [
        ("guided_rest", newest["guided_rest"], iteration),
        ("rest", newest["rest"], iteration),
        ("sos", sos, 0),
    ]
    for method, model, at in finals:
        measure(method, model, at, profile.samples)
    for method, model, at in finals:
        measure(method, model, at, 1, 0.0)
    within_reach = countdown_task.solved_unaided(items, pd.concat(held["yield"]))
    say(f"{len(within_reach)} of {len(items)} problems solved unaided; {left():.0f} s left")
    each, steps = (left() - AFTER_PPO * GPU) / 2 - 8, 0 if GPU else 3
    for method, start in (("guided_rest_ppo", newest["guided_rest"]), ("sos_ppo", sos)):
        chosen = replace(
            countdown_task.ppo_settings(profile, method), precision="bfloat16", schedule="linear"
        )
        model, curve = trainer.reinforce(start, task, within_reach, chosen, method, each, steps)
        steps = len(curve)
        keep("ppo", curve)
        measure(method, model, 0, 1, 0.0)
        measure(method, model, 0, profile.iteration_samples)
        save(model, method, curve)
    bc, _ = load_both(base_folder / "bc")
    measure("bc", bc, 0, 1, 0.0)
    measure("bc", bc, 0, profile.samples)
    hinted = items[: profile.hint_problems]
    given = [steps for steps in range(4) for _ in hinted]
    starts = [countdown_task.hint(item, steps) for steps in range(4) for item in hinted]
    found = evaluation.evaluate(task, Sampler(sos, words, profile, f"{seed}/hints"), hinted * 4, 1, starts)
    prompts = [countdown_task.prompt_text(problem) for problem, _ in hinted] * 4
    nats = trainer.nats(sos, prompts, found["response"], ~found["truncated"])
    scored = found.drop(columns="response").assign(
        nll=nats[:, 0], nll_tokens=nats[:, 1].astype(int), steps=given
    )
    keep("hints", scored.assign(index=scored["index"] % len(hinted), method="sos", split="train"))
    say(f"hints: {scored.groupby('steps')['correct'].mean().round(3).to_dict()}, {left():.0f} s left")
    if left() > 12 or not GPU:
        say(f"sampling: {generate_pace(sos, profile)}")
    if left() > 45 or not GPU:
        steps = int(curves["guided_rest"]["steps"].iloc[-1])
        matched, curve = trainer.fine_tune(kept["rest"], tuning, f"{seed}/matched", "rest_matched", steps)
        keep("tuning", curve.assign(method="rest_matched", iteration=iteration))
        measure("rest_matched", matched, iteration, profile.samples)
        measure("rest_matched", matched, iteration, 1, 0.0)


def generate_pace(model, profile: Profile) -> dict[str, float]:  # noqa: ANN001
    """Tokens a second of `generate` of transformers, in bfloat16, many rows at once and short ones at that: a
    row costs it more the longer it gets."""
    words = build_tokenizer(profile.whole_numbers)
    [prompt] = encode(words, [countdown_task.prompt_text(draw(profile.task, "probe", 1)[0][0])])
    served, found = model.to(DEVICE, torch.bfloat16), {}
    for rows, new in ((64, 16), (1024, 256)) if GPU else ((2, 4),):
        ids = torch.tensor([prompt] * rows, device=DEVICE)
        began = time.monotonic()
        output = served.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, max_new_tokens=new,
            min_new_tokens=new, pad_token_id=words.pad_token_id,
        )  # fmt: skip
        found[f"generate_{rows}"] = output[:, len(prompt) :].numel() / (time.monotonic() - began)
    model.to("cpu", torch.float32)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("stage", choices=("probe", "base", "iterate"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=200)
    parser.add_argument(
        "--base", type=Path, default=Path("paper_results/base_gpu"), help="folder of sos and bc"
    )
    parser.add_argument("--tiny", action="store_true")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    profile, tokens = sizes(chosen.tiny)
    if chosen.stage == "probe":
        probe(chosen.out, profile, tokens)
    elif chosen.stage == "base":
        base(chosen.out, profile, tokens, chosen.seconds, chosen.tiny)
    else:
        iterate(chosen.out, profile, tokens, chosen.seconds, chosen.base)
    say("done")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
