"""Problems, exact solutions and draws: by hand, by brute force, and against the textbook solver of the
benchmark."""

import itertools
import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import plain
from grlib.errors import GrlibError
from grlib.tasks.countdown import puzzle
from grlib.tasks.countdown.data import draw, target_values
from grlib.tasks.countdown.fast import all_solutions, solve
from grlib.tasks.countdown.puzzle import Problem, apply_operation, check_solution, moves, problem_key
from grlib.tasks.countdown.scale import Scale

SEEN, UNSEEN = target_values(Scale())
BIG = 10**17

small = st.lists(st.integers(1, 12), min_size=4, max_size=5)
usual = st.lists(st.integers(1, 99), min_size=4, max_size=4)


def enumerate_leaves(nums, operations=()):
    """(result, operations) of every way to combine all numbers, in depth-first order: no test, no memory."""
    if len(nums) == 1:
        yield nums[0], operations
        return
    for child, operation in plain.children(list(nums)):
        yield from enumerate_leaves(child, (*operations, operation))


def first_solutions(nums):
    """Target -> its first solution, for all targets."""
    first = {}
    for result, operations in enumerate_leaves(nums):
        first.setdefault(result, operations)
    return first


# --- the rules of the game ----------------------------------------------------------------------------------


def test_the_moves_of_a_pair_by_hand():
    assert list(moves((6, 2))) == [("6+2=8", (8,)), ("6*2=12", (12,)), ("6-2=4", (4,)), ("6/2=3", (3,))]
    assert list(moves((2, 6))) == [("2+6=8", (8,)), ("2*6=12", (12,)), ("6-2=4", (4,)), ("6/2=3", (3,))]
    assert [operation for operation, _ in moves((4, 6))] == ["4+6=10", "4*6=24", "6-4=2"]  # 6/4 is not exact


def test_pairs_come_in_order_and_the_result_goes_last():
    states = [nums for operation, nums in moves((7, 8, 9)) if "+" in operation]
    assert states == [(9, 15), (8, 16), (7, 17)]


def test_zero_adds_and_multiplies_but_never_divides():
    assert [operation for operation, _ in moves((0, 5))] == ["0+5=5", "0*5=0", "5-0=5"]
    assert [operation for operation, _ in moves((5, 0))] == ["5+0=5", "5*0=0", "5-0=5"]
    assert [operation for operation, _ in moves((0, 0))] == ["0+0=0", "0*0=0", "0-0=0"]
    assert [operation for operation, _ in moves((5, 5))] == ["5+5=10", "5*5=25", "5-5=0", "5/5=1"]


@given(st.lists(st.integers(0, 50), min_size=2, max_size=5))
def test_moves_agree_with_the_textbook(nums):
    expected = [(operation, tuple(child)) for child, operation in plain.children(nums)]
    assert list(moves(nums)) == expected


@given(st.lists(st.integers(0, 50), min_size=2, max_size=4))
def test_every_move_can_be_applied(nums):
    for operation, left in moves(nums):
        assert sorted(apply_operation(nums, operation)) == sorted(left)


@pytest.mark.parametrize(
    "operation",
    [
        "3+4=8",  # wrong
        "4-3=2",
        "3-4=1",  # the larger operand comes first
        "3-4=-1",
        "4/3=1",  # not exact
        "4/3=1.33",
        "5+3=8",  # no 5 here
        "3+3=6",  # only one 3
        "03+4=7",  # leading zero
        "3+4=07",
        "3 + 4=7",
        "3+4",
        "3+4=7 ",
        "٣+4=7",
        "3**4=81",
        "3+4=7=7",
        "",
        "=",
        "+=",
    ],
)
def test_an_illegal_operation_is_refused(operation):
    assert apply_operation((3, 4), operation) is None


def test_operands_may_stand_in_either_order_of_the_state():
    assert apply_operation((3, 4, 9), "4+3=7") == (9, 7)
    assert apply_operation((3, 12), "12/3=4") == (4,)
    assert apply_operation((5, 5, 5), "5+5=10") == (5, 10), "one of two equal numbers"


# --- exact solutions ----------------------------------------------------------------------------------------


def test_solutions_by_hand():
    assert solve(Problem((2, 3, 4), 24)) == ("2*3=6", "4*6=24")
    assert solve(Problem((84, 2, 14, 15), 26)) == ("14+15=29", "2*29=58", "84-58=26")
    assert solve(Problem((5, 5, 1), 1)) == ("5-5=0", "1+0=1")
    assert solve(Problem((4, 4, 5), 0)) == ("4-4=0", "5*0=0")
    assert solve(Problem((3, 3, 8, 8), 24)) is None  # 8/(3-8/3) needs a fraction
    assert solve(Problem((7,), 7)) == ()
    assert solve(Problem((7,), 8)) is None


SMALL = {
    "pairs": itertools.product(range(1, 13), repeat=2),
    "triples": itertools.product(range(1, 8), repeat=3),
    "four tiny numbers": itertools.product((1, 2, 4), repeat=4),
    # states full of zeros, which the solver must not take for usual numbers
    "five ones and twos": [(1, 1, 1, 1, 1), (2, 1, 1, 2, 1), (1, 2, 2, 1, 1), (2, 2, 2, 2, 2)],
}


@pytest.mark.parametrize("kind", SMALL)
def test_all_small_problems(kind):
    for nums in SMALL[kind]:
        first = first_solutions(nums)
        for target in range(61):
            assert solve(Problem(nums, target)) == first.get(target), (nums, target)


@settings(max_examples=60)
@given(usual, st.integers(0, 120))
def test_usual_problems_agree_with_the_textbook(nums, target):
    solution = solve(Problem(tuple(nums), target))
    assert (list(solution) if solution is not None else None) == plain.solve(nums, target)


@settings(max_examples=20)
@given(small, st.data())
def test_targets_that_can_be_reached_are_reached(nums, data):
    """Draw a leaf of the whole tree, ask for its number: also large, zero and awkward targets."""
    target, _ = random_leaf(nums, data)
    solution = solve(Problem(tuple(nums), target))
    assert solution is not None
    check_solution(Problem(tuple(nums), target), solution)
    if len(nums) == 4:
        assert list(solution) == plain.solve(nums, target)


def random_leaf(nums, data):
    operations = []
    while len(nums) > 1:
        nums, operation = data.draw(st.sampled_from(list(plain.children(nums))))
        operations.append(operation)
    return nums[0], operations


def test_large_numbers_are_exact():
    assert solve(Problem((BIG, 1, 2), BIG + 3)) == (f"{BIG}+1={BIG + 1}", f"2+{BIG + 1}={BIG + 3}")
    assert solve(Problem((BIG - 1, 9), (BIG - 1) * 9)) == (f"{BIG - 1}*9={(BIG - 1) * 9}",)
    assert solve(Problem((2 * BIG + 1, 2), BIG)) is None  # a float would round the quotient to BIG
    problem = Problem((BIG, 3, BIG, 7), 21)
    assert list(solve(problem)) == plain.solve(list(problem.nums), problem.target)


def test_numbers_end_where_the_trace_language_ends():
    assert Problem((10**18 - 1,), 10**18 - 1).target == 10**18 - 1
    for nums, target in (((10**18, 1), 7), ((1, 2), 10**18), ((10**5000, 1), 7)):
        with pytest.raises(GrlibError, match=r"has (19|5001) digits: 18 is the most; use smaller"):
            Problem(nums, target)
    assert apply_operation((10**17, 10), f"{10**17}*10={10**18}") is None


def test_the_plain_solver_and_the_fast_one_agree():
    rng = random.Random(0)
    for count in (1, 2, 3, 3, 3, 4, 4):
        problem = Problem(tuple(rng.randint(1, 12) for _ in range(count)), rng.randint(0, 40))
        assert puzzle.solve(problem) == solve(problem)
        assert list(puzzle.all_solutions(problem)) == list(all_solutions(problem))


@settings(max_examples=40)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(0, 60))
def test_all_solutions_are_all_and_in_order(nums, target):
    problem = Problem(tuple(nums), target)
    expected = [operations for result, operations in enumerate_leaves(nums) if result == target]
    found = list(all_solutions(problem))
    assert found == expected
    assert (found[0] if found else None) == solve(problem)


def test_the_first_of_many_solutions_comes_at_once():
    assert next(all_solutions(Problem((1, 1, 1, 1, 1, 1), 1))) == solve(Problem((1, 1, 1, 1, 1, 1), 1))


@settings(max_examples=30)
@given(usual, st.integers(10, 100))
def test_a_solution_passes_its_check_and_a_changed_one_does_not(nums, target):
    problem = Problem(tuple(nums), target)
    solution = solve(problem)
    if solution is None:
        return
    check_solution(problem, solution)
    for wrong in (solution[:-1], (*solution[:-1], solution[-1] + "0"), (*solution, "1+1=2")):
        with pytest.raises(GrlibError, match="solution"):
            check_solution(problem, wrong)


# --- bad problems -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nums", "target", "named"),
    [
        ((), 5, "empty"),
        ((0, 3), 5, "0"),
        ((-2, 3), 5, "-2"),
        ((2.5, 3), 5, "2.5"),
        ((True, 3), 5, "True"),
        (("2", 3), 5, "'2'"),
        ("23", 5, "'23'"),
        (7, 5, "7"),
        ((2, 3), -1, "-1"),
        ((2, 3), 2.0, "2.0"),
        ((2, 3), "5", "'5'"),
        ((2, 3), None, "None"),
    ],
)
def test_a_bad_problem_is_one_clear_line(nums, target, named):
    with pytest.raises(GrlibError) as caught:
        Problem(nums, target)
    message = str(caught.value)
    assert named in message and "must" in message or "needs" in message
    assert "\n" not in message
    assert isinstance(caught.value, ValueError)


def test_a_problem_keeps_order_and_cannot_be_changed():
    problem = Problem([9, 2, 5], 10)
    assert problem.nums == (9, 2, 5)
    assert hash(problem) == hash(Problem((9, 2, 5), 10)) and problem != Problem((2, 5, 9), 10)
    with pytest.raises(AttributeError):
        problem.target = 11


def test_the_key_ignores_order_and_nothing_else():
    assert problem_key(Problem((9, 2, 5), 10)) == problem_key(Problem((5, 9, 2), 10))
    assert problem_key(Problem((9, 2, 5), 10)) != problem_key(Problem((9, 2, 5), 11))
    assert problem_key(Problem((9, 2, 5), 10)) != problem_key(Problem((9, 9, 2, 5), 10))


# --- drawing ------------------------------------------------------------------------------------------------


def test_drawn_problems_stay_what_they_are():
    """The shipped base was trained on problems drawn like this: a change here would leak its training set."""
    assert draw(Scale(max_number=30), "train/0", 2) == [
        (Problem((7, 2, 27, 1), 95), ("7*27=189", "1+189=190", "190/2=95")),
        (Problem((18, 20, 13, 7), 67), ("20-13=7", "7*7=49", "18+49=67")),
    ]


def test_draws_keep_their_promises():
    few = Scale(num_count=3, max_number=20)
    for problem, solution in draw(few, "train", 300):
        assert len(problem.nums) == 3 and all(1 <= n <= 20 for n in problem.nums)
        assert problem.target in SEEN and solution == solve(problem)
    assert {problem.target for problem, _ in draw(few, "test", 100, unseen=True)} <= set(UNSEEN)


def test_targets_are_drawn_evenly_however_hard_they_are():
    low = Scale(num_count=3, max_number=30, target_high=13, unseen_fraction=0.25)
    drawn = [problem.target for problem, _ in draw(low, "train", 900)]
    assert all(240 < drawn.count(target) < 360 for target in set(drawn)) and len(set(drawn)) == 3


def test_any_part_of_the_list_can_be_drawn_alone_and_lists_differ():
    task = Scale(max_number=30)
    whole = draw(task, "parts", 1015)
    for start, count in ((0, 1), (7, 20), (59, 1), (60, 0), (985, 30)):  # the last one across blocks
        assert draw(task, "parts", count, start=start) == whole[start : start + count]
    for task, role in (Scale(max_number=29), "parts"), (Scale(max_number=30, target_seed=1), "parts"):
        assert draw(task, role, 20) != whole[:20]


def test_excluded_problems_are_never_drawn():
    task = Scale(num_count=2, max_number=9, target_low=6, target_high=8)
    first = draw(task, "some", 200)
    tabu = frozenset(problem_key(problem) for problem, _ in first[:3])
    other = {problem_key(problem) for problem, _ in draw(task, "some", 200, exclude=tabu)}
    assert other and not tabu & other


def test_a_draw_that_cannot_succeed_says_so():
    with pytest.raises(GrlibError, match=r"target 1?[0-9][0-9]: no solvable problem .* choose"):
        draw(Scale(num_count=1, max_number=9, target_low=90), "none", 1)


# --- seen and unseen targets --------------------------------------------------------------------------------


def test_targets_are_split_once_and_for_all():
    assert UNSEEN == (22, 32, 38, 39, 42, 44, 78, 84, 90)
    assert sorted(SEEN + UNSEEN) == list(range(10, 101))
    other = Scale(target_seed=3, target_low=10, target_high=20, unseen_fraction=0.2)
    assert target_values(other) == ((10, 11, 12, 13, 14, 15, 16, 17, 19), (18, 20))


@given(st.integers(), st.integers(1, 50), st.integers(1, 90), st.floats(0.01, 0.99))
def test_every_split_has_two_sides(seed, low, width, share):
    task = Scale(target_seed=seed, target_low=low, target_high=low + width, unseen_fraction=share)
    seen, unseen = target_values(task)
    assert seen and unseen and not set(seen) & set(unseen)
    assert sorted(seen + unseen) == list(range(low, low + width + 1))


@pytest.mark.parametrize(
    "sizes",
    [
        {"target_low": 101}, {"target_low": 0}, {"target_low": 100}, {"unseen_fraction": 0.0},
        {"unseen_fraction": 1.0},
    ],
)  # fmt: skip
def test_a_bad_split_is_one_clear_line(sizes):
    with pytest.raises(GrlibError, match=r"targets [0-9]+\.\.100, unseen_fraction .*: must be two"):
        target_values(Scale(**sizes))


# --- import -------------------------------------------------------------------------------------------------


def test_problems_and_traces_need_no_heavy_package():
    code = (
        "import sys, grlib.tasks.countdown\n"
        "heavy = {'torch', 'numpy', 'pandas', 'transformers', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(str(sorted(heavy)) if heavy else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
