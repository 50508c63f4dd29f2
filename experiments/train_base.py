"""Train a base in the background, and judge it while it trains.

    python experiments/train_base.py train sos --profile laptop_99 --work WORK --out OUT [--threads 1]
    python experiments/train_base.py judge sos --profile laptop_99 --work WORK [--steps 150]

`train` is `grlib.imitation.train_base` with the profile's curriculum: the number of steps is fixed before the
first one, a checkpoint is written each minute, and the same command goes on from it. Run it in a copy of the
repository that stays at the commit where training began; a checkpoint that does not fit is an error.

`judge` takes the newest checkpoint, lets the rate of a copy fall to zero within `--steps` steps on examples
that are in no curriculum, and measures the copy on validation problems: a row of experiments/base_gates.csv.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from choices import add, say
from choose_base import measure

from grlib import artefacts, countdown_data, imitation, profiles, tokenizer, training
from grlib.distributed import Team
from grlib.model import bake, build_model, save_model
from grlib.profiles import Profile

TABLE = Path(__file__).with_name("base_gates.csv")
UNUSED = 5_000_000  # examples from here on are in no curriculum


def train(method: str, profile: Profile, work: Path, out: Path) -> None:
    """The whole curriculum, then the model with card and manifest."""
    model, words, curve = imitation.train_base(method, profile, folder=work, valid_every=1000, progress=say)
    save_model(model, words, out, curve, notes=imitation.describe_base(method, profile, model, curve))


def judge(method: str, profile: Profile, work: Path, steps: int) -> dict[str, Any]:
    """Measure a copy of the newest checkpoint after `steps` steps of falling rate."""
    state = torch.load(work / "checkpoint.pt", weights_only=True)
    words, settings = tokenizer.build_tokenizer(profile.whole_numbers), imitation.base_settings(profile)
    net = build_model(
        words, profile.hidden, profile.layers, profile.heads, profile.intermediate, profile.row_length,
        seed=0, kv_heads=profile.kv_heads,
    )  # fmt: skip
    team = Team()
    scored = team.wrap(training.Scored(net))
    optimizers = training.make_optimizers(scored, settings)
    scored.load_state_dict(state["model"], strict=False)
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    size = profile.stages[-1].batch_rows
    examples = countdown_data.imitation_examples(profile.task, size * steps, start=UNUSED)
    rows = imitation.imitation_rows(method, examples, words, profile.row_length)
    net.train()
    for step in range(steps):
        batch = rows[step * size : (step + 1) * size]
        training.train_step(scored, batch, optimizers, settings.lr * (1 - step / steps), settings, team)
    bake(net).eval()
    loss = training.mean_nll(net, imitation.validation_rows(method, profile, words))
    row = {"method": method, "profile": profile.name, "step": state["step"], "tokens": state["tokens"]}
    return row | {"decay_steps": steps, "valid_nats_per_token": loss} | measure(net, words, profile)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("train", "judge"))
    parser.add_argument("method", choices=("sos", "bc"))
    parser.add_argument("--profile", default="laptop_99")
    parser.add_argument("--work", type=Path, required=True, help="folder of the checkpoints")
    parser.add_argument("--out", type=Path, help="folder of the finished model")
    parser.add_argument("--steps", type=int, default=150, help="of falling rate before judging")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    if asked.action == "train" and asked.out is None:
        parser.error("--out is needed: the folder of the finished model")
    torch.set_num_threads(asked.threads)
    profile = profiles.get(asked.profile)
    if asked.action == "judge":
        add(TABLE, judge(asked.method, profile, asked.work, asked.steps))
    elif fault := artefacts.problem_with(asked.out):
        say(f"{asked.out}: {fault}")
        train(asked.method, profile, asked.work, asked.out)


if __name__ == "__main__":
    main()
