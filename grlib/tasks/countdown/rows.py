"""Countdown data in the layout of the authors' release: RL rows of problems and SFT rows of messages.

A problem row has `data_source, prompt, reward_model, extra_info`, a message row has `messages`; as parquet
both load in `datasets` and in the authors' scripts. Rows that come back are checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import index as whole
from typing import Any

import pandas

from grlib.errors import GrlibError
from grlib.tasks.countdown.data import Solved
from grlib.tasks.countdown.puzzle import Problem, check_solution
from grlib.tasks.countdown.vocabulary import question


def problem_rows(items: Iterable[Solved]) -> pandas.DataFrame:
    """One RL row per problem, numbered from 0 in `extra_info.index`."""
    rows = []
    for index, (problem, solution) in enumerate(items):
        prompt = [{"role": "user", "content": question(problem)}]
        goal = {"ground_truth": str(problem.target), "style": "rule"}
        info = {"index": index, "nums": list(problem.nums), "target": problem.target}
        rows.append(["countdown", prompt, goal, info | {"solution": list(solution)}])
    return pandas.DataFrame(rows, columns=["data_source", "prompt", "reward_model", "extra_info"])


def problems_from_rows(frame: pandas.DataFrame) -> list[Solved]:
    """The (problem, solution) of every row, in the order of the rows; only `extra_info` is read.

    A missing column or field, and a solution that does not solve its problem, raise GrlibError with the row.
    """
    found = []
    for number, info in enumerate(_column(frame, "extra_info", "a problem file (data/problems_*.parquet)")):
        try:
            problem = Problem(tuple(map(whole, info["nums"])), whole(info["target"]))
            solution = tuple(map(str, info["solution"]))
            check_solution(problem, solution)
        except (KeyError, TypeError) as error:
            raise GrlibError(
                f"row {number}: extra_info is {info!r}: it must hold whole numbers nums and target, "
                "and solution, a list of operations; take a file in the layout of the authors' RL data"
            ) from error
        except GrlibError as error:
            raise GrlibError(f"row {number}: {error}") from error
        found.append((problem, solution))
    return found


def message_rows(prompts: Sequence[str], responses: Sequence[str]) -> pandas.DataFrame:
    """One SFT row per pair: `messages` holds the user turn (`vocabulary.question`) and the assistant turn."""
    messages = [
        [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        for prompt, response in zip(prompts, responses, strict=True)
    ]
    return pandas.DataFrame({"messages": messages})


def turns_from_rows(frame: pandas.DataFrame) -> list[tuple[str, str]]:
    """(prompt, response) of every SFT row; other than one user and one assistant turn raises GrlibError."""
    found: list[tuple[str, str]] = []
    for number, messages in enumerate(_column(frame, "messages", "an SFT file (data/sft_*.parquet)")):
        turns = [(turn.get("role"), turn.get("content")) for turn in messages if isinstance(turn, Mapping)]
        roles, texts = [role for role, _ in turns], [text for _, text in turns]
        if roles != ["user", "assistant"] or not all(isinstance(text, str) for text in texts):
            raise GrlibError(f"row {number}: its roles are {roles}: must be ['user', 'assistant'], with text")
        found.append((str(texts[0]), str(texts[1])))
    return found


def _column(frame: pandas.DataFrame, name: str, file: str) -> Iterable[Any]:
    if name not in frame:
        raise GrlibError(f"column {name!r} is missing among {[*map(str, frame)]}: give {file}")
    return frame[name]
