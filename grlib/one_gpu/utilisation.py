"""How much of the time a GPU computes, as its driver counts it: `nvidia-smi`, asked while work runs."""

from __future__ import annotations

import math
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager

EVERY = 200  # milliseconds between two looks; the driver averages over about as long
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
    """While inside, the first GPU is looked at; without `nvidia-smi` nothing is seen."""
    busy, command = Busy(), shutil.which("nvidia-smi")
    if command is None:
        yield busy
        return
    asked = subprocess.Popen(
        [command, "--id=0", *QUERY, f"--loop-ms={EVERY}"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip

    def read() -> None:
        for line in asked.stdout or ():
            if line.strip().isdigit():  # a card that does not tell says [N/A]
                busy.seen.append(float(line))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield busy
    finally:
        asked.terminate()
        asked.wait()
        reader.join(timeout=1)
