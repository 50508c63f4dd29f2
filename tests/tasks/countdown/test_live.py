"""Type a problem, watch it search."""

import re
import subprocess
import sys

import pytest

from grlib.__main__ import main
from grlib.tasks.countdown import live as watching

SOLVABLE = ["3", "5", "7", "11", "--target", "26"]


def test_a_model_searches_and_its_tries_end_with_a_solution(capsys):
    folder = watching.REPOSITORY / "paper_results" / "base" / "sos"  # the smallest
    problem = ["2", "3", "4", "5", "--target", "14"]
    assert main(["search", *problem, "--model", str(folder), "--tries", "9", "--seed", "1"]) == 0
    solved, root, *_, verdict, nodes = capsys.readouterr().out.splitlines()
    assert solved.startswith("solver: ") and root == "Current State: 14:[2, 3, 4, 5], Operations: []"
    assert verdict.startswith("base/sos: ") and verdict.endswith("verdict: correct")
    assert re.fullmatch("nodes explored: model [1-9][0-9]*, depth-first search [1-9][0-9]*", nodes)


def test_a_problem_without_a_solution_is_not_searched(capsys):
    folder = watching.REPOSITORY / "paper_results" / "base" / "sos"
    assert main(["search", "1", "1", "1", "1", "--target", "99", "--model", str(folder)]) == 1
    assert capsys.readouterr().out == "solver: [1, 1, 1, 1] cannot make 99; try another target\n"


def test_the_trace_is_printed_while_it_is_sampled(monkeypatch, capsys):
    from transformers import TextStreamer

    printed = []
    monkeypatch.setattr(
        TextStreamer, "on_finalized_text", lambda self, text, stream_end=False: printed.append(text)
    )
    folder = watching.REPOSITORY / "paper_results" / "base" / "sos"
    assert main(["search", "2", "3", "4", "5", "--target", "14", "--model", str(folder)]) == 0
    assert len(printed) > 20 and "".join(printed).startswith("Current State: 14:[2, 3, 4, 5]")


def test_without_the_best_the_next_one_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(watching, "REPOSITORY", tmp_path)
    with pytest.raises(watching.GrlibError, match="no model in .*: use a full checkout"):
        watching.best_model()
    for name in reversed(watching.MODELS):
        folder = tmp_path / "paper_results" / name
        folder.mkdir(parents=True)
        (folder / "config.json").touch()
        assert watching.best_model() == folder


@pytest.mark.parametrize(
    "arguments",
    [
        ["a", "b"], ["3,5,7,11", "--target", "26"], ["3", "5"], ["3.5", "--target", "9"],
        [*SOLVABLE, "--bogus", "1"], [*SOLVABLE, "--temperature", "nan"], [*SOLVABLE, "--model", "nowhere"],
    ],
)  # fmt: skip
def test_wrong_requests_are_refused_before_the_libraries_are_loaded(arguments):
    code = f"import sys\nfrom grlib.__main__ import main\ntry: code = main(['search', *{arguments}])\n"
    code += "except SystemExit as end: code = end.code\nprint(code, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "2 False\n" and done.stderr.strip()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["0", "2", "3", "4", "--target", "9"], "nums holds 0: every number must be a positive integer"),
        ([*SOLVABLE, "--tries", "0"], "--tries 0: must be from 1 to 1000"),
        ([*SOLVABLE, "--seed", "-5"], "--seed -5: must be from 0 to"),
        ([*SOLVABLE, "--seed", str(2**70)], f"--seed {2**70}: must be from 0 to"),
        ([*SOLVABLE, "--temperature", "nan"], "--temperature nan: must be from 0.01 to 100"),
        ([*SOLVABLE, "--temperature", "inf"], "--temperature inf: must be from 0.01 to 100"),
        ([*SOLVABLE, "--temperature", "1e-300"], "--temperature 1e-300: must be from 0.01 to 100"),
        ([*SOLVABLE, "--temperature", "-1"], "--temperature -1.0: must be from 0.01 to 100"),
        (["1", "2", "3", "4", "--target", "9", "--model", "nowhere"], "no model in nowhere"),
        (["1", "2", "3", "--target", "6"], "knows 4 numbers of 1..99 and targets of 10..100"),
        (["1", "2", "3", "4", "--target", "9"], "knows 4 numbers of 1..99 and targets of 10..100"),
        (["3", "5", "7", "11", "13", "--target", "26"], "knows 4 numbers of 1..99"),
        (["3", "5", "7", "11", "--target", "0"], "knows 4 numbers of 1..99"),
        (["200", "2", "3", "4", "--target", "14"], "knows 4 numbers of 1..99 and targets of 10..100"),
    ],
)
def test_bad_requests_are_one_clear_line(arguments, message, capsys):
    assert main(["search", *arguments]) == 2
    assert message in capsys.readouterr().err
