"""Operation-level PPO: one line of the trace is one action (the paper's reinforcement learning section).

`train_ppo` is the loop: sample responses, grade them, update policy and critic, again. Advantages and losses
are pure functions in `grlib.ppo.losses`, the update is `grlib.ppo.learner`. The loop knows no task: responses
come from `Task.rollouts`, with their actions and rewards. Several processes may update together
(`grlib.training.parallel`); the first of them samples. Also here: the numbers to watch in each step with
their warnings, and `gradient_cosine`, which compares the gradients of lines and of tokens.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd
import torch
from torch import nn

from grlib.models.llama import load_both, save_model
from grlib.ppo.learner import Learner, batch_of
from grlib.ppo.losses import operation_advantages
from grlib.profiles import PPO
from grlib.runs import deadline
from grlib.runs.files import digest, read_table, write_table
from grlib.selftrain import Policy, sampled_policy
from grlib.training.base import card_after
from grlib.training.loop import track
from grlib.training.packed import pack_for
from grlib.training.parallel import Team, is_made, release_gpus, write_finished
from grlib.training.rows import Rollout

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

TIMES = ("sampling_s", "scoring_s", "updating_s")  # columns of the curve that differ from run to run
# Bounds beyond which a step has a warning:
BEGINNING = 3  # the number of first steps that later ones are compared with
DEAD = 1e-7  # norm of a gradient below which nothing is learnt
SMALLEST_ENTROPY, LARGEST_ENTROPY = 0.2, 5.0  # times the entropy of the first steps
MORE_TRUNCATED = 0.25  # added to the share of truncated responses of the first steps
# Largest difference, in nats, of one token's log probability between sampler and trainer. Their kernels round
# bfloat16 differently: on a GPU the largest difference among a million tokens was 4.4 nats.
LARGEST_GAP = {"float32": 0.01, "bfloat16": 6.0}


class Task(Protocol):
    """What a problem domain must offer for reinforcement learning. Items are of a type of the task."""

    def rollouts(
        self, policy: Policy, items: Sequence[Any], tokenizer: PreTrainedTokenizerFast, settings: PPO
    ) -> list[Rollout]:
        """One response per item, graded, with its actions and rewards."""


def train_ppo(
    task: Task,
    items: Sequence[Any],
    base: Path,
    settings: PPO,
    *,
    seed: int,
    out: Path,
    work: Path,
    progress: Callable[[str], None],
) -> pd.DataFrame:
    """Reinforce the model in `base`, save it in `out`, and return the curve: one row per step.

    `work` holds the last checkpoint, the curve so far and the newest rollouts, so a call that was killed
    continues when it is made again, to the same end. Raises GrlibError where a loss is not finite.
    """
    fixed = settings.fixing_the_result()
    content = hashlib.sha256(repr(list(items)).encode()).hexdigest()
    key = {"base": digest(base), "seed": seed, "settings": fixed, "items": content}
    job = {"task": task, "items": list(items), "settings": settings, "seed": seed}
    job |= {"base": base, "out": out, "work": work}
    if is_made(train_ppo, job, key, settings.processes, "PPO", progress):
        return read_table(out / "curve.csv")
    policy, tokenizer = load_both(base)
    learner = _learner(policy, settings, seed)
    team = learner.team
    place = team.read_checkpoint(work, key, learner.net, learner.optimizers) or {"step": 0, "curve": []}
    step, curve = place["step"], place["curve"]
    saved, warned = time.monotonic(), set[str]()
    while step < settings.steps:
        began = time.monotonic()
        team.refresh(learner.net, policy, "policy")
        torch.cuda.empty_cache()
        rollouts: list[Rollout] = []
        if team.rank == 0:
            rollouts = _rollouts(task, items, policy, tokenizer, settings, seed, step, work)
        rollouts = team.told(rollouts)
        sampled = time.monotonic()
        learner.set_rate(step)
        row = learner.update(batch_of(rollouts), Random(f"{seed}/{step}")) | watched(rollouts)
        step += 1
        spent = {"sampling_s": sampled - began, "updating_s": time.monotonic() - sampled - row["scoring_s"]}
        curve.append(row | {"step": step} | spent)
        if team.rank == 0:
            write_table(work / "curve.csv", pd.DataFrame(curve))
            track(f"PPO {out.name}, seed {seed}", curve[-1])
            progress(progress_line(curve[-1], settings))
            for kind, text in concerns(curve, settings.precision).items():
                if kind not in warned:
                    progress(f"PPO: warning, step {step}: {text}")
                warned.add(kind)
        if step == settings.steps or team.checkpoint_due(saved, settings.checkpoint_seconds):
            place = {"step": step, "curve": curve}
            team.write_checkpoint(work, key, learner.net, learner.optimizers, place)
            saved = time.monotonic()
            if step < settings.steps:
                team.stop_if_late("PPO", f"{step}/{settings.steps} steps")
    frame = pd.DataFrame(curve)
    team.hand_back(learner.net, policy, "policy")
    if learner.pack:
        learner.pack.give_back()
    if team.rank == 0:
        save_model(policy, tokenizer, out, frame, card_after(base, f"PPO, {settings.steps:,} steps"))
        write_finished(work, key, out)
    return frame


def problems_of_step(items: Sequence[Any], settings: PPO, seed: int, step: int) -> list[Any]:
    """The problems of a step: each epoch takes all items in a new order, and none twice."""
    found: list[Any] = []
    place = step * settings.problems
    while len(found) < settings.problems:
        epoch, first = divmod(place + len(found), len(items))
        order = list(range(len(items)))
        Random(f"{seed}/epoch/{epoch}").shuffle(order)
        found += [items[i] for i in order[first : first + settings.problems - len(found)]]
    return found


def gradient_cosine(
    task: Task, items: Sequence[Any], base: Path, settings: PPO, *, seed: int, work: Path
) -> float:
    """The cosine between two gradients of the policy on the responses of step 0: with lines as actions, and
    with tokens.

    The critic is untrained: all values are 0. With gamma = lambda = 1 the advantage of a line is then that of
    each of its tokens, and at the first step all ratios are 1: where the cosine is 1, the methods differ only
    in the clip.
    """
    policy, tokenizer = load_both(base)
    lines = _rollouts(task, items, policy, tokenizer, replace(settings, action="operation"), seed, 0, work)
    tokens = [rollout._replace(starts=tuple(range(len(rollout.response)))) for rollout in lines]
    found = []
    for rollouts in (lines, tokens):
        learner, batch = Learner(policy, settings, seed), batch_of(rollouts)
        _, value = learner.score(batch)
        advantage, returns = operation_advantages(
            batch.reward, value, batch.action_start, settings.gamma, settings.lam
        )
        learner.gradients(batch, list(range(len(rollouts))), advantage, value, returns)
        gradients = [weights.grad for weights in policy.parameters() if weights.grad is not None]
        found.append(torch.cat([gradient.flatten().double() for gradient in gradients]))
        policy.zero_grad()
    return float(nn.functional.cosine_similarity(found[0], found[1], dim=0))


def _rollouts(
    task: Task,
    items: Sequence[Any],
    policy: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    settings: PPO,
    seed: int,
    step: int,
    work: Path,
) -> list[Rollout]:
    """The responses of one step: sampled from the policy itself by engine "static", else from its
    copy in `work`, which workers load."""
    model = (policy, tokenizer) if settings.sampling.engine == "static" else work / "policy"
    if isinstance(model, Path):
        save_model(policy, tokenizer, model)
    problems = problems_of_step(items, settings, seed, step)
    chosen = [item for item in problems for _ in range(settings.samples_each)]
    sampling = replace(settings.sampling.for_requests(len(chosen)), logprobs=True)
    sampler = sampled_policy(
        model, sampling, f"{seed}/{step}", work / "rollouts", f"step {step}", lambda message: None
    )
    with deadline.put_off():
        rollouts = task.rollouts(sampler, chosen, tokenizer, settings)
    if settings.sampling.engine == "vllm":  # takes nearly all of a GPU's memory
        release_gpus()
    return rollouts


def _learner(policy: LlamaForCausalLM, settings: PPO, seed: int) -> Learner:
    """A learner that reads rollouts without padding where that is possible."""
    other = settings.recompute or (settings.baseline == "value" and settings.critic == "own")
    team, longest = Team(settings.strategy, settings.precision), policy.config.max_position_embeddings
    return Learner(policy, settings, seed, pack_for(policy, team, other, settings.micro_tokens, longest))


# What to watch: the numbers of a step, a message, warnings


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
