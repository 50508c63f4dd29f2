"""Stage export: a model of a window as a folder of transformers, in bfloat16, with card, facts and curve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from grlib import artefacts, countdown_task, results
from grlib.errors import GrlibError
from grlib.imitation import notes
from grlib.model import load_both, save_model
from grlib.one_gpu.stored import Stored
from grlib.one_gpu.travelling import read_difference
from grlib.one_gpu.window import manifests_of
from grlib.profiles import Profile


def export(out: Path, profile: Profile, tokens: int, base: Path, method: str) -> Path:
    """Write `out`/models/<method> from what `method` changed of `base`/sos; returns the folder."""
    rows = Stored(out / "results")
    iteration, path = _change(out, method)
    model, words = load_both(base / "sos")
    model = read_difference(path, model).to(torch.bfloat16)
    stem, wanted = ("07_curve", {}) if method in results.STARTS else ("tuning", {"iteration": iteration})
    curve = rows.of(stem, method=method, **wanted).dropna(axis=1, how="all")
    if curve.empty:
        raise GrlibError(
            f"{out / 'results' / stem}.parquet: no rows of {method!r}; `gpu iterate` writes them"
        )
    if method in results.STARTS:
        facts, made_by = _reinforced(profile, method, len(curve))
        facts["start_iteration"] = _change(out, facts["start"])[0] if facts["start"] != "sos" else 0
    else:
        gathered = rows.of("06_yield", method=method, iteration=iteration)["round_solved"]
        counts = {str(number): int(n) for number, n in gathered.value_counts().sort_index().items()}
        facts, made_by = _self_trained(profile, method, iteration, counts, int(curve["steps"].iloc[-1]))
        facts["tokens_of_a_step"] = tokens
    facts |= {
        "method": method, "profile": profile.name, "base": artefacts.digest(base / "sos"),
        "parameters": model.num_parameters(), "device": _device(out, method), "greedy": _greedy(rows, method),
    }  # fmt: skip
    folder = out / "models" / method
    save_model(model, words, folder, curve, notes(facts, _card(profile, facts, made_by)))
    return folder


def _device(out: Path, method: str) -> str:
    """The card of the newest window that trained the method."""
    windows = [artefacts.read_json(path) for path in manifests_of(out / "manifests", "iterate")]
    trained = [
        window["device"]
        for window in windows
        if any(part.split()[0] in ("PPO", "training") and method in part for part, _ in window["parts"])
    ]
    return str(trained[-1]) if trained else "unknown"


def _greedy(rows: Stored, method: str) -> dict[str, float]:
    """Accuracy of the greedy trace on each split of test problems, in percent."""
    found = rows.of("07_greedy" if method in results.STARTS else "06_greedy", method=method)
    newest = found[found["iteration"] == found["iteration"].max()] if len(found) else found
    return {
        str(split): round(100 * part["correct"].mean(), 2)
        for split, part in newest.groupby("split")
    } if len(newest) else {}  # fmt: skip


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
    training = countdown_task.loop_settings(profile, method).training
    problems = sum(counts.values())
    kept = problems - counts.get("-1", 0)
    facts: dict[str, Any] = {
        "iteration": iteration, "problems": problems, "kept": kept, "solved_in_round": counts,
        "optimiser_steps": steps, "lr": training.lr, "epochs": training.epochs,
    }  # fmt: skip
    how = "alone or after guided rewriting" if method == "guided_rest" else "alone"
    return facts, (
        f"a SoS model, fine-tuned in iteration {iteration} on the traces of {kept:,} of "
        f"{problems:,} training problems that the model of the iteration before solved {how}: {steps} "
        f"optimiser steps at a rate of {training.lr:g}"
    )


def _reinforced(profile: Profile, method: str, steps: int) -> tuple[dict[str, Any], str]:
    settings = countdown_task.ppo_settings(profile, method)
    facts: dict[str, Any] = {
        "start": results.STARTS[method], "steps": steps, "rollouts_of_a_step": settings.problems,
        "actor_lr": settings.actor_lr, "action": settings.action, "reward": settings.reward,
    }  # fmt: skip
    action = {"operation": "a line of the trace", "token": "a token"}[settings.action]
    return facts, (
        f"`{facts['start']}` after {steps} steps of PPO on {settings.problems:,} responses each, an action "
        f"being {action}, at a rate of {settings.actor_lr:g}"
    )


def _card(profile: Profile, facts: dict[str, Any], made_by: str) -> str:
    task = profile.task
    measured = ", ".join(f"{accuracy} % ({split} targets)" for split, accuracy in facts["greedy"].items())
    return f"""---
license: apache-2.0
library_name: transformers
---
# Countdown model `{facts["method"]}`, {task.num_count} numbers of 1..{task.max_number}

A Llama of {facts["parameters"]:,} parameters, stored in bfloat16: {made_by}.

- **Made by** `python -m grlib gpu iterate` on one {facts["device"]}. Numbers are in `manifest.json`, the
  learning curve in `curve.csv`. It is kept as its change since the SoS model in eight bits
  (`grlib/one_gpu/travelling.py`) and was written by `python -m grlib gpu export`.
- **Greedy traces right**, of {profile.test_problems} test problems a split: {measured or "not measured"}.
- **Held out**: the test problems of the repository, and every problem with an unseen target.
"""
