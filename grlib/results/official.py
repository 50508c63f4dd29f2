"""Read the authors' release: the rows and result files of their programs, as results of ours.

Its folders are <model>/.../gen/temp_<t>/iter_<guided rounds>/<split>_<first>_<last>_<seed>.parquet, a row per
problem, and beside `gen` an `eval` with <split>_pass_at_k.csv. `import_results` compares the numbers without
any training.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from grlib.errors import GrlibError, one_line
from grlib.results import rows as results
from grlib.results import tables
from grlib.runs.files import write_json, write_table
from grlib.tasks.countdown.puzzle import Problem
from grlib.tasks.countdown.traces import grade

BUDGET = 4096  # tokens of a response in the paper
COLUMNS = ("extra_info", "response", "response_length", "score")
FILE = re.compile(
    r"(.*)/gen/temp_(\d+(?:\.\d+)?)/iter_0/test_(seen|unseen)_\d+_\d+_(\d+)\.parquet"
)  # model, temperature, split, seed
MODEL = re.compile(r"(guided_rest|rest|base)_(?:sft|(rl))(?:_(\d+))?")  # in its folder's name; the iteration
NOTEBOOKS = {"sos": "03", "rest": "06", "guided_rest": "06"}  # that store a method; others: notebook 07
Group = tuple[str, int, str, str]  # method, iteration, kind (greedy or eval), split


def sources(folder: Path) -> dict[Group, dict[int, Path]]:
    """The files of test rows without guided rounds below `folder`, by seed; GrlibError if there are none."""
    found: dict[Group, dict[int, Path]] = {}
    for path in sorted(folder.rglob("*.parquet")):
        if parts := FILE.fullmatch(path.as_posix()):
            place, temperature, split, seed = parts.groups()
            kind = "greedy" if float(temperature) == 0 else "eval"
            found.setdefault((*_model(place, path), kind, split), {})[int(seed)] = path
    if not found:
        raise GrlibError(
            f"{folder}: no <model>/gen/temp_<t>/iter_0/<split>_<first>_<last>_<seed>.parquet of the splits "
            "test_seen, test_unseen in it; name the release's folder checkpoints/countdown"
        )
    return found


def _model(place: str, path: Path) -> tuple[str, int]:
    """Method and iteration."""
    if not (named := MODEL.search(place)):
        raise GrlibError(
            f"{path}: its folder names no model of the release; one part must match {MODEL.pattern}"
        )
    name, reinforced, iteration = named.groups()
    return name.replace("base", "sos") + "_ppo" * bool(reinforced), int(iteration or 0)


def read_rows(path: Path) -> pd.DataFrame:
    """The rows of one file as ours, plus `verdict`: whether our stricter grader agrees that it is solved.

    A missing column or field raises GrlibError, naming file and row.
    """
    try:
        frame = pd.read_parquet(path, columns=list(COLUMNS))
    except Exception as error:  # pyarrow raises many kinds
        raise GrlibError(
            f"{path}: {one_line(error)}; must be parquet with the columns {', '.join(COLUMNS)}"
        ) from error
    rows = []
    for number, (info, response, tokens, score) in enumerate(frame.itertuples(index=False, name=None)):
        try:
            problem = Problem(tuple(map(int, info["nums"])), int(info["target"]))
            index, text = int(info["index"]), str(response[-1]["content"])
            length, solved = int(tokens), round(score) == score == 1
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise GrlibError(
                f"{path}, row {number}: {one_line(error)}; needs extra_info with index, nums, target, "
                "response, a list of messages, response_length and score, numbers"
            ) from error
        verdict = grade(text, problem)
        rows.append((index, length, length >= BUDGET, solved, verdict.correct, verdict.reason))
    return pd.DataFrame(rows, columns=["index", "tokens", "truncated", "correct", "verdict", "reason"])


def import_results(folder: Path, dest: Path, progress: Callable[[str], None]) -> pd.DataFrame:
    """Store the test rows below `folder` in `dest`, as a run of profile paper, and compare each result file
    of the release with our tables of the same rows.

    Returns a row per model and split: rows, samples, accuracy, on how many rows our grader disagrees, and the
    largest difference from the release's result file (points; nan without one). The figures come from `python
    -m grlib figures --profile paper --source DEST`.
    """
    stored: dict[str, list[pd.DataFrame]] = {}
    lines = []
    for (method, iteration, kind, split), files in sources(folder).items():
        known = {"method": method, "iteration": iteration, "split": split}
        parts = [read_rows(files[seed]).assign(sample=i) for i, seed in enumerate(sorted(files))]
        frame = pd.concat(parts, ignore_index=True).assign(**known)
        place = next(iter(files.values())).parent
        results.check_rows(frame, kind, f"{place}, {split}")
        stored.setdefault(f"{NOTEBOOKS.get(method, '07')}_{kind}", []).append(frame)
        line = {"method": method, "iteration": iteration, "kind": kind} | known
        line |= {"rows": len(frame), "samples": len(files), "accuracy": 100 * frame["correct"].mean()}
        line["grader_disagrees"] = int((frame["correct"] != frame["verdict"]).sum())
        lines.append(line | {"largest_difference": _difference(frame, place, split)})
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
    file = place.parents[2] / "eval" / place.parent.name / place.name / f"test_{split}_pass_at_k.csv"
    if not file.is_file():
        return float("nan")
    theirs = results.read_authors_csv(file)
    theirs = theirs[theirs["k"] <= frame["sample"].max() + 1]  # above it their estimate has no meaning
    ks, budgets = sorted(theirs["k"].unique()), sorted(theirs["budget"].unique())
    both = tables.pass_at_budgets(frame.assign(seed=0), budgets, ks).merge(theirs, on=["budget", "k"])
    return float((both["mean_x"] - both["mean_y"]).abs().max())
