"""Engine "vllm": one vLLM engine per worker process, for one model; `pool` starts a process for another.

vLLM gets and gives token ids only: `pool.answer` encodes and decodes as for the other engines, so that a
prefix is continued exactly and budgets count the same tokens.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

import torch

from grlib.errors import GrlibError, one_line
from grlib.models.llama import gpu_dtype
from grlib.profiles import Sampling

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerFast
    from vllm import LLM

    from grlib.sampling.batched import Drawn

LENGTH_STEP = 512  # the longest sequence of an engine, in tokens, is a multiple of this
_KEPT: dict[tuple[str, int], tuple[int, LLM]] = {}  # the last engine and its longest sequence
CACHE_GIB = "VLLM_CPU_KVCACHE_SPACE"  # vLLM's own variable: memory for keys and values on a CPU


@dataclass(frozen=True)
class ServedModel:
    """A model folder that the engine of this process serves; `content` is the folder's digest."""

    folder: str
    content: str
    config: PretrainedConfig


def served(folder: Path, content: str) -> ServedModel:
    """The model in a folder that has the digest `content`."""
    from transformers import AutoConfig

    return ServedModel(str(folder), content, AutoConfig.from_pretrained(folder, trust_remote_code=False))


def generate(
    model: ServedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[Sequence[int]],
    budgets: Sequence[int],
    settings: Sampling,
    seed: int,
) -> Drawn:
    """New tokens of each prompt, up to the end token or its budget, and their log probabilities (empty lists
    unless `settings.logprobs`)."""
    from vllm import SamplingParams

    tokens: list[list[int]] = [[] for _ in prompts]
    logprobs: list[list[float]] = [[] for _ in prompts]
    active = [number for number, budget in enumerate(budgets) if budget > 0]
    if not active:
        return tokens, logprobs
    llm = _serving(model, max(len(prompts[number]) + budgets[number] for number in active), settings)
    parameters = [
        SamplingParams(
            temperature=settings.temperature,
            max_tokens=budgets[number],
            seed=crc32(f"{seed}/{number}".encode()),  # independent of the other requests of the batch
            ignore_eos=True,  # the end tokens of the model's folder, which may be others
            stop_token_ids=[tokenizer.eos_token_id],
            detokenize=False,
            logprobs=0 if settings.logprobs else None,
        )
        for number in active
    ]
    texts = [{"prompt_token_ids": list(prompts[number])} for number in active]
    for number, answer in zip(active, llm.generate(texts, parameters, use_tqdm=False), strict=True):
        found = answer.outputs[0]
        tokens[number] = list(found.token_ids)
        if settings.logprobs:
            drawn = zip(found.token_ids, found.logprobs, strict=True)
            logprobs[number] = [float(known[token].logprob) for token, known in drawn]
    return tokens, logprobs


def _serving(model: ServedModel, longest: int, settings: Sampling) -> LLM:
    """The engine for sequences of `longest` tokens: the last one, or a new one for a model or a length that
    it does not serve."""
    key = (model.content, settings.slots)
    if longest > _KEPT.get(key, (0, None))[0]:
        _KEPT.clear()  # frees its memory first
        most = model.config.max_position_embeddings
        length = min(most, -(-longest // LENGTH_STEP) * LENGTH_STEP)
        _KEPT[key] = length, _started(model.folder, length, settings)
    return _KEPT[key][1]


def _memory_share() -> float:
    """The share of the GPU's memory that an engine may take: nine tenths of what is free, since a trainer may
    hold the rest and vLLM does not start for more than is free."""
    if not torch.cuda.is_available():
        return 0.9  # not used: on a CPU, CACHE_GIB sets the memory
    left, whole = torch.cuda.mem_get_info()
    return 0.9 * left / whole


def _started(folder: str, length: int, settings: Sampling) -> LLM:
    """A new engine, which logs errors only."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # this is a worker process already
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    from vllm import LLM

    gpu = torch.cuda.is_available()
    if not gpu:
        os.environ.setdefault(CACHE_GIB, "2")
    try:
        return LLM(
            model=folder,
            skip_tokenizer_init=True,
            dtype=str(gpu_dtype() if gpu else torch.float32).removeprefix("torch."),
            max_model_len=length,
            max_num_seqs=settings.slots,
            enforce_eager=not gpu,  # compiling costs more than it saves on a CPU
            # with a seed, a CPU cannot take back what is drawn where a step ends inside a prompt (vLLM 0.32)
            enable_chunked_prefill=None if gpu else False,
            generation_config="vllm",  # not what the model's own folder suggests
            gpu_memory_utilization=_memory_share(),
            seed=0,
        )
    except (RuntimeError, ValueError, MemoryError) as error:
        raise GrlibError(
            f"vLLM did not start for {folder} with sequences of {length} tokens, {settings.slots} at once "
            f"({one_line(error)}); lower slots or the budget, train with "
            f"strategy='fsdp', or set {CACHE_GIB} (GiB, on a CPU)"
        ) from error
