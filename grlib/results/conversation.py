"""An episode of code self-repair as a conversation to read: answers with the outcome of every test."""

from __future__ import annotations

from grlib import sandbox
from grlib.results.style import SignedText
from grlib.tasks.repair import episodes
from grlib.tasks.repair.problems import CodeProblem
from grlib.tasks.repair.task import Episode


def conversation(problem: CodeProblem, episode: Episode, limits: sandbox.Limits | None = None) -> SignedText:
    """The problem, then each answer (>) with its tests, passed (+) or not (-).

    The model sees only the failed public tests; the outcomes of the private ones are for the reader.
    """
    lines = ["PROBLEM", *_indented(episodes.question(problem))]
    for number, turn in enumerate(episode.turns, 1):
        lines += ["", f"ANSWER {number}", *(f"> {line}" for line in turn.answer.split("\n"))]
        answer = episodes.code_of(turn.answer)
        if answer.code is None:
            lines.append(f"- {answer.reason}")
            continue
        tests = [case._asdict() for case in problem.public + problem.private]
        outcomes = sandbox.run(answer.code, tests, problem.style, problem.entry, limits)
        public = outcomes[: len(problem.public)]
        lines += [_public_line(number, outcome) for number, outcome in enumerate(public, 1)]
        private = [outcome.passed for outcome in outcomes[len(problem.public) :]]
        lines.append(f"{'+' if all(private) else '-'} private tests: {sum(private)} of {len(private)} pass")
        lines += ["", "THE MODEL IS TOLD", *_indented(turn.feedback)] if turn.feedback else []
    return SignedText("\n".join(lines))


def _indented(text: str) -> list[str]:
    return [f"  {line}" for line in text.split("\n")]


def _public_line(number: int, outcome: sandbox.Outcome) -> str:
    if outcome.passed:
        return f"+ public test {number}: passed"
    output = episodes.shortened(outcome.output.strip())
    found = f"got {output}" if outcome.kind == "wrong" else outcome.message
    return f"- public test {number}: {outcome.kind}" + (f", {found}" if found else "")
