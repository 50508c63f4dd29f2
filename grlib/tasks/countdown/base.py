"""Base models, from which all later steps start: SoS imitates search traces, BC solutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from grlib.models.llama import bake, load_model, load_pretrained, of_shape, save_model
from grlib.models.tokenizer import load_tokenizer, refuse_lossy
from grlib.profiles import Profile, Stage, Training
from grlib.runs.chunks import worker_pool
from grlib.runs.files import problem_with, write_bytes
from grlib.selftrain import fine_tune_rows
from grlib.tasks.countdown.data import Imitated, imitation_examples
from grlib.tasks.countdown.puzzle import Problem
from grlib.tasks.countdown.searchers import straight_path
from grlib.tasks.countdown.sources import check_sources, examples_of
from grlib.tasks.countdown.vocabulary import build_tokenizer, prompt_text
from grlib.training.base import copy_or_make, notes
from grlib.training.loop import plan_batches, train
from grlib.training.rows import Row, make_rows

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

EXAMPLES = 10_000  # examples made at a time: their texts take more memory than the training
CHECKED = 100  # examples that a pretrained tokenizer must give back unchanged
EXAMPLE = Problem((3, 5, 7, 11), 26)  # of the model card
VALID_START, VALID_EXAMPLES = 10_000_000, 200  # the part of the imitation list kept for validation


def response(method: str, example: Imitated) -> str:
    """What a model of this method imitates: the searcher's trace (sos) or the straight solution (bc)."""
    return example.trace if method == "sos" else straight_path(example.problem, example.solution)


def imitation_rows(
    method: str,
    examples: Sequence[Imitated],
    tokenizer: PreTrainedTokenizerFast,
    max_length: int,
    chat: bool = False,
) -> list[Row]:
    """Training rows of examples, longer ones cut on the right; `chat`: by the tokenizer's own template."""
    prompts = [prompt_text(example.problem, tokenizer if chat else None) for example in examples]
    return make_rows(tokenizer, prompts, [response(method, example) for example in examples], max_length)


def rows_of_stage(method: str, profile: Profile, stage: Stage, first: int) -> list[Row]:
    """Rows of a stage's examples, from number `first` of the imitation list; many are made on all cores."""
    starts = range(first, first + stage.examples, EXAMPLES)
    counts = [min(EXAMPLES, starts.stop - start) for start in starts]
    make = partial(_part_of_rows, method, profile, stage.num_count)
    if len(starts) == 1:
        return make(first, stage.examples)
    with worker_pool() as pool:
        return [row for part in pool.map(make, starts, counts) for row in part]


def _part_of_rows(method: str, profile: Profile, num_count: int, start: int, count: int) -> list[Row]:
    examples = imitation_examples(profile.countdown, count, start=start, num_count=num_count)
    tokenizer = build_tokenizer(profile.whole_numbers)
    return imitation_rows(method, examples, tokenizer, profile.self_training.row_length)


def new_model(profile: Profile, tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> LlamaForCausalLM:
    """An untrained model of the profile's shape, its weights fixed by the seed."""
    return of_shape(profile.model, tokenizer, profile.self_training.row_length, seed)


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
    of notebook 03). `folder` keeps checkpoints, from which a killed run continues; checkpoints of other
    settings are an error.
    """
    tokenizer = build_tokenizer(profile.whole_numbers)
    rows: list[Row] = []
    batches: list[list[int]] = []
    for number, stage in enumerate(profile.base.stages):
        batch_rows = stage.batch_rows * (profile.base.bc_batch_factor if method == "bc" else 1)
        if stop_after and len(batches) >= stop_after:
            # the learning-rate schedule needs the length of the stages that are not read
            batches += [[]] * (-(-stage.examples // batch_rows) * profile.base.training.epochs)
            continue
        progress(f"{method}: making {stage.examples:,} examples of {stage.num_count} numbers")
        first = len(rows)
        used = sum(s.examples for s in profile.base.stages[:number] if s.num_count == stage.num_count)
        rows += rows_of_stage(method, profile, stage, used)
        stage_settings = Training(lr=1.0, batch_rows=batch_rows, epochs=profile.base.training.epochs)
        for batch in plan_batches(stage.examples, stage_settings, seed + number):
            batches.append([first + i for i in batch])
    model = new_model(profile, tokenizer, seed)
    curve = train(
        model,
        rows,
        profile.base.training,
        seed=seed,
        folder=folder,
        batches=batches,
        valid=validation_rows(method, profile, tokenizer),
        valid_every=valid_every,
        stop_after=stop_after,
        strict=not stop_after,
        progress=progress,
        label=method,
    )
    return bake(model), tokenizer, curve


def fine_tune_base(
    method: str, profile: Profile, out: Path, work: Path, progress: Callable[[str], None]
) -> tuple[PreTrainedModel, pd.DataFrame]:
    """Fine-tune the profile's pretrained model to imitate, into `out`, in `work`: (model, curve)."""
    start, [stage] = work / "start", profile.base.stages
    if problem_with(start):
        save_model(*load_pretrained(profile.model.pretrained), start, budget=profile.budget)
    progress(f"{method}: making {stage.examples:,} examples of {stage.num_count} numbers")
    examples, tokenizer = examples_of(profile, stage.examples), load_tokenizer(start)
    for example in examples[:CHECKED]:
        refuse_lossy(tokenizer, response(method, example))
    rows = imitation_rows(method, examples, tokenizer, profile.self_training.row_length, chat=True)
    factor = profile.base.bc_batch_factor if method == "bc" else 1
    settings = replace(profile.base.training, batch_rows=stage.batch_rows * factor)
    curve = fine_tune_rows(rows, settings, start, out, work, seed=0, label=method, progress=progress)
    return load_model(out), curve


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
    check_sources(profile)

    def make() -> None:
        if profile.model.pretrained:
            model, curve = fine_tune_base(method, profile, out, work or out.parent, progress)
            for name, content in describe_base(method, profile, model, curve).items():
                write_bytes(out / name, content.encode())
            return
        model, tokenizer, curve = train_base(method, profile, folder=work, progress=progress)
        card = describe_base(method, profile, model, curve)
        save_model(model, tokenizer, out, curve, card, profile.budget)

    copy_or_make(source if profile.base.shipped else "scratch", out, shipped, make)


def describe_base(
    method: str, profile: Profile, model: PreTrainedModel, curve: pd.DataFrame
) -> dict[str, str]:
    """The manifest and the model card that travel with a base model."""
    task, stages = profile.countdown, profile.base.stages
    chat = load_tokenizer(model.name_or_path) if profile.model.pretrained else None
    facts = {
        "method": method,
        "profile": profile.name,
        "task": asdict(task),
        "stages": [asdict(stage) for stage in stages],
        "training": asdict(profile.base.training),
    }
    examples = " then ".join(f"{stage.examples:,} of {stage.num_count} numbers" for stage in stages)
    imitated = {"sos": "traces of symbolic searchers (SoS)", "bc": "optimal solutions, no search (BC)"}
    card = {
        "license": "other" if profile.model.pretrained else "apache-2.0",
        "title": f"Countdown base model `{method}`",
        "origin": profile.model.pretrained or "from scratch",
        "imitates": f"{imitated[method]} on Countdown problems: combine numbers of 1..{task.max_number} to "
        f"reach a target of {task.target_low}..{task.target_high}",
        "made_by": f'notebook 03 (`base = "scratch"`, profile {profile.name}): {examples}',
        "held_out": "the test problems of the repository, and every problem with an unseen target",
        "tags": "countdown",
        "limits": f"{task.num_count} numbers of 1..{task.max_number}, targets of {task.target_low}.."
        f"{task.target_high}, at most {profile.budget:,} tokens",
        "prompt": prompt_text(EXAMPLE, chat),
        "budget": profile.budget,
        "grading": "from grlib.tasks.countdown import Problem, grade\n\n"
        f"print(grade(answer, Problem({EXAMPLE.nums}, {EXAMPLE.target})))",
    }
    return notes(model, curve, facts, card)


def validation_rows(method: str, profile: Profile, tokenizer: PreTrainedTokenizerFast) -> list[Row]:
    """Rows of the full task that no base has seen, for the validation loss."""
    examples = imitation_examples(profile.countdown, VALID_EXAMPLES, start=VALID_START)
    return imitation_rows(method, examples, tokenizer, profile.self_training.row_length)
