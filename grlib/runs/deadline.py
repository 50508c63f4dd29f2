"""`reproduce --seconds N`: long work stops after N seconds, as soon as it has stored what is done.

Chunks, training steps and steps of PPO check `passed`, also in the processes that a run starts: the time is
in the environment. The same command continues from the stored work to the same result.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

from grlib.errors import GrlibError

VARIABLE = "GRLIB_DEADLINE"  # seconds since the epoch; empty: none


class OutOfTime(GrlibError):
    """The time of this run is over; what is done is stored."""

    exit_code = 9


def set_deadline(seconds: float | None) -> None:
    """Let the run stop this many seconds from now; None: never."""
    os.environ[VARIABLE] = str(time.time() + seconds) if seconds else ""


def passed() -> bool:
    """Whether the time is over."""
    return time.time() > float(os.environ.get(VARIABLE) or "inf")


@contextlib.contextmanager
def put_off() -> Iterator[None]:
    """Inside, no deadline stops chunked work: for short steps, whose caller stores them as a whole."""
    before = os.environ.pop(VARIABLE, "")
    try:
        yield
    finally:
        os.environ[VARIABLE] = before


def stop_if(late: bool, label: str, stored: str) -> None:
    """OutOfTime if `late`; `stored`: what is done, as "3/8 chunks"."""
    if late:
        raise OutOfTime(f"{label}: the time is over, {stored} are stored; the same command continues")
