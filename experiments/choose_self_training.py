"""How self-training's settings are chosen, and its controls: one iteration per variant.

    python experiments/choose_self_training.py BASE_FOLDER [--seeds 1000 1001] [--methods rest rest_more ...]
        [--variants "AdamW 3e-3" ...] [--problems 1000] [--work FOLDER]

The variants of a method and seed share its sampled traces. Validation problems (seen targets, never tested)
judge them; rows go to experiments/self_training_choice.csv, and those that are there already are skipped.

`rest_more` is ReST on so many problems that it has as many traces as Guided-ReST; `guided_rest_own_goal` is
Guided-ReST without the traces whose goal line the rewriting wrote.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from choices import LAPTOP, add, judge, known, say

from grlib import selftrain
from grlib.tasks.countdown import data as countdown_data
from grlib.tasks.countdown.task import CountdownTask

OUT = Path(__file__).with_name("self_training_choice.csv")
KS = (1, 4, 16)
METHODS = ("rest", "guided_rest", "rest_more", "guided_rest_own_goal")
VARIANTS: dict[str, dict[str, Any]] = {  # changes of the training settings
    "AdamW 3e-4": {"lr": 3e-4},
    "AdamW 1e-3": {"lr": 1e-3},
    "AdamW 3e-3": {"lr": 3e-3},
    "AdamW 6e-3": {"lr": 6e-3},
    "AdamW 1e-3, twice the epochs": {"lr": 1e-3, "epochs_factor": 2},
    "AdamW 3e-3, twice the epochs": {"lr": 3e-3, "epochs_factor": 2},
    "Muon 1e-3": {"optimizer": "muon", "lr": 1e-3},
}
Kept = list[selftrain.Attempt]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", type=Path, help="folder of the SoS base")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS[:2])
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1000])
    parser.add_argument("--problems", type=int, default=1000, help="training problems")
    parser.add_argument("--work", type=Path, default=Path("runs/choose_self_training"))
    asked = parser.parse_args()
    if not known(OUT, method="sos"):
        add(OUT, {"variant": "", "method": "sos", "seed": 0} | judge(asked.base, asked.work / "sos", KS))
    for seed in asked.seeds:
        work = asked.work / str(seed)
        for method in asked.methods:
            kept = gathered(method, asked.base, asked.problems, seed, work)
            for name in asked.variants:
                if not known(OUT, variant=name, method=method, seed=seed):
                    out = work / f"{method} {name}".replace(" ", "_").replace(",", "")
                    curve = fine_tune(kept, asked.base, loop_of(method), out, VARIANTS[name])
                    row = {"variant": name, "method": method, "seed": seed, "traces": len(kept)}
                    add(OUT, row | {"steps": len(curve)} | judge(out, work / f"eval_{out.name}", KS))


def loop_of(method: str) -> selftrain.SelfTraining:
    """The loop of a method; a control has that of the method it controls."""
    return LAPTOP.self_training.of("rest" if method.startswith("rest") else "guided_rest")


def gathered(method: str, base: Path, problems: int, seed: int, work: Path) -> Kept:
    """The traces that a method keeps in its first iteration."""

    def gather(problems: int, place: Path, task: CountdownTask) -> Kept:
        items = countdown_data.make_splits(LAPTOP.countdown, problems, 1, 1, seed).train
        return selftrain.gather_iteration(
            task, items, base, loop, method=method, iteration=1, seed=seed, work=place, progress=say
        ).kept()

    loop = loop_of(method)
    task = CountdownTask(LAPTOP.budget, writes_goal=method != "guided_rest_own_goal")
    if method != "rest_more":
        return gather(problems, work / method, task)
    few, many = (len(gathered(other, base, problems, seed, work)) for other in ("rest", "guided_rest"))
    return gather(round(problems * many / few), work / "more" / method, task)


def fine_tune(
    kept: Kept, base: Path, settings: selftrain.SelfTraining, out: Path, changes: dict[str, Any]
) -> pd.DataFrame:
    """Fine-tune the base on kept attempts with changed settings; the curve."""
    training, changes = settings.training, dict(changes)
    training = replace(training, epochs=training.epochs * changes.pop("epochs_factor", 1), **changes)
    return selftrain.fine_tune(
        kept, base, replace(settings, training=training), seed="choose", out=out, work=Path(f"{out}_work"),
        label=out.name, progress=say,
    )  # fmt: skip


if __name__ == "__main__":
    main()
