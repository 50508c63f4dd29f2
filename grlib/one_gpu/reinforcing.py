"""PPO in a window: as many steps for every method, from the newest models of self-training, or (stage
reinforce) from models that are there already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from grlib.errors import GrlibError
from grlib.models.llama import load_both
from grlib.one_gpu.estimating import opened, seconds_a_step
from grlib.one_gpu.learning import NoTime, refuse_other_shape
from grlib.one_gpu.travelling import write_difference
from grlib.one_gpu.window import GPU
from grlib.one_gpu.work import GREEDY, RECORDED_TESTS, Work, refuse_other
from grlib.profiles import Profile
from grlib.results import rows as results
from grlib.runs import files as artefacts
from grlib.tasks.countdown import task as countdown_task
from grlib.tasks.countdown.data import Solved, training_problems

OFTEN = 3  # times that a problem may come
REHEARSED = 3  # steps without a GPU
# Seconds on a GPU: measuring one method on as many problems as in the record, what the first one compiles,
# and less than what begins none
MEASURING, COMPILING, LEAST = 12, 12, 45


def reinforce_models(
    out: Path,
    profile: Profile,
    tokens: int,
    seconds: float,
    base: Path,
    seed: int,
    methods: Sequence[str],
    steps: int,
) -> None:
    """Stage reinforce: PPO of `methods` from the models in the folders of `base`, and what these and their
    starts solve."""
    starts = dict.fromkeys(results.STARTS[method] for method in methods)
    if missing := [start for start in starts if not (base / start / "config.json").is_file()]:
        raise GrlibError(
            f"{base / missing[0]}: no model there, from which PPO was to start; take other --methods, or "
            "make it (`gpu iterate`, then `gpu export`)"
        )
    notes = {start: _notes(base / start) for start in starts}
    had = max(
        [profile.self_training.train_problems, *(int(note.get("problems", 0)) for note in notes.values())]
    )
    profile = replace(profile, train_problems=had)  # PPO takes those behind the ones that a start has had
    window = opened(
        "reinforce", out, profile, seed, seconds=seconds, base=base, tokens=tokens, methods=methods,
        steps=steps,
    )  # fmt: skip
    work = Work(window, base, tokens)
    refuse_other_steps(work, methods, steps)
    for start, note in notes.items():
        if start in work.newest:  # the base itself
            continue
        refuse_other_shape((model := load_both(base / start)[0]), profile, base / start)
        refuse_other(out, {f"start {start}": artefacts.digest(base / start)})
        work.newest[start] = model
        work.done[start] = int(note.get("iteration", profile.self_training.iterations))
    window.part("loading")
    for start in starts:
        work.measure(start, work.newest[start], work.iteration_of(start), 1, GREEDY)
        work.measure(start, work.newest[start], work.iteration_of(start), profile.ppo_samples)
    reinforce(work, methods, steps)


def _notes(folder: Path) -> dict[str, Any]:
    """What the manifest of a model says, where it has one: its iteration and its training problems."""
    path = folder / "manifest.json"
    return artefacts.read_json(path) if path.is_file() else {}


def refuse_other_steps(work: Work, methods: Sequence[str], steps: int) -> None:
    """GrlibError, before any work, where `steps` are not as many as the methods had that are there, but for
    those whose start is to be trained further."""
    curve = work.rows.of("07_curve")
    if len(curve):
        last = work.profile.self_training.iterations
        stand = curve["method"].map(lambda method: work.done.get(results.STARTS[method], last) >= last)
        curve = curve[stand]
    there = _steps_so_far(curve)
    if methods and steps and there and steps != there:
        raise GrlibError(
            f"--steps {steps}: PPO of {there} steps is in {work.window.out}, and methods are compared after "
            f"as many; ask for {there} or 0, or take its rows (results/07_*) away"
        )


def reinforce(work: Work, methods: Sequence[str], steps: int) -> None:
    """Those of `methods` that are not there yet, as the seconds allow, on problems that self-training has
    not had: as many steps as those that are there had, else `steps`, and where that is 0 as many as the
    seconds allow all of them."""
    steps = _steps_so_far(work.rows.of("07_curve")) or steps
    had = work.profile.self_training.train_problems
    count = max(had, -(-steps * work.profile.ppo.responses // OFTEN))
    # not those solved unaided, as in notebook 07: they are the easier ones, and taught nothing about others
    problems = training_problems(work.profile.task, count, work.seed, start=had)
    waiting = [method for method in methods if not work.is_measured(method, 0)]
    compiling, measuring = COMPILING, MEASURING * work.profile.test_problems / RECORDED_TESTS
    for number, method in enumerate(waiting):
        work.forget(method)  # of a run that was cut off
        curve = work.rows.of("07_curve")
        steps = _steps_so_far(curve) or steps or (0 if GPU else REHEARSED)
        left = work.window.left() - work.last() - measuring
        need = compiling + steps * seconds_a_step(curve) if steps else LEAST * (len(waiting) - number)
        if GPU and need > left:
            work.say(f"no time for {method}: it takes {need:.0f} s and {measuring:.0f} s of measuring")
            break
        seconds = left if steps else left / (len(waiting) - number)
        try:
            _reinforce(work, method, problems, seconds, steps)
        except NoTime as late:
            work.say(f"no time for {method}: {late}")
            break
        compiling = 0
    work.window.profile = replace(work.window.profile, ppo_steps=_steps_so_far(work.rows.of("07_curve")))
    work.window.write_manifest()


def _reinforce(work: Work, method: str, problems: list[Solved], seconds: float, steps: int) -> None:
    settings = replace(countdown_task.ppo_settings(work.profile, method), precision="bfloat16")
    start = results.STARTS[method]
    model, curve = work.trainer.reinforce(
        work.newest[start], work.task, problems, settings, method, seconds, steps
    )
    write_difference(work.window.out / f"{method}.safetensors", work.sos, model)
    work.rows.add("07_curve", curve)
    work.window.part(f"PPO {method}")
    work.measure(method, model, 0, 1, GREEDY)
    work.measure(method, model, 0, work.profile.ppo_samples)


def _steps_so_far(curve: pd.DataFrame) -> int:
    return int(curve["step"].max()) if len(curve) else 0
