"""Train a base in the background, and judge it while it trains.

    python experiments/train_base.py train sos --profile laptop --work WORK --out OUT [--threads 1]
    python experiments/train_base.py judge sos --profile laptop --work WORK [--steps 150]
    python experiments/train_base.py judge sos --profile laptop --out OUT
    python experiments/train_base.py pack sos --work WORK --out experiments/state/base_sos.pt
    python experiments/train_base.py unpack sos --work WORK --out experiments/state/base_sos.pt

`train` is `grlib.tasks.countdown.base.train_base` with the profile's curriculum: the number of steps is fixed
before the first one, a checkpoint is written each minute, and the same command goes on from it. Run it in a
copy of the repository that stays at the commit where training began; a checkpoint that does not fit is an
error.

`judge` takes the newest checkpoint, lets the rate of a copy fall to zero within `--steps` steps on examples
that are in no curriculum, and measures the copy on validation problems: a row of experiments/base_gates.csv.
With `--out` it measures the finished model there, in 32 samples.

`pack` makes a small copy of the checkpoint, for a machine that may be lost: weights in bfloat16, first
moments in eight bits. `unpack` makes a checkpoint of it again, from which training goes on, to nearly the
same weights.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from choices import add, say
from choose_base import KS, SAMPLES, measure

from grlib import profiles
from grlib.models.llama import bake, load_both, save_model
from grlib.profiles import Profile
from grlib.runs import files as artefacts
from grlib.tasks.countdown import base as imitation
from grlib.tasks.countdown import data as countdown_data
from grlib.tasks.countdown.vocabulary import build_tokenizer
from grlib.training import loop as training
from grlib.training.loop import make_optimizers
from grlib.training.loss import Scored, mean_nll
from grlib.training.parallel import Team

TABLE = Path(__file__).with_name("base_gates.csv")
UNUSED = 5_000_000  # examples from here on are in no curriculum


def train(method: str, profile: Profile, work: Path, out: Path) -> None:
    """The whole curriculum, then the model with card and manifest."""
    model, words, curve = imitation.train_base(method, profile, folder=work, valid_every=1000, progress=say)
    card = imitation.describe_base(method, profile, model, curve)
    save_model(model, words, out, curve, card, profile.budget)


def cooled(method: str, profile: Profile, work: Path, steps: int) -> tuple[Any, Any, dict[str, int]]:
    """A copy of the newest checkpoint after `steps` steps of falling rate: model, tokenizer, what it saw."""
    state = torch.load(work / "checkpoint.pt", weights_only=True)
    words, settings = build_tokenizer(profile.whole_numbers), profile.base.training
    net = imitation.new_model(profile, words)
    team = Team()
    scored = team.wrap(Scored(net))
    optimizers = make_optimizers(scored, settings)
    scored.load_state_dict(state["model"], strict=False)
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    size = profile.base.stages[-1].batch_rows
    examples = countdown_data.imitation_examples(profile.countdown, size * steps, start=UNUSED)
    rows = imitation.imitation_rows(method, examples, words, profile.self_training.row_length)
    net.train()
    for step in range(steps):
        batch = rows[step * size : (step + 1) * size]
        training.train_step(scored, batch, optimizers, settings.lr * (1 - step / steps), settings, team)
    bake(net).eval()
    return net, words, {"step": state["step"], "tokens": state["tokens"], "decay_steps": steps}


def finished(folder: Path) -> tuple[Any, Any, dict[str, int]]:
    """The same of a finished model."""
    made = artefacts.read_json(folder / "manifest.json")
    return *load_both(folder), {"step": made["steps"], "tokens": made["tokens_seen"], "decay_steps": 0}


def judge(
    method: str, profile: Profile, net: Any, words: Any, seen: dict[str, int], samples: int
) -> dict[str, Any]:
    """Measure a model: a row of the table."""
    loss = mean_nll(Scored(net), imitation.validation_rows(method, profile, words))
    row = {"method": method, "profile": profile.name} | seen | {"valid_nats_per_token": loss}
    return row | measure(net, words, profile, samples)


def packed(value: Any, name: str = "") -> Any:
    """Checkpoint values with floating-point tensors made small."""
    if isinstance(value, dict):
        return {key: packed(one, str(key)) for key, one in value.items()}
    if isinstance(value, list):
        return [packed(one, name) for one in value]
    if not isinstance(value, torch.Tensor) or value.ndim == 0 or not value.is_floating_point():
        return value
    if name not in ("momentum_buffer", "exp_avg"):
        return value.bfloat16()
    scale = value.abs().max().clamp(min=1e-30) / 127
    return {"eighths": (value / scale).round().to(torch.int8), "scale": scale}


def unpacked(value: Any) -> Any:
    """`packed` undone, but for what was rounded."""
    if isinstance(value, dict):
        if value.keys() == {"eighths", "scale"}:
            return value["eighths"].float() * value["scale"]
        return {key: unpacked(one) for key, one in value.items()}
    if isinstance(value, list):
        return [unpacked(one) for one in value]
    return value.float() if isinstance(value, torch.Tensor) and value.dtype == torch.bfloat16 else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("train", "judge", "pack", "unpack"))
    parser.add_argument("method", choices=("sos", "bc"))
    parser.add_argument("--profile", default="laptop")
    parser.add_argument("--work", type=Path, help="folder of the checkpoints")
    parser.add_argument("--out", type=Path, help="folder of the finished model")
    parser.add_argument("--steps", type=int, default=150, help="of falling rate before judging")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    if asked.action != "judge" and asked.out is None:
        parser.error("--out is needed: the folder of the finished model, or the packed file")
    if asked.work is None and (asked.action != "judge" or asked.out is None):
        parser.error("--work is needed: the folder of the checkpoints")
    if asked.action in ("pack", "unpack"):
        there, made, change = asked.work / "checkpoint.pt", asked.out, packed
        if asked.action == "unpack":
            there, made, change = made, there, unpacked
        state = change(torch.load(there, weights_only=True))
        with artefacts.atomic(made) as partial:
            torch.save(state, partial)
        say(f"{made}: step {state['step']}, {made.stat().st_size / 1e6:.1f} MB")
        return
    torch.set_num_threads(asked.threads)
    profile = profiles.get(asked.profile)
    if asked.action == "judge" and asked.out:
        add(TABLE, judge(asked.method, profile, *finished(asked.out), max(KS)))
    elif asked.action == "judge":
        made = cooled(asked.method, profile, asked.work, asked.steps)
        add(TABLE, judge(asked.method, profile, *made, SAMPLES))
    elif fault := artefacts.problem_with(asked.out):
        say(f"{asked.out}: {fault}")
        train(asked.method, profile, asked.work, asked.out)


if __name__ == "__main__":
    main()
