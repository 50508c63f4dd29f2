"""What the bases of all tasks share: their settings, where they come from, and what their manifests say."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from grlib.errors import GrlibError
from grlib.profiles import Profile
from grlib.runs.files import MissingArtefact, atomic_folder, plain, problem_with
from grlib.training.optim import TrainSettings, means_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def base_settings(profile: Profile) -> TrainSettings:
    """How a base is trained; the batch size is each stage's own."""
    return TrainSettings(
        lr=profile.base_lr,
        batch_rows=1,
        optimizer=profile.base_optimizer,
        schedule=profile.base_schedule,
        warmup=profile.base_warmup,
        epochs=profile.base_epochs,
        lora_rank=profile.lora_rank if profile.pretrained else 0,  # a base from scratch has all to learn
        **means_of(profile),
    )


def copy_or_make(source: str, out: Path, shipped: Path | None, make: Callable[[], None]) -> None:
    """Put a base into `out`: a copy of the `shipped` folder, or what `make` trains (`source` "scratch")."""
    if source not in ("shipped", "scratch"):
        raise GrlibError(
            f"base is {source!r}: choose shipped (comes with the repository) or scratch (train it in full)"
        )
    if source == "scratch":
        make()
        return
    if shipped is None:
        raise GrlibError(f"no shipped base for {out.name} was given; pass its folder, or base scratch")
    if fault := problem_with(shipped):
        raise MissingArtefact(f"shipped base {shipped}: {fault}; fetch it again, or choose base scratch")
    with atomic_folder(out) as partial:
        shutil.copytree(shipped, partial, dirs_exist_ok=True)


def training_facts(model: PreTrainedModel, curve: pd.DataFrame) -> dict[str, Any]:
    """What the manifest of any base says of its training."""
    import torch
    import transformers

    valid = curve["valid_loss"].dropna()
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": int(curve["step"].iloc[-1]),
        "tokens_seen": int(curve["tokens_seen"].iloc[-1]),
        "validation_loss_nats_per_token": round(float(valid.iloc[-1]), 5) if len(valid) else None,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }


def notes(facts: Mapping[str, Any], card: str) -> dict[str, str]:
    """The files that travel with a base: its manifest and its card."""
    return {"manifest.json": json.dumps(plain(facts), indent=1, sort_keys=True) + "\n", "README.md": card}
