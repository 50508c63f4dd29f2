"""Training the models that later steps start from: SoS on search traces, BC on solutions (section 4.1)."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from grlib.artefacts import MissingArtefact, atomic_folder, problem_with
from grlib.countdown_data import Imitated, imitation_examples
from grlib.errors import GrlibError
from grlib.model import bake, build_model, save_model
from grlib.profiles import Profile
from grlib.search import straight_path
from grlib.tokenizer import build_tokenizer, prompt_text
from grlib.training import Row, TrainSettings, make_rows, plan_batches, train

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

VALID_START, VALID_EXAMPLES = 10_000_000, 200  # the part of the imitation list kept for validation


def response(method: str, example: Imitated) -> str:
    """What a model of this method imitates: the searcher's trace (sos) or the straight solution (bc)."""
    if method == "sos":
        return example.trace
    if method == "bc":
        return straight_path(example.problem, example.solution)
    raise GrlibError(f"method {method!r} is not trained by imitation; choose sos or bc")


def imitation_rows(
    method: str, examples: Sequence[Imitated], tokenizer: PreTrainedTokenizerFast, max_length: int
) -> list[Row]:
    """Training rows of examples, longer ones cut on the right."""
    prompts = [prompt_text(example.problem) for example in examples]
    return make_rows(tokenizer, prompts, [response(method, example) for example in examples], max_length)


def base_settings(profile: Profile) -> TrainSettings:
    """How a base is trained; the batch size is each stage's own."""
    return TrainSettings(
        lr=profile.base_lr,
        batch_rows=1,
        optimizer=profile.base_optimizer,
        schedule=profile.base_schedule,
        warmup=profile.base_warmup,
        epochs=profile.base_epochs,
    )


def train_base(
    method: str,
    profile: Profile,
    *,
    seed: int = 0,
    folder: Path | None = None,
    stop_after: int = 0,
    valid_every: int = 500,
    progress: Callable[[str], None] = lambda line: None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast, pd.DataFrame]:
    """Train `method` (sos or bc) from scratch through the profile's curriculum: (model, tokenizer, curve).

    Stages follow each other under one learning-rate schedule. `stop_after` steps end it early (the live part
    of notebook 03); `folder` keeps checkpoints, so a killed run goes on.
    """
    if profile.pretrained:
        raise GrlibError(
            f"profile {profile.name!r} starts from {profile.pretrained}: fine-tuning pretrained models is "
            "not built yet; choose smoke, laptop or gpu"
        )
    settings = base_settings(profile)
    tokenizer = build_tokenizer(profile.whole_numbers)
    rows: list[Row] = []
    batches: list[list[int]] = []
    for number, stage in enumerate(profile.stages):
        batch_rows = stage.batch_rows * (profile.bc_batch_factor if method == "bc" else 1)
        if stop_after and len(batches) >= stop_after:
            # the schedule needs the length of stages that stay unread
            batches += [[]] * (-(-stage.examples // batch_rows) * profile.base_epochs)
            continue
        progress(f"{method}: making {stage.examples:,} examples of {stage.num_count} numbers")
        examples = imitation_examples(profile.task, stage.examples, num_count=stage.num_count)
        first = len(rows)
        rows += imitation_rows(method, examples, tokenizer, profile.row_length)
        stage_settings = TrainSettings(lr=1.0, batch_rows=batch_rows, epochs=profile.base_epochs)
        for batch in plan_batches(stage.examples, stage_settings, seed + number):
            batches.append([first + i for i in batch])
    model = build_model(
        tokenizer,
        profile.hidden,
        profile.layers,
        profile.heads,
        profile.intermediate,
        profile.row_length,
        seed,
    )
    curve = train(
        model,
        rows,
        settings,
        seed=seed,
        folder=folder,
        batches=batches,
        valid=validation_rows(method, profile, tokenizer),
        valid_every=valid_every,
        stop_after=stop_after,
        progress=progress,
        label=method,
    )
    return bake(model), tokenizer, curve


def obtain_base(
    method: str,
    profile: Profile,
    source: str,
    out: Path,
    *,
    shipped: Path | None = None,
    work: Path | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> None:
    """Put a base model into `out`: a copy of the `shipped` one, or a new one (`source` "scratch")."""
    if source not in ("shipped", "scratch"):
        raise GrlibError(
            f"base is {source!r}: choose shipped (comes with the repository) or scratch (train it in full)"
        )
    if source == "scratch" or not profile.shipped_base:
        model, tokenizer, curve = train_base(method, profile, folder=work, progress=progress)
        save_model(model, tokenizer, out, curve)
        return
    if shipped is None:
        raise GrlibError(f"no shipped base of {method} was given; pass its folder, or base scratch")
    if fault := problem_with(shipped):
        raise MissingArtefact(f"shipped base {shipped}: {fault}; fetch it again, or choose base scratch")
    with atomic_folder(out) as partial:
        shutil.copytree(shipped, partial, dirs_exist_ok=True)


def validation_rows(method: str, profile: Profile, tokenizer: PreTrainedTokenizerFast) -> list[Row]:
    """Rows of the full task that no base has seen, for the validation loss."""
    examples = imitation_examples(profile.task, VALID_EXAMPLES, start=VALID_START)
    return imitation_rows(method, examples, tokenizer, profile.row_length)
