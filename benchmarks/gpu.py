"""`python -m benchmarks gpu OUT [CHECK ...]`: what a card can do, and whether the code computes on it what it
computes on the CPU.

Results go to OUT/probe.json; a check that fails says so in its place. Without a GPU sizes mean nothing.
"""

from __future__ import annotations

import argparse
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from grlib import profiles
from grlib.models.llama import bake
from grlib.models.tokenizer import encode
from grlib.profiles import Profile, Training
from grlib.runs import files as artefacts
from grlib.runs import housekeeping
from grlib.sampling import pool as sampling
from grlib.tasks.countdown.base import imitation_rows, new_model
from grlib.tasks.countdown.data import draw, imitation_examples
from grlib.tasks.countdown.vocabulary import build_tokenizer, prompt_text
from grlib.training.loop import make_optimizers, train_step
from grlib.training.loss import Scored, score_rows
from grlib.training.packed import Packed
from grlib.training.parallel import Team
from grlib.training.rows import Row

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
STEP = 64  # rows of an optimiser step


def main(arguments: list[str]) -> int:
    """Run every check, or those named."""
    checks = {check.__name__: check for check in (ceilings, sampled, training_pace, sampling_pace)}
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu", description=__doc__)
    parser.add_argument("out", type=Path, help="folder for probe.json")
    parser.add_argument("checks", nargs="*", help=f"of {', '.join(checks)} (default: all)")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.checks) - set(checks):
        parser.error(f"no check {min(unknown)!r}; choose of {', '.join(checks)}")
    profile = (
        profiles.get("gpu")
        if GPU
        else profiles.changed(profiles.get("smoke"), sampling={"engine": "static", "slots": 8})
    )
    found: dict[str, Any] = {"device": housekeeping.device()}
    for name in chosen.checks or checks:
        try:
            found[name] = checks[name](profile)
        except Exception:  # the other checks are worth their time all the same
            found[name] = traceback.format_exc()
        print(f"{name}: {found[name]}", flush=True)
    artefacts.write_json(chosen.out / "probe.json", found)
    return 0


def seconds_of(work: Callable[[], object], repeat: int) -> float:
    """Seconds of one call on the device, after one that does not count."""
    work()
    began = waited()
    for _ in range(repeat):
        work()
    return (waited() - began) / repeat


def waited() -> float:
    """The time, once the GPU has done what it was given."""
    if GPU:
        torch.cuda.synchronize()
    return time.monotonic()


def ceilings(profile: Profile) -> dict[str, float]:
    """Copying (bytes read and written) and multiplying bfloat16 matrices, as fast as PyTorch does it."""
    size, width = (2**30, 8192) if GPU else (2**22, 256)
    a, b = (torch.empty(size, dtype=torch.uint8, device=DEVICE) for _ in range(2))
    x, y = (torch.randn(width, width, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    copied, multiplied = seconds_of(lambda: b.copy_(a), 10), seconds_of(lambda: x @ y, 10)
    return {"copy_tb_s": 2 * size / copied / 1e12, "bf16_tflop_s": 2 * width**3 / multiplied / 1e12}


def sampled(profile: Profile) -> dict[str, float]:
    """Greedy text of the static engine against transformers' own, and how far its log probabilities are from
    the model's in float32 on the CPU."""
    words = build_tokenizer(profile.whole_numbers)
    model = bake(new_model(profile, words)).eval()
    ask = [
        sampling.Request(prompt_text(p), "", 64)
        for p, _ in draw(profile.countdown, "probe", 64 if GPU else 4)
    ]
    greedy = sampling.Sampling("static", temperature=0, slots=32)
    ours = sampling.answer(model, words, ask, greedy, 0)
    theirs = sampling.answer(model, words, ask, replace(greedy, engine="transformers"), 0)
    answers = sampling.answer(model, words, ask, replace(greedy, temperature=1, logprobs=True), 0)
    prompts = encode(words, [request.prompt for request in ask])
    pairs = zip(prompts, answers, strict=True)
    again = [Row(np.array([*ids, *answer.ids], np.int32), len(ids)) for ids, answer in pairs]
    drawn = np.array([-sum(answer.logprobs) for answer in answers])
    return {
        "greedy_equal": float(np.mean([a.text == b.text for a, b in zip(ours, theirs, strict=True)])),
        "rescored": float(np.abs(score_rows(Scored(model), again)[:, 0] / drawn - 1).max()),
    }


def training_pace(profile: Profile) -> dict[str, float]:
    """Tokens a second of whole steps, packed and padded, AdamW in bfloat16; the share by which the loss of
    their first step differs."""
    words = build_tokenizer(profile.whole_numbers)
    examples = imitation_examples(profile.countdown, 20 * STEP if GPU else 20)
    rows = imitation_rows("sos", examples, words, profile.self_training.row_length)
    steps = [rows[i : i + STEP] for i in range(0, len(rows), STEP)]
    settings = Training(lr=1e-4, batch_rows=STEP, precision="bfloat16", micro_tokens=profile.micro_tokens)
    team, found, first = Team(precision="bfloat16"), dict[str, float](), dict[str, float]()
    for kind in ("packed", "padded"):
        model = bake(new_model(profile, words))
        about = (model, profile.micro_tokens, profile.self_training.row_length, "bfloat16")
        net = team.wrap(Scored(model, Packed(*about) if kind == "packed" else None))
        optimizers = make_optimizers(net, settings)
        first[kind] = train_step(net, steps[0], optimizers, 1e-4, settings, team)  # compiles
        began = waited()
        for batch in steps:
            train_step(net, batch, optimizers, 1e-4, settings, team)
        found[kind] = sum(len(row.ids) for row in rows) / (waited() - began)
    return found | {"loss_difference": first["packed"] / first["padded"] - 1}


def sampling_pace(profile: Profile) -> dict[str, float]:
    """Tokens a second: the static engine with rows of half the budget, the share of the card's bandwidth that
    reading keys and values takes, and transformers' `generate` in bfloat16."""
    words = build_tokenizer(profile.whole_numbers)
    model = bake(new_model(profile, words)).eval()
    prompt = prompt_text(draw(profile.countdown, "probe", 1)[0][0])
    settings = sampling.Sampling("static", slots=profile.sampling.slots, logprobs=True)
    ask = [sampling.Request(prompt, "", profile.budget // (2 if GPU else 32))] * profile.sampling.slots
    sampling.answer(model, words, ask[:8], settings, 0)  # makes the cache and captures
    began = waited()
    made = sum(answer.new for answer in sampling.answer(model, words, ask, settings, 1))
    found = {"static": made / (waited() - began)}
    shape = profile.model
    of_a_token = 4 * shape.layers * shape.kv_heads * (shape.hidden // shape.heads)  # bytes
    found["read_tb_s"] = found["static"] * of_a_token * profile.budget / 4 / 1e12  # a row is half full
    rows, new = (1024, 256) if GPU else (2, 4)  # short rows, which are cheap for `generate`
    ids = torch.tensor(encode(words, [prompt]) * rows, device=DEVICE)
    served: Any = model.to(DEVICE, torch.bfloat16)
    how = {"do_sample": True, "top_k": 0, "pad_token_id": words.pad_token_id, "input_ids": ids}
    for tokens in (8, new):  # the first one warms up
        began = waited()
        served.generate(
            attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens, **how
        )
        found["generate"] = rows * tokens / (waited() - began)
    return found
