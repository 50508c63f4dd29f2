"""Countdown with an exact verdict, as an environment of PrimeIntellect's `verifiers` (its layout v1).

Problems are drawn by grlib, or read from a data set with columns `nums` and `target`; the reward is 1 for an
expression in answer tags that makes the target from every number once, else 0.
"""

from collections.abc import Iterator

import verifiers.v1 as vf

from grlib.tasks.countdown import Problem, equation_prompt, grade_equation
from grlib.tasks.countdown.data import draw
from grlib.tasks.countdown.equations import read_problems
from grlib.tasks.countdown.scale import Scale

__all__ = ["CountdownTaskset"]


class CountdownData(vf.TaskData):
    nums: tuple[int, ...]
    target: int


class CountdownTask(vf.Task[CountdownData]):
    @vf.reward
    async def correct(self, trace: vf.Trace) -> float:
        """1 or 0; why, is in `trace.info["reason"]`."""
        verdict = grade_equation(trace.last_reply, Problem(self.data.nums, self.data.target))
        trace.info["reason"] = verdict.reason
        return float(verdict.correct)


class CountdownConfig(vf.TasksetConfig):
    dataset: str = ""  # a hub name, best with its commit (owner/name@commit), or a local folder; "": drawn
    split: str = "train"
    num_tasks: int = 1000
    seed: int = 0  # of drawn problems: numbers 1 to 99, the seen ones of the targets 10 to 100
    num_count: int = 4  # numbers of a drawn problem


class CountdownTaskset(vf.Taskset[CountdownTask, CountdownConfig]):
    def load(self) -> Iterator[CountdownTask]:
        config = self.config
        if config.dataset:
            problems = read_problems(config.dataset, config.split, stop=config.num_tasks)
        else:
            scale = Scale(num_count=config.num_count)
            drawn = draw(scale, f"verifiers/{config.seed}", config.num_tasks)
            problems = [problem for problem, _ in drawn]
        for problem in problems:
            data = CountdownData(prompt=equation_prompt(problem), nums=problem.nums, target=problem.target)
            yield CountdownTask(data, config.task)
