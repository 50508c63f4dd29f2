"""Countdown: combine all numbers with + - * / to reach a target.

Read in this order: `puzzle` (rules and plain solver), `searchers`, `traces`, `guidance` (Algorithm 1), `data`
and `task`; `fast` is the quick solver, and `equations` poses the puzzle as other people's trainers do. What
is named here needs neither torch nor numpy.
"""

from grlib.tasks.countdown.equations import equation_prompt, grade_equation
from grlib.tasks.countdown.fast import all_solutions, solve
from grlib.tasks.countdown.guidance import rewrite
from grlib.tasks.countdown.puzzle import Problem, apply_operation, moves, pair_results, problem_key
from grlib.tasks.countdown.searchers import breadth_first, depth_first, straight_path
from grlib.tasks.countdown.traces import grade, parse

__all__ = [
    "Problem",
    "all_solutions",
    "apply_operation",
    "breadth_first",
    "depth_first",
    "equation_prompt",
    "grade",
    "grade_equation",
    "moves",
    "pair_results",
    "parse",
    "problem_key",
    "rewrite",
    "solve",
    "straight_path",
]
