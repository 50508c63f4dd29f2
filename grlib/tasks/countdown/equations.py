"""Countdown as TinyZero and its followers pose it: the answer is one expression in `<answer>` tags.

`equation_prompt` asks, `grade_equation` judges in exact fractions, `read_problems` reads the usual data sets
(columns `nums` and `target`, as in `Jiayi-Pan/Countdown-Tasks-3to4`). Here intermediate results may be
negative or fractions, as in `3-5+4`; the rules of `puzzle`, which traces follow, allow neither.
"""

from __future__ import annotations

import operator
import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

from grlib.errors import GrlibError
from grlib.tasks.countdown.puzzle import Problem
from grlib.tasks.countdown.traces import Verdict
from grlib.tasks.external import load_rows

OPEN, CLOSE = "<answer>", "</answer>"
TOKEN = re.compile(r"[0-9]++|[^ \t\r\n]")  # a point, `!` or another script's digit is a sign of its own
RANK = {"(": 0, ")": 1, "+": 2, "-": 2, "*": 3, "/": 3}
WORK = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


def equation_prompt(problem: Problem) -> str:
    """The question in plain words, for any chat model."""
    return (
        f"Using each of the numbers {[*problem.nums]} exactly once, write an expression that equals "
        f"{problem.target}. Only + - * / and brackets are allowed. Think first, then give the expression "
        f"alone in {OPEN} tags, for example {OPEN}(1 + 2) / 3{CLOSE}."
    )


def grade_equation(response: str, problem: Problem) -> Verdict:
    """Does the answer make the target from every number once, and if not, why? True when correct.

    The last pair of tags counts: a model may quote the tags or try a draft while it thinks, and what it ends
    with is its answer (TinyZero and reasoning-gym do so; nano-aha-moment and GRPO-Zero take the first pair).
    Text is parsed, never evaluated: plain whole numbers, one of + - * / between two operands, round brackets.
    Time and memory are linear in the length, however deep the brackets are.
    """
    end = response.rfind(CLOSE)
    start = response.rfind(OPEN, 0, max(end, 0))
    reason = "no answer" if start < 0 else _judge(response[start + len(OPEN) : end], problem)
    return Verdict(reason == "correct", reason)


def _judge(text: str, problem: Problem) -> str:
    tokens = TOKEN.findall(text)
    numbers = Counter(token for token in tokens if token not in RANK)
    if not all("0" <= token[0] <= "9" for token in numbers):
        return "malformed expression"
    given = Counter(map(str, problem.nums))  # compared as text: a long number is never worked out
    if numbers != given:
        return "number not available" if numbers - given else "numbers left over"
    try:
        value = _value(tokens)
    except ZeroDivisionError:
        return "division by zero"
    if value is None:
        return "malformed expression"
    return "correct" if value == problem.target else "target missed"


def _value(tokens: Sequence[str]) -> Fraction | None:
    """The value of an expression, None where it is none: a stack of values and one of signs that wait."""
    values: list[Fraction] = []
    signs, operand_next = ["("], True  # as if the whole stood in brackets
    for token in [*tokens, ")"]:
        if not signs or (token == "(" or token not in RANK) != operand_next:
            return None
        if token == "(":
            signs.append(token)
        elif operand_next:
            values.append(Fraction(int(token)))
            operand_next = False
        else:
            while RANK[signs[-1]] >= RANK[token]:
                right = values.pop()
                values.append(WORK[signs.pop()](values.pop(), right))
            if token == ")":
                signs.pop()
            else:
                signs.append(token)
                operand_next = True
    return None if signs else values[0]


def read_problems(place: str, split: str = "train", start: int = 0, stop: int | None = None) -> list[Problem]:
    """The problems of rows start .. stop-1 of a data set with columns `nums` and `target`.

    `place`: a local folder or file, or a hub name, best with its commit (`owner/name@commit`). Raises
    GrlibError where it cannot be loaded, lacks a column, or holds something else than positive whole numbers.
    """
    rows = load_rows(place, split)
    if not {"nums", "target"} <= set(rows.column_names):
        raise GrlibError(f"data set {place!r} has columns {rows.column_names}: nums and target are needed")
    part, problems = rows[start:stop], []
    for number, (nums, target) in enumerate(zip(part["nums"], part["target"], strict=True), start):
        try:
            problems.append(Problem(nums, target))
        except GrlibError as error:
            raise GrlibError(f"data set {place!r}, split {split!r}, row {number}: {error}") from error
    return problems
