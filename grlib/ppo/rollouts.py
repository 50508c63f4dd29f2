"""Sampled responses as reinforcement learning sees them: tokens, beginnings of actions, rewards."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from grlib.errors import GrlibError
from grlib.training.rows import Row


class Rollout(NamedTuple):
    """One response, all places counted in its own tokens: the first is 0."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]
    logprobs: tuple[float, ...]  # of each response token when it was drawn
    starts: tuple[int, ...]  # places where actions begin; the first is 0
    rewards: tuple[tuple[int, float], ...]  # (place of the token that earns it, amount)
    correct: bool
    ended: bool  # False: it ran into the budget


@dataclass(frozen=True)
class Batch:
    """Rollouts as tensors (rollouts, tokens of the longest response), see `grlib.ppo.loop`."""

    rows: list[Row]
    old_logprob: torch.Tensor
    action_start: torch.Tensor
    reward: torch.Tensor


def batch_of(rollouts: Sequence[Rollout]) -> Batch:
    """Pad rollouts to one length. Raises GrlibError where the parts of one disagree, naming it."""
    width = max(len(rollout.response) for rollout in rollouts)
    logprob, start, reward = (torch.zeros(len(rollouts), width) for _ in range(3))
    rows = []
    for i, rollout in enumerate(rollouts):
        tokens = len(rollout.response)
        places = [*rollout.starts, *(place for place, _ in rollout.rewards)]
        if len(rollout.logprobs) != tokens or not all(0 <= place < tokens for place in places):
            raise GrlibError(
                f"rollout {i}: {len(rollout.logprobs)} log probabilities and places {places} for {tokens} "
                "tokens; there must be one a token, and all places among them"
            )
        rows.append(Row(np.asarray(rollout.prompt + rollout.response, dtype=np.int32), len(rollout.prompt)))
        logprob[i, :tokens] = torch.from_numpy(np.asarray(rollout.logprobs, dtype=np.float32))
        start[i, list(rollout.starts)] = 1
        for place, amount in rollout.rewards:
            reward[i, place] += amount
    return Batch(rows, logprob, start, reward)


def line_starts(response: Sequence[int], line_ends: Collection[int]) -> tuple[int, ...]:
    """Places of a response where lines begin: 0, and after every token whose text holds a newline."""
    ends = [place + 1 for place, token in enumerate(response[:-1]) if token in line_ends]
    return (0, *ends)


def line_last(starts: Sequence[int], tokens: int, line: int) -> int:
    """Place of the last token of line `line` (0, 1, ...) of a response of `tokens` tokens."""
    return starts[line + 1] - 1 if line + 1 < len(starts) else tokens - 1
