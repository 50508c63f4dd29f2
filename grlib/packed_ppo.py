"""PPO on a GPU without padding: `ppo.Learner` whose policy reads rollouts in lines (`packed_training`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from grlib.packed_training import PackedScorer
from grlib.ppo import ActorCritic, Critic, Learner, PPOSettings
from grlib.training import Row, padded

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM


class PackedActorCritic(ActorCritic):
    """Policy and critic, the policy's states computed in lines of `tokens` tokens."""

    def __init__(
        self, policy: LlamaForCausalLM, critic: Critic | None, scorer: PackedScorer, tokens: int
    ) -> None:
        super().__init__(policy, critic)
        self.scorer, self.tokens = scorer, tokens

    def states(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.scorer.states_before(ids, mask, self.tokens)


class PackedLearner(Learner):
    """For one process and a critic that shares the policy's states, or none."""

    def __init__(
        self, policy: LlamaForCausalLM, settings: PPOSettings, seed: int, scorer: PackedScorer, tokens: int
    ) -> None:
        self.scorer, self.tokens = scorer, tokens
        super().__init__(policy, settings, seed)

    def network(self, policy: LlamaForCausalLM, critic: Critic | None) -> ActorCritic:
        return PackedActorCritic(policy, critic, self.scorer, self.tokens)

    def batches(self, rows: list[Row]) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
        """As many rows as fill a line, in their order."""
        numbers: list[int] = []
        filled = 0
        for number, row in enumerate(rows):
            if numbers and filled + len(row.ids) > self.tokens:
                yield numbers, *padded([rows[i] for i in numbers])
                numbers, filled = [], 0
            numbers.append(number)
            filled += len(row.ids)
        if numbers:
            yield numbers, *padded([rows[i] for i in numbers])
