"""Evaluation: many samples of each problem from a model, a row a sample, whatever the task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from grlib.errors import GrlibError
from grlib.profiles import Profile
from grlib.sampling import SamplingSettings
from grlib.selftrain import Policy, Task, sampled_policy

LEAST_CHUNK = 32  # requests that are worth a worker process


def evaluate(
    task: Task, policy: Policy, items: Sequence[Any], samples: int, starts: Sequence[Any | None] | None = None
) -> pd.DataFrame:
    """`samples` attempts at each item, a row each: index, sample, and what `Attempt.row` says.

    `starts` gives each item something to go on from (a hint); one that leaves no room is a bad argument.
    """
    repeated = [item for item in items for _ in range(samples)]
    begun = [start for start in starts or [None] * len(items) for _ in range(samples)]
    rows = []
    for number, attempt in enumerate(task.attempt(policy, repeated, begun)):
        if attempt is None:
            raise GrlibError(f"{task}: the start of item {number // samples} fills the budget; raise it")
        rows.append({"index": number // samples, "sample": number % samples} | attempt.row())
    return pd.DataFrame(rows)


def evaluate_splits(
    task: Task,
    method: str,
    model: Path,
    profile: Profile,
    splits: Mapping[str, Sequence[Any]],
    *,
    seed: int | str,
    work: Path,
    progress: Callable[[str], None],
    samples: int = 0,
    temperature: float | None = None,
) -> pd.DataFrame:
    """`evaluate` of a model folder on every split, with columns method and split.

    `samples` 0 and `temperature` None: the profile's; temperature 0 decodes greedily, one sample a problem.
    """
    count = 1 if temperature == 0 else samples or profile.samples
    frames = []
    for split, items in splits.items():
        settings = sampling_settings(profile, count * len(items))
        if temperature is not None:
            settings = replace(settings, temperature=temperature)
        name = f"{method}_{split}" + ("_greedy" if temperature == 0 else "")
        policy = sampled_policy(model, settings, f"{seed}/{name}", work / name, name, progress)
        frames.append(evaluate(task, policy, items, count).assign(method=method, split=split))
    return pd.concat(frames, ignore_index=True)


def sampling_settings(profile: Profile, requests: int = 0) -> SamplingSettings:
    """How a profile samples; of a known, small number of requests two workers get half each."""
    chunk = min(profile.chunk, max(LEAST_CHUNK, -(-requests // 2))) if requests else profile.chunk
    return SamplingSettings(
        profile.engine,
        profile.temperature,
        profile.slots,
        chunk,
        tensor_parallel=profile.tensor_parallel,
        data_parallel=profile.data_parallel,
    )
