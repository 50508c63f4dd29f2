"""Countdown as a task of self-training, PPO and evaluation: attempts, guidance, rewards, settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd

from grlib import selftrain
from grlib.errors import GrlibError
from grlib.models.tokenizer import load_tokenizer
from grlib.profiles import PPO, Profile
from grlib.selftrain import Attempt
from grlib.tasks.countdown.data import Solved
from grlib.tasks.countdown.guidance import progress, rewrite_steps
from grlib.tasks.countdown.searchers import straight_path
from grlib.tasks.countdown.traces import grade
from grlib.tasks.countdown.vocabulary import prompt_text
from grlib.tasks.trace_task import TraceTask


@dataclass(frozen=True)
class CountdownTask(TraceTask):
    """Items are (problem, optimal solution)."""

    choose: str = "random"  # which explored child a rewrite replaces (node selection)
    guided: bool = True  # False: a failed problem is attempted again from the start (the control of guidance)
    writes_goal: bool = True  # False: a trace that lacks only the last step is given up (control of case b)

    def prompt(self, item: Solved) -> str:
        """The question in the tokenizer's chat template."""
        return prompt_text(item[0], self.tokenizer)

    def verdict(self, item: Solved, trace: str) -> tuple[bool, str]:
        """The grader's judgement."""
        found = grade(trace, item[0])
        return found.correct, found.reason

    def subgoal_lines(self, item: Solved, trace: str) -> list[int]:
        """Indices of the state lines that first visit a node of the optimal solution short of the goal."""
        problem, solution = item
        found: list[int] = []
        end = 0
        for number, line in enumerate(trace.split("\n")[:-1]):  # not splitlines: only a newline ends a line
            end += len(line) + 1
            if line.startswith("Current State") and len(found) < len(solution) - 1:
                reached = min(progress(trace[:end], problem, solution), len(solution) - 1)
                found += [number] * (reached - len(found))
        return found

    def guide(self, item: Solved, attempt: Attempt, number: int, rng: Random) -> str | None:
        """The failed trace rewritten to visit the next node of the optimal solution (Algorithm 1)."""
        if not self.guided:
            return ""
        problem, solution = item
        found = rewrite_steps(attempt.response, problem, solution, choose=self.choose, rng=rng)
        return whole_lines(found.text) if self.writes_goal or found.case != "b" else None


def whole_lines(prefix: str) -> str:
    """The prefix, ended by a newline, which the authors' program leaves out after an inserted goal line: the
    model would continue in the middle of a line, which it never saw in training."""
    return prefix if prefix.endswith("\n") else prefix + "\n"


def evaluate_splits(
    method: str, model: Path, profile: Profile, splits: Mapping[str, Sequence[Solved]], **how: Any
) -> pd.DataFrame:
    """`selftrain.evaluate_splits` for traces of this profile's budget.

    Problems beyond the first `test_problems` of a split are for greedy decoding alone.
    """
    if how.get("temperature") != 0:
        splits = {split: items[: profile.test_problems] for split, items in splits.items()}
    return selftrain.evaluate_splits(task_for(profile, model), method, model, profile, splits, **how)


def task_for(profile: Profile, model: Path | str, **changes: Any) -> CountdownTask:
    """The task for the model in a folder; a pretrained model is prompted by its own chat template."""
    tokenizer = load_tokenizer(model) if profile.model.pretrained else None
    return CountdownTask(profile.budget, tokenizer=tokenizer, **changes)


# How the run of each reinforced method differs (the paper's Figures 3 to 6; GRPO: its poster).
PPO_RUNS: dict[str, dict[str, Any]] = {
    "sos_ppo": {},
    "rest_ppo": {},
    "guided_rest_ppo": {},
    "guided_rest_ppo_token": {"action": "token"},
    "sos_ppo_dense": {"reward": "dense"},
    "guided_rest_grpo": {"baseline": "group"},
}


def solved_unaided(items: Sequence[Solved], yields: pd.DataFrame) -> list[Solved]:
    """The training problems that a self-trained model solved at least once without guidance (`yields` of
    notebook 06), where a reward can be expected; all problems if there are none."""
    solved = yields.loc[yields["round_solved"] == 0, "index"]
    return [items[i] for i in sorted(set(solved)) if i < len(items)] or list(items)


def ppo_settings(profile: Profile, method: str) -> PPO:
    """The PPO settings of one method at this scale; all sample equally many responses."""
    if method not in PPO_RUNS:
        raise GrlibError(f"method {method!r} is not trained by PPO; choose one of {', '.join(PPO_RUNS)}")
    return replace(profile.ppo, **PPO_RUNS[method])


def hint(item: Solved, steps: int) -> str | None:
    """The first `steps` operations of the optimal solution as a trace to continue; None for 0 steps."""
    return straight_path(*item, steps=steps) if steps else None
