"""One interface to sample from a model: requests in, responses out, in resumable chunks on all cores.

An engine turns a chunk of requests into responses; the content of a chunk depends on its requests, the model,
the temperature, the seed and the chunk's number alone.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from zlib import crc32

import pandas as pd

from grlib.errors import GrlibError
from grlib.profiles import Sampling
from grlib.profiles.settings import ON_GPUS
from grlib.runs.chunks import chunked, worker_pool
from grlib.runs.files import MissingArtefact, digest, problem_with
from grlib.runs.provenance import cores
from grlib.runs.sources import code_digest
from grlib.sampling.vllm import ServedModel, refuse_few_gpus, refuse_missing, take_devices

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from grlib.sampling.static import Finished


class Request(NamedTuple):
    """A prompt, the part of the response that already stands (a hint, a rewritten trace), and the budget of
    the whole response in tokens, that part and the end token included."""

    prompt: str
    prefix: str
    budget: int


class Sampled(NamedTuple):
    """A response: its text (prefix included), its tokens (prefix and end token included), whether it ended by
    itself (otherwise it ran into the budget), and how many of the tokens are new (0: the prefix filled the
    budget). Where the settings ask for them, the new tokens and the log probability that each was drawn with.
    """

    text: str
    tokens: int
    ended: bool
    new: int
    ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()


_POOLS: dict[tuple[str, int, int], ProcessPoolExecutor] = {}  # the one that runs, by its kind
_ON_REQUEST = ("ids", "logprobs")  # fields of `Sampled` that are kept only where the settings ask for them


AtHand = tuple["PreTrainedModel", "PreTrainedTokenizerFast"]  # a model in this process, and its tokenizer


def sample(
    model: Path | AtHand,
    requests: Sequence[Request],
    settings: Sampling,
    *,
    seed: int | str,
    folder: Path,
    progress: Callable[[str], None] | None = None,
    label: str = "sampling",
) -> list[Sampled]:
    """Answer all requests with a model, in order. Done chunks are kept in `folder`.

    The model is a folder, or at hand where the settings say `resident`. A killed call goes on where it was
    when it is made again with the same arguments.
    """
    if not requests:
        return []
    if isinstance(model, Path):
        if fault := problem_with(model):
            raise MissingArtefact(f"model {model}: {fault}; delete the folder and make it again")
        content = digest(model)
    else:
        from grlib.models.llama import digest_of

        content = digest_of(model[0])
    parts = [list(requests[i : i + settings.chunk]) for i in range(0, len(requests), settings.chunk)]
    key = {
        "model": content,
        "requests": hashlib.sha256(repr(list(requests)).encode()).hexdigest(),
        "seed": str(seed),
        "sampling": {
            name: getattr(settings, name) for name in ("engine", "temperature", "slots", "logprobs")
        },
        "chunk": settings.chunk,
        "code": code_digest("grlib.sampling.pool"),
    }
    check_engine(settings)

    def arguments(number: int) -> tuple[Path | AtHand, list[Request], Sampling, int]:
        return model, parts[number], settings, crc32(f"{seed}/{number}".encode())

    def here(number: int) -> pd.DataFrame:
        return sample_alone(*arguments(number))

    def submit(number: int) -> Future[pd.DataFrame]:
        return _pool(settings).submit(sample_chunk, *arguments(number))

    try:
        # starting workers for a single chunk costs more than they save; a GPU is free when its process ends
        several = len(parts) > 1 and processes_of(settings) > 1
        workers = (several or settings.engine in ON_GPUS) and not settings.resident
        elsewhere = submit if workers else None
        frame = chunked(folder, key, len(parts), here, submit=elsewhere, progress=progress, label=label)
    except BrokenProcessPool:  # a worker was killed, mostly for want of memory: the next call needs new ones
        end_workers()
        raise
    for name in set(_ON_REQUEST) & set(frame):  # lists come out of the files as arrays
        frame[name] = [tuple(values.tolist()) for values in frame[name]]
    return [Sampled(*row) for row in zip(*(frame[name].tolist() for name in frame), strict=True)]


def check_engine(settings: Sampling) -> None:
    """GrlibError, before any work, where the engine or a GPU that it is to have is not there."""
    if settings.engine == "vllm":
        refuse_missing()
    if settings.engine in ON_GPUS:
        refuse_few_gpus(settings)


def processes_of(settings: Sampling) -> int:
    """How many workers there are: on GPUs (and with vLLM) one per copy of the model."""
    return settings.data_parallel if settings.engine in ON_GPUS else settings.workers or cores()


def _pool(settings: Sampling) -> ProcessPoolExecutor:
    """Worker processes, started once: they keep torch, and the last model, loaded."""
    engine, processes, gpus = settings.engine, processes_of(settings), settings.tensor_parallel
    kind = (engine, processes, gpus)
    if kind not in _POOLS:
        end_workers()
        first: Callable[[], None] = _one_thread
        if engine in ON_GPUS:
            first = partial(take_devices, multiprocessing.get_context("spawn").Value("i", 0), gpus)
        _POOLS[kind] = worker_pool(processes, first)
    return _POOLS[kind]


def end_workers() -> None:
    """End the workers; the next call starts them anew."""
    while _POOLS:
        _POOLS.popitem()[1].shutdown()


def release_gpus() -> None:
    """End the workers where they may hold a GPU's memory, nearly all of it with vLLM: training needs it."""
    import torch

    if torch.cuda.is_available():
        end_workers()


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)  # one process a core: threads of several processes would fight over the cores
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupted notebook ends its workers itself


def sample_alone(
    model: Path | AtHand, requests: list[Request], settings: Sampling, seed: int
) -> pd.DataFrame:
    """`sample_chunk` in this process, on one thread as in a worker: the same rows come out."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return sample_chunk(model, requests, settings, seed)
    finally:
        torch.set_num_threads(threads)


def sample_chunk(
    model: Path | AtHand, requests: list[Request], settings: Sampling, seed: int
) -> pd.DataFrame:
    """Answer one chunk in this process: columns as in `Sampled`, those on request only if asked for."""
    at_hand = _loaded(model, digest(model), settings.engine) if isinstance(model, Path) else model
    found = answer(*at_hand, requests, settings, seed)
    frame = pd.DataFrame(found, columns=list(Sampled._fields))
    return frame if settings.logprobs else frame.drop(columns=list(_ON_REQUEST))


@lru_cache(maxsize=1)
def _loaded(folder: Path, content: str, engine: str) -> tuple[Any, PreTrainedTokenizerFast]:
    """The model, as its engine takes it, and tokenizer of a folder; `content` tells a changed one apart."""
    from grlib.models.llama import load_both
    from grlib.models.tokenizer import load_tokenizer

    if engine == "vllm":
        return ServedModel(str(folder), content), load_tokenizer(folder)
    return load_both(folder)


def answer(
    model: PreTrainedModel | ServedModel,
    tokenizer: PreTrainedTokenizerFast,
    requests: Sequence[Request],
    settings: Sampling,
    seed: int,
) -> list[Sampled]:
    """Answer requests with a model at hand, in this process.

    vLLM serves folders from processes of its own: a model at hand is sampled by transformers in its stead.
    """
    return by_number(answers(model, tokenizer, requests, settings, seed), len(requests))


def by_number(found: Iterable[tuple[int, Sampled]], count: int) -> list[Sampled]:
    """Answers to `count` requests by their numbers; GrlibError where one has none or several."""
    answers: dict[int, Sampled] = {}
    for number, one in found:
        if number in answers or not 0 <= number < count:
            raise GrlibError(f"an answer to request {number} of 0..{count - 1}, which waits for none")
        answers[number] = one
    if missing := set(range(count)) - set(answers):
        raise GrlibError(f"no answer to {len(missing)} of {count} requests, first number {min(missing)}")
    return [answers[number] for number in range(count)]


def answers(
    model: PreTrainedModel | ServedModel,
    tokenizer: PreTrainedTokenizerFast,
    requests: Sequence[Request],
    settings: Sampling,
    seed: int,
) -> Iterator[tuple[int, Sampled]]:
    """`answer`, each with the number of its request, in the order in which they are finished: with engine
    "static" a GPU goes on with the others meanwhile."""
    from grlib.models.tokenizer import decode, encode

    served = isinstance(model, ServedModel)
    engine = "transformers" if settings.engine == "vllm" and not served else settings.engine
    if settings.logprobs and engine == "transformers":
        raise GrlibError("log probabilities by vLLM need a model in a folder, not one at hand")
    prompts = encode(tokenizer, [request.prompt for request in requests])
    prefixes = encode(tokenizer, [request.prefix for request in requests])
    left = [max(0, request.budget - len(prefix)) for request, prefix in zip(requests, prefixes, strict=True)]
    full = [prompt + prefix for prompt, prefix in zip(prompts, prefixes, strict=True)]
    check_room(full, left, model.config.max_position_embeddings)
    for i, tokens, logprobs in ENGINES[engine](model, tokenizer, full, left, settings, seed):
        ended = bool(tokens) and tokens[-1] == tokenizer.eos_token_id
        text = requests[i].prefix + decode(tokenizer, tokens[:-1] if ended else tokens)
        kept = (tuple(tokens), tuple(logprobs)) if settings.logprobs else ()
        yield i, Sampled(text, len(prefixes[i]) + len(tokens), ended, len(tokens), *kept)


def check_room(prompts: Sequence[Sequence[int]], budgets: Sequence[int], positions: int) -> None:
    """Raise GrlibError where a prompt and its budget of new tokens do not fit a model of `positions`."""
    for prompt, budget in zip(prompts, budgets, strict=True):
        if budget > 0 and not 0 < len(prompt) <= positions - budget:
            raise GrlibError(
                f"a prompt of {len(prompt)} tokens with a budget of {budget} more does not fit: the model "
                f"takes 1 to {positions} in all; shorten the prompt or lower the budget"
            )


def _batched(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[Sequence[int]],
    budgets: Sequence[int],
    settings: Sampling,
    seed: int,
) -> Iterator[Finished]:
    from grlib.sampling.batched import Decoder

    new, logprobs = Decoder(model, end=tokenizer.eos_token_id).generate(
        prompts, budgets, temperature=settings.temperature, seed=seed, slots=settings.slots
    )
    return zip(range(len(prompts)), new, logprobs, strict=True)


def _static(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[Sequence[int]],
    budgets: Sequence[int],
    settings: Sampling,
    seed: int,
) -> Iterator[Finished]:
    from grlib.sampling.static import generate

    return generate(
        model,
        prompts,
        budgets,
        temperature=settings.temperature,
        seed=seed,
        slots=settings.slots,
        end=tokenizer.eos_token_id,
    )


def _transformers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[list[int]],
    budgets: Sequence[int],
    settings: Sampling,
    seed: int,
) -> Iterator[Finished]:
    """`generate` of transformers, `slots` rows at a time: slower, any architecture, the tests' reference."""
    import torch
    from transformers import GenerationConfig

    torch.manual_seed(seed)
    choice = {"do_sample": True, "temperature": settings.temperature, "top_k": 0, "top_p": 1.0}
    if settings.temperature == 0:
        choice = {"do_sample": False}
    choice["eos_token_id"] = tokenizer.eos_token_id
    yield from ((i, [], []) for i, budget in enumerate(budgets) if budget <= 0)
    order = sorted((i for i, budget in enumerate(budgets) if budget > 0), key=lambda i: len(prompts[i]))
    for first in range(0, len(order), settings.slots):
        rows = order[first : first + settings.slots]
        width = max(len(prompts[i]) for i in rows)
        pads = [width - len(prompts[i]) for i in rows]
        ids = torch.tensor(
            [[tokenizer.pad_token_id] * pad + prompts[i] for i, pad in zip(rows, pads, strict=True)]
        )
        mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in pads])
        most = max(budgets[i] for i in rows)
        own, model.generation_config = model.generation_config, GenerationConfig()  # it steers nothing here
        try:
            output = model.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                max_new_tokens=most,
                pad_token_id=tokenizer.pad_token_id,
                **choice,
            )
        finally:
            model.generation_config = own
        for i, tokens in zip(rows, output[:, width:].tolist(), strict=True):
            end = (
                tokens.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in tokens else len(tokens)
            )
            yield i, tokens[: min(end, budgets[i])], []


def _vllm(
    model: ServedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[list[int]],
    budgets: Sequence[int],
    settings: Sampling,
    seed: int,
) -> Iterator[Finished]:
    new, logprobs = model.generate(prompts, budgets, tokenizer.eos_token_id, settings, seed)
    return zip(range(len(prompts)), new, logprobs, strict=True)


ENGINES: dict[str, Callable[..., Iterator[Finished]]] = {
    "batched": _batched,
    "static": _static,
    "transformers": _transformers,
    "vllm": _vllm,
}
