"""Splits and imitation data: no leakage, fixed by their seeds, any part alone the same as in the whole."""

from collections import Counter
from dataclasses import replace

import pytest

from grlib import profiles
from grlib.errors import GrlibError
from grlib.tasks.countdown.data import (
    draw,
    draw_tests,
    imitation_examples,
    make_splits,
    reserved_keys,
    target_values,
)
from grlib.tasks.countdown.puzzle import problem_key
from grlib.tasks.countdown.scale import Scale
from grlib.tasks.countdown.traces import grade

TASK = Scale(max_number=30, dfs_widths=(1, 2, 3), bfs_beams=(1, 2), reserved_test=300, reserved_valid=150)
TINY = replace(TASK, num_count=3, max_number=12)  # so few problems that leakage would show at once


def keys(solved):
    return {problem_key(problem) for problem, _ in solved}


@pytest.mark.parametrize("task", [TASK, TINY])
def test_no_problem_plays_two_roles(task):
    splits = make_splits(task, train=400, valid=150, test=300, seed=5)
    roles = {name: keys(getattr(splits, name)) for name in ("train", "valid", "seen", "unseen")}
    for one in roles:
        for other in roles:
            assert one == other or not roles[one] & roles[other], (one, other)
        targets = {problem.target for problem, _ in getattr(splits, one)}
        assert targets <= set(target_values(task)[one == "unseen"])


@pytest.mark.parametrize("task", [TASK, TINY])
def test_no_test_problem_is_imitated(task):
    tests, valids = reserved_keys(task)
    imitated = {problem_key(example.problem) for example in imitation_examples(task, 600)}
    splits = make_splits(task, train=10, valid=150, test=300)
    assert not imitated & (keys(splits.seen) | keys(splits.unseen) | keys(splits.valid))
    assert keys(splits.seen) <= tests and keys(splits.valid) <= valids
    assert not {e.problem.target for e in imitation_examples(task, 100)} & set(target_values(task)[1])


def test_the_tests_are_the_same_for_every_seed_and_size():
    one, other = make_splits(TASK, 20, 30, 40, seed=0), make_splits(TASK, 30, 10, 20, seed=1)
    assert one.seen[:20] == other.seen and one.unseen[:20] == other.unseen
    assert one.valid[:10] == other.valid
    assert not keys(one.train) & keys(other.train[:20])
    assert make_splits(TASK, 20, 30, 40, seed=0) == one


def test_no_test_list_holds_a_problem_twice():
    """Of 400 unseen problems with numbers up to 30, one repeats another: it alone is drawn anew."""
    small = replace(profiles.get("laptop").countdown, max_number=30)
    drawn, tests = (
        draw(small, "test-unseen", 400, unseen=True),
        draw_tests(small, "test-unseen", 400, unseen=True),
    )
    assert [place for place in range(400) if drawn[place] != tests[place]] == [361]
    for task in (small, TINY):
        splits = make_splits(task, train=1, valid=1, test=300)
        assert len(keys(splits.seen)) == len(keys(splits.unseen)) == 300
    assert {problem.target for problem, _ in tests} <= set(target_values(small)[1])
    assert draw_tests(small, "test-unseen", 365, unseen=True) == tests[:365]
    with pytest.raises(
        GrlibError, match="test-seen: after [0-9]+ problems, 1000 draws gave no other one; take fewer"
    ):
        draw_tests(replace(TINY, num_count=1, target_high=12), "test-seen", 9)


def test_more_tests_than_are_reserved_is_an_error():
    for sizes in ({"test": 301, "valid": 1}, {"test": 1, "valid": 151}):
        with pytest.raises(GrlibError, match="kept out of the training sets"):
            make_splits(TASK, train=1, **sizes)


def test_any_part_can_be_made_alone():
    whole = imitation_examples(TASK, 30, start=990)
    assert imitation_examples(TASK, 10, start=990) + imitation_examples(TASK, 20, start=1000) == whole
    assert draw(TASK, "valid", 5, start=7) == draw(TASK, "valid", 12)[7:]


def test_searchers_are_mixed_and_failures_stay():
    examples = imitation_examples(TASK, 400)
    kinds = Counter((example.solver, example.heuristic) for example in examples)
    assert set(kinds) == {(solver, heuristic) for solver in ("dfs", "bfs") for heuristic in ("sum", "mult")}
    assert all(count > 60 for count in kinds.values())
    assert {example.width for example in examples if example.solver == "dfs"} == {1, 2, 3}
    assert {example.width for example in examples if example.solver == "bfs"} == {1, 2}
    solved = sum(grade(example.trace, example.problem).correct for example in examples)
    assert 0.1 * len(examples) < solved < 0.9 * len(examples)


def test_no_cap_is_written_as_zero():
    uncapped = replace(TASK, num_count=3, dfs_widths=(0,))
    assert {e.width for e in imitation_examples(uncapped, 30) if e.solver == "dfs"} == {0}


def test_a_curriculum_draws_other_sizes():
    assert {len(example.problem.nums) for example in imitation_examples(TASK, 10, num_count=3)} == {3}
