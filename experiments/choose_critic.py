"""How well can a critic that reads a policy's states predict how a response will end?

    python experiments/choose_critic.py MODEL_FOLDER [--profile gpu] [--responses 480] [--work FOLDER]

One response to each of so many training problems. Critics as `grlib.ppo.loop` has them are fitted to three
quarters of the responses, the policy as it is, and judged on the last quarter: the share of the outcomes'
variance, over all actions, that they explain after so many optimiser steps, beside what the place alone
explains (means of 64 tokens, of the first three quarters). Rows go to experiments/critic_choice.csv.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from random import Random
from typing import NamedTuple

import torch
from choices import add, responses

from grlib import profiles
from grlib.models.llama import load_model
from grlib.ppo.learner import PLACES, Critic, batch_of
from grlib.sampling import pool as sampling
from grlib.tasks.countdown import data as countdown_data
from grlib.training.loss import states_before
from grlib.training.rows import Rollout, micro_batches

OUT = Path(__file__).with_name("critic_choice.csv")
STEPS, RESPONSES = (25, 50, 100, 200), 128  # optimiser steps after which it is judged; responses of one
RATES = (1e-3, 3e-3)


class Actions(NamedTuple):
    """What a critic sees of responses at the beginnings of their actions, and how these end."""

    states: torch.Tensor
    spent: torch.Tensor
    outcome: torch.Tensor


def actions_of(model: torch.nn.Module, rollouts: list[Rollout]) -> list[Actions]:
    """Of each response."""
    found: dict[int, Actions] = {}
    with torch.no_grad():
        for numbers, ids, mask in micro_batches(batch_of(rollouts).rows, 8192):
            parts = states_before(model.model, ids, mask).split(mask.sum(1).tolist())
            for number, states in zip(numbers, parts, strict=True):
                starts = torch.tensor(rollouts[number].starts)
                outcome = torch.full((len(starts),), float(rollouts[number].correct))
                found[number] = Actions(states[starts], starts, outcome)
    return [found[number] for number in range(len(rollouts))]


def together(parts: list[Actions]) -> Actions:
    """The actions of several responses."""
    return Actions(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def explained(values: torch.Tensor, outcome: torch.Tensor) -> float:
    """The share of the variance."""
    return 1 - float((values - outcome).var() / outcome.var())


def by_place(fitted: Actions, judged: Actions) -> float:
    """What the means of places explain."""
    place, most = fitted.spent // PLACES, int(max(fitted.spent.max(), judged.spent.max())) // PLACES
    counts = torch.bincount(place, minlength=most + 1).clamp(min=1)
    means = torch.bincount(place, weights=fitted.outcome, minlength=most + 1) / counts
    return explained(means[judged.spent // PLACES], judged.outcome)


def fit(critic: Critic, parts: list[Actions], judged: Actions, rate: float) -> dict[str, float]:
    """What a critic explains of the `judged` actions after so many steps."""
    optimizer, rng = torch.optim.AdamW(critic.parameters(), rate, weight_decay=0.01), Random(0)
    waiting: list[Actions] = []
    found = {}
    for step in range(1, STEPS[-1] + 1):
        if len(waiting) < RESPONSES:
            waiting = waiting + rng.sample(parts, len(parts))
        batch, waiting = together(waiting[:RESPONSES]), waiting[RESPONSES:]
        loss = 0.5 * (critic.values(batch.states, batch.spent) - batch.outcome).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(critic.parameters(), 1.0)
        optimizer.step()
        if step in STEPS:
            with torch.no_grad():
                values = critic.values(judged.states, judged.spent)
            found[f"explained_{step}"] = explained(values, judged.outcome)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="folder of the policy")
    parser.add_argument("--profile", choices=("laptop", "gpu"), default="gpu", help="whose model it is")
    parser.add_argument("--responses", type=int, default=480)
    parser.add_argument("--work", type=Path, default=Path("runs/choose_critic"))
    chosen = parser.parse_args()
    torch.set_num_threads(sampling.cores())
    model = load_model(chosen.model)
    profile = profiles.get(chosen.profile)
    items = countdown_data.make_splits(profile.countdown, chosen.responses, 1, 1, seed=1_000).train
    rollouts = responses(chosen.model, profile, items, "critic", chosen.work, 64)
    parts = actions_of(model, rollouts)
    fitted, judged = parts[: -(len(parts) // 4)], together(parts[-(len(parts) // 4) :])
    about = {"model": chosen.model.name, "responses": len(rollouts), "profile": chosen.profile}
    about["correct"] = sum(rollout.correct for rollout in rollouts) / len(rollouts)
    about["by_place"] = by_place(together(fitted), judged)
    for kind, rate in itertools.product(("shared", "placed"), RATES):
        add(OUT, about | {"critic": kind, "rate": rate} | fit(Critic(model, kind), fitted, judged, rate))


if __name__ == "__main__":
    main()
