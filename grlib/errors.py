"""The one exception for mistakes a user can correct, and what its messages share."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GrlibError(ValueError):
    """A bad value, a missing artefact or a corrupt file: one line with the value, the rule and the remedy."""

    exit_code = 2


def one_line(error: BaseException) -> str:
    """The first line of what another library raised, to be quoted in a message of our own."""
    return f"{type(error).__name__}: {error}".strip().splitlines()[0]


def nearest(name: str, known: Iterable[str]) -> str:
    """The remedy for a wrong name: the known one that is most like it, or all of them."""
    known = list(known)
    near = difflib.get_close_matches(str(name), known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(known)}"
