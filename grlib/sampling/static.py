"""Sampling from a Llama on a GPU: one captured step, again and again, over a cache that never moves.

Every row has a slot of the cache and its own place in it, so a finished row is replaced at once. A step is
captured as a CUDA graph whose attention reads what each row has filled (`decode_kernel`). Without a GPU, and
for heads that the kernel does not take, attention reads as many columns as the fullest row has; without a GPU
the step runs as it is, which is how the tests compare it with transformers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as F

from grlib.errors import GrlibError
from grlib.models.llama import ALIGNED
from grlib.sampling.batched import Decoder

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

COLUMNS = 256  # the cache has, and attention without the kernel reads, a multiple of so many columns
STRIDE = 16  # steps between two looks at which rows are done
PREFILL = 65_536  # padded prompt tokens that enter in one pass
MEMORY = 0.4  # share of a GPU's memory that the cache may take: training in the same process needs half

Finished = tuple[int, list[int], list[float]]  # number of a request, its new tokens, their log probabilities


@dataclass
class Slots:
    """What every slot holds, (slots,) each unless said otherwise, on the device."""

    last: torch.Tensor  # the newest token, whose keys and values the next step writes
    length: torch.Tensor  # columns filled
    made: torch.Tensor  # new tokens so far
    budget: torch.Tensor
    running: torch.Tensor  # bool
    tokens: torch.Tensor  # (slots, largest budget): the new tokens
    logprobs: torch.Tensor  # as tokens: with which log probability each was drawn


class StaticDecoder(Decoder):
    """The layers of `Decoder` over a static cache, on a GPU in bfloat16 where there is one."""

    def __init__(
        self, model: LlamaForCausalLM, slots: int, columns: int, most: int, end: int | None = None
    ) -> None:
        super().__init__(model, engine="static", end=end)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self.embedding, self.output, self.cos, self.sin = (  # copies, which `load` may overwrite
            tensor.to(self.device, self.dtype, copy=True)
            for tensor in (self.embedding, _aligned(self.output), self.cos, self.sin)
        )
        self.layers = [
            {name: matrix.to(self.device, self.dtype, copy=True) for name, matrix in layer.items()}
            for layer in self.layers
        ]
        self.kernel = self.device.type == "cuda" and kernel_takes(self.heads // self.kv_heads, self.head)
        self.columns = _rounded(columns)
        self.count = self._slots_that_fit(slots)
        shape = (self.count, self.kv_heads, self.columns, self.head)
        self.keys, self.values = (
            [torch.zeros(shape, dtype=self.dtype, device=self.device) for _ in self.layers] for _ in range(2)
        )
        self.slots = self._empty(most)
        self.places = torch.arange(self.columns, device=self.device)
        self.rows = torch.arange(self.count, device=self.device)
        self.generator = torch.Generator(self.device)
        self.graphs: dict[tuple[int, float], Callable[[], None]] = {}
        self.calls = 0  # of `finished`
        # the parts of a step, on a GPU compiled into few kernels; prompts differ in size and take plain ones
        parts: list[Callable[..., Any]] = [self._project_one, self._finish_layer, _drawn]
        if self.device.type == "cuda":
            parts = [torch.compile(part) for part in parts]
        self.project, self.finish, self.draw = parts

    def load(self, model: LlamaForCausalLM) -> None:
        """Take the weights of another model of the same shape, where the captured steps find them."""
        new = Decoder(model, engine="static", end=self.eos)
        self.embedding.copy_(new.embedding)
        self.output.copy_(_aligned(new.output))
        for own, theirs in zip(self.layers, new.layers, strict=True):
            for name, matrix in own.items():
                matrix.copy_(theirs[name])

    def _empty(self, most: int) -> Slots:
        """Slots of which none runs, with room for `most` new tokens each."""

        def zeros(*shape: int, dtype: torch.dtype = torch.long) -> torch.Tensor:
            return torch.zeros(shape, dtype=dtype, device=self.device)

        n = self.count
        return Slots(
            last=zeros(n), length=zeros(n), made=zeros(n), budget=zeros(n),
            running=zeros(n, dtype=torch.bool),
            tokens=zeros(n, most), logprobs=zeros(n, most, dtype=torch.float32),
        )  # fmt: skip

    def _slots_that_fit(self, wanted: int) -> int:
        """Slots asked for, or as many as fit the GPU."""
        if self.device.type != "cuda":
            return wanted
        _, whole = torch.cuda.mem_get_info()
        shape = len(self.layers), self.kv_heads, self.head, self.columns
        return rows_that_fit(wanted, whole, *shape, self.dtype.itemsize)

    @torch.no_grad()
    def finished(
        self, prompts: Sequence[Sequence[int]], budgets: Sequence[int], *, temperature: float, seed: int
    ) -> Iterator[Finished]:
        """Requests without a budget first, then the others as they are done; columns and budgets must fit.

        What the caller does with one overlaps with the steps of those that still run, which a GPU has been
        handed then. One call at a time: GrlibError where another has begun before these steps are done.
        """
        self.calls += 1
        ours = self.calls
        self.generator.manual_seed(seed)
        self.slots.running.zero_()
        order = sorted((i for i, budget in enumerate(budgets) if budget > 0), key=lambda i: len(prompts[i]))
        waiting, holds = deque(order), dict[int, int]()  # slot -> request
        filled = [0] * self.count  # columns of a slot that may be in use
        left: list[tuple[int, np.ndarray, np.ndarray]] = []
        yield from ((i, [], []) for i, budget in enumerate(budgets) if budget <= 0)
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
            yield from _listed(left)
            if self.calls != ours:
                raise GrlibError("the static cache has been given to another call: end one before the next")
            left = self._leave(holds)
        yield from _listed(left)

    def _enter(
        self,
        free: Sequence[int],
        waiting: deque[int],
        prompts: Sequence[Sequence[int]],
        budgets: Sequence[int],
    ) -> dict[int, int]:
        """Put the next requests into free slots: a prompt goes through the layers, but for its last token."""
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
        """Write keys and values of prompts (n, width), padded on the right, into the slots `places`."""
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
        """`_project` of one token a slot: queries (slots, kv heads, groups, head size), keys and values
        (slots, kv heads, head size), each in one piece."""
        q, k, v = self._project(x, weights, self.count, 1, cos, sin)
        q = q.reshape(self.count, self.kv_heads, self.heads // self.kv_heads, self.head)
        return q.contiguous(), k[:, :, 0].contiguous(), v[:, :, 0].contiguous()

    def _step_over(self, columns: int, temperature: float) -> Callable[[], None]:
        """The step that reads so many columns, captured when it is first asked for."""

        def step() -> None:
            self._step(columns, temperature)

        if self.device.type != "cuda":
            return step
        key = (columns, temperature)
        if key not in self.graphs:
            running, own = self.slots.running.clone(), self.generator
            self.slots.running.zero_()  # the trial before the capture must change nothing, nor draw from ours
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
        """The next token of every slot that runs; the others stay as they are."""
        state = self.slots
        x = self.embedding[state.last]
        cos, sin = self.cos[state.length][:, None, None], self.sin[state.length][:, None, None]
        live, hidden = state.running.to(torch.int32), None
        if not self.kernel:
            hidden = torch.zeros(self.count, columns, device=self.device)
            hidden.masked_fill_(self.places[:columns] > state.length[:, None], float("-inf"))
        for weights, keys, values in zip(self.layers, self.keys, self.values, strict=True):
            q, k, v = self.project(x, weights, cos, sin)
            if hidden is None:
                from grlib.sampling.kernel import attend

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
        state.running &= (token != self.eos) & (state.made < state.budget)

    def _chosen(self, logits: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
        """A token of each row, and its log probability (0 when greedy)."""
        if temperature == 0:
            token = logits.argmax(-1)
            return token, torch.zeros(token.shape, device=token.device)
        noise = torch.empty(logits.shape, device=self.device).exponential_(generator=self.generator)
        return self.draw(logits, noise, temperature)

    def _leave(self, holds: dict[int, int]) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """Take what is finished out of its slots: requests, their tokens and log probabilities."""
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
        return super()._logits(x)[:, : len(self.embedding)]

    def _normed(self, x: torch.Tensor) -> torch.Tensor:
        """As `Decoder._normed`, by the kernel that a GPU has for it."""
        return F.rms_norm(x, x.shape[-1:], eps=self.eps)


def _drawn(
    logits: torch.Tensor, noise: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """A token of each row by the temperature, and its log probability; of exponential races (`noise` holds
    their times at rate 1) the likeliest token wins most often."""
    scaled = logits.float() / temperature
    token = (scaled - noise.log()).argmax(-1)
    return token, scaled.gather(1, token[:, None])[:, 0] - scaled.logsumexp(-1)


def _listed(left: Sequence[tuple[int, np.ndarray, np.ndarray]]) -> Iterator[Finished]:
    return ((request, tokens.tolist(), logprobs.tolist()) for request, tokens, logprobs in left)


def rows_that_fit(
    wanted: int, whole: float, layers: int, kv_heads: int, head: int, columns: int, bytes_each: int
) -> int:
    """`wanted` rows of the cache, or as many as its share of a card of `whole` bytes holds."""
    row = 2 * layers * kv_heads * head * _rounded(columns) * bytes_each
    return max(1, min(wanted, int(MEMORY * whole / row)))


def kernel_takes(groups: int, size: int) -> bool:
    """Whether `decode_kernel` takes so many query heads to a key-value head, of so many numbers each."""
    return groups <= 16 and size >= 16 and size & (size - 1) == 0


def _aligned(output: torch.Tensor) -> torch.Tensor:
    """The output matrix (width, tokens) with columns of zeros for tokens that are not there."""
    return F.pad(output, (0, -output.shape[1] % ALIGNED))


def _rounded(tokens: int) -> int:
    return -(-tokens // COLUMNS) * COLUMNS


_KEPT: dict[tuple[Any, ...], StaticDecoder] = {}  # the one that was used last, by shape and sizes


def generate(
    model: LlamaForCausalLM,
    prompts: Sequence[Sequence[int]],
    budgets: Sequence[int],
    *,
    temperature: float,
    seed: int,
    slots: int,
    end: int | None = None,
) -> Iterator[Finished]:
    """`StaticDecoder.finished` of the last call's decoder, with its graphs, where the requests fit it."""
    most = max(budgets, default=0)
    if most <= 0:
        yield from ((i, [], []) for i in range(len(prompts)))
        return
    columns = max(len(prompt) + budget for prompt, budget in zip(prompts, budgets, strict=True))
    kind = (model.config.to_json_string(), slots, _rounded(columns), _rounded(most), end)
    if kind in _KEPT:
        _KEPT[kind].load(model)
    else:
        _KEPT.clear()
        _KEPT[kind] = StaticDecoder(model, *kind[1:])
    yield from _KEPT[kind].finished(prompts, budgets, temperature=temperature, seed=seed)
