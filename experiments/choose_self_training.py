"""How self-training's settings were chosen: one iteration of ReST and Guided-ReST a variant, on validation.

    python experiments/choose_self_training.py BASE_FOLDER [--problems 700] [--work FOLDER] [variants ...]

All variants share the sampled traces of the first iteration. Validation problems (seen targets, never tested)
judge them; rows go to experiments/self_training_choice.csv, and variants that are there already are skipped.
"""

from __future__ import annotations

import argparse
import sys
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
VARIANTS: dict[str, dict[str, Any]] = {
    "AdamW 3e-3": {"lr": 3e-3},
    "AdamW 3e-4": {"lr": 3e-4},
    "AdamW 1e-3": {"lr": 1e-3},
    "AdamW 6e-3": {"lr": 6e-3},
    "Muon 1e-3": {"optimizer": "muon", "lr": 1e-3},
    "Muon 3e-3": {"optimizer": "muon", "lr": 3e-3},
    "AdamW 3e-3, twice the epochs": {"lr": 3e-3, "epochs_factor": 2},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", type=Path, help="folder of the SoS base")
    parser.add_argument("variants", nargs="*", default=list(VARIANTS), help="which (default: all)")
    parser.add_argument("--problems", type=int, default=700, help="training problems")
    parser.add_argument("--work", type=Path, default=Path("runs/choose_self_training"))
    chosen = parser.parse_args()
    if unknown := set(chosen.variants) - set(VARIANTS):
        sys.exit(f"variant {unknown.pop()!r}: choose from {', '.join(VARIANTS)}")
    items = countdown_data.make_splits(LAPTOP.countdown, chosen.problems, 1, 1, seed=1_000).train
    task, methods = CountdownTask(LAPTOP.budget), ("rest", "guided_rest")
    kept = {}
    for method in methods:
        kept[method] = selftrain.gather_iteration(
            task, items, chosen.base, LAPTOP.self_training.of(method), method=method, iteration=1, seed=1_000,
            work=chosen.work / method, progress=say,
        ).kept()  # fmt: skip
    if not known(OUT, variant="SoS"):
        row = {"variant": "SoS", "method": "sos", "traces": 0}
        add(OUT, row | judge(chosen.base, chosen.work / "sos", KS))
    for name in chosen.variants:
        for method in methods:
            if not known(OUT, variant=name, method=method):
                out = chosen.work / f"{method} {name}".replace(" ", "_")
                settings = LAPTOP.self_training.of(method)
                curve = fine_tune(kept[method], chosen.base, settings, out, dict(VARIANTS[name]))
                row = {"variant": name, "method": method, "traces": len(kept[method]), "steps": len(curve)}
                add(OUT, row | judge(out, chosen.work / f"eval_{out.name}", KS))


def fine_tune(
    kept: list[selftrain.Attempt],
    base: Path,
    settings: selftrain.SelfTraining,
    out: Path,
    changes: dict[str, Any],
) -> pd.DataFrame:
    """Fine-tune the base on kept attempts with changed settings."""
    training = settings.training
    training = replace(training, epochs=training.epochs * changes.pop("epochs_factor", 1), **changes)
    return selftrain.fine_tune(
        kept, base, replace(settings, training=training), seed="choose", out=out, work=Path(f"{out}_work"),
        label=out.name, progress=say,
    )  # fmt: skip


if __name__ == "__main__":
    main()
