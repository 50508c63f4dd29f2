"""Two processes train as one does; a dead one ends the job; a checkpoint serves another number of them."""

import shutil
import socket
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from conftest import is_running, wait_for
from two_arms import TwoArms, run, toy, toy_settings

from grlib.errors import GrlibError
from grlib.models.llama import load_model
from grlib.ppo import loop as ppo
from grlib.profiles import Training
from grlib.selftrain import fine_tune_rows
from grlib.training import loop as training
from grlib.training.rows import Row

pytestmark = pytest.mark.integration

SETTINGS = Training(lr=3e-3, batch_rows=6, epochs=2, micro_tokens=64, checkpoint_seconds=0)


def rows(count=26, longest=30):
    """Rows of many lengths; the last step of an epoch has fewer of them than there are processes."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(8, longest, count - 1).tolist() + [longest]
    return [Row(rng.integers(3, 200, length).astype(np.int32), 3) for length in lengths]


def trained(base, folder, settings, examples=None, said=None):
    """The curve and the weights after training by as many processes as the settings say."""
    examples = rows() if examples is None else examples
    told = [] if said is None else said
    out, work = folder / "model", folder / "work"
    curve = fine_tune_rows(examples, settings, base, out, work, seed=1, label="job", progress=told.append)
    return curve, dict(load_model(out).named_parameters()), told


def differ(a, b):
    return max(float((a[name] - b[name]).detach().abs().max()) for name in a)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_have_the_curve_and_the_weights_of_one(tiny_folder, tmp_path, monkeypatch, strategy):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    one, weights, _ = trained(tiny_folder, tmp_path / "one", SETTINGS)
    settings = replace(SETTINGS, processes=2, strategy=strategy)
    _, shared, said = trained(tiny_folder, tmp_path / "two", settings)
    two = pd.read_csv(tmp_path / "two" / "model" / "curve.csv")
    assert two[["step", "tokens_seen"]].equals(one[["step", "tokens_seen"]])
    assert np.abs(two["loss"] - one["loss"]).max() < 1e-5  # nats: sums in another order
    assert differ(weights, shared) < 1e-4
    assert sum("step 10/10" in line for line in said) == 1  # one of them says how it goes
    assert not list((tmp_path / "tmp").glob("torchelastic*"))


def test_two_machines_train_as_one_process_does(tiny_folder, tmp_path, monkeypatch):
    """Both are this one: a launcher starts the command of machine 1, then that of machine 0."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    one, weights, _ = trained(tiny_folder, tmp_path / "one", SETTINGS)
    run = f'"{sys.executable}" -m accelerate.commands.launch --num_machines 2 --main_process_ip 127.0.0.1'
    run += f' --main_process_port {port} --machine_rank $rank "$@"'
    monkeypatch.setenv("GRLIB_ACCELERATE", f"bash -c 'for rank in 1 0; do {run} & done; wait' bash")
    _, shared, _ = trained(tiny_folder, tmp_path / "two", replace(SETTINGS, processes=2))
    assert len(list((tmp_path / "two" / "work" / "job" / "launcher").iterdir())) == 2
    assert differ(weights, shared) < 1e-4


def test_a_checkpoint_serves_another_number_of_processes(tiny_folder, tmp_path, monkeypatch):
    settings = replace(SETTINGS, processes=2, strategy="fsdp")
    _, weights, _ = trained(tiny_folder, tmp_path, settings)
    assert not (tmp_path / "work" / "checkpoint.new").exists()  # the last one only
    alone, found, _ = trained(tiny_folder, tmp_path, SETTINGS)
    assert len(alone) == 10 and differ(weights, found) == 0  # nothing was left to do


def test_a_killed_process_ends_the_job_and_the_next_call_goes_on(tiny_folder, tmp_path, monkeypatch):
    """With as many processes, and with one; LoRA has all that training without it has, and more."""
    settings, many = replace(SETTINGS, processes=2, epochs=6, lora_rank=2), rows(60)
    failed = []

    def job():
        try:
            trained(tiny_folder, tmp_path, settings, many)
        except GrlibError as error:
            failed.append(error)

    thread = threading.Thread(target=job)
    thread.start()
    state = tmp_path / "work" / "checkpoint" / "place.pt"
    wait_for(lambda: state.exists() or not thread.is_alive())
    assert state.exists(), failed
    workers = [
        process
        for process in psutil.Process().children(recursive=True)
        if "grlib.training.parallel" in " ".join(process.cmdline())
        and "launch" not in " ".join(process.cmdline())
    ]
    workers[0].kill()
    thread.join(300)
    assert not thread.is_alive(), "the other process hangs"
    assert "the next call continues from the last checkpoint" in str(failed[0])
    assert not any(is_running(process.pid) for process in workers)
    shutil.copytree(tmp_path / "work", tmp_path / "one" / "work")
    _, found, said = trained(tiny_folder, tmp_path, settings, many)
    made, step = [], training.train_step
    monkeypatch.setattr(training, "train_step", lambda *given: made.append(1) or step(*given))
    curve, alone, _ = trained(tiny_folder, tmp_path / "one", replace(settings, processes=1), many)
    _, whole, _ = trained(tiny_folder, tmp_path / "whole", settings, many)
    assert differ(found, whole) < 1e-6 and differ(alone, whole) < 1e-3
    assert "step 60/60" in said[-1] and len(curve) == 60 > len(made)


def test_settings_that_cannot_be_shared_are_refused():
    with pytest.raises(GrlibError, match="needs whole matrices"):
        replace(SETTINGS, strategy="fsdp", optimizer="muon")
    with pytest.raises(GrlibError, match="precision is 'float16'"):
        replace(SETTINGS, precision="float16")


def test_bfloat16_and_recomputing_train_about_the_same(tiny_folder, tmp_path):
    one, _, _ = trained(tiny_folder, tmp_path / "one", SETTINGS)
    half, _, _ = trained(tiny_folder, tmp_path / "half", replace(SETTINGS, precision="bfloat16"))
    again, weights, _ = trained(tiny_folder, tmp_path / "again", replace(SETTINGS, recompute=True))
    assert 0 < np.abs(half["loss"] - one["loss"]).max() < 0.05
    assert np.abs(again["loss"] - one["loss"]).max() < 1e-5
    assert all(value.dtype == torch.float32 for value in weights.values())


def reinforced(folder, **changes):
    """The curve and the weights of a run of the two-armed task."""
    base, words = toy(folder)
    curve = run(TwoArms(words), base, folder, toy_settings(steps=3, checkpoint_seconds=0.0, **changes))
    return curve, dict(load_model(folder / "out").named_parameters())


@pytest.mark.parametrize(
    "changes",
    [
        {"strategy": "ddp"},
        {"strategy": "fsdp", "critic": "shared", "optimizer": "normed_sgd", "actor_lr": 0.3},
        {"strategy": "fsdp", "baseline": "group", "group": 8, "recompute": True},
    ],
)
def test_two_processes_reinforce_as_one_does(tmp_path, monkeypatch, changes):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))  # where the task is
    one, weights = reinforced(tmp_path / "one", **changes)
    two, shared = reinforced(tmp_path / "two", processes=2, **changes)
    same = one.columns.difference(ppo.TIMES)
    assert np.nanmax(np.abs(two[same] - one[same]).to_numpy()) < 1e-4
    assert two[same].isna().equals(one[same].isna())
    assert differ(weights, shared) < 1e-4
    # the checkpoint that they left is one that a single process can go on from, and is of the last step
    (tmp_path / "two" / "out" / "curve.csv").unlink()
    again, _ = reinforced(tmp_path / "two", **changes)
    assert np.nanmax(np.abs(again[same] - two[same]).to_numpy()) < 1e-12


def test_a_process_that_fails_in_reinforcement_says_why(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    with pytest.raises(GrlibError, match=r"PPO: training by 2 processes .* must be finite"):
        reinforced(tmp_path, processes=2, actor_lr=1e9, minibatch=16)
