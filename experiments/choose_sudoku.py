"""How many guided rounds Sudoku needs, and how fast self-training learns there: one iteration per variant.

    python experiments/choose_sudoku.py [--rounds 10] [--rates 1e-3 3e-3] [--work FOLDER]

From the shipped base. Traces are gathered once per method; validation problems, seen and unseen, judge the
models. Rows go to experiments/sudoku_choice.csv; those that are there already are skipped.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from choices import LAPTOP, add, known, say, solved_within

from grlib import selftrain
from grlib.results.tables import NO_GOAL
from grlib.runs.notebooks import REPOSITORY
from grlib.tasks.sudoku import task as sudoku

OUT, BASE = Path(__file__).with_name("sudoku_choice.csv"), REPOSITORY / "paper_results" / "base" / "sudoku"
KS, PROBLEMS = (1, 8), 100


def judge(model: Path, task: sudoku.SudokuTask, work: Path) -> dict[str, float]:
    """pass@k of a model on validation problems, by split, and how its samples end; percent."""
    splits = sudoku.splits(LAPTOP.sudoku, "valid", PROBLEMS)
    rows = selftrain.evaluate_splits(
        task, "sos", model, LAPTOP, splits, seed="choose", work=work, progress=say, samples=max(KS)
    )
    found = {split: solved_within(part, KS) for split, part in rows.groupby("split")}
    passed = {f"{split} {name}": value for split, part in found.items() for name, value in part.items()}
    ended = rows["reason"].where(~rows["truncated"], "cut off").value_counts(normalize=True)
    return passed | {
        reason: 100 * ended.get(reason, 0.0) for reason in ("cut off", NO_GOAL, "wrong goal line")
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", nargs="+", type=int, default=[3, 10], help="guided rounds")
    parser.add_argument("--rates", nargs="+", type=float, default=[1e-3, 3e-3])
    parser.add_argument("--work", type=Path, default=Path("runs/choose_sudoku"))
    asked, scale = parser.parse_args(), LAPTOP.sudoku
    task = sudoku.SudokuTask(scale.budget)
    if not known(OUT, rounds=-1):
        add(OUT, {"rounds": -1} | judge(BASE, task, asked.work / "sos"))
    items = sudoku.problems(scale, "train", scale.self_training.train_problems)
    for rounds in (0, *asked.rounds):
        method = "guided_rest" if rounds else "rest"
        loop = replace(scale.self_training, sampling=LAPTOP.sampling, guided_rounds=rounds).of(method)
        found = selftrain.gather_iteration(
            replace(task, rounds=rounds), items, BASE, loop, method=method, iteration=1, seed=0,
            work=asked.work / str(rounds), progress=say,
        )  # fmt: skip
        kept = found.kept()
        for rate in asked.rates:
            if known(OUT, rounds=rounds, rate=rate):
                continue
            name = f"{rounds}_{rate:g}"
            settings = replace(loop, training=replace(loop.training, lr=rate))
            selftrain.fine_tune(
                kept, BASE, settings, seed="choose", out=asked.work / name, label=name, progress=say,
                work=asked.work / f"{name}_work",
            )  # fmt: skip
            row = {"rounds": rounds, "rate": rate, "traces": len(kept)}
            add(OUT, row | judge(asked.work / name, task, asked.work / f"eval_{name}"))


if __name__ == "__main__":
    main()
