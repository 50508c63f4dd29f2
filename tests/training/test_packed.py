"""Rows in packs without padding: the same loss, the same gradients and the same PPO step as with padding."""

import copy
import random
import shutil
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import POSITIONS, tiny_model
from torch._dynamo.utils import counters
from two_arms import TwoArms, run, toy, toy_settings

from grlib.models.llama import save_model
from grlib.ppo.learner import Learner, batch_of
from grlib.ppo.loop import TIMES
from grlib.profiles import PPO, Sampling, Training
from grlib.training import loop as training
from grlib.training import packed as packed_training
from grlib.training.loss import response_nll, states_before
from grlib.training.packed import Packed
from grlib.training.rows import Rollout, Row, micro_batches, padded

COMPILER = pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on the CPU")


def some_rows(count: int = 9, seed: int = 0, longest: int = 150) -> list[Row]:
    """Rows of random tokens and lengths."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, longest, count)
    return [Row(rng.integers(0, 200, n).astype(np.int32), int(rng.integers(1, n))) for n in lengths]


def padded_loss(model, rows: list[Row]) -> float:
    """The summed loss, its gradients left in the model."""
    total = 0.0
    for _, ids, mask in micro_batches(rows, 1024):
        loss = response_nll(model, ids, mask).sum()
        loss.backward()
        total += float(loss.detach())
    return total


def packed(model, tokens: int, **how) -> Packed:
    return Packed(model, tokens, how.pop("longest", POSITIONS), "float32", **how)


def packed_loss(pack: Packed, rows: list[Row]) -> float:
    total = 0.0
    for _, ids, mask in pack.batches(rows):
        loss = pack.nats_and_states(ids, mask)[0].sum()
        loss.backward()
        total += float(loss.detach())
    return total


def gradients(model) -> dict[str, torch.Tensor]:
    found = {name: weights.grad.clone() for name, weights in model.named_parameters()}
    model.zero_grad()
    return found


def test_packs_hold_every_row_once_in_order():
    pack, rows = packed(tiny_model()[0], 300), some_rows(30)
    got = []
    for numbers, ids, mask in pack.batches(rows):
        lengths = [len(rows[number].ids) for number in numbers]
        assert sum(lengths) <= 300 and ids.shape == mask.shape == (len(numbers), max(lengths))
        got += numbers
    assert got == list(range(30)) and not list(pack.batches([]))


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=COMPILER)])
def test_loss_and_gradients_are_those_of_padded_rows(kv_heads, compiled):
    model, _ = tiny_model(kv_heads)
    rows = some_rows()
    loss, expected = padded_loss(model, rows), gradients(model)
    pack = packed(model, 300, compiled=compiled)
    assert packed_loss(pack, rows) == pytest.approx(loss, rel=1e-5)
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in gradients(model).items():
        assert torch.allclose(gradient, expected[name], atol=1e-4 * largest), name
    pack.give_back()
    assert padded_loss(model, rows) == pytest.approx(loss, rel=1e-6)


def test_a_row_does_not_see_its_neighbours():
    model, _ = tiny_model()
    pack, rows = packed(model, 700), some_rows(4)
    counts = [len(row.ids) - row.start for row in rows]
    _, states = pack.nats_and_states(*padded(rows))
    rows[1] = Row(rows[1].ids[::-1].copy(), rows[1].start)
    _, changed = pack.nats_and_states(*padded(rows))
    same = [torch.equal(a, b) for a, b in zip(states.split(counts), changed.split(counts), strict=True)]
    assert same == [True, False, True, True]


def test_states_of_padded_rows_by_way_of_a_pack():
    model, _ = tiny_model(2)
    ids, mask = padded(some_rows(5))
    expected, expected_nats = states_before(model.model, ids, mask), response_nll(model, ids, mask)
    nats, states = packed(model, 900).nats_and_states(ids, mask)
    assert torch.allclose(states, expected, atol=1e-4)
    assert torch.allclose(nats, expected_nats, atol=1e-4)


def a_batch(model, count: int = 8):
    """Random rollouts with the log probabilities that the model gives them."""
    rollouts = []
    for row in some_rows(count, seed=3, longest=60):
        ids, mask = padded([row])
        logprobs = -response_nll(model, ids, mask).detach()
        response = tuple(row.ids[row.start :].tolist())
        reward = ((len(response) - 1, float(len(rollouts) % 2)),)
        starts = tuple(range(0, len(response), 3))
        prompt = tuple(row.ids[: row.start].tolist())
        rollouts.append(Rollout(prompt, response, tuple(logprobs.tolist()), starts, reward, False, True))
    return batch_of(rollouts)


@pytest.mark.parametrize(("optimizer", "critic"), [("adamw", "shared"), ("normed_sgd", "placed")])
def test_a_step_of_ppo_is_that_of_padded_rollouts(optimizer, critic):
    model, _ = tiny_model(2)
    batch, other = a_batch(model), copy.deepcopy(model)
    settings_ = PPO(
        steps=1, responses=8, actor_lr=1e-3, critic_lr=1e-2, sampling=Sampling(), minibatch=4,
        optimizer=optimizer, critic=critic,
    )  # fmt: skip
    expected = Learner(model, settings_, 0).update(batch, random.Random(0))
    found = Learner(other, settings_, 0, packed(other, 300)).update(batch, random.Random(0))
    assert {name for name in expected if found[name] != pytest.approx(expected[name], abs=2e-3)} <= {
        "scoring_s"
    }
    for (name, new), old in zip(other.named_parameters(), model.parameters(), strict=True):
        assert torch.allclose(new, old, atol=2e-4), name


def packing(monkeypatch) -> None:
    """Train without padding, as on a GPU."""
    monkeypatch.setattr(packed_training, "packs", lambda *about: True)
    for module in ("training.loss", "ppo.learner"):
        monkeypatch.setattr(f"grlib.{module}.micro_batches", None)  # what pads is not asked


def test_fine_tuning_of_notebooks_is_the_same_without_padding(monkeypatch, tmp_path):
    rows, how = some_rows(24), Training(lr=1e-3, batch_rows=8, epochs=2, micro_tokens=300)
    model, tokenizer = tiny_model(2)
    other, valid = copy.deepcopy(model), some_rows(5, seed=7)
    expected = training.train(model, rows, how, seed=0, valid=valid, valid_every=3)
    save_model(model, tokenizer, tmp_path / "padded")
    packing(monkeypatch)
    with monkeypatch.context() as inside:  # killed in the fourth step
        step = iter(range(3))
        real = training.train_step
        inside.setattr(training, "train_step", lambda *given: (next(step), real(*given))[1])
        with pytest.raises(StopIteration):
            training.train(
                copy.deepcopy(other), rows, replace(how, checkpoint_seconds=-1), seed=0,
                folder=tmp_path / "work", valid=valid, valid_every=3,
            )  # fmt: skip
    found = training.train(other, rows, how, seed=0, folder=tmp_path / "work", valid=valid, valid_every=3)
    pd.testing.assert_frame_equal(found, expected, atol=1e-4)
    for (name, new), old in zip(other.named_parameters(), model.parameters(), strict=True):
        assert torch.allclose(new, old, atol=2e-4), name
    save_model(other, tokenizer, tmp_path / "packed")
    configs = [(tmp_path / kind / "config.json").read_text() for kind in ("padded", "packed")]
    assert configs[0] == configs[1] and other.config._attn_implementation != packed_training.ATTENTION


@COMPILER
def test_the_next_model_of_a_notebook_is_not_compiled_again(monkeypatch):
    monkeypatch.setattr(packed_training, "Packed", partial(Packed, compiled=True))
    packing(monkeypatch)
    torch._dynamo.reset()
    counters.clear()
    made = []
    for longest in (60, 250, 90, 240):
        model, _ = tiny_model(2)
        how = Training(lr=1e-3, batch_rows=4, micro_tokens=300)
        training.train(model, some_rows(8, longest=longest), how, seed=0, valid=some_rows(2), valid_every=1)
        made.append(counters["stats"]["unique_graphs"])
    assert 0 < made[0] < made[1] == made[2] == made[3]  # rows of up to 128 tokens, and longer ones
    assert not any("limit" in str(reason) for reason in counters["unimplemented"])


def test_ppo_of_notebooks_is_the_same_without_padding(monkeypatch, tmp_path):
    base, words = toy(tmp_path)
    curves = []
    for kind in ("padded", "packed"):
        curve = run(
            TwoArms(words), base, tmp_path / kind, toy_settings(steps=4, critic="placed", micro_tokens=200)
        )
        curves.append(curve.drop(columns=[*TIMES, "rescore_gap"]))
        packing(monkeypatch)
    pd.testing.assert_frame_equal(curves[1], curves[0], atol=2e-3)
    configs = [(tmp_path / kind / "out" / "config.json").read_text() for kind in ("padded", "packed")]
    assert configs[0] == configs[1]


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, True),
        ({"device": torch.device("cpu")}, False),
        ({"size": 2}, False),
        ({"precision": "float32"}, False),
        ({"capability": (7, 5)}, False),
        ({"other_blocks": True}, False),
        ({"model": torch.nn.Linear(1, 1)}, False),
    ],
)
def test_what_is_trained_without_padding(monkeypatch, changes, wanted):
    given = {
        "device": torch.device("cuda"), "size": 1, "precision": "bfloat16", "capability": (8, 0),
        "other_blocks": False, "model": tiny_model(2)[0],
    } | changes  # fmt: skip
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: given["capability"])
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    team = SimpleNamespace(**{name: given[name] for name in ("device", "size", "precision")})
    assert packed_training.packs(given["model"], team, given["other_blocks"]) is wanted


def test_old_log_probabilities_are_those_of_the_trainer():
    model, _ = tiny_model(2)
    exact, others = a_batch(model), [copy.deepcopy(model) for _ in range(2)]
    noise = 0.3 * torch.rand(exact.old_logprob.shape) * (exact.old_logprob != 0)
    rough = replace(exact, old_logprob=exact.old_logprob - noise)
    settings_ = PPO(steps=1, responses=8, actor_lr=1e-3, critic_lr=1e-2, minibatch=256)
    rows = []
    for policy, batch in zip(others, (exact, rough), strict=True):
        learner = Learner(policy, settings_, 0, packed(policy, 300))
        rows.append(learner.update(batch, random.Random(0)))
    assert rows[0]["rescore_gap"] < 1e-4
    assert rows[1]["rescore_gap"] == pytest.approx(float(noise.max()), abs=1e-4)
    assert rows[0]["clipped"] == rows[1]["clipped"] == 0
    for one, other in zip(*(policy.parameters() for policy in others), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there the kernel is used")
def test_the_plain_backward_pass_is_that_of_autograd():
    q, k, v = (torch.randn(7, heads, 8, dtype=torch.float64, requires_grad=True) for heads in (4, 2, 2))
    ends = torch.tensor([0, 3, 7], dtype=torch.int32)
    assert torch.autograd.gradcheck(
        lambda *tensors: packed_training.packed_attention(*tensors, ends, 4, 0.3)[0], (q, k, v)
    )
