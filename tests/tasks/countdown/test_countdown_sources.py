"""Problems and traces from data sets in the authors' layout: what is read, and what is refused."""

from __future__ import annotations

import pytest

from grlib import profiles
from grlib.errors import GrlibError
from grlib.tasks.countdown import data as countdown_data
from grlib.tasks.countdown import rows
from grlib.tasks.countdown import sources as countdown_sources
from grlib.tasks.countdown.puzzle import Problem
from grlib.tasks.countdown.searchers import depth_first
from grlib.tasks.countdown.sources import SPLITS, examples_of, splits_of
from grlib.tasks.countdown.vocabulary import question, read_question
from grlib.tasks.external import load_rows

SMALL = profiles.changed(
    profiles.get("rehearsal"), valid_problems=3, test_problems=4, self_training={"train_problems": 6}
)
DRAWN = countdown_data.make_splits(SMALL.countdown, 6, 3, 4)


@pytest.fixture
def folder(tmp_path):
    """A data set as the hub lays it out, and the profile that names it."""
    for role, split in SPLITS.items():
        place = tmp_path / "rl" / "data" / f"{split}-00000-of-00001.parquet"
        place.parent.mkdir(parents=True, exist_ok=True)
        rows.problem_rows(getattr(DRAWN, role)).to_parquet(place)
    traces = [depth_first(problem, "sum", 2) for problem, _ in DRAWN.train]
    frame = rows.message_rows([question(problem) for problem, _ in DRAWN.train], traces)
    frame.to_parquet(tmp_path / "sft.parquet")
    return tmp_path


def sourced(folder, **changes):
    places = {"problems_source": str(folder / "rl"), "imitation_source": str(folder / "sft.parquet")}
    return profiles.changed(SMALL, **places | changes)


def test_every_role_gets_its_split(folder):
    assert splits_of(sourced(folder), seed=7) == DRAWN
    fewer = splits_of(sourced(folder, test_problems=2), seed=0)
    assert fewer.seen == DRAWN.seen[:2] and fewer.train == DRAWN.train


def test_without_a_source_problems_are_drawn_for_the_seed():
    assert splits_of(SMALL, seed=3) == countdown_data.make_splits(SMALL.countdown, 6, 3, 4, seed=3)
    assert examples_of(SMALL, 3, 2) == countdown_data.imitation_examples(SMALL.countdown, 3, start=2)


def test_examples_are_the_rows_in_their_order(folder):
    found = examples_of(sourced(folder), 3, start=2)
    assert [(one.problem, one.solution) for one in found] == DRAWN.train[2:5]
    assert found[0].trace == depth_first(found[0].problem, "sum", 2)


@pytest.mark.parametrize("missing", ["problems_source", "imitation_source"])
def test_one_source_without_the_other_is_refused(folder, missing):
    with pytest.raises(GrlibError, match="give both or none"):
        splits_of(sourced(folder, **{missing: ""}), seed=0)


def test_a_model_from_scratch_learns_from_drawn_examples(folder):
    with pytest.raises(GrlibError, match="profile with a pretrained model"):
        examples_of(sourced(folder, model={"pretrained": ""}), 1)


def test_too_few_rows_are_counted(folder):
    with pytest.raises(GrlibError, match=r"split train: has 6 rows, 7 are wanted"):
        splits_of(sourced(folder, self_training={"train_problems": 7}), seed=0)
    with pytest.raises(GrlibError, match=r"has 6 rows, 8 are wanted"):
        examples_of(sourced(folder), 4, start=4)


HELD_OUT = DRAWN.unseen[-1][0].target
LEAKS = {
    "a test problem in another order": Problem(DRAWN.seen[0][0].nums[::-1], DRAWN.seen[0][0].target),
    "a validation problem in another order": Problem(DRAWN.valid[0][0].nums[::-1], DRAWN.valid[0][0].target),
    "a held-out target": Problem((HELD_OUT, 5, 5), HELD_OUT),
}


@pytest.mark.parametrize("leak", LEAKS)
def test_a_leak_is_refused_in_problems_and_in_traces(folder, leak):
    held = [*DRAWN.train[:5], (LEAKS[leak], countdown_sources.solve(LEAKS[leak]))]
    rows.message_rows([question(problem) for problem, _ in held], ["No."] * 6).to_parquet(
        folder / "sft.parquet"
    )
    assert splits_of(sourced(folder), seed=0) == DRAWN and len(examples_of(sourced(folder), 5)) == 5
    words = "is a test or validation problem, or its target is held out"
    with pytest.raises(GrlibError, match=rf"sft.parquet, split train, row 5: .* {words}"):
        examples_of(sourced(folder), 2, start=4)
    rows.problem_rows(held).to_parquet(folder / "rl" / "data" / "train-00000-of-00001.parquet")
    countdown_sources._opened.cache_clear()
    with pytest.raises(GrlibError, match=rf"rl, split train: .* {words}"):
        splits_of(sourced(folder), seed=0)


def test_a_test_problem_is_no_validation_problem(folder):
    path = folder / "rl" / "data" / "validation-00000-of-00001.parquet"
    rows.problem_rows([*DRAWN.valid[:2], DRAWN.seen[0]]).to_parquet(path)
    with pytest.raises(GrlibError, match=r"split validation: .* is a test or validation problem"):
        splits_of(sourced(folder), seed=0)


def test_faults_of_rows_name_the_place(folder):
    rows.message_rows(["Tell me a joke."], ["No."]).to_parquet(folder / "sft.parquet")
    with pytest.raises(GrlibError, match=r"row 0: 'Tell me a joke.' poses no Countdown problem"):
        examples_of(sourced(folder), 1)


def test_faults_of_problems_name_the_split(folder):
    path = folder / "rl" / "data" / "validation-00000-of-00001.parquet"
    rows.problem_rows(DRAWN.valid).drop(columns="extra_info").to_parquet(path)
    with pytest.raises(GrlibError, match=r"rl, split validation: column 'extra_info' is missing"):
        splits_of(sourced(folder), seed=0)


def test_a_place_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(GrlibError, match=r"data set .*nowhere.*name a data set of the hub, or a local"):
        load_rows(str(tmp_path / "nowhere"), "train")


@pytest.mark.parametrize(
    "text", ["", "Target: 24", "Target: 24, Numbers: [1, 2", "Target: 24, Numbers: []", "x" * 10**6]
)
def test_only_a_question_is_taken_for_one(text):
    assert read_question(text) is None
    assert read_question(question(Problem((5, 3), 8))) == Problem((5, 3), 8)
