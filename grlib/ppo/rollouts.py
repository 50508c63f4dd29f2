"""Sampled responses for reinforcement learning: tokens, starts of actions, rewards; and a batch of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from grlib.training.rows import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class Rollout(NamedTuple):
    """One response. Places are counted in response tokens, from 0."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]
    logprobs: tuple[float, ...]  # that each response token was drawn with
    starts: tuple[int, ...]  # the places where actions start; the first is 0
    rewards: tuple[tuple[int, float], ...]  # (place of the token that earns it, amount)
    correct: bool
    ended: bool  # False: it ran into the budget


@dataclass(frozen=True)
class Batch:
    """Rollouts as tensors (rollouts, tokens of the longest response), as `grlib.ppo.losses` takes them."""

    rows: list[Row]
    old_logprob: torch.Tensor
    action_start: torch.Tensor
    reward: torch.Tensor


def batch_of(rollouts: Sequence[Rollout]) -> Batch:
    """Pad rollouts to one length."""
    width = max(len(rollout.response) for rollout in rollouts)
    logprob, start, reward = (torch.zeros(len(rollouts), width) for _ in range(3))
    rows = []
    for i, rollout in enumerate(rollouts):
        tokens = len(rollout.response)
        rows.append(Row(np.asarray(rollout.prompt + rollout.response, dtype=np.int32), len(rollout.prompt)))
        logprob[i, :tokens] = torch.from_numpy(np.asarray(rollout.logprobs, dtype=np.float32))
        start[i, list(rollout.starts)] = 1
        for place, amount in rollout.rewards:
            reward[i, place] += amount
    return Batch(rows, logprob, start, reward)


def line_starts(response: Sequence[int], line_ends: Collection[int]) -> tuple[int, ...]:
    """The places where lines of a response start: 0, and after every token whose text holds a newline."""
    ends = [place + 1 for place, token in enumerate(response[:-1]) if token in line_ends]
    return (0, *ends)


@lru_cache(maxsize=8)
def line_ends(tokenizer: PreTrainedTokenizerFast) -> frozenset[int]:
    """The tokens whose text holds a newline: the last ones of a line."""
    return frozenset(i for i in range(len(tokenizer)) if "\n" in tokenizer.decode([i]))


def line_last(starts: Sequence[int], tokens: int, line: int) -> int:
    """The place of the last token of line `line` (0, 1, ...) of a response of `tokens` tokens."""
    return starts[line + 1] - 1 if line + 1 < len(starts) else tokens - 1
