"""Requests in, responses out: sampling from a model, in resumable chunks, on all cores or GPUs.

`sample` answers requests of any number and stores each chunk as a file; `answer` answers them at once, in
this process. What a chunk holds depends only on its requests, the model, the temperature, the seed and the
number of the chunk, not on the number of workers.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple
from zlib import crc32

import pandas as pd
import torch

from grlib.errors import GrlibError
from grlib.models.llama import digest_of, load_both
from grlib.models.tokenizer import decode, encode, encode_plain, load_tokenizer
from grlib.profiles import Sampling
from grlib.runs.chunks import CLUSTER, RUNNING, chunked, end_workers, worker_pool
from grlib.runs.files import MissingArtefact, digest, problem_with
from grlib.runs.housekeeping import cores
from grlib.runs.sources import code_digest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

InMemory = tuple["PreTrainedModel", "PreTrainedTokenizerFast"]


class Request(NamedTuple):
    """A prompt, the part of the response that is already given (a hint, a rewritten trace), and the budget of
    the whole response in tokens, with that part and the end token."""

    prompt: str
    prefix: str
    budget: int


class Sampled(NamedTuple):
    """A response: its text (with the prefix), its tokens (with the prefix and the end token), whether it
    ended by itself (else it ran into the budget), and how many of its tokens are new (0: the prefix filled
    the budget). With `Sampling.logprobs`: the new tokens and the log probability that each was drawn with.
    """

    text: str
    tokens: int
    ended: bool
    new: int
    ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()


OPTIONAL = ("ids", "logprobs")  # fields of `Sampled` that only `Sampling.logprobs` fills


def sample(
    model: Path | InMemory,
    requests: Sequence[Request],
    settings: Sampling,
    *,
    seed: int | str,
    folder: Path,
    progress: Callable[[str], None] | None = None,
    label: str = "sampling",
) -> list[Sampled]:
    """Answer all requests with a model, in order; finished chunks are kept in `folder`.

    The model is a folder or, for the engine "static", in memory. A call that was killed continues
    when it is made again with the same arguments. Raises GrlibError for a model that is missing or damaged,
    an engine that is not installed, and a prompt that does not fit the model.
    """
    if not requests:
        return []
    if isinstance(model, Path):
        if fault := problem_with(model):
            raise MissingArtefact(f"model {model}: {fault}; delete the folder and make it again")
        content = digest(model)
    else:
        content = digest_of(model[0])
    key = {
        "model": content,
        "requests": hashlib.sha256(repr(list(requests)).encode()).hexdigest(),
        "seed": str(seed),
        "sampling": {
            name: getattr(settings, name) for name in ("engine", "temperature", "slots", "logprobs")
        },
        "chunk": settings.chunk,
        "code": code_digest("grlib.sampling.pool", f"grlib.sampling.{settings.engine}"),
    }
    check_engine(settings)
    parts = [list(requests[i : i + settings.chunk]) for i in range(0, len(requests), settings.chunk)]
    jobs = [(model, part, settings, crc32(f"{seed}/{number}".encode())) for number, part in enumerate(parts)]
    # starting workers for a single chunk costs more than they save; a GPU is free when its process ends
    several = len(parts) > 1 and (_processes(settings) > 1 or os.environ.get(CLUSTER))
    workers = settings.engine == "vllm" or (several and settings.engine != "static")

    def submitted(number: int) -> Future[pd.DataFrame]:
        return _pool(settings, content).submit(sample_chunk, *jobs[number])

    try:
        frame = chunked(
            folder,
            key,
            len(parts),
            lambda number: _sample_here(*jobs[number]),
            submit=submitted if workers else None,
            progress=progress,
            label=label,
        )
    except BrokenProcessPool:  # a worker was killed, mostly for want of memory: the next call needs new ones
        end_workers()
        raise
    for name in set(OPTIONAL) & set(frame):  # lists come out of the files as arrays
        frame[name] = [tuple(values.tolist()) for values in frame[name]]
    return [Sampled(*row) for row in zip(*(frame[name].tolist() for name in frame), strict=True)]


def sample_chunk(
    model: Path | InMemory, requests: list[Request], settings: Sampling, seed: int
) -> pd.DataFrame:
    """Answer one chunk in this process: a row per request, columns as in `Sampled`."""
    loaded = _loaded(model, digest(model), settings.engine) if isinstance(model, Path) else model
    frame = pd.DataFrame(answer(*loaded, requests, settings, seed), columns=list(Sampled._fields))
    return frame if settings.logprobs else frame.drop(columns=list(OPTIONAL))


def answer(
    model: PreTrainedModel | Any,
    tokenizer: PreTrainedTokenizerFast,
    requests: Sequence[Request],
    settings: Sampling,
    seed: int,
) -> list[Sampled]:
    """Answer requests, in order, in this process.

    vLLM samples from folders only, so a model in memory is sampled by transformers instead. Raises GrlibError
    where a prompt and its budget do not fit the model.
    """
    module = engine(settings.engine)
    if hasattr(module, "ServedModel") and not isinstance(model, module.ServedModel):
        if settings.logprobs:
            raise GrlibError(
                "log probabilities of engine 'vllm' need a model in a folder; this one is in memory"
            )
        module = engine("transformers")
    prompts = encode(tokenizer, [request.prompt for request in requests])
    prefixes = encode_plain(tokenizer, [request.prefix for request in requests])
    budgets = [
        max(0, request.budget - len(prefix)) for request, prefix in zip(requests, prefixes, strict=True)
    ]
    full = [prompt + prefix for prompt, prefix in zip(prompts, prefixes, strict=True)]
    positions = model.config.max_position_embeddings
    for ids, budget in zip(full, budgets, strict=True):
        if budget > 0 and not 0 < len(ids) <= positions - budget:
            raise GrlibError(
                f"a prompt of {len(ids)} tokens with a budget of {budget} more does not fit: the model takes "
                f"1 to {positions} in all; shorten the prompt or lower the budget"
            )
    drawn = module.generate(model, tokenizer, full, budgets, settings, seed)
    found = []
    for request, prefix, ids, logprobs in zip(requests, prefixes, *drawn, strict=True):
        ended = bool(ids) and ids[-1] == tokenizer.eos_token_id
        text = request.prefix + decode(tokenizer, ids[:-1] if ended else ids)
        optional = (tuple(ids), tuple(logprobs)) if settings.logprobs else ()
        found.append(Sampled(text, len(prefix) + len(ids), ended, len(ids), *optional))
    return found


def engine(name: str) -> ModuleType:
    """The module of an engine, grlib.sampling.<name>, which is imported when it is used.

    Its `generate(model, tokenizer, prompts, budgets, settings, seed)` returns the new tokens of each prompt
    and their log probabilities. An engine that loads model folders itself has `served(folder, digest)` and
    `ServedModel`. A new engine is a file here, and its name in `grlib.profiles.ENGINES`.
    """
    return importlib.import_module(f"grlib.sampling.{name}")


# Worker processes


def check_engine(settings: Sampling) -> None:
    """GrlibError, before any work, where the engine is not installed or needs more GPUs than there are."""
    if settings.engine != "vllm":
        return
    if importlib.util.find_spec("vllm") is None:
        raise GrlibError(
            "engine 'vllm': vLLM is not installed; run `make vllm`, or choose another engine "
            "(field `engine` of the profile in grlib/profiles/)"
        )
    gpus = torch.cuda.device_count()
    few = 0 < gpus < settings.data_parallel and not os.environ.get(CLUSTER)
    if few:  # without a GPU, it runs on the CPU
        raise GrlibError(f"data_parallel={settings.data_parallel}: there are {gpus} GPUs; lower it")


def _processes(settings: Sampling) -> int:
    """The number of workers: one per core, or one per copy of the model on GPUs."""
    return settings.data_parallel if settings.engine == "vllm" else settings.workers or cores()


def _pool(settings: Sampling, content: str = "") -> Executor:
    """Worker processes, started once: they keep torch and the last model loaded. With vLLM, which holds its
    memory until its process ends, they serve one model, with the digest `content`."""
    served = content if settings.engine == "vllm" else ""
    kind = (settings.engine, _processes(settings), served)
    if kind not in RUNNING:
        end_workers()
        RUNNING[kind] = worker_pool(_processes(settings), gpus=int(settings.engine == "vllm"))
    return RUNNING[kind]


def _sample_here(
    model: Path | InMemory, requests: list[Request], settings: Sampling, seed: int
) -> pd.DataFrame:
    """`sample_chunk` on one thread, as in a worker, so that the same rows come out."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return sample_chunk(model, requests, settings, seed)
    finally:
        torch.set_num_threads(threads)


@lru_cache(maxsize=1)
def _loaded(folder: Path, content: str, name: str) -> tuple[Any, PreTrainedTokenizerFast]:
    """Model (as its engine takes it) and tokenizer of a folder; `content` is its digest, so that a folder
    that has changed is loaded again."""
    if hasattr(engine(name), "served"):
        return engine(name).served(folder, content), load_tokenizer(folder)
    return load_both(folder)
