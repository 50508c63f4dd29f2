"""Episodes of self-repair as text: the problem, answers, what the tests say, and how a model reads it all.

Feedback follows the paper's rules in our own words: every public test that fails is reported with its input,
the expected and the actual output or the error, long fields cut in the middle.

Text from outside (statements, programs, what they print) can spell the tokens that control a conversation.
In what a model reads and learns from, such a text has an invisible mark after its first character
(`without_control`), so that it stays text; `code_of` takes the mark out again.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from grlib.sandbox import Outcome, readable
from grlib.tasks.repair.problems import Case, CodeProblem

FENCE = "```"
LANGUAGES = ("python", "py", "python3")
# a fence opens a block at the start of a line, with Python's name at its end, too
OPENING = re.compile(r"([ \t]*)(`{3,}|~{3,})([^`]*)|()[^`]*(`{3,})(python|py|python3)\s*")
# <|im_end|> and the like, and what SmolLM2 has besides
CONTROL = re.compile(
    r"<(?=[|\uff5c][^|<>\s]+[|\uff5c]>"
    r"|(?:repo_?name|file_sep|filename|gh_stars|empty_output|(?:issue|jupyter)_[a-z]+)>)"
)
MARK = "\u2060"  # WORD JOINER: neither seen nor a place where lines break
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
        asked = without_control(question(problem))
        text = f"{self.begin}{self.user}{asked}{self.close}{self.assistant}"
        for number, turn in enumerate(turns, 1):
            said = last_feedback if last_feedback is not None and number == len(turns) else turn.feedback
            answer = without_control(turn.answer)
            text += f"{answer}{self.close}{self.user}{without_control(said)}{self.close}{self.assistant}"
        return text


PLAIN = Format()
CHATML = Format("<|im_start|>user\n", "<|im_start|>assistant\n", "<|im_end|>\n")  # SmolLM2, Qwen
USER, ASSISTANT, END = "<|user|>", "<|assistant|>", "<|end|>"
COMPACT = Format(USER, ASSISTANT, END)  # a token each, of the models trained from scratch


def without_control(text: str) -> str:
    """The text with a mark in every control token that it spells."""
    return CONTROL.sub(f"<{MARK}", text)


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
    """The program of an answer: its last block of Python, or its last one without a language.

    Blocks are closed and hold something, as in Markdown: a fence stands at the start of a line, and one that
    closes is as long as the one that opened, or longer, and indented no further.
    """
    blocks = list(_blocks(answer.replace(f"<{MARK}", "<")))
    for wanted in (LANGUAGES, ("",)):
        for language, code in reversed(blocks):
            if language.lower() in wanted:
                if len(code) > LONGEST_CODE:
                    return Answer(None, f"code of {len(code):,} characters: at most {LONGEST_CODE:,}")
                return Answer(code.rstrip("\n"))
    return Answer(None, f"wrong language: {blocks[-1][0][:20]}" if blocks else "no code")


def _blocks(answer: str) -> Iterator[tuple[str, str]]:
    """Language and code of every block that is closed and not blank."""
    lines = iter(answer.split("\n"))
    for line in lines:
        if not (opened := OPENING.fullmatch(line)):
            continue
        indent, fence, language = (one for one in opened.groups() if one is not None)
        code: list[str] = []
        for inner in lines:
            if _closes(inner, indent, fence):
                if any(map(str.strip, code)):
                    yield (language.split() or [""])[0], "\n".join([*code, ""])
                break
            code.append(inner.removeprefix(indent))


def _closes(line: str, indent: str, fence: str) -> bool:
    bare = line.lstrip(" \t")
    rest = bare.lstrip(fence[0])
    return bare.startswith(fence) and rest[:1].strip() == "" and len(line) - len(bare) <= len(indent)


def as_answer(code: str) -> str:
    """A program as an answer, in a fence that is longer than any in the program."""
    fence = max([FENCE, *(f"{found}`" for found in re.findall("`{3,}", code))], key=len)
    return f"{fence}python\n{code}\n{fence}"


def feedback(problem: CodeProblem, answer: Answer, outcomes: Sequence[Outcome]) -> str:
    """What the user turn after a failed answer says; `outcomes` are those of the public tests."""
    if answer.code is None:
        reason = without_control(readable(answer.reason))
        return f"There is no program in your answer ({reason}). Write it in a block {FENCE}python."
    failed = [
        report(case, outcome)
        for case, outcome in zip(problem.public, outcomes, strict=True)
        if not outcome.passed
    ]
    return without_control("\n".join([f"{len(failed)} of {len(outcomes)} tests fail.", *failed, ASK]))


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
    """A text as a terminal may show it, a long one without its middle."""
    text = readable(text)
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
