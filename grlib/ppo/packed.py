"""PPO on a GPU without padding: `ppo.Learner` whose policy reads rollouts in lines (`packed_training`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

import torch

from grlib.ppo.learner import ActorCritic, Critic, Learner, by_place
from grlib.ppo.rollouts import Batch
from grlib.profiles import PPO
from grlib.training.packed import FILLING, PackedScorer, batches_in_lines, line_that_fits
from grlib.training.rows import Row

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM


class PackedActorCritic(ActorCritic):
    """Policy and critic (one that shares the policy's states, or none), in lines of `tokens` tokens."""

    def __init__(
        self, policy: LlamaForCausalLM, critic: Critic | None, scorer: PackedScorer, tokens: int
    ) -> None:
        super().__init__(policy, critic)
        self.scorers, self.tokens = [scorer], tokens  # in a list, as in `PackedScored`

    def forward(
        self, ids: torch.Tensor, mask: torch.Tensor, only_values: bool = False
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """As `ActorCritic.forward`."""
        nats, states = self.scorers[0].nats_and_states(ids, mask, self.tokens)
        return None if only_values else -nats, None if self.critic is None else self.critic(ids, mask, states)


class PackedLearner(Learner):
    """For one process and a critic that shares the policy's states, or none.

    The old log probabilities are computed again, by the kernels that compute the new ones: in bfloat16 the
    sampler's differ for some tokens by nats, and their ratio would clip actions before anything is learnt.
    """

    def __init__(
        self, policy: LlamaForCausalLM, settings: PPO, seed: int, scorer: PackedScorer, tokens: int
    ) -> None:
        self.scorer, self.tokens, self.values = scorer, tokens, torch.zeros(0)
        super().__init__(policy, settings, seed)

    def network(self, policy: LlamaForCausalLM, critic: Critic | None) -> ActorCritic:
        return PackedActorCritic(policy, critic, self.scorer, self.tokens)

    def update(self, batch: Batch, rng: Random) -> dict[str, float]:
        """As `Learner.update`; `rescore_gap` is the largest distance of the sampler's log probabilities."""
        self.net.train()
        scored, self.values = self._scored(batch)
        gap = float((scored - batch.old_logprob).abs().max())
        return super().update(replace(batch, old_logprob=scored), rng) | {"rescore_gap": gap}

    @torch.no_grad()
    def _scored(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """The policy's log probabilities of the batch's tokens and the critic's values before them, in one
        pass: two (rollouts, tokens)."""
        found = torch.zeros_like(batch.reward), torch.zeros_like(batch.reward)
        for numbers, ids, mask, _ in self.team.share(self.net, list(self.batches(batch.rows))):
            width = int(mask.sum(1).max())
            for kept, numbers_of_tokens in zip(found, self.net(ids, mask), strict=True):
                if numbers_of_tokens is not None:
                    kept[numbers, :width] = by_place(numbers_of_tokens.float(), mask, width).cpu()
        return found

    def _old_values(self, batch: Batch) -> torch.Tensor:
        return self.values  # of the pass that scored the batch

    def batches(self, rows: list[Row]) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
        """As many rows as fill a line, in their order."""
        return batches_in_lines(rows, self.tokens)

    def give_back(self) -> None:
        """The policy attends as before."""
        self.scorer.give_back()


def packed_learner(policy: LlamaForCausalLM, settings: PPO, seed: int) -> PackedLearner:
    """A learner with lines of the settings' `micro_tokens`, or as many of them as the GPU holds; a response
    and its prompt must fit one."""
    tokens = max(line_that_fits(policy, settings.micro_tokens), FILLING)
    longest = max(min(policy.config.max_position_embeddings, tokens), FILLING)
    scorer = PackedScorer(policy, longest, compiled=torch.cuda.is_available())
    return PackedLearner(policy, settings, seed, scorer, tokens)
