"""Profile gpu: the same rows whether models stay in the process or not, on the CPU; and a run on a card."""

import json
import time
from dataclasses import replace

import pytest
import torch

from benchmarks import gpu as probe
from grlib import profiles, selftrain
from grlib.models.llama import load_both
from grlib.ppo import loop as ppo
from grlib.ppo.loop import TIMES
from grlib.runs.notebooks import REPOSITORY
from grlib.sampling import pool as sampling
from grlib.sampling.static import MEMORY, rows_that_fit
from grlib.tasks.countdown import task as countdown_task
from grlib.tasks.countdown import traces
from grlib.tasks.countdown.base import imitation_rows
from grlib.tasks.countdown.data import draw, imitation_examples
from grlib.tasks.countdown.puzzle import Problem
from grlib.training import loop as training
from grlib.training.packed import Packed

pytestmark = pytest.mark.integration

RECORD = REPOSITORY / "paper_results" / "measured" / "gpu" / "seed0" / "probe.json"


def run_all(profile, base, folder):
    """Guided-ReST, PPO from its last model and the evaluation of both, as notebooks 06 and 07 have them."""
    items = draw(profile.countdown, "rehearsal", profile.self_training.train_problems)
    task = countdown_task.task_for(profile, base, rounds=profile.self_training.guided_rounds)
    common = {"seed": 0, "progress": lambda line: None}
    solved = selftrain.self_train(
        task, items, base, profile.self_training.of("guided_rest"), method="guided_rest",
        models=folder / "models", work=folder / "guided_rest", **common,
    )  # fmt: skip
    last = folder / "models" / f"iteration_{profile.self_training.iterations}"
    settings = countdown_task.ppo_settings(profile, "guided_rest_ppo")
    curve = ppo.train_ppo(task, items, last, settings, out=folder / "ppo", work=folder / "ppo_work", **common)
    splits = {"seen": items[: profile.test_problems]}
    measured = [
        countdown_task.evaluate_splits(
            "guided_rest", model, profile, splits, work=folder / f"eval_{number}", **common
        )
        for number, model in enumerate((last, folder / "ppo"))
    ]
    return [solved, curve.drop(columns=list(TIMES)), *measured]


def test_a_small_run_as_on_a_card(tmp_path, monkeypatch):
    base, laptop = REPOSITORY / "paper_results" / "base" / "sos", profiles.get("laptop")
    loop = {"train_problems": 6, "iterations": 2, "guided_epochs": 1, "training": {"batch_rows": 4}}
    profile = profiles.changed(
        replace(profiles.get("gpu"), tasks=laptop.tasks), budget=300, micro_tokens=2048, test_problems=3,
        samples=2, sampling={"slots": 8, "chunk": 4}, self_training=loop,
        ppo={"steps": 3, "responses": 4, "minibatch": 2},
    )  # fmt: skip
    monkeypatch.setattr(sampling, "_pool", None)  # no worker is asked
    solved, curve, *_ = run_all(profile, base, tmp_path)
    assert (solved["round_solved"] >= 0).any() and len(curve) == 3
    assert not (tmp_path / "ppo_work" / "policy").exists()


def test_the_shipped_models_search():
    greedy = sampling.Sampling(temperature=0, slots=2)
    problem = Problem((3, 5, 7, 11), 26)
    for name in ("sos", "guided_rest_ppo"):
        model, words = load_both(REPOSITORY / "paper_results" / "base_gpu" / name)
        ask = sampling.Request(countdown_task.prompt_text(problem), "", 300)
        [found] = sampling.answer(model, words, [ask], greedy, 0)
        audit = traces.audit(found.text, problem)
        assert audit["lines"] > 10 and audit["malformed_lines"] == 0, name
        assert audit["wrong_arithmetic"] == 0, name


def test_fewer_rows_are_sampled_at_once_on_a_smaller_card():
    shape = {"layers": 6, "kv_heads": 2, "head": 64, "columns": 2304, "bytes_each": 2}
    row = 2 * 6 * 2 * 64 * 2304 * 2  # bytes of keys and values
    assert rows_that_fit(4096, 80e9, **shape) == 4096
    assert rows_that_fit(4096, 16e9, **shape) == int(MEMORY * 16e9 / row) < 4096


def test_the_probe_finds_the_code_right(tmp_path, capsys):
    assert probe.main([str(tmp_path), "sampled", "training_pace"]) == 0
    found = json.loads((tmp_path / "probe.json").read_text())
    assert found["sampled"]["greedy_equal"] == 1 and found["sampled"]["rescored"] < 1e-5
    assert abs(found["training_pace"]["loss_difference"]) < 1e-2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_card_samples_trains_reinforces_and_resumes(tmp_path, monkeypatch):
    """Two minutes; with -s it prints its rates beside those of the record, which other cards may miss."""
    base = REPOSITORY / "paper_results" / "base_gpu" / "sos"
    sizes = {"test_problems": 32, "samples": 2, "self_training": {"train_problems": 256, "iterations": 1}}
    ppo_sizes = {"steps": 3, "responses": 64, "minibatch": 32}
    profile = profiles.changed(profiles.get("gpu"), **sizes, ppo=ppo_sizes)
    rates, update = {}, ppo.Learner.update

    def killed_in_the_second_step(learner, batch, rng):
        if (tmp_path / "ppo_work" / "checkpoint.pt").exists():
            raise KeyboardInterrupt
        return update(learner, batch, rng)

    with monkeypatch.context() as inside, pytest.raises(KeyboardInterrupt):
        inside.setattr(training.Team, "checkpoint_due", lambda *about: True)
        inside.setattr(ppo.Learner, "update", killed_in_the_second_step)
        run_all(profile, base, tmp_path)
    solved, curve, before, after = run_all(profile, base, tmp_path)
    assert curve["step"].tolist() == [1, 2, 3] and (solved["round_solved"] == 0).mean() > 0.2
    assert before["correct"].mean() > 0.2 and after["correct"].mean() > 0.2

    model, words = load_both(base)
    ask = [
        sampling.Request(countdown_task.prompt_text(p), "", 1024)
        for p, _ in draw(profile.countdown, "r", 1024)
    ]
    settings = profile.sampling
    sampling.answer(model, words, ask, settings, 0)
    began = time.monotonic()
    rates["static"] = sum(a.new for a in sampling.answer(model, words, ask, settings, 1)) / (
        time.monotonic() - began
    )
    examples, length = imitation_examples(profile.countdown, 1024), profile.self_training.row_length
    rows = imitation_rows("sos", examples, words, length)
    how = profile.self_training.of("rest").training
    asked = []
    monkeypatch.setattr(Packed, "batches", spy(Packed.batches, asked))
    for _ in range(2):  # the first one compiles
        began = time.monotonic()
        training.train(load_both(base)[0], rows, replace(how, epochs=1), seed=0)
        rates["packed"] = sum(len(row.ids) for row in rows) / (time.monotonic() - began)
    assert asked, "training was padded"
    record = json.loads(RECORD.read_text())
    print(f"\n{torch.cuda.get_device_name()}; the record: {record['device']}")
    for name, known in (("static", record["sampling_pace"]), ("packed", record["training_pace"])):
        print(f"{name}: {rates[name]:,.0f} tokens/s, recorded {known[name]:,.0f}")


def spy(function, calls: list):
    """The function, which notes that it was called."""

    def called(*given):
        calls.append(given)
        return function(*given)

    return called
