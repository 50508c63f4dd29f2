"""Stage probe: the ceilings of the card, and whether training and sampling compute on it what they should."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from grlib.errors import GrlibError
from grlib.models.llama import bake
from grlib.models.tokenizer import encode
from grlib.one_gpu.window import DEVICE, GPU, WIDER, Window
from grlib.profiles import Profile, Training
from grlib.runs import files as artefacts
from grlib.runs import provenance
from grlib.sampling import pool as sampling
from grlib.tasks.countdown import task as countdown_task
from grlib.tasks.countdown.base import imitation_rows, new_model
from grlib.tasks.countdown.data import draw, imitation_examples
from grlib.tasks.countdown.vocabulary import build_tokenizer
from grlib.training.loss import Scored, response_nll, score_rows
from grlib.training.packed import Line, PackedScorer, line_that_fits, lines, on, train_lines
from grlib.training.rows import Row, micro_batches, padded

PADDED_ROWS = 64  # rows of a step of the padded reference
GENERATED = (1024, 256)  # rows and tokens of transformers' `generate`: short rows, which are cheap for it


def probe(out: Path, profile: Profile, tokens: int, only: Sequence[str] = ()) -> dict[str, Any]:
    """Run every check, or `only` those named; one that fails says so in its place. Written to
    `out`/probe.json."""
    checks = (ceilings, packing, sampled, training_pace, sampling_pace, attention)
    if unknown := set(only) - {check.__name__ for check in checks}:
        names = ", ".join(check.__name__ for check in checks)
        raise GrlibError(f"--checks {', '.join(sorted(unknown))}: not a check; choose of {names}")
    window, device = Window("probe", out, profile, only=",".join(only)), provenance.device()
    found: dict[str, Any] = {"device": device}
    if only and (out / "probe.json").is_file():  # the other checks stand
        found = artefacts.read_json(out / "probe.json")
    for check in checks:
        if only and check.__name__ not in only:
            continue
        try:
            found[check.__name__] = check(profile, tokens)
        except Exception:  # the other checks are worth their time all the same
            found[check.__name__] = traceback.format_exc()
        if device != found["device"] and isinstance(found[check.__name__], dict):
            found[check.__name__] |= {"device": device}
        window.say(f"{check.__name__}: {found[check.__name__]}")
        window.part(check.__name__)
    artefacts.write_json(out / "probe.json", found)
    return found


def _waited() -> float:
    """The time, once the GPU has done what it was given."""
    if GPU:
        torch.cuda.synchronize()
    return time.monotonic()


def seconds_of(work: Callable[[], object], repeat: int) -> float:
    """Seconds of one call, after one that does not count."""
    work()
    began = _waited()
    for _ in range(repeat):
        work()
    return (_waited() - began) / repeat


def ceilings(profile: Profile, tokens: int) -> dict[str, float]:
    """Copying (bytes read and written) and multiplying bfloat16 matrices, as fast as PyTorch does it."""
    size, width = (2**30, 8192) if GPU else (2**22, 256)
    a, b = (torch.empty(size, dtype=torch.uint8, device=DEVICE) for _ in range(2))
    x, y = (torch.randn(width, width, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    copied, multiplied = seconds_of(lambda: b.copy_(a), 10), seconds_of(lambda: x @ y, 10)
    return {"copy_tb_s": 2 * size / copied / 1e12, "bf16_tflop_s": 2 * width**3 / multiplied / 1e12}


def packing(profile: Profile, tokens: int) -> dict[str, float]:
    """Relative error of loss and gradient: rows packed on the device in bfloat16, plain and compiled, against
    padded rows in float32 on the CPU."""
    words = build_tokenizer(profile.whole_numbers)
    rows = imitation_rows(
        "sos", imitation_examples(profile.task, 6, num_count=3), words, profile.self_training.row_length
    )
    model = new_model(profile, words)
    total = torch.stack([response_nll(model, *micro).sum() for _, *micro in micro_batches(rows, 4096)]).sum()
    total.backward()
    expected = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    model.to(DEVICE)
    found = {}
    for compiled in (False, True):
        net, nats = PackedScorer(model, profile.self_training.row_length, compiled), 0.0
        for line in lines(rows, 4096):
            with torch.autocast(DEVICE.type, torch.bfloat16):
                loss = net(on(DEVICE, line))
            loss.backward()
            nats += float(loss.detach())
        got = torch.cat([p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None])
        model.zero_grad()
        net.give_back()
        kind = "compiled" if compiled else "plain"
        found[f"loss_{kind}"] = nats / float(total.detach()) - 1
        found[f"gradient_{kind}"] = float((got - expected).norm() / expected.norm())
    return found


def sampled(profile: Profile, tokens: int) -> dict[str, float]:
    """Greedy text against transformers' own on the CPU, and how far the sampler's log probabilities are from
    the model's in float32."""
    words = build_tokenizer(profile.whole_numbers)
    model = bake(new_model(profile, words)).eval()
    problems = draw(profile.task, "probe", 64 if GPU else 4)
    ask = [sampling.Request(countdown_task.prompt_text(p), "", 64) for p, _ in problems]
    greedy = sampling.Sampling("static", temperature=0, slots=32)
    ours = sampling.answer(model, words, ask, greedy, 0)
    theirs = sampling.answer(model, words, ask, replace(greedy, engine="transformers"), 0)
    answers = sampling.answer(model, words, ask, replace(greedy, temperature=1, logprobs=True), 0)
    prompts = encode(words, [request.prompt for request in ask])
    again = [
        Row(np.array([*prompt, *answer.ids], np.int32), len(prompt))
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    drawn = np.array([-sum(answer.logprobs) for answer in answers])
    return {
        "greedy_equal": float(np.mean([a.text == b.text for a, b in zip(ours, theirs, strict=True)])),
        "rescored": float(np.abs(score_rows(model, again)[:, 0] / drawn - 1).max()),
    }


def training_pace(profile: Profile, tokens: int) -> dict[str, float]:
    """Tokens a second of whole steps, packed and compiled, and as the Trainer of transformers has them: rows
    padded to the longest of their step; both AdamW in bfloat16."""
    words = build_tokenizer(profile.whole_numbers)
    rows = imitation_rows(
        "sos", imitation_examples(profile.task, 2000 if GPU else 40), words, profile.self_training.row_length
    )
    model = new_model(profile, words).to(DEVICE)
    settings = Training(lr=1e-4, batch_rows=PADDED_ROWS, precision="bfloat16")
    net = PackedScorer(model, profile.self_training.row_length, compiled=True)
    source = list(lines(rows, line_that_fits(model, tokens)))[:12]

    def take(some: list[Line]) -> float:
        began = _waited()
        train_lines(net, some, settings, lambda step: 0.5, progress=lambda line: None, label="pace")
        return sum(line.real for line in some) / (_waited() - began)

    take(source[:2])  # compiles
    packed = take(source)
    net.give_back()
    return {"packed": packed, "padded": _padded_pace(Scored(bake(model)), rows)}


def _padded_pace(net: Scored, rows: list[Row]) -> float:
    optimizer = torch.optim.AdamW(net.parameters(), 1e-4)
    steps = [rows[i : i + PADDED_ROWS] for i in range(0, len(rows), PADDED_ROWS)][:8]

    def take(some: list[list[Row]]) -> float:
        began = _waited()
        for batch in some:
            ids, mask = (tensor.to(DEVICE) for tensor in padded(batch))
            with torch.autocast(DEVICE.type, torch.bfloat16):
                loss = net(ids, mask).mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return sum(len(row.ids) for batch in some for row in batch) / (_waited() - began)

    take(steps[:2])
    return take(steps)


def sampling_pace(profile: Profile, tokens: int) -> dict[str, float]:
    """Tokens a second: ours with rows of half the budget, the share of the card's bandwidth that reading keys
    and values takes, and transformers' `generate` in bfloat16."""
    words = build_tokenizer(profile.whole_numbers)
    model = bake(new_model(profile, words)).eval()
    prompt = countdown_task.prompt_text(draw(profile.task, "probe", 1)[0][0])
    settings = sampling.Sampling("static", slots=profile.sampling.slots, logprobs=True)
    ask = [sampling.Request(prompt, "", profile.budget // 2)] * profile.sampling.slots
    sampling.answer(model, words, ask[:8], settings, 0)  # makes the cache and captures
    began = _waited()
    made = sum(answer.new for answer in sampling.answer(model, words, ask, settings, 1))
    found = {"static": made / (_waited() - began)}
    of_a_token = (
        2 * profile.model.layers * profile.model.kv_heads * (profile.model.hidden // profile.model.heads) * 2
    )  # bytes
    found["read_tb_s"] = found["static"] * of_a_token * profile.budget / 4 / 1e12  # a row is half full
    rows, new = GENERATED if GPU else (2, 4)
    ids = torch.tensor(encode(words, [prompt]) * rows, device=DEVICE)
    served: Any = model.to(DEVICE, torch.bfloat16)
    options = {"do_sample": True, "top_k": 0, "pad_token_id": words.pad_token_id}
    for tokens_of_row in (8, new):  # the first one warms up
        began = _waited()
        served.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens_of_row,
            min_new_tokens=tokens_of_row, **options,
        )  # fmt: skip
        found["generate"] = rows * tokens_of_row / (_waited() - began)
    return found


def attention(profile: Profile, tokens: int) -> dict[str, float | str]:
    """How fast the attention of a sampling step reads keys and values, rows of all lengths up to the budget,
    beside how fast this card copies (TB/s); microseconds of one layer."""
    if not GPU:
        return {"device": provenance.device()}
    from grlib.sampling.kernel import attend

    slots, heads, size = (
        WIDER * profile.sampling.slots,
        profile.model.kv_heads,
        profile.model.hidden // profile.model.heads,
    )
    kind = {"device": DEVICE, "dtype": torch.bfloat16}
    caches = [
        [torch.randn(slots, heads, profile.self_training.row_length, size, **kind) for _ in range(2)]
        for _ in range(3)
    ]
    queries = torch.randn(slots, heads, profile.model.heads // heads, size, **kind)
    own = torch.randn(slots, heads, size, **kind)
    length = torch.randint(1, profile.budget, (slots,), device=DEVICE)
    running = torch.ones(slots, dtype=torch.int32, device=DEVICE)

    def layers() -> None:
        for keys, values in caches:
            attend(queries, own, own, keys, values, length, running)

    took = seconds_of(layers, 10) / len(caches)
    read = 2 * float(length.sum()) * heads * size * 2  # keys and values, two bytes a number
    return {
        "device": provenance.device(), "copy_tb_s": ceilings(profile, tokens)["copy_tb_s"],
        "read_tb_s": read / took / 1e12, "layer_us": took * 1e6,
    }  # fmt: skip
