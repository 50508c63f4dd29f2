"""Speed of sampling and training against what transformers offers: same model, same requests, same rows."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.speed import SEED, Row
from grlib.errors import one_line
from grlib.profiles import Sampling, Training, get
from grlib.sampling.pool import Request, answer, sample
from grlib.tasks.countdown.data import draw, imitation_examples

PAGE = 256  # tokens of a cache page in continuous batching, its own default


def _load(folder: Path) -> tuple[Any, Any]:
    from grlib.models.llama import load_model
    from grlib.models.tokenizer import load_tokenizer

    return load_model(folder), load_tokenizer(str(folder))


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def bench_sampling(quick: bool, folder: Path, threads: int) -> Iterator[Row]:
    """New tokens a second at temperature 1: transformers' `generate` and continuous batching, grlib's engine.

    Every side may use all `threads`: torch's own for transformers, a process each for grlib.
    """
    import torch

    from grlib.models.tokenizer import encode
    from grlib.tasks.countdown.vocabulary import prompt_text

    torch.set_num_threads(threads)
    model, tokenizer = _load(folder)
    count, budget = 16, 96
    if not quick:
        count, budget = 128, min(get("laptop").budget, model.config.max_position_embeddings - 32)
    requests = [
        Request(prompt_text(problem), "", budget)
        for problem, _ in draw(get("laptop").countdown, "bench", count)
    ]
    settings = Sampling(slots=min(get("laptop").sampling.slots, -(-count // threads)), workers=threads)
    theirs = Sampling(engine="transformers", slots=settings.slots)

    def ours(part: Sequence[Request], chunk: int) -> list[Any]:
        if threads == 1:
            return answer(model, tokenizer, part, settings, SEED)
        with tempfile.TemporaryDirectory() as chunks:
            return sample(folder, part, replace(settings, chunk=chunk), seed=SEED, folder=Path(chunks))

    few = requests[: 4 if quick else 16]
    greedy = [
        answer(model, tokenizer, few, Sampling(engine=engine, temperature=0), 0)
        for engine in ("batched", "transformers")
    ]
    same = sum(a == b for a, b in zip(*greedy, strict=True))  # rounding can tip a near tie
    ours(requests[: 4 * threads], 1)  # so many chunks that every worker starts and loads the model
    fast, answers = timed(lambda: ours(requests, -(-count // threads)))
    slow, reference = timed(lambda: answer(model, tokenizer, requests, theirs, SEED))
    rate = sum(found.new for found in answers) / fast
    note = f"{count} requests of up to {budget} tokens, {threads} threads"
    note += f"; greedy outputs equal: {same} of {len(few)}"
    yield Row("sampling, to generate", "tokens/s", sum(f.new for f in reference) / slow, rate, note)
    prompts = encode(tokenizer, [request.prompt for request in requests])
    try:
        speed = _continuous_batching(model, tokenizer, prompts, budget, settings.slots)
        note = f"generate_batch, {count} requests, {settings.slots} at once"
    except Exception as error:  # whatever it raises, the report says so and goes on
        speed, note = None, f"generate_batch of transformers does not run here: {one_line(error)}"[:160]
    yield Row("sampling, to continuous batching", "tokens/s", speed, rate, note)


def _continuous_batching(
    model: Any, tokenizer: Any, prompts: Sequence[Any], budget: int, slots: int
) -> float:
    """Tokens a second of transformers' `generate_batch`."""
    from transformers import GenerationConfig
    from transformers.generation.configuration_utils import ContinuousBatchingConfig

    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    choice = GenerationConfig(do_sample=True, temperature=1.0, top_k=0, max_new_tokens=budget, **ends)
    blocks = slots * -(
        -(max(map(len, prompts)) + budget) // PAGE
    )  # left to itself it takes nearly all memory
    cache = ContinuousBatchingConfig(
        page_size=PAGE, num_blocks=blocks, max_requests_per_batch=slots, max_batch_tokens=1024
    )
    arguments = {"generation_config": choice, "continuous_batching_config": cache}
    logging.disable(logging.WARNING)
    try:
        seconds, found = timed(lambda: model.generate_batch(inputs=prompts, **arguments))
    finally:
        logging.disable(logging.NOTSET)
    tokens = sum(len(answer.generated_tokens) for answer in found.values())
    if len(found) < len(prompts) or not tokens:
        raise RuntimeError("it gave no answers")
    return tokens / seconds


def bench_training(quick: bool, folder: Path, threads: int) -> Iterator[Row]:
    """Row tokens a second (padding not counted): the Trainer of transformers, which pads, and `train`."""
    import torch

    from grlib.tasks.countdown.base import imitation_rows
    from grlib.training.loop import train
    from grlib.training.loss import Scored, mean_nll

    torch.set_num_threads(threads)
    (model, tokenizer), (reference, _) = _load(folder), _load(folder)
    examples = imitation_examples(get("laptop").countdown, 32 if quick else 256, start=20_000_000)
    rows = imitation_rows("sos", examples, tokenizer, get("laptop").self_training.row_length)
    settings = Training(
        lr=1e-4, batch_rows=get("laptop").self_training.training.batch_rows, checkpoint_seconds=1e9
    )
    tokens = sum(len(row.ids) for row in rows)
    fast, _ = timed(lambda: train(model, rows, settings, seed=SEED))
    note = f"{len(rows)} rows of {tokens / len(rows):.0f} tokens, {threads} threads"
    try:
        slow = _trainer_seconds(reference, tokenizer, rows, settings)
    except ImportError as error:
        note = f"no comparison: the Trainer of transformers needs another package ({one_line(error)})"[:160]
        yield Row("training", "tokens/s", None, tokens / fast, note)
        return
    losses = mean_nll(Scored(reference.eval()), rows[:32]), mean_nll(Scored(model), rows[:32])
    note += f"; loss after it {losses[0]:.3f} and {losses[1]:.3f}"
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
    quiet = {"save_strategy": "no", "logging_strategy": "no", "report_to": "none", "disable_tqdm": True}
    beta1, beta2 = settings.betas
    with tempfile.TemporaryDirectory() as place:
        arguments = TrainingArguments(
            output_dir=place,
            per_device_train_batch_size=settings.batch_rows,
            num_train_epochs=1,
            learning_rate=settings.lr,
            lr_scheduler_type="cosine",
            warmup_steps=settings.warmup,
            weight_decay=settings.weight_decay,
            adam_beta1=beta1,
            adam_beta2=beta2,
            max_grad_norm=settings.clip,
            use_cpu=True,
            dataloader_pin_memory=False,
            **quiet,
        )
        collator = DataCollatorForSeq2Seq(tokenizer, padding=True, label_pad_token_id=-100)
        trainer = Trainer(model=model, args=arguments, train_dataset=data, data_collator=collator)
        trainer.remove_callback(PrinterCallback)
        return float(trainer.train().metrics["train_runtime"])  # its own clock, without its preparations
