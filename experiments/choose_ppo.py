"""How PPO's settings were chosen: one run a variant from a trained model, judged on validation problems.

    python experiments/choose_ppo.py RUN_FOLDER [variants ...] [--method guided_rest_ppo] [--problems 200]
                              [--work FOLDER]

RUN_FOLDER holds a finished laptop run up to notebook 06: its models and training problems are taken. Every
variant takes as many responses as the profile's run, but the last two: they take twice and four times as
many, to see whether PPO lacks them. Validation problems (seen targets, never tested) judge the last policy;
rows go to experiments/ppo_choice.csv, and variants that are there already, with as many problems, are
skipped. One process a core may run, each with its own variants.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from choices import LAPTOP, add, judge, known, say, within_reach

from grlib.ppo import loop as ppo
from grlib.ppo import watch as ppo_watch
from grlib.results.rows import STARTS
from grlib.sampling import pool as sampling
from grlib.tasks.countdown.task import PPO_RUNS, CountdownTask, ppo_settings

OUT = Path(__file__).with_name("ppo_choice.csv")
SAMPLES = 4
LAST_STEPS = 5  # of the curve: their mean is shown
BEFORE = "before"  # the model that a method starts from
NORMED = {"optimizer": "normed_sgd", "schedule": "constant"}
LARGER = {"optimizer": "normed_sgd", "schedule": "linear", "problems": 256, "minibatch": 64}
ADAMW = {"optimizer": "adamw", "schedule": "constant"}
VARIANTS: dict[str, dict[str, Any]] = {
    BEFORE: {},
    "adamw 1e-4": ADAMW | {"actor_lr": 1e-4},
    "steps of length 0.05": NORMED | {"actor_lr": 0.05},
    "steps of length 0.1": NORMED | {"actor_lr": 0.1},
    "steps of length 0.2": NORMED | {"actor_lr": 0.2},
    "steps of length 0.2, falling to 0": NORMED | {"actor_lr": 0.2, "schedule": "linear"},
    "steps of length 0.3, falling to 0": NORMED | {"actor_lr": 0.3, "schedule": "linear"},
    "5 steps of 256, length 0.2, falling to 0": LARGER | {"steps": 5, "actor_lr": 0.2},
    "5 steps of 256, length 0.3, falling to 0": LARGER | {"steps": 5, "actor_lr": 0.3},
    "10 steps of 256, length 0.2, falling to 0": LARGER | {"steps": 10, "actor_lr": 0.2},
    "20 steps of 256, length 0.1, falling to 0": LARGER | {"steps": 20, "actor_lr": 0.1},
}


def run(name: str, method: str, source: Path, problems: int, work: Path) -> dict[str, Any]:
    """Train one variant and judge it: a row of the table."""
    folder, start = work / f"{method} {name}".replace(" ", "_"), STARTS[method]
    last = "" if start == "sos" else f"iteration_{LAPTOP.self_training.iterations}"
    model = source / "models" / start / last
    if name == BEFORE:
        return scores(model, problems, folder)
    settings = replace(ppo_settings(LAPTOP, method), **VARIANTS[name])
    curve = ppo.train_ppo(
        CountdownTask(LAPTOP.budget), within_reach(source), model, settings, seed=1_000, out=folder / "model",
        work=folder / "run", progress=say,
    )  # fmt: skip
    last = curve.tail(LAST_STEPS)[["accuracy", "clipped", "entropy", "value_error"]].mean()
    spent = {"seconds": curve[[*ppo_watch.TIMES]].to_numpy().sum(), "cores": sampling.cores()}
    return scores(folder / "model", problems, folder) | {f"train_{k}": v for k, v in last.items()} | spent


def scores(model: Path, problems: int, work: Path) -> dict[str, float]:
    """Greedy and sampled accuracy on validation problems."""
    found = judge(model, work / f"greedy_{problems}", (1,), problems, greedy=True)
    drawn = judge(model, work / f"sampled_{problems}", (1, SAMPLES), problems)
    return {f"greedy_{k}": v for k, v in found.items()} | {f"sampled_{k}": v for k, v in drawn.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a finished laptop run")
    parser.add_argument("variants", nargs="*", default=list(VARIANTS), help="which (default: all)")
    parser.add_argument("--method", default="guided_rest_ppo", choices=PPO_RUNS)
    parser.add_argument("--problems", type=int, default=200, help="validation problems")
    parser.add_argument("--work", type=Path, default=Path("runs/choose_ppo"))
    chosen = parser.parse_args()
    if unknown := set(chosen.variants) - set(VARIANTS):
        sys.exit(f"variant {unknown.pop()!r}: choose from {', '.join(VARIANTS)}")
    torch.set_num_threads(sampling.cores())
    for name in chosen.variants:
        row = {"variant": name, "method": chosen.method, "problems": chosen.problems}
        if not known(OUT, **row):
            add(OUT, row | run(name, chosen.method, chosen.run, chosen.problems, chosen.work))


if __name__ == "__main__":
    main()
