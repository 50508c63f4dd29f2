"""Training on a GPU without padding. A pack holds rows one after another; attention stays within each row
(FlashAttention of PyTorch). The blocks of the model are compiled.

`loss.Scored` and `ppo.learner.ActorCritic` take a `Packed`; without one they pad rows. Padding is the
reference: on the CPU, tests compare loss and gradients of both.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from grlib.models.llama import ALIGNED, output_matrix
from grlib.training.parallel import Team
from grlib.training.rows import Row, padded

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedModel

ATTENTION = "grlib_packed"  # its name in transformers
IGNORED = -100  # a target without loss
FILLING = 128  # tokens of a row that fills a pack: not more than the longest real row may have
LEAST = 4096  # tokens of the smallest pack
COMPILED = (
    64  # versions of one block: a few sizes of packs, with and without gradients, for each kind of model
)
CAPABILITY = (8, 0)  # of the oldest GPU with FlashAttention: Ampere (2020)


@torch.library.custom_op("grlib::packed_attention", mutates_args=())
def packed_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, ends: torch.Tensor, longest: int, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Causal attention within rows: q (tokens, heads, size), k and v (tokens, kv heads, size).

    `ends`: 0 and the end of each row (rows + 1,); `longest`: tokens of the longest row. Returns the result,
    of the shape of q, and what its backward pass needs.
    """
    if q.is_cuda:
        out, sums, _, _, _ = torch.ops.aten._flash_attention_forward(
            q, k, v, ends, ends, longest, longest, 0.0, True, False, scale=scale
        )
        return out, sums
    return _row_by_row(q, k, v, ends, scale), q.new_zeros(q.shape[1], len(q), dtype=torch.float32)


@packed_attention.register_fake
def _(q, k, v, ends, longest, scale):  # type: ignore[no-untyped-def]
    return torch.empty_like(q), q.new_empty(q.shape[1], q.shape[0], dtype=torch.float32)


@torch.library.custom_op("grlib::packed_attention_backward", mutates_args=())
def packed_attention_backward(
    grad: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    sums: torch.Tensor,
    ends: torch.Tensor,
    longest: int,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients for q, k and v."""
    if q.is_cuda:
        state, unused = torch.zeros(2, dtype=torch.uint64, device=q.device), q.new_empty(0)
        return torch.ops.aten._flash_attention_backward(
            grad.contiguous(), q, k, v, out, sums, ends, ends, longest, longest, 0.0, True, state, unused,
            scale=scale,
        )  # fmt: skip
    _, backward = torch.func.vjp(lambda q, k, v: _row_by_row(q, k, v, ends, scale), q, k, v)
    return tuple(gradient.contiguous() for gradient in backward(grad))


@packed_attention_backward.register_fake
def _(grad, q, k, v, out, sums, ends, longest, scale):  # type: ignore[no-untyped-def]
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    q, k, v, ends, ctx.longest, ctx.scale = inputs
    ctx.save_for_backward(q, k, v, *output, ends)


def _backward(ctx: Any, grad: torch.Tensor, _: torch.Tensor) -> tuple[Any, ...]:
    found = packed_attention_backward(grad, *ctx.saved_tensors, ctx.longest, ctx.scale)
    return *found, None, None, None


packed_attention.register_autograd(_backward, setup_context=_keep)


def _row_by_row(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, ends: torch.Tensor, scale: float
) -> torch.Tensor:
    """What the kernels compute, for machines without a GPU: the attention of one row after the other."""
    sizes = ends.diff().tolist()
    rows = zip(*(tensor.transpose(0, 1)[None].split(sizes, 2) for tensor in (q, k, v)), strict=True)
    found = [
        F.scaled_dot_product_attention(row_q, row_k, row_v, is_causal=True, scale=scale, enable_gqa=True)
        for row_q, row_k, row_v in rows
    ]
    return torch.cat(found, 2)[0].transpose(0, 1).contiguous()


def _attend(
    module: nn.Module, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: None, **more: Any
) -> tuple[torch.Tensor, None]:
    """`packed_attention` as transformers calls an attention: tensors are (1, heads, tokens, size)."""
    # rotary embeddings are float32, whatever the precision of the products
    q, k, v = (tensor[0].transpose(0, 1).to(v.dtype).contiguous() for tensor in (q, k, v))
    out, _ = packed_attention(q, k, v, more["ends"], more["longest"], more["scaling"])
    return out[None], None


class Packed:
    """Reads rows of a Llama in packs of `tokens` tokens, filled up with short rows without loss: all packs
    have one size, since code is compiled for each size."""

    def __init__(
        self, model: LlamaForCausalLM, tokens: int, longest: int, precision: str, compiled: bool | None = None
    ) -> None:
        """`tokens`: of a pack; `longest`: tokens of the longest row; `compiled` None: only on a GPU.
        The model uses packed attention until `give_back`."""
        from transformers import AttentionInterface

        AttentionInterface.register(ATTENTION, _attend)
        self.model, self.precision, self.nats = model, precision, _nats
        self.longest = max(FILLING, min(rounded_up(longest, FILLING), model.config.max_position_embeddings))
        self.tokens = max(tokens, self.longest)
        self.former = model.config._attn_implementation
        model.config._attn_implementation = ATTENTION
        self.blocks: list[Callable[..., torch.Tensor]] = list(model.model.layers)
        if torch.cuda.is_available() if compiled is None else compiled:
            # another size of a pack is compiled separately: code for any size is slower
            torch._dynamo.config.automatic_dynamic_shapes = False
            # beyond the limit, blocks silently run without being compiled
            torch._dynamo.config.recompile_limit = COMPILED
            self.blocks = [torch.compile(block) for block in model.model.layers]
            self.nats = torch.compile(_nats)

    def batches(self, rows: Sequence[Row]) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
        """As `rows.micro_batches`, but as many rows as a pack holds, in the given order."""
        first = filled = 0
        for number, row in enumerate(rows):
            if filled + len(row.ids) > self.tokens:
                yield list(range(first, number)), *padded(rows[first:number])
                first, filled = number, 0
            filled += len(row.ids)
        if rows:
            yield list(range(first, len(rows))), *padded(rows[first:])

    def nats_and_states(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`loss.response_nll` and `loss.states_before` of padded rows, computed in a pack.

        The output matrix is multiplied with the states of all tokens: their number does not vary.
        """
        half = torch.autocast(ids.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")
        with half, parametrize.cached():
            real, flat, states = self._pack(ids, mask)
            predicted = mask[real].nonzero()[:, 0]
            targets = torch.full_like(flat, IGNORED)
            targets[predicted - 1] = flat[predicted]
            nats = self.nats(states, output_matrix(self.model), targets)
            return nats[predicted - 1], states[predicted - 1]

    def _pack(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """From padded rows: which tokens are not padding (of the shape of `mask`), the pack of these tokens
        (tokens,), and its states (tokens, width)."""
        lengths = (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).amax(1)
        real = torch.arange(mask.shape[1], device=mask.device) < lengths[:, None]
        sizes = lengths.tolist()
        spare = self.tokens - sum(sizes)
        sizes += [FILLING] * (spare // FILLING) + [spare % FILLING] * (spare % FILLING > 0)
        ends = torch.tensor([0, *itertools.accumulate(sizes)], dtype=torch.int32)
        places = torch.cat([torch.arange(size) for size in sizes])
        flat = F.pad(ids[real], (0, spare))
        return real, flat, self._states(flat, places.to(ids.device), ends.to(ids.device))

    def _states(self, ids: torch.Tensor, places: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        """The last hidden states (tokens, width) of a pack: `ids` and `places`, each token's position in its
        row, are (tokens,); `ends` is as in `packed_attention`."""
        body = self.model.model
        if len(ends) > 2:  # compile once for any number of rows
            torch._dynamo.mark_dynamic(ends, 0)
        x = body.embed_tokens(ids[None])
        rotary = body.rotary_emb(x, position_ids=places[None])
        for block in self.blocks:
            x = block(x, attention_mask=None, position_embeddings=rotary, ends=ends, longest=self.longest)
        return body.norm(x)[0]

    def give_back(self) -> None:
        """Restore the model's own attention."""
        self.model.config._attn_implementation = self.former


def rounded_up(tokens: int, least: int) -> int:
    """`least`, doubled until it is `tokens` or more: few sizes, since the blocks are compiled for each."""
    while least < tokens:
        least *= 2
    return least


def pack_for(
    model: PreTrainedModel, team: Team, other_blocks: bool, tokens: int, longest: int
) -> Packed | None:
    """What reads rows without padding, where `packs` allows it; else None."""
    return Packed(model, tokens, longest, team.precision) if packs(model, team, other_blocks) else None


def packs(model: PreTrainedModel, team: Team, other_blocks: bool) -> bool:
    """Whether a model can be trained without padding: a Llama in bfloat16 on one GPU with FlashAttention.

    `other_blocks`: whether its blocks are changed (adapters, gradient checkpointing), which excludes it.
    """
    plain = type(model).__name__ == "LlamaForCausalLM" and not other_blocks
    alone = team.device.type == "cuda" and team.size == 1 and team.precision == "bfloat16"
    flash = torch.backends.cuda.is_flash_attention_available
    return plain and alone and flash() and torch.cuda.get_device_capability() >= CAPABILITY


def _nats(states: torch.Tensor, matrix: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The loss of each target, 0 if `IGNORED`: states (n, width), matrix (tokens, width), targets (n,)."""
    padded = F.pad(matrix, (0, 0, 0, -len(matrix) % ALIGNED))
    logits = F.linear(states, padded)[:, : len(matrix)]
    return F.cross_entropy(logits.float(), targets, ignore_index=IGNORED, reduction="none")
