"""Type a problem, watch it search."""

import re

import pytest

from grlib.__main__ import main
from grlib.tasks.countdown import live as watching


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
    ("arguments", "message"),
    [
        (["0", "2", "3", "4", "--target", "9"], "nums holds 0: every number must be a positive integer"),
        (["1", "2", "3", "4", "--target", "9", "--tries", "0"], "--tries 0, --seed 0: must be 1 or more"),
        (["1", "2", "3", "4", "--target", "9", "--seed", "-5"], "--seed -5: must be 1 or more, 0 to"),
        (["1", "2", "3", "4", "--target", "9", "--seed", str(2**70)], "must be 1 or more, 0 to"),
        (["1", "2", "3", "4", "--target", "9", "--temperature", "nan"], "temperature = nan: must be"),
        (["1", "2", "3", "4", "--target", "9", "--temperature", "inf"], "temperature = inf: must be"),
        (["1", "2", "3", "4", "--target", "9", "--temperature", "-1"], "temperature = -1: must be"),
        (["1", "2", "3", "4", "--target", "9", "--model", "nowhere"], "no model in nowhere"),
        (["1", "2", "3", "--target", "6"], "knows 4 numbers of 1..99 and targets of 10..100"),
        (["1", "2", "3", "4", "--target", "9"], "knows 4 numbers of 1..99 and targets of 10..100"),
        (["200", "2", "3", "4", "--target", "14"], "knows 4 numbers of 1..99 and targets of 10..100"),
    ],
)
def test_bad_requests_are_one_clear_line(arguments, message, capsys):
    assert main(["search", *arguments]) == 2
    assert message in capsys.readouterr().err
