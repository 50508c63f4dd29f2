"""The solver that the package uses: the answers of the plain one in `puzzle`, about 40 times as fast.

Drawing problems spends its time here, as most random problems have no solution. With three numbers left, the
solver looks backward from the target instead of searching.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import lru_cache
from itertools import combinations

from grlib.tasks.countdown import puzzle
from grlib.tasks.countdown.puzzle import Move, Problem, pair_results

Pair = tuple[int, int, tuple[int, ...]]  # indices i < j of two numbers, and those of the others
Memo = dict[tuple[int, ...], bool]  # sorted numbers -> can they reach the target?


def solve(problem: Problem) -> tuple[str, ...] | None:
    """The optimal solution: the first in depth-first order over `moves`, as operations; None if unsolvable.

    A move that cannot lead to the target is skipped by an exact test, so the search never backtracks.
    """
    nums = problem.nums
    operations: list[str] = []
    memo: Memo = {}
    while len(nums) > 1:
        step = _first_step(nums, problem.target, memo)
        if step is None:
            return None
        operation, nums = step
        operations.append(operation)
    return tuple(operations) if nums[0] == problem.target else None


def all_solutions(problem: Problem) -> Iterator[tuple[str, ...]]:
    """Every sequence of operations that reaches the target, depth first; the first is the optimal one."""
    memo: Memo = {}
    return puzzle.all_solutions(problem, lambda nums: _reaches(nums, problem.target, memo))


def _first_step(nums: tuple[int, ...], target: int, memo: Memo) -> Move | None:
    """The first move from which the target can still be reached."""
    usual = len(nums) == 4 and target and all(nums)
    for i, j, others in _first_of_four(nums, target) if usual else _index_pairs(len(nums)):
        rest = tuple([nums[k] for k in others])
        for sign, left, right, result in pair_results(nums[i], nums[j]):
            child = (*rest, result)
            if _reaches(child, target, memo):
                return f"{left}{sign}{right}={result}", child
    return None


def _reaches(nums: tuple[int, ...], target: int, memo: Memo) -> bool:
    """Can all of `nums` be combined into the target? Up to three positive numbers need no search."""
    count = len(nums)
    if count == 1:
        return nums[0] == target
    if count == 2 and target and nums[0]:
        return nums[1] in _results(nums[0], target)
    if count == 3 and target and nums[0] and nums[1]:
        k, m, u = nums
        return _join((u,), k, m, target) or _chain((u,), k, m, target) or _chain((u,), m, k, target)
    key = tuple(sorted(nums))
    if key not in memo:
        memo[key] = _first_step(nums, target, memo) is not None
    return memo[key]


def _first_of_four(nums: tuple[int, ...], target: int) -> tuple[Pair, ...]:
    """Of four positive numbers, the first pair with a move from which the positive target can be reached."""
    for pair in _index_pairs(4):
        i, j, (third, fourth) = pair
        us, k, m = _results(nums[i], nums[j]), nums[third], nums[fourth]
        if _chain(us, k, m, target) or _chain(us, m, k, target):
            return (pair,)
        # Joining two pairs is the same from either side: pairs without number 0 need not try it.
        if not i and _join(us, k, m, target):
            return (pair,)
    return ()


@lru_cache(maxsize=64)
def _index_pairs(count: int) -> tuple[Pair, ...]:
    """All index pairs i < j of `count` numbers in order, each with the other indices."""
    pairs = combinations(range(count), 2)
    return tuple((i, j, tuple(k for k in range(count) if k not in (i, j))) for i, j in pairs)


@lru_cache(maxsize=1 << 15)
def _results(a: int, b: int) -> frozenset[int]:
    """What the moves on a pair give."""
    return frozenset([result for _, _, _, result in pair_results(a, b)])


# The two ways in which three numbers u, k, m are combined into the target: a move on k and m, then one with u
# (join), or a move on u and k, then one with m (chain). A move undoes a move: u and k make e exactly if e and
# k make u. So both functions work backward from the target, for many u at once: is a suitable u among `us`?
# k, m and the target are positive. Written out for speed.


def _join(us: Collection[int], k: int, m: int, target: int) -> bool:
    """Can a move on k and m, then one with a u of `us`, give the target?"""
    for w in _results(k, m):
        if w + target in us or (w - target if w > target else target - w) in us:
            return True
        if w and (w * target in us or (not w % target and w // target in us)):
            return True
        if 0 < w <= target and not target % w and target // w in us:
            return True
    return False


def _chain(us: Collection[int], k: int, m: int, target: int) -> bool:
    """Can a move on a u of `us` and k, then one with m, give the target: one + or -, the other * or /?

    Two moves of one kind are a join: (u + k) - m is u + (k - m). Only (u * k) / m may differ, so it is tried
    here too.
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
    last = target // m or m // target  # before a multiplication by m, or a division of m
    return last + k in us or last - k in us or k - last in us
