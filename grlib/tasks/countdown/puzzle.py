"""The Countdown task: problems, exact solutions, and the seen / unseen split of target values.

A problem asks to combine all of its numbers, once each, with + - * / to hit a target. Intermediate results
are non-negative integers; the larger operand comes first in - and /, and a division must be exact (the
paper's and Stream of Search's rules).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from math import log10, prod
from typing import Any

from grlib.errors import GrlibError

# An operation in canonical digits. Possessive repeats (`*+`) never give characters back: refused in one pass.
NUMBER = r"(?:0|[1-9][0-9]*+)"
OPERATION = re.compile(rf"({NUMBER})([-+*/])({NUMBER})=({NUMBER})")
_DIGITS = 4300  # Python converts no longer text to an integer nor back
_TOO_LONG = 10**_DIGITS
Move = tuple[str, tuple[int, ...]]  # an operation such as '14+15=29' and the numbers it leaves
Pair = tuple[int, int, tuple[int, ...]]  # indices i < j of two numbers, and those of the others


@dataclass(frozen=True, slots=True)
class Problem:
    """Numbers (order kept, any size, one or more, all positive) and the target they should reach."""

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


def apply_operation(nums: Sequence[int], operation: str) -> tuple[int, ...] | None:
    """The numbers left by `operation`, or None where it is no legal move (wrong, inexact, not available).

    Nothing is evaluated: the text is taken apart.
    """
    parts = OPERATION.fullmatch(operation)
    if not parts:
        return None
    left = list(nums)
    first, sign, second, result = parts.groups()
    try:
        a, b, c = int(first), int(second), int(result)
        left.remove(a)
        left.remove(b)
    except ValueError:  # not available, or more digits than Python converts
        return None
    return (*left, c) if holds(a, sign, b, c) else None


def holds(a: int, sign: str, b: int, c: int) -> bool:
    """Is `a sign b = c` a legal move? The larger operand comes first in - and /, and a division is exact."""
    if sign == "+":
        return a + b == c
    if sign == "*":
        return a * b == c
    if sign == "-":
        return b + c == a
    return bool(b and c) and b * c == a


def check_length(nums: Sequence[int], *others: int, results: bool = True) -> None:
    """GrlibError where Python cannot write a number or, with `results`, what moves on `nums` may lead to."""
    numbers = (*nums, *others, prod(nums) << len(nums) if results else 0)
    if max(numbers) >= _TOO_LONG:
        number = next(number for number in numbers if number >= _TOO_LONG)
        length = int(number.bit_length() * log10(2)) + 1
        raise GrlibError(
            f"numbers of about {length} digits ({number // 10 ** (length - 6)}...): Python writes none of "
            f"more than {_DIGITS}; use smaller ones"
        )


# --- exact solving ------------------------------------------------------------------------------------------


class Memo(dict[Any, Any]):
    """The answers of a function by its argument, made when first asked for; emptied when they are many."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def __missing__(self, argument: Any) -> Any:
        if len(self) > 1 << 15:
            self.clear()
        self[argument] = answer = self.function(argument)
        return answer


def _results(pair: tuple[int, int]) -> frozenset[int]:
    """What the moves on a pair give."""
    low, high = pair if pair[0] <= pair[1] else pair[::-1]
    if low and not high % low:
        return frozenset((low + high, low * high, high - low, high // low))
    return frozenset((low + high, low * high, high - low))


RESULTS = Memo(_results)


@lru_cache(maxsize=64)
def index_pairs(count: int) -> tuple[Pair, ...]:
    """All index pairs i < j of `count` numbers in order, each with the other indices."""
    pairs = combinations(range(count), 2)
    return tuple((i, j, tuple(k for k in range(count) if k not in (i, j))) for i, j in pairs)


# Can one of the numbers `us` be combined with k and m, all three used, into the target? A move is undone by a
# move (u and k make e exactly if e and k make u), so both ways to do it are asked from the target backwards.
# k, m and the target are positive. Written out for speed: most problems drawn at random have no solution, and
# it is here that this is found.


def _join(us: Collection[int], k: int, m: int, target: int) -> bool:
    """By a move on u and what k and m make."""
    for w in RESULTS[k, m]:
        if w + target in us or (w - target if w > target else target - w) in us:
            return True
        if w and (w * target in us or (not w % target and w // target in us)):
            return True
        if 0 < w <= target and not target % w and target // w in us:
            return True
    return False


def _chain(us: Collection[int], k: int, m: int, target: int) -> bool:
    """By a move on u and k, then one with m: one of them + or -, the other * or /.

    Two of one kind are a join: (u + k) - m is u + (k - m). Only (u * k) / m need not be: it is asked here.
    """
    last = target * m  # before a division by m
    if last + k in us or last - k in us or k - last in us or (not last % k and last // k in us):
        return True
    last = target + m  # before a subtraction of m
    if (
        last * k in us
        or (not last % k and last // k in us)
        or (last <= k and not k % last and k // last in us)
    ):
        return True
    last = abs(target - m)  # before an addition of m, or a subtraction from m
    if (
        last * k in us
        or (not last % k and last // k in us)
        or (0 < last <= k and not k % last and k // last in us)
    ):
        return True
    if target % m and m % target:
        return False
    last = target // m or m // target
    return last + k in us or last - k in us or k - last in us


def _first_of_four(nums: tuple[int, ...], target: int) -> tuple[Pair, ...]:
    """Of four positive numbers, the first pair with a move from which the positive target can be reached."""
    for pair in index_pairs(4):
        i, j, (third, fourth) = pair
        us, k, m = RESULTS[nums[i], nums[j]], nums[third], nums[fourth]
        if _chain(us, k, m, target) or _chain(us, m, k, target):
            return (pair,)
        # Joining two pairs is the same from either side: pairs without number 0 need not try it.
        if not i and _join(us, k, m, target):
            return (pair,)
    return ()


def _reaches(nums: tuple[int, ...], target: int, memo: dict[tuple[int, ...], bool]) -> bool:
    """Can all of `nums` be combined into the target? Three usual ones need no search, more are memoised."""
    count = len(nums)
    if count == 1:
        return nums[0] == target
    if count == 2 and target and nums[0]:
        return nums[1] in RESULTS[nums[0], target]
    if count == 3 and target and nums[0] and nums[1]:
        k, m, u = nums
        return _join((u,), k, m, target) or _chain((u,), k, m, target) or _chain((u,), m, k, target)
    key = tuple(sorted(nums))
    if key not in memo:
        memo[key] = _first_step(nums, target, memo) is not None
    return memo[key]


def _first_step(nums: tuple[int, ...], target: int, memo: dict[tuple[int, ...], bool]) -> Move | None:
    """The first move from which the target can still be reached."""
    usual = len(nums) == 4 and target and all(nums)
    for i, j, others in _first_of_four(nums, target) if usual else index_pairs(len(nums)):
        rest = tuple([nums[k] for k in others])
        for sign, left, right, result in pair_results(nums[i], nums[j]):
            child = (*rest, result)
            if _reaches(child, target, memo):
                return f"{left}{sign}{right}={result}", child
    return None


def solve(problem: Problem) -> tuple[str, ...] | None:
    """The optimal solution: the first in depth-first order over `moves`, as operations; None if unsolvable.

    A child that cannot reach the target is skipped by an exact test, so the search never backtracks.
    """
    return _solve(problem.nums, problem.target)


def _solve(nums: tuple[int, ...], target: int) -> tuple[str, ...] | None:
    operations: list[str] = []
    memo: dict[tuple[int, ...], bool] = {}
    try:
        while len(nums) > 1:
            step = _first_step(nums, target, memo)
            if step is None:
                return None
            operation, nums = step
            operations.append(operation)
    except ValueError:
        check_length(nums)
        raise
    return tuple(operations) if nums[0] == target else None


def all_solutions(problem: Problem) -> Iterator[tuple[str, ...]]:
    """Every sequence of operations that reaches the target, depth first; the first is the optimal one."""
    check_length(problem.nums)
    memo: dict[tuple[int, ...], bool] = {}

    def extend(nums: tuple[int, ...], operations: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        if len(nums) == 1:
            if nums[0] == problem.target:
                yield operations
            return
        for operation, child in moves(nums):
            if _reaches(child, problem.target, memo):
                yield from extend(child, (*operations, operation))

    return extend(problem.nums, ())


def check_solution(problem: Problem, solution: Sequence[str]) -> list[tuple[int, ...]]:
    """The numbers after every step; GrlibError unless the steps are legal and lead to the target."""
    check_length(problem.nums, problem.target, results=False)
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


# --- drawing problems ---------------------------------------------------------------------------------------

BLOCK = 1000  # problems drawn from one random state: any block can be made alone, by any worker


def split_targets(
    seed: int, low: int = 10, high: int = 100, unseen_fraction: float = 0.1
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(seen, unseen) targets: a share of low..high is held out at random (SoS: 10 %), at least one each."""
    if not 1 <= low < high:
        raise GrlibError(f"target range {low}..{high}: it must hold two values or more, all positive")
    if not 0 < unseen_fraction < 1:
        raise GrlibError(f"unseen_fraction is {unseen_fraction}: it must lie between 0 and 1")
    values = range(low, high + 1)
    held_out = max(1, min(len(values) - 1, round(unseen_fraction * len(values))))
    unseen = set(random.Random(f"targets/{seed}").sample(values, held_out))
    return tuple(t for t in values if t not in unseen), tuple(sorted(unseen))


def sample_problems(
    n: int,
    seed: int | str,
    targets: Sequence[int],
    num_count: int = 4,
    max_number: int = 99,
    exclude: frozenset[tuple] = frozenset(),
    start: int = 0,
) -> list[tuple[Problem, tuple[str, ...]]]:
    """Problems start .. start+n-1 of an endless list fixed by the other arguments, with optimal solutions.

    The target is drawn first and kept; the numbers (uniform on 1..max_number) are redrawn until it can be
    reached. `exclude` holds `problem_key`s that must not be drawn: how test problems stay out of the training
    sets.
    """
    for name, value, low in (
        ("n", n, 0),
        ("num_count", num_count, 1),
        ("max_number", max_number, 1),
        ("start", start, 0),
    ):
        if type(value) is not int or value < low:
            raise GrlibError(f"{name} is {value!r}: it must be an integer of at least {low}")
    if not targets or any(type(t) is not int or t < 1 for t in targets):
        raise GrlibError(f"targets is {targets!r}: it must be a non-empty sequence of positive integers")
    found: list[tuple[Problem, tuple[str, ...]]] = []
    for block in range(start // BLOCK, (start + n + BLOCK - 1) // BLOCK):
        rng = random.Random(f"problems/{seed}/{num_count}/{max_number}/{block}")
        first = block * BLOCK
        for index in range(first, min(first + BLOCK, start + n)):
            drawn = _draw(rng, targets, num_count, max_number, exclude)
            if index >= start:
                found.append(drawn)
    return found


def _draw(
    rng: random.Random, targets: Sequence[int], num_count: int, max_number: int, exclude: frozenset[tuple]
) -> tuple[Problem, tuple[str, ...]]:
    uniform, places = rng.random, range(num_count)
    target = targets[int(uniform() * len(targets))]
    for _ in range(100_000):
        nums = tuple([int(uniform() * max_number) + 1 for _ in places])
        solution = _solve(nums, target)
        if solution is not None:
            problem = Problem(nums, target)
            if problem_key(problem) not in exclude:
                return problem, solution
    raise GrlibError(
        f"target {target}: no solvable problem in 100,000 draws of {num_count} numbers up to {max_number}; "
        "choose a nearer target, more numbers or larger ones"
    )


def problem_key(problem: Problem) -> tuple[int, ...]:
    """What makes two problems the same: the target and the numbers in any order (for leakage checks)."""
    return (problem.target, *sorted(problem.nums))
