"""The one exception for mistakes a user can correct."""


class GrlibError(ValueError):
    """A bad value, a missing artefact or a corrupt file: one line with the value, the rule and the remedy."""

    exit_code = 2


def one_line(error: BaseException) -> str:
    """The first line of what another library raised, to be quoted in a message of our own."""
    return f"{type(error).__name__}: {error}".strip().splitlines()[0]
