"""Fine-tuning on a GPU without padding: rows lie end to end in one line of tokens, and attention stays within
each of them (FlashAttention of PyTorch); the blocks of the model are compiled.

`grlib.training.loop` is the reference: on the CPU both have the same loss and the same gradients.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from grlib.errors import GrlibError
from grlib.models.llama import ALIGNED, output_matrix
from grlib.profiles import Training
from grlib.training.loss import Scored
from grlib.training.optim import learning_rate, make_optimizers
from grlib.training.rows import Row, padded

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedModel

    from grlib.training.parallel import Team

ATTENTION = "grlib_packed"  # the name by which transformers finds it
IGNORED = -100  # a target that has no loss
FILLING = 128  # tokens of a row that only fills a line: none may be longer than the longest real one
LEAST_LINE = 4096  # tokens: any row must fit
MEMORY = 0.5  # share of a GPU's memory that training may be expected to take; a sampler may be beside it
COMPILED = 64  # of one block: a few lengths of lines, with and without gradients, for every kind of model
CAPABILITY = (8, 0)  # of a card that has FlashAttention: Ampere (2020) or newer
VIRTUAL = 100_000  # steps into which a schedule is divided, however many are taken


class Line(NamedTuple):
    """Rows end to end, the rest filled up with short rows of their own that have no loss."""

    ids: torch.Tensor  # (tokens,)
    places: torch.Tensor  # (tokens,): the place of each token in its row
    targets: torch.Tensor  # (tokens,): the token after it where that has a loss, else `IGNORED`
    ends: torch.Tensor  # (rows + 1,) int32: 0, and where each row ends
    real: int  # tokens of the rows
    counted: int  # targets with a loss


def lines(rows: Iterable[Row], tokens: int) -> Iterator[Line]:
    """All rows, in their order, in lines of `tokens` tokens each; no row is split."""
    for group in groups_that_fit(rows, tokens):
        yield _line(group, tokens)


def groups_that_fit(rows: Iterable[Row], tokens: int) -> Iterator[list[Row]]:
    """All rows, in their order, as many at a time as have `tokens` tokens together."""
    waiting: list[Row] = []
    filled = 0
    for row in rows:
        if len(row.ids) > tokens:
            raise GrlibError(f"a row of {len(row.ids)} tokens does not fit a line of {tokens}; lengthen it")
        if filled + len(row.ids) > tokens:
            yield waiting
            waiting, filled = [], 0
        waiting.append(row)
        filled += len(row.ids)
    if waiting:
        yield waiting


def _line(rows: Sequence[Row], tokens: int) -> Line:
    lengths = np.array([len(row.ids) for row in rows])
    real = int(lengths.sum())
    ids = np.zeros(tokens, np.int64)
    ids[:real] = np.concatenate([row.ids for row in rows])
    filling = [*range(real + FILLING, tokens, FILLING), tokens] if real < tokens else []
    ends = np.concatenate([[0], lengths.cumsum(), filling]).astype(np.int32)
    begins = np.repeat(ends[:-1], np.diff(ends))
    places = np.arange(tokens) - begins
    targets = np.full(tokens, IGNORED, np.int64)
    targets[:-1] = ids[1:]
    starts = np.repeat([row.start for row in rows], lengths)
    targets[:real][places[:real] + 1 < starts] = IGNORED  # the token after it belongs to the prompt
    targets[ends[1:] - 1] = IGNORED
    targets[real:] = IGNORED
    counted = int((targets != IGNORED).sum())
    first, second, third, fourth = map(torch.from_numpy, (ids, places, targets, ends))
    return Line(first, second, third, fourth, real, counted)


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
    sizes = ends.diff().tolist()
    parts = [
        _weights(own_q, own_k, scale) @ _by_head(own_v, q.shape[1])
        for own_q, own_k, own_v in zip(q.split(sizes), k.split(sizes), v.split(sizes), strict=True)
    ]
    return torch.cat(parts, 1).transpose(0, 1).contiguous(), q.new_zeros(
        q.shape[1], len(q), dtype=torch.float32
    )


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
    sizes = ends.diff().tolist()
    rows = zip(grad.split(sizes), q.split(sizes), k.split(sizes), v.split(sizes), strict=True)
    parts = [_row_gradients(above, own_q, own_k, own_v, scale) for above, own_q, own_k, own_v in rows]
    first, second, third = (torch.cat(of_rows) for of_rows in zip(*parts, strict=True))
    return first, second, third


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


# What the kernels compute, in the plainest way, for machines without a GPU: tensors of one row.


def _by_head(x: torch.Tensor, heads: int) -> torch.Tensor:
    """(tokens, kv heads, size) -> (heads, tokens, size)"""
    return x.transpose(0, 1).repeat_interleave(heads // x.shape[1], 0)


def _weights(q: torch.Tensor, k: torch.Tensor, scale: float) -> torch.Tensor:
    """How much every token attends to every one: (heads, tokens, tokens)."""
    scores = scale * q.transpose(0, 1) @ _by_head(k, q.shape[1]).transpose(1, 2)
    later = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1)
    return scores.masked_fill(later, float("-inf")).softmax(-1)


def _row_gradients(
    grad: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    weights, above, heads = _weights(q, k, scale), grad.transpose(0, 1), q.shape[1]
    raised = above @ _by_head(v, heads).transpose(1, 2)
    of_scores = scale * weights * (raised - (raised * weights).sum(-1, keepdim=True))
    of_keys, of_values = (  # heads that share keys and values add up
        (left.transpose(1, 2) @ right).unflatten(0, (k.shape[1], -1)).sum(1).transpose(0, 1)
        for left, right in ((of_scores, q.transpose(0, 1)), (weights, above))
    )
    return (of_scores @ _by_head(k, heads)).transpose(0, 1), of_keys, of_values


def _attend(
    module: nn.Module, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: None, **more: Any
) -> tuple[torch.Tensor, None]:
    """`packed_attention` as transformers calls an attention: tensors are (1, heads, tokens, size)."""
    # the rotation computes in float32, whatever the products do
    q, k, v = (tensor[0].transpose(0, 1).to(v.dtype).contiguous() for tensor in (q, k, v))
    out, _ = packed_attention(q, k, v, more["ends"], more["longest"], more["scaling"])
    return out[None], None


def line_that_fits(model: LlamaForCausalLM, tokens: int, whole: float | None = None) -> int:
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
    while tokens > LEAST_LINE and fixed + tokens * a_token > MEMORY * whole:
        tokens //= 2
    return tokens


class PackedScorer(nn.Module):
    """A Llama that takes lines: the summed nats of their targets."""

    def __init__(self, model: LlamaForCausalLM, longest: int, compiled: bool) -> None:
        """`longest`: tokens of the longest row; `compiled`: the blocks and the loss."""
        super().__init__()
        if longest < FILLING:
            raise GrlibError(f"longest={longest}: rows that fill up lines have {FILLING} tokens; raise it")
        from transformers import AttentionInterface

        AttentionInterface.register(ATTENTION, _attend)
        self.model, self.longest, self.loss, self.nats = model, longest, _summed_nats, _nats
        self.former = model.config._attn_implementation
        model.config._attn_implementation = ATTENTION
        self.blocks: list[Callable[..., torch.Tensor]] = list(model.model.layers)
        if compiled:
            # one more length of line compiles anew, as it is: code for any length is slower
            torch._dynamo.config.automatic_dynamic_shapes = False
            torch._dynamo.config.recompile_limit = COMPILED  # beyond it they run as they are, without a word
            self.blocks = [torch.compile(block) for block in model.model.layers]
            self.loss, self.nats = torch.compile(_summed_nats), torch.compile(_nats)

    def forward(self, line: Line) -> torch.Tensor:
        with parametrize.cached():
            states = self.states(line.ids, line.places, line.ends)
            return self.loss(states, output_matrix(self.model), line.targets)

    def states(self, ids: torch.Tensor, places: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        """The last hidden states of a line, given as in `Line`: (tokens, width)."""
        body = self.model.model
        if len(ends) > 2:  # the number of rows differs from line to line, and compiles once
            torch._dynamo.mark_dynamic(ends, 0)
        x = body.embed_tokens(ids[None])
        turning = body.rotary_emb(x, position_ids=places[None])
        for block in self.blocks:
            x = block(x, attention_mask=None, position_embeddings=turning, ends=ends, longest=self.longest)
        return body.norm(x)[0]

    def nats_and_states(
        self, ids: torch.Tensor, mask: torch.Tensor, tokens: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `training.response_nll` and `training.states_before` of padded rows, by way of a line of
        `tokens` tokens, all of which are multiplied with the output matrix: one size compiles once."""
        real, flat, states = self._in_a_line(ids, mask, tokens)
        predicted = mask[real].nonzero()[:, 0]
        targets = torch.full_like(flat, IGNORED)
        targets[predicted - 1] = flat[predicted]
        return self.nats(states, output_matrix(self.model), targets)[predicted - 1], states[predicted - 1]

    def _in_a_line(
        self, ids: torch.Tensor, mask: torch.Tensor, tokens: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of padded rows: which of their tokens are real (as `mask`), those end to end, filled up to
        (tokens,), and the states (tokens, width)."""
        lengths = (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).amax(1)
        real = torch.arange(mask.shape[1], device=mask.device) < lengths[:, None]
        sizes = lengths.tolist()
        spare = tokens - sum(sizes)
        if spare < 0:
            raise GrlibError(f"rows of {sum(sizes)} tokens do not fit a line of {tokens}; lengthen it")
        if max(sizes) > self.longest:
            raise GrlibError(f"a row of {max(sizes)} tokens: attention takes {self.longest}; raise `longest`")
        sizes += [FILLING] * (spare // FILLING) + [spare % FILLING] * (spare % FILLING > 0)
        ends = torch.tensor([0, *itertools.accumulate(sizes)], dtype=torch.int32)
        places = torch.cat([torch.arange(size) for size in sizes])
        flat = F.pad(ids[real], (0, spare))
        return real, flat, self.states(flat, places.to(ids.device), ends.to(ids.device))

    def give_back(self) -> None:
        """The model attends as before."""
        self.model.config._attn_implementation = self.former


class PackedScored(Scored):
    """`training.Scored` by way of lines, whose rest is filled up: what `training.train` trains on a GPU."""

    def __init__(self, model: LlamaForCausalLM, tokens: int, longest: int, precision: str) -> None:
        """`tokens` of a line, or as many of them as the GPU holds; `longest`: tokens of the longest row."""
        super().__init__(model)
        longest = rounded_up(longest, FILLING)
        scorer = PackedScorer(model, longest, compiled=torch.cuda.is_available())
        self.scorers = [scorer]  # in a list: its weights are the model's, and are not to be saved twice
        self.tokens, self.precision = max(line_that_fits(model, tokens), longest), precision

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """As `Scored.forward`."""
        half = torch.autocast(ids.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")
        with half, parametrize.cached():
            return self.scorers[0].nats_and_states(ids, mask, self.tokens)[0]

    def batches(
        self, rows: Sequence[Row], micro_tokens: int
    ) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
        """As many rows as fill a line, in their order."""
        return batches_in_lines(rows, self.tokens)

    def give_back(self) -> None:
        """The model attends as before."""
        self.scorers[0].give_back()


def rounded_up(tokens: int, least: int) -> int:
    """`least`, doubled until it is `tokens` or more: few numbers, since the blocks are compiled for each."""
    while least < tokens:
        least *= 2
    return least


def batches_in_lines(
    rows: Sequence[Row], tokens: int
) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
    """As `training.micro_batches`: as many rows as fill a line of `tokens`, in their order."""
    first = 0
    for group in groups_that_fit(rows, tokens):
        yield list(range(first, first + len(group))), *padded(group)
        first += len(group)


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


def _summed_nats(states: torch.Tensor, matrix: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return _nats(states, matrix, targets).sum()


def on(device: torch.device, line: Line) -> Line:
    """The line on a device, copied while it computes."""
    if device.type != "cuda":
        return line
    ids, places, targets, ends = (tensor.pin_memory().to(device, non_blocking=True) for tensor in line[:4])
    return Line(ids, places, targets, ends, line.real, line.counted)


def train_lines(
    net: PackedScorer,
    source: Iterable[Line],
    settings: Training,
    done: Callable[[int], float],
    *,
    progress: Callable[[str], None],
    label: str,
    look_every: int = 20,
    together: int = 1,
) -> pd.DataFrame:
    """One optimiser step on `together` lines, until `done` (steps taken -> share of the run) says 1 or lines
    end.

    Returns the curve, a row every `look_every` steps: step, tokens_seen, loss (their mean), seconds.
    """
    device = next(net.parameters()).device
    optimizers = make_optimizers(net.model, settings)
    began, step, tokens, share = time.monotonic(), 0, 0, 0.0
    curve: list[tuple[int, int, float, float]] = []
    since: list[torch.Tensor] = []

    def look() -> None:
        mean = float(torch.stack(since).mean())  # waits for the GPU
        since.clear()
        if not math.isfinite(mean):
            raise GrlibError(f"{label}: loss is {mean} at step {step}; lower lr {settings.lr}")
        curve.append((step, tokens, mean, time.monotonic() - began))
        if step == 1 or step % (10 * look_every) == 0:
            seconds = curve[-1][3]
            progress(
                f"{label}: step {step}, {share:.0%}, loss {mean:.4f}, {tokens:,} tokens, {seconds:.0f} s"
            )

    net.train()
    remaining = iter(source)
    while group := list(itertools.islice(remaining, together)):
        share = done(step)
        if share >= 1:
            break
        counted, total = max(1, sum(line.counted for line in group)), torch.zeros((), device=device)
        for line in group:
            with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
                loss = net(on(device, line)) / counted
            loss.backward()
            total += loss.detach()
        nn.utils.clip_grad_norm_(net.parameters(), settings.clip)
        for optimizer in optimizers:
            for parameters in optimizer.param_groups:
                parameters["lr"] = learning_rate(round(share * VIRTUAL), VIRTUAL, settings)
            optimizer.step()
            optimizer.zero_grad()
        since.append(total)
        step, tokens = step + 1, tokens + sum(line.real for line in group)
        if step % look_every == 0 or step == 1:
            look()
    if since:
        look()
    net.eval()
    return pd.DataFrame(curve, columns=["step", "tokens_seen", "loss", "seconds"])
