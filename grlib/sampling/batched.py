"""Engine "batched": a Llama samples many rows at once on the CPU; rows enter in waves, finished ones leave.

All waves share one matrix product per layer; attention runs wave by wave over exactly the tokens that a wave
has, so neither finished rows nor rows of other lengths cost compute. The weights and the rotary embedding are
those of the transformers model; `tests/sampling/test_sampling.py` compares the greedy output with it, and
`python -m benchmarks` the speed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from grlib.errors import GrlibError
from grlib.models.llama import output_matrix
from grlib.profiles import Sampling

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

# The new tokens of each prompt, and the log probability that each token was drawn with (0 when greedy).
Drawn = tuple[list[list[int]], list[list[float]]]

GROWTH = 128  # columns a wave's cache grows by
PIECE = 2048  # tokens of prompts that are read at once, so that they stay in the cache of a core
COMPACT_BELOW = 0.92  # a wave drops its finished rows when fewer than this share are still running


@dataclass
class Wave:
    """Rows that entered together. Prompts are padded on the left, so all rows write the same cache column."""

    rows: torch.Tensor  # (n,) which request each row answers
    pads: torch.Tensor  # (n,) padding tokens left of each prompt
    limits: torch.Tensor  # (n,) column at which each row's budget is used up
    length: int  # columns filled so far
    running: torch.Tensor  # (n,) bool
    last: torch.Tensor  # (n,) the newest token of each row
    # one per layer; keys are transposed, because then the product with the queries runs along memory
    keys: list[torch.Tensor] = field(default_factory=list)  # (n, kv heads, head size, capacity)
    values: list[torch.Tensor] = field(default_factory=list)  # (n, kv heads, capacity, head size)


def generate(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[Sequence[int]],
    budgets: Sequence[int],
    settings: Sampling,
    seed: int,
) -> Drawn:
    """`Decoder.generate` of a new decoder."""
    return Decoder(model, tokenizer.eos_token_id).generate(prompts, budgets, settings, seed)


class Decoder:
    """A Llama's weights laid out for one-token steps."""

    def __init__(self, model: LlamaForCausalLM, end: int) -> None:
        """`end`: the token that ends a row. GrlibError for a model that is not a plain Llama."""
        config = model.config
        if (
            config.model_type != "llama"
            or config.hidden_act != "silu"
            or config.attention_bias
            or config.mlp_bias
        ):
            raise GrlibError(
                f"engines 'batched' and 'static' run plain Llama models, not {config.model_type!r} with "
                f"{config.hidden_act!r}; use 'transformers'"
            )
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.eps, self.end = config.rms_norm_eps, end
        base = model.model
        self.embedding = base.embed_tokens.weight.detach()
        self.output = _after_norm(base.norm, output_matrix(model))
        self.layers = [_layer_weights(layer) for layer in base.layers]
        positions = torch.arange(config.max_position_embeddings, device=self.embedding.device)[None]
        with torch.no_grad():
            cos, sin = base.rotary_emb(self.embedding, positions)
        self.cos, self.sin = cos[0].detach(), sin[0].detach()
        self.scores = torch.empty(0)

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[Sequence[int]], budgets: Sequence[int], settings: Sampling, seed: int
    ) -> Drawn:
        """New tokens of each prompt, up to the end token (which is one of them) or the budget, and their log
        probabilities.

        The result depends on the arguments alone. Temperature 0 is greedy. At most `settings.slots` rows run
        at once. A prompt and its budget must fit the model's positions.
        """
        slots, temperature = settings.slots, settings.temperature
        generator = torch.Generator().manual_seed(seed)
        outputs: Drawn = [[] for _ in prompts], [[] for _ in prompts]
        waiting = deque(
            sorted((i for i, budget in enumerate(budgets) if budget > 0), key=lambda i: len(prompts[i]))
        )
        waves: list[Wave] = []
        admit = max(1, slots // 2)
        while waiting or waves:
            while waiting and sum(len(wave.rows) for wave in waves) <= slots - admit:
                chosen = [waiting.popleft() for _ in range(min(admit, len(waiting)))]
                wave, logits = self._start(chosen, prompts, budgets)
                self._choose([wave], logits, temperature, generator, outputs)
                waves.append(wave)
            waves = [wave for wave in waves if _compact(wave)]
            if waves:
                self._choose(waves, self._advance(waves), temperature, generator, outputs)
        return outputs

    def _start(
        self, chosen: list[int], prompts: Sequence[Sequence[int]], budgets: Sequence[int]
    ) -> tuple[Wave, torch.Tensor]:
        """Run the prompts of a new wave: the wave and the logits (n, vocabulary) of its next tokens."""
        length = max(len(prompts[i]) for i in chosen)
        ids = torch.tensor([[0] * (length - len(prompts[i])) + list(prompts[i]) for i in chosen])
        pads = torch.tensor([length - len(prompts[i]) for i in chosen])
        wave = Wave(
            rows=torch.tensor(chosen),
            pads=pads,
            limits=torch.tensor([length + budgets[i] for i in chosen]),
            length=length,
            running=torch.ones(len(chosen), dtype=torch.bool),
            last=ids[:, -1],
        )
        n, capacity = len(chosen), length + GROWTH
        for _ in self.layers:  # read only where written
            wave.keys.append(torch.empty(n, self.kv_heads, self.head, capacity))
            wave.values.append(torch.empty(n, self.kv_heads, capacity, self.head))
        size = max(1, PIECE // length)
        return wave, torch.cat([self._read(ids, wave, slice(i, i + size)) for i in range(0, n, size)])

    def _read(self, ids: torch.Tensor, wave: Wave, rows: slice) -> torch.Tensor:
        """Run the prompts `ids` (n, length) of some rows of a new wave and fill its cache: their logits."""
        ids, pads = ids[rows], wave.pads[rows]
        n, length = ids.shape
        columns = torch.arange(length)
        places = (columns[None] - pads[:, None]).clamp(min=0)
        visible = (columns <= columns[:, None]) & (columns >= pads[:, None, None])
        # a padding token sees itself, so that no row is all masked
        visible |= torch.eye(length, dtype=torch.bool)[None]
        mask = torch.zeros(visible.shape).masked_fill_(~visible, float("-inf"))[:, None]
        x = self.embedding[ids].flatten(0, 1)
        cos, sin = self.cos[places][:, None], self.sin[places][:, None]
        for weights, keys, values in zip(self.layers, wave.keys, wave.values, strict=True):
            q, k, v = self._project(x, weights, n, length, cos, sin)
            keys[rows, ..., :length], values[rows, :, :length] = k.transpose(-1, -2), v
            mixed = F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, scale=1.0, enable_gqa=self.heads != self.kv_heads
            )
            x = self._finish_layer(x, mixed.transpose(1, 2).reshape(n * length, -1), weights)
        return self._logits(x.view(n, length, -1)[:, -1])

    def _advance(self, waves: list[Wave]) -> torch.Tensor:
        """One step of all rows of all waves: logits (rows, vocabulary) of their next tokens."""
        sizes = [len(wave.rows) for wave in waves]
        # a finished row that is not dropped yet may be beyond the last position: its result is not used
        places = torch.cat([wave.length - wave.pads for wave in waves]).clamp(max=len(self.cos) - 1)
        masks = [_padding_mask(wave) for wave in waves]
        for wave in waves:
            _make_room(wave)
        x = self.embedding[torch.cat([wave.last for wave in waves])]
        cos, sin = self.cos[places][:, None, None], self.sin[places][:, None, None]
        groups = self.heads // self.kv_heads
        for number, weights in enumerate(self.layers):
            q, k, v = self._project(x, weights, len(x), 1, cos, sin)
            q = q.reshape(-1, self.kv_heads, groups, self.head)
            mixed = torch.empty_like(q)
            for wave, mask, own_q, own_k, own_v, out in zip(
                waves, masks, q.split(sizes), k.split(sizes), v.split(sizes), mixed.split(sizes), strict=True
            ):
                keys, values = wave.keys[number], wave.values[number]
                keys[..., wave.length], values[:, :, wave.length] = own_k[:, :, 0], own_v[:, :, 0]
                self._attend(own_q, keys, values, wave.length + 1, mask, out)
            x = self._finish_layer(x, mixed.reshape(len(x), -1), weights)
        for wave in waves:
            wave.length += 1
        return self._logits(x)

    def _attend(
        self,
        q: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        end: int,
        mask: torch.Tensor | None,
        out: torch.Tensor,
    ) -> None:
        """Attention of one query per head over the first `end` columns; q and `out` are (n, kv heads, groups,
        head size). The scores lie in a buffer that is kept, as a new one costs page faults."""
        n, groups = len(q) * self.kv_heads, q.shape[2]
        if self.scores.numel() < n * groups * end:
            self.scores = torch.empty(n * groups * (end + GROWTH))
        scores = self.scores[: n * groups * end].view(n, groups, end)
        torch.bmm(q.flatten(0, 1), keys[..., :end].flatten(0, 1), out=scores)
        if mask is not None:
            scores.view(-1, self.kv_heads, groups, end).add_(mask)
        torch.softmax(scores, -1, out=scores)
        torch.bmm(scores, values[:, :, :end].flatten(0, 1), out=out.view(n, groups, self.head))

    def _project(
        self, x: torch.Tensor, weights: dict, n: int, length: int, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries (scaled) and keys, both rotated, and values, as (n, heads, length, head size)."""
        joint = (self._normed(x) @ weights["qkv"]).view(n, length, -1, self.head).transpose(1, 2)
        turning, v = joint.split([self.heads + self.kv_heads, self.kv_heads], 1)
        q, k = _rotate(turning, cos, sin).split([self.heads, self.kv_heads], 1)
        return q, k, v

    def _finish_layer(self, x: torch.Tensor, mixed: torch.Tensor, weights: dict) -> torch.Tensor:
        x = torch.addmm(x, mixed, weights["out"])
        gate, up = (self._normed(x) @ weights["gate_up"]).chunk(2, -1)
        return torch.addmm(x, F.silu(gate) * up, weights["down"])

    def _logits(self, x: torch.Tensor) -> torch.Tensor:
        return self._normed(x) @ self.output

    def _normed(self, x: torch.Tensor) -> torch.Tensor:
        """x over its root mean square; the norm's weights are in the next matrix. F.rms_norm, which has no
        CPU kernel, takes twice the time."""
        squares = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
        return x * squares.div_(x.shape[-1]).add_(self.eps).rsqrt_()

    def _choose(
        self,
        waves: list[Wave],
        logits: torch.Tensor,
        temperature: float,
        generator: torch.Generator,
        outputs: Drawn,
    ) -> None:
        """Draw the next token of every row, store it, and mark the rows that are done."""
        if temperature > 0:  # one uniform number per row, looked up in the cumulative probabilities
            chances = torch.softmax(logits.div_(temperature), -1)
            sums = chances.cumsum(-1)
            draws = torch.rand(len(logits), 1, generator=generator) * sums[:, -1:]
            tokens = torch.searchsorted(sums, draws, right=True).squeeze(1).clamp(max=logits.shape[1] - 1)
            logprobs = chances.gather(1, tokens[:, None]).squeeze(1).log()
        else:
            tokens = logits.argmax(-1)
            logprobs = torch.zeros(len(tokens))
        sizes = [len(wave.rows) for wave in waves]
        for wave, new, scores in zip(waves, tokens.split(sizes), logprobs.split(sizes), strict=True):
            for request, token, score, running in zip(
                wave.rows.tolist(), new.tolist(), scores.tolist(), wave.running.tolist(), strict=True
            ):
                if running:
                    outputs[0][request].append(token)
                    outputs[1][request].append(score)
            wave.last = new
            # the new token will be in column `length`, so a row is out of budget one column before its limit
            wave.running &= (new != self.end) & (wave.length + 1 < wave.limits)


def _layer_weights(layer: nn.Module) -> dict[str, torch.Tensor]:
    """One block's matrices as (in, out); those that multiply the same input are side by side."""
    attention, mlp = layer.self_attn, layer.mlp
    queries = attention.q_proj.weight * attention.scaling
    joint = [queries, attention.k_proj.weight, attention.v_proj.weight]
    return {
        "qkv": _after_norm(layer.input_layernorm, torch.cat(joint)),
        "out": attention.o_proj.weight.T.detach().contiguous(),
        "gate_up": _after_norm(
            layer.post_attention_layernorm, torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
        ),
        "down": mlp.down_proj.weight.T.detach().contiguous(),
    }


def _after_norm(norm: nn.Module, matrix: torch.Tensor) -> torch.Tensor:
    """The matrix (out, in) that follows a norm, as (in, out) with the norm's weights multiplied in."""
    return (matrix * norm.weight).T.detach().contiguous()


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding, halves convention of transformers' Llama."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


def _compact(wave: Wave) -> bool:
    """Drop finished rows once they are many; False when none is left."""
    running = wave.running
    left = int(running.sum())
    if 0 < left < COMPACT_BELOW * len(wave.rows):
        for name in ("rows", "pads", "limits", "running", "last"):
            setattr(wave, name, getattr(wave, name)[running])
        wave.keys = [keys[running] for keys in wave.keys]
        wave.values = [values[running] for values in wave.values]
    return left > 0


def _make_room(wave: Wave) -> None:
    if wave.length < wave.values[0].shape[2]:
        return
    for store, columns in ((wave.keys, 3), (wave.values, 2)):
        for number, old in enumerate(store):
            shape = list(old.shape)
            shape[columns] += GROWTH
            store[number] = old.new_empty(shape)  # not F.pad: filling touches every new page at once
            store[number].narrow(columns, 0, wave.length).copy_(old)


def _padding_mask(wave: Wave) -> torch.Tensor | None:
    """(n, 1, 1, columns) to add to the scores: minus infinity on padding; None where no row has any."""
    if not bool((wave.pads > 0).any()):
        return None
    hidden = torch.arange(wave.length + 1)[None] < wave.pads[:, None]
    return torch.zeros(hidden.shape).masked_fill_(hidden, float("-inf"))[:, None, None]
