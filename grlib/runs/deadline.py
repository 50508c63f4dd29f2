"""`reproduce --seconds N`: long work stops after N seconds, when it has stored what it has.

Chunks, training steps and steps of PPO ask `passed`, also in the processes that a run starts: the time is in
the environment. The same command goes on from the stored work to the same result.
"""

from __future__ import annotations

import os
import time

from grlib.errors import GrlibError

VARIABLE = "GRLIB_DEADLINE"  # seconds since the epoch; empty: none


class OutOfTime(GrlibError):
    """The seconds of this run are over; what is done is stored."""

    exit_code = 9


def set_deadline(seconds: float | None) -> None:
    """Let the run end after so many seconds from now; None: never."""
    os.environ[VARIABLE] = str(time.time() + seconds) if seconds else ""


def passed() -> bool:
    """Whether the run is to stop as soon as it has stored its work."""
    return time.time() > float(os.environ.get(VARIABLE) or "inf")


def stop_if(late: bool, label: str, stored: str) -> None:
    """OutOfTime where it is late; `stored`: what is done, as "3/8 chunks"."""
    if late:
        raise OutOfTime(f"{label}: the seconds are over, {stored} are stored; the same command goes on")
