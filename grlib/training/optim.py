"""The order of batches, the optimisers and the learning rate of a training run."""

from __future__ import annotations

import math
import random

import torch
from torch import nn

from grlib.errors import GrlibError
from grlib.profiles import Training


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
