"""The plan: a model's size is exact, its tokens scale as the sizes do, and it predicts the recorded run."""

from dataclasses import replace

import pytest
from synthetic_results import made_up

from grlib import costs, plan, profiles
from grlib.__main__ import main
from grlib.errors import GrlibError
from grlib.model import bake, build_model
from grlib.tokenizer import build_tokenizer

LAPTOP, PAPER = profiles.get("laptop"), profiles.get("paper")


@pytest.fixture(scope="module")
def known():
    return plan.measured(made_up(problems=20, samples=4))


@pytest.mark.parametrize("name", ["laptop", "gpu"])
def test_the_size_of_a_model_from_scratch_is_that_of_the_model(name):
    p = profiles.get(name)
    words = build_tokenizer(p.whole_numbers)
    model = bake(build_model(words, p.hidden, p.layers, p.heads, p.intermediate, p.row_length, 0, p.kv_heads))
    exact = sum(weights.numel() for weights in model.parameters())
    assert plan.shape_of(p, "").parameters == pytest.approx(exact, rel=0.02)


def test_tokens_grow_with_the_sizes_and_nothing_is_negative(known):
    def sums(profile):
        found = list(plan.stages(profile, known))
        return sum(plan.tokens(s.sampled) for s in found), sum(plan.tokens(s.trained) for s in found)

    sampled, trained = sums(PAPER)
    assert sums(replace(PAPER, budget=2 * PAPER.budget)) == (
        pytest.approx(2 * sampled), pytest.approx(2 * trained),
    )  # fmt: skip
    assert sums(replace(PAPER, test_problems=2 * PAPER.test_problems))[0] > sampled
    made = plan.table(PAPER, known, plan.DEVICES["h100"], 4)
    assert (made.select_dtypes("number") >= 0).all(axis=None)
    twice = plan.table(PAPER, known, plan.DEVICES["h100"], 8)
    assert made["hours"].sum() == pytest.approx(2 * twice["hours"].sum())
    assert (made["gb_a_gpu"] <= 80).all()


def test_the_model_predicts_the_recorded_run(capsys):
    main(["plan", "--profile", "laptop"])
    said = capsys.readouterr().out
    assert "predicted_s" in said and "in all" in said
    from grlib import notebooks, results

    folders = results.seed_folders(notebooks.REPOSITORY / "paper_results" / "measured", "laptop")
    found = plan.check(plan.measured(results.load(folders, "laptop")))
    assert abs(found["predicted_s"].sum() / found["measured_s"].sum() - 1) < 0.3
    long = found[found["measured_s"] > 100]
    assert len(long) == 4 and long["error_percent"].abs().max() < 40


def test_what_the_plan_cannot_know_is_told(known, monkeypatch):
    with pytest.raises(GrlibError, match="its size is not known"):
        plan.shape_of(PAPER, "someone/else")
    with pytest.raises(GrlibError, match="lower the profile.s budget"):
        plan.table(replace(PAPER, budget=10**7), known, plan.DEVICES["l4"], 1)
    with pytest.raises(GrlibError, match="device 'h101'"):
        plan.main("paper", 1, "h101")
    with pytest.raises(GrlibError, match="must be 1 or more"):
        plan.main("paper", 0, "h100")
    with pytest.raises(GrlibError, match="nothing says how long"):
        plan.measured(made_up(problems=2).__class__("laptop"))
    monkeypatch.setattr(costs, "path", lambda: costs.notebooks.REPOSITORY / "none.csv")
    with pytest.raises(GrlibError, match="lacks sections that check the plan"):
        plan.check(known)
