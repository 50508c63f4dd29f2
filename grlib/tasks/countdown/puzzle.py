"""The Countdown puzzle: problems, moves, and the plain solver.

A problem asks to combine all of its numbers, once each, with + - * / to hit a target. Intermediate results
are non-negative integers; the larger operand comes first in - and /, and a division must be exact (the
paper's and Stream of Search's rules). `solve` and `all_solutions` here are the plain versions, made for
reading; `fast` has the ones that the package uses, with the same answers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from math import log10

from grlib.errors import GrlibError

DIGITS = 18  # the longest number of the trace language
LIMIT = 10**DIGITS
# A number without leading zeros. A possessive repeat (`{..}+`, `*+`) never gives characters back: any text
# that does not match is refused in one pass.
NUMBER = rf"(?!0[0-9])[0-9]{{1,{DIGITS}}}+"
OPERATION = re.compile(rf"({NUMBER})([-+*/])({NUMBER})=({NUMBER})")
Move = tuple[str, tuple[int, ...]]  # an operation such as '14+15=29' and the numbers it leaves


@dataclass(frozen=True, slots=True)
class Problem:
    """Numbers (one or more, positive, their order kept) and the target, each of at most 18 digits."""

    nums: tuple[int, ...]
    target: int

    def __post_init__(self) -> None:
        if isinstance(self.nums, str) or not isinstance(self.nums, Iterable):
            raise GrlibError(f"nums is {self.nums!r}: it must be a sequence of positive integers")
        object.__setattr__(self, "nums", tuple(self.nums))
        if not self.nums:
            raise GrlibError("nums is empty: a problem needs at least one number")
        for number in self.nums:
            if type(number) is not int or number < 1:
                raise GrlibError(f"nums holds {number!r}: every number must be a positive integer")
        if type(self.target) is not int or self.target < 0:
            raise GrlibError(f"target is {self.target!r}: it must be a non-negative integer")
        if max(self.nums) >= LIMIT or self.target >= LIMIT:
            digits = int(log10(max(*self.nums, self.target))) + 1
            raise GrlibError(f"a number has {digits} digits: {DIGITS} is the most; use smaller numbers")


def problem_key(problem: Problem) -> tuple[int, ...]:
    """What makes two problems the same: the target and the numbers in any order (for leakage checks)."""
    return (problem.target, *sorted(problem.nums))


# --- moves --------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1 << 15)
def pair_results(a: int, b: int) -> tuple[tuple[str, int, int, int], ...]:
    """The moves on a pair in list order, (sign, left, right, result): sum, product, difference, quotient."""
    low, high = (a, b) if a <= b else (b, a)
    moves: tuple[tuple[str, int, int, int], ...]
    moves = (("+", a, b, a + b), ("*", a, b, a * b), ("-", high, low, high - low))
    if low and high % low == 0:
        moves += (("/", high, low, high // low),)
    return moves


def moves(nums: Sequence[int]) -> Iterator[Move]:
    """All moves from a state, in the order of the reference generator: pairs i < j, then + * - /."""
    for i, j in combinations(range(len(nums)), 2):
        rest = (*nums[:i], *nums[i + 1 : j], *nums[j + 1 :])
        for sign, left, right, result in pair_results(nums[i], nums[j]):
            yield f"{left}{sign}{right}={result}", (*rest, result)


def holds(a: int, sign: str, b: int, c: int) -> bool:
    """Is `a sign b = c` a legal move? The larger operand comes first in - and /, and a division is exact."""
    if sign == "+":
        return a + b == c
    if sign == "*":
        return a * b == c
    if sign == "-":
        return b + c == a
    return bool(b and c) and b * c == a


def carry_out(nums: list[int], parts: Sequence[str]) -> str:
    """Carry out an operation on a list of numbers, in place: '', or the reason why it is illegal.

    `parts` are the groups of OPERATION: left operand, sign, right operand, result.
    """
    a, sign, b, c = int(parts[0]), parts[1], int(parts[2]), int(parts[3])
    try:
        nums.remove(a)
        nums.remove(b)
    except ValueError:
        return "number not available"
    if not holds(a, sign, b, c):
        return "wrong arithmetic"
    nums.append(c)
    return ""


def apply_operation(nums: Sequence[int], operation: str) -> tuple[int, ...] | None:
    """The numbers that `operation` leaves, or None if it is not a legal move (wrong, inexact, not available).

    The text is parsed, never evaluated.
    """
    parts = OPERATION.fullmatch(operation)
    left = list(nums)
    return tuple(left) if parts and not carry_out(left, parts.groups()) else None


def check_solution(problem: Problem, solution: Sequence[str]) -> list[tuple[int, ...]]:
    """The numbers after every step; GrlibError unless the steps are legal and lead to the target."""
    nums: tuple[int, ...] = problem.nums
    states = []
    for operation in solution:
        left = apply_operation(nums, operation)
        if left is None:
            raise GrlibError(
                f"solution {list(solution)!r} does not fit {problem}: {operation!r} is not a legal move there"
            )
        nums = left
        states.append(nums)
    if nums != (problem.target,):
        raise GrlibError(f"solution {list(solution)!r} leaves {list(nums)}, not the target of {problem}")
    return states


# --- the plain solver ---------------------------------------------------------------------------------------


def all_solutions(
    problem: Problem, promising: Callable[[tuple[int, ...]], bool] = lambda nums: True
) -> Iterator[tuple[str, ...]]:
    """Every sequence of operations that reaches the target, depth first; the first is the optimal one.

    `promising` may rule out numbers from which the target cannot be reached: the search is then shorter.
    """

    def extend(nums: tuple[int, ...], operations: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        if len(nums) == 1:
            if nums[0] == problem.target:
                yield operations
            return
        for operation, left in moves(nums):
            if promising(left):
                yield from extend(left, (*operations, operation))

    return extend(problem.nums, ())


def solve(problem: Problem) -> tuple[str, ...] | None:
    """The optimal solution: the first in depth-first order over `moves`; None if there is none."""
    return next(all_solutions(problem), None)
