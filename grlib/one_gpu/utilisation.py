"""How much of the time a GPU computes, as its driver counts it: `nvidia-smi`, asked while work runs."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

EVERY = 0.5  # seconds between two looks; the driver averages over up to a second
QUERY = ("--query-gpu=utilization.gpu", "--format=csv,noheader,nounits")


class Busy:
    """The percentages seen so far."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    @property
    def percent(self) -> float:
        """Their mean: of the time, some kernel ran; not-a-number where nothing was seen."""
        return sum(self.seen) / len(self.seen) if self.seen else math.nan


@contextmanager
def watched() -> Iterator[Busy]:
    """While inside, the GPU that this process uses is looked at; without `nvidia-smi` nothing is seen."""
    busy, command, over = Busy(), shutil.which("nvidia-smi"), threading.Event()
    if command is None:
        yield busy
        return
    card = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0] or "0"

    def look() -> None:
        while not over.wait(EVERY):
            with suppress(subprocess.SubprocessError, OSError):
                asked = [command, f"--id={card}", *QUERY]
                said = subprocess.run(asked, capture_output=True, text=True, timeout=10).stdout.strip()
                if said.isdigit():  # a card that does not tell says [N/A]
                    busy.seen.append(float(said))

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    try:
        yield busy
    finally:
        over.set()
        looking.join(timeout=11)
