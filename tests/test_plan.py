"""The plan: a model's size is exact, its tokens scale as the sizes do, and it predicts the recorded run."""

from dataclasses import replace

import pytest
from synthetic_results import made_up

from grlib import plan, profiles, workload
from grlib.__main__ import main
from grlib.errors import GrlibError
from grlib.models.llama import bake, build_model
from grlib.runs import costs
from grlib.runs.files import seed_folders
from grlib.tasks.countdown.vocabulary import build_tokenizer

LAPTOP, PAPER = profiles.get("laptop"), profiles.get("paper")


@pytest.fixture(scope="module")
def known():
    return workload.measured(made_up(problems=20, samples=4))


@pytest.mark.parametrize("name", ["laptop", "gpu"])
def test_the_size_of_a_model_from_scratch_is_that_of_the_model(name):
    p = profiles.get(name)
    words = build_tokenizer(p.whole_numbers)
    model = bake(build_model(words, p.hidden, p.layers, p.heads, p.intermediate, p.row_length, 0, p.kv_heads))
    exact = sum(weights.numel() for weights in model.parameters())
    assert plan.shape_of(p, "").parameters == pytest.approx(exact, rel=0.02)


def test_tokens_grow_with_the_sizes_and_nothing_is_negative(known):
    def sums(profile):
        found = list(workload.stages(profile, known))
        return [
            sum(workload.tokens(getattr(stage, part)) for stage in found)
            for part in ("sampled", "trained", "read", "scored")
        ]

    def longer(factor):
        repair = replace(PAPER.repair, row_length=factor * PAPER.repair.self_training.row_length)
        return replace(PAPER, budget=factor * PAPER.budget, repair=repair)

    assert sums(longer(2)) == pytest.approx([2 * amount for amount in sums(PAPER)])
    assert sums(replace(PAPER, test_problems=2 * PAPER.test_problems))[0] > sums(PAPER)[0]
    made = plan.table(PAPER, known, plan.DEVICES["h100"], 4, cores=32)
    assert (made.select_dtypes("number") >= 0).all(axis=None)
    twice = plan.table(PAPER, known, plan.DEVICES["h100"], 8, cores=64)
    shared = made["stage"] != "hints"  # texts are scored by one process
    shared &= made["stage"] != "node selection"
    assert made[shared]["hours"].to_numpy() == pytest.approx(2 * twice[shared]["hours"].to_numpy())
    assert (made[~shared]["hours"] < 2 * twice[~shared]["hours"]).all()
    assert (made["gb_a_gpu"] <= 80).all()


def test_the_countdown_of_the_record_by_hand(known):
    """At the recorded sizes: hints of 0 to 3 steps, 33 traces of 800 problems."""
    sizes = {"test_problems": 400, "hint_problems": 100, "hint_samples": 4, "rewrite_problems": 100}
    said = replace(
        known, length=dict.fromkeys(known.length, 0.25), hinted_length=0.5,
        kept=workload.Kept({"rest": 0.5, "guided_rest": 0.8}, (0.4, 0.2, 0.1)),
    )  # fmt: skip
    found = {stage.stage: stage for stage in workload.stages(replace(LAPTOP, **sizes), said)}
    assert found["accuracy of SoS and BC"].sampled == ((26_400, 256.0), (26_400, 256.0))
    assert found["hints"].scored == ((1600, 512.0),) and found["hints"].sampled == ((1200, 256.0),)
    # 100 first responses for all arms, and half a response for each of 0.4 + 0.2 guided rounds
    assert workload.tokens(found["node selection"].sampled) == pytest.approx((100 + 4 * 30) * 256)
    assert found["ReST"].sampled == ((2000, 256.0), (2000, 256.0)) and found["ReST"].models == 2
    assert found["ReST"].trained[0][0] == 2 * 2000 * 0.5 * 3
    assert found["Guided-ReST"].sampled[0][0] == pytest.approx(2000 + 2 * 2000 * 0.3)
    runs, alone = found["PPO, five runs"], found["GRPO"]
    assert sum(count for count, _ in runs.sampled) == 5 * 20 * 64 and runs.read == runs.sampled
    assert alone.sampled == ((20 * 64, 256.0),) and not alone.read
    assert sum(count for count, _ in found["evaluation"].sampled) == 800 * (3 * 4 + 6)


def test_an_episode_of_repair_by_hand(known):
    """5 problems twice, one iteration: each answer is sampled, read half a row before, and tested once."""
    scale = replace(PAPER.repair, train_problems=5, episodes=2, iterations=1, near_problems=1, far_problems=2)
    profile = replace(PAPER, repair=replace(scale, samples=4, row_length=1000))
    said = replace(
        known, answers={"base": 3.0, "rest": 2.0, "guided_rest": 1.0}, answer_length=0.01, row_length=0.1,
        repaired=workload.Kept({"rest": 0.5, "guided_rest": 0.8}, (0.4, 0.3, 0.2)),
    )  # fmt: skip
    rest, guided, tested = workload.repair(profile, said)
    assert rest.sampled == ((30, 10.0),) and rest.read == ((30, 50.0),) and rest.tested == 30
    assert rest.trained == ((10 * 0.5 * scale.self_training.rest_epochs, 100.0),)
    # rounds 1 and 2 of a problem in ten are half a response each: 10 x 0.5 x (0.4 + 0.3)
    assert guided.tested == pytest.approx(3.5)
    assert tested.tested == 3 * 4 * (3 + 2 + 1) and not tested.trained
    base = next(workload.repair(replace(profile, repair=replace(profile.repair, base_epochs=1)), said))
    assert base.stage == "repair: base" and base.tested == 0 and base.sampled == ()


def test_the_model_predicts_the_recorded_run(capsys):
    main(["plan", "--profile", "laptop"])
    said = capsys.readouterr().out
    assert "predicted_s" in said and "in all" in said and "more than" not in said
    main(["plan", "--profile", "paper", "--device", "rtx4090"])
    assert "more than one rtx4090 holds: training SoS and BC, " in capsys.readouterr().out
    from grlib.results import rows as results
    from grlib.runs import notebooks

    folders = seed_folders(notebooks.REPOSITORY / "paper_results" / "measured", "laptop")
    found = plan.check(workload.measured(results.load(folders, "laptop")))
    assert abs(found["predicted_s"].sum() / found["measured_s"].sum() - 1) < 0.3
    long = found[found["measured_s"] > 100]
    assert len(long) == 6 and long["error_percent"].abs().max() < 40


def test_what_the_plan_cannot_know_is_told(known, monkeypatch):
    with pytest.raises(GrlibError, match="its size is not known"):
        plan.shape_of(PAPER, "someone/else")
    with pytest.raises(GrlibError, match="lower the profile.s budget"):
        plan.table(replace(PAPER, budget=10**7), known, plan.DEVICES["l4"], 1, 8)
    with pytest.raises(GrlibError, match="device 'h101'"):
        plan.main("paper", 1, "h101", 8)
    with pytest.raises(GrlibError, match="must be 1 or more"):
        plan.main("paper", 0, "h100", 8)
    with pytest.raises(GrlibError, match="--cores 0: must be 1 or more"):
        plan.main("paper", 1, "h100", 0)
    with pytest.raises(GrlibError, match="nothing says how long"):
        workload.measured(made_up(problems=2).__class__("laptop"))
    monkeypatch.setattr(costs, "path", lambda: costs.notebooks.REPOSITORY / "none.csv")
    with pytest.raises(GrlibError, match="lacks sections that check the plan"):
        plan.check(known)
