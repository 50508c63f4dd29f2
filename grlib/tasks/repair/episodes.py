"""Episodes of self-repair as text: the problem, the answers, the feedback, and the prompts made of them.

Feedback follows the paper's rules in our own wording: every public test that fails is reported with its
input, the expected output, and the actual output or the error. Long fields are cut in the middle.

Text from outside (statements, programs, their output) can spell the tokens that control a conversation. In
prompts and training examples such a token gets an invisible mark after its first character
(`without_control`), so that it stays plain text; `code_of` removes the mark.
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
# a fence opens a block at the start of a line, or, if Python's name follows, at its end
OPENING = re.compile(r"([ \t]*)(`{3,}|~{3,})([^`]*)|()[^`]*(`{3,})(python|py|python3)\s*")
# <|im_end|>, </s> and the like, and the other special tokens of SmolLM2
CONTROL = re.compile(
    r"<(?=[|\uff5c][^|<>\s]+[|\uff5c]>"
    r"|(?:/?s|pad|unk|repo_?name|file_sep|filename|gh_stars|empty_output|(?:issue|jupyter)_[a-z]+)>)"
)
MARK = "\u2060"  # WORD JOINER: invisible, and no place for a line break
LONGEST_CODE = 100_000  # characters; honest programs are shorter, and compiling more may take long
SHOWN_ENDS = 150  # characters that stay at each end of a long field
PLACEHOLDER = f"{FENCE}python\n# not shown\n{FENCE}"
ASK = "Fix the program."


class Turn(NamedTuple):
    """An answer and the verdict on it."""

    answer: str
    feedback: str  # as it is stored
    public: bool  # the public tests pass
    correct: bool  # all tests pass
    tokens: int  # of the answer


class Answer(NamedTuple):
    """The program of an answer, or why there is none."""

    code: str | None
    reason: str = ""


@dataclass(frozen=True)
class Format:
    """The marks around the turns of a conversation; a sampled end token closes an answer."""

    user: str = "### User\n"
    assistant: str = "### Assistant\n"
    close: str = "\n"
    begin: str = ""  # before the first turn: the system turn of a model's chat template

    def prompt(self, problem: CodeProblem, turns: Sequence[Turn]) -> str:
        """The conversation up to the start of the next answer."""
        text = f"{self.begin}{self.user}{without_control(question(problem))}{self.close}{self.assistant}"
        for turn in turns:
            answer, reply = without_control(turn.answer), without_control(turn.feedback)
            text += f"{answer}{self.close}{self.user}{reply}{self.close}{self.assistant}"
        return text


PLAIN = Format()
CHATML = Format("<|im_start|>user\n", "<|im_start|>assistant\n", "<|im_end|>\n")  # SmolLM2, Qwen
USER, ASSISTANT, END = "<|user|>", "<|assistant|>", "<|end|>"
COMPACT = Format(USER, ASSISTANT, END)  # one token each in models trained from scratch


def without_control(text: str) -> str:
    """The text with `MARK` in every control token that it spells."""
    return CONTROL.sub(f"<{MARK}", text)


def question(problem: CodeProblem) -> str:
    """The statement of a problem; for a generated problem, its public tests follow as examples."""
    shown = problem.public if problem.generated else ()
    return "\n".join([problem.statement, *(example(case, problem) for case in shown)])


def example(case: Case, problem: CodeProblem) -> str:
    """One public test as an example."""
    if problem.style == "call":
        return f"{problem.entry}({', '.join(map(repr, case.input))}) -> {case.output!r}"
    return f"Input:\n{case.input.rstrip()}\nOutput:\n{case.output.rstrip()}"


def code_of(answer: str) -> Answer:
    """The program of an answer: its last block of Python, else its last block without a language.

    A block must be closed and not blank, as in Markdown: a fence stands at the start of a line; the closing
    fence is at least as long as the opening one, and not indented further.
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


def feedback_without_program(reason: str) -> str:
    """The feedback on an answer that has no program, with the reason that `code_of` found."""
    reason = without_control(readable(reason))
    return f"There is no program in your answer ({reason}). Write it in a block {FENCE}python."


def feedback(problem: CodeProblem, outcomes: Sequence[Outcome]) -> str:
    """The feedback on a program that fails public tests; `outcomes` are those of the public tests."""
    pairs = zip(problem.public, outcomes, strict=True)
    failed = [report(case, outcome) for case, outcome in pairs if not outcome.passed]
    return without_control("\n".join([f"{len(failed)} of {len(outcomes)} tests fail.", *failed, ASK]))


def report(case: Case, outcome: Outcome) -> str:
    """One failed test: its input, the expected output, and the actual output or the error."""
    if outcome.kind == "wrong":
        found = f"Output: {shortened(outcome.output.rstrip())}"
    else:
        found = f"Error: {outcome.kind}" + (f": {shortened(outcome.message)}" if outcome.message else "")
    given, expected = (
        value.rstrip() if isinstance(value, str) else repr(value) for value in (case.input, case.output)
    )
    return f"Input: {shortened(given)}\nExpected: {shortened(expected)}\n{found}"


def shortened(text: str) -> str:
    """Text made safe for a terminal; a long one loses its middle."""
    text = readable(text)
    if len(text) <= 2 * SHOWN_ENDS:
        return text
    return f"{text[:SHOWN_ENDS]} ... {text[-SHOWN_ENDS:]}"


def likeness(code: str | None, other: str | None) -> float:
    """How similar two programs are, 0..1: equal lines as a share of the longer one (1: the same program)."""
    ours, theirs = ([line.rstrip() for line in (text or "").splitlines()] for text in (code, other))
    matcher = difflib.SequenceMatcher(None, ours, theirs, autojunk=False)
    equal = sum(block.size for block in matcher.get_matching_blocks())
    return equal / max(len(ours), len(theirs), 1)


def with_reference(stored: str, block: str) -> str:
    """The feedback of a guided round: a block with the reference (or the placeholder) stands before `ASK`."""
    return f"{stored.removesuffix(ASK).rstrip()}\nA correct program is:\n{block}\n{ASK}"
