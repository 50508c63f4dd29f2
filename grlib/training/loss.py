"""The masked next-token loss on responses, and how likely a model finds given texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from grlib.models.llama import output_matrix
from grlib.training.parallel import Team, free_cache
from grlib.training.rows import Row, make_rows, micro_batches

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from grlib.training.packed import Packed


LOGITS = 2**30  # numbers of the output of one forward pass while texts are scored on a GPU


class Scored(nn.Module):
    """A model whose forward pass gives `response_nll`: what processes wrap when they train it together."""

    def __init__(self, model: PreTrainedModel, pack: Packed | None = None) -> None:
        """`pack`: reads the model's rows without padding."""
        super().__init__()
        self.model, self.pack = model, pack

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Nats of every masked token: (masked tokens,)."""
        if self.pack:
            return self.pack.nats_and_states(ids, mask)[0]
        return response_nll(self.model, ids, mask)

    def batches(
        self, rows: Sequence[Row], micro_tokens: int
    ) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
        """Rows for one forward pass each: as `micro_batches`."""
        return self.pack.batches(rows) if self.pack else micro_batches(rows, micro_tokens)


def response_nll(model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood in nats of every masked token given what stands before it: (masked tokens,)."""
    return nll_of(model, states_before(model.model, ids, mask), ids, mask)


def states_before(body: nn.Module, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The body's last hidden states, from which every masked token is predicted: (masked tokens, width)."""
    hidden: torch.Tensor = body(input_ids=ids, use_cache=False).last_hidden_state
    return hidden[:, :-1][mask[:, 1:]]


def nll_of(
    model: PreTrainedModel, states: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """`response_nll` from `states_before`."""
    logits = states @ output_matrix(model).T
    return F.cross_entropy(logits, ids[:, 1:][mask[:, 1:]], reduction="none")


def score_rows(model: PreTrainedModel, rows: Sequence[Row], micro_tokens: int = 2048) -> np.ndarray:
    """(rows, 2): summed negative log-likelihood in nats and count of response tokens of each row."""
    return _scores(Scored(model), rows, micro_tokens)


@torch.no_grad()
def _scores(net: nn.Module, rows: Sequence[Row], micro_tokens: int) -> np.ndarray:
    """`score_rows` of a network as `Team.wrap` gives it."""
    device, result = next(net.parameters()).device, np.zeros((len(rows), 2))
    for group, ids, mask in Team.inside(net).batches(rows, micro_tokens):
        per_token = torch.zeros(mask[:, 1:].shape)
        per_token[mask[:, 1:]] = net(ids.to(device), mask.to(device)).float().cpu()
        result[group, 0] = per_token.sum(1).double().numpy()
        result[group, 1] = mask.sum(1).numpy()
    return result


def text_likelihood(
    model_folder: Path,
    prompts: Sequence[str],
    responses: Sequence[str],
    ended: Sequence[bool],
    row_length: int,
) -> np.ndarray:
    """How likely a saved model finds given responses: (responses, 2), summed nats and count of tokens."""
    from grlib.models.llama import load_both
    from grlib.sampling.pool import release_gpus

    release_gpus()
    return likelihood(*load_both(model_folder), prompts, responses, ended, row_length)


def likelihood(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[str],
    responses: Sequence[str],
    ended: Sequence[bool],
    row_length: int,
) -> np.ndarray:
    """`text_likelihood` for a model at hand, in float32, on a GPU where there is one; it ends on the CPU."""
    rows = make_rows(tokenizer, list(prompts), list(responses), row_length, list(ended))
    gpu = torch.cuda.is_available()
    fit = max(2048, min(32_768, LOGITS // len(tokenizer))) if gpu else 2048
    try:
        return score_rows(model.to("cuda" if gpu else "cpu"), rows, fit)
    finally:
        model.cpu()
        free_cache()


def mean_nll(model: PreTrainedModel, rows: Sequence[Row]) -> float:
    """Cross-entropy in nats per response token."""
    return _mean(Scored(model), rows)


def _mean(net: nn.Module, rows: Sequence[Row], micro_tokens: int = 2048) -> float:
    totals = _scores(net, rows, micro_tokens).sum(0)
    return float(totals[0] / totals[1])
