"""PPO in a window: as many steps for every method, from the newest models of self-training."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from grlib import countdown_task, results
from grlib.countdown_data import Solved, training_problems
from grlib.errors import GrlibError
from grlib.one_gpu.iterating import GREEDY, Iterating
from grlib.one_gpu.learning import NoTime
from grlib.one_gpu.travelling import write_difference
from grlib.one_gpu.window import GPU
from grlib.ppo_watch import TIMES

METHODS = ("guided_rest_ppo", "sos_ppo", "rest_ppo", "guided_rest_ppo_token", "sos_ppo_dense")
REHEARSED = 3  # steps without a GPU
# Seconds on a GPU: measuring one method, what the first one compiles, and less than what begins none
MEASURING, COMPILING, LEAST = 12, 12, 45


def refuse_other_steps(work: Iterating, methods: int, steps: int) -> None:
    """GrlibError, before any work, where `steps` are not as many as the methods had that are there, but for
    those whose start is to be trained further."""
    curve = work.rows.of("07_curve")
    if len(curve):
        done = {"sos": work.profile.iterations} | work.done
        stand = curve["method"].map(lambda method: done[results.STARTS[method]] >= work.profile.iterations)
        curve = curve[stand]
    there = _steps_so_far(curve)
    if methods and steps and there and steps != there:
        raise GrlibError(
            f"--steps {steps}: PPO of {there} steps is in {work.window.out}, and methods are compared after "
            f"as many; ask for {there} or 0, or take its rows (results/07_*) away"
        )


def reinforce(work: Iterating, methods: int, steps: int) -> None:
    """The first so many of `METHODS` that are not there yet, as the seconds allow, on problems that
    self-training has not had: as many steps as those that are there had, else `steps`, and where that is 0
    as many as the seconds allow all of them."""
    count = work.profile.train_problems
    # not those solved unaided, as in notebook 07: they are the easier ones, and taught nothing about others
    problems = training_problems(work.profile.task, count, work.seed, start=count)
    waiting = [method for method in METHODS[:methods] if not work.is_measured(method, 0)]
    compiling = COMPILING
    for number, method in enumerate(waiting):
        work.forget(method)  # of a run that was cut off
        curve = work.rows.of("07_curve")
        steps = _steps_so_far(curve) or steps or (0 if GPU else REHEARSED)
        left = work.window.left() - work.last() - MEASURING
        need = compiling + steps * _seconds_a_step(curve) if steps else LEAST * (len(waiting) - number)
        if GPU and need > left:
            work.say(f"no time for {method}: it takes {need:.0f} s and {MEASURING} s of measuring")
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


def _reinforce(work: Iterating, method: str, problems: list[Solved], seconds: float, steps: int) -> None:
    settings = replace(countdown_task.ppo_settings(work.profile, method), precision="bfloat16")
    start = results.STARTS[method]
    model, curve = work.trainer.reinforce(
        work.newest.get(start, work.sos), work.task, problems, settings, method, seconds, steps
    )
    write_difference(work.window.out / f"{method}.safetensors", work.sos, model)
    work.rows.add("07_curve", curve)
    work.window.part(f"PPO {method}")
    work.measure(method, model, 0, 1, GREEDY)
    work.measure(method, model, 0, work.profile.ppo_samples)


def _steps_so_far(curve: pd.DataFrame) -> int:
    return int(curve["step"].max()) if len(curve) else 0


def _seconds_a_step(curve: pd.DataFrame) -> float:
    """With what no column of the curve counts: weights handed over, responses made into tensors."""
    return 1.1 * float(curve[list(TIMES)].sum(axis=1).median()) if len(curve) else 0.0
