"""What fixes a training run besides its rows: settings, the order of batches, optimisers, learning rate."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from grlib.errors import GrlibError
from grlib.training.parallel import PRECISIONS, STRATEGIES

if TYPE_CHECKING:
    from grlib.profiles import Profile

# Settings that change how long a run takes and what it needs, not what comes out.
PACE = ("micro_tokens", "processes", "strategy", "recompute", "checkpoint_seconds")


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
    lora_rank: int = 0  # of adapters trained in the weights' stead (grlib.models.lora); 0: all weights
    precision: str = "float32"  # or "bfloat16": of products and activations; weights stay float32
    micro_tokens: int = 2048  # padded tokens of one forward pass: bounds memory
    processes: int = 1  # that train together (grlib.training.parallel)
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
