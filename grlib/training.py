"""Supervised fine-tuning: masked next-token loss over rows of similar length in padded micro-batches.

Every step is fixed by the rows, the settings and the seed alone, and a checkpoint holds all state, so a run
that is killed goes on from its last checkpoint to the same weights.
"""

from __future__ import annotations

import hashlib
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from grlib.distributed import PRECISIONS, STRATEGIES, Team, free_cache
from grlib.errors import GrlibError
from grlib.model import output_matrix

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from grlib.profiles import Profile

PLACE = ("step", "tokens", "curve")  # of a run, in its checkpoints
# Settings that change how long a run takes and what it needs, not what comes out.
PACE = ("micro_tokens", "processes", "strategy", "recompute", "checkpoint_seconds")
CURVE = ["step", "tokens_seen", "loss", "valid_loss"]
LOGITS = 2**30  # numbers of the output of one forward pass while texts are scored on a GPU
PADDING_LIMIT = 0.75  # rows shorter than this share of the longest go to the next micro-batch


@dataclass(frozen=True)
class TrainSettings:
    """What fixes a training run besides its rows. Defaults: the paper's SFT settings."""

    lr: float
    batch_rows: int
    epochs: int = 1
    steps: int = 0  # stop after so many steps, repeating epochs as needed; 0: as many as `epochs` gives
    optimizer: str = "adamw"  # or "muon": torch.optim.Muon on the block matrices, AdamW on the rest
    schedule: str = "cosine"  # or "trapezoid": constant, then linear to zero over the last fifth
    warmup: float = 0.1
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    lora_rank: int = 0  # of adapters trained in the weights' stead (grlib.adapters); 0: all weights
    precision: str = "float32"  # or "bfloat16": of products and activations; weights stay float32
    micro_tokens: int = 2048  # padded tokens of one forward pass: bounds memory
    processes: int = 1  # that train together (grlib.distributed)
    strategy: str = "ddp"  # or "fsdp": each process holds a part of the weights only
    recompute: bool = False  # gradient checkpointing: less memory for activations, a third more work
    checkpoint_seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS or self.strategy not in STRATEGIES:
            raise GrlibError(
                f"precision {self.precision!r}, strategy {self.strategy!r}: use {' or '.join(PRECISIONS)}, "
                f"{' or '.join(STRATEGIES)}"
            )
        if self.processes < 1:
            raise GrlibError(f"processes={self.processes}: must be 1 or more")
        if self.strategy == "fsdp" and self.optimizer == "muon":
            raise GrlibError(
                "optimizer 'muon' with strategy 'fsdp': it needs whole matrices; use adamw or ddp"
            )
        if self.optimizer not in ("adamw", "muon") or self.schedule not in ("cosine", "trapezoid"):
            raise GrlibError(
                f"optimizer {self.optimizer!r}, schedule {self.schedule!r}: use adamw or muon, "
                "cosine or trapezoid"
            )
        if self.lr <= 0 or self.batch_rows < 1 or (self.epochs < 1 and self.steps < 1):
            raise GrlibError(
                f"lr {self.lr}, batch_rows {self.batch_rows}, epochs {self.epochs}: all must be positive"
            )


def means_of(profile: Profile) -> dict[str, Any]:
    """The settings of a profile that say by what means it trains, for `TrainSettings`."""
    return {
        "precision": profile.precision,
        "processes": profile.processes,
        "strategy": profile.strategy,
        "recompute": profile.recompute,
        "micro_tokens": profile.micro_tokens,
    }


class Row(NamedTuple):
    """One training example: token ids of prompt and response, and where the response (the loss) starts."""

    ids: np.ndarray  # int32, (tokens,)
    start: int


def make_rows(
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[str],
    responses: Sequence[str],
    max_length: int,
    ended: Sequence[bool] | None = None,
) -> list[Row]:
    """Rows of prompt + response + end token, longer ones cut on the right; `max_length` in tokens.

    A response that did not end by itself (`ended` False: it ran into the budget) gets no end token.
    """
    from grlib.tokenizer import encode

    rows = []
    for i, (prompt, response) in enumerate(
        zip(encode(tokenizer, prompts), encode(tokenizer, responses), strict=True)
    ):
        if len(prompt) >= max_length:
            raise GrlibError(
                f"row {i}: its prompt of {len(prompt)} tokens leaves no room for a response in {max_length}; "
                "raise max_length or leave the row out"
            )
        end = [tokenizer.eos_token_id] if ended is None or ended[i] else []
        ids = [*prompt, *response, *end][:max_length]
        rows.append(Row(np.asarray(ids, dtype=np.int32), len(prompt)))
    return rows


def plan_batches(count: int, settings: TrainSettings, seed: int | str) -> list[list[int]]:
    """The row numbers of every step: each epoch is a new shuffle, its last batch may be small."""
    if count < 1:
        raise GrlibError(
            "no training rows: the step before kept nothing; look at its yield or sample more problems"
        )
    size = settings.batch_rows
    batches: list[list[int]] = []
    epoch = 0
    while (len(batches) < settings.steps) if settings.steps else (epoch < settings.epochs):
        order = list(range(count))
        random.Random(f"batches/{seed}/{epoch}").shuffle(order)
        batches += [order[i : i + size] for i in range(0, count, size)]
        epoch += 1
    return batches[: settings.steps or None]


def micro_batches(
    rows: Sequence[Row], micro_tokens: int
) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
    """Rows of similar length: (row numbers, ids, loss mask), the last two (rows, tokens), right-padded, the
    mask on responses.

    Attention is causal, so what stands right of a row cannot reach it: padding needs no attention mask.
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


class Scored(nn.Module):
    """A model whose forward pass gives `response_nll`: what processes wrap when they train it together."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Nats of every masked token: (masked tokens,)."""
        return response_nll(self.model, ids, mask)

    def batches(
        self, rows: Sequence[Row], micro_tokens: int
    ) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
        """Rows for one forward pass each: `micro_batches`."""
        return micro_batches(rows, micro_tokens)

    def give_back(self) -> None:
        """Leave the model as it was, but for its weights."""


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
    from grlib.model import load_both
    from grlib.sampling import release_gpus

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


def make_optimizers(model: nn.Module, settings: TrainSettings) -> list[torch.optim.Optimizer]:
    """AdamW, or Muon for the matrices inside the blocks with AdamW for embeddings and norms; frozen weights
    have none."""
    decayed = {"lr": settings.lr, "weight_decay": settings.weight_decay}
    named = [(name, weights) for name, weights in model.named_parameters() if weights.requires_grad]
    matrices = [p for name, p in named if settings.optimizer == "muon" and p.ndim == 2 and ".layers." in name]
    chosen = {id(p) for p in matrices}
    rest = [p for _, p in named if id(p) not in chosen]
    found: list[torch.optim.Optimizer] = [torch.optim.AdamW(rest, betas=settings.betas, **decayed)]
    if matrices:
        found.append(torch.optim.Muon(matrices, adjust_lr_fn="match_rms_adamw", **decayed))
    return found


def learning_rate(step: int, steps: int, settings: TrainSettings) -> float:
    """The rate of step 0 .. steps-1: linear warm-up, then the schedule down to zero."""
    warm = max(1, round(settings.warmup * steps))
    if step < warm:
        return settings.lr * (step + 1) / warm
    left = (steps - step) / max(1, steps - warm)
    if settings.schedule == "cosine":
        return settings.lr * 0.5 * (1 - math.cos(math.pi * left))
    return settings.lr * min(1.0, (steps - step) / max(1, round(0.2 * steps)))


def train(
    model: PreTrainedModel,
    rows: Sequence[Row],
    settings: TrainSettings,
    *,
    seed: int | str,
    start: str = "",
    folder: Path | None = None,
    batches: Sequence[Sequence[int]] | None = None,
    valid: Sequence[Row] = (),
    valid_every: int = 0,
    stop_after: int = 0,
    strict: bool = False,
    progress: Callable[[str], None] = lambda line: None,
    label: str = "training",
) -> pd.DataFrame:
    """Train in place and return the curve: step, tokens seen, loss, validation loss (where measured).

    `folder` keeps checkpoints: a second call with the same arguments goes on from the last one; where one is
    there that does not fit, training starts anew, or, if `strict`, it is an error. `start` names
    the weights that `model` begins with (a digest), where `seed` does not fix them. `batches` overrides the
    plan (a curriculum); `stop_after` ends early with the schedule of the full run. Several processes may
    call it together (`grlib.distributed`); where they share the weights, the first one's model has them.
    Where training goes without padding (`packed_training.packs`), the validation loss has the products'
    precision too.
    """
    plan = list(batches) if batches is not None else plan_batches(len(rows), settings, seed)
    key: dict[str, Any] = {"settings": {k: v for k, v in asdict(settings).items() if k not in PACE}}
    key |= {"seed": seed, "steps": len(plan), "rows": _digest(rows, plan)}
    key |= {"start": start} if start else {}
    team = Team(settings.strategy, settings.precision)
    if settings.recompute:
        model.gradient_checkpointing_enable()
    scored = _scored(model, rows, valid, plan, settings, team)
    net = team.wrap(scored)
    optimizers = make_optimizers(net, settings)
    step, tokens, curve = _restore(team, folder, key, net, optimizers)
    if strict and folder and not step and (folder / "checkpoint.pt").exists():
        raise GrlibError(
            f"{label}: {folder / 'checkpoint.pt'} is damaged, or of other rows or settings; go back to those "
            "that it was made with, or move it away to start anew"
        )
    net.train()
    clock = _Clock(tokens)
    last_saved = time.monotonic()
    end = min(len(plan), stop_after or len(plan))
    while step < end:
        batch = [rows[i] for i in plan[step]]
        rate = learning_rate(step, len(plan), settings)
        loss = train_step(net, batch, optimizers, rate, settings, team)
        step, tokens = step + 1, tokens + sum(len(row.ids) for row in batch)
        if not math.isfinite(loss):
            raise GrlibError(
                f"{label}: loss is {loss} at step {step}; lower lr {settings.lr} or clip {settings.clip}"
            )
        measured = math.nan
        if valid and valid_every and (step % valid_every == 0 or step == len(plan)):
            measured = _mean(net, valid, settings.micro_tokens)
        curve.append((step, tokens, loss, measured))
        if clock.due() or step == end:
            progress(f"{label}: step {step}/{end}, loss {loss:.3f}, {clock.rate(tokens, step, end)}")
        if folder and (step == end or checkpoint_due(team, last_saved, settings.checkpoint_seconds)):
            _checkpoint(team, folder, key, net, optimizers, (step, tokens, curve))
            last_saved = time.monotonic()
    team.hand_back(net, model, "model")
    scored.give_back()
    model.eval()
    return pd.DataFrame(curve, columns=CURVE)


def _scored(
    model: PreTrainedModel,
    rows: Sequence[Row],
    valid: Sequence[Row],
    plan: Sequence[Sequence[int]],
    settings: TrainSettings,
    team: Team,
) -> Scored:
    """The model as it is trained: without padding where that can be done, in lines no longer than a step."""
    from grlib.packed_training import LEAST_LINE, PackedScored, packs, rounded_up

    if not packs(model, team, settings.recompute or settings.lora_rank > 0):
        return Scored(model)
    lengths = [len(row.ids) for row in rows]
    step = max((sum(lengths[i] for i in batch) for batch in plan), default=0)
    tokens = min(settings.micro_tokens, rounded_up(step, LEAST_LINE))
    longest = max([*lengths, *(len(row.ids) for row in valid)], default=0)
    return PackedScored(model, tokens, longest, settings.precision)


def checkpoint_due(team: Team, last_saved: float, every: float) -> bool:
    """Whether it is time for a checkpoint; all processes save together, when one of them finds so."""
    return team.total(float(time.monotonic() - last_saved > every)) > 0


def train_step(
    net: nn.Module,
    batch: Sequence[Row],
    optimizers: Sequence[torch.optim.Optimizer],
    rate: float,
    settings: TrainSettings,
    team: Team,
) -> float:
    """One optimiser step of a team's network (`Team.wrap` of `Scored`) on the mean loss over the response
    tokens of `batch`; returns that loss."""
    count = sum(len(row.ids) - row.start for row in batch)
    total = 0.0
    groups = list(Team.inside(net).batches(batch, settings.micro_tokens))
    for _, ids, mask, weight in team.share(net, groups):
        loss = net(ids, mask).sum() * (weight / count)
        loss.backward()
        total += float(loss.detach())
    torch.nn.utils.clip_grad_norm_(net.parameters(), settings.clip)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
    return team.total(total) / team.size


def _digest(rows: Sequence[Row], plan: Sequence[Sequence[int]]) -> str:
    """A short name for exactly these rows in exactly this order of steps."""
    digest = hashlib.sha256(repr([list(batch) for batch in plan]).encode())
    for row in rows:
        digest.update(row.ids.tobytes() + row.start.to_bytes(4, "little"))
    return digest.hexdigest()[:16]


def _checkpoint(
    team: Team,
    folder: Path,
    key: Mapping[str, Any],
    net: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    place: tuple[int, int, list[tuple]],
) -> None:
    """`place` is the step, the tokens seen and the curve."""
    if team.size > 1:
        team.save(folder, key, net, optimizers, place)
        return
    state: dict[str, Any] = dict(zip(PLACE, place, strict=True)) | {"model": _trained(net)}
    state["optimizers"] = [optimizer.state_dict() for optimizer in optimizers]
    write_checkpoint(folder / "checkpoint.pt", key, state)


def _restore(
    team: Team,
    folder: Path | None,
    key: Mapping[str, Any],
    net: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
) -> tuple[int, int, list[tuple]]:
    """(step, tokens, curve) of the checkpoint in `folder` that belongs to this run, or a fresh start."""
    state = read_checkpoint(folder / "checkpoint.pt", key) if folder and team.size == 1 else None
    several = team.load(folder, key, net, optimizers) if folder else None  # of several processes
    if several and several[0] >= (state["step"] if state else 0):
        return several[0], several[1], [tuple(row) for row in several[2]]
    if state is None or _shapes(state["model"]) != _shapes(_trained(net)):
        return 0, 0, []
    net.load_state_dict(state["model"], strict=False)  # frozen weights are not in it
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return state["step"], state["tokens"], state["curve"]


def write_checkpoint(path: Path, key: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """All state of a run in one file, renamed into place when it is complete; `key` says whose it is."""
    from grlib.artefacts import atomic

    with atomic(path) as partial:
        torch.save({"key": key, **state}, partial)


def read_checkpoint(path: Path, key: Mapping[str, Any]) -> dict[str, Any] | None:
    """The state in a checkpoint of the run `key`; None where there is none, or one that cannot be read."""
    if not path.is_file():
        return None
    try:
        state = torch.load(path, weights_only=True)
    except Exception:  # a truncated file raises whatever its reader raises; the run begins anew
        return None
    return state if state["key"] == key else None


def _trained(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights that training changes, by name."""
    return {name: weights.detach() for name, weights in model.named_parameters() if weights.requires_grad}


def _shapes(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in weights.items()}


class _Clock:
    """Says when a progress line is due, and how fast and how much longer."""

    def __init__(self, tokens: int, every: float = 10.0) -> None:
        self.start = self.last = time.monotonic()
        self.first_tokens, self.first_step, self.every = tokens, None, every

    def due(self) -> bool:
        if time.monotonic() - self.last < self.every:
            return False
        self.last = time.monotonic()
        return True

    def rate(self, tokens: int, step: int, steps: int) -> str:
        """Tokens a second since the start, and the minutes left at that rate."""
        speed = (tokens - self.first_tokens) / max(1e-9, time.monotonic() - self.start)
        left = (steps - step) * (tokens / step) / max(speed, 1e-9)
        return f"{speed:,.0f} tokens/s, {left / 60:.1f} min left"
