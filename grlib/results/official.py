"""Read the authors' release: the rows and result files of their programs, as results of ours.

Its folders are <model>/.../gen/temp_<t>/iter_<guided rounds>/<split>_<first>_<last>_<seed>.parquet, a row per
problem, and beside `gen` an `eval` with <split>_pass_at_k.csv. `import_results` compares the numbers without
any training.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from grlib.errors import GrlibError, one_line
from grlib.results import rows as results
from grlib.results import tables
from grlib.runs.files import write_json, write_table
from grlib.tasks.countdown.puzzle import Problem
from grlib.tasks.countdown.traces import grade

BUDGET = 4096  # tokens of a response in the paper
COLUMNS = ("extra_info", "response", "response_length", "score")
FILE = re.compile(r"test_(?P<split>seen|unseen)_\d+_\d+_(?P<seed>\d+)\.parquet")
MODELS = (  # part of a folder's name -> method; the number is the iteration
    (r"guided_rest_sft_(\d+)", "guided_rest"),
    (r"rest_sft_(\d+)", "rest"),
    (r"base_sft", "sos"),
    (r"guided_rest_rl", "guided_rest_ppo"),
    (r"rest_rl", "rest_ppo"),
    (r"base_rl", "sos_ppo"),
)
NOTEBOOKS = {"sos": "03", "rest": "06", "guided_rest": "06"}  # that store a method; others: notebook 07


class Source(NamedTuple):
    """One file of generated rows, and what its path says about them."""

    path: Path
    method: str
    iteration: int
    kind: str  # "greedy" or "eval"
    split: str
    seed: int


def sources(folder: Path) -> list[Source]:
    """The files of test rows without guided rounds below `folder`; GrlibError if there are none."""
    found = []
    for path in sorted(folder.rglob("*.parquet")):
        name, place = FILE.fullmatch(path.name), path.parent.as_posix()
        generated = re.search(r"/gen/temp_(\d+(?:\.\d+)?)/iter_0$", place)
        if name and generated:
            kind = "greedy" if float(generated[1]) == 0 else "eval"
            model = _model(place[: generated.start()], path)
            found.append(Source(path, *model, kind, name["split"], int(name["seed"])))
    if not found:
        raise GrlibError(
            f"{folder}: no <model>/gen/temp_<t>/iter_0/<split>_<first>_<last>_<seed>.parquet of the splits "
            "test_seen, test_unseen in it; name the release's folder checkpoints/countdown"
        )
    return found


def _model(place: str, path: Path) -> tuple[str, int]:
    for pattern, method in MODELS:
        if match := re.search(pattern, place):
            return method, int(match[1]) if match.groups() else 0
    known = ", ".join(pattern for pattern, _ in MODELS)
    raise GrlibError(f"{path}: its folder names no model of the release; one part must match {known}")


def read_rows(source: Source, sample: int) -> pd.DataFrame:
    """The rows of one file as ours, plus `verdict`: whether our stricter grader agrees that it is solved.

    A missing column or field raises GrlibError, naming file and row.
    """
    try:
        frame = pd.read_parquet(source.path, columns=list(COLUMNS))
    except Exception as error:  # pyarrow raises many kinds
        raise GrlibError(
            f"{source.path}: {one_line(error)}; must be parquet with the columns {', '.join(COLUMNS)}"
        ) from error
    rows = []
    for number, (info, response, tokens, score) in enumerate(frame.itertuples(index=False, name=None)):
        try:
            problem = Problem(tuple(map(int, info["nums"])), int(info["target"]))
            index, text = int(info["index"]), str(response[-1]["content"])
            length, solved = int(tokens), round(score) == score == 1
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise GrlibError(
                f"{source.path}, row {number}: {one_line(error)}; needs extra_info with index, nums, target, "
                "response, a list of messages, response_length and score, numbers"
            ) from error
        verdict = grade(text, problem)
        rows.append((index, length, solved, verdict.correct, verdict.reason))
    made = pd.DataFrame(rows, columns=["index", "tokens", "correct", "verdict", "reason"])
    known = {"method": source.method, "iteration": source.iteration, "split": source.split, "sample": sample}
    return made.assign(**known, truncated=made["tokens"] >= BUDGET, profile="paper")


def import_results(folder: Path, dest: Path, progress: Callable[[str], None]) -> pd.DataFrame:
    """Store the test rows below `folder` in `dest`, as a run of profile paper, and compare each result file
    of the release with our tables of the same rows.

    Returns a row per model and split: rows, samples, accuracy, on how many rows our grader disagrees, and the
    largest difference from the release's result file (points; nan without one). The figures come from `python
    -m grlib figures --profile paper --source DEST`.
    """
    groups: dict[tuple[str, int, str, str], list[Source]] = {}
    for source in sources(folder):
        groups.setdefault((source.method, source.iteration, source.kind, source.split), []).append(source)
    stored: dict[str, list[pd.DataFrame]] = {}
    lines = []
    for (method, iteration, kind, split), files in groups.items():
        seeds = sorted({file.seed for file in files})
        frame = pd.concat([read_rows(file, seeds.index(file.seed)) for file in files], ignore_index=True)
        results.check_rows(frame, kind, f"{files[0].path.parent}, {split}")
        stored.setdefault(f"{NOTEBOOKS.get(method, '07')}_{kind}", []).append(frame)
        line = {"method": method, "iteration": iteration, "kind": kind, "split": split, "rows": len(frame)}
        line |= {"samples": len(seeds), "accuracy": 100 * frame["correct"].mean()}
        line |= {"grader_disagrees": int((frame["correct"] != frame["verdict"]).sum())}
        lines.append(line | {"largest_difference": _difference(frame, files[0].path.parent, split)})
        progress(f"{method} {iteration}, {kind}, {split}: {len(frame):,} rows")
    write_json(dest / "run.json", {"profile": "paper", "seed": 0})
    for kind, stems in results.FILES.items():
        for stem in stems:
            path = dest / "results" / f"{stem}.parquet"
            if stem in stored:
                write_table(path, pd.concat(stored[stem], ignore_index=True).drop(columns="verdict"))
            elif stem not in results.OPTIONAL:  # the release does not hold it
                write_table(path, results.without_rows(kind))
    return pd.DataFrame(lines)


def _difference(frame: pd.DataFrame, place: Path, split: str) -> float:
    """Largest difference in points between the release's pass@k and ours from the same rows."""
    evaluated = re.sub("/gen/(?=temp_[^/]+/iter_0$)", "/eval/", place.as_posix())
    file = Path(evaluated, f"test_{split}_pass_at_k.csv")
    if not file.is_file():
        return float("nan")
    theirs = results.read_authors_csv(file)
    theirs = theirs[theirs["k"] <= frame["sample"].max() + 1]  # above it their estimate has no meaning
    ks, budgets = sorted(theirs["k"].unique()), sorted(theirs["budget"].unique())
    both = tables.pass_at_budgets(frame.assign(seed=0), budgets, ks).merge(theirs, on=["budget", "k"])
    return float((both["mean_x"] - both["mean_y"]).abs().max())
