"""Sudoku of six by six cells: rows, columns and boxes of two by three hold the digits 1 to 6 once each.

A grid is a text of 36 characters, row by row, "." where a cell is empty. A problem is a pair of grids: the
clues, and the only grid that completes them.
"""

from __future__ import annotations

import hashlib
from itertools import combinations, permutations, product
from operator import itemgetter
from random import Random
from typing import NamedTuple

SIZE, CELLS, DIGITS = 6, 36, "123456"
NAMES = tuple(f"{row}{column}" for row in "abcdef" for column in DIGITS)
UNITS = [
    *([row * SIZE + column for column in range(SIZE)] for row in range(SIZE)),
    *([row * SIZE + column for row in range(SIZE)] for column in range(SIZE)),
    *([(top + i // 3) * SIZE + left + i % 3 for i in range(SIZE)] for top in (0, 2, 4) for left in (0, 3)),
]


class Problem(NamedTuple):
    """Clues and the grid that completes them."""

    clues: str
    solution: str


_PEERS = [{other for unit in UNITS if cell in unit for other in unit} - {cell} for cell in range(CELLS)]
_MATES = [itemgetter(*peers) for peers in _PEERS]
_USED = [used for count in range(SIZE + 2) for used in combinations(DIGITS + ".", count)]
_LEFT = {frozenset(used): "".join(digit for digit in DIGITS if digit not in used) for used in _USED}


def candidates(grid: str, cell: int) -> str:
    """The digits that no row, column or box mate of a cell holds, ascending."""
    return _LEFT[frozenset(_MATES[cell](grid))]


def fill(grid: str, cell: int, digit: str) -> str:
    """The grid with a digit in a cell."""
    return grid[:cell] + digit + grid[cell + 1 :]


def is_solution(grid: str, clues: str) -> bool:
    """Whether a text is a full grid that keeps the rules and the clues."""
    if len(grid) != CELLS or not set(grid) <= set(DIGITS):
        return False
    kept = all(clue in (".", digit) for clue, digit in zip(clues, grid, strict=True))
    return kept and all(len({grid[cell] for cell in unit}) == SIZE for unit in UNITS)


def solutions(grid: str, limit: int = 2, rng: Random | None = None) -> list[str]:
    """At most `limit` grids that complete a grid; with `rng` in random order."""
    if "." not in grid:
        return [grid]
    cell, options = -1, DIGITS + "."
    for other in range(CELLS):  # the first cell with the fewest candidates
        if grid[other] == "." and len(left := candidates(grid, other)) < len(options):
            cell, options = other, left
            if len(left) < 2:
                break
    found: list[str] = []
    for digit in rng.sample(options, len(options)) if rng else options:
        found += solutions(fill(grid, cell, digit), limit - len(found), rng)
        if len(found) == limit:
            break
    return found


KINDS = list(product(permutations(range(3)), repeat=2))


def kind_of(solution: str) -> int:
    """The kind of a full grid, 0 to 35: how its second row arranges the two halves of the first.

    It does not depend on which digit is called what.
    """
    left, right = solution[:3], solution[3:SIZE]
    below = (right.index(digit) for digit in solution[SIZE : SIZE + 3])
    beside = (left.index(digit) for digit in solution[SIZE + 3 : 2 * SIZE])
    return KINDS.index((tuple(below), tuple(beside)))


def held_out_kinds(count: int) -> list[int]:
    """The kinds of grids that no training problem has."""
    return Random("sudoku/kinds").sample(range(len(KINDS)), count)


def full_grid(kind: int, rng: Random) -> str:
    """A random full grid of a kind."""
    top = rng.sample(DIGITS, SIZE)
    below, beside = KINDS[kind]
    second = [top[3 + i] for i in below] + [top[i] for i in beside]
    [grid] = solutions("".join(top + second) + "." * (CELLS - 2 * SIZE), 1, rng)
    return grid


ROLES = {"test": range(100), "valid": range(100, 200), "train": range(200, 1000)}


def role_of(problem: Problem) -> str:
    """The only list that a problem may be in: its clues decide, whatever the digits are called."""
    names: dict[str, str] = {".": "."}
    for digit in problem.clues:
        names.setdefault(digit, str(len(names)))
    renamed = "".join(names[digit] for digit in problem.clues)
    bucket = int(hashlib.sha256(renamed.encode()).hexdigest(), 16) % 1000
    return next(role for role, buckets in ROLES.items() if bucket in buckets)


def draw(role: str, number: int, blanks: int, held_out: int, unseen: bool = False) -> Problem:
    """Problem `number` of the list of a role ("train", "valid", "test"): it can be made alone, by any worker.

    `unseen`: its grid is of one of the `held_out` kinds, else of another one.
    """
    rng = Random(f"sudoku/{role}/{unseen}/{number}")
    out = held_out_kinds(held_out)
    kinds = out if unseen else [kind for kind in range(len(KINDS)) if kind not in out]
    while True:
        solution = full_grid(rng.choice(kinds), rng)
        problem = Problem(_thinned(solution, blanks, rng), solution)
        if problem.clues.count(".") == blanks and role_of(problem) == role:
            return problem


def _thinned(solution: str, blanks: int, rng: Random) -> str:
    """The grid with `blanks` cells emptied, or as many as leave one solution only."""
    clues = solution
    for cell in rng.sample(range(CELLS), CELLS):
        fewer = fill(clues, cell, ".")
        others = candidates(fewer, cell).replace(solution[cell], "")
        if clues.count(".") < blanks and not any(solutions(fill(fewer, cell, digit), 1) for digit in others):
            clues = fewer
    return clues
