"""Stage base: SoS and BC from scratch. Workers make examples while the GPU trains; the clock ends it."""

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from grlib import selftrain
from grlib.models.llama import bake, load_both, save_model
from grlib.one_gpu.window import DEVICE, GPU, Sampler, Window
from grlib.profiles import Profile
from grlib.runs import provenance
from grlib.runs.chunks import worker_pool
from grlib.sampling import pool as sampling
from grlib.tasks.countdown import task as countdown_task
from grlib.tasks.countdown.base import imitation_rows, new_model, validation_rows
from grlib.tasks.countdown.data import imitation_examples, make_splits
from grlib.tasks.countdown.vocabulary import build_tokenizer
from grlib.training.base import base_settings, notes, training_facts
from grlib.training.loss import score_rows
from grlib.training.packed import PackedScorer, line_that_fits, lines, train_lines
from grlib.training.rows import Row

if TYPE_CHECKING:
    import pandas as pd
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

PART = 400  # examples that a worker makes at once
AHEAD = 6  # parts a worker that are made before they are needed
FIRST = {"sos": 60_000, "bc": 50_000}  # examples of three numbers, from which a model learns the rules first
SHARE = {"sos": 0.92, "bc": 0.08}  # of the seconds
SLOW = 300_000  # tokens a second of training: less is a small card, few cores, or a fault
STEADY = 3  # steps after which the clock starts: the first ones compile

Arrays = tuple[np.ndarray, list[int], list[int]]


def part_of_rows(method: str, profile: Profile, num_count: int, start: int, count: int) -> Arrays:
    """Examples start .. start+count-1 of the imitation list as rows, small to hand over: all ids in one
    array, and of each row its length and where its loss starts."""
    torch.set_num_threads(1)
    examples = imitation_examples(profile.task, count, start=start, num_count=num_count)
    rows = imitation_rows(method, examples, _words(profile.whole_numbers), profile.self_training.row_length)
    ids = np.concatenate([row.ids for row in rows]).astype(np.uint16)
    return ids, [len(row.ids) for row in rows], [row.start for row in rows]


@lru_cache(maxsize=1)
def _words(whole_numbers: int) -> PreTrainedTokenizerFast:
    return build_tokenizer(whole_numbers)


def stream(pool: Executor, workers: int, method: str, profile: Profile, first: int) -> Iterator[Row]:
    """`first` examples of three numbers, then examples of the task without end, made a little ahead."""
    starts = [(3, start) for start in range(0, first, PART)]
    parts = itertools.chain(starts, ((profile.task.num_count, start) for start in itertools.count(0, PART)))
    waiting: deque[Future[Arrays]] = deque()
    while True:
        while len(waiting) < AHEAD * workers:
            waiting.append(pool.submit(part_of_rows, method, profile, *next(parts), PART))
        ids, lengths, begins = waiting.popleft().result()
        ends = np.cumsum(lengths)
        for end, length, begin in zip(ends, lengths, begins, strict=True):
            yield Row(ids[end - length : end].astype(np.int32), begin)


def by_the_clock(seconds: float, tokens: int, say: Callable[[str], None]) -> Callable[[int], float]:
    """How much of a run is done after so many steps of so many tokens, by the clock; says once if a GPU is
    slow."""
    started, told = [0.0], list[float]()

    def done(step: int) -> float:
        if step < STEADY:
            started[0] = time.monotonic()
            return 0.0
        spent = time.monotonic() - started[0]
        pace = step * tokens / max(spent, 1e-9)
        if GPU and spent > 20 and pace < SLOW and not told:
            told.append(pace)
            say(
                f"warning: {pace:,.0f} tokens a second, large cards take {SLOW:,} or more: more cores make "
                "examples faster, more --seconds see as many of them"
            )
        return spent / seconds

    return done


def make_bases(out: Path, profile: Profile, tokens: int, seconds: float) -> None:
    """Train both and save them in `out`/models with their cards, in bfloat16 where a GPU trained them."""
    window = Window("base", out, profile, seconds=seconds, tokens=tokens)
    workers = max(1, sampling.cores() - 1)
    for method in SHARE:
        first = FIRST[method] if GPU else PART
        pool = worker_pool(workers)
        try:
            rows = stream(pool, workers, method, profile, first)
            _train(window, method, rows, first, tokens, SHARE[method] * seconds)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _train(window: Window, method: str, rows: Iterator[Row], first: int, tokens: int, seconds: float) -> None:
    profile, words = window.profile, build_tokenizer(window.profile.whole_numbers)
    model = new_model(profile, words)
    settings = replace(base_settings(profile), precision="bfloat16")
    net = PackedScorer(model.to(DEVICE), profile.self_training.row_length, compiled=True)
    line = line_that_fits(model, tokens)  # a smaller card takes a step in several lines
    window.say(f"{method}: {seconds:.0f} s of steps of {tokens // line} x {line:,} tokens")
    done = by_the_clock(seconds, tokens, window.say)
    curve = train_lines(
        net, lines(rows, line), settings, done, progress=window.say, label=method,
        look_every=20 if GPU else 2, together=tokens // line,
    )  # fmt: skip
    net.give_back()
    nats = score_rows(model, validation_rows(method, profile, words), 16_384 if GPU else 2048).sum(0)
    curve["valid_loss"] = [math.nan] * (len(curve) - 1) + [nats[0] / nats[1]]
    window.say(f"{method}: validation {nats[0] / nats[1]:.4f} nats a token")
    model = bake(model.cpu()).to(torch.bfloat16 if GPU else torch.float32)
    folder = window.out / "models" / method
    save_model(model, words, folder, curve, describe(method, profile, model, curve, asdict(settings), first))
    window.part(f"training {method}")
    quick_look(window, folder, method)


def describe(
    method: str,
    profile: Profile,
    model: LlamaForCausalLM,
    curve: pd.DataFrame,
    training: dict[str, Any],
    first: int,
) -> dict[str, str]:
    """The manifest and the card that travel with a base."""
    facts = training_facts(model, curve) | {
        "method": method, "profile": profile.name, "task": asdict(profile.task), "training": training,
        "first_examples_of_3_numbers": first, "device": provenance.device(),
    }  # fmt: skip
    task, seconds = profile.task, curve["seconds"].iloc[-1]
    imitates = {"sos": "traces of symbolic searchers (SoS)", "bc": "optimal solutions, no search (BC)"}[
        method
    ]
    card = f"""---
license: apache-2.0
library_name: transformers
---
# Countdown base model `{method}`, {task.num_count} numbers of 1..{task.max_number}

A Llama of {facts["parameters"]:,} parameters (from scratch, stored in {str(model.dtype)[6:]}) that imitates
{imitates} on Countdown problems: combine numbers of 1..{task.max_number} to reach a target of \
{task.target_low}..{task.target_high}.

- **Made by** `python -m grlib gpu base` on one {facts["device"]}: {facts["steps"]:,} steps,
  {facts["tokens_seen"]:,} tokens in {seconds:.0f} s; {first:,} examples of 3 numbers, then examples
  of {task.num_count}, each seen once. The clock ended it, so another card sees another number of them.
  All settings are in `manifest.json`, the learning curve in `curve.csv`.
- **Validation loss** at the end, on examples it was not trained on:
  {facts["validation_loss_nats_per_token"]} nats a token.
- **Meant for** reproducing self-training (ReST, Guided-ReST, PPO) on the paper's task.
- **Held out**: the test problems of the repository, and every problem with an unseen target.
"""
    return notes(facts, card)


def quick_look(window: Window, folder: Path, method: str, problems: int = 400) -> None:
    """Says the accuracy on validation problems and how fast they were sampled."""
    model, words = load_both(folder)
    items: Sequence = make_splits(window.profile.task, 0, problems if GPU else 6, 0).valid
    began = time.monotonic()
    policy = Sampler(model, words, window.profile.sampling.slots, f"look/{method}")
    found = selftrain.evaluate(countdown_task.CountdownTask(window.profile.budget), policy, items, 4)
    took = time.monotonic() - began
    window.say(
        f"{method}: validation pass@1 {100 * found['correct'].mean():.1f} %, cut off "
        f"{100 * found['truncated'].mean():.1f} %, {found['tokens'].mean():.0f} tokens, "
        f"{found['tokens'].sum() / took:,.0f} tokens/s; {found['reason'].value_counts().to_dict()}"
    )
    window.part(f"a look at {method}")
