"""Operation-level PPO: one line of the trace is one action (the paper's reinforcement learning section).

`train_ppo` is the loop: sample responses, grade them, update policy and critic, again. Advantages and losses
are pure functions in `grlib.ppo.losses`, the update is `grlib.ppo.learner`. The loop knows no task: responses
come from `Task.rollouts`, with their actions and rewards. Several processes may update together
(`grlib.training.parallel`); the first of them samples.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Protocol

import pandas as pd
import torch
from torch import nn

from grlib.models.llama import load_both, save_model
from grlib.ppo.learner import Learner
from grlib.ppo.losses import operation_advantages
from grlib.ppo.rollouts import Rollout, batch_of
from grlib.ppo.watch import concerns, progress_line, watched
from grlib.profiles import PPO
from grlib.runs import deadline
from grlib.runs.files import digest, read_table, write_table
from grlib.sampling.pool import release_gpus
from grlib.selftrain import Policy, sampled_policy
from grlib.training.base import card_after
from grlib.training.checkpoint import finished, read_checkpoint, write_checkpoint, write_finished
from grlib.training.loop import checkpoint_due, out_of_time
from grlib.training.parallel import Team, free_cache, launch, launched
from grlib.training.tracking import track

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast


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
    if finished(work, key, out):
        return read_table(out / "curve.csv")
    release_gpus()
    if settings.processes > 1 and not launched():
        job = {"task": task, "items": list(items), "settings": settings, "seed": seed}
        job |= {"base": base, "out": out, "work": work}
        launch(train_ppo, job, settings.processes, work / "job", "PPO", progress)
        return read_table(out / "curve.csv")
    policy, tokenizer = load_both(base)
    learner = _learner(policy, settings, seed)
    team = learner.team
    place = read_checkpoint(team, work, key, learner.net, learner.optimizers) or {"step": 0, "curve": []}
    step, curve = place["step"], place["curve"]
    saved, warned = time.monotonic(), set[str]()
    while step < settings.steps:
        began = time.monotonic()
        team.refresh(learner.net, policy, "policy")
        free_cache()
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
        if step == settings.steps or checkpoint_due(team, saved, settings.checkpoint_seconds):
            place = {"step": step, "curve": curve}
            write_checkpoint(team, work, key, learner.net, learner.optimizers, place)
            saved = time.monotonic()
            if step < settings.steps:
                deadline.stop_if(out_of_time(team), "PPO", f"{step}/{settings.steps} steps")
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
    from grlib.training.packed import Packed, packs

    own = settings.baseline == "value" and settings.critic == "own"
    pack = None
    if packs(policy, Team(settings.strategy, settings.precision), settings.recompute or own):
        longest = policy.config.max_position_embeddings
        pack = Packed(policy, settings.micro_tokens, longest, settings.precision)
    return Learner(policy, settings, seed, pack)
