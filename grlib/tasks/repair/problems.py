"""What a programming problem is, wherever it comes from: statement, tests, one solution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple
from zlib import crc32

COMPOSED = "compositions"  # the source of the problems that are composed here
PUBLIC = 2  # tests of a problem that are shown


class Case(NamedTuple):
    """One test: input and expected output as plain data, as `grlib.sandbox.run` takes them."""

    input: Any
    output: Any
    others: Sequence[Any] = []  # more outputs that are right


class CodeProblem(NamedTuple):
    """A problem as the model sees it, its tests and one solution."""

    statement: str
    style: str  # "call" or "stdin", as in `grlib.sandbox`
    entry: str | None
    public: tuple[Case, ...]
    private: tuple[Case, ...]
    solution: str
    source: str  # data set, or COMPOSED
    group: str = ""  # problems that intervals resample together; "": it is alone
    unread: int = 0  # steps told in words that the base never read

    @property
    def number(self) -> int:
        """The same for the same statement, whoever asks: tells problems apart in tables of results."""
        return crc32(self.statement.encode())

    @property
    def generated(self) -> bool:
        """Was it composed here? Its statement then has no examples yet."""
        return self.source == COMPOSED
