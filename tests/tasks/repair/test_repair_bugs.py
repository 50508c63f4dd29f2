"""Injected bugs: programs that still are programs, and mostly wrong."""

from __future__ import annotations

import ast
import itertools
from random import Random

from grlib import sandbox
from grlib.tasks.repair import bugs, compositions

CODE = """def solve(xs):
    total = 0
    for i in range(1, len(xs) - 1):
        if xs[i] > 3 and i < 9:
            total += xs[i]
        elif xs[i] == 'x':
            total = max(total, 1)
    return sorted(xs[1:], reverse=True)"""


def changed_lines(program):
    return {line.strip() for line in program.split("\n")} - {line.strip() for line in CODE.split("\n")}


def test_every_kind_of_bug_is_made():
    made = list(bugs.programs_with_bugs(CODE, Random(0)))
    lines = set().union(*map(changed_lines, made))
    for line in (
        "if xs[i] >= 3 and i < 9:",  # another comparison
        "if xs[i] > 3 or i < 9:",
        "if xs[i] > 4 and i < 9:",  # off by one
        "total -= xs[i]",
        "elif xs[i] == 'a':",
        "total = min(total, 1)",
        "for i in range(1, len(xs)):",  # a bound without its - 1
        "for i in range(len(xs) - 1):",
        "return list(xs[1:], reverse=True)",
        "return sorted(xs[1:])",
        "return sorted(xs[:], reverse=True)",
        "return sorted(i[1:], reverse=True)",  # another name
    ):
        assert line in lines, line
    assert any("total = max" not in program for program in made), "a case that is missing"
    assert len(made) == len(set(made)) and CODE not in made


def test_the_order_is_random_and_follows_the_generator():
    one, again, other = (list(bugs.programs_with_bugs(CODE, Random(seed))) for seed in (1, 1, 2))
    assert one == again != other and sorted(one) == sorted(other)


def test_most_programs_with_a_bug_fail_and_hidden_tests_tell_those_that_public_ones_miss():
    jobs = []
    for problem in compositions.problems("train", 12):
        assert ast.unparse(ast.parse(problem.solution)) == problem.solution
        tests = [case._asdict() for case in problem.public + problem.private]
        for program in itertools.islice(bugs.programs_with_bugs(problem.solution, Random(0)), 5):
            compile(program, "broken", "exec")
            jobs.append((program, tests, problem.style, problem.entry))
    verdicts = [[outcome.passed for outcome in found] for found in sandbox.run_all(jobs)]
    public = sum(not all(passed[: compositions.PUBLIC]) for passed in verdicts)
    assert 0.7 * len(jobs) < public <= sum(not all(passed) for passed in verdicts)
