"""A model that is stored as the difference from its base."""

import shutil

import pytest
import torch
from conftest import tiny_model

from grlib.errors import GrlibError
from grlib.models.difference import WEIGHTS, write_difference
from grlib.models.llama import load_both, load_model, save_model
from grlib.runs.files import digest, problem_with


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
