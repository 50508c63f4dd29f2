"""Expressions in answer tags: exact verdicts, what public verifiers accept and must not, and data sets."""

import ast
import random
import re
from fractions import Fraction

import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grlib.errors import GrlibError
from grlib.tasks.countdown import (
    Problem,
    all_solutions,
    equation_prompt,
    grade,
    grade_equation,
    straight_path,
)
from grlib.tasks.countdown.data import draw
from grlib.tasks.countdown.equations import read_problems
from grlib.tasks.countdown.scale import Scale


def verdict(expression: str, nums, target: int) -> str:
    return grade_equation(f"<think>...</think>\n<answer>{expression}</answer>", Problem(nums, target)).reason


@pytest.mark.parametrize(
    "expression, nums, target",
    [
        ("2**3", [2, 3], 8),
        ("7//2", [7, 2], 3),
        ("1.5*2", [1, 5, 2], 3),
        ("1/97/98/99+50", [1, 97, 98, 99, 50], 50),
        ("10*90+1/100/99", [10, 90, 1, 100, 99], 900),
        ("278208", [278208], 278209),
        ("9007199254740993/1", [9007199254740993, 1], 9007199254740992),
        ("4!", [4], 24),
        ("7%4", [7, 4], 3),
        ("6^2", [6, 2], 4),
        ("sqrt(16)+5", [16, 5], 9),
        ("binomial(4,2)", [4, 2], 6),
        ("5+x-x", [5], 5),
        ("٢+٣", [2, 3], 5),
        ("²+3", [2, 3], 5),
        ("\uff12+3", [2, 3], 5),
        ("2\uff0b3", [2, 3], 5),
        ("2+\u00a03", [2, 3], 5),
        ("02+3", [2, 3], 5),
        ("2_0+3", [20, 3], 23),
        ("2e1+3", [2, 1, 3], 23),
        ("-2+3", [2, 3], 1),
        ("3--2", [2, 3], 5),
        ("+3", [3], 3),
        ("2+3=5", [2, 3, 5], 5),
        ("2 3", [2, 3], 23),
        ("(2)(3)", [2, 3], 6),
        ("2+3)", [2, 3], 5),
        ("2)+(3", [2, 3], 5),
        ("(2+3", [2, 3], 5),
        ("2+()3", [2, 3], 5),
        ("2+3+", [2, 3], 5),
        ("2+3, so 5", [2, 3, 5], 5),
        ("[2+3]", [2, 3], 5),
        ("2+3+3", [2, 3], 8),
        ("2+2", [2, 3], 4),
        ("3/(2-2)", [2, 2, 3], 3),
        ("2*3", [2, 3, 4], 6),
        ("", [2, 3], 5),
        ("9" * 10_000, [2], 2),
    ],
)
def test_what_breaks_the_rules_is_refused(expression, nums, target):
    assert verdict(expression, nums, target) != "correct"


@pytest.mark.parametrize(
    "expression, nums, target, reason",
    [
        ("(14+15)*2 - 84", [84, 2, 14, 15], 0, "target missed"),
        ("84 - 2*(14 + 15)", [84, 2, 14, 15], 26, "correct"),
        ("3-5+4", [3, 5, 4], 2, "correct"),
        ("5/2*4", [5, 2, 4], 10, "correct"),
        ("8/(3-8/3)", [3, 3, 8, 8], 24, "correct"),
        ("20-5-3", [20, 5, 3], 12, "correct"),
        ("\n((7))\t", [7], 7, "correct"),
        ("2+3", [2, 3, 4], 5, "numbers left over"),
        ("2+3+3", [2, 3], 8, "number not available"),
        ("3/(2-2)", [2, 2, 3], 3, "division by zero"),
        ("2**3", [2, 3], 8, "malformed expression"),
    ],
)
def test_verdicts_worked_by_hand(expression, nums, target, reason):
    assert verdict(expression, nums, target) == reason


@pytest.mark.parametrize(
    "response, reason",
    [
        ("2+3", "no answer"),
        ("<answer>2+3", "no answer"),
        ("2+3</answer><answer>", "no answer"),
        ("<answer>2*3</answer> no: <answer>2+3</answer>", "correct"),
        ("<answer>2+3</answer> no: <answer>2*3</answer>", "target missed"),
        ("The <answer> tags: <answer>2+3</answer>.", "correct"),
        ("<answer>2+3</answer> or <answer>2*", "correct"),
        ("<ANSWER>2+3</ANSWER>", "no answer"),
    ],
)
def test_the_last_pair_of_tags_counts(response, reason):
    verdict = grade_equation(response, Problem((2, 3), 5))
    assert (verdict.reason, bool(verdict)) == (reason, reason == "correct")


def test_the_prompt_poses_the_problem_and_does_not_answer_it():
    problem = Problem((84, 2, 14, 15), 26)
    prompt = equation_prompt(problem)
    assert "[84, 2, 14, 15]" in prompt and "26" in prompt
    assert not grade_equation(prompt, problem)


@pytest.mark.parametrize(
    "text",
    ["(" * 200_000 + "7" + ")" * 200_000, "(" * 400_000, "7+" * 200_000, "<answer>" * 50_000, "7" * 400_000],
)
def test_any_length_and_depth_is_read(text):
    deep = text.startswith("(") and text.endswith(")")
    assert bool(grade_equation(f"<answer>{text}</answer>", Problem((7,), 7))) == deep


def exact(text: str) -> Fraction | None:
    """The value by Python's own parser; None for anything but + - * / between whole numbers."""

    def value(node):
        if isinstance(node, ast.Constant) and type(node.value) is int:
            return Fraction(node.value)
        if isinstance(node, ast.BinOp) and type(node.op) in work:
            return work[type(node.op)](value(node.left), value(node.right))
        raise SyntaxError

    work = {ast.Add: Fraction.__add__, ast.Sub: Fraction.__sub__}
    work |= {ast.Mult: Fraction.__mul__, ast.Div: Fraction.__truediv__}
    try:
        return value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ZeroDivisionError):
        return None


def judged(text: str) -> None:
    """The verdict on a text that uses the numbers given is Python's own, with fractions."""
    value = exact(text)
    target = int(value) if value is not None and value >= 0 else 1
    nums = [int(number) for number in re.findall("[0-9]+", text)]
    assert (verdict(text, nums, target) == "correct") == (value == target), (text, value)


expressions = st.recursive(
    st.integers(1, 99).map(str),
    lambda part: st.one_of(
        st.tuples(part, st.sampled_from("+-*/"), part).map("".join),
        part.map("({})".format),
        part.map(" {} ".format),
    ),
    max_leaves=6,
)


@given(expressions)
def test_any_expression_is_worked_out_in_fractions(text):
    judged(text)


@settings(max_examples=200)
@given(st.text("1234567+-*/() ", min_size=1, max_size=9).filter(re.compile("[0-9]").search))
@pytest.mark.filterwarnings("ignore::SyntaxWarning")  # Python's parser on `1(2)`
def test_any_text_of_the_allowed_signs_is_an_expression_or_refused(text):
    judged(text)


def test_a_solution_is_right_as_a_trace_and_as_an_expression():
    for problem, _ in draw(Scale(max_number=20), "test", 20):
        for solution in list(all_solutions(problem))[:5]:
            parts = [(number, str(number)) for number in problem.nums]
            for step in solution:
                left, sign, right, result = re.fullmatch(r"(\d+)(\D)(\d+)=(\d+)", step).groups()
                a = parts.pop([number for number, _ in parts].index(int(left)))
                b = parts.pop([number for number, _ in parts].index(int(right)))
                parts.append((int(result), f"({a[1]}{sign}{b[1]})"))
            [(_, expression)] = parts
            other = Problem(problem.nums, problem.target + random.Random(expression).randint(1, 9))
            for asked in (problem, other):
                by_trace = grade(straight_path(problem, solution), asked)
                assert bool(by_trace) == (verdict(expression, asked.nums, asked.target) == "correct")


def test_data_sets_are_read_in_parts_and_checked(tmp_path):
    frame = pandas.DataFrame({"target": [98, 64, 28], "nums": [[44, 19, 35], [63, 95, 96], [95, 11, 56, 2]]})
    frame.to_parquet(tmp_path / "train-00000-of-00001.parquet")
    problems = [Problem((44, 19, 35), 98), Problem((63, 95, 96), 64), Problem((95, 11, 56, 2), 28)]
    assert read_problems(str(tmp_path)) == problems
    assert read_problems(str(tmp_path), start=1, stop=2) == problems[1:2]
    for wrong, message in (
        (frame.assign(nums=[[1], [2, -3], [4]]), "row 1.*-3"),
        (frame.drop(columns="nums"), "nums and target"),
    ):
        wrong.to_parquet(tmp_path / "wrong.parquet")
        with pytest.raises(GrlibError, match=message):
            read_problems(str(tmp_path / "wrong.parquet"))


def test_a_hub_name_keeps_its_commit(monkeypatch):
    import datasets

    asked = []

    def load_dataset(name, **options):
        asked.append((name, options["split"], options["revision"]))
        return datasets.Dataset.from_dict({"nums": [[2, 3]], "target": [5]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert read_problems("owner/name@abc123", "test") == [Problem((2, 3), 5)]
    assert asked == [("owner/name", "test", "abc123")]
