"""Engine "static": a Llama samples on a GPU, one captured step after the other over a cache of fixed size.

Every row has a slot of the cache, so a new row takes the place of a finished one at once. A step is captured
as a CUDA graph whose attention (`kernel`) reads only what each row has filled. For heads that the kernel does
not take, attention reads as many columns as the fullest row has. Without a GPU the same step runs uncaptured:
so the tests compare it with transformers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as F

from grlib.models.llama import ALIGNED, gpu_dtype
from grlib.profiles import Sampling
from grlib.sampling.batched import Decoder, Drawn

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

COLUMNS = 256  # the columns of the cache, and those that plain attention reads, are a multiple of this
STRIDE = 16  # steps between two checks for finished rows
PREFILL = 65_536  # padded prompt tokens that enter in one pass
MEMORY = 0.4  # share of a GPU's memory that the cache may take: training in the same process needs half

Finished = tuple[int, np.ndarray, np.ndarray]  # number of a request, its new tokens, their log probabilities

_KEPT: dict[tuple[Any, ...], StaticDecoder] = {}  # the last decoder, by the model's shape and the sizes


def generate(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[Sequence[int]],
    budgets: Sequence[int],
    settings: Sampling,
    seed: int,
) -> Drawn:
    """`StaticDecoder.respond` by the decoder of the last call, with its graphs, where it fits; else by a new
    one."""
    most = max(budgets, default=0)
    if most <= 0:
        return [[] for _ in prompts], [[] for _ in prompts]
    columns = max(len(prompt) + budget for prompt, budget in zip(prompts, budgets, strict=True))
    sizes = (settings.slots, _rounded(columns), _rounded(most), tokenizer.eos_token_id)
    kind = (model.config.to_json_string(), *sizes)
    if kind in _KEPT:
        _KEPT[kind].load(model)
    else:
        _KEPT.clear()  # frees its memory first
        _KEPT[kind] = StaticDecoder(model, *sizes)
    return _KEPT[kind].respond(prompts, budgets, temperature=settings.temperature, seed=seed)


@dataclass
class Slots:
    """The state of every slot, on the device: (slots,) unless a comment gives another shape."""

    last: torch.Tensor  # the newest token, whose keys and values the next step writes
    length: torch.Tensor  # columns filled
    made: torch.Tensor  # new tokens so far
    budget: torch.Tensor
    running: torch.Tensor  # bool
    tokens: torch.Tensor  # (slots, largest budget): the new tokens
    logprobs: torch.Tensor  # (slots, largest budget): the log probabilities that they were drawn with


class StaticDecoder(Decoder):
    """The layers of `Decoder` over a static cache, on a GPU, in `gpu_dtype`, where there is one."""

    def __init__(self, model: LlamaForCausalLM, slots: int, columns: int, most: int, end: int) -> None:
        """For `slots` rows at once (on a GPU: as many as fit), `columns` tokens each, up to `most` of them
        new."""
        super().__init__(model, end)
        gpu = torch.cuda.is_available()
        self.device, self.dtype = torch.device("cpu"), torch.float32
        if gpu:
            self.device, self.dtype = torch.device("cuda"), gpu_dtype()
        self.embedding, self.output, self.cos, self.sin = (  # copies, which `load` may overwrite
            tensor.to(self.device, self.dtype, copy=True)
            for tensor in (self.embedding, _aligned(self.output), self.cos, self.sin)
        )
        self.layers = [
            {name: matrix.to(self.device, self.dtype, copy=True) for name, matrix in layer.items()}
            for layer in self.layers
        ]
        self.kernel = gpu and kernel_takes(self.heads // self.kv_heads, self.head)
        self.columns, self.count = _rounded(columns), slots
        if gpu:
            whole, each = torch.cuda.mem_get_info()[1], self.dtype.itemsize
            self.count = rows_that_fit(
                slots, whole, len(self.layers), self.kv_heads, self.head, self.columns, each
            )
        shape = (self.count, self.kv_heads, self.columns, self.head)
        self.keys, self.values = (
            [torch.zeros(shape, dtype=self.dtype, device=self.device) for _ in self.layers] for _ in range(2)
        )

        def zeros(*more: int, dtype: torch.dtype = torch.long) -> torch.Tensor:
            return torch.zeros(self.count, *more, dtype=dtype, device=self.device)

        self.slots = Slots(
            last=zeros(), length=zeros(), made=zeros(), budget=zeros(), running=zeros(dtype=torch.bool),
            tokens=zeros(most), logprobs=zeros(most, dtype=torch.float32),
        )  # fmt: skip
        self.places = torch.arange(self.columns, device=self.device)
        self.rows = torch.arange(self.count, device=self.device)
        self.generator = torch.Generator(self.device)
        self.graphs: dict[tuple[int, float], Callable[[], None]] = {}
        # the parts of a step, on a GPU compiled into few kernels; prompts differ in size and take plain ones
        parts: list[Callable[..., Any]] = [self._project_one, self._finish_layer, _drawn]
        if gpu:
            parts = [torch.compile(part) for part in parts]
        self.project, self.finish, self.draw = parts

    def load(self, model: LlamaForCausalLM) -> None:
        """Copy the weights of another model of the same shape to where the captured steps read them."""
        new = Decoder(model, self.end)
        self.embedding.copy_(new.embedding)
        self.output.copy_(_aligned(new.output))
        for own, theirs in zip(self.layers, new.layers, strict=True):
            for name, matrix in own.items():
                matrix.copy_(theirs[name])

    @torch.no_grad()
    def respond(
        self, prompts: Sequence[Sequence[int]], budgets: Sequence[int], *, temperature: float, seed: int
    ) -> Drawn:
        """As `Decoder.generate`, in the slots of this decoder; prompts and budgets must fit its sizes."""
        self.generator.manual_seed(seed)
        self.slots.running.zero_()
        order = sorted((i for i, budget in enumerate(budgets) if budget > 0), key=lambda i: len(prompts[i]))
        waiting, holds = deque(order), dict[int, int]()  # slot -> request
        filled = [0] * self.count  # columns of a slot that may be in use
        done: list[Finished] = []
        outputs: Drawn = [[] for _ in prompts], [[] for _ in prompts]
        while waiting or holds:
            free = [slot for slot in range(self.count) if slot not in holds]
            if waiting and len(free) >= min(len(waiting), max(1, self.count // 8)):
                entering = self._enter(free, waiting, prompts, budgets)
                for slot, request in entering.items():
                    filled[slot] = len(prompts[request])
                holds |= entering
            columns = self.columns
            if not self.kernel:
                columns = min(_rounded(max(filled[slot] for slot in holds) + STRIDE), columns)
            step = self._step_over(columns, temperature)
            for _ in range(STRIDE):
                step()
            for slot in holds:
                filled[slot] += STRIDE
            _store(done, outputs)  # makes lists while a GPU runs the steps that were just queued
            done = self._leave(holds)
        _store(done, outputs)
        return outputs

    def _enter(
        self,
        free: Sequence[int],
        waiting: deque[int],
        prompts: Sequence[Sequence[int]],
        budgets: Sequence[int],
    ) -> dict[int, int]:
        """Put the next requests into free slots: all but the last token of a prompt pass through the layers.
        Returns slot -> request."""
        chosen = [waiting.popleft()]
        while waiting and len(chosen) < len(free):
            if (len(chosen) + 1) * len(prompts[waiting[0]]) > PREFILL:
                break
            chosen.append(waiting.popleft())
        places = torch.tensor(free[: len(chosen)], device=self.device)
        width = max(len(prompts[i]) for i in chosen) - 1
        if width:
            ids = torch.tensor([[*prompts[i][:-1], *[0] * (width + 1 - len(prompts[i]))] for i in chosen])
            self._prefill(ids.to(self.device), places)
        state = self.slots
        for tensor, values in (
            (state.last, [prompts[i][-1] for i in chosen]),
            (state.length, [len(prompts[i]) - 1 for i in chosen]),
            (state.made, [0] * len(chosen)),
            (state.budget, [budgets[i] for i in chosen]),
            (state.running, [True] * len(chosen)),
        ):
            tensor[places] = torch.tensor(values, dtype=tensor.dtype, device=self.device)
        return dict(zip(free, chosen, strict=False))

    def _prefill(self, ids: torch.Tensor, places: torch.Tensor) -> None:
        """Write the keys and values of prompts (n, width), padded on the right, into the slots `places`."""
        n, width = ids.shape
        x = self.embedding[ids].flatten(0, 1)
        cos, sin = self.cos[:width], self.sin[:width]
        for weights, keys, values in zip(self.layers, self.keys, self.values, strict=True):
            q, k, v = self._project(x, weights, n, width, cos, sin)
            keys[places, :, :width], values[places, :, :width] = k, v
            mixed = F.scaled_dot_product_attention(
                q, k, v, is_causal=True, scale=1.0, enable_gqa=self.heads != self.kv_heads
            )
            x = self._finish_layer(x, mixed.transpose(1, 2).reshape(n * width, -1), weights)

    def _project_one(
        self, x: torch.Tensor, weights: dict, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """`_project` of one token per slot: queries (slots, kv heads, groups, head size), keys and values
        (slots, kv heads, head size), all contiguous."""
        q, k, v = self._project(x, weights, self.count, 1, cos, sin)
        q = q.reshape(self.count, self.kv_heads, self.heads // self.kv_heads, self.head)
        return q.contiguous(), k[:, :, 0].contiguous(), v[:, :, 0].contiguous()

    def _step_over(self, columns: int, temperature: float) -> Callable[[], None]:
        """The step that reads `columns` columns; on a GPU it is captured at its first use."""

        def step() -> None:
            self._step(columns, temperature)

        if self.device.type != "cuda":
            return step
        key = (columns, temperature)
        if key not in self.graphs:
            # the warm-up before the capture must change no slot and draw nothing from our generator
            running, own = self.slots.running.clone(), self.generator
            self.slots.running.zero_()
            self.generator = torch.Generator(self.device)
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                step()
            torch.cuda.current_stream().wait_stream(side)
            self.generator = own
            graph = torch.cuda.CUDAGraph()
            graph.register_generator_state(self.generator)
            with torch.cuda.graph(graph):
                step()
            self.slots.running.copy_(running)
            self.graphs[key] = graph.replay
        return self.graphs[key]

    def _step(self, columns: int, temperature: float) -> None:
        """The next token of every running slot; the others do not change."""
        state = self.slots
        x = self.embedding[state.last]
        cos, sin = self.cos[state.length][:, None, None], self.sin[state.length][:, None, None]
        if self.kernel:
            from grlib.sampling.kernel import attend

            live = state.running.to(torch.int32)
        else:
            hidden = torch.zeros(self.count, columns, device=self.device)
            hidden.masked_fill_(self.places[:columns] > state.length[:, None], float("-inf"))
        for weights, keys, values in zip(self.layers, self.keys, self.values, strict=True):
            q, k, v = self.project(x, weights, cos, sin)
            if self.kernel:
                mixed = attend(q, k, v, keys, values, state.length, live)
            else:
                keys[self.rows, :, state.length] = k
                values[self.rows, :, state.length] = v
                scores = (q @ keys[:, :, :columns].transpose(-1, -2)).float() + hidden[:, None, None]
                mixed = torch.softmax(scores, -1).to(self.dtype) @ values[:, :, :columns]
            x = self.finish(x, mixed.reshape(self.count, -1), weights)
        token, logprob = self._chosen(self._logits(x), temperature)
        at = state.made.clamp(max=state.tokens.shape[1] - 1)
        state.tokens[self.rows, at] = torch.where(state.running, token, state.tokens[self.rows, at])
        state.logprobs[self.rows, at] = torch.where(state.running, logprob, state.logprobs[self.rows, at])
        state.last.copy_(torch.where(state.running, token, state.last))
        state.length += state.running
        state.made += state.running
        state.running &= (token != self.end) & (state.made < state.budget)

    def _chosen(self, logits: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
        """The next token of each row, and its log probability (0 when greedy)."""
        if temperature == 0:
            token = logits.argmax(-1)
            return token, torch.zeros(token.shape, device=token.device)
        noise = torch.empty(logits.shape, device=self.device).exponential_(generator=self.generator)
        return self.draw(logits, noise, temperature)

    def _leave(self, holds: dict[int, int]) -> list[Finished]:
        """Take finished requests out of `holds`."""
        running = self.slots.running.tolist()
        done = [slot for slot in holds if not running[slot]]
        if not done:
            return []
        made = self.slots.made[done].tolist()
        tokens, logprobs = (
            tensor[done, : max(made)].cpu().numpy() for tensor in (self.slots.tokens, self.slots.logprobs)
        )
        return [
            (holds.pop(slot), ids[:count], scores[:count])
            for slot, count, ids, scores in zip(done, made, tokens, logprobs, strict=True)
        ]

    def _logits(self, x: torch.Tensor) -> torch.Tensor:
        """As `Decoder._logits`, without the columns that only fill up."""
        return super()._logits(x)[:, : len(self.embedding)]

    def _normed(self, x: torch.Tensor) -> torch.Tensor:
        """As `Decoder._normed`, by the kernel that GPUs have for it."""
        return F.rms_norm(x, x.shape[-1:], eps=self.eps)


def _store(done: Sequence[Finished], outputs: Drawn) -> None:
    for request, tokens, logprobs in done:
        outputs[0][request], outputs[1][request] = tokens.tolist(), logprobs.tolist()


def _drawn(
    logits: torch.Tensor, noise: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """A token of each row at the temperature, and its log probability. `noise` holds exponential variables of
    rate 1: divided by the probabilities they are arrival times, and the first token to arrive is drawn."""
    scaled = logits.float() / temperature
    token = (scaled - noise.log()).argmax(-1)
    return token, scaled.gather(1, token[:, None])[:, 0] - scaled.logsumexp(-1)


def rows_that_fit(
    wanted: int, whole: float, layers: int, kv_heads: int, head: int, columns: int, bytes_each: int
) -> int:
    """`wanted` rows of the cache, or as many as fit its share of a GPU of `whole` bytes."""
    row = 2 * layers * kv_heads * head * columns * bytes_each
    return max(1, min(wanted, int(MEMORY * whole / row)))


def kernel_takes(groups: int, size: int) -> bool:
    """Whether the kernel takes `groups` query heads per key-value head, of `size` numbers each."""
    return groups <= 16 and size >= 16 and size & (size - 1) == 0


def _aligned(output: torch.Tensor) -> torch.Tensor:
    """The output matrix (width, tokens), filled up with columns of zeros to a multiple of `ALIGNED`."""
    return F.pad(output, (0, -output.shape[1] % ALIGNED))


def _rounded(tokens: int) -> int:
    return -(-tokens // COLUMNS) * COLUMNS
