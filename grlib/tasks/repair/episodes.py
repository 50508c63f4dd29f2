"""Episodes of self-repair as text: the problem, answers, what the tests say, and how a model reads it all.

Feedback follows the paper's rules in our own words: every public test that fails is reported with its input,
the expected and the actual output or the error, long fields cut in the middle.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from grlib.sandbox import Outcome
from grlib.tasks.repair.problems import Case, CodeProblem

FENCE = "```"
LANGUAGES = ("", "python", "py", "python3")
LONGEST_CODE = 100_000  # characters; nobody writes that much, and compiling it may take long
SHOWN_ENDS = 150  # characters of a long field's beginning and end
PLACEHOLDER = f"{FENCE}python\n# not shown\n{FENCE}"
ASK = "Fix the program."


class Turn(NamedTuple):
    """An answer and what came back: feedback as stored, and whether all tests, or the public ones, pass."""

    answer: str
    feedback: str
    public: bool
    correct: bool
    tokens: int


class Answer(NamedTuple):
    """The program of an answer, or why there is none."""

    code: str | None
    reason: str = ""


@dataclass(frozen=True)
class Format:
    """What stands around the turns of a conversation; the end token closes an answer when it is sampled."""

    user: str = "### User\n"
    assistant: str = "### Assistant\n"
    close: str = "\n"
    begin: str = ""  # before the first turn: the system turn that a model's chat template puts there

    def prompt(self, problem: CodeProblem, turns: Sequence[Turn], last_feedback: str | None = None) -> str:
        """The conversation up to the place of the next answer; `last_feedback` replaces the stored one."""
        text = f"{self.begin}{self.user}{question(problem)}{self.close}{self.assistant}"
        for number, turn in enumerate(turns, 1):
            said = last_feedback if last_feedback is not None and number == len(turns) else turn.feedback
            text += f"{turn.answer}{self.close}{self.user}{said}{self.close}{self.assistant}"
        return text


PLAIN = Format()
CHATML = Format("<|im_start|>user\n", "<|im_start|>assistant\n", "<|im_end|>\n")  # SmolLM2, Qwen
USER, ASSISTANT, END = "<|user|>", "<|assistant|>", "<|end|>"
COMPACT = Format(USER, ASSISTANT, END)  # a token each, of the models trained from scratch


def question(problem: CodeProblem) -> str:
    """The statement; that of a generated problem with its public tests as examples."""
    shown = problem.public if problem.generated else ()
    return "\n".join([problem.statement, *(example(case, problem) for case in shown)])


def example(case: Case, problem: CodeProblem) -> str:
    """One public test in a line, or a few for text."""
    if problem.style == "call":
        return f"{problem.entry}({', '.join(map(repr, case.input))}) -> {case.output!r}"
    return f"Input:\n{case.input.rstrip()}\nOutput:\n{case.output.rstrip()}"


def code_of(answer: str) -> Answer:
    """The last closed code block of an answer."""
    parts = answer.split(FENCE)
    blocks = parts[1:-1:2]  # a block counts when its fence is closed
    if not blocks:
        return Answer(None, "no code")
    first, newline, code = blocks[-1].partition("\n")
    if not newline:
        return Answer(None, "no code")
    if first.strip().lower() not in LANGUAGES:
        return Answer(None, f"wrong language: {first.strip()[:20]}")
    if len(code) > LONGEST_CODE:
        return Answer(None, f"code of {len(code):,} characters: at most {LONGEST_CODE:,}")
    return Answer(code.rstrip("\n")) if code.strip() else Answer(None, "no code")


def as_answer(code: str) -> str:
    """A program as an answer."""
    return f"{FENCE}python\n{code}\n{FENCE}"


def feedback(problem: CodeProblem, answer: Answer, outcomes: Sequence[Outcome]) -> str:
    """What the user turn after a failed answer says; `outcomes` are those of the public tests."""
    if answer.code is None:
        return f"There is no program in your answer ({answer.reason}). Write it in a block {FENCE}python."
    failed = [
        report(case, outcome)
        for case, outcome in zip(problem.public, outcomes, strict=True)
        if not outcome.passed
    ]
    return "\n".join([f"{len(failed)} of {len(outcomes)} tests fail.", *failed, ASK])


def report(case: Case, outcome: Outcome) -> str:
    """One failed test."""
    lines = [f"Input: {shortened(_shown(case.input))}", f"Expected: {shortened(_shown(case.output))}"]
    if outcome.kind == "wrong":
        lines.append(f"Output: {shortened(outcome.output.rstrip())}")
    else:
        lines.append(
            f"Error: {outcome.kind}" + (f": {shortened(outcome.message)}" if outcome.message else "")
        )
    return "\n".join(lines)


def _shown(value: object) -> str:
    return value.rstrip() if isinstance(value, str) else repr(value)


def shortened(text: str) -> str:
    """A long text without its middle."""
    if len(text) <= 2 * SHOWN_ENDS:
        return text
    return f"{text[:SHOWN_ENDS]} ... {text[-SHOWN_ENDS:]}"


def likeness(code: str | None, other: str | None) -> float:
    """How alike two programs are, 0..1: the share of equal lines, of the longer one (1: the same program)."""
    ours, theirs = ([line.rstrip() for line in (text or "").splitlines()] for text in (code, other))
    matcher = difflib.SequenceMatcher(None, ours, theirs, autojunk=False)
    equal = sum(block.size for block in matcher.get_matching_blocks())
    return equal / max(len(ours), len(theirs), 1)


def with_reference(stored: str, block: str) -> str:
    """Feedback of a guided round: the reference, or in storage the placeholder, comes before `ASK`."""
    return f"{stored.removesuffix(ASK).rstrip()}\nA correct program is:\n{block}\n{ASK}"
