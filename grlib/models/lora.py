"""LoRA, with peft: train low-rank adapters, then merge them into the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from zlib import crc32

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def low_rank(model: PreTrainedModel, rank: int, seed: int | str) -> Iterator[None]:
    """A context in which only adapters of this rank, on all matrices of the blocks, are trained.

    At its end they are merged into the model, which has no adapters then. Rank 0 changes nothing; `seed`
    fixes the first weights of the adapters.
    """
    if rank == 0:
        yield
        return
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    with torch.random.fork_rng():
        torch.manual_seed(crc32(f"adapters/{seed}".encode()))
        adapted = get_peft_model(model, config)  # changes the model in place
    yield
    adapted.merge_and_unload()
    model.requires_grad_(True)
