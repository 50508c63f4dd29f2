"""Sudoku: rules by brute force, traces and rewriting by hand, lists without leaks."""

import re
from itertools import product
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grlib import profiles
from grlib.errors import GrlibError
from grlib.tasks.sudoku import guidance, puzzle, traces
from grlib.tasks.sudoku.puzzle import Problem
from grlib.tasks.sudoku.task import imitated, problems

SOLUTION = "654321321654563412412563246135135246"
CLUES = "6.43.13.165456341241256.2461.51.5246"
PROBLEM = Problem(CLUES, SOLUTION)


def brute_force(clues):
    """All ways to fill the empty cells, tried one by one."""
    empty = [cell for cell in range(36) if clues[cell] == "."]
    found = []
    for digits in product("123456", repeat=len(empty)):
        grid = list(clues)
        for cell, digit in zip(empty, digits, strict=True):
            grid[cell] = digit
        if all(len({grid[cell] for cell in unit}) == 6 for unit in puzzle.UNITS):
            found.append("".join(grid))
    return found


def test_rules():
    assert puzzle.is_solution(SOLUTION, CLUES) and puzzle.is_solution(SOLUTION, "." * 36)
    assert not puzzle.is_solution(SOLUTION, "1" + "." * 35)  # a clue that it changes
    assert not puzzle.is_solution(SOLUTION[:-1] + "1", "." * 36)
    assert not puzzle.is_solution(SOLUTION[:-1], CLUES) and not puzzle.is_solution("١" * 36, "." * 36)
    assert puzzle.candidates(CLUES, 1) == "25" and puzzle.candidates("." * 36, 7) == "123456"
    assert [len(unit) for unit in puzzle.UNITS] == [6] * 18
    assert [sum(cell in unit for unit in puzzle.UNITS) for cell in range(36)] == [3] * 36


@given(seed=st.integers(0, 10_000), open_cells=st.integers(1, 6))
def test_the_solver_finds_what_trying_everything_finds(seed, open_cells):
    rng = Random(seed)
    grid = puzzle.full_grid(rng.randrange(36), rng)
    for cell in rng.sample(range(36), open_cells):
        grid = puzzle.fill(grid, cell, ".")
    assert sorted(puzzle.solutions(grid, 10_000)) == sorted(brute_force(grid))


@given(seed=st.integers(0, 10_000), names=st.permutations("123456"))
def test_kind_and_list_do_not_depend_on_what_digits_are_called(seed, names):
    rng = Random(seed)
    kind = rng.randrange(36)
    grid = puzzle.full_grid(kind, rng)
    called = str.maketrans("123456", "".join(names))
    clues = "".join(rng.choice((digit, ".")) for digit in grid)
    assert puzzle.kind_of(grid) == puzzle.kind_of(grid.translate(called)) == kind
    renamed = Problem(clues.translate(called), grid.translate(called))
    assert puzzle.role_of(Problem(clues, grid)) == puzzle.role_of(renamed)


def test_drawn_problems_have_one_solution_and_belong_to_their_list():
    scale = profiles.get("laptop").sudoku
    out = set(puzzle.held_out_kinds(scale.held_out_kinds))
    assert len(out) == 4
    for role, unseen in product(("train", "valid", "test"), (False, True)):
        for number in range(3):
            problem = puzzle.draw(role, number, scale.blanks, scale.held_out_kinds, unseen)
            assert problem == puzzle.draw(role, number, scale.blanks, scale.held_out_kinds, unseen)
            assert puzzle.solutions(problem.clues) == [problem.solution] and problem.clues.count(".") == 22
            assert puzzle.role_of(problem) == role
            assert (puzzle.kind_of(problem.solution) in out) == unseen
    assert not {p.clues for p, _ in imitated(scale, 20)} & {p.clues for p in problems(scale, "train", 20)}


SEARCH = f"""a2 25=2
a5 none
back a2 {CLUES}
a2 5=5
a5 2=2
b2 2=2
d6 3=3
e5 3=3
f2 3=3
solved {SOLUTION}
"""
STRAIGHT = SEARCH[SEARCH.index("a2 5=5") :]  # as the searcher writes it, once 2 is tried
FOUND = SEARCH.partition("a5 2=2\n")[0]  # up to where the right digit of a2 is found


def test_searchers_write_what_the_language_says():
    assert traces.depth_first(CLUES) == SEARCH
    assert traces.straight_path(*PROBLEM) == STRAIGHT
    assert traces.straight_path(*PROBLEM, steps=2) == "a2 5=5\na5 2=2\n"
    with pytest.raises(GrlibError, match="order is 'depth'; choose one of rows, columns, boxes"):
        traces.depth_first(CLUES, "depth")


@given(seed=st.integers(0, 2000), order=st.sampled_from(sorted(traces.ORDERS)))
def test_a_search_writes_true_candidates_and_ends_in_the_solution(seed, order):
    problem = puzzle.draw("train", seed, 12, 4)
    text = traces.depth_first(problem.clues, order)
    assert traces.grade(text, problem.clues) == (True, "correct")
    grids = dict(traces.states(text, problem.clues))
    end = 0
    for line in text.splitlines(keepends=True)[:-1]:
        before, end = grids[end], end + len(line)
        cell, rest = puzzle.NAMES.index(line.split()[-2 if line.startswith("back") else 0]), line.split()[1]
        if "=" in rest:
            options = rest.partition("=")[0]
            assert set(options) <= set(puzzle.candidates(before, cell)) and before[cell] == "."
        elif rest == "none":
            assert puzzle.candidates(before, cell) == ""
    deep = traces.depth_first(problem.clues, order, limit=3)
    assert text.startswith(deep) or deep.count("\n") >= 3


@pytest.mark.parametrize(
    ("trace", "reason"),
    [
        (STRAIGHT, "correct"),
        (f"nonsense\n{STRAIGHT}afterwards", "correct"),
        ("", "no goal line"),
        (STRAIGHT[:-44], "no goal line"),
        (f"solved {SOLUTION}", "correct"),  # the newline is the model's to leave out
        (f" solved {SOLUTION}\n", "no goal line"),
        (f"solved {SOLUTION[::-1]}\nsolved {SOLUTION}\n", "wrong goal line"),  # the first answer counts
        (f"solved {SOLUTION}1\n", "wrong goal line"),
        (f"solved {SOLUTION} \n", "wrong goal line"),
        ("solved \n", "wrong goal line"),
    ],
)
def test_grades(trace, reason):
    assert traces.grade(trace, CLUES) == (reason == "correct", reason)


@pytest.mark.parametrize(
    ("trace", "text", "case", "right"),
    [
        ("", "a2 5=5\n", "other", 0),
        ("a2 25=2\na5 none\n", "a2 5=5\n", "digit", 0),
        (FOUND, FOUND + "a5 2=2\n", "other", 1),
        ("a2 25=5\nb2 none\n", "a2 25=5\nb2 2=2\n", "none", 1),
        ("a2 25=5\nb2 2", "a2 25=5\na5 2=2\n", "other", 1),  # cut within a line
        ("a2 25=5\nb2 2=", "a2 25=5\nb2 2=2\n", "digit", 1),
        ("a2 25=5\na2 25=2\n", "a2 25=5\na5 2=2\n", "other", 1),  # a cell that is full
        (STRAIGHT.partition("solved")[0], STRAIGHT, "goal", 6),
        (f"solved {SOLUTION[::-1]}\n" + STRAIGHT, "a2 5=5\n", "other", 0),  # a false answer ends the trace
    ],
)
def test_rewriting_by_hand(trace, text, case, right):
    found = guidance.rewrite(trace, PROBLEM)
    assert (found.text, found.case, found.right) == (text, case, right)


@given(st.integers(0, 200), st.sampled_from(sorted(traces.ORDERS)), st.integers(0, 400))
@settings(max_examples=40, deadline=None)
def test_guidance_writes_no_line_that_a_searcher_would_not_write(number, order, cut):
    # the digit that is tried is the smallest of those that are left
    problem = puzzle.draw("train", number, 12, 4)
    made = guidance.rewrite(traces.depth_first(problem.clues, order)[:cut], problem)
    for line in re.findall(r"[a-f][1-6] ([1-6]+)=([1-6])\n", made.text + traces.straight_path(*problem)):
        assert line[0][0] == line[1]
