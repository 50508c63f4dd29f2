"""The Countdown task: problems, exact solutions, and the seen / unseen split of target values.

A problem asks to combine all of its numbers, once each, with + - * / to hit a target. Intermediate results
are non-negative integers; the larger operand comes first in - and /, and a division must be exact (the
paper's and Stream of Search's rules).
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

from grlib.errors import GrlibError

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

    The text is compared with what the legal move on its two operands would print: nothing is evaluated.
    """
    for sign in "+*-/":
        left, found, rest = operation.partition(sign)
        right, equals, _ = rest.partition("=")
        if found and equals and _canonical(left) and _canonical(right):
            break
    else:
        return None
    a, b = int(left), int(right)
    remaining = list(nums)
    for operand in (a, b):
        if operand not in remaining:
            return None
        remaining.remove(operand)
    for legal, x, y, result in pair_results(a, b):
        if legal == sign and (x, y) == (a, b) and operation == f"{x}{sign}{y}={result}":
            return (*remaining, result)
    return None


def _canonical(digits: str) -> bool:
    """True for an ASCII integer without leading zeros, short enough for exact conversion."""
    return (
        digits.isascii() and digits.isdigit() and len(digits) < 4000 and (digits[0] != "0" or digits == "0")
    )


# --- exact solving ------------------------------------------------------------------------------------------


@lru_cache(maxsize=1 << 15)
def _results(a: int, b: int) -> frozenset[int]:
    """What the moves on a pair give."""
    low, high = (a, b) if a <= b else (b, a)
    if low and high % low == 0:
        return frozenset((a + b, a * b, high - low, high // low))
    return frozenset((a + b, a * b, high - low))


def _lead(firsts: frozenset[int], y: int, ends: frozenset[int]) -> bool:
    """Does a move on one of `firsts` and y > 0 give one of `ends`?

    A move is undone by a move: v and y make u exactly if u and y make v. Written out for speed: most problems
    drawn at random have no solution, and it is here that this is found.
    """
    for u in ends:
        if u > y:
            if u + y in firsts or u - y in firsts or u * y in firsts or (not u % y and u // y in firsts):
                return True
        elif u + y in firsts or y - u in firsts or u * y in firsts or (u and not y % u and y // u in firsts):
            return True
    return False


def _three_reach(v: int, k: int, m: int, target: int) -> bool:
    """Can v and the positive k and m be combined into the positive target?"""
    first = frozenset((v,))
    return (
        _lead(first, k, _results(m, target))
        or _lead(first, m, _results(k, target))
        or _lead(first, target, _without_zero(k, m))
    )


def _without_zero(k: int, m: int) -> frozenset[int]:
    """What k and m make, except 0: v + 0 = v is found as (v+k)-m, and no move takes 0*target back to v."""
    return _results(k, m) if k != m else _results(k, m) - {0}


def _first_of_three(nums: tuple[int, ...], target: int) -> Pair | None:
    """Of three positive numbers, the first pair with a move from which the positive target can be reached."""
    for pair in index_pairs(3):
        i, j, (k,) = pair
        if not _results(nums[i], nums[j]).isdisjoint(_results(nums[k], target)):
            return pair
    return None


def _first_of_four(nums: tuple[int, ...], target: int) -> Pair | None:
    """Of four positive numbers, the first pair with a move from which the positive target can be reached."""
    ends = [_results(number, target) for number in nums]
    for pair in index_pairs(4):
        i, j, (k, m) = pair
        firsts = _results(nums[i], nums[j])
        if _lead(firsts, nums[k], ends[m]) or _lead(firsts, nums[m], ends[k]):
            return pair
        # Combining both pairs first is the same from either side: pairs without number 0 need not try it.
        if not i and _lead(firsts, target, _without_zero(nums[k], nums[m])):
            return pair
    return None


def _reaches(nums: tuple[int, ...], target: int, memo: dict[tuple[int, ...], bool]) -> bool:
    """Can all of `nums` be combined into the target? Three numbers need no search, more are memoised."""
    count = len(nums)
    if count == 1:
        return nums[0] == target
    if count == 2 and target and nums[0]:
        return nums[1] in _results(nums[0], target)
    if count == 2:
        return target in _results(*nums)
    if count == 3 and target and nums[0] and nums[1]:
        return _three_reach(nums[2], nums[0], nums[1], target)
    key = tuple(sorted(nums))
    if key not in memo:
        memo[key] = _first_step(nums, target, memo) is not None
    return memo[key]


def _first_step(nums: tuple[int, ...], target: int, memo: dict[tuple[int, ...], bool]) -> Move | None:
    """The first move from which the target can still be reached."""
    pairs = index_pairs(len(nums))
    if 3 <= len(nums) <= 4 and target and all(nums):
        pair = _first_of_three(nums, target) if len(nums) == 3 else _first_of_four(nums, target)
        pairs = (pair,) if pair else ()
    for i, j, others in pairs:
        rest = tuple([nums[k] for k in others])
        for sign, left, right, result in pair_results(nums[i], nums[j]):
            child = (*rest, result)
            if _reaches(child, target, memo):
                return f"{left}{sign}{right}={result}", child
    return None


@lru_cache(maxsize=64)
def index_pairs(count: int) -> tuple[Pair, ...]:
    """All index pairs i < j of `count` numbers in order, each with the other indices."""
    pairs = combinations(range(count), 2)
    return tuple((i, j, tuple(k for k in range(count) if k not in (i, j))) for i, j in pairs)


def solve(problem: Problem) -> tuple[str, ...] | None:
    """The optimal solution: the first in depth-first order over `moves`, as operations; None if unsolvable.

    A child that cannot reach the target is skipped by an exact test, so the search never backtracks.
    """
    return _solve(problem.nums, problem.target)


def _solve(nums: tuple[int, ...], target: int) -> tuple[str, ...] | None:
    operations: list[str] = []
    memo: dict[tuple[int, ...], bool] = {}
    while len(nums) > 1:
        step = _first_step(nums, target, memo)
        if step is None:
            return None
        operation, nums = step
        operations.append(operation)
    return tuple(operations) if nums[0] == target else None


def all_solutions(problem: Problem) -> Iterator[tuple[str, ...]]:
    """Every sequence of operations that reaches the target, depth first; the first is the optimal one."""
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


def check_solution(problem: Problem, solution: Sequence[str]) -> None:
    """GrlibError unless `solution` is a full list of legal operations from the numbers to the target."""
    nums: tuple[int, ...] | None = problem.nums
    for operation in solution:
        nums = apply_operation(nums, operation) if nums else None
        if nums is None:
            raise GrlibError(
                f"solution {list(solution)!r} does not fit {problem}: {operation!r} is not a legal move there"
            )
    if nums != (problem.target,):
        raise GrlibError(
            f"solution {list(solution)!r} leaves {list(nums or ())}, not the target of {problem}"
        )


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
    target = targets[int(rng.random() * len(targets))]
    for _ in range(100_000):
        nums = tuple([int(rng.random() * max_number) + 1 for _ in range(num_count)])
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
