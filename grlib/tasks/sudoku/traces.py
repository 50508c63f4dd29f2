"""The trace language of Sudoku, searchers that write it, and the grader that reads it.

Depth-first search fills cells in a fixed order and takes back what leads nowhere, a line for each step:

    b4 25=2          cell b4 (row b, column 4) can hold 2 or 5; try 2
    c1 none          cell c1 can hold nothing
    back b4 1.34...  the grid as it was before b4 was filled
    b4 5=5           what is left to try
    solved 1234...   the full grid; the first such line is the answer
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from grlib.errors import GrlibError
from grlib.tasks.sudoku.puzzle import CELLS, NAMES, UNITS, candidates, fill, is_solution

ORDERS = {  # in which order a searcher fills cells
    "rows": [cell for unit in UNITS[:6] for cell in unit],
    "columns": [cell for unit in UNITS[6:12] for cell in unit],
    "boxes": [cell for unit in UNITS[12:] for cell in unit],
}
PIECES = (*(f"{name} " for name in NAMES), *"123456.=", "none\n", "back ", "solved ", "\n")


def try_line(cell: int, options: str, digit: str) -> str:
    """A cell, the digits that it can hold, and the one that is tried."""
    return f"{NAMES[cell]} {options}={digit}\n"


def right_line(grid: str, cell: int, digit: str) -> str:
    """`digit` in a cell of a grid, written as a searcher does that has tried the smaller ones."""
    left = candidates(grid, cell)
    return try_line(cell, left[left.index(digit) :], digit)


def back_line(cell: int, grid: str) -> str:
    """Return to the grid before a cell was filled."""
    return f"back {NAMES[cell]} {grid}\n"


def solved_line(grid: str) -> str:
    """The answer."""
    return f"solved {grid}\n"


def depth_first(clues: str, order: str = "rows", limit: int = 10_000) -> str:
    """The trace of a search that fills the cells in an order of `ORDERS`, at most `limit` lines."""
    if order not in ORDERS:
        raise GrlibError(f"order is {order!r}; choose one of {', '.join(ORDERS)}")
    cells = [cell for cell in ORDERS[order] if clues[cell] == "."]
    lines: list[str] = []
    grid, path = clues, list[tuple[str, str]]()  # of each filled cell: the grid before it, digits not tried
    while len(path) < len(cells) and len(lines) < limit:
        cell = cells[len(path)]
        left = candidates(grid, cell)
        if not left:
            lines.append(f"{NAMES[cell]} none\n")
            while path and not path[-1][1]:
                path.pop()
            if not path:
                break
            grid, left = path.pop()
            cell = cells[len(path)]
            lines.append(back_line(cell, grid))
        lines.append(try_line(cell, left, left[0]))
        path.append((grid, left[1:]))
        grid = fill(grid, cell, left[0])
    return "".join(lines) + (solved_line(grid) if "." not in grid else "")


def straight_path(clues: str, solution: str, steps: int = CELLS) -> str:
    """The first `steps` lines of a trace that fills the cells row by row and never errs, and its answer."""
    grid, lines = clues, []
    for cell in [cell for cell in range(CELLS) if clues[cell] == "."][:steps]:
        lines.append(right_line(grid, cell, solution[cell]))
        grid = fill(grid, cell, solution[cell])
    return "".join(lines) + (solved_line(grid) if "." not in grid else "")


_TRY = re.compile(r"([a-f][1-6]) ([1-6]+)=([1-6])\n")
_BACK = re.compile(r"back [a-f][1-6] ([1-6.]{36})\n")


def states(trace: str, clues: str) -> Iterator[tuple[int, str]]:
    """The grids that a trace goes through up to its answer: (offset after the line, grid), the clues first.

    Lines that are in no form of the language change nothing. Time is linear in the text.
    """
    grid = clues
    yield 0, grid
    for line in re.finditer(r"[^\n]*\n", trace):
        if line[0].startswith("solved "):
            return
        if found := _TRY.fullmatch(line[0]):
            grid = fill(grid, NAMES.index(found[1]), found[3])
        elif found := _BACK.fullmatch(line[0]):
            grid = found[1]
        yield line.end(), grid


_SOLVED = re.compile(r"^solved ([^\n]*)", re.MULTILINE)
REASONS = ("correct", "no goal line", "wrong goal line")


def grade(trace: str, clues: str) -> tuple[bool, str]:
    """Whether the first answer in a trace solves the problem, and one of `REASONS`. Any text is accepted."""
    found = _SOLVED.search(trace)
    if found is None:
        return False, "no goal line"
    return (True, "correct") if is_solution(found[1], clues) else (False, "wrong goal line")
