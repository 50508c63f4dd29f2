"""The masked next-token loss on responses, and the likelihood of given texts under a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from grlib.models.llama import load_both, output_matrix
from grlib.training.packed import Packed
from grlib.training.parallel import Team, release_gpus
from grlib.training.rows import Row, make_rows, micro_batches

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LOGITS = 2**30  # logits of one forward pass, at most, while texts are scored on a GPU


class Scored(nn.Module):
    """A model whose forward pass gives `response_nll`, without padding where there is a `pack`.

    `Team.wrap` takes it when several processes train together.
    """

    def __init__(self, model: PreTrainedModel, pack: Packed | None = None) -> None:
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
        """As `micro_batches`: the rows of one forward pass each."""
        return self.pack.batches(rows) if self.pack else micro_batches(rows, micro_tokens)


def response_nll(model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood in nats of every masked token given the tokens before it: (masked tokens,)."""
    return nll_of(model, states_before(model.model, ids, mask), ids, mask)


def states_before(body: nn.Module, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The last hidden states of the model's `body` that predict the masked tokens: (masked tokens, width)."""
    hidden: torch.Tensor = body(input_ids=ids, use_cache=False).last_hidden_state
    return hidden[:, :-1][mask[:, 1:]]


def nll_of(
    model: PreTrainedModel, states: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """`response_nll` from `states_before`."""
    logits = states @ output_matrix(model).T
    return F.cross_entropy(logits, ids[:, 1:][mask[:, 1:]], reduction="none")


@torch.no_grad()
def score_rows(net: nn.Module, rows: Sequence[Row], micro_tokens: int = 2048) -> np.ndarray:
    """(rows, 2): summed negative log-likelihood in nats and count of response tokens of each row.

    `net`: a `Scored` model, or what `Team.wrap` makes of one.
    """
    device, result = next(net.parameters()).device, np.zeros((len(rows), 2))
    for group, ids, mask in Team.inside(net).batches(rows, micro_tokens):
        per_token = torch.zeros(mask[:, 1:].shape)
        per_token[mask[:, 1:]] = net(ids.to(device), mask.to(device)).float().cpu()
        result[group, 0] = per_token.sum(1).double().numpy()
        result[group, 1] = mask.sum(1).numpy()
    return result


def mean_nll(net: nn.Module, rows: Sequence[Row], micro_tokens: int = 2048) -> float:
    """Cross-entropy in nats per response token; `net` as for `score_rows`."""
    nats, tokens = score_rows(net, rows, micro_tokens).sum(0)
    return float(nats / tokens)


def text_likelihood(
    model_folder: Path,
    prompts: Sequence[str],
    responses: Sequence[str],
    ended: Sequence[bool],
    row_length: int,
) -> np.ndarray:
    """(responses, 2): summed negative log-likelihood in nats and count of tokens under a saved model.

    In float32, on a GPU where there is one. `ended` and `row_length` are as in `make_rows`.
    """
    release_gpus()
    model, tokenizer = load_both(model_folder)
    rows = make_rows(tokenizer, list(prompts), list(responses), row_length, list(ended))
    gpu = torch.cuda.is_available()
    micro_tokens = max(2048, min(32_768, LOGITS // len(tokenizer))) if gpu else 2048
    try:
        return score_rows(Scored(model.to("cuda" if gpu else "cpu")), rows, micro_tokens)
    finally:
        model.cpu()
        torch.cuda.empty_cache()
