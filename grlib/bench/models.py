"""Speed of sampling and training against what transformers offers: same model, same requests, same rows."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from grlib.bench.speed import SEED, Row
from grlib.countdown_data import draw, imitation_examples
from grlib.profiles import LAPTOP
from grlib.sampling import Request, SamplingSettings, answer, sample

PAGE = 256  # tokens of a cache page in continuous batching, its own default


def _load(folder: Path) -> tuple[Any, Any]:
    from grlib.model import load_model
    from grlib.tokenizer import load_tokenizer

    return load_model(folder), load_tokenizer(str(folder))


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


# --- sampling -----------------------------------------------------------------------------------------------


def bench_sampling(quick: bool, folder: Path, threads: int) -> Iterator[Row]:
    """New tokens a second at temperature 1: transformers' `generate` and continuous batching, grlib's engine.

    Every side may use all `threads`: torch's own for transformers, a process each for grlib.
    """
    import torch

    from grlib.tokenizer import prompt_text

    torch.set_num_threads(threads)
    model, tokenizer = _load(folder)
    count, budget = (
        (16, 96) if quick else (128, min(LAPTOP.budget, model.config.max_position_embeddings - 32))
    )
    solved = draw(LAPTOP.task, "bench", count)
    requests = [Request(prompt_text(problem), "", budget) for problem, _ in solved]
    slots = min(LAPTOP.slots, -(-count // threads))
    settings = SamplingSettings(slots=slots, workers=threads)
    theirs = SamplingSettings(engine="transformers", slots=slots)

    def ours(part: Sequence[Request], chunk: int) -> list[Any]:
        if threads == 1:
            return answer(model, tokenizer, part, settings, SEED)
        with tempfile.TemporaryDirectory() as chunks:
            return sample(folder, part, replace(settings, chunk=chunk), seed=SEED, folder=Path(chunks))

    same = _greedy_agreement(model, tokenizer, requests[: 4 if quick else 16])
    ours(requests[: 4 * threads], 1)  # so many chunks that every worker starts and loads the model
    fast, answers = _timed(lambda: ours(requests, -(-count // threads)))
    slow, reference = _timed(lambda: answer(model, tokenizer, requests, theirs, SEED))
    rate = sum(found.new for found in answers) / fast
    note = f"{count} requests of up to {budget} tokens, {threads} threads; greedy outputs equal: {same}"
    yield Row("sampling, to generate", "tokens/s", sum(f.new for f in reference) / slow, rate, note)
    speed, note = _continuous_batching(model, tokenizer, requests, slots)
    yield Row("sampling, to continuous batching", "tokens/s", speed, rate, note)


def _greedy_agreement(model: Any, tokenizer: Any, requests: Sequence[Any]) -> str:
    """How many greedy outputs of both engines are equal (rounding can tip a near tie)."""
    sides = [
        answer(model, tokenizer, requests, SamplingSettings(engine=engine, temperature=0), 0)
        for engine in ("batched", "transformers")
    ]
    return f"{sum(a == b for a, b in zip(*sides, strict=True))} of {len(requests)}"


def _continuous_batching(
    model: Any, tokenizer: Any, requests: Sequence[Any], slots: int
) -> tuple[float | None, str]:
    """(tokens a second, note) of transformers' `generate_batch`; (None, reason) where it does not run."""
    from transformers import GenerationConfig
    from transformers.generation.configuration_utils import ContinuousBatchingConfig

    from grlib.tokenizer import encode

    prompts = encode(tokenizer, [request.prompt for request in requests])
    budget = requests[0].budget
    choice = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        max_new_tokens=budget,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    pages = -(-(max(map(len, prompts)) + budget) // PAGE)
    cache = ContinuousBatchingConfig(  # left to itself it takes nearly all memory for its cache
        page_size=PAGE, num_blocks=slots * pages, max_requests_per_batch=slots, max_batch_tokens=1024
    )
    arguments = {"generation_config": choice, "continuous_batching_config": cache}
    logging.disable(logging.WARNING)
    try:
        seconds, found = _timed(lambda: model.generate_batch(inputs=prompts, **arguments))
        tokens = sum(len(answer.generated_tokens) for answer in found.values())
    except Exception as error:  # whatever it raises, the report says so and goes on
        return None, f"generate_batch of transformers does not run here: {type(error).__name__}: {error}"[
            :160
        ]
    finally:
        logging.disable(logging.NOTSET)
    if len(found) < len(requests) or not tokens:
        return None, "generate_batch of transformers does not run here: it gave no answers"
    return tokens / seconds, f"generate_batch, {len(requests)} requests, {slots} at once"


# --- training -----------------------------------------------------------------------------------------------


def bench_training(quick: bool, folder: Path, threads: int) -> Iterator[Row]:
    """Row tokens a second (padding not counted): the padded transformers Trainer against
    grlib.training.train."""
    import torch

    from grlib.imitation import imitation_rows
    from grlib.training import TrainSettings, mean_nll, train

    torch.set_num_threads(threads)
    tokenizer = _load(folder)[1]
    examples = imitation_examples(LAPTOP.task, 32 if quick else 256, start=20_000_000)
    rows = imitation_rows("sos", examples, tokenizer, LAPTOP.row_length)
    settings = TrainSettings(lr=1e-4, batch_rows=LAPTOP.batch_rows, checkpoint_seconds=1e9)
    tokens = sum(len(row.ids) for row in rows)
    model = _load(folder)[0]
    fast, _ = _timed(lambda: train(model, rows, settings, seed=SEED))
    reference = _load(folder)[0]
    note = (
        f"{len(rows)} rows of {tokens / len(rows):.0f} tokens, {LAPTOP.batch_rows} a step, {threads} threads"
    )
    try:
        slow = _trainer_seconds(reference, tokenizer, rows, settings)
    except ImportError as error:
        note = f"no comparison: the Trainer of transformers needs another package ({error})".splitlines()[0][
            :160
        ]
        yield Row("training", "tokens/s", None, tokens / fast, note)
        return
    note += (
        f"; loss after it {mean_nll(reference.eval(), rows[:32]):.3f} and {mean_nll(model, rows[:32]):.3f}"
    )
    yield Row("training, to Trainer", "tokens/s", tokens / slow, tokens / fast, note)


def _trainer_seconds(model: Any, tokenizer: Any, rows: Sequence[Any], settings: Any) -> float:
    """Seconds of one epoch of the Trainer on the same rows, padded to the longest of each batch."""
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments
    from transformers.trainer_callback import PrinterCallback

    data = [
        {
            "input_ids": row.ids.tolist(),
            "attention_mask": [1] * len(row.ids),
            "labels": [-100] * row.start + row.ids[row.start :].tolist(),
        }
        for row in rows
    ]
    with tempfile.TemporaryDirectory() as place:
        arguments = TrainingArguments(
            output_dir=place,
            per_device_train_batch_size=settings.batch_rows,
            num_train_epochs=1,
            learning_rate=settings.lr,
            lr_scheduler_type="cosine",
            warmup_steps=settings.warmup,
            weight_decay=settings.weight_decay,
            adam_beta1=settings.betas[0],
            adam_beta2=settings.betas[1],
            max_grad_norm=settings.clip,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            dataloader_pin_memory=False,
        )
        collator = DataCollatorForSeq2Seq(tokenizer, padding=True, label_pad_token_id=-100)
        trainer = Trainer(model=model, args=arguments, train_dataset=data, data_collator=collator)
        trainer.remove_callback(PrinterCallback)
        return float(trainer.train().metrics["train_runtime"])  # its own clock, without its preparations
