"""The loss, the schedule and the plan against plain computations; a killed run ends in the same weights."""

import json
import math
import os
import re
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import NUMBERS, SHAPE, tiny_model, wait_for
from hypothesis import given, settings
from hypothesis import strategies as st

from grlib.errors import GrlibError
from grlib.models.llama import of_shape, output_matrix, save_model
from grlib.models.tokenizer import EOS, encode
from grlib.profiles import Base, Model, Profile, SelfTraining, Stage, Training, changed
from grlib.runs import notebooks
from grlib.runs import run as runs
from grlib.runs.files import read_json
from grlib.tasks.countdown import base as imitation
from grlib.tasks.countdown.scale import Scale
from grlib.tasks.countdown.vocabulary import build_tokenizer
from grlib.training import loop as training
from grlib.training.base import card_after
from grlib.training.loop import learning_rate, make_optimizers, plan_batches, train
from grlib.training.loss import Scored, mean_nll, response_nll, score_rows, text_likelihood
from grlib.training.rows import Row, make_rows, micro_batches

TOKENIZER = build_tokenizer(NUMBERS)
SETTINGS = Training(lr=0.01, batch_rows=4, epochs=2)


def toy_rows(count: int = 12) -> list[Row]:
    """Prompts and responses of many lengths: 'copy the number so many times'."""
    prompts = [f"<s>Target: {i}, Numbers: [{i}]\n" for i in range(count)]
    responses = [", ".join([str(i)] * (1 + i * 5 % 17)) for i in range(count)]
    return make_rows(TOKENIZER, prompts, responses, 64)


def one_by_one(model, row: Row) -> float:
    """Summed negative log-likelihood of one row's response, token by token, by the definition."""
    with torch.no_grad():
        ids = torch.tensor(row.ids, dtype=torch.long)[None]
        logits = model.model(ids).last_hidden_state[0] @ output_matrix(model).T
        logs = torch.log_softmax(logits, -1)
    return -sum(float(logs[t - 1, row.ids[t]]) for t in range(row.start, len(row.ids)))


def weights(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def new_model(seed: int = 0):
    return of_shape(SHAPE, TOKENIZER, 64, seed)


# rows


def test_rows_are_prompt_response_and_end():
    prompts, responses = ["<s>Target: 5, Numbers: [5]\n"] * 2, ["Moving to Node #0\n", "5"]
    first, second = make_rows(TOKENIZER, prompts, responses, 50)
    assert TOKENIZER.decode(first.ids) == prompts[0] + responses[0] + EOS
    assert first.start == second.start == len(encode(TOKENIZER, prompts)[0])
    cut_short, ended = make_rows(TOKENIZER, prompts, responses, 50, [False, True])
    assert list(cut_short.ids) == list(first.ids[:-1]) and list(ended.ids) == list(second.ids)


def test_special_tokens_that_a_response_spells_stay_text():
    text = "26</s>27<pad><s>"
    [row] = make_rows(TOKENIZER, ["<s>1"], [text], 50)
    assert TOKENIZER.decode(row.ids) == f"<s>1{text}{EOS}"
    assert [i for i, id_ in enumerate(row.ids) if id_ in TOKENIZER.all_special_ids] == [0, len(row.ids) - 1]
    [row] = make_rows(TOKENIZER, ["<s>1"], [text], 50, turns=True)
    assert sum(id_ in TOKENIZER.all_special_ids for id_ in row.ids) == 5


def test_long_rows_are_cut_on_the_right():
    whole = make_rows(TOKENIZER, ["<s>1"], ["2, 3, 4"], 50)[0]
    cut = make_rows(TOKENIZER, ["<s>1"], ["2, 3, 4"], 5)[0]
    assert len(cut.ids) == 5 and list(cut.ids) == list(whole.ids[:5])


def test_a_prompt_without_room_for_a_response_is_refused():
    with pytest.raises(GrlibError, match="row 1: its prompt of 3 tokens leaves no room for a response in 3"):
        make_rows(TOKENIZER, ["<s>1", "<s>1,"], ["2", "2"], 3)


# loss


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 30)), max_size=12), st.integers(1, 120))
def test_micro_batches_hold_every_row_once_within_the_bound(shapes, micro_tokens):
    rows = [Row(np.full(p + r, n + 1, dtype=np.int32), p) for n, (p, r) in enumerate(shapes)]
    seen = []
    for _, ids, mask in micro_batches(rows, micro_tokens):
        assert ids.shape == mask.shape and (len(ids) == 1 or ids.numel() <= micro_tokens)
        for line, chosen in zip(ids.tolist(), mask.tolist(), strict=True):
            row = rows[line[0] - 1]
            assert line == [*row.ids, *[0] * (len(line) - len(row.ids))]
            assert chosen == [row.start <= t < len(row.ids) for t in range(len(line))]
            seen.append(line[0])
    assert sorted(seen) == list(range(1, len(rows) + 1))


@pytest.mark.parametrize("micro_tokens", [1, 60, 200, 10_000])
def test_the_loss_of_micro_batches_is_that_of_single_rows(micro_tokens):
    model, rows = tiny_model()[0], toy_rows()
    expected = sum(one_by_one(model, row) for row in rows)
    batches = micro_batches(rows, micro_tokens)
    total = sum(float(response_nll(model, *micro).sum().detach()) for _, *micro in batches)
    assert total == pytest.approx(expected, rel=1e-5)


def test_gradients_do_not_depend_on_the_micro_batches():
    def gradients(micro_tokens):
        model, _ = tiny_model()
        count = sum(len(row.ids) - row.start for row in toy_rows())
        for _, *micro in micro_batches(toy_rows(), micro_tokens):
            (response_nll(model, *micro).sum() / count).backward()
        return [p.grad for p in model.parameters()]

    for one, many in zip(gradients(1), gradients(10_000), strict=True):
        torch.testing.assert_close(one, many, rtol=1e-3, atol=1e-6)


def test_what_stands_in_the_padding_has_no_influence():
    model, rows = tiny_model()[0], toy_rows()
    _, ids, mask = next(micro_batches(rows, 10_000))
    filled = ids.clone()
    for line, row in zip(filled, sorted(rows, key=lambda row: len(row.ids))[-len(ids) :], strict=True):
        line[len(row.ids) :] = 7
    assert not torch.equal(filled, ids), "there must be padding to try this on"
    assert torch.equal(response_nll(model, filled, mask), response_nll(model, ids, mask))


def test_scores_come_in_the_order_of_the_rows():
    model, rows = tiny_model()[0], toy_rows()
    scores = score_rows(Scored(model), rows, micro_tokens=80)
    assert scores[:, 0] == pytest.approx([one_by_one(model, row) for row in rows], rel=1e-5)
    assert scores[:, 1].tolist() == [len(row.ids) - row.start for row in rows]
    assert mean_nll(Scored(model), rows) == pytest.approx(scores[:, 0].sum() / scores[:, 1].sum())


def test_scores_equal_the_loss_of_transformers():
    model, rows = tiny_model()[0], toy_rows()
    for row, (total, count) in zip(rows, score_rows(Scored(model), rows), strict=True):
        ids = torch.tensor(row.ids, dtype=torch.long)[None]
        labels = ids.clone()
        labels[:, : row.start] = -100
        assert total / count == pytest.approx(
            float(model(input_ids=ids, labels=labels).loss.detach()), rel=1e-5
        )


def test_likelihood_of_texts_under_a_saved_model(tmp_path):
    model, tokenizer = tiny_model()
    save_model(model, tokenizer, tmp_path / "m")
    prompts, responses, ended = ["<s>1", "<s>2"], ["3, 4", "5"], [True, False]
    scores = text_likelihood(tmp_path / "m", prompts, responses, ended, 64)
    assert scores[:, 1].tolist() == [3, 1]  # "3, ", "4" and the end token; "5" was cut off
    rows = make_rows(tokenizer, prompts, responses, 64, ended)
    assert scores[:, 0] == pytest.approx([one_by_one(model, row) for row in rows], rel=1e-5)


# schedule and plan


def test_the_cosine_schedule_by_hand():
    """20 steps, a tenth of warm-up: 2 steps up to the rate, then half a cosine over 18."""
    settings = Training(lr=2.0, batch_rows=1, schedule="cosine", warmup=0.1)
    rates = [learning_rate(step, 20, settings) for step in range(20)]
    assert rates[:3] == pytest.approx([1.0, 2.0, 2.0])
    assert rates[11] == pytest.approx(1.0)
    assert rates[5] == pytest.approx(1 + math.cos(math.pi * 3 / 18))
    assert rates[19] == pytest.approx(1 + math.cos(math.pi * 17 / 18)) and rates[19] > 0


def test_the_trapezoid_schedule_by_hand():
    """20 steps: 2 up, constant, and down over the last 4."""
    settings = Training(lr=2.0, batch_rows=1, schedule="trapezoid", warmup=0.1)
    rates = [learning_rate(step, 20, settings) for step in range(20)]
    assert rates == pytest.approx([1.0, *[2.0] * 16, 1.5, 1.0, 0.5])


@given(st.integers(1, 50), st.integers(1, 12), st.integers(1, 4), st.integers(0, 9))
def test_the_plan_visits_every_row_once_per_epoch(count, size, epochs, seed):
    settings = Training(lr=1.0, batch_rows=size, epochs=epochs)
    plan = plan_batches(count, settings, seed)
    per_epoch = -(-count // size)
    assert len(plan) == epochs * per_epoch
    for first in range(0, len(plan), per_epoch):
        epoch = plan[first : first + per_epoch]
        assert sorted(row for batch in epoch for row in batch) == list(range(count))
        assert all(len(batch) == size for batch in epoch[:-1])
    assert plan == plan_batches(count, settings, seed)


def test_epochs_and_seeds_shuffle_differently():
    first, second = plan_batches(40, replace(SETTINGS, batch_rows=40), 0)
    assert first != second and plan_batches(40, replace(SETTINGS, batch_rows=40), 1)[0] != first


@given(st.integers(1, 30), st.integers(1, 8), st.integers(1, 40))
def test_a_number_of_steps_goes_before_epochs(count, size, steps):
    settings = Training(lr=1.0, batch_rows=size, steps=steps)
    plan = plan_batches(count, settings, 0)
    assert len(plan) == steps
    epochs = plan_batches(count, replace(settings, steps=0, epochs=steps), 0)
    assert plan == epochs[:steps]


@pytest.mark.parametrize(
    "wrong",
    [{"lr": 0}, {"lr": -1.0}, {"batch_rows": 0}, {"epochs": 0}, {"optimizer": "sgd"}, {"schedule": "step"}],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(GrlibError, match=str(next(iter(wrong.values())))):
        Training(**({"lr": 1.0, "batch_rows": 1} | wrong))


def test_no_rows_are_refused():
    with pytest.raises(GrlibError, match="no training rows"):
        train(tiny_model()[0], make_rows(TOKENIZER, [], [], 64), SETTINGS, seed=0)


# training


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_both_optimizers_learn(optimizer):
    model, rows = new_model(), toy_rows()
    settings = Training(lr=0.02, batch_rows=4, steps=80, optimizer=optimizer)
    curve = train(model, rows, settings, seed=0, valid=rows, valid_every=40)
    assert curve["valid_loss"].dropna().index.tolist() == [39, 79]
    assert curve["loss"][0] > 4 and curve["valid_loss"][79] < 0.5
    assert curve["step"].tolist() == list(range(1, 81)) and not model.training
    assert curve["tokens_seen"].iloc[2] == sum(len(row.ids) for row in rows)


def test_muon_takes_the_matrices_of_the_blocks_only():
    model = new_model()
    adamw, muon = make_optimizers(model, replace(SETTINGS, optimizer="muon"))
    names = {id(p): name for name, p in model.named_parameters()}
    matrices = [names[id(p)] for group in muon.param_groups for p in group["params"]]
    assert len(matrices) == 2 * 7 and all(".layers." in name and "norm" not in name for name in matrices)
    others = [names[id(p)] for group in adamw.param_groups for p in group["params"]]
    assert sorted([*matrices, *others]) == sorted(names.values())


def test_one_step_by_hand():
    """AdamW's first step moves every weight by the rate against the sign of its gradient, after the decay."""
    rows = toy_rows(4)
    model, _ = tiny_model()
    before = weights(model)
    row_losses = [response_nll(model, *next(micro_batches([row], 1))[1:]).sum() for row in rows]
    count = sum(len(row.ids) - row.start for row in rows)
    (sum(row_losses) / count).backward()
    gradient = model.model.layers[0].mlp.up_proj.weight.grad
    model.zero_grad()
    settings = Training(lr=0.01, batch_rows=4, steps=1, warmup=1.0, weight_decay=0.1)
    curve = train(model, rows, settings, seed=0)
    assert curve["loss"][0] == pytest.approx(float(sum(row_losses).detach()) / count, rel=1e-5)
    old, new = (state["model.layers.0.mlp.up_proj.weight"] for state in (before, weights(model)))
    clear = gradient.abs() > 1e-4
    expected = old * (1 - 0.01 * 0.1) - 0.01 * gradient.sign()
    torch.testing.assert_close(new[clear], expected[clear], rtol=0, atol=1e-4)


def test_a_loss_that_is_not_finite_stops_with_advice(tmp_path):
    model = new_model()
    with torch.no_grad():
        model.model.norm.weight[:] = float("inf")
    with pytest.raises(GrlibError, match=r"^toy: loss is (nan|inf) at step 1; lower lr 0.01") as caught:
        train(model, toy_rows(), SETTINGS, seed=0, folder=tmp_path, label="toy")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


# kill and resume


def run(folder: Path | None, optimizer: str = "adamw", **more) -> tuple[dict, object]:
    model = new_model()
    settings = Training(lr=0.01, batch_rows=4, epochs=3, optimizer=optimizer, checkpoint_seconds=0)
    curve = train(model, toy_rows(), settings, seed=0, folder=folder, **more)
    return weights(model), curve


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_stopping_and_going_on_changes_no_bit(tmp_path, optimizer):
    expected, curve = run(None, optimizer)
    for stop in (2, 5, 5, 0):
        found, resumed = run(tmp_path, optimizer, stop_after=stop)
        assert len(resumed) == (stop or 9)
    assert same(found, expected) and resumed.equals(curve)


def test_a_finished_run_is_not_trained_again(tmp_path, monkeypatch):
    expected, curve = run(tmp_path)
    monkeypatch.setattr(training, "train_step", None)
    found, again = run(tmp_path)
    assert same(found, expected) and again.equals(curve)


def test_a_damaged_checkpoint_is_made_again(tmp_path):
    expected, _ = run(None)
    run(tmp_path, stop_after=4)
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:2000])
    assert same(run(tmp_path)[0], expected)


@pytest.mark.parametrize("change", ["rows", "settings", "seed", "start", "size"])
def test_a_checkpoint_of_another_run_is_not_used(tmp_path, change):
    run(tmp_path)
    rows, settings = toy_rows(), replace(SETTINGS, epochs=3, lr=0.02 if change == "settings" else 0.01)
    if change == "rows":
        rows[3] = Row(rows[3].ids, rows[3].start + 1)
    shape = replace(SHAPE, hidden=16) if change == "size" else SHAPE
    found = []
    for folder in (None, tmp_path):
        model = of_shape(shape, TOKENIZER, 64, seed=5 if change == "start" else 0)
        start = "other weights" if change == "start" else ""
        train(model, rows, settings, seed=int(change == "seed"), start=start, folder=folder)
        found.append(weights(model))
    assert same(*found)


def test_the_pace_of_checkpoints_and_memory_is_no_part_of_a_run(tmp_path, monkeypatch):
    run(tmp_path)
    monkeypatch.setattr(training, "train_step", None)
    settings = Training(lr=0.01, batch_rows=4, epochs=3, checkpoint_seconds=9, micro_tokens=1)
    assert len(train(new_model(), toy_rows(), settings, seed=0, folder=tmp_path)) == 9


KILLED = """
import sys, time, torch
torch.set_num_threads(1)
sys.path[:0] = sys.argv[1:4]
from pathlib import Path
from test_training import run, training
step = training.train_step
training.train_step = lambda *arguments: time.sleep(0.2) or step(*arguments)
run(Path(sys.argv[4]))
"""


@pytest.mark.integration
def test_killed_at_any_moment_the_run_ends_in_the_same_weights(tmp_path):
    """A real process, slowed down, gets SIGKILL shortly after its first checkpoint appears."""
    here = Path(__file__).resolve()
    arguments = [sys.executable, "-c", KILLED, *map(str, [*here.parents[:3], tmp_path])]
    process = subprocess.Popen(arguments, env=os.environ | {"OMP_NUM_THREADS": "1"})
    wait_for(lambda: (tmp_path / "checkpoint.pt").is_file() or process.poll() is not None)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    expected, curve = run(None)
    found, resumed = run(tmp_path)
    assert same(found, expected) and resumed.equals(curve)


# training a base

PROFILE = Profile(
    name="tiny",
    tasks={
        "countdown": Scale(
            max_number=9, target_high=18, dfs_widths=(1,), bfs_beams=(1,), reserved_test=20, reserved_valid=10
        )
    },
    model=Model(hidden=16, layers=1, heads=2, intermediate=32),
    whole_numbers=NUMBERS,
    budget=200,
    base=Base(stages=(Stage(2, 12, 4), Stage(3, 9, 3)), bc_batch_factor=1),
    self_training=SelfTraining(row_length=232),
    valid_problems=10,
    test_problems=20,
)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(imitation, "VALID_EXAMPLES", 3)


@pytest.mark.parametrize("method", ["sos", "bc"])
def test_a_base_runs_through_its_stages_and_stops_early_on_the_same_way(quick, method, tmp_path):
    model, tokenizer, curve = imitation.train_base(method, PROFILE, folder=tmp_path, valid_every=3)
    assert len(curve) == 3 + 3 and len(tokenizer) == len(TOKENIZER)
    assert curve["valid_loss"].notna().sum() == 2
    assert model.lm_head.weight is model.get_input_embeddings().weight, "a base comes ready for use"
    for stop in (2, 4):
        _, _, part = imitation.train_base(method, PROFILE, stop_after=stop, valid_every=3)
        assert part.equals(curve[:stop])


def test_a_base_never_begins_anew_in_silence(quick, tmp_path):
    imitation.train_base("sos", PROFILE, folder=tmp_path)
    other = changed(PROFILE, base={"training": {"lr": PROFILE.base.training.lr / 2}})
    with pytest.raises(GrlibError, match="checkpoint.pt is damaged, or of other rows or settings"):
        imitation.train_base("sos", other, folder=tmp_path)
    (tmp_path / "checkpoint.pt").write_bytes(b"half")
    with pytest.raises(GrlibError, match="damaged"):
        imitation.train_base("sos", PROFILE, folder=tmp_path)


def test_stages_of_one_size_take_different_examples(quick, monkeypatch):
    asked, make = [], imitation.rows_of_stage

    def noted(method, profile, stage, begun):
        asked.append((stage.num_count, begun, stage.examples))
        return make(method, profile, stage, begun)

    monkeypatch.setattr(imitation, "rows_of_stage", noted)
    stages = (Stage(3, 8, 4), Stage(2, 3, 3), Stage(3, 5, 5))
    imitation.train_base("sos", replace(PROFILE, base=replace(PROFILE.base, stages=stages)))
    assert asked == [(3, 0, 8), (2, 0, 3), (3, 8, 5)]


def test_rows_that_workers_make_are_those_of_the_imitation_list(monkeypatch):
    monkeypatch.setattr(imitation, "EXAMPLES", 6)
    made = imitation.rows_of_stage("sos", PROFILE, Stage(3, 8, 4), first=2)
    words = build_tokenizer(PROFILE.whole_numbers)
    examples = imitation.imitation_examples(PROFILE.countdown, 8, start=2, num_count=3)
    expected = imitation.imitation_rows("sos", examples, words, PROFILE.self_training.row_length)
    assert [(row.ids.tolist(), row.start) for row in made] == [(r.ids.tolist(), r.start) for r in expected]


def test_bc_imitates_the_solution_and_sos_the_search(quick):
    examples = imitation.imitation_examples(PROFILE.countdown, 5, num_count=3)
    for example in examples:
        assert imitation.response("sos", example) == example.trace
        assert example.solution[-1] in imitation.response("bc", example)


def test_the_example_of_a_card_works_as_pasted(tmp_path):
    model, words, curve = imitation.train_base("sos", PROFILE, stop_after=1)
    notes = imitation.describe_base("sos", PROFILE, model, curve)
    save_model(model, words, tmp_path / "model", curve, notes, PROFILE.budget)
    card = (tmp_path / "model" / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["tags"] == ["countdown", "search", "self-training", "guided-rest"]
    passed_on = card_after(tmp_path / "model", "ReST 1, 9 steps")["README.md"]
    assert "ReST 1, 9 steps" in passed_on and passed_on.count("\n---\n") == 1
    assert "model-index" not in yaml.safe_load(passed_on.split("---\n")[1])
    assert card_after(tmp_path, "ReST 1") == {}
    [code] = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    environment = os.environ | {"PYTHONPATH": str(notebooks.REPOSITORY)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path / "model", capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and "Verdict(correct=False, reason=" in done.stdout, done.stderr


def test_a_missing_shipped_base_is_named(tmp_path):
    with pytest.raises(GrlibError, match="missing"):
        imitation.obtain_base("sos", PROFILE, "shipped", tmp_path / "out", shipped=tmp_path / "nowhere")
    with pytest.raises(GrlibError, match="'best'"):
        imitation.obtain_base("sos", PROFILE, "best", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_base_of_the_gpu_has_the_shape_and_the_task_of_its_profile(tmp_path):
    run = runs.start("03_imitate_search", "gpu_base", run_dir=str(tmp_path / "run"))
    folder, profile = run.shipped("sos"), run.profile
    assert folder == notebooks.REPOSITORY / "paper_results" / "base_gpu" / "sos"
    config, made = read_json(folder / "config.json"), read_json(folder / "manifest.json")
    assert [config[name] for name in ("hidden_size", "num_hidden_layers", "max_position_embeddings")] == [
        profile.model.hidden, profile.model.layers, profile.self_training.row_length,
    ]  # fmt: skip
    assert config["vocab_size"] == len(build_tokenizer(profile.whole_numbers))
    made["task"]["dfs_widths"] = [width or 0 for width in made["task"]["dfs_widths"]]
    assert made["task"] == json.loads(json.dumps(asdict(profile.countdown)))
