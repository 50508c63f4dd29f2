"""What to watch while PPO runs: the numbers of a step, a progress message, and warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from grlib.ppo.rollouts import Rollout
from grlib.profiles import PPO

TIMES = ("sampling_s", "scoring_s", "updating_s")  # columns of the curve that differ from run to run
# Bounds beyond which a step has a warning:
BEGINNING = 3  # the number of first steps that later ones are compared with
DEAD = 1e-7  # norm of a gradient below which nothing is learnt
SMALLEST_ENTROPY, LARGEST_ENTROPY = 0.2, 5.0  # times the entropy of the first steps
MORE_TRUNCATED = 0.25  # added to the share of truncated responses of the first steps
# Largest difference, in nats, of one token's log probability between sampler and trainer. Their kernels round
# bfloat16 differently: on a GPU the largest difference among a million tokens was 4.4 nats.
LARGEST_GAP = {"float32": 0.01, "bfloat16": 6.0}


def watched(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Means over the rollouts of a step: accuracy, reward, tokens, truncated share, actions, entropy."""
    drawn = np.concatenate([rollout.logprobs for rollout in rollouts])
    return {
        "accuracy": float(np.mean([rollout.correct for rollout in rollouts])),
        "reward": float(np.mean([sum(amount for _, amount in rollout.rewards) for rollout in rollouts])),
        "tokens": float(np.mean([len(rollout.response) for rollout in rollouts])),
        "truncated": float(np.mean([not rollout.ended for rollout in rollouts])),
        "actions": float(np.mean([len(rollout.starts) for rollout in rollouts])),
        "entropy": float(-drawn.mean()),  # nats per token: an unbiased estimate, from the tokens drawn
    }


def progress_line(row: Mapping[str, float], settings: PPO) -> str:
    """The message about a step, with the minutes left."""
    left = (settings.steps - row["step"]) * sum(row[name] for name in TIMES) / 60
    return (
        f"PPO: step {row['step']:.0f}/{settings.steps}, accuracy {100 * row['accuracy']:.0f} %, "
        f"{row['tokens']:.0f} tokens, cut off {100 * row['truncated']:.0f} %, clipped "
        f"{100 * row['clipped']:.0f} %, gradient {row['gradient']:.2g}, entropy {row['entropy']:.3f}, "
        f"{left:.1f} min left"
    )


def concerns(curve: Sequence[Mapping[str, float]], precision: str) -> dict[str, str]:
    """What is wrong with the newest step of a curve: kind -> what was seen, and what to change. Entropy and
    truncation are compared with the first `BEGINNING` steps."""
    row, found = curve[-1], dict[str, str]()
    gap, bound = row["rescore_gap"], LARGEST_GAP[precision]
    if gap > bound:
        found["gap"] = (
            f"sampler and trainer differ by {gap:.2g} nats for a token (bound {bound:g}): sample and "
            "train with the same weights, in float32"
        )
    if row["gradient"] < DEAD:
        found["gradient"] = (
            f"the gradient is {row['gradient']:.1g}: nothing is learnt; take problems that are solved "
            "now and then, so that rewards differ"
        )
    if len(curve) <= BEGINNING:
        return found
    entropy, truncated = (
        float(np.mean([one[name] for one in curve[:BEGINNING]])) for name in ("entropy", "truncated")
    )
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
