"""Prompts of Countdown, and the tokenizer of the models trained from scratch.

Phrases of the trace language, and numbers with the sign after them, are single tokens; other text is bytes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from grlib.models.tokenizer import BOS, JOINED, TEMPLATE_DATE, of_pieces
from grlib.tasks.countdown.puzzle import Problem
from grlib.tasks.countdown.searchers import NO_SOLUTION

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PHRASES = (
    "Target: ",
    ", Numbers: [",
    "Current State: ",
    ":[",
    "], Operations: []\n",
    "], Operations: ['",
    "', '",
    "']\n",
    "Exploring Operation: ",
    ", Resulting Numbers: [",
    "]\n",
    "Generated Node #",
    ": ",
    "] Operation: ",
    "\n",
    "Moving to Node #",
    " unequal: No Solution\n",
    " equal: Goal Reached\n",
    " equal: Goal Reached",  # a rewritten trace ends without the newline, as in the authors' release
    NO_SOLUTION,
    ", ",
    ",",
    "+",
    "-",
    "*",
    "/",
    "=",
)


def question(problem: Problem) -> str:
    """The user turn that poses a problem."""
    return f"Target: {problem.target}, Numbers: {list(problem.nums)}"


def read_question(prompt: str) -> Problem | None:
    """The problem of a text that `question` wrote; None for any other text."""
    found = _QUESTION.fullmatch(prompt.strip())
    return Problem(tuple(map(int, found[2].split(", "))), int(found[1])) if found else None


_QUESTION = re.compile(r"Target: ([0-9]{1,9}), Numbers: \[([1-9][0-9]{0,8}(?:, [1-9][0-9]{0,8}){0,9})\]")


def prompt_text(problem: Problem, tokenizer: PreTrainedTokenizerFast | None = None) -> str:
    """The whole prompt: one user turn in the tokenizer's chat template, up to where the answer begins.

    Without a tokenizer: the prompt of the models trained from scratch.
    """
    if tokenizer is None:
        return f"{BOS}{question(problem)}\n"
    turns = [{"role": "user", "content": question(problem)}]
    return tokenizer.apply_chat_template(
        turns, tokenize=False, add_generation_prompt=True, date_string=TEMPLATE_DATE
    )


def build_tokenizer(whole_numbers: int = 256, joined: Sequence[str] = JOINED) -> PreTrainedTokenizerFast:
    """A new tokenizer; its vocabulary is fixed by this module and the arguments: two builds are equal.

    Numbers below `whole_numbers` are one token each; larger ones (1 % of a trace's) are spelt by digits.
    `joined` are the signs that form one token with the number before them.
    """
    pieces = [
        *(f"{number}{sign}" for sign in ("", *joined) for number in range(whole_numbers)),
        *PHRASES,
        *(f"<0x{byte:02X}>" for byte in range(256)),
    ]
    longest_first = "|".join(re.escape(phrase) for phrase in sorted(PHRASES, key=len, reverse=True))
    numbers = "|".join(map(str, reversed(range(whole_numbers))))
    signs = "|".join(rf"{re.escape(sign)}(?=[0-9])" for sign in joined)
    return of_pieces(pieces, rf"{longest_first}|(?<![0-9])(?:{numbers})(?:{signs}|(?![0-9]))|[0-9]")
