"""Engine "vllm": one vLLM engine per worker process, which stays and loads new weights where that works.

vLLM gets and gives token ids only: `pool.answer` encodes and decodes as for the other engines, so that a
prefix is continued exactly and budgets count the same tokens.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
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
CACHE_GIB = "VLLM_CPU_KVCACHE_SPACE"  # vLLM's own variable: memory for keys and values on a CPU
EMBEDDING, OUTPUT = "model.embed_tokens.weight", "lm_head.weight"  # in Llama and models like it
# Fields of a configuration in which two models may differ that one engine can serve.
NOT_THE_SHAPE = {"_name_or_path", "vocabulary_digest", "transformers_version", "dtype", "torch_dtype"}


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
    llm = _engine.serving(model, max(len(prompts[number]) + budgets[number] for number in active), settings)
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


class _Engine:
    """The engine of this process, and the digest of the model whose weights it holds."""

    def __init__(self) -> None:
        self.llm: LLM | None = None
        self.content = ""
        self.key: dict[str, Any] = {}
        self.length = self.started = 0

    def serving(self, model: ServedModel, longest: int, settings: Sampling) -> LLM:
        """The engine with the weights of `model`, for sequences of `longest` tokens: the present one with new
        weights where shape and length allow it, else a new one."""
        apart = _holds_apart(model.config)
        shape = {name: value for name, value in model.config.to_dict().items() if name not in NOT_THE_SHAPE}
        key = {"shape": shape, "slots": settings.slots, "tensor_parallel": settings.tensor_parallel}
        if self.llm is None or key != self.key or longest > self.length:
            self.llm = None  # free its memory first
            most = model.config.max_position_embeddings
            self.length = min(most, -(-longest // LENGTH_STEP) * LENGTH_STEP)
            self.llm = _started(model.folder, self.length, settings, apart)
            self.started += 1
            self.key, self.content = key, "" if apart else model.content
        if model.content != self.content:
            self.content = ""  # until all weights are loaded
            source = {"weights_iterator": Untied(model.folder)} if apart else {"weights_path": model.folder}
            self.llm.collective_rpc("reload_weights", kwargs=source)
            self.llm.reset_prefix_cache()
            self.content = model.content
        return self.llm


def _holds_apart(config: PretrainedConfig) -> bool:
    """Whether the engine holds the output matrix apart from the embedding table, though the model ties them.
    On a CPU vLLM packs a copy of that matrix when it starts, and loading new tied weights would not renew the
    copy."""
    return bool(config.tie_word_embeddings) and not torch.cuda.is_available()


@dataclass(frozen=True)
class Untied:
    """The weights of a model folder, by name, with the embedding table a second time as the output matrix.
    GrlibError where the table has another name."""

    folder: str

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        from safetensors.torch import load_file

        found = False
        for path in sorted(Path(self.folder).glob("*.safetensors")):
            for name, weights in load_file(path).items():
                yield name, weights
                if name == EMBEDDING:
                    yield OUTPUT, weights
                    found = True
        if not found:
            raise GrlibError(
                f"{self.folder}: no weights {EMBEDDING!r}, to which the output matrix is tied; on a CPU, "
                "choose engine='transformers' for such a model"
            )


_engine = _Engine()


def _memory_share(gpus: int) -> float:
    """The share of the memory of its GPUs that an engine may take: nine tenths of what is free, since a
    trainer may hold the rest and vLLM does not start for more than is free."""
    if not torch.cuda.is_available():
        return 0.9  # not used: on a CPU, CACHE_GIB sets the memory
    free = [torch.cuda.mem_get_info(number) for number in range(gpus)]
    return min(0.9 * left / whole for left, whole in free)


def _started(folder: str, length: int, settings: Sampling, apart: bool) -> LLM:
    """A new engine, which logs errors only. Where it holds the output matrix `apart`, its weights are not
    loaded yet."""
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
            tensor_parallel_size=settings.tensor_parallel,
            enforce_eager=not gpu,  # compiling costs more than it saves on a CPU
            # with a seed, a CPU cannot take back what is drawn where a step ends inside a prompt (vLLM 0.32)
            enable_chunked_prefill=None if gpu else False,
            generation_config="vllm",  # not what the model's own folder suggests
            load_format="dummy" if apart else "auto",
            hf_overrides={"tie_word_embeddings": False} if apart else {},
            gpu_memory_utilization=_memory_share(settings.tensor_parallel),
            seed=0,
        )
    except (RuntimeError, ValueError, MemoryError) as error:
        raise GrlibError(
            f"vLLM did not start for {folder} with sequences of {length} tokens, {settings.slots} at once "
            f"({one_line(error)}); lower slots or the budget, raise tensor_parallel, train with "
            f"strategy='fsdp', or set {CACHE_GIB} (GiB, on a CPU)"
        ) from error
