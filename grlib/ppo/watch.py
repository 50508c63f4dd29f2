"""What to look at while PPO runs: numbers of a step, a line for each, and what gives cause for concern."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from grlib.errors import GrlibError
from grlib.ppo.rollouts import Rollout
from grlib.profiles import PPO

TIMES = ("sampling_s", "scoring_s", "updating_s")  # columns of the curve that differ from run to run
BEGINNING = 3  # steps that later ones are compared with
DEAD = 1e-7  # a gradient's length below which nothing is learnt
SMALLEST_ENTROPY = 0.2  # times that of the beginning
LARGEST_ENTROPY = 5.0  # likewise
MORE_TRUNCATED = 0.25  # share of the responses
# Nats between sampler and trainer for one token. Their kernels round bfloat16 differently, and the largest
# distance of a million tokens was 4.4 nats on a GPU.
LARGEST_GAP = {"float32": 0.01, "bfloat16": 6.0}
OTHER_MODEL = 5.0  # nats in float32: not rounding, but another model


def watched(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """What the rollouts of a step say: accuracy, reward, length, cut-off share, actions, entropy."""
    drawn = np.concatenate([rollout.logprobs for rollout in rollouts])
    return {
        "accuracy": float(np.mean([rollout.correct for rollout in rollouts])),
        "reward": float(np.mean([sum(amount for _, amount in rollout.rewards) for rollout in rollouts])),
        "tokens": float(np.mean([len(rollout.response) for rollout in rollouts])),
        "truncated": float(np.mean([not rollout.ended for rollout in rollouts])),
        "actions": float(np.mean([len(rollout.starts) for rollout in rollouts])),
        "entropy": float(-drawn.mean()),  # nats a token: its unbiased estimate from the tokens drawn
    }


def progress_line(row: Mapping[str, float], settings: PPO) -> str:
    """A step in one line, with the minutes left."""
    left = (settings.steps - row["step"]) * sum(row[name] for name in TIMES) / 60
    return (
        f"PPO: step {row['step']:.0f}/{settings.steps}, accuracy {100 * row['accuracy']:.0f} %, "
        f"{row['tokens']:.0f} tokens, cut off {100 * row['truncated']:.0f} %, clipped "
        f"{100 * row['clipped']:.0f} %, gradient {row['gradient']:.2g}, entropy {row['entropy']:.3f}, "
        f"{left:.1f} min left"
    )


class Concerns:
    """What is wrong with a run, each kind said once. Entropy and truncation are compared with the first
    `BEGINNING` steps."""

    def __init__(self, precision: str) -> None:
        self.precision, self.told = precision, set[str]()

    def new(self, curve: Sequence[Mapping[str, float]]) -> list[str]:
        """What the newest step shows for the first time: what was seen, and what to change.

        GrlibError where the sampler's log probabilities cannot be those of the model that is trained.
        """
        found = self._of_the_step(curve[-1])
        if len(curve) > BEGINNING:
            found |= _since(curve[:BEGINNING], curve[-1])
        new = [text for kind, text in found.items() if kind not in self.told]
        self.told |= set(found)
        return new

    def _of_the_step(self, row: Mapping[str, float]) -> dict[str, str]:
        gap, most = row["rescore_gap"], LARGEST_GAP[self.precision]
        if gap > OTHER_MODEL and self.precision == "float32":
            raise GrlibError(
                f"step {row['step']:.0f}: the sampler gives a token a log probability {gap:.1f} nats from "
                "the trainer's: it samples from another model; delete the work folder and run it again"
            )
        found = {}
        if gap > most:
            found["gap"] = (
                f"sampler and trainer differ by {gap:.2g} nats for a token (bound {most:g}): sample and "
                "train with the same weights, in float32"
            )
        if row.get("gradient", 1.0) < DEAD:
            found["gradient"] = (
                f"the gradient is {row['gradient']:.1g}: nothing is learnt; take problems that are solved "
                "now and then, so that rewards differ"
            )
        return found


def _since(first: Sequence[Mapping[str, float]], row: Mapping[str, float]) -> dict[str, str]:
    """What has become of a run since its first steps."""
    entropy, truncated = (float(np.mean([one[name] for one in first])) for name in ("entropy", "truncated"))
    found = {}
    if row["entropy"] < SMALLEST_ENTROPY * entropy:
        found["entropy fell"] = f"entropy fell from {entropy:.3g} to {row['entropy']:.3g}: lower actor_lr"
    if row["entropy"] > LARGEST_ENTROPY * entropy:
        found["entropy rose"] = f"entropy rose from {entropy:.3g} to {row['entropy']:.3g}: lower actor_lr"
    if row["truncated"] > truncated + MORE_TRUNCATED:
        found["truncated"] = (
            f"{100 * row['truncated']:.0f} % of the responses run into the budget, in the beginning "
            f"{100 * truncated:.0f} %: lower actor_lr, or raise the budget"
        )
    return found
