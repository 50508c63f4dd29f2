"""Operation-level PPO: one line of the trace is one action (the paper's reinforcement learning section).

A response is split into actions by `action_start`: 1.0 at the first token of each action, 0.0 elsewhere. With
one start a line this is the paper's operation-level MDP, with a start at every token it is ordinary PPO.
All tensors are float, shaped (batch, tokens), and begin with the first token of the response; padding stands
on the right, is no start, earns no reward and carries equal log probabilities. Nothing here knows what a
line is.
"""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd
import torch
from torch import nn

from grlib import sharding
from grlib.artefacts import digest, write_table
from grlib.errors import GrlibError
from grlib.rollouts import Batch, Rollout, batch_of
from grlib.sampling import SamplingSettings
from grlib.selftrain import Policy, sampled_policy
from grlib.training import Row, micro_batches, nll_of, read_checkpoint, states_before, write_checkpoint

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

LARGEST_STEP = 20.0  # bound of one token's difference of log probabilities, as in the authors' release
WHITENING_EPSILON = 1e-8
PLACES = 64  # tokens in which a response's places count as one


def operation_advantages(
    reward: torch.Tensor, value: torch.Tensor, action_start: torch.Tensor, gamma: float, lam: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Generalised advantages and returns over actions: two (batch, tokens) tensors, zero off the starts.

    An action's reward is the sum over its tokens; the value at its first token is that of the state it
    leaves, and after the last action the value is 0. The advantage is whitened over all action starts of the
    batch, the return (advantage + value) is not. Raises GrlibError on shapes that disagree, a response whose
    first token is no start, and numbers that are not finite.
    """
    _check(action_start, reward=reward, value=value)
    rewards = by_action(reward, action_start)
    values = by_action(value * action_start, action_start)
    advantages, following, following_value = torch.zeros_like(rewards), 0.0, 0.0
    for number in reversed(range(rewards.shape[1])):  # an action that a row does not have adds zero
        delta = rewards[:, number] + gamma * following_value - values[:, number]
        following = delta + gamma * lam * following
        following_value = values[:, number]
        advantages[:, number] = following
    at_start = to_tokens(advantages, action_start)
    return whitened(at_start, action_start), at_start + value * action_start


def group_advantages(reward: torch.Tensor, action_start: torch.Tensor, group: int) -> torch.Tensor:
    """Advantages without a critic (GRPO): (batch, tokens), the same at every start of a response, else zero.

    Rows come in groups of `group` samples of one problem; a response's advantage is its total reward less the
    group's mean, over the group's standard deviation (zero where all are equal). Raises GrlibError on a group
    of one, which has nothing to be compared with, and on a batch that groups do not fill.
    """
    _check(action_start, reward=reward)
    if group < 2 or len(reward) % group:
        raise GrlibError(
            f"group={group} for {len(reward)} responses: must be 2 or more and divide them; "
            "sample each problem several times"
        )
    totals = reward.sum(1).view(-1, group)
    centred = totals - totals.mean(1, keepdim=True)
    scaled = centred / (totals.var(1, keepdim=True) + WHITENING_EPSILON).sqrt()
    return scaled.view(-1, 1) * action_start


def operation_policy_loss(
    old_logprob: torch.Tensor,
    new_logprob: torch.Tensor,
    advantage: torch.Tensor,
    action_start: torch.Tensor,
    clip: float,
    dual_clip: float,
) -> torch.Tensor:
    """The clipped surrogate, a scalar: mean over all actions of the batch.

    The log ratio of an action is the sum over its tokens (`action_log_ratio`). A negative advantage costs at
    most `dual_clip` times its size, however far the ratio has run. Raises GrlibError as
    `operation_advantages`.
    """
    _check(action_start, old_logprob=old_logprob, new_logprob=new_logprob, advantage=advantage)
    ratio = action_log_ratio(old_logprob, new_logprob, action_start).exp()
    gain = by_action(advantage * action_start, action_start)
    loss = torch.maximum(-gain * ratio, -gain * ratio.clamp(1 - clip, 1 + clip))
    loss = torch.where(gain < 0, torch.minimum(loss, -gain * dual_clip), loss)
    return loss.sum() / action_start.sum()  # an action that a row does not have has gain 0, so loss 0


def clipped_share(
    old_logprob: torch.Tensor,
    new_logprob: torch.Tensor,
    advantage: torch.Tensor,
    action_start: torch.Tensor,
    clip: float,
) -> torch.Tensor:
    """Share of the actions whose loss the clip changes, so that they teach nothing: a scalar to watch."""
    ratio = action_log_ratio(old_logprob, new_logprob, action_start).exp()
    gain = by_action(advantage * action_start, action_start)
    return (gain * ratio > gain * ratio.clamp(1 - clip, 1 + clip)).sum() / action_start.sum()


def value_loss(
    value: torch.Tensor,
    old_value: torch.Tensor,
    returns: torch.Tensor,
    action_start: torch.Tensor,
    clip: float,
) -> torch.Tensor:
    """Half the squared error of the critic, a scalar: mean over action starts.

    The worse of two errors counts: the value's, and that of the value kept within `clip` of the old one.
    """
    _check(action_start, value=value, old_value=old_value, returns=returns)
    kept = old_value + (value - old_value).clamp(-clip, clip)
    error = torch.maximum((value - returns).square(), (kept - returns).square())
    return 0.5 * (error * action_start).sum() / action_start.sum()


def action_log_ratio(
    old_logprob: torch.Tensor, new_logprob: torch.Tensor, action_start: torch.Tensor
) -> torch.Tensor:
    """log(new / old) probability of each action, (batch, actions); 0 for actions that a row does not have.

    The sum of the tokens' differences, each bounded by `LARGEST_STEP`. The sum is bounded too, far beyond
    every clip, since an infinite ratio would turn the gradient of the clipped loss into not-a-number.
    """
    steps = (new_logprob - old_logprob).clamp(-LARGEST_STEP, LARGEST_STEP)
    return by_action(steps, action_start).clamp(max=2 * LARGEST_STEP)


def by_action(tokens: torch.Tensor, action_start: torch.Tensor) -> torch.Tensor:
    """Sums over the tokens of each action: (batch, tokens) to (batch, most actions of a row)."""
    number = action_start.long().cumsum(1) - 1
    sums = tokens.new_zeros(len(tokens), int(number[:, -1].max()) + 1)
    return sums.scatter_add(1, number, tokens)


def to_tokens(actions: torch.Tensor, action_start: torch.Tensor) -> torch.Tensor:
    """Each action's number at its first token, zero elsewhere: the way back from `by_action`."""
    return actions.gather(1, action_start.long().cumsum(1) - 1) * action_start


def whitened(advantage: torch.Tensor, action_start: torch.Tensor) -> torch.Tensor:
    """Mean 0 and variance 1 over the action starts of the batch, zero elsewhere."""
    at_starts = advantage[action_start > 0]
    variance = at_starts.var() if len(at_starts) > 1 else at_starts.new_zeros(())
    return (advantage - at_starts.mean()) * (variance + WHITENING_EPSILON).rsqrt() * action_start


def _check(action_start: torch.Tensor, **others: torch.Tensor) -> None:
    """Raise GrlibError unless all tensors have one shape, are finite, and every response begins an action."""
    shape = tuple(action_start.shape)
    for name, tensor in others.items():
        if tuple(tensor.shape) != shape or len(shape) != 2 or 0 in shape:
            raise GrlibError(
                f"{name} of shape {tuple(tensor.shape)}: must be (batch, tokens) as action_start {shape}; "
                "pad the responses to one length"
            )
        if not bool(torch.isfinite(tensor).all()):
            row, column = (~torch.isfinite(tensor)).nonzero()[0].tolist()
            raise GrlibError(
                f"{name} is {tensor[row, column].item()} at row {row}, token {column}: must be finite; "
                "lower the rate, or look at the sampled tokens"
            )
    if not bool(((action_start == 0) | (action_start == 1)).all()):
        raise GrlibError("action_start holds values other than 0 and 1; mark the first token of each action")
    if not bool((action_start[:, 0] == 1).all()):
        row = int((action_start[:, 0] != 1).nonzero()[0])
        raise GrlibError(
            f"action_start of row {row} begins with {float(action_start[row, 0]):g}: a response's first "
            "token starts an action; set its first column to 1"
        )


# --- the loop -------------------------------------------------------------------------------------


class Task(Protocol):
    """What a problem domain must offer to be reinforced. `Item` is the task's own type."""

    def rollouts(
        self, policy: Policy, items: Sequence[Any], tokenizer: PreTrainedTokenizerFast, settings: PPOSettings
    ) -> list[Rollout]:
        """One response an item, graded, with its actions and rewards."""


@dataclass(frozen=True)
class PPOSettings:
    """One run. Defaults of the algorithm: the paper's, or its release where the text gives none."""

    steps: int
    problems: int  # problems of one step
    actor_lr: float
    critic_lr: float
    sampling: SamplingSettings
    action: str = "operation"  # or "token"
    baseline: str = "value"  # a critic (PPO), or "group": other samples of the same problem (GRPO)
    optimizer: str = "adamw"  # of the policy; or "normed_sgd": steps of length `actor_lr` down the gradient
    schedule: str = "constant"  # of the policy's rate; or "linear": falls to zero
    critic: str = "own"  # has a body of its own, as the paper's; or "shared": reads the policy's states
    reward: str = "outcome"  # or "dense": also for each subgoal reached
    group: int = 1  # samples of a problem in one step
    minibatch: int = 256  # responses of one optimiser step
    clip: float = 0.2
    dual_clip: float = 3.0
    value_clip: float = 0.5
    gamma: float = 1.0
    lam: float = 1.0
    max_norm: float = 1.0  # of a gradient
    weight_decay: float = 0.01
    micro_tokens: int = 2048  # padded tokens of one forward pass: bounds memory
    checkpoint_seconds: float = 60.0

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise GrlibError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(allowed)}")
        if self.baseline == "group" and self.group < 2:
            raise GrlibError(f"group={self.group} with baseline 'group': must be 2 or more; raise it")
        sizes = {name: getattr(self, name) for name in ("steps", "problems", "group", "minibatch")}
        rates = {name: getattr(self, name) for name in ("actor_lr", "critic_lr", "clip", "dual_clip")}
        for name, value in (sizes | rates).items():
            if value <= 0:
                raise GrlibError(f"{name}={value}: must be positive")


TIMES = ("sampling_s", "scoring_s", "updating_s")  # columns of the curve that differ from run to run
CHOICES = {
    "action": ("operation", "token"),
    "baseline": ("value", "group"),
    "optimizer": ("adamw", "normed_sgd"),
    "schedule": ("constant", "linear"),
    "critic": ("own", "shared"),
    "reward": ("outcome", "dense"),
}


class Critic(nn.Module):
    """The value of the state before a token: a head on a copy of the policy's body, or ("shared") a larger
    head on what the policy's own body says, without teaching it, which spares a second body's passes."""

    def __init__(self, policy: LlamaForCausalLM, kind: str, seed: int = 0) -> None:
        super().__init__()
        width = policy.config.hidden_size
        self.body = copy.deepcopy(policy.model) if kind == "own" else None
        last = nn.Linear(width, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.head = last if kind == "own" else nn.Sequential(nn.Linear(width, width), nn.SiLU(), last)

    def forward(
        self,
        policy: LlamaForCausalLM,
        ids: torch.Tensor,
        mask: torch.Tensor,
        states: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Values before every masked token: (masked tokens,). `states`: the policy's there, if known."""
        if self.body is not None:
            states = states_before(self.body, ids, mask)
        elif states is None:
            states = states_before(policy.model, ids, mask)
        else:
            states = states.detach()
        values: torch.Tensor = self.head(states)[:, 0]
        return values


def train_ppo(
    task: Task,
    items: Sequence[Any],
    base: Path,
    settings: PPOSettings,
    *,
    seed: int,
    out: Path,
    work: Path,
    progress: Callable[[str], None],
) -> pd.DataFrame:
    """Reinforce the model in `base`, save it in `out`, and return the curve: one row a step.

    `work` holds the last checkpoint, the curve so far and the newest rollouts, so a killed call goes on when
    it is made again, to the same end. Raises GrlibError where a loss is not finite.
    """
    from grlib.model import load_both, save_model

    policy, tokenizer = load_both(base)
    learner = Learner(policy, settings, seed)
    posed = hashlib.sha256(repr(list(items)).encode()).hexdigest()
    key = {"base": digest(base), "seed": seed, "settings": asdict(settings), "items": posed}
    step, curve = learner.restore(work / "checkpoint.pt", key)
    saved = time.monotonic()
    while step < settings.steps:
        began = time.monotonic()
        save_model(policy, tokenizer, work / "policy")
        sampler = sampled_policy(
            work / "policy",
            replace(settings.sampling, logprobs=True),
            f"{seed}/{step}",
            work / "rollouts",
            f"step {step}",
            lambda line: None,
        )
        chosen = [item for item in _problems(items, settings, seed, step) for _ in range(settings.group)]
        with sharding.as_a_whole():  # a step is too short to be handed around
            rollouts = task.rollouts(sampler, chosen, tokenizer, settings)
        sampled = time.monotonic()
        learner.set_rate(step)
        row = learner.update(batch_of(rollouts), Random(f"{seed}/{step}")) | _watch(rollouts)
        step += 1
        spent = {"sampling_s": sampled - began, "updating_s": time.monotonic() - sampled - row["scoring_s"]}
        row |= {"step": step} | spent
        curve.append(row)
        write_table(work / "curve.csv", pd.DataFrame(curve))
        progress(_line(row, settings))
        if step == settings.steps or time.monotonic() - saved > settings.checkpoint_seconds:
            learner.checkpoint(work / "checkpoint.pt", key, step, curve)
            saved = time.monotonic()
    frame = pd.DataFrame(curve)
    save_model(policy, tokenizer, out, frame)
    return frame


class Learner:
    """Policy, critic and their optimisers."""

    def __init__(self, policy: LlamaForCausalLM, settings: PPOSettings, seed: int = 0) -> None:
        self.policy, self.settings = policy, settings
        self.critic = Critic(policy, settings.critic, seed) if settings.baseline == "value" else None
        self.networks: list[nn.Module] = [policy]
        if settings.optimizer == "normed_sgd":
            first: torch.optim.Optimizer = torch.optim.SGD(policy.parameters(), lr=settings.actor_lr)
        else:
            first = torch.optim.AdamW(
                policy.parameters(), settings.actor_lr, weight_decay=settings.weight_decay
            )
        self.optimizers = [first]
        if self.critic is not None:
            self.networks.append(self.critic)
            self.optimizers.append(
                torch.optim.AdamW(
                    self.critic.parameters(), settings.critic_lr, weight_decay=settings.weight_decay
                )
            )

    def set_rate(self, step: int) -> None:
        """The policy's rate in step 0, 1, ..."""
        if self.settings.schedule == "linear":
            for group in self.optimizers[0].param_groups:
                group["lr"] = self.settings.actor_lr * (1 - step / self.settings.steps)

    def update(self, batch: Batch, rng: Random) -> dict[str, float]:
        """One pass over a batch of rollouts, and what to watch."""
        settings = self.settings
        for network in self.networks:
            network.train()
        began = time.monotonic()
        old_value = torch.zeros_like(batch.reward)
        if self.critic is None:
            advantage = group_advantages(batch.reward, batch.action_start, settings.group)
            returns = old_value
        else:
            old_value = self._old_values(self.critic, batch)
            advantage, returns = operation_advantages(
                batch.reward, old_value, batch.action_start, settings.gamma, settings.lam
            )
        scoring = time.monotonic() - began
        order = list(range(len(batch.rows)))
        rng.shuffle(order)
        parts = [order[i : i + settings.minibatch] for i in range(0, len(order), settings.minibatch)]
        watched: list[dict[str, float]] = []
        for part in parts:
            watched.append(self._gradients(batch, part, advantage, old_value, returns))
            self._take_step()
        row = {name: float(np.mean([one[name] for one in watched])) for name in watched[0]}
        row["rescore_gap"] = watched[0]["rescore_gap"]  # later parts are scored by a changed policy
        row["scoring_s"] = scoring
        return row | self._of_the_critic(old_value, returns, batch.action_start)

    def _of_the_critic(
        self, value: torch.Tensor, returns: torch.Tensor, action_start: torch.Tensor
    ) -> dict[str, float]:
        """How well the critic predicts the returns, beside what the place in the response alone says."""
        if self.critic is None:
            return dict.fromkeys(("value_error", "explained", "explained_by_place"), math.nan)
        at = action_start > 0
        error, goals, spread = (value - returns)[at], returns[at], float(returns[at].var())
        place = (torch.arange(returns.shape[1]).expand_as(returns)[at] // PLACES).long()
        counts = torch.bincount(place)
        means = torch.bincount(place, weights=goals) / counts.clamp(min=1)
        left = float((goals - means[place]).square().mean())
        return {
            "value_error": float(error.square().mean().sqrt()),
            "explained": 1 - float(error.var()) / spread if spread else math.nan,
            "explained_by_place": 1 - left / spread if spread else math.nan,
        }

    def _gradients(
        self,
        batch: Batch,
        part: list[int],
        advantage: torch.Tensor,
        old_value: torch.Tensor,
        returns: torch.Tensor,
    ) -> dict[str, float]:
        """The gradients of both losses on the rollouts numbered in `part`, and what to watch."""
        settings, total = self.settings, float(batch.action_start[part].sum())
        losses, gap, ratios, clipped = [0.0, 0.0], 0.0, [], 0.0
        for numbers, ids, mask in self.batches([batch.rows[i] for i in part]):
            chosen = [part[number] for number in numbers]
            width = int(mask.sum(1).max())
            old, gain, start, value, goal = (
                tensor[chosen, :width]
                for tensor in (batch.old_logprob, advantage, batch.action_start, old_value, returns)
            )
            share = float(start.sum()) / total
            states = states_before(self.policy.model, ids, mask)
            new = by_place(-nll_of(self.policy, states, ids, mask), mask, width)
            loss = operation_policy_loss(old, new, gain, start, settings.clip, settings.dual_clip) * share
            loss.backward()
            losses[0] += float(loss.detach())
            if self.critic is not None:
                guess = by_place(self.critic(self.policy, ids, mask, states), mask, width)
                loss = value_loss(guess, value, goal, start, settings.value_clip) * share
                loss.backward()
                losses[1] += float(loss.detach())
            with torch.no_grad():
                gap = max(gap, float((new - old).abs().max()))
                real = torch.arange(int(start.sum(1).max())) < start.sum(1, keepdim=True)
                ratios.append(action_log_ratio(old, new, start)[real].exp())
                clipped += float(clipped_share(old, new, gain, start, settings.clip)) * share
        if not np.isfinite(losses).all():
            raise GrlibError(
                f"policy loss {losses[0]}, value loss {losses[1]}: must be finite; lower actor_lr "
                f"{settings.actor_lr} or critic_lr {settings.critic_lr}"
            )
        quantiles = torch.cat(ratios).quantile(torch.tensor([0.01, 0.5, 0.99])).tolist()
        row = {"policy_loss": losses[0], "value_loss": losses[1], "clipped": clipped, "rescore_gap": gap}
        return row | dict(zip(("ratio_01", "ratio_50", "ratio_99"), quantiles, strict=True))

    def _take_step(self) -> None:
        for network, optimizer in zip(self.networks, self.optimizers, strict=True):
            weights = list(network.parameters())
            if network is self.policy and self.settings.optimizer == "normed_sgd":
                to_length_one([weight.grad for weight in weights if weight.grad is not None])
            else:
                nn.utils.clip_grad_norm_(weights, self.settings.max_norm)
            optimizer.step()
            optimizer.zero_grad()

    def batches(self, rows: list[Row]) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
        """Rows for one forward pass each, as `training.micro_batches` gives them."""
        return micro_batches(rows, self.settings.micro_tokens)

    @torch.no_grad()
    def _old_values(self, critic: Critic, batch: Batch) -> torch.Tensor:
        """The critic's values before the update: (rollouts, tokens)."""
        values = torch.zeros_like(batch.reward)
        for numbers, ids, mask in self.batches(batch.rows):
            width = int(mask.sum(1).max())
            values[numbers, :width] = by_place(critic(self.policy, ids, mask), mask, width)
        return values

    def checkpoint(self, path: Path, key: dict[str, Any], step: int, curve: list[dict[str, float]]) -> None:
        """All state of a run in one file; every random choice follows from the seed and the step."""
        state = {
            "step": step,
            "curve": curve,
            "networks": [network.state_dict() for network in self.networks],
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        write_checkpoint(path, key, state)

    def restore(self, path: Path, key: dict[str, Any]) -> tuple[int, list[dict[str, float]]]:
        """(step, curve) of the checkpoint that belongs to this run, or a fresh start."""
        state = read_checkpoint(path, key)
        if state is None:
            return 0, []
        for things, states in ((self.networks, state["networks"]), (self.optimizers, state["optimizers"])):
            for thing, saved in zip(things, states, strict=True):
                thing.load_state_dict(saved)
        return state["step"], state["curve"]


def to_length_one(gradients: Sequence[torch.Tensor]) -> None:
    """Scale gradients in place so that together they have norm 1; gradients of zero stay so."""
    norm = nn.utils.get_total_norm(gradients)
    for gradient in gradients:
        gradient.div_(norm.clamp(min=1e-12))


def by_place(flat: torch.Tensor, mask: torch.Tensor, width: int) -> torch.Tensor:
    """Numbers of the masked tokens, row by row, as (rows, width) counted from each response's first token."""
    places = torch.arange(width) < mask.sum(1, keepdim=True)
    return flat.new_zeros(len(mask), width).masked_scatter(places, flat)


def _problems(items: Sequence[Any], settings: PPOSettings, seed: int, step: int) -> list[Any]:
    """The problems of a step: the items in a new order each epoch, none twice before all were seen."""
    found: list[Any] = []
    place = step * settings.problems
    while len(found) < settings.problems:
        epoch, first = divmod(place + len(found), len(items))
        order = list(range(len(items)))
        Random(f"{seed}/epoch/{epoch}").shuffle(order)
        found += [items[i] for i in order[first : first + settings.problems - len(found)]]
    return found


def _watch(rollouts: Sequence[Rollout]) -> dict[str, float]:
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


def _line(row: dict[str, float], settings: PPOSettings) -> str:
    left = (settings.steps - row["step"]) * sum(row[name] for name in TIMES) / 60
    return (
        f"PPO: step {row['step']:.0f}/{settings.steps}, accuracy {100 * row['accuracy']:.0f} %, "
        f"{row['tokens']:.0f} tokens, cut off {100 * row['truncated']:.0f} %, clipped "
        f"{100 * row['clipped']:.0f} %, entropy {row['entropy']:.3f}, {left:.1f} min left"
    )
