"""Policy, critic and their optimisers: one update of PPO on a batch of rollouts (`Learner.update`)."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from grlib.errors import GrlibError
from grlib.ppo.losses import (
    action_log_ratio,
    clipped_share,
    group_advantages,
    operation_advantages,
    operation_policy_loss,
    to_tokens,
    value_loss,
)
from grlib.profiles import PPO
from grlib.training.loss import nll_of, states_before
from grlib.training.packed import Packed
from grlib.training.parallel import Team
from grlib.training.rows import Rollout, Row, micro_batches

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

PLACES = 64  # tokens of a response that count as one place, when a critic is judged
WAVES = 8  # cosines and sines of the place in a response, for the critic "placed"

# Of one micro-batch: its part of the policy loss, of the value loss and of the clipped share, the largest
# difference of a log probability from the sampler's, and the ratios of its actions.
Seen = tuple[float, float, float, float, torch.Tensor]


@dataclass(frozen=True)
class Batch:
    """Rollouts as tensors (rollouts, tokens of the longest response), as `grlib.ppo.losses` takes them."""

    rows: list[Row]
    old_logprob: torch.Tensor
    action_start: torch.Tensor
    reward: torch.Tensor


def batch_of(rollouts: Sequence[Rollout]) -> Batch:
    """Pad rollouts to one length."""
    width = max(len(rollout.response) for rollout in rollouts)
    logprob, start, reward = (torch.zeros(len(rollouts), width) for _ in range(3))
    rows = []
    for i, rollout in enumerate(rollouts):
        tokens = len(rollout.response)
        rows.append(Row(np.asarray(rollout.prompt + rollout.response, dtype=np.int32), len(rollout.prompt)))
        logprob[i, :tokens] = torch.from_numpy(np.asarray(rollout.logprobs, dtype=np.float32))
        start[i, list(rollout.starts)] = 1
        for place, amount in rollout.rewards:
            reward[i, place] += amount
    return Batch(rows, logprob, start, reward)


class Critic(nn.Module):
    """The value of the state before a token. Kind "own": a linear head on a copy of the policy's body.
    "shared" and "placed": a larger head on the policy's own states, which saves the passes of a second body;
    the policy gets no gradient from it.

    Attention sees distances, not places: "placed" adds how much of the response is spent, as a share of the
    model's positions (a model from scratch has few more than the budget).
    """

    def __init__(self, policy: LlamaForCausalLM, kind: str, seed: int = 0) -> None:
        super().__init__()
        width, self.most = policy.config.hidden_size, policy.config.max_position_embeddings
        self.waves = 2 * WAVES if kind == "placed" else 0
        self.body = copy.deepcopy(policy.model) if kind == "own" else None
        last = nn.Linear(width, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.head: nn.Module = last
        if kind != "own":
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                self.head = nn.Sequential(nn.Linear(width + self.waves, width), nn.SiLU(), last)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """Values before every masked token: (masked tokens,). `states` (masked tokens, width) are the
        policy's before these tokens; a critic with its own body does not use them."""
        states = states.detach() if self.body is None else states_before(self.body, ids, mask)
        return self.values(states, (mask.cumsum(1) - 1)[mask])

    def values(self, states: torch.Tensor, spent: torch.Tensor) -> torch.Tensor:
        """Values (n,) of states (n, width), each after (n,) `spent` tokens of the response."""
        if self.waves:
            turns = math.pi * spent[:, None] / self.most * torch.arange(1, WAVES + 1, device=spent.device)
            states = torch.cat([states, turns.cos().to(states.dtype), turns.sin().to(states.dtype)], 1)
        found: torch.Tensor = self.head(states)[:, 0]
        return found


class ActorCritic(nn.Module):
    """Policy and critic as one network: what processes wrap when they train them together."""

    def __init__(self, policy: LlamaForCausalLM, critic: Critic | None, pack: Packed | None = None) -> None:
        super().__init__()
        self.policy, self.critic, self.pack = policy, critic, pack

    def forward(
        self, ids: torch.Tensor, mask: torch.Tensor, only_values: bool = False
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """The log probability of every masked token (None if `only_values`), and the value before it (None
        without a critic): two (masked tokens,)."""
        logprobs: torch.Tensor | None = None
        states: Any = None
        if self.pack:
            nats, states = self.pack.nats_and_states(ids, mask)
            logprobs = -nats
        elif not only_values or (self.critic is not None and self.critic.body is None):
            states = states_before(self.policy.model, ids, mask)
            logprobs = None if only_values else -nll_of(self.policy, states, ids, mask)
        return logprobs, None if self.critic is None else self.critic(ids, mask, states)


class Learner:
    """Policy, critic and their optimisers, trained by one process or by several together.

    With a `pack` the old log probabilities are computed again, by the kernels that compute the new ones: in
    bfloat16 the sampler's differ by nats for some tokens, and their ratio would clip actions before anything
    is learnt.
    """

    def __init__(
        self, policy: LlamaForCausalLM, settings: PPO, seed: int = 0, pack: Packed | None = None
    ) -> None:
        """`pack` reads rollouts without padding; it needs one process, and a critic without its own body."""
        self.policy, self.settings, self.pack = policy, settings, pack  # `net` may hold a copy of the policy
        self.team = Team(settings.strategy, settings.precision)
        if settings.recompute:
            policy.gradient_checkpointing_enable()
        critic = Critic(policy, settings.critic, seed) if settings.baseline == "value" else None
        self.net = self.team.wrap(ActorCritic(policy, critic, pack))
        inner = self.team.inside(self.net)
        self.critic: Critic | None = inner.critic
        self.networks: list[nn.Module] = [inner.policy]
        self.optimizers: list[torch.optim.Optimizer] = []
        weights, decay = inner.policy.parameters(), settings.weight_decay
        if settings.optimizer == "normed_sgd":
            self.optimizers.append(torch.optim.SGD(weights, settings.actor_lr))
        else:
            self.optimizers.append(torch.optim.AdamW(weights, settings.actor_lr, weight_decay=decay))
        if self.critic is not None:
            self.networks.append(self.critic)
            weights = self.critic.parameters()
            self.optimizers.append(torch.optim.AdamW(weights, settings.critic_lr, weight_decay=decay))

    def update(self, batch: Batch, rng: Random) -> dict[str, float]:
        """One pass over a batch of rollouts; returns the numbers to watch."""
        settings = self.settings
        self.net.train()
        began = time.monotonic()
        old_value, gap = torch.zeros_like(batch.reward), math.nan
        if self.critic is not None or self.pack:
            old_logprob, old_value = self.score(batch)
            if self.pack:
                gap = float((old_logprob - batch.old_logprob).abs().max())
                batch = replace(batch, old_logprob=old_logprob)
        if self.critic is None:
            advantage = group_advantages(batch.reward, batch.action_start, settings.samples_each)
            returns = old_value
        else:
            advantage, returns = operation_advantages(
                batch.reward, old_value, batch.action_start, settings.gamma, settings.lam
            )
        scoring = time.monotonic() - began
        order = list(range(len(batch.rows)))
        rng.shuffle(order)
        seen: list[dict[str, float]] = []
        for first in range(0, len(order), settings.minibatch):
            part = order[first : first + settings.minibatch]
            found = self.gradients(batch, part, advantage, old_value, returns)
            seen.append(found | {"gradient": self._take_step()})
        row = {name: float(np.mean([one[name] for one in seen])) for name in seen[0]}
        # how far the sampler is from the trainer; later minibatches are scored by a changed policy
        row["rescore_gap"] = gap if self.pack else seen[0]["rescore_gap"]
        row["scoring_s"] = scoring
        return row | self._critic_quality(old_value, returns, batch.action_start)

    def gradients(
        self,
        batch: Batch,
        part: list[int],
        advantage: torch.Tensor,
        old_value: torch.Tensor,
        returns: torch.Tensor,
    ) -> dict[str, float]:
        """Add up the gradients of both losses on the rollouts numbered in `part`; returns the numbers to
        watch."""
        settings, device = self.settings, self.team.device
        total = float(batch.action_start[part].sum())
        seen: list[Seen] = [(0.0, 0.0, 0.0, 0.0, torch.ones(0))]
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
                new = new.detach()
                gap = float((new - old).abs().max())
                clipped = float(clipped_share(old, new, gain, start, settings.clip)) * share
                ratios = to_tokens(action_log_ratio(old, new, start), start)[start > 0].exp()
                seen.append((float(loss.detach()), float(error.detach()), gap, clipped, ratios.cpu()))
        return self._watched([one for several in self.team.gathered(seen) for one in several])

    def _watched(self, seen: Sequence[Seen]) -> dict[str, float]:
        """The numbers to watch of an optimiser step, from all micro-batches of all processes; GrlibError
        unless the losses are finite."""
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
        """Change the weights; returns the norm of the policy's gradient."""
        norms = []
        for network, optimizer in zip(self.networks, self.optimizers, strict=True):
            weights = list(network.parameters())
            if network is self.networks[0] and self.settings.optimizer == "normed_sgd":
                norms.append(to_length_one([weight.grad for weight in weights if weight.grad is not None]))
            else:
                norms.append(_number(nn.utils.clip_grad_norm_(weights, self.settings.max_norm)))
            optimizer.step()
            optimizer.zero_grad()
        return norms[0]

    @torch.no_grad()
    def score(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Before the update: the policy's log probabilities of the batch's tokens (zeros without a `pack`)
        and the critic's values before them, two (rollouts, tokens)."""
        found = torch.zeros_like(batch.reward), torch.zeros_like(batch.reward)
        for numbers, ids, mask, weight in self.team.share(self.net, list(self.batches(batch.rows))):
            width = int(mask.sum(1).max())
            for kept, flat in zip(found, self.net(ids, mask, only_values=not self.pack), strict=True):
                if weight and flat is not None:
                    kept[numbers, :width] = by_place(flat.float(), mask, width).cpu()
        return self.team.summed(found[0]), self.team.summed(found[1])

    def _critic_quality(
        self, value: torch.Tensor, returns: torch.Tensor, action_start: torch.Tensor
    ) -> dict[str, float]:
        """The critic's error, the share of the returns' variance that it explains, and the share that the
        place in the response alone would explain; NaN without a critic."""
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

    def set_rate(self, step: int) -> None:
        """Set the policy's learning rate of step 0, 1, ..."""
        if self.settings.schedule == "linear":
            for group in self.optimizers[0].param_groups:
                group["lr"] = self.settings.actor_lr * (1 - step / self.settings.steps)

    def batches(self, rows: list[Row]) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
        """Rows for one forward pass each, as `rows.micro_batches` gives them."""
        return self.pack.batches(rows) if self.pack else micro_batches(rows, self.settings.micro_tokens)


def to_length_one(gradients: Sequence[torch.Tensor]) -> float:
    """Scale gradients in place so that together they have norm 1, and return the norm before; zeros stay
    zeros."""
    norm = _number(nn.utils.get_total_norm(gradients))
    for gradient in gradients:
        gradient.div_(max(norm, 1e-12))
    return norm


def _number(norm: Any) -> float:
    """A norm as a number; that of sharded gradients is over all processes."""
    return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)


def by_place(flat: torch.Tensor, mask: torch.Tensor, width: int) -> torch.Tensor:
    """Numbers of masked tokens (masked tokens,) as (rows, width); a row starts at its first masked token."""
    places = torch.arange(width, device=mask.device) < mask.sum(1, keepdim=True)
    return flat.new_zeros(len(mask), width).masked_scatter(places, flat)
