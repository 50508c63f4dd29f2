"""Training examples as token ids: rows, rollouts, and rows of similar length in padded micro-batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from grlib.errors import GrlibError
from grlib.models.tokenizer import encode, encode_plain

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


PADDING_LIMIT = 0.75  # a row shorter than this share of the longest waits for the next micro-batch


class Row(NamedTuple):
    """One training example: token ids of prompt and response, and where the response (the loss) starts."""

    ids: np.ndarray  # int32, (tokens,)
    start: int


class Rollout(NamedTuple):
    """One response, for reinforcement learning. Places are counted in response tokens, from 0."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]
    logprobs: tuple[float, ...]  # that each response token was drawn with
    starts: tuple[int, ...]  # the places where actions start; the first is 0
    rewards: tuple[tuple[int, float], ...]  # (place of the token that earns it, amount)
    correct: bool
    ended: bool  # False: it ran into the budget


def make_rows(
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[str],
    responses: Sequence[str],
    max_length: int,
    ended: Sequence[bool] | None = None,
    turns: bool = False,
) -> list[Row]:
    """Rows of prompt + response + end token, longer ones cut on the right; `max_length` in tokens.

    A response that did not end by itself (`ended` False: it ran into the budget) gets no end token. Special
    tokens that it spells stay text, unless it holds `turns` of a conversation, which they mark.
    """
    rows = []
    answers = (encode if turns else encode_plain)(tokenizer, responses)
    for i, (prompt, response) in enumerate(zip(encode(tokenizer, prompts), answers, strict=True)):
        if len(prompt) >= max_length:
            raise GrlibError(
                f"row {i}: its prompt of {len(prompt)} tokens leaves no room for a response in {max_length}; "
                "raise max_length or leave the row out"
            )
        end = [tokenizer.eos_token_id] if ended is None or ended[i] else []
        ids = [*prompt, *response, *end][:max_length]
        rows.append(Row(np.asarray(ids, dtype=np.int32), len(prompt)))
    return rows


def micro_batches(
    rows: Sequence[Row], micro_tokens: int
) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
    """Rows of similar length, padded on the right: (row numbers, ids, loss mask).

    Ids and mask are (rows, tokens); the mask is true on responses.

    Attention is causal: no token sees the padding on its right, so there is no attention mask.
    """
    ordered = sorted(range(len(rows)), key=lambda number: len(rows[number].ids))
    while ordered:
        longest = len(rows[ordered[-1]].ids)
        numbers = ordered[-max(1, micro_tokens // longest) :]
        numbers = [number for number in numbers if len(rows[number].ids) >= PADDING_LIMIT * longest]
        del ordered[-len(numbers) :]
        yield numbers, *padded([rows[number] for number in numbers])


def padded(rows: Sequence[Row]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and the mask of the responses: (rows, tokens of the longest), padded on the right."""
    longest = max(len(row.ids) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = torch.from_numpy(row.ids)
        mask[i, row.start : len(row.ids)] = True
    return ids, mask
