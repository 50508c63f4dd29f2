"""Speed of a PPO step against the same loop with `generate` of transformers and padded mini-batches."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import torch

from benchmarks.speed import SEED, Row
from grlib.models.llama import load_both, save_model
from grlib.models.tokenizer import encode
from grlib.ppo.learner import Batch, Learner, batch_of, by_place
from grlib.profiles import Sampling, get
from grlib.sampling.pool import Request, Sampled, answer, sample
from grlib.tasks.countdown.data import draw
from grlib.tasks.countdown.task import CountdownTask, ppo_settings
from grlib.training.loss import response_nll
from grlib.training.rows import padded


class PaddedLearner(Learner):
    """The same update the usual way: every mini-batch padded to its longest row, and the old log
    probabilities computed again, since `generate` gives none."""

    def batches(self, rows: list[Any]) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
        """As many rows a forward pass as a mini-batch has, in their order."""
        size = self.settings.minibatch
        for first in range(0, len(rows), size):
            group = rows[first : first + size]
            yield list(range(first, first + len(group))), *padded(group)

    @torch.no_grad()
    def rescored(self, batch: Batch) -> Batch:
        """The batch with the policy's log probabilities of its tokens."""
        old = torch.zeros_like(batch.old_logprob)
        for numbers, ids, mask in self.batches(batch.rows):
            width = int(mask.sum(1).max())
            old[numbers, :width] = by_place(-response_nll(self.policy, ids, mask), mask, width)
        return replace(batch, old_logprob=old)


def bench_ppo(quick: bool, folder: Path, threads: int) -> Iterator[Row]:
    """Seconds of one step: sampling, grading, scoring, updating; and of the plain loop."""
    torch.set_num_threads(threads)
    count, budget = (8, 96) if quick else (get("laptop").ppo.responses, get("laptop").budget)
    items = draw(get("laptop").countdown, "bench", count)
    task, settings = CountdownTask(budget), ppo_settings(get("laptop"), "guided_rest_ppo")
    fast = _fast(task, items, folder, settings, threads)
    slow = _slow(task, items, folder, settings)
    slow_padding, fast_padding = slow.pop("padding"), fast.pop("padding")
    for name in fast:
        note = f"{count} responses" if name == "sampling" else ""
        yield Row(f"PPO step, {name}", "s", slow.get(name), fast[name], note)
    yield Row("PPO step, whole", "s", sum(slow.values()), sum(fast.values()), f"{threads} threads")
    spent = (fast["scoring"] + fast["updating"]) / fast["sampling"]
    yield Row("PPO step, padding", "% of tokens", slow_padding, fast_padding, "aim: under 10")
    yield Row("PPO, scoring + updating to sampling", "ratio", None, spent, "aim: 3 at most")


def padding(learner: Learner, rows: Sequence[Any]) -> float:
    """Share of the tokens of an update's forward passes that only fill up rows, in percent; a mini-batch of
    rows at a time, as `Learner.update` takes them."""
    size, padded_tokens = learner.settings.minibatch, 0
    for first in range(0, len(rows), size):
        padded_tokens += sum(ids.numel() for _, ids, _ in learner.batches(list(rows[first : first + size])))
    return 100 * (1 - sum(len(row.ids) for row in rows) / padded_tokens)


def _fast(
    task: CountdownTask, items: Sequence[Any], folder: Path, settings: Any, threads: int
) -> dict[str, float]:
    policy, tokenizer = load_both(folder)
    learner = Learner(policy, settings)
    chunk = -(-len(items) // threads)
    sampling = replace(settings.sampling, logprobs=True, workers=threads, chunk=chunk)
    with tempfile.TemporaryDirectory() as place:

        def draw_with(requests: Sequence[Request]) -> list[Sampled]:
            save_model(policy, tokenizer, Path(place) / "policy")
            return sample(
                Path(place) / "policy",
                requests,
                sampling,
                seed=SEED,
                folder=Path(place),
                progress=lambda line: None,
            )

        draw_with([Request("<s>", "", 2)] * 4 * chunk)  # every worker starts
        return _step(task, items, draw_with, tokenizer, learner, lambda batch: batch)


def _slow(task: CountdownTask, items: Sequence[Any], folder: Path, settings: Any) -> dict[str, float]:
    policy, tokenizer = load_both(folder)
    learner = PaddedLearner(policy, settings)
    theirs = Sampling(engine="transformers", slots=len(items))

    def draw_with(requests: Sequence[Request]) -> list[Sampled]:
        found = []
        for one in answer(policy, tokenizer, requests, theirs, SEED):
            ids = (*encode(tokenizer, [one.text])[0], *[tokenizer.eos_token_id] * one.ended)
            found.append(one._replace(ids=ids, logprobs=(0.0,) * len(ids)))
        return found

    return _step(task, items, draw_with, tokenizer, learner, learner.rescored)


def _step(
    task: CountdownTask, items: Sequence[Any], policy: Any, tokenizer: Any, learner: Learner, rescore: Any
) -> dict[str, float]:
    """Seconds of each part of one step."""
    inside: list[float] = []

    def timed(requests: Sequence[Request]) -> list[Sampled]:
        began = time.monotonic()
        answers = policy(requests)
        inside.append(time.monotonic() - began)
        return answers

    began = time.monotonic()
    rollouts = task.rollouts(timed, items, tokenizer, learner.settings)
    graded = time.monotonic()
    batch = rescore(batch_of(rollouts))
    rescored = time.monotonic()
    row = learner.update(batch, Random(SEED))
    whole = time.monotonic() - rescored
    return {
        "sampling": inside[0],
        "grading": graded - began - inside[0],
        "scoring": rescored - graded + row["scoring_s"],
        "updating": whole - row["scoring_s"],
        "padding": padding(learner, batch.rows),
    }
