"""Type a problem, watch it search."""

import pytest

from grlib.__main__ import main
from grlib.tasks.countdown import live as watching


def test_a_model_searches_and_its_tries_end_with_a_solution(capsys):
    folder = watching.REPOSITORY / "paper_results" / "base" / "sos"  # the smallest
    problem = ["2", "3", "4", "5", "--target", "14"]
    assert main(["search", *problem, "--model", str(folder), "--tries", "9", "--seed", "1"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("Current State: 14:[2, 3, 4, 5], Operations: []\n") and "base/sos: " in said
    assert said.count("verdict: correct") == 1 and said.rstrip().endswith("verdict: correct")


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
        (["1", "2", "3", "4", "--target", "9", "--tries", "0"], "--tries 0: must be 1 or more"),
        (["1", "2", "3", "4", "--target", "9", "--model", "nowhere"], "no model in nowhere"),
    ],
)
def test_bad_requests_are_one_clear_line(arguments, message, capsys):
    assert main(["search", *arguments]) == 2
    assert message in capsys.readouterr().err
