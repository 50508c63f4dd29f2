"""Countdown: combine all numbers with + - * / to reach a target.

Read in this order: `puzzle`, `searchers`, `traces`, `guidance` (Algorithm 1), `task`. What is named here
needs neither torch nor numpy.
"""

from grlib.tasks.countdown.guidance import rewrite
from grlib.tasks.countdown.puzzle import Problem, all_solutions, solve
from grlib.tasks.countdown.searchers import breadth_first, depth_first, straight_path
from grlib.tasks.countdown.traces import grade, parse

__all__ = [
    "Problem",
    "all_solutions",
    "breadth_first",
    "depth_first",
    "grade",
    "parse",
    "rewrite",
    "solve",
    "straight_path",
]
