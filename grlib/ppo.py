"""Operation-level PPO: one line of the trace is one action (the paper's reinforcement learning section).

Advantages and losses are pure functions (`grlib.ppo_losses`, offered here too); this is the loop around
them. It knows no task: responses come from `Task.rollouts`, with their actions and rewards. Several processes
may update together (`grlib.distributed`); the first of them samples.
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
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
import torch
from torch import nn

from grlib import sharding
from grlib.artefacts import digest, read_table, write_table
from grlib.distributed import (
    PRECISIONS,
    STRATEGIES,
    Team,
    free_cache,
    launch_ppo,
    launched,
    refuse_uneven,
)
from grlib.errors import GrlibError
from grlib.ppo_losses import (
    action_log_ratio,
    clipped_share,
    group_advantages,
    operation_advantages,
    operation_policy_loss,
    value_loss,
)
from grlib.ppo_watch import Concerns, progress_line, watched
from grlib.rollouts import Batch, Rollout, batch_of
from grlib.sampling import SamplingSettings, release_gpus
from grlib.selftrain import Policy, sampled_policy
from grlib.training import (
    PACE,
    Row,
    checkpoint_due,
    micro_batches,
    nll_of,
    read_checkpoint,
    states_before,
    write_checkpoint,
)

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

__all__ = [
    "Critic",
    "Learner",
    "PPOSettings",
    "Task",
    "action_log_ratio",
    "clipped_share",
    "group_advantages",
    "operation_advantages",
    "operation_policy_loss",
    "train_ppo",
    "value_loss",
]
PLACES = 64  # tokens in which a response's places count as one
WAVES = 8  # cosines and sines of the place in a response, for the critic "placed"


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
    # "own": with a body of its own, as the paper's; "shared": reads the policy's states; "placed": these, and
    # how far the response has come
    critic: str = "own"
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
    precision: str = "float32"  # these four as in `training.TrainSettings`
    processes: int = 1
    strategy: str = "ddp"
    recompute: bool = False
    checkpoint_seconds: float = 60.0

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise GrlibError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(allowed)}")
        if self.baseline == "group" and self.group < 2:
            raise GrlibError(f"group={self.group} with baseline 'group': must be 2 or more; raise it")
        names = ("steps", "problems", "group", "minibatch", "processes")
        sizes = {name: getattr(self, name) for name in names}
        rates = {name: getattr(self, name) for name in ("actor_lr", "critic_lr", "clip", "dual_clip")}
        for name, value in (sizes | rates).items():
            if value <= 0:
                raise GrlibError(f"{name}={value}: must be positive")
        refuse_uneven(self.processes, "minibatch", self.minibatch)


CHOICES = {
    "action": ("operation", "token"),
    "baseline": ("value", "group"),
    "optimizer": ("adamw", "normed_sgd"),
    "schedule": ("constant", "linear"),
    "critic": ("own", "shared", "placed"),
    "reward": ("outcome", "dense"),
    "precision": PRECISIONS,
    "strategy": STRATEGIES,
}


class Critic(nn.Module):
    """The value of the state before a token: a head on a copy of the policy's body, or ("shared", "placed") a
    larger head on what the policy's own body says, without teaching it, which spares a second body's passes.

    Attention knows distances, not places: "placed" adds how many tokens of the response are spent, as a share
    of the model's positions (which a model from scratch has for little more than the budget).
    """

    def __init__(self, policy: LlamaForCausalLM, kind: str, seed: int = 0) -> None:
        super().__init__()
        width, self.most = policy.config.hidden_size, policy.config.max_position_embeddings
        self.waves = 2 * WAVES if kind == "placed" else 0
        self.body = copy.deepcopy(policy.model) if kind == "own" else None
        last = nn.Linear(width, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.head = (
                last
                if kind == "own"
                else nn.Sequential(nn.Linear(width + self.waves, width), nn.SiLU(), last)
            )

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """Values before every masked token: (masked tokens,). `states`: the policy's there."""
        states = states.detach() if self.body is None else states_before(self.body, ids, mask)
        return self.values(states, (mask.cumsum(1) - 1)[mask])

    def values(self, states: torch.Tensor, spent: torch.Tensor) -> torch.Tensor:
        """Of states (n, width) before which (n,) tokens of the response are `spent`: (n,)."""
        if self.waves:
            turns = math.pi * spent[:, None] / self.most * torch.arange(1, WAVES + 1, device=spent.device)
            states = torch.cat([states, turns.cos().to(states.dtype), turns.sin().to(states.dtype)], 1)
        found: torch.Tensor = self.head(states)[:, 0]
        return found


class ActorCritic(nn.Module):
    """Policy and critic as one network: what processes wrap when they train them together."""

    def __init__(self, policy: LlamaForCausalLM, critic: Critic | None) -> None:
        super().__init__()
        self.policy, self.critic = policy, critic

    def states(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The policy's states before every masked token: (masked tokens, width)."""
        return states_before(self.policy.model, ids, mask)

    def forward(
        self, ids: torch.Tensor, mask: torch.Tensor, only_values: bool = False
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Log probability of every masked token, and value before it: two (masked tokens,)."""
        needed = not only_values or (self.critic is not None and self.critic.body is None)
        states = self.states(ids, mask) if needed else ids
        logprobs = None if only_values else -nll_of(self.policy, states, ids, mask)
        return logprobs, None if self.critic is None else self.critic(ids, mask, states)


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

    release_gpus()
    if settings.processes > 1 and not launched():
        job = {"task": task, "items": list(items), "settings": settings, "seed": seed}
        launch_ppo(job | {"base": base, "out": out, "work": work}, settings.processes, progress)
        return read_table(out / "curve.csv")
    policy, tokenizer = load_both(base)
    learner = _learner(policy, settings, seed)
    team = learner.team
    posed = hashlib.sha256(repr(list(items)).encode()).hexdigest()
    chosen_settings = {name: value for name, value in asdict(settings).items() if name not in PACE}
    key = {"base": digest(base), "seed": seed, "settings": chosen_settings, "items": posed}
    step, curve = learner.restore(work, key)
    saved, concerns = time.monotonic(), Concerns(settings.precision)
    while step < settings.steps:
        began = time.monotonic()
        learner.hand_over()
        rollouts: list[Rollout] = []
        if team.rank == 0:
            save_model(policy, tokenizer, work / "policy")
            rollouts = _sampled(task, items, tokenizer, settings, seed, step, work)
        rollouts = team.told(rollouts)
        sampled = time.monotonic()
        learner.set_rate(step)
        row = learner.update(batch_of(rollouts), Random(f"{seed}/{step}")) | watched(rollouts)
        step += 1
        spent = {"sampling_s": sampled - began, "updating_s": time.monotonic() - sampled - row["scoring_s"]}
        row |= {"step": step} | spent
        curve.append(row)
        if team.rank == 0:
            write_table(work / "curve.csv", pd.DataFrame(curve))
            progress(progress_line(row, settings))
            for concern in concerns.new(curve):
                progress(f"PPO: warning, step {step}: {concern}")
        if step == settings.steps or checkpoint_due(team, saved, settings.checkpoint_seconds):
            learner.checkpoint(work, key, step, curve)
            saved = time.monotonic()
    frame = pd.DataFrame(curve)
    team.hand_back(learner.net, policy, "policy")
    learner.give_back()
    if team.rank == 0:
        save_model(policy, tokenizer, out, frame)
    return frame


def _learner(policy: LlamaForCausalLM, settings: PPOSettings, seed: int) -> Learner:
    """Without padding where that can be done (`packed_ppo`)."""
    from grlib.packed_ppo import packed_learner
    from grlib.packed_training import packs

    own = settings.baseline == "value" and settings.critic == "own"
    if packs(policy, Team(settings.strategy, settings.precision), settings.recompute or own):
        return packed_learner(policy, settings, seed)
    return Learner(policy, settings, seed)


def _sampled(
    task: Task,
    items: Sequence[Any],
    tokenizer: PreTrainedTokenizerFast,
    settings: PPOSettings,
    seed: int,
    step: int,
    work: Path,
) -> list[Rollout]:
    """The responses of one step, from the policy saved in `work`."""
    sampler = sampled_policy(
        work / "policy",
        replace(settings.sampling, logprobs=True),
        f"{seed}/{step}",
        work / "rollouts",
        f"step {step}",
        lambda line: None,
    )
    chosen = [item for item in problems_of_step(items, settings, seed, step) for _ in range(settings.group)]
    with sharding.as_a_whole():  # a step is too short to be handed around
        rollouts = task.rollouts(sampler, chosen, tokenizer, settings)
    if settings.sampling.engine == "vllm":  # takes nearly all of a GPU's memory
        release_gpus()
    return rollouts


class Learner:
    """Policy, critic and their optimisers, as one process or one of several trains them."""

    def __init__(self, policy: LlamaForCausalLM, settings: PPOSettings, seed: int = 0) -> None:
        self.policy, self.settings = policy, settings  # the policy that was given; `net` may hold a copy
        self.team = Team(settings.strategy, settings.precision)
        if settings.recompute:
            policy.gradient_checkpointing_enable()
        critic = Critic(policy, settings.critic, seed) if settings.baseline == "value" else None
        self.net = self.team.wrap(self.network(policy, critic))
        inner = self.team.inside(self.net)
        self.critic: Critic | None = inner.critic
        self.networks: list[nn.Module] = [inner.policy]
        weights = inner.policy.parameters()
        if settings.optimizer == "normed_sgd":
            first: torch.optim.Optimizer = torch.optim.SGD(weights, lr=settings.actor_lr)
        else:
            first = torch.optim.AdamW(weights, settings.actor_lr, weight_decay=settings.weight_decay)
        self.optimizers = [first]
        if self.critic is not None:
            self.networks.append(self.critic)
            self.optimizers.append(
                torch.optim.AdamW(
                    self.critic.parameters(), settings.critic_lr, weight_decay=settings.weight_decay
                )
            )

    def network(self, policy: LlamaForCausalLM, critic: Critic | None) -> ActorCritic:
        """What is trained."""
        return ActorCritic(policy, critic)

    def give_back(self) -> None:
        """Leave the policy as it was, but for its weights."""

    def hand_over(self) -> None:
        """Make the policy that was given hold what has been learnt so far, before it samples."""
        self.team.refresh(self.net, self.policy, "policy")
        free_cache()

    def set_rate(self, step: int) -> None:
        """The policy's rate in step 0, 1, ..."""
        if self.settings.schedule == "linear":
            for group in self.optimizers[0].param_groups:
                group["lr"] = self.settings.actor_lr * (1 - step / self.settings.steps)

    def update(self, batch: Batch, rng: Random) -> dict[str, float]:
        """One pass over a batch of rollouts, and what to watch."""
        settings = self.settings
        self.net.train()
        began = time.monotonic()
        old_value = torch.zeros_like(batch.reward)
        if self.critic is None:
            advantage = group_advantages(batch.reward, batch.action_start, settings.group)
            returns = old_value
        else:
            old_value = self._old_values(batch)
            advantage, returns = operation_advantages(
                batch.reward, old_value, batch.action_start, settings.gamma, settings.lam
            )
        scoring = time.monotonic() - began
        order = list(range(len(batch.rows)))
        rng.shuffle(order)
        parts = [order[i : i + settings.minibatch] for i in range(0, len(order), settings.minibatch)]
        seen: list[dict[str, float]] = []
        for part in parts:
            found = self._gradients(batch, part, advantage, old_value, returns)
            seen.append(found | {"gradient": self._take_step()})
        row = {name: float(np.mean([one[name] for one in seen])) for name in seen[0]}
        row["rescore_gap"] = seen[0]["rescore_gap"]  # later parts are scored by a changed policy
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
        settings, device = self.settings, self.team.device
        total = float(batch.action_start[part].sum())
        seen = [Seen(0.0, 0.0, 0.0, 0.0, torch.ones(0))]
        groups = list(self.batches([batch.rows[i] for i in part]))
        for numbers, ids, mask, weight in self.team.share(self.net, groups):
            chosen = [part[number] for number in numbers]
            width = int(mask.sum(1).max())
            old, gain, start, value, goal = (
                tensor[chosen, :width].to(device)
                for tensor in (batch.old_logprob, advantage, batch.action_start, old_value, returns)
            )
            share = float(start.sum()) / total
            logprobs, values = self.net(ids, mask)
            new = by_place(logprobs, mask, width)
            loss = operation_policy_loss(old, new, gain, start, settings.clip, settings.dual_clip) * share
            (loss * weight).backward()
            error = torch.zeros(())
            if values is not None:
                guess = by_place(values, mask, width)
                error = value_loss(guess, value, goal, start, settings.value_clip) * share
                (error * weight).backward()
            if weight:
                seen.append(_seen(loss, error, old, new, gain, start, settings.clip, share))
        return self._watched([one for several in self.team.gathered(seen) for one in several])

    def _watched(self, seen: Sequence[Seen]) -> dict[str, float]:
        """What all micro-batches of all processes say of an optimiser step; GrlibError unless losses are
        finite."""
        losses, errors, gaps, clipped, ratios = zip(*seen, strict=True)
        policy, value = sum(losses), sum(errors)
        if not np.isfinite([policy, value]).all():
            raise GrlibError(
                f"policy loss {policy}, value loss {value}: must be finite; lower actor_lr "
                f"{self.settings.actor_lr} or critic_lr {self.settings.critic_lr}"
            )
        quantiles = torch.cat(ratios).quantile(torch.tensor([0.01, 0.5, 0.99])).tolist()
        row = {"policy_loss": policy, "value_loss": value, "clipped": sum(clipped), "rescore_gap": max(gaps)}
        return row | dict(zip(("ratio_01", "ratio_50", "ratio_99"), quantiles, strict=True))

    def _take_step(self) -> float:
        """Change the weights; returns how long the policy's gradient was."""
        lengths = []
        for network, optimizer in zip(self.networks, self.optimizers, strict=True):
            weights = list(network.parameters())
            if network is self.networks[0] and self.settings.optimizer == "normed_sgd":
                lengths.append(to_length_one([weight.grad for weight in weights if weight.grad is not None]))
            else:
                norm = nn.utils.clip_grad_norm_(weights, self.settings.max_norm)
                lengths.append(float(getattr(norm, "full_tensor", lambda norm=norm: norm)()))
            optimizer.step()
            optimizer.zero_grad()
        return lengths[0]

    def batches(self, rows: list[Row]) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
        """Rows for one forward pass each, as `training.micro_batches` gives them."""
        return micro_batches(rows, self.settings.micro_tokens)

    @torch.no_grad()
    def _old_values(self, batch: Batch) -> torch.Tensor:
        """The critic's values before the update: (rollouts, tokens)."""
        found = torch.zeros_like(batch.reward)
        for numbers, ids, mask, weight in self.team.share(self.net, list(self.batches(batch.rows))):
            width = int(mask.sum(1).max())
            _, values = self.net(ids, mask, only_values=True)
            if weight:
                found[numbers, :width] = by_place(values.float(), mask, width).cpu()
        return self.team.summed(found)

    def checkpoint(self, folder: Path, key: dict[str, Any], step: int, curve: list[dict[str, float]]) -> None:
        """All state of a run; every random choice follows from the seed and the step."""
        if self.team.size > 1:
            self.team.save(folder, key, self.net, self.optimizers, [step, curve])
            return
        state = {
            "step": step,
            "curve": curve,
            "networks": [network.state_dict() for network in self.networks],
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        write_checkpoint(folder / "checkpoint.pt", key, state)

    def restore(self, folder: Path, key: dict[str, Any]) -> tuple[int, list[dict[str, float]]]:
        """(step, curve) of the newest checkpoint that belongs to this run, or a fresh start."""
        state = read_checkpoint(folder / "checkpoint.pt", key) if self.team.size == 1 else None
        several = self.team.load(folder, key, self.net, self.optimizers)
        if several and several[0] > (state["step"] if state else 0):
            empty = {None: math.nan}  # JSON has no NaN
            return several[0], [{k: empty.get(v, v) for k, v in row.items()} for row in several[1]]
        if state is None:
            return 0, []
        for things, states in ((self.networks, state["networks"]), (self.optimizers, state["optimizers"])):
            for thing, saved in zip(things, states, strict=True):
                thing.load_state_dict(saved)
        return state["step"], state["curve"]


def gradient_cosine(
    task: Task, items: Sequence[Any], base: Path, settings: PPOSettings, *, seed: int, work: Path
) -> float:
    """Cosine of two gradients of the policy on the responses of one step: lines as actions, and tokens.

    The critic knows nothing yet. With gamma = lambda = 1 a line's advantage is then that of each of its
    tokens, and at the first step all ratios are 1: where this is 1, the methods differ in the clip alone.
    """
    from grlib.model import load_both, save_model

    policy, tokenizer = load_both(base)
    save_model(policy, tokenizer, work / "policy")
    drawn = _sampled(task, items, tokenizer, replace(settings, action="operation"), seed, 0, work)
    found = []
    for rollouts in (drawn, [one._replace(starts=tuple(range(len(one.response)))) for one in drawn]):
        learner, batch = Learner(policy, settings, seed), batch_of(rollouts)
        value = learner._old_values(batch)
        advantage, returns = operation_advantages(
            batch.reward, value, batch.action_start, settings.gamma, settings.lam
        )
        learner._gradients(batch, list(range(len(rollouts))), advantage, value, returns)
        found.append(
            torch.cat([w.grad.flatten().double() for w in policy.parameters() if w.grad is not None])
        )
        policy.zero_grad()
    return float(nn.functional.cosine_similarity(found[0], found[1], dim=0))


class Seen(NamedTuple):
    """What one micro-batch says: its part of both losses and of the clipped share, the largest distance of a
    log probability from the sampler's, and the ratios of its actions."""

    policy_loss: float
    value_loss: float
    gap: float
    clipped: float
    ratios: torch.Tensor


@torch.no_grad()
def _seen(
    loss: torch.Tensor,
    error: torch.Tensor,
    old: torch.Tensor,
    new: torch.Tensor,
    gain: torch.Tensor,
    start: torch.Tensor,
    clip: float,
    share: float,
) -> Seen:
    counts = start.sum(1, keepdim=True)
    real = torch.arange(int(counts.max()), device=start.device) < counts
    ratios = action_log_ratio(old, new, start)[real].exp()
    clipped = float(clipped_share(old, new, gain, start, clip)) * share
    return Seen(float(loss), float(error), float((new - old).abs().max()), clipped, ratios.cpu())


def to_length_one(gradients: Sequence[torch.Tensor]) -> float:
    """Scale gradients in place so that together they have norm 1, and return that of before; gradients of
    zero stay so."""
    norm = nn.utils.get_total_norm(gradients)
    size = float(getattr(norm, "full_tensor", lambda: norm)())  # sharded: over all processes
    for gradient in gradients:
        gradient.div_(max(size, 1e-12))
    return size


def by_place(flat: torch.Tensor, mask: torch.Tensor, width: int) -> torch.Tensor:
    """Numbers of the masked tokens, row by row, as (rows, width) counted from each response's first token."""
    places = torch.arange(width, device=mask.device) < mask.sum(1, keepdim=True)
    return flat.new_zeros(len(mask), width).masked_scatter(places, flat)


def problems_of_step(items: Sequence[Any], settings: PPOSettings, seed: int, step: int) -> list[Any]:
    """The problems of a step: the items in a new order each epoch, none twice before all were seen."""
    found: list[Any] = []
    place = step * settings.problems
    while len(found) < settings.problems:
        epoch, first = divmod(place + len(found), len(items))
        order = list(range(len(items)))
        Random(f"{seed}/epoch/{epoch}").shuffle(order)
        found += [items[i] for i in order[first : first + settings.problems - len(found)]]
    return found
