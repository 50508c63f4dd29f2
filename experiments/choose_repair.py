"""How self-training's settings of code self-repair were chosen: one iteration a variant, on validation.

    python experiments/choose_repair.py BASE_FOLDER [--work FOLDER] [variants ...]
    python experiments/choose_repair.py BASE_FOLDER [--work FOLDER] --loops

All variants share the episodes of the first iteration. With `--loops` all iterations are run instead, with as
many episodes from all or half of the training problems. Validation problems (new chains of the same steps,
never tested) judge them; rows go to experiments/repair_choice.csv, and variants that are there already are
skipped.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from choices import LAPTOP, add, known, say, solved_within
from choose_self_training import fine_tune

from grlib import profiles, selftrain
from grlib.models.tokenizer import load_tokenizer
from grlib.tasks.repair import settings
from grlib.tasks.repair.compositions import problems
from grlib.tasks.repair.task import RepairTask

OUT = Path(__file__).with_name("repair_choice.csv")
PROBLEMS, SAMPLES, KS = 60, 8, (1, 8)
LEARN_FROM = "learn_from"
VARIANTS: dict[str, dict[str, Any]] = {
    "1e-3": {"lr": 1e-3},
    "3e-4": {"lr": 3e-4},
    "3e-3": {"lr": 3e-3},
    "1e-3, twice the epochs": {"lr": 1e-3, "epochs_factor": 2},
    "1e-3, all answers": {"lr": 1e-3, LEARN_FROM: "all"},
}


LOOPS = {"400 problems twice": (400, 2), "200 problems 4 times": (200, 4)}


def judge(task: RepairTask, model: Path, work: Path) -> dict[str, float]:
    """pass@k in percent, and how many episodes are right with the first answer."""
    policy = selftrain.sampled_policy(
        model, LAPTOP.repair.self_training.of("rest").sampling, "choose", work, work.name, say
    )
    rows = selftrain.evaluate(task, policy, problems("valid", PROBLEMS, settings.PROBLEMS_SEED), SAMPLES)
    found = solved_within(rows, KS)
    return found | {"first": 100 * (rows["right_answer"] == 1).mean(), "answers": rows["answers"].mean()}


def add_base(task: RepairTask, base: Path, work: Path) -> None:
    """What all of them start from."""
    if not known(OUT, variant="base"):
        row = {"variant": "base", "method": "base", "episodes": 0}
        add(OUT, row | judge(task, base, work / "base"))


def whole_loop(name: str, base: Path, work: Path) -> None:
    """All iterations of both methods, on so many training problems and episodes of each."""
    count, episodes = LOOPS[name]
    sizes = {"episodes": episodes, "self_training": {"train_problems": count}}
    profile = profiles.changed(LAPTOP, repair=sizes)
    task = settings.repair_task(profile, load_tokenizer(base), work / "tests", say)
    items = settings.training_items(profile, seed=0)
    for method in settings.METHODS:
        row = {"variant": name, "method": method}
        if known(OUT, **row):
            continue
        loop, models = profile.repair.self_training.of(method), work / f"models_{method}"
        rows = selftrain.self_train(
            task, items, base, loop, method=method, seed=0, models=models, work=work / method, progress=say
        )
        last = rows[rows["iteration"] == loop.iterations]["round_solved"]
        row |= {"episodes": int((last >= 0).sum()), "unaided": 100 * (last == 0).mean()}
        add(OUT, row | judge(task, models / f"iteration_{loop.iterations}", work / f"eval_{method}"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", type=Path, help="folder of the base")
    parser.add_argument("variants", nargs="*", default=list(VARIANTS), help="which (default: all)")
    parser.add_argument("--work", type=Path, default=Path("runs/choose_repair"))
    parser.add_argument("--loops", action="store_true", help="whole loops on more or fewer problems")
    chosen = parser.parse_args()
    if unknown := set(chosen.variants) - set(VARIANTS):
        sys.exit(f"variant {unknown.pop()!r}: choose from {', '.join(VARIANTS)}")
    task = settings.repair_task(LAPTOP, load_tokenizer(chosen.base), chosen.work / "tests", say)
    add_base(task, chosen.base, chosen.work)
    if chosen.loops:
        for name in LOOPS:
            whole_loop(name, chosen.base, chosen.work / name.replace(" ", "_"))
        return
    items = settings.training_items(LAPTOP, seed=1_000)
    kept = {}
    for learn_from in ("last", "all"):
        for method in settings.METHODS:
            gathered = selftrain.gather_iteration(
                replace(task, learn_from=learn_from), items, chosen.base,
                LAPTOP.repair.self_training.of(method),
                method=method, iteration=1, seed=1_000, work=chosen.work / method, progress=say,
            )  # fmt: skip
            kept[method, learn_from] = gathered.kept()
    for name in chosen.variants:
        for method in settings.METHODS:
            if not known(OUT, variant=name, method=method):
                out, changes = chosen.work / f"{method} {name}".replace(" ", "_"), dict(VARIANTS[name])
                own = kept[method, changes.pop(LEARN_FROM, "last")]
                loop = LAPTOP.repair.self_training.of(method)
                curve = fine_tune(own, chosen.base, loop, out, changes)
                row = {"variant": name, "method": method, "episodes": len(own), "steps": len(curve)}
                add(OUT, row | judge(task, out, chosen.work / f"eval_{out.name}"))


if __name__ == "__main__":
    main()
