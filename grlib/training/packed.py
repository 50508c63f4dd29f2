"""Training on a GPU without padding: rows lie end to end in a pack of tokens, and attention stays within each
of them (FlashAttention of PyTorch); the blocks of the model are compiled.

`loss.Scored` and `ppo.learner.ActorCritic` take a `Packed`; without one they pad, which is the reference: on
the CPU both have the same loss and the same gradients.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from grlib.errors import GrlibError
from grlib.models.llama import ALIGNED, output_matrix
from grlib.training.rows import Row, padded

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedModel

    from grlib.training.parallel import Team

ATTENTION = "grlib_packed"  # the name by which transformers finds it
IGNORED = -100  # a target that has no loss
FILLING = 128  # tokens of a row that only fills a pack: none may be longer than the longest real one
LEAST = 4096  # tokens of a pack: any row must fit
MEMORY = 0.5  # share of a GPU's memory that training may be expected to take; a sampler may be beside it
COMPILED = 64  # of one block: a few sizes of packs, with and without gradients, for every kind of model
CAPABILITY = (8, 0)  # of a card that has FlashAttention: Ampere (2020) or newer


@torch.library.custom_op("grlib::packed_attention", mutates_args=())
def packed_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, ends: torch.Tensor, longest: int, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Causal attention within rows: q (tokens, heads, size), k and v (tokens, kv heads, size); the result as
    q, and what its backward pass needs."""
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
    _, gradients = torch.func.vjp(lambda *tensors: _row_by_row(*tensors, ends, scale), q, k, v)
    return tuple(gradient.contiguous() for gradient in gradients(grad))


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
    rows = zip(q.split(sizes), k.split(sizes), v.split(sizes), strict=True)
    found = [
        F.scaled_dot_product_attention(
            *(tensor.transpose(0, 1)[None] for tensor in row), is_causal=True, scale=scale, enable_gqa=True
        )
        for row in rows
    ]
    return torch.cat(found, 2)[0].transpose(0, 1).contiguous()


def _attend(
    module: nn.Module, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: None, **more: Any
) -> tuple[torch.Tensor, None]:
    """`packed_attention` as transformers calls an attention: tensors are (1, heads, tokens, size)."""
    # the rotation computes in float32, whatever the products do
    q, k, v = (tensor[0].transpose(0, 1).to(v.dtype).contiguous() for tensor in (q, k, v))
    out, _ = packed_attention(q, k, v, more["ends"], more["longest"], more["scaling"])
    return out[None], None


def tokens_that_fit(model: LlamaForCausalLM, tokens: int, whole: float | None = None) -> int:
    """`tokens`, halved until a training step on so many needs at most `MEMORY` of the `whole` bytes (None:
    those of the GPU; without one there is no limit).

    An estimate: of every block's states what its backward pass keeps, and the logits three times over.
    """
    if whole is None:
        if not torch.cuda.is_available():
            return tokens
        whole = float(torch.cuda.mem_get_info()[1])
    config = model.config
    block = 20 * config.hidden_size + 8 * config.intermediate_size  # bytes a token, of products in bfloat16
    a_token = config.num_hidden_layers * block + 8 * config.vocab_size
    fixed = 16 * sum(weights.numel() for weights in model.parameters())  # weights, gradients, two moments
    while tokens > LEAST and fixed + tokens * a_token > MEMORY * whole:
        tokens //= 2
    return tokens


class Packed:
    """A way to read rows of a Llama: in packs of `tokens` tokens, the rest filled up with short rows of their
    own that have no loss, since code is compiled for each size."""

    def __init__(
        self, model: LlamaForCausalLM, tokens: int, longest: int, precision: str, compiled: bool | None = None
    ) -> None:
        """`tokens` of a pack, or as many of them as the GPU holds; `longest`: tokens of the longest row;
        `compiled` None: on a GPU. The model attends in this way until `give_back`."""
        from transformers import AttentionInterface

        AttentionInterface.register(ATTENTION, _attend)
        self.model, self.precision, self.nats = model, precision, _nats
        self.longest = max(FILLING, min(rounded_up(longest, FILLING), model.config.max_position_embeddings))
        self.tokens = max(tokens_that_fit(model, tokens), self.longest)
        self.former = model.config._attn_implementation
        model.config._attn_implementation = ATTENTION
        self.blocks: list[Callable[..., torch.Tensor]] = list(model.model.layers)
        if torch.cuda.is_available() if compiled is None else compiled:
            # one more size of a pack compiles anew, as it is: code for any size is slower
            torch._dynamo.config.automatic_dynamic_shapes = False
            torch._dynamo.config.recompile_limit = COMPILED  # beyond it they run as they are, without a word
            self.blocks = [torch.compile(block) for block in model.model.layers]
            self.nats = torch.compile(_nats)

    def batches(self, rows: Sequence[Row]) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
        """As `rows.micro_batches`: as many rows as fill a pack, in their order."""
        first = filled = 0
        for number, row in enumerate(rows):
            if len(row.ids) > self.tokens:
                raise GrlibError(f"a row of {len(row.ids)} tokens does not fit a pack of {self.tokens}")
            if filled + len(row.ids) > self.tokens:
                yield list(range(first, number)), *padded(rows[first:number])
                first, filled = number, 0
            filled += len(row.ids)
        if rows:
            yield list(range(first, len(rows))), *padded(rows[first:])

    def nats_and_states(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `loss.response_nll` and `loss.states_before` of padded rows, by way of a pack; the output matrix
        is multiplied with all of its tokens."""
        half = torch.autocast(ids.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")
        with half, parametrize.cached():
            real, flat, states = self._in_a_pack(ids, mask)
            predicted = mask[real].nonzero()[:, 0]
            targets = torch.full_like(flat, IGNORED)
            targets[predicted - 1] = flat[predicted]
            nats = self.nats(states, output_matrix(self.model), targets)
            return nats[predicted - 1], states[predicted - 1]

    def _in_a_pack(
        self, ids: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of padded rows: which of their tokens are real (as `mask`), those end to end, filled up to
        (tokens,), and the states (tokens, width)."""
        lengths = (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).amax(1)
        real = torch.arange(mask.shape[1], device=mask.device) < lengths[:, None]
        sizes = lengths.tolist()
        spare = self.tokens - sum(sizes)
        if spare < 0 or max(sizes) > self.longest:
            raise GrlibError(
                f"rows of {sum(sizes)} tokens, the longest of {max(sizes)}: a pack holds {self.tokens}, a "
                f"row {self.longest}; give fewer or shorter rows"
            )
        sizes += [FILLING] * (spare // FILLING) + [spare % FILLING] * (spare % FILLING > 0)
        ends = torch.tensor([0, *itertools.accumulate(sizes)], dtype=torch.int32)
        places = torch.cat([torch.arange(size) for size in sizes])
        flat = F.pad(ids[real], (0, spare))
        return real, flat, self._states(flat, places.to(ids.device), ends.to(ids.device))

    def _states(self, ids: torch.Tensor, places: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        """The last hidden states (tokens, width) of the tokens of a pack, the place of each in its row
        (tokens,), and 0 and where each row ends (rows + 1,)."""
        body = self.model.model
        if len(ends) > 2:  # the number of rows differs from pack to pack, and compiles once
            torch._dynamo.mark_dynamic(ends, 0)
        x = body.embed_tokens(ids[None])
        turning = body.rotary_emb(x, position_ids=places[None])
        for block in self.blocks:
            x = block(x, attention_mask=None, position_embeddings=turning, ends=ends, longest=self.longest)
        return body.norm(x)[0]

    def give_back(self) -> None:
        """The model attends as before."""
        self.model.config._attn_implementation = self.former


def rounded_up(tokens: int, least: int) -> int:
    """`least`, doubled until it is `tokens` or more: few numbers, since the blocks are compiled for each."""
    while least < tokens:
        least *= 2
    return least


def packs(model: PreTrainedModel, team: Team, other_blocks: bool) -> bool:
    """Whether a model is trained without padding: a Llama on one GPU that has FlashAttention, its products in
    bfloat16, and no `other_blocks` than its own (adapters, gradient checkpointing)."""
    plain = type(model).__name__ == "LlamaForCausalLM" and not other_blocks
    alone = team.device.type == "cuda" and team.size == 1 and team.precision == "bfloat16"
    return plain and alone and has_flash_attention()


def has_flash_attention() -> bool:
    """Whether this GPU, and this build of torch, have it."""
    built = torch.backends.cuda.is_flash_attention_available()
    return built and torch.cuda.get_device_capability() >= CAPABILITY


def _nats(states: torch.Tensor, matrix: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Of each target, 0 where it has no loss: states (n, width), matrix (tokens, width), targets (n,)."""
    padded = F.pad(matrix, (0, 0, 0, -len(matrix) % ALIGNED))
    logits = F.linear(states, padded)[:, : len(matrix)]
    return F.cross_entropy(logits.float(), targets, ignore_index=IGNORED, reduction="none")
