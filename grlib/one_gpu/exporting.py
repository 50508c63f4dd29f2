"""Stage export: a model of a window as a folder of transformers, in bfloat16, with card, facts and curve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import torch

from grlib.errors import GrlibError
from grlib.models.llama import load_both, save_model
from grlib.one_gpu.iterating import MATCHED
from grlib.one_gpu.stored import Stored
from grlib.one_gpu.travelling import read_difference
from grlib.profiles import Profile
from grlib.results import rows as results
from grlib.runs import files as artefacts
from grlib.runs.files import manifests_of
from grlib.tasks.countdown import task as countdown_task
from grlib.training.base import notes


def export(out: Path, profile: Profile, tokens: int, base: Path, method: str) -> Path:
    """Write `out`/models/<method> from what `method` changed of `base`/sos; returns the folder."""
    rows = Stored(out / "results")
    iteration, path = _change(out, method)
    model, words = load_both(base / "sos")
    model = read_difference(path, model).to(torch.bfloat16)
    stem, wanted = ("07_curve", {}) if method in results.STARTS else ("tuning", {"iteration": iteration})
    stage, device = _made(out, method)
    curve = rows.of(stem, method=method, **wanted).dropna(axis=1, how="all")
    if curve.empty:
        raise GrlibError(
            f"{out / 'results' / stem}.parquet: no rows of {method!r}; `gpu iterate` writes them"
        )
    if method in results.STARTS:
        facts, made_by = _reinforced(profile, method, len(curve))
        facts["start_iteration"] = _start_iteration(out, base, facts["start"])
    else:
        gathered = rows.of("06_yield", method=_taught(method), iteration=iteration)["round_solved"]
        counts = {str(number): int(n) for number, n in gathered.value_counts().sort_index().items()}
        facts, made_by = _self_trained(profile, method, iteration, counts, int(curve["steps"].iloc[-1]))
        facts["tokens_of_a_step"] = tokens
    tested = _greedy(rows, method)
    facts |= {
        "method": method, "profile": profile.name, "base": artefacts.digest(base / "sos"),
        "parameters": model.num_parameters(), "device": device, "greedy": _accuracies(tested),
    }  # fmt: skip
    folder = out / "models" / method
    save_model(model, words, folder, curve, notes(facts, _card(profile, facts, made_by, stage, tested)))
    return folder


def _taught(method: str) -> str:
    """The method whose training set a self-trained one has learnt."""
    return "rest" if method == MATCHED else method


def _made(out: Path, method: str) -> tuple[str, str]:
    """Stage and card of the newest window that trained the method."""
    trained = [
        (stage, str(window["device"]))
        for stage in ("iterate", "reinforce")
        for window in map(artefacts.read_json, manifests_of(out / "manifests", stage))
        if any(_trains(part, method) for part, _ in window["parts"])
    ]
    return trained[-1] if trained else ("iterate", "unknown")


def _trains(part: str, method: str) -> bool:
    """Whether a part of a window trained the method: `training <method> <iteration>` or `PPO <method>`."""
    return part.split()[:2] in (["training", method], ["PPO", method])


def _start_iteration(out: Path, base: Path, start: str) -> int:
    """The iteration of the model that PPO started from: of this folder, else of the model in `base`."""
    if start == "sos":
        return 0
    stored = base / start / "manifest.json"
    if stored.is_file() and not list(out.glob(f"{start}_[0-9]*.safetensors")):
        return int(artefacts.read_json(stored).get("iteration", 0))
    return _change(out, start)[0]


def _greedy(rows: Stored, method: str) -> pd.DataFrame:
    """The rows of the newest model's greedy traces."""
    found = rows.of("07_greedy" if method in results.STARTS else "06_greedy", method=method)
    return found[found["iteration"] == found["iteration"].max()] if len(found) else found


def _accuracies(tested: pd.DataFrame) -> dict[str, float]:
    """Accuracy of greedy traces on each split of test problems, in percent."""
    return {
        str(split): round(100 * part["correct"].mean(), 2)
        for split, part in tested.groupby("split")
    } if len(tested) else {}  # fmt: skip


def _change(out: Path, method: str) -> tuple[int, Path]:
    """The file of a method's change, and of which iteration it is (0: PPO's)."""
    found = sorted(out.glob(f"{method}_[0-9]*.safetensors"), key=lambda path: int(path.stem.split("_")[-1]))
    if method in results.STARTS and (out / f"{method}.safetensors").is_file():
        return 0, out / f"{method}.safetensors"
    if not found or method in results.STARTS:
        raise GrlibError(
            f"{out}: no model of {method!r} there; first `python -m grlib gpu iterate`, or name one of those "
            "in it by --method"
        )
    return int(found[-1].stem.split("_")[-1]), found[-1]


def _self_trained(
    profile: Profile, method: str, iteration: int, counts: dict[str, int], steps: int
) -> tuple[dict[str, Any], str]:
    training = countdown_task.loop_settings(profile, _taught(method)).training
    problems = sum(counts.values())
    kept = problems - counts.get("-1", 0)
    facts: dict[str, Any] = {
        "iteration": iteration, "problems": problems, "kept": kept, "solved_in_round": counts,
        "optimiser_steps": steps, "lr": training.lr, "epochs": training.epochs,
    }  # fmt: skip
    how = "alone or after guided rewriting" if method == "guided_rest" else "alone"
    how += ", repeated for as many steps as Guided-ReST had" if method == MATCHED else ""
    return facts, (
        f"a SoS model, fine-tuned in iteration {iteration} on the traces of {kept:,} of "
        f"{problems:,} training problems that the model of the iteration before solved {how}: {steps} "
        f"optimiser steps at a rate of {training.lr:g}"
    )


def _reinforced(profile: Profile, method: str, steps: int) -> tuple[dict[str, Any], str]:
    settings = countdown_task.ppo_settings(profile, method)
    facts: dict[str, Any] = {
        "start": results.STARTS[method], "steps": steps,
        "rollouts_of_a_step": settings.problems * settings.group,
        "actor_lr": settings.actor_lr, "action": settings.action, "reward": settings.reward,
    }  # fmt: skip
    action = {"operation": "a line of the trace", "token": "a token"}[settings.action]
    return facts, (
        f"`{facts['start']}` after {steps} steps of PPO on {facts['rollouts_of_a_step']:,} responses each, "
        f"an action being {action}, at a rate of {settings.actor_lr:g}"
    )


def _card(profile: Profile, facts: dict[str, Any], made_by: str, stage: str, tested: pd.DataFrame) -> str:
    task, problems = profile.task, tested["index"].nunique() if len(tested) else 0
    measured = ", ".join(f"{accuracy} % ({split} targets)" for split, accuracy in facts["greedy"].items())
    return f"""---
license: apache-2.0
library_name: transformers
---
# Countdown model `{facts["method"]}`, {task.num_count} numbers of 1..{task.max_number}

A Llama of {facts["parameters"]:,} parameters, stored in bfloat16: {made_by}.

- **Made by** `python -m grlib gpu {stage}` on one {facts["device"]}. Numbers are in `manifest.json`, the
  learning curve in `curve.csv`. It is kept as its change since the SoS model in eight bits
  (`grlib/one_gpu/travelling.py`) and was written by `python -m grlib gpu export`.
- **Greedy traces right**, of {problems} test problems a split: {measured or "not measured"}.
- **Held out**: the test problems of the repository, and every problem with an unseen target.
"""
