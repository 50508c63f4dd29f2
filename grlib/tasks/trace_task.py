"""Tasks whose attempt is one response: a trace, of which a line is an action of PPO.

A task of this kind derives from `TraceTask`, says how a problem is asked and how a trace is graded, and adds
`guide`; sampling, evaluation and rollouts come from here.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from grlib.models.tokenizer import encode
from grlib.profiles import PPO
from grlib.sampling.pool import Request
from grlib.selftrain import Attempt, Policy
from grlib.training.rows import Rollout

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SUBGOAL_REWARD = 0.25  # of the dense reward (the paper's ablation)


@dataclass(frozen=True)
class TraceTask:
    """Items are problems with what guidance needs; a start is a trace prefix that the model continues."""

    budget: int  # tokens of a whole response, end token included
    rounds: int = 3
    tokenizer: PreTrainedTokenizerFast | None = field(default=None, repr=False, compare=False)  # of prompts

    def prompt(self, item: Any) -> str:
        """The text after which the model begins its trace."""
        raise NotImplementedError

    def verdict(self, item: Any, trace: str) -> tuple[bool, str]:
        """Whether a trace solves the problem, and the reason if it does not. The trace is any text."""
        raise NotImplementedError

    def subgoal_lines(self, item: Any, trace: str) -> list[int]:
        """Indices of the lines that first reach a subgoal short of the goal: dense rewards are paid there."""
        return []

    def attempt(
        self, policy: Policy, items: Sequence[Any], starts: Sequence[str | None]
    ) -> list[Attempt | None]:
        """One graded trace per item; None where the start alone fills the budget."""
        requests = [
            Request(self.prompt(item), start or "", self.budget)
            for item, start in zip(items, starts, strict=True)
        ]
        found: list[Attempt | None] = []
        for item, request, answer in zip(items, requests, policy(requests), strict=True):
            told = (request.prompt, answer.text, answer.tokens, answer.ended)
            found.append(Attempt(*told, *self.verdict(item, answer.text)) if answer.new else None)
        return found

    def rollouts(
        self, policy: Policy, items: Sequence[Any], tokenizer: PreTrainedTokenizerFast, settings: PPO
    ) -> list[Rollout]:
        """One trace per item for PPO: an action is a line (or a token), a solved problem earns 1 at the end.

        With dense reward, each subgoal short of the goal also earns `SUBGOAL_REWARD`, at the end of its line.
        """
        requests = [Request(self.prompt(item), "", self.budget) for item in items]
        prompts = encode(tokenizer, [request.prompt for request in requests])
        found = []
        for item, prompt, answer in zip(items, prompts, policy(requests), strict=True):
            lines, last = line_starts(answer.ids, line_ends(tokenizer)), len(answer.ids) - 1
            correct, _ = self.verdict(item, answer.text)
            rewards = [(last, float(correct))]
            if settings.reward == "dense":
                reached = self.subgoal_lines(item, answer.text)
                rewards += [(line_last(lines, last + 1, line), SUBGOAL_REWARD) for line in reached]
            starts = lines if settings.action == "operation" else tuple(range(last + 1))
            found.append(
                Rollout(
                    tuple(prompt), answer.ids, answer.logprobs, starts, tuple(rewards), correct, answer.ended
                )
            )
        return found


def line_starts(response: Sequence[int], line_ends: Collection[int]) -> tuple[int, ...]:
    """The places where lines of a response start: 0, and after every token whose text holds a newline."""
    ends = [place + 1 for place, token in enumerate(response[:-1]) if token in line_ends]
    return (0, *ends)


@lru_cache(maxsize=8)
def line_ends(tokenizer: PreTrainedTokenizerFast) -> frozenset[int]:
    """The tokens whose text holds a newline: the last ones of a line."""
    return frozenset(i for i in range(len(tokenizer)) if "\n" in tokenizer.decode([i]))


def line_last(starts: Sequence[int], tokens: int, line: int) -> int:
    """The place of the last token of line `line` (0, 1, ...) of a response of `tokens` tokens."""
    return starts[line + 1] - 1 if line + 1 < len(starts) else tokens - 1
