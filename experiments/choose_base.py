"""How the shipped base was chosen: one small training run a variant, all with the same processor time.

    python experiments/choose_base.py [--profile laptop] [--seconds 1400] [reference digits ...]

Every variant trains on one thread for the same processor seconds and is judged on validation problems of a
sibling task (another draw of the seen and unseen targets: `target_seed` 1), so the test problems stay
untouched. Rows go to experiments/base_choice.csv (of the profile `laptop`) or, of another profile, to
base_choice_<profile>.csv beside it; variants that are there already are skipped. One process per core may
run, each with its own variants.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd
import torch
from choices import add, known, solved_within

from grlib import profiles
from grlib.models import tokenizer
from grlib.models.llama import bake
from grlib.sampling import pool as sampling
from grlib.selftrain import evaluate
from grlib.tasks.countdown import base as imitation
from grlib.tasks.countdown import data as countdown_data
from grlib.tasks.countdown.puzzle import problem_key
from grlib.tasks.countdown.task import CountdownTask
from grlib.tasks.countdown.traces import audit
from grlib.tasks.countdown.vocabulary import build_tokenizer
from grlib.training import loop as training
from grlib.training.loop import make_optimizers
from grlib.training.loss import Scored, score_rows
from grlib.training.parallel import Team
from grlib.training.rows import Row

OUT = Path(__file__).with_name("base_choice.csv")
PROBLEMS, SAMPLES, KS = 100, 8, (1, 8, 32)
WRONG = {"wrong_arithmetic": "operations", "unavailable_numbers": "operations", "wrong_states": "states"}


@dataclass(frozen=True)
class Variant:
    """What differs from how the shipped base is made."""

    joined: bool = True  # a number and the sign after it are one token
    structured: bool = True  # number embeddings share digit and size vectors
    order: str = "3 then 4"  # a quarter of the time on 3 numbers, then 4; or "4 only", or "mixed"
    changes: dict[str, Any] = field(default_factory=dict)  # fields of the profile


def shaped(hidden: int, layers: int, heads: int, intermediate: int) -> Variant:
    """A model of another shape."""
    shape = {"hidden": hidden, "layers": layers, "heads": heads, "intermediate": intermediate}
    return Variant(changes={"model": shape})


VARIANTS = {
    "reference": Variant(),
    "numbers alone": Variant(joined=False),
    "digits": Variant(joined=False, changes={"whole_numbers": 10}),
    "plain embeddings": Variant(structured=False),
    "AdamW": Variant(changes={"base": {"training": {"optimizer": "adamw"}}}),
    "4 numbers only": Variant(order="4 only"),
    "3 and 4 mixed": Variant(order="mixed"),
    "keys for every head": Variant(changes={"model": {"kv_heads": 4}}),
    "192 wide, 4 layers": shaped(192, 4, 6, 512),
    "5 x 192": shaped(192, 5, 6, 512),
    "6 x 160": shaped(160, 6, 5, 432),
    "half the rate": Variant(changes={"base": {"training": {"lr": 0.0015}}}),
    "twice the rate": Variant(changes={"base": {"training": {"lr": 0.006}}}),
}


def run(name: str, given: profiles.Profile, seconds: float, tokens_per_step: int) -> dict[str, Any]:
    """Train one variant of the profile `given` and measure it: a row of the table."""
    variant = VARIANTS[name]
    profile = profiles.changed(given, **{"countdown": {"target_seed": 1}} | variant.changes)
    words = build_tokenizer(profile.whole_numbers, tokenizer.JOINED if variant.joined else ())
    # the same text fits into the budget, whatever a token is
    texts = [
        e.trace
        for e in countdown_data.imitation_examples(profile.countdown, 200, start=imitation.VALID_START)
    ]
    usual = build_tokenizer()
    longer = sum(map(len, tokenizer.encode(words, texts))) / sum(map(len, tokenizer.encode(usual, texts)))
    budget = round(profile.budget * longer)
    profile = profiles.changed(profile, budget=budget, self_training={"row_length": budget + 32})
    net = imitation.new_model(profile, words)
    if not variant.structured:
        bake(net)
    row = {"variant": name} | train(net, words, variant, profile, seconds, tokens_per_step * longer)
    row["parameters"] = sum(p.numel() for p in bake(net).parameters())
    row |= measure(net.eval(), words, profile)
    row["valid_nats_per_character"] = per_character(net, words, profile, texts)
    return row


def train(
    net: Any, words: Any, variant: Variant, profile: profiles.Profile, seconds: float, tokens_per_step: float
) -> dict[str, Any]:
    """Train in place for `seconds` of processor time, the rate falling over the last fifth of them."""
    settings = profile.base.training
    team = Team()
    scored = team.wrap(Scored(net))
    optimizers = make_optimizers(scored, settings)
    rng, used, steps, tokens = Random(0), 0.0, 0, 0
    stock: dict[int, list[Row]] = {3: [], 4: []}
    made = {3: 0, 4: 0}
    net.train()
    while used < seconds:
        share = used / seconds
        count = {"3 then 4": 3 if share < 0.25 else 4, "4 only": 4, "mixed": rng.choice((3, 4))}[
            variant.order
        ]
        batch: list[Row] = []
        while sum(len(row.ids) for row in batch) < tokens_per_step:
            if not stock[count]:  # making examples is not counted: it is the same for all
                examples = countdown_data.imitation_examples(
                    profile.countdown, 2000, start=made[count], num_count=count
                )
                made[count] += 2000
                stock[count] = imitation.imitation_rows(
                    "sos", examples, words, profile.self_training.row_length
                )
            batch.append(stock[count].pop())
        rate = settings.lr * min(1.0, share / settings.warmup + 1e-3, (1 - share) / 0.2)
        begun = time.process_time()
        training.train_step(scored, batch, optimizers, rate, settings, team)
        used += time.process_time() - begun
        steps, tokens = steps + 1, tokens + sum(len(row.ids) for row in batch)
    return {"seconds": round(used), "steps": steps, "tokens": tokens}


def per_character(net: Any, words: Any, profile: profiles.Profile, texts: list[str]) -> float:
    """Validation loss in nats a character: comparable between tokenizers."""
    rows = imitation.validation_rows("sos", profile, words)
    kept = [
        (row, text)
        for row, text in zip(rows, texts, strict=True)
        if len(row.ids) < profile.self_training.row_length
    ]
    total = score_rows(Scored(net), [row for row, _ in kept])[:, 0].sum()
    return float(total / sum(len(text) for _, text in kept))


def measure(net: Any, words: Any, profile: profiles.Profile, samples: int = SAMPLES) -> dict[str, Any]:
    """pass@k in percent on validation problems, and how the traces go wrong."""
    task, settings = CountdownTask(profile.budget), profile.sampling
    tests, _ = countdown_data.reserved_keys(profile.countdown)
    unseen = countdown_data.draw_tests(
        profile.countdown, "test-unseen", profile.countdown.reserved_test, unseen=True
    )
    unseen_tests = frozenset(problem_key(problem) for problem, _ in unseen)
    found: dict[str, Any] = {}
    for split, items in {
        "seen": countdown_data.draw(profile.countdown, "valid", PROBLEMS, exclude=tests),
        "unseen": countdown_data.draw(
            profile.countdown, "valid-unseen", PROBLEMS, unseen=True, exclude=unseen_tests
        ),
    }.items():
        rows = evaluate(task, lambda asked: sampling.answer(net, words, asked, settings, 0), items, samples)
        solved = solved_within(rows, [k for k in KS if k <= samples])
        found |= {f"{split}_{name}": value for name, value in solved.items()}
        found[f"{split}_truncated"] = 100 * rows["truncated"].mean()
        found[f"{split}_tokens"] = rows["tokens"].mean()
        traces = zip(rows["index"], rows["response"], strict=True)
        wrong = pd.DataFrame([audit(text, items[i][0]) for i, text in traces]).sum()
        for name, of in WRONG.items():
            found[f"{split}_{name}"] = 100 * wrong[name] / max(1, wrong[of])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("variants", nargs="*", default=list(VARIANTS), help="which (default: all)")
    parser.add_argument("--profile", default="laptop", help="whose task and base is varied (default: laptop)")
    parser.add_argument("--seconds", type=float, default=720, help="processor seconds of training each")
    parser.add_argument("--tokens-per-step", type=int, default=2500)
    chosen = parser.parse_args()
    if unknown := set(chosen.variants) - set(VARIANTS):
        sys.exit(f"variant {unknown.pop()!r}: choose from {', '.join(VARIANTS)}")
    torch.set_num_threads(1)
    given = profiles.get(chosen.profile)
    table = OUT if given.name == "laptop" else OUT.with_stem(f"{OUT.stem}_{given.name}")
    for name in chosen.variants:
        if not known(table, variant=name):
            add(table, run(name, given, chosen.seconds, chosen.tokens_per_step))


if __name__ == "__main__":
    main()
