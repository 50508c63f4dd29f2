"""A model as the difference from its base, and a run folder as a few files."""

import json
import shutil

import pytest
import torch
from conftest import tiny_model

from grlib.__main__ import main
from grlib.errors import GrlibError
from grlib.models import pack as packing
from grlib.models.difference import WEIGHTS, write_difference
from grlib.models.llama import load_both, load_model, save_model
from grlib.runs import notebooks
from grlib.runs.files import MissingArtefact, digest, problem_with, write_json
from grlib.training.checkpoint import finished, write_finished


def changed_model(size: float):
    """The tiny model and its tokenizer, each weight changed by a random number of this size."""
    model, tokenizer = tiny_model()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in model.parameters():
            weights += size * torch.randn(weights.shape, generator=generator)
    return model, tokenizer


@pytest.fixture
def stored(tiny_folder, tmp_path):
    """A fine-tuned model beside its base, stored as the difference."""
    base = shutil.copytree(tiny_folder, tmp_path / "sos")
    model, tokenizer = changed_model(0.01)
    save_model(model, tokenizer, tmp_path / "rest" / "iteration_1")
    write_difference(tmp_path / "rest" / "iteration_1", model, base, load_model(base))
    return tmp_path / "rest" / "iteration_1"


def test_a_difference_is_loaded_as_any_model(stored, tmp_path):
    model, base = changed_model(0.01)[0], load_model(tmp_path / "sos")
    assert not (stored / "model.safetensors").exists() and problem_with(stored) is None
    found, tokenizer = load_both(stored)
    before = dict(base.named_parameters())
    for (name, weights), wanted in zip(found.named_parameters(), model.parameters(), strict=True):
        change = (wanted - before[name]).reshape(len(wanted), -1).abs().amax(1)
        error = (weights - wanted).reshape(len(wanted), -1).abs().amax(1)
        assert (error <= change / 254 + 1e-6).all(), name
    moved = shutil.copytree(tmp_path, tmp_path.parent / f"{tmp_path.name}_moved")
    assert digest(moved / "rest" / "iteration_1") == digest(stored)
    assert all(map(torch.equal, load_model(moved / "rest" / "iteration_1").parameters(), found.parameters()))


def test_a_difference_without_its_base_or_damaged_is_refused(stored, tmp_path):
    content = (stored / WEIGHTS).read_bytes()
    (stored / WEIGHTS).write_bytes(content[:100])
    with pytest.raises(GrlibError, match="cannot be read .*; fetch it again"):
        load_model(stored)
    (stored / WEIGHTS).write_bytes(content)
    save_model(*changed_model(0.5), tmp_path / "sos")
    with pytest.raises(GrlibError, match="its base .* is missing or has changed"):
        load_model(stored)


@pytest.fixture
def lab(tiny_folder, tmp_path, monkeypatch):
    """A run of two notebooks, of which the second is not finished."""
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setattr(notebooks, "FOLDER", tmp_path / "notebooks")
    for name, reads, writes in (
        ("01_base", [], ["models/sos", "models/bc", "data/large.csv"]),
        ("02_rest", ["models/sos"], ["models/rest", "results/a.csv"]),
    ):
        content = {"cells": [], "metadata": {"grlib": {"reads": reads, "writes": writes}}}
        (tmp_path / "notebooks" / f"{name}.ipynb").write_text(json.dumps(content))
    run = tmp_path / "run"
    shutil.copytree(tiny_folder, run / "models" / "sos")
    save_model(*changed_model(1.0), run / "models" / "bc")
    save_model(*changed_model(0.01), run / "models" / "rest" / "iteration_1")
    write_json(run / "run.json", {"profile": "smoke", "seed": 0})
    written = {"models/sos": digest(run / "models" / "sos")}
    manifest = write_json(run / "manifests" / "01_base.json", {"outputs": written})
    written |= {"manifests/01_base.json": digest(manifest)}
    write_json(run / "state" / "01_base.json", {"written": written})
    (run / "data").mkdir()
    (run / "data" / "large.csv").write_text("x\n1\n")
    work = run / "steps" / "02_rest" / "training_1"
    write_finished(work, {"base": digest(run / "models" / "sos")}, run / "models" / "rest" / "iteration_1")
    (work / "checkpoint.pt").write_bytes(b"large")
    (run / "steps" / "01_base").mkdir()
    return tmp_path


def run_command(command: str, lab, *more: str) -> int:
    folder = lab / ("run" if command == "pack" else "again")
    return main([command, "--profile", "smoke", "--run-dir", str(folder), str(lab / "packed"), *more])


def test_an_unpacked_run_goes_on(lab, capsys):
    assert run_command("pack", lab) == 0
    assert [path.name for path in (lab / "packed").iterdir()] == ["part_1_of_1.pack"]
    assert run_command("unpack", lab) == 0
    again = lab / "again"
    names = {path.relative_to(again).as_posix() for path in again.rglob("*") if path.is_file()}
    assert {"data/large.csv", "run.json", f"models/rest/iteration_1/{WEIGHTS}"} <= names
    assert not any("checkpoint" in name or "01_base/" in name for name in names)
    state = json.loads((again / "state" / "01_base.json").read_text())
    for name in ("models/sos", "manifests/01_base.json"):
        assert state["written"][name] == digest(again / name)
    model, work = again / "models" / "rest" / "iteration_1", again / "steps" / "02_rest" / "training_1"
    assert finished(work, {"base": digest(again / "models" / "sos")}, model)
    for name, size in (("bc", 1.0), ("rest/iteration_1", 0.01)):
        expected = changed_model(size)[0]
        for weights, wanted in zip(
            load_model(again / "models" / name).parameters(), expected.parameters(), strict=True
        ):
            assert torch.allclose(weights, wanted, rtol=0.005, atol=1e-3), name
    assert (again / "models" / "bc" / "model.safetensors").stat().st_size < 0.6 * (
        lab / "run" / "models" / "bc" / "model.safetensors"
    ).stat().st_size
    assert run_command("unpack", lab) == 2 and "holds a run already" in capsys.readouterr().err


def test_only_what_a_notebook_needs_is_packed(lab):
    assert run_command("pack", lab, "--only", "02") == 0 and run_command("unpack", lab) == 0
    assert sorted(path.name for path in (lab / "again" / "models").iterdir()) == ["rest", "sos"]
    assert not (lab / "again" / "data").exists()


def test_what_does_not_fit_or_is_not_whole_is_refused(lab, monkeypatch):
    monkeypatch.setattr(packing, "PART", 10_000)
    with pytest.raises(
        GrlibError, match="MB packed, 8 files of .*; name the notebooks that are still to run"
    ):
        packing.pack(lab / "run", lab / "packed", "smoke")
    monkeypatch.setattr(packing, "PART", 50_000)
    parts = packing.pack(lab / "run", lab / "packed", "smoke")
    assert len(parts) > 1
    parts[1].write_bytes(parts[1].read_bytes()[:-9] + b"damaged..")
    with pytest.raises(MissingArtefact, match="damaged"):
        packing.unpack(lab / "packed", lab / "again")
    parts[1].unlink()
    with pytest.raises(MissingArtefact, match=f"{len(parts) - 1} files part_"):
        packing.unpack(lab / "packed", lab / "again")
    assert not (lab / "again").exists()
