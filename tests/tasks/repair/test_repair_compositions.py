"""Composed programming problems: well formed, solvable, apart from each other."""

from __future__ import annotations

import ast
import itertools
import json
import math
import re
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grlib import sandbox
from grlib.errors import GrlibError
from grlib.tasks.repair import compositions
from grlib.tasks.repair.compositions import Step, home, primitives

STEPS = primitives()
SOME = {split: compositions.problems(split, 25, seed=3) for split in compositions.SPLITS}
SEEDS = st.integers(0, 10**6)


def chain(*steps):
    """`chain("keep_above 3", "sum_all")`: one constant each, or none."""
    found = []
    for text in steps:
        one, values = STEPS[text.split()[0]], text.split()[1:]
        typed = zip(one.constants.items(), values, strict=True)
        found.append(Step(one, {name: type(choices[0])(value) for (name, choices), value in typed}))
    return tuple(found)


def judged(problem, program):
    tests = [case._asdict() for case in problem.public + problem.private]
    return sandbox.run(program, tests, problem.style, problem.entry)


def test_there_are_many_steps_and_very_many_programs():
    assert len(STEPS) >= 40 and {one.given for one in STEPS.values()} == {*compositions.KINDS, "groups"}

    def chains(kind, depth):
        takers = [one for one in STEPS.values() if one.given == kind]
        sizes = [math.prod(map(len, one.constants.values())) for one in takers]
        rest = [chains(one.made, depth - 1) if depth > 1 else 1 for one in takers]
        return sum(map(math.prod, zip(sizes, rest, strict=True)))

    # about a third of random chains is not degenerate
    assert sum(chains(kind, 3) for kind in compositions.KINDS) > 1_000_000


@pytest.mark.parametrize("name", STEPS)
def test_all_versions_of_a_step_do_the_same(name):
    one, rng = STEPS[name], Random(name)
    assert len({*one.phrases, one.unread}) == 3, "three ways to say it"
    assert all("{" not in text.format(k=1, c="x", d="y") for text in (*one.phrases, one.unread))
    assert all(f"{{{key}}}" in text for key in one.constants for text in (*one.phrases, one.unread))
    kind, before = ("ints", chain("cut_groups 2")) if one.given == "groups" else (one.given, ())
    for code in one.codes:
        for _ in range(20):
            value = compositions.result(before, compositions.KINDS[kind].draw(rng))
            constants = {key: rng.choice(choices) for key, choices in one.constants.items()}
            space = {"a": json.loads(json.dumps(value)), **constants}
            wanted = compositions.result((Step(one, constants),), value)
            if wanted is not None:
                exec(code, space)
                assert space["b"] == wanted and space["a"] == value


@pytest.mark.parametrize("split", compositions.SPLITS)
def test_references_pass_and_other_programs_do_not(split):
    for problem in SOME[split][:6]:
        assert all(one.passed for one in judged(problem, problem.solution)), problem
        constant = f"def solve(*_): return {problem.public[0].output!r}"
        if problem.style == "stdin":
            constant = f"print({problem.public[0].output!r}, end='')"
        assert not all(one.passed for one in judged(problem, constant)), "one answer for all inputs"


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.sampled_from(compositions.SPLITS))
def test_any_problem_is_whole_and_small(seed, split):
    [problem] = compositions.problems(split, 1, seed)
    assert [problem] == compositions.problems(split, 2, seed)[:1] and problem.generated
    assert "{" not in problem.statement.replace("{'", "") and problem.statement.count("\n") == 1
    assert len(problem.statement) < 500 and len(problem.solution) <= compositions.LONGEST_CODE
    assert ast.unparse(ast.parse(problem.solution)) == problem.solution
    cases = problem.public + problem.private
    assert (len(problem.public), len(problem.private)) == (compositions.PUBLIC, compositions.PRIVATE)
    assert len({json.dumps(case.input) for case in cases}) == len(cases)
    assert json.loads(json.dumps(cases)) == [list(case) for case in cases]
    assert problem.public[0].output != problem.public[1].output
    assert all(len(repr(value)) <= 60 for case in cases for value in case[:2])
    if problem.style == "call":  # our own program
        space = {}
        exec(problem.solution, space)
        assert all(space["solve"](*case.input) == case.output for case in cases)


@settings(max_examples=200, deadline=None)
@given(SEEDS, st.sampled_from((2, 3, 4)))
def test_where_a_chain_belongs_follows_from_its_steps_and_from_what_it_does(seed, depth):
    found = compositions._drawn(depth, Random(seed))
    names = [step.primitive.name for step in found]
    held_out = [
        pair for pair in itertools.pairwise(names) if compositions._rank(pair) < compositions.HELD_OUT
    ]
    split = home(found)
    assert split in ("", *compositions.SPLITS)
    if split:
        assert bool(held_out) == (split == "far") and (depth == 4) == (split == "deeper")
        assert (
            split
            == compositions.BEHAVIOURS_OF[compositions.behaviour(found) % len(compositions.BEHAVIOURS_OF)]
        )
    turned = tuple(reversed(found))
    if [one.primitive.given for one in turned] == [one.primitive.made for one in turned] and split:
        assert home(turned) in ("", split, "far"), "the order of steps does not make another split"


def test_splits_share_no_statement_and_no_program():
    statements = [problem.statement for found in SOME.values() for problem in found]
    assert len(set(statements)) == len(statements)
    functions = {
        split: {ast.dump(ast.parse(one.solution).body[0]) for one in found} for split, found in SOME.items()
    }
    for one, other in itertools.combinations(functions.values(), 2):
        assert not one & other
    pairs = {split: {problem.group for problem in found} for split, found in SOME.items()}
    assert not pairs["far"] & set().union(*(found for split, found in pairs.items() if split != "far"))


@pytest.mark.parametrize(
    ("steps", "why"),
    [
        (("sort_up", "sum_all"), "the sum does not depend on the order"),
        (("add_each 2", "add_each 3"), "one step does it"),
        (("reverse_list", "last_numbers 2", "sum_all"), "two other steps do it"),
        (("modulo_each 2", "keep_above 3"), "nothing is left"),
        (("keep_above 9", "keep_multiples 5", "largest"), "often undefined"),
        (("times_each 5", "square_each", "square_each"), "large numbers"),
    ],
)
def test_degenerate_chains_are_thrown_away(steps, why, monkeypatch):
    monkeypatch.setattr(compositions, "FREE_SHARE", 0)
    assert all(compositions.composed(chain(*steps), Random(seed)) is None for seed in range(5)), why


def test_a_problem_says_what_its_program_does():
    found = [
        compositions.composed(chain("keep_above 3", "square_each", "sum_all"), Random(s)) for s in range(60)
    ]
    shown = {(p.style, p.statement.count("k") > 0 and "xs, k" in p.statement): p for p in found if p}
    assert len(shown) >= 3, "functions and programs that read text, with and without a number as an argument"
    for problem in shown.values():
        case = problem.private[0]
        numbers, limit = case.input if len(case.input) == 2 else (case.input[0], 3)
        if problem.style == "stdin":
            lines = case.input.split("\n")
            numbers, limit = [int(x) for x in lines[0].split()], int(lines[1] or 3)
        wanted = sum(x * x for x in numbers if x > limit)
        assert case.output == (f"{wanted}\n" if problem.style == "stdin" else wanted)
    assert compositions.result(chain("keep_above 3", "largest"), [1, 2]) is None
    assert compositions.result(chain("windows 2", "sum_groups"), [1, 2, 3]) == [3, 5]


def test_only_the_base_never_reads_some_phrases():
    told = [re.sub(r"\\\{.\\\}", ".+", re.escape(one.unread)) for one in STEPS.values()]
    counts = {
        split: [sum(bool(re.search(text, one.statement)) for text in told) for one in found]
        for split, found in SOME.items()
    }
    for split, found in SOME.items():  # a step may come twice, and its phrase be a part of another one
        exact = [one.unread for one in found]
        assert [bool(told) for told in exact] == [bool(seen) for seen in counts[split]]
        assert abs(sum(exact) - sum(counts[split])) <= 0.1 * sum(exact)
    assert not any(counts.pop("base"))
    assert all(0.7 < sum(found) / len(found) < 2.5 for found in counts.values()), "half of two to four steps"


def test_problems_follow_from_their_seed():
    few, many = compositions.problems("near", 5), compositions.problems("near", 15)
    assert few == many[:5] and compositions.problems("near", 5, seed=1) != few
    styles = [problem.style for found in SOME.values() for problem in found]
    assert 0.1 < styles.count("stdin") / len(styles) < 0.4


def test_bad_requests(monkeypatch):
    with pytest.raises(GrlibError, match="split 'test': choose one of base, train, valid, near, far, deeper"):
        compositions.problems("test", 1)
    monkeypatch.setattr(compositions, "TRIES", 1)
    with pytest.raises(GrlibError, match="split 'valid' has [0-9] problems, not 99; ask for fewer"):
        compositions.problems("valid", 99)
