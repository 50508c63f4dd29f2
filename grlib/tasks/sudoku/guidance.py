"""Guided rewriting of Sudoku traces: put the right digit where the search first left the solution.

Countdown's guidance leads along one path: each subgoal is the next node of the optimal solution. Here the
solution is a grid, and it guides from anywhere: a grid is on the way when every digit in it is right, in
whatever order the trace filled its cells. The cell that the trace chose is kept, its digit is replaced, and
all that followed is cut.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from grlib.tasks.sudoku.puzzle import CELLS, NAMES, Problem
from grlib.tasks.sudoku.traces import right_line, solved_line, states

CASES = {
    "digit": "a wrong digit was tried: try the right one",
    "none": "a cell was given up that can hold the right digit: try it",
    "other": "the trace is cut or unreadable there: fill the next cell",
    "goal": "the grid is full and right: write the answer",
}


class Rewrite(NamedTuple):
    """A rewritten trace and how it came about."""

    text: str
    case: str  # a key of CASES
    right: int  # cells that the old trace had filled rightly where it left the solution
    cell: str  # name of the cell that the new line fills ("" in case goal)


def deepest(trace: str, problem: Problem) -> tuple[int, str]:
    """The fullest grid of a trace that holds right digits only, and the offset where it is first reached."""
    best = (0, problem.clues)
    for end, grid in states(trace, problem.clues):
        if grid.count(".") < best[1].count(".") and _is_right(grid, problem):
            best = (end, grid)
    return best


def _is_right(grid: str, problem: Problem) -> bool:
    cells = zip(grid, *problem, strict=True)
    return all(digit == right or digit == clue == "." for digit, clue, right in cells)


def rewrite(trace: str, problem: Problem) -> Rewrite:
    """The trace, cut where it left the solution, with the right line in the place of the wrong one.

    A model can continue it. Any text is accepted, cut anywhere.
    """
    end, grid = deepest(trace, problem)
    right = problem.clues.count(".") - grid.count(".")
    if "." not in grid:
        return Rewrite(trace[:end] + solved_line(grid), "goal", right, "")
    tried = re.compile(r"([a-f][1-6]) ([1-6]+=|none)").match(trace, end)
    cell = NAMES.index(tried[1]) if tried else CELLS
    if cell == CELLS or grid[cell] != ".":
        cell, case = grid.index("."), "other"
    else:
        case = "none" if tried and tried[2] == "none" else "digit"
    line = right_line(grid, cell, problem.solution[cell])
    return Rewrite(trace[:end] + line, case, right, NAMES[cell])
