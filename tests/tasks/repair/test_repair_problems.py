"""Generated programming problems: well formed, solvable, apart from each other."""

from __future__ import annotations

import ast
import itertools
import json
import re
from random import Random

import pytest

from grlib import sandbox
from grlib.errors import GrlibError
from grlib.tasks.repair import problems

FAMILIES = problems.families()


def judged(problem, program):
    tests = [case._asdict() for case in problem.public + problem.private]
    return sandbox.run(program, tests, problem.style, problem.entry)


def test_there_are_enough_families_of_every_topic():
    assert len(FAMILIES) >= 60 and len({family.name for family in FAMILIES}) == len(FAMILIES)
    assert {family.topic for family in FAMILIES} == {"lists", "grids", "numbers", "strings", "simulation"}
    assert sum(family.far for family in FAMILIES) == 8


@pytest.mark.parametrize("family", FAMILIES, ids=[family.name for family in FAMILIES])
def test_references_pass_and_other_programs_do_not(family):
    for number in range(4):
        problem = problems.instance(family, 5, number)
        assert (len(problem.public), len(problem.private)) == (problems.PUBLIC, problems.PRIVATE)
        assert "{" not in problem.statement and problem.statement.count("\n") == 1
        assert all(one.passed for one in judged(problem, problem.solution)), problem
        idle = "def solve(*_): return None" if problem.style == "call" else "pass"
        assert not all(one.passed for one in judged(problem, idle))
        constant = f"def solve(*_): return {problem.public[0].output!r}"
        if problem.style == "stdin":
            constant = f"print({problem.public[0].output!r}, end='')"
        assert not all(one.passed for one in judged(problem, constant)), "one answer for all inputs"


def test_both_test_styles_occur():
    styles = [problem.style for problem in problems.problems("train", 300)]
    assert 30 < styles.count("stdin") < 150


def test_problems_follow_from_their_seed():
    few, many = problems.problems("near", 20), problems.problems("near", 60)
    assert few == many[:20]
    assert problems.problems("near", 20, seed=1) != few


def test_splits_share_no_statement_and_far_ones_no_family():
    found = {split: problems.problems(split, 150) for split in problems.SPLITS}
    statements = [problem.statement for chosen in found.values() for problem in chosen]
    assert len(set(statements)) == len(statements)
    sources = {split: {problem.source for problem in chosen} for split, chosen in found.items()}
    assert not sources["far"] & (sources["train"] | sources["near"] | sources["valid"])
    assert sources["near"] <= {family.name for family in FAMILIES if not family.far}


def test_no_split_holds_the_program_of_another_under_other_words():
    found = {split: problems.problems(split, 200) for split in ("near", "valid", "far")}
    found |= {split: problems.problems(split, 800) for split in ("base", "train")}
    functions = {
        split: {ast.dump(ast.parse(problem.solution).body[0]) for problem in chosen}
        for split, chosen in found.items()
    }
    for one, other in itertools.combinations(functions.values(), 2):
        assert not one & other


def test_tests_differ_and_are_plain_data():
    for problem in problems.problems("train", 100):
        cases = problem.public + problem.private
        assert len({json.dumps(case.input) for case in cases}) == len(cases)
        assert json.loads(json.dumps(cases)) == [list(case) for case in cases]


def test_constants_are_drawn_from_their_range():
    rng = Random(0)
    assert {problems._drawn("3..7:2", rng) for _ in range(60)} == {"3", "5", "7"}
    assert {problems._drawn("-1..1", rng) for _ in range(60)} == {"-1", "0", "1"}
    assert {problems._drawn("mark", rng) for _ in range(60)} == set("-*#.")


@pytest.mark.parametrize("block", ["a | b | x: nat", "a | b | x: nat | k=1..2\n- one\ndef solve(x): 1"])
def test_a_family_that_is_not_well_formed_is_named(block):
    with pytest.raises(GrlibError, match="family 'a | b"):
        problems._family(block)


def test_bad_requests():
    with pytest.raises(GrlibError, match="split 'test': choose one of base, train, near, far, valid"):
        problems.problems("test", 1)
    with pytest.raises(
        GrlibError, match="split 'near': [0-9]+ different problems exist, 9999 were asked for"
    ):
        problems.problems("near", 9999)
    never = problems._family("same | lists | x: nat | k=1..1\n- a\n- b\ndef solve(x):\n    return 1")
    found = problems.instance(never, 0, 0)
    assert {case.output for case in found.public} == {1}, "outputs alike where a family has no others"
    single = problems._family("one | lists | x: one | k=1..1\n- a\n- b\ndef solve(x):\n    return x")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(problems.KINDS, "one", lambda rng: 1)
        with pytest.raises(GrlibError, match="family one: only 1 different tests"):
            problems.instance(single, 0, 0)


def test_variables_get_other_names_and_arguments_keep_theirs():
    code = "def solve(xs, k):\n    k, n = n_of(k), 0\n"
    code += "    return sorted((n + x for x in xs), key=lambda v: v - k)"
    seen = set()
    for seed in range(40):
        new = ast.unparse(problems.renamed(ast.parse(code), Random(seed)))
        names = re.fullmatch(
            r"def solve\(xs, k\):\n    k, (\w+) = \(n_of\(k\), 0\)\n"
            r"    return sorted\(\(\1 \+ (\w+) for \2 in xs\), key=lambda (\w+): \3 - k\)",
            new,
        )
        assert names and len(set(names.groups())) == 3, new
        seen.add(names.groups())
    assert ("n", "x", "v") in seen and len(seen) > 20
