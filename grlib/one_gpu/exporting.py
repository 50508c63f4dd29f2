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
from grlib.profiles import Profile


def export(out: Path, profile: Profile, tokens: int, base: Path, method: str) -> Path:
    """Write `out`/models/<method> from what `method` changed of `base`/sos; returns the folder."""
    rows = Stored(out / "results")
    iteration, path = _change(out, method)
    model, words = load_both(base / "sos")
    model = read_difference(path, model).to(torch.bfloat16)
    if method in results.STARTS:
        curve = rows.of("07_curve", method=method).dropna(axis=1, how="all")
        facts, made_by = _reinforced(profile, method, curve)
    else:
        curve = rows.of("tuning", method=method, iteration=iteration).dropna(axis=1, how="all")
        gathered = rows.of("06_yield", method=method, iteration=iteration)["round_solved"]
        counts = {str(number): int(n) for number, n in gathered.value_counts().sort_index().items()}
        facts, made_by = _self_trained(profile, method, iteration, counts, int(curve["steps"].iloc[-1]))
        facts["tokens_of_a_step"] = tokens
    windows = sorted((out / "manifests").glob("iterate*.json"))
    devices = sorted({str(artefacts.read_json(window)["device"]) for window in windows})
    facts |= {
        "method": method, "profile": profile.name, "base": "../sos", "parameters": model.num_parameters(),
        "device": ", ".join(devices),
    }  # fmt: skip
    folder = out / "models" / method
    save_model(model, words, folder, curve, notes(facts, _card(profile, facts, made_by)))
    return folder


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
        f"the SoS model beside it, fine-tuned in iteration {iteration} on the traces of {kept:,} of "
        f"{problems:,} training problems that the model of the iteration before solved {how}: {steps} "
        f"optimiser steps at a rate of {training.lr:g}"
    )


def _reinforced(profile: Profile, method: str, curve: Any) -> tuple[dict[str, Any], str]:
    settings = countdown_task.ppo_settings(profile, method)
    facts: dict[str, Any] = {
        "start": results.STARTS[method], "steps": len(curve), "rollouts_of_a_step": settings.problems,
        "actor_lr": settings.actor_lr, "action": settings.action, "reward": settings.reward,
    }  # fmt: skip
    return facts, (
        f"the newest `{facts['start']}` model after {facts['steps']} steps of PPO on {settings.problems:,} "
        f"responses each, an action being a{'n' if settings.action[0] in 'aeiou' else ''} {settings.action}, "
        f"at a rate of {settings.actor_lr:g}"
    )


def _card(profile: Profile, facts: dict[str, Any], made_by: str) -> str:
    task = profile.task
    return f"""---
license: apache-2.0
library_name: transformers
---
# Countdown model `{facts["method"]}`, {task.num_count} numbers of 1..{task.max_number}

A Llama of {facts["parameters"]:,} parameters, stored in bfloat16: {made_by}.

- **Made by** `python -m grlib gpu iterate` on one {facts["device"]}. Numbers are in `manifest.json`, the
  learning curve in `curve.csv`. It came back as its change since the SoS model in eight bits
  (`grlib/one_gpu/travelling.py`) and was written by `python -m grlib gpu export`.
- **What it can**: `paper_results/measured/gpu`.
- **Held out**: the test problems of the repository, and every problem with an unseen target.
"""
