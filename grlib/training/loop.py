"""Supervised fine-tuning: masked next-token loss over rows of similar length in padded micro-batches.

The rows, the settings and the seed alone fix every step, and a checkpoint holds all state: a run that is
killed continues from its last checkpoint to the same weights.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import nn

from grlib.errors import GrlibError
from grlib.profiles import Training
from grlib.runs import deadline
from grlib.training.checkpoint import read_checkpoint, write_checkpoint
from grlib.training.loss import Scored, mean_nll
from grlib.training.optim import learning_rate, make_optimizers, plan_batches
from grlib.training.parallel import Team
from grlib.training.rows import Row

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from grlib.training.packed import Packed

CURVE = ["step", "tokens_seen", "loss", "valid_loss"]
PROGRESS_SECONDS = 10


def train(
    model: PreTrainedModel,
    rows: Sequence[Row],
    settings: Training,
    *,
    seed: int | str,
    start: str = "",
    folder: Path | None = None,
    batches: Sequence[Sequence[int]] | None = None,
    valid: Sequence[Row] = (),
    valid_every: int = 0,
    stop_after: int = 0,
    progress: Callable[[str], None] = lambda line: None,
    label: str = "training",
) -> pd.DataFrame:
    """Train `model` in place and return the curve: step, tokens seen, loss, validation loss (if measured).

    `folder` keeps checkpoints: a second call with the same arguments continues from the last one. `start`: a
    digest of the first weights, where `seed` does not fix them. `batches` replaces the plan (a curriculum);
    `stop_after` ends early, with the schedule of the full run. Several processes may call it together
    (`grlib.training.parallel`); if each holds a part of the weights, the model of the first one gets them
    all. Without padding (`packed.packs`), the validation loss too is computed in `settings.precision`.
    GrlibError where the loss is not finite.
    """
    plan = list(batches) if batches is not None else plan_batches(len(rows), settings, seed)
    key: dict[str, Any] = {"settings": settings.fixing_the_result()}
    key |= {"seed": seed, "steps": len(plan), "rows": rows_digest(rows, plan)}
    key |= {"start": start} if start else {}
    team = Team(settings.strategy, settings.precision)
    if settings.recompute:
        model.gradient_checkpointing_enable()
    pack = _pack(model, rows, valid, plan, settings, team)
    net = team.wrap(Scored(model, pack))
    optimizers = make_optimizers(net, settings)
    place = read_checkpoint(team, folder, key, net, optimizers) if folder else None
    step, tokens, curve = (place["step"], place["tokens"], place["curve"]) if place else (0, 0, [])
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
            measured = mean_nll(net, valid, settings.micro_tokens)
        curve.append((step, tokens, loss, measured))
        if clock.due() or step == end:
            progress(f"{label}: step {step}/{end}, loss {loss:.3f}, {clock.rate(tokens, step, end)}")
        if folder and (step == end or checkpoint_due(team, last_saved, settings.checkpoint_seconds)):
            place = {"step": step, "tokens": tokens, "curve": curve}
            write_checkpoint(team, folder, key, net, optimizers, place)
            last_saved = time.monotonic()
            if step < end:
                deadline.stop_if(out_of_time(team), label, f"{step}/{end} steps")
    team.hand_back(net, model, "model")
    if pack:
        pack.give_back()
    model.eval()
    return pd.DataFrame(curve, columns=CURVE)


def _pack(
    model: PreTrainedModel,
    rows: Sequence[Row],
    valid: Sequence[Row],
    plan: Sequence[Sequence[int]],
    settings: Training,
    team: Team,
) -> Packed | None:
    """What reads rows without padding, where model and machine allow it; a pack holds a step at most."""
    from grlib.training.packed import LEAST, Packed, packs, rounded_up

    if not packs(model, team, settings.recompute or settings.lora_rank > 0):
        return None
    lengths = [len(row.ids) for row in rows]
    step = max((sum(lengths[i] for i in batch) for batch in plan), default=0)
    tokens = min(settings.micro_tokens, rounded_up(step, LEAST))
    longest = max([*lengths, *(len(row.ids) for row in valid)], default=0)
    return Packed(model, tokens, longest, settings.precision)


def checkpoint_due(team: Team, last_saved: float, every: float) -> bool:
    """Whether it is time for a checkpoint, for one of the processes: they all save together."""
    return team.total(float(time.monotonic() - last_saved > every or deadline.passed())) > 0


def out_of_time(team: Team) -> bool:
    """Whether the deadline has passed, for one of the processes: they all stop together."""
    return team.total(float(deadline.passed())) > 0


def train_step(
    net: nn.Module,
    batch: Sequence[Row],
    optimizers: Sequence[torch.optim.Optimizer],
    rate: float,
    settings: Training,
    team: Team,
) -> float:
    """One optimiser step on the mean loss over the response tokens of `batch`; returns that loss.

    `net`: what `Team.wrap` makes of a `Scored` model.
    """
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


def rows_digest(rows: Sequence[Row], plan: Sequence[Sequence[int]] = ()) -> str:
    """A short digest of these rows and of the order of steps."""
    digest = hashlib.sha256(repr([list(batch) for batch in plan]).encode())
    for row in rows:
        digest.update(row.ids.tobytes() + row.start.to_bytes(4, "little"))
    return digest.hexdigest()[:16]


class _Clock:
    """When a progress line is due, and the speed that it shows."""

    def __init__(self, tokens: int) -> None:
        self.start = self.last = time.monotonic()
        self.first_tokens = tokens

    def due(self) -> bool:
        if time.monotonic() - self.last < PROGRESS_SECONDS:
            return False
        self.last = time.monotonic()
        return True

    def rate(self, tokens: int, step: int, steps: int) -> str:
        """Tokens per second since the start, and the minutes left at that rate."""
        speed = max(1e-9, (tokens - self.first_tokens) / max(1e-9, time.monotonic() - self.start))
        left = (steps - step) * (tokens / step) / speed
        return f"{speed:,.0f} tokens/s, {left / 60:.1f} min left"
