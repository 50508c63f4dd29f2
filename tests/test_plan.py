"""The plan: a model's size is exact, work grows with the sizes, and recorded runs come out as they were."""

import pandas as pd
import pytest

from grlib import plan, profiles
from grlib.__main__ import main
from grlib.errors import GrlibError
from grlib.models.llama import bake
from grlib.runs import costs
from grlib.tasks.countdown.base import new_model
from grlib.tasks.countdown.vocabulary import build_tokenizer

LAPTOP, GPU, PAPER = map(profiles.get, ("laptop", "gpu", "paper"))


@pytest.mark.parametrize("p", [LAPTOP, GPU])
def test_the_size_of_a_model_from_scratch_is_that_of_the_model(p):
    words = build_tokenizer(p.whole_numbers)
    model = bake(new_model(p, words))
    weights, vocabulary = plan.size_of(p)
    assert weights == pytest.approx(sum(part.numel() for part in model.parameters()), rel=0.02)
    assert vocabulary == pytest.approx(len(words), rel=0.02)


def test_work_grows_with_the_sizes():
    row = 2 * PAPER.repair.self_training.row_length
    longer = profiles.changed(PAPER, budget=2 * PAPER.budget, repair={"self_training": {"row_length": row}})
    before, after = plan.work(PAPER), plan.work(longer)
    tokens = ["sampled", "trained", "reinforced"]
    assert (before >= 0).all(axis=None) and before[tokens].to_numpy().sum() > 0
    pd.testing.assert_frame_equal(2 * before[tokens], after[tokens])
    pd.testing.assert_frame_equal(before[["tested", "models"]], after[["tested", "models"]])


def test_work_by_hand(monkeypatch):
    """ReST solves one problem of four; Guided-ReST one of two in round 1, and the other never."""
    names = ("sos", "bc", "rest", "guided_rest", "base")
    rows = pd.DataFrame({"method": names, "tokens": 100.0, "answers": 3.0})
    kept = pd.DataFrame(
        {"method": ["rest"] * 4 + ["guided_rest"] * 2, "round_solved": [0, -1, -1, -1, 1, -1]}
    )
    kept["tokens"] = 100.0
    monkeypatch.setattr(plan, "recorded", lambda record, name, *more: kept if "yield" in name else rows)
    loop, ppo = {"train_problems": 10, "iterations": 2}, {"steps": 2, "responses": 8}
    sizes = {"test_problems": 5, "greedy_problems": 5, "samples": 3, "iteration_samples": 4}
    sizes |= {"control_samples": 2}
    found = plan.work(profiles.changed(LAPTOP, **sizes, self_training=loop, ppo=ppo)).loc
    # ReST draws 10 and 10; Guided-ReST 10 of its own, and in both iterations half a response in one round
    assert found["06 self-training", "sampled"] == 100 * (20 + 10 + 2 * 10 * 0.5)
    rest, guided = (LAPTOP.self_training.of(method).training.epochs for method in plan.LOOPS)
    trained = 2 * 10 * (25 * rest + 50 * guided)
    assert found["06 self-training", "trained"] == trained
    assert found["06 evaluation", "sampled"] == 100 * 10 * (3 * (3 + 1) + 2 * 4)
    # the same with half of the tests; ReST on twice as many problems, so that it keeps as many traces
    drawn = 2 * (10 + 10) + (10 + 10 + 2 * 10 * 0.5) + 10 * 2 * (1 + 1)
    assert found["06 two more controls", "sampled"] == 100 * drawn
    assert found["06 two more controls", "trained"] == trained + 2 * 10 * 25 * rest
    assert found["07 PPO", "reinforced"] == len(LAPTOP.ppo_runs) * 2 * 8 * 100
    assert found["08 self-training", "tested"] == 3 * LAPTOP.repair.self_training.train_problems * 2 * (
        3 + 2 + 3 * 0.5
    )


def test_the_laptop_record_is_predicted():
    paid = costs.known()
    paid = (
        paid[(paid["profile"] == "laptop") & (paid["section"] == "")].set_index("notebook")["seconds"] / 3600
    )
    made = plan.table(LAPTOP, "cpu", 1, plan.RECORDED_CORES)
    assert (made["rates"] == "measured").all()
    planned = made["hours"].groupby(made.index.str[:2]).sum()
    for book in ("06", "07", "08"):  # the long ones
        assert planned[book] == pytest.approx(paid[paid.index.str[:2] == book].sum(), rel=0.2)
    books = paid.index.str[:2]
    assert planned.sum() == pytest.approx(paid[(books >= "03") & (books <= "08")].sum(), rel=0.1)


def test_the_gpu_record_is_predicted():
    """Self-training of the recorded windows: a share of the profile's problems."""
    windows = plan.recorded_windows()
    parts = [part for window in windows for part in window["parts"]]
    spent = sum(s for name, s in parts if name.startswith(("sampling ", "training ")))
    size = windows[0]["settings"]["train_problems"]
    recorded = profiles.changed(GPU, self_training={"train_problems": size})
    made = plan.table(recorded, "h200", 1, 2)
    assert made.loc["06 self-training", "hours"] == pytest.approx(spent / 3600, rel=0.35)
    assert made.loc["06 self-training", "rates"] == "measured"


def test_devices():
    cpu, card = plan.table(GPU, "cpu", 1, 4), plan.table(GPU, "l4", 1, 4)
    assert set(cpu["rates"]) == {"scaled"} and set(card["rates"]) == {"scaled", "assumed"}
    assert (cpu["hours"] > card["hours"]).all()
    one, two = plan.table(PAPER, "h100", 1, 8), plan.table(PAPER, "h100", 2, 16)
    assert one["hours"].to_numpy() == pytest.approx(2 * two["hours"].to_numpy())
    assert set(one["rates"]) == {"assumed"} and (two["gb_memory"] < one["gb_memory"]).all()


def test_the_command(capsys, monkeypatch, tmp_path):
    assert main(["plan", "--profile", "paper", "--device", "t4"]) == 0
    said = capsys.readouterr().out
    assert "in all" in said and "more than one t4 holds" in said and "no bfloat16" in said
    for wrong in (["--device", "h101"], ["--gpus", "0"], ["--cores", "0"]):
        assert main(["plan", *wrong]) == GrlibError.exit_code
    with pytest.raises(GrlibError, match="its size is not known"):
        plan.size_of(PAPER, "someone/else")
    monkeypatch.setattr(costs, "path", lambda: tmp_path / "none.csv")
    with pytest.raises(GrlibError, match="which gives a rate"):
        plan.laptop_rates()
