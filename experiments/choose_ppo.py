"""How PPO's settings are chosen: one run per variant and seed from a trained model, on validation problems.

    python experiments/choose_ppo.py RUN_FOLDER [--variants NAME ...] [--seeds 1000 1001] [--problems 200]
        [--method guided_rest_ppo] [--spent 2560] [--work FOLDER]

RUN_FOLDER holds a finished run of profile laptop up to notebook 06: its models and training problems are
taken. Every variant spends as many responses (`--spent`), in as many steps as they make. Validation problems
(seen targets, never tested) judge the last policy and the model that it started from: `gain` columns are
points per 1,000 responses. Rows go to experiments/ppo_choice.csv, and those that are there already are
skipped. One process per core may run, each with its own variants.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from choices import LAPTOP, add, judge, known, rows_with, say, training_problems, within_reach

from grlib.ppo import loop as ppo
from grlib.results.rows import STARTS
from grlib.tasks.countdown.task import PPO_RUNS, CountdownTask, ppo_settings

OUT = Path(__file__).with_name("ppo_choice.csv")
SAMPLES = 4
LAST_STEPS = 5  # of the curve: their mean is shown
BEFORE = "before"  # the model that a method starts from
ADAMW = {"optimizer": "adamw", "schedule": "constant", "actor_lr": 1e-4}
NORMED = {"optimizer": "normed_sgd", "schedule": "linear", "actor_lr": 0.2}
GROUPS = {"baseline": "group", "group": 8, "responses": 256}  # GRPO: 32 problems with 8 samples each
EVERY = "every problem"  # not only those that self-training solved unaided
VARIANTS: dict[str, dict[str, Any]] = {
    "AdamW 3e-5": ADAMW | {"actor_lr": 3e-5},
    "AdamW 1e-4": ADAMW,
    "AdamW 1e-4, every problem": ADAMW | {EVERY: True},
    "AdamW 3e-4": ADAMW | {"actor_lr": 3e-4},
    "AdamW 1e-4, 128 responses per step": ADAMW | {"responses": 128, "minibatch": 32},
    "AdamW 1e-4, 256 responses per step": ADAMW | {"responses": 256, "minibatch": 64},
    "AdamW 1e-4, mini-batches of 64": ADAMW | {"minibatch": 64},
    "AdamW 1e-4, critic knows the place": ADAMW | {"critic": "placed"},
    "steps of length 0.2": NORMED,
    "steps of length 0.2, every problem": NORMED | {EVERY: True},
    "steps of length 0.2, 256 responses per step": NORMED | {"responses": 256, "minibatch": 64},
    "GRPO, AdamW 1e-4": ADAMW | GROUPS | {"minibatch": 64},
    "GRPO, steps of length 0.2": NORMED | GROUPS | {"minibatch": 64},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a finished laptop run")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1000])
    parser.add_argument("--method", default="guided_rest_ppo", choices=PPO_RUNS)
    parser.add_argument("--problems", type=int, default=200, help="validation problems")
    parser.add_argument("--spent", type=int, default=2560, help="responses of a run")
    parser.add_argument("--work", type=Path, default=Path("runs/choose_ppo"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    start = STARTS[asked.method]
    last = "" if start == "sos" else f"iteration_{LAPTOP.self_training.iterations}"
    model = asked.run / "models" / start / last
    same = {"method": asked.method, "problems": asked.problems}
    if not known(OUT, variant=BEFORE, **same):
        add(OUT, {"variant": BEFORE, "seed": 0, **same} | scores(model, asked.problems, asked.work / start))
    before = rows_with(OUT, variant=BEFORE, **same).iloc[0]
    for seed in asked.seeds:
        for name in asked.variants:
            row = {"variant": name, "seed": seed, **same, "responses": asked.spent}
            if not known(OUT, **row):
                folder = asked.work / f"{asked.method} {name} {seed}".replace(" ", "_").replace(",", "")
                found = reinforced(name, asked.method, model, asked.run, seed, asked.spent, folder)
                found |= scores(folder / "model", asked.problems, folder)
                for kind in ("greedy", "sampled"):
                    points = found[f"{kind}_pass@1"] - before[f"{kind}_pass@1"]
                    found[f"{kind}_gain"] = 1000 * points / asked.spent
                add(OUT, row | found)


def reinforced(
    name: str, method: str, model: Path, run: Path, seed: int, spent: int, folder: Path
) -> dict[str, float]:
    """Train one variant; what its last steps looked like, and the seconds they all took."""
    changes = dict(VARIANTS[name])
    items = training_problems(run) if changes.pop(EVERY, False) else within_reach(run)
    settings = replace(ppo_settings(LAPTOP, method), **changes)
    settings = replace(settings, steps=max(1, spent // settings.responses))
    curve = ppo.train_ppo(
        CountdownTask(LAPTOP.budget), items, model, settings, seed=seed, out=folder / "model",
        work=folder / "run", progress=say,
    )  # fmt: skip
    last = curve.tail(LAST_STEPS)[["accuracy", "clipped", "entropy", "explained"]].mean()
    return {f"train_{name}": value for name, value in last.items()} | {
        "seconds": float(curve[[*ppo.TIMES]].to_numpy().sum())
    }


def scores(model: Path, problems: int, work: Path) -> dict[str, float]:
    """Greedy and sampled accuracy on validation problems."""
    found = judge(model, work / f"greedy_{problems}", (1,), problems, greedy=True)
    drawn = judge(model, work / f"sampled_{problems}", (1, SAMPLES), problems)
    return {f"greedy_{k}": v for k, v in found.items()} | {f"sampled_{k}": v for k, v in drawn.items()}


if __name__ == "__main__":
    main()
