"""The benchmark: it runs, compares before it measures, writes nothing unasked, and its textbook side is
right."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

import benchmarks as bench
from benchmarks import plain, reinforce, speed
from grlib import profiles
from grlib.errors import GrlibError
from grlib.models.llama import load_both
from grlib.ppo.learner import batch_of
from grlib.tasks.countdown.data import draw
from grlib.tasks.countdown.guidance import rewrite
from grlib.tasks.countdown.puzzle import Problem
from grlib.tasks.countdown.scale import Scale
from grlib.tasks.countdown.searchers import depth_first, straight_path
from grlib.tasks.countdown.task import ppo_settings
from grlib.tasks.countdown.traces import grade
from grlib.training.rows import Rollout

ROOT = Path(__file__).parents[1]
PROBLEM = Problem((2, 3, 4), 24)
SOLUTION = ("2*3=6", "4*6=24")


def test_the_textbook_solves_and_grades_by_hand():
    assert plain.solve([2, 3, 4], 24) == list(SOLUTION)
    assert plain.solve([3, 3, 8, 8], 24) is None
    trace = straight_path(PROBLEM, SOLUTION)
    assert plain.grade(trace, [2, 3, 4], 24)
    for old, new in (("4*6=24", "4*6=25"), ("24,24 equal", "25,24 equal"), ("['2*3=6']", "['2*3=7']")):
        assert not plain.grade(trace.replace(old, new), [2, 3, 4], 24)
    assert not plain.grade(trace, [2, 3, 5], 24)
    assert not plain.grade("", [2, 3, 4], 24)


def test_the_textbook_rewrites_by_hand():
    root = "Current State: 24:[2, 3, 4], Operations: []\n"
    whole = straight_path(PROBLEM, SOLUTION)
    guided = root
    for _ in SOLUTION:
        guided = plain.rewrite(guided, [2, 3, 4], 24, SOLUTION, random.Random(0))
    assert guided + "\n" == whole
    assert plain.rewrite("nonsense", [2, 3, 4], 24, SOLUTION, random.Random(0)) == root


def test_both_rewrite_alike():
    for number, (problem, solution) in enumerate(draw(Scale(), "both", 40)):
        trace = depth_first(problem, "sum")[: 200 * number]
        for seed in range(3):
            theirs = plain.rewrite(trace, list(problem.nums), problem.target, solution, random.Random(seed))
            ours = rewrite(trace, problem, solution, rng=random.Random(seed))
            assert grade(ours, problem).correct == grade(theirs, problem).correct
            assert ours == theirs or len(ours) != len(theirs)  # ours may know a branch with swapped operands


def test_unequal_outputs_give_no_ratio():
    with pytest.raises(GrlibError, match="equal"):
        speed.compare("wrong", range(20), lambda i: i, lambda i: i + (i == 7))
    row = speed.compare("nearly", range(20), lambda i: i, lambda i: i + (i == 7), must_agree=0.9)
    assert "95.0% of the outputs equal" in row.note


def test_ratios_know_times_from_rates():
    assert speed.Row("a", "us", 20.0, 2.0).ratio == 10
    assert speed.Row("a", "tokens/s", 2.0, 20.0).ratio == 10
    assert speed.Row("a", "ms", None, 2.0).ratio is None


@pytest.mark.integration
def test_the_table_and_the_report(tmp_path, capsys):
    path = tmp_path / "bench.json"
    parts = ["problems", "solver", "trace", "rewrite", "grade", "sandbox"]
    assert bench.main(["--quick", *parts, "--json", str(path)]) == 0
    table = capsys.readouterr().out
    report = json.loads(path.read_text())
    assert [row["what"] for row in report["rows"]][0] == "problem + solution + trace"
    for row in report["rows"]:
        assert row["what"] in table and row["ratio"] > 0, row
    assert os.listdir(tmp_path) == ["bench.json"]


def test_models_are_skipped_with_a_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "SHIPPED", tmp_path / "not trained yet")
    assert bench.main(["sampling", "training", "--quick"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split(",")[0] for line in lines] == ["sampling: skipped", "training: skipped"]


@pytest.mark.integration
def test_models_are_compared_on_the_same_requests_and_rows(tiny_folder, capsys):
    assert bench.main(["sampling", "--quick", "--threads", "1", "--model", str(tiny_folder)]) == 0
    table = capsys.readouterr().out
    assert "greedy outputs equal: 4 of 4" in table
    assert "sampling, to continuous batching" in table


@pytest.mark.integration
def test_engines_are_compared_at_several_batch_sizes(tiny_folder, capsys):
    assert bench.main(["engines", "--quick", "--threads", "1", "--model", str(tiny_folder)]) == 0
    table = capsys.readouterr().out
    for batch in (1, 4):
        assert f"tiny, batch {batch}: batched" in table


@pytest.mark.integration
def test_a_ppo_step_is_timed_part_by_part(capsys):
    assert bench.main(["ppo", "--quick", "--threads", "1"]) == 0
    table = capsys.readouterr().out
    for part in ("sampling", "grading", "scoring", "updating", "whole"):
        assert f"PPO step, {part}" in table


def test_padded_mini_batches_score_the_same():
    """The plain loop that the benchmark compares with is the same update, only padded."""
    policy, _ = load_both(bench.SHIPPED)
    settings = ppo_settings(profiles.get("laptop"), "guided_rest_ppo")
    rows = [Rollout((1,), (5, 6, 7)[:n], (0.0,) * n, (0,), (), False, True) for n in (3, 1, 2)]
    batch = reinforce.PaddedLearner(policy, settings).rescored(batch_of(rows))
    alone = [reinforce.PaddedLearner(policy, settings).rescored(batch_of([row])) for row in rows]
    for i, one in enumerate(alone):
        found = batch.old_logprob[i, : one.old_logprob.shape[1]]
        assert found.tolist() == pytest.approx(one.old_logprob[0].tolist(), abs=1e-4)


@pytest.mark.parametrize(
    "arguments",
    [
        ["speed"],
        ["--threads", "-1", "grade"],
        ["grade", "--json", "/nowhere/at/all/x.json"],
        ["sampling", "--model", "/nowhere/at/all"],
    ],
)
def test_bad_arguments_are_one_clear_line(arguments):
    with pytest.raises(GrlibError) as caught:
        bench.main(arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.integration
def test_the_command_writes_nothing_unasked(tmp_path):
    command = [sys.executable, "-m", "benchmarks", "--quick", "import"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "import of countdown, search, traces" in result.stdout
    assert not list(tmp_path.iterdir())
