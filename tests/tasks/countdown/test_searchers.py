"""The searchers against the textbook version, byte by byte, and traces worked by hand."""

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import plain
from grlib.errors import GrlibError
from grlib.tasks.countdown.data import draw
from grlib.tasks.countdown.fast import solve
from grlib.tasks.countdown.puzzle import Problem
from grlib.tasks.countdown.scale import Scale
from grlib.tasks.countdown.searchers import HEURISTICS, breadth_first, depth_first, straight_path
from grlib.tasks.countdown.traces import grade

numbers = st.one_of(
    st.lists(st.integers(1, 99), min_size=1, max_size=4),
    st.lists(st.integers(1, 4), min_size=2, max_size=4),  # duplicates, zeros and ties of the heuristic
)
targets = st.one_of(st.integers(1, 3), st.integers(10, 100), st.integers(1, 10_000))
heuristics = st.sampled_from(HEURISTICS)


# --- by hand ------------------------------------------------------------------------------------------------


def test_a_depth_first_trace_by_hand():
    """Of 2 and 3: 5 and 6 are nearer to 5 than 1; the best comes first and ends the search."""
    assert depth_first(Problem((2, 3), 6)) == (
        "Current State: 6:[2, 3], Operations: []\n"
        "Exploring Operation: 2*3=6, Resulting Numbers: [6]\n"
        "6,6 equal: Goal Reached\n"
    )


def test_a_failed_depth_first_search_just_ends():
    """|5-4| = |... in order: 5 (distance 1), 6 (2), 1 (3), all within the threshold 4."""
    assert depth_first(Problem((2, 3), 4)) == (
        "Current State: 4:[2, 3], Operations: []\n"
        "Exploring Operation: 2+3=5, Resulting Numbers: [5]\n"
        "5,4 unequal: No Solution\n"
        "Moving to Node #0\n"
        "Current State: 4:[2, 3], Operations: []\n"
        "Exploring Operation: 2*3=6, Resulting Numbers: [6]\n"
        "6,4 unequal: No Solution\n"
        "Moving to Node #0\n"
        "Current State: 4:[2, 3], Operations: []\n"
        "Exploring Operation: 3-2=1, Resulting Numbers: [1]\n"
        "1,4 unequal: No Solution\n"
    )


def test_children_above_the_threshold_are_pruned():
    """The heuristic of 30 at target 11 is 19 > 11: it is never tried."""
    trace = depth_first(Problem((5, 6), 11))
    assert "5*6" not in depth_first(Problem((5, 6), 12)) and trace.endswith("11,11 equal: Goal Reached\n")


def test_leaves_count_as_children():
    """A node explored after two leaves of the same parent is child 2."""
    trace = depth_first(Problem((84, 2, 14, 15), 26))
    names = re.findall(r"Generated Node #([\d,]+):", trace)
    assert names[0] == "0,0" and len(set(names)) == len(names)


def test_a_breadth_first_trace_by_hand():
    trace = breadth_first(Problem((2, 3), 7), 4, "sum", random.Random(0))
    shuffled = [("2+3=5", 5), ("2*3=6", 6), ("3-2=1", 1)]
    shuffled.sort(key=lambda made: abs(made[1] - 7))
    random.Random(0).shuffle(shuffled)
    tried = "".join(
        f"Exploring Operation: {operation}, Resulting Numbers: [{n}]\n{n},7 unequal: No Solution\n"
        for operation, n in shuffled
    )
    visited = "".join(
        f"Moving to Node #0,0\nCurrent State: 7:[{n}], Operations: ['{operation}']\n"
        for operation, n in (("2*3=6", 6), ("2+3=5", 5), ("3-2=1", 1))  # best first; leaves all bear one name
    )
    root = "Current State: 7:[2, 3], Operations: []\n"
    assert trace == root + tried + visited + "No solution found."


def test_a_single_number():
    line = "Current State: 8:[7], Operations: []\n"
    assert depth_first(Problem((7,), 8)) == line
    assert breadth_first(Problem((7,), 8), 2, "sum", random.Random(0)) == line + "No solution found."


# --- against the textbook -----------------------------------------------------------------------------------


@settings(max_examples=60)
@given(numbers, targets, heuristics, st.one_of(st.none(), st.integers(1, 5)))
def test_depth_first_is_the_textbooks(nums, target, heuristic, width):
    assert depth_first(Problem(tuple(nums), target), heuristic, width) == plain.depth_first(
        nums, target, heuristic, width
    )


@settings(max_examples=80)
@given(numbers, targets, heuristics, st.integers(1, 7), st.integers(0, 10**6))
def test_breadth_first_is_the_textbooks(nums, target, heuristic, beam, seed):
    ours, theirs = random.Random(seed), random.Random(seed)
    assert breadth_first(Problem(tuple(nums), target), beam, heuristic, ours) == plain.breadth_first(
        nums, target, beam, heuristic, theirs
    )
    assert ours.getstate() == theirs.getstate()  # nothing but the shuffles consumed randomness


@settings(max_examples=4)
@given(st.lists(st.integers(1, 30), min_size=5, max_size=5), st.integers(10, 100), heuristics)
def test_five_numbers_too(nums, target, heuristic):
    assert depth_first(Problem(tuple(nums), target), heuristic, 2) == plain.depth_first(
        nums, target, heuristic, 2
    )


def test_large_numbers():
    big = 10**17
    problem = Problem((big, big + 1, 7), 7)
    assert f"{big + 1}-{big}=1" in breadth_first(problem, 30, "sum", random.Random(0))
    assert depth_first(Problem((big, 1), big + 1)).endswith(f"{big + 1},{big + 1} equal: Goal Reached\n")


def test_a_search_is_right_about_itself():
    for problem, _ in draw(Scale(), "valid", 60):
        for trace in (depth_first(problem, "mult"), breadth_first(problem, 4, "sum", random.Random(1))):
            assert grade(trace, problem).correct == trace.endswith("equal: Goal Reached\n")


def test_a_depth_first_search_without_pruning_finds_what_there_is():
    """Within the threshold nothing is missed: a large target prunes no child of these."""
    for target in range(60, 100):
        problem = Problem((2, 3, 4, 5), target)
        found = depth_first(problem).endswith("equal: Goal Reached\n")
        assert found == (solve(problem) is not None)


# --- straight paths -----------------------------------------------------------------------------------------


def test_a_straight_path_by_hand():
    problem, solution = Problem((2, 3, 4), 24), ("2*3=6", "4*6=24")
    root = "Current State: 24:[2, 3, 4], Operations: []\n"
    first = (
        "Exploring Operation: 2*3=6, Resulting Numbers: [4, 6]\n"
        "Generated Node #0,0: 24:[4, 6] Operation: 2*3=6\n"
        "Moving to Node #0,0\n"
        "Current State: 24:[4, 6], Operations: ['2*3=6']\n"
    )
    last = "Exploring Operation: 4*6=24, Resulting Numbers: [24]\n24,24 equal: Goal Reached\n"
    assert straight_path(problem, solution, 0) == root
    assert straight_path(problem, solution, 1) == root + first
    assert straight_path(problem, solution, 2) == straight_path(problem, solution) == root + first + last


def test_one_of_two_equal_numbers_stays():
    """The reference's printer drops both: 3 % of its paths carry wrong numbers."""
    problem = Problem((5, 5, 2), 15)
    trace = straight_path(problem, solve(problem))
    assert solve(problem) == ("5*2=10", "5+10=15")
    assert "Resulting Numbers: [5, 10]\n" in trace and grade(trace, problem).correct


@settings(max_examples=60)
@given(st.lists(st.integers(1, 15), min_size=1, max_size=5), st.integers(1, 100))
def test_a_straight_path_is_correct_and_its_hints_are_prefixes(nums, target):
    problem = Problem(tuple(nums), target)
    solution = solve(problem)
    if solution is None:
        return
    whole = straight_path(problem, solution)
    assert grade(whole, problem).correct == bool(solution)  # a single number leaves nothing to explore
    hints = [straight_path(problem, solution, steps) for steps in range(len(solution) + 1)]
    assert hints[-1] == whole
    for steps, hint in enumerate(hints[:-1]):
        assert whole.startswith(hint) and len(hint) < len(hints[steps + 1])
        assert hint.count("Exploring Operation") == steps
        assert hint.splitlines()[-1].startswith("Current State: ")


# --- bad input ----------------------------------------------------------------------------------------------

PROBLEM = Problem((2, 3, 4), 24)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: depth_first(PROBLEM, "best"), "'best'"),
        (lambda: depth_first(PROBLEM, None), "None"),
        (lambda: depth_first(PROBLEM, "sum", 0), "0"),
        (lambda: depth_first(PROBLEM, "sum", "2"), "'2'"),
        (lambda: breadth_first(PROBLEM, 0, "sum", random.Random(0)), "0"),
        (lambda: breadth_first(PROBLEM, 2.0, "sum", random.Random(0)), "2.0"),
        (lambda: breadth_first(PROBLEM, 2, "product", random.Random(0)), "'product'"),
        (lambda: depth_first(Problem((2, 3), 10**13), "mult"), str(10**13)),
        (lambda: straight_path(PROBLEM, ("2*3=6",)), "2*3=6"),
        (lambda: straight_path(PROBLEM, ("2*3=7", "4*7=28")), "'2*3=7'"),
        (lambda: straight_path(PROBLEM, ("2*3=6", "4*6=24"), 3), "3"),
        (lambda: straight_path(PROBLEM, ("2*3=6", "4*6=24"), -1), "-1"),
        (lambda: straight_path(PROBLEM, ("2*3=6", "4*6=24"), True), "True"),
    ],
)
def test_bad_input_is_one_clear_line(call, named):
    with pytest.raises(GrlibError) as caught:
        call()
    assert named in str(caught.value) and "\n" not in str(caught.value)
