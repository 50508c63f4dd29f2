"""Sudoku as a task: problems, tokenizer, base model, and what plugs into the self-training loop."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import pandas as pd

from grlib.models.llama import bake, of_shape, save_model
from grlib.models.tokenizer import BOS, of_pieces
from grlib.profiles import Profile
from grlib.runs.chunks import worker_pool
from grlib.selftrain import Attempt
from grlib.tasks.sudoku import guidance, puzzle, traces
from grlib.tasks.sudoku.puzzle import Problem
from grlib.tasks.sudoku.scale import Scale
from grlib.tasks.trace_task import TraceTask
from grlib.training.base import copy_or_make, notes
from grlib.training.loop import train
from grlib.training.rows import Row, make_rows

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

PART = 5000  # examples that one worker makes at a time
FRESH = 10_000_000  # problems from this number on are in no imitation list
VALID_EXAMPLES = 200


@dataclass(frozen=True)
class SudokuTask(TraceTask):
    """Items are problems of `puzzle`."""

    def prompt(self, item: Problem) -> str:
        """The clues."""
        return prompt_text(item)

    def verdict(self, item: Problem, trace: str) -> tuple[bool, str]:
        """The grader's judgement."""
        return traces.grade(trace, item.clues)

    def guide(self, item: Problem, attempt: Attempt, number: int, rng: Random) -> str:
        """The failed trace, led back to the solution where it first left it."""
        return guidance.rewrite(attempt.response, item).text


def prompt_text(problem: Problem) -> str:
    """The text after which a trace begins."""
    return f"{BOS}{problem.clues}\n"


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Cells, digits and words of the trace language, a token each."""
    longest_first = sorted(traces.PIECES, key=len, reverse=True)
    return of_pieces(traces.PIECES, "|".join(map(re.escape, longest_first)))


def problems(scale: Scale, role: str, count: int, unseen: bool = False) -> list[Problem]:
    """The first problems of a role: "train" (for self-training, in no imitation list), "valid" or "test"."""
    start = FRESH if role == "train" else 0
    numbers = range(start, start + count)
    return [puzzle.draw(role, number, scale.blanks, scale.held_out_kinds, unseen) for number in numbers]


def imitated(scale: Scale, count: int, start: int = 0, role: str = "train") -> list[tuple[Problem, str]]:
    """Problems with the traces of searchers drawn at random, from number `start` of the list on."""
    found = []
    for number in range(start, start + count):
        problem = puzzle.draw(role, number, scale.blanks, scale.held_out_kinds)
        order = Random(f"sudoku/order/{number}").choice(scale.orders)
        found.append((problem, traces.depth_first(problem.clues, order)))
    return found


def imitation_rows(scale: Scale, role: str, start: int, count: int) -> list[Row]:
    """Training rows of `imitated`, longer ones cut on the right."""
    made = imitated(scale, count, start, role)
    prompts, responses = [prompt_text(problem) for problem, _ in made], [trace for _, trace in made]
    return make_rows(build_tokenizer(), prompts, responses, scale.self_training.row_length)


def train_base(
    profile: Profile,
    *,
    seed: int = 0,
    folder: Path | None = None,
    stop_after: int = 0,
    progress: Callable[[str], None] = lambda line: None,
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast, pd.DataFrame]:
    """Train the model that imitates the searchers: (model, tokenizer, curve).

    `stop_after` steps end it early; `folder` keeps checkpoints, from which a killed run continues.
    """
    scale, tokenizer = profile.sudoku, build_tokenizer()
    starts = range(0, scale.base_examples, PART)
    progress(f"making {scale.base_examples:,} examples")
    with worker_pool() as pool:
        counts = [min(PART, scale.base_examples - start) for start in starts]
        parts = pool.map(partial(imitation_rows, scale, "train"), starts, counts)
        rows = [row for part in parts for row in part]
    model = of_shape(scale.model, tokenizer, scale.self_training.row_length, seed)
    curve = train(
        model, rows, scale.base_training, seed=seed, folder=folder, stop_after=stop_after,
        valid=imitation_rows(scale, "valid", 0, VALID_EXAMPLES), valid_every=500,
        progress=progress, label="sudoku",
    )  # fmt: skip
    return bake(model), tokenizer, curve


def obtain_base(
    profile: Profile,
    source: str,
    out: Path,
    *,
    shipped: Path | None = None,
    work: Path | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> None:
    """Put the base model into `out`: a copy of the `shipped` one, or a new one (`source` "scratch")."""
    scale = profile.sudoku

    def make() -> None:
        model, tokenizer, curve = train_base(profile, folder=work, progress=progress)
        facts = {"method": "sos", "profile": profile.name, "task": asdict(scale)}
        made = f"profile {profile.name}: {scale.base_examples:,} traces"
        [example] = problems(scale, "test", 1)
        card = {
            "license": "apache-2.0",
            "title": "Sudoku base model",
            "origin": "from scratch",
            "imitates": "depth-first searches on Sudoku of six by six cells",
            "made_by": f'notebook 10 (`base = "scratch"`), {made}',
            "held_out": "the test and validation problems, and every grid of the unseen kinds",
            "tags": "sudoku",
            "limits": f"six by six cells, {scale.blanks} of them empty, at most {scale.budget} tokens",
            "prompt": prompt_text(example),
            "budget": scale.budget,
            "grading": "from grlib.tasks.sudoku import traces\n\n"
            f'print(traces.grade(answer, "{example.clues}"))',
        }
        save_model(model, tokenizer, out, curve, notes=notes(model, curve, facts, card))

    copy_or_make(source, out, shipped, make)


def splits(scale: Scale, role: str, count: int) -> dict[str, Sequence[Problem]]:
    """Problems of the kinds of grids that were trained on (seen), and of those that were not (unseen)."""
    return {name: problems(scale, role, count, name == "unseen") for name in ("seen", "unseen")}
