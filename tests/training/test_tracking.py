"""Curves sent to trackio: which rows, only where they are asked for, and what a missing package says."""

import sys
from types import SimpleNamespace

import pytest
from conftest import tiny_model

from grlib.errors import GrlibError
from grlib.profiles import Training
from grlib.training import loop as training
from grlib.training.loop import train
from grlib.training.rows import make_rows


@pytest.fixture
def sent(monkeypatch):
    """What trackio would get: (project, run, step, values)."""
    found = []

    def run(project, name):
        return SimpleNamespace(log=lambda values, step: found.append((project, name, step, values)))

    monkeypatch.setattr(training, "_run", run)
    return found


def trained():
    model, tokenizer = tiny_model()
    rows = make_rows(tokenizer, ["<s>1"] * 6, [", 2"] * 6, 64)
    settings = Training(batch_rows=2, epochs=1, lr=0.01)
    return train(model, rows, settings, seed=3, label="toy", valid=rows[:1], valid_every=2)


def test_rows_of_a_curve_are_sent_where_they_are_asked_for(sent, monkeypatch):
    trained()
    assert sent == []
    monkeypatch.setenv("GRLIB_TRACKIO", "paper")
    curve = trained().set_index("step")
    last = {"tokens_seen", "loss", "valid_loss"}
    assert [(*place, step, set(values)) for *place, step, values in sent] == [
        ("paper", "toy, seed 3", 2, last),
        ("paper", "toy, seed 3", 3, last),
    ]
    for *_, step, values in sent:
        assert values == curve.loc[step].to_dict()


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setenv("GRLIB_TRACKIO", "paper")
    monkeypatch.setitem(sys.modules, "trackio", None)
    training._run.cache_clear()
    with pytest.raises(GrlibError, match="trackio is not installed.*pip install trackio"):
        training.track("toy", {"step": 1, "loss": 1.0})
