"""What several test modules share: tiny random models, and a count of the chunks that were sampled."""

import contextlib
import os
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import settings

from grlib.profiles import Model

# before torch is imported, here and in children: results and times must not depend on the machine's cores
os.environ.setdefault("OMP_NUM_THREADS", "1")
settings.register_profile("busy", deadline=None)  # nor may tests fail where the machine is busy
settings.load_profile("busy")

NUMBERS = 30  # whole numbers of the tiny tokenizer: larger ones are spelt digit by digit
POSITIONS = 256
SHAPE = Model(hidden=32, layers=2, heads=4, kv_heads=4, intermediate=64)


def wait_for(condition, seconds: float = 300):
    """Wait until something holds: long enough for a machine that does other things too."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def tiny_model(kv_heads: int = 4, positions: int = POSITIONS, spread: bool = True):
    """A random Llama, 2 layers of 32; `spread`: weights so large that its text varies and may end."""
    import torch

    from grlib.models.llama import bake, of_shape
    from grlib.tasks.countdown.vocabulary import build_tokenizer

    tokenizer = build_tokenizer(NUMBERS)
    model = of_shape(SHAPE, tokenizer, positions, seed=1)
    if kv_heads != 4:
        from transformers import LlamaForCausalLM

        model.config.num_key_value_heads = kv_heads
        model = LlamaForCausalLM(model.config)
    if spread:
        bake(model)
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for name, weights in model.named_parameters():
                if weights.ndim == 2:
                    scale = 0.5 if "embed" in name else 0.3
                    weights.copy_(scale * torch.randn(weights.shape, generator=generator))
            model.get_input_embeddings().weight[tokenizer.eos_token_id] *= 2
    return model.eval(), tokenizer


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    """A saved random model whose samples vary."""
    from grlib.models.llama import save_model

    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_model(*tiny_model(), folder)
    return folder


@pytest.fixture(scope="session")
def grouped_folder(tmp_path_factory) -> Path:
    """As `tiny_folder`, with 4 query heads to 2 key-value heads."""
    from grlib.models.llama import save_model

    folder = tmp_path_factory.mktemp("models") / "grouped"
    save_model(*tiny_model(kv_heads=2), folder)
    return folder


@pytest.fixture
def chunks_done(monkeypatch) -> list[int]:
    """Grows by the size of every chunk that `sample` works out in this process (settings with one worker)."""
    from grlib.sampling import pool as sampling

    done: list[int] = []
    work = sampling.sample_chunk

    def counted(folder, requests, settings, seed):
        done.append(len(requests))
        return work(folder, requests, settings, seed)

    monkeypatch.setattr(sampling, "sample_chunk", counted)
    return done
