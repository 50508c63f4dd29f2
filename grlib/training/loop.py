"""Supervised fine-tuning (`train`): the order of the rows, optimisers, learning rate, curves in trackio.

The first weights, the rows, the settings and the seed fix every step, and a checkpoint holds all state: a run
that is killed continues from its last checkpoint to the same weights. The loss is in `loss`.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import nn

from grlib.errors import GrlibError
from grlib.profiles import Training
from grlib.training.loss import Scored, mean_nll
from grlib.training.packed import LEAST, Packed, pack_for, rounded_up
from grlib.training.parallel import Team, first_process
from grlib.training.rows import Row

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CURVE = ["step", "tokens_seen", "loss", "valid_loss"]
PROGRESS_SECONDS = 10
TRACKIO = "GRLIB_TRACKIO"  # environment variable


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
    strict: bool = False,
    progress: Callable[[str], None] = lambda line: None,
    label: str = "training",
) -> pd.DataFrame:
    """Train `model` in place and return the curve: step, tokens seen, loss, validation loss (if measured).

    `folder` keeps checkpoints: a second call with the same arguments continues from the last one. Checkpoints
    of other arguments are ignored, or, if `strict`, an error. `start`: a digest of the first weights, where
    `seed` does not fix them. `batches` replaces the plan (a curriculum); `stop_after` ends early, with the
    schedule of the full run. Several processes may call it together (`grlib.training.parallel`); if each
    holds a part of the weights, the model of the first one gets them all. Without padding (`packed.packs`),
    the validation loss too is computed in `settings.precision`. GrlibError where the loss is not finite.
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
    place = team.read_checkpoint(folder, key, net, optimizers) if folder else None
    step, tokens, curve = (place["step"], place["tokens"], place["curve"]) if place else (0, 0, [])
    if strict and folder and not step and (folder / "checkpoint.pt").exists():
        raise GrlibError(
            f"{label}: {folder / 'checkpoint.pt'} is damaged, or of other rows or settings; use those that "
            "it was made with, or move it away to start again"
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
            measured = mean_nll(net, valid, settings.micro_tokens)
        curve.append((step, tokens, loss, measured))
        due = clock.due() or step == end
        if due or not math.isnan(measured):
            track(f"{label}, seed {seed}", dict(zip(CURVE, curve[-1], strict=True)))
        if due:
            progress(f"{label}: step {step}/{end}, loss {loss:.3f}, {clock.rate(tokens, step, end)}")
        if folder and (step == end or team.checkpoint_due(last_saved, settings.checkpoint_seconds)):
            place = {"step": step, "tokens": tokens, "curve": curve}
            team.write_checkpoint(folder, key, net, optimizers, place)
            last_saved = time.monotonic()
            if step < end:
                team.stop_if_late(label, f"{step}/{end} steps")
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
    """`pack_for` these rows; a pack holds a step at most."""
    lengths = [len(row.ids) for row in rows]
    step = max((sum(lengths[i] for i in batch) for batch in plan), default=0)
    tokens = min(settings.micro_tokens, rounded_up(step, LEAST))
    longest = max([*lengths, *(len(row.ids) for row in valid)], default=0)
    return pack_for(model, team, settings.recompute or settings.lora_rank > 0, tokens, longest)


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


def plan_batches(count: int, settings: Training, seed: int | str) -> list[list[int]]:
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


def make_optimizers(model: nn.Module, settings: Training) -> list[torch.optim.Optimizer]:
    """AdamW, or Muon for the matrices inside the blocks with AdamW for embeddings and norms.

    Frozen weights are left out.
    """
    decayed = {"lr": settings.lr, "weight_decay": settings.weight_decay}
    named = [(name, weights) for name, weights in model.named_parameters() if weights.requires_grad]
    matrices = [p for name, p in named if settings.optimizer == "muon" and p.ndim == 2 and ".layers." in name]
    chosen = {id(p) for p in matrices}
    rest = [p for _, p in named if id(p) not in chosen]
    found: list[torch.optim.Optimizer] = [torch.optim.AdamW(rest, betas=settings.betas, **decayed)]
    if matrices:
        found.append(torch.optim.Muon(matrices, adjust_lr_fn="match_rms_adamw", **decayed))
    return found


def learning_rate(step: int, steps: int, settings: Training) -> float:
    """The rate of step 0 .. steps-1: linear warm-up, then the schedule down to zero."""
    warm = max(1, round(settings.warmup * steps))
    if step < warm:
        return settings.lr * (step + 1) / warm
    left = (steps - step) / max(1, steps - warm)
    if settings.schedule == "cosine":
        return settings.lr * 0.5 * (1 - math.cos(math.pi * left))
    return settings.lr * min(1.0, (steps - step) / max(1, round(0.2 * steps)))


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


# Curves in trackio, while they run, where `TRACKIO` names a project; `trackio show --project NAME` draws them


def track(name: str, row: Mapping[str, float]) -> None:
    """Send a row of a curve, with its `step`, to the run `name`, new or begun before. GrlibError without
    the package."""
    project = os.environ.get(TRACKIO)
    if project and first_process():
        values = {key: value for key, value in row.items() if key != "step" and math.isfinite(value)}
        _run(project, name).log(values, step=int(row["step"]))


@lru_cache(maxsize=1)  # `init` ends the run before
def _run(project: str, name: str) -> Any:
    try:
        import trackio
    except ImportError as error:
        raise GrlibError(
            f"{TRACKIO}={project}: trackio is not installed; `python -m pip install trackio`, or unset it"
        ) from error
    with contextlib.redirect_stdout(io.StringIO()):  # greetings, with paths of this machine
        return trackio.init(
            project, name=name, resume="allow", embed=False, auto_log_cpu=False, auto_log_gpu=False
        )
