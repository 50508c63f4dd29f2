"""What a notebook's run shows: its output, marked line by line, and why and where it failed."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

from grlib.errors import GrlibError
from grlib.runs.notebooks import Notebook

EXIT = {
    "missing artefact": 3,
    "error": 4,
    "memory": 5,
    "dead kernel": 5,
    "time-out": 6,
    "disk full": 7,
    "other shards": 8,
    "out of time": 9,
}
CAUSES = {  # by the exception's name and text
    r"^OtherShards": "other shards",
    r"^OutOfTime": "out of time",
    r"^MissingArtefact": "missing artefact",
    r"^DiskFull|No space left on device|Disk quota exceeded": "disk full",
    r"^(MemoryError|OutOfMemoryError|BrokenProcessPool)|can't allocate memory|out of memory": "memory",
    r"^DeadKernelError|Kernel died": "dead kernel",
}
HAPPENED = {"other shards": "waits for", "out of time": "stopped"}  # else: failed


class Failure(GrlibError):
    """A notebook that did not finish, or finished without its artefacts."""

    def __init__(self, message: str, cause: str) -> None:
        super().__init__(message)
        self.exit_code = EXIT[cause]


def cause_of(text: str) -> str:
    """The class of a cause (a key of `EXIT`) from an exception's name and text, "Name: text"."""
    return next((cause for pattern, cause in CAUSES.items() if re.search(pattern, text)), "error")


def failure(
    notebook: Notebook, cell: int, cause: str, why: str, resume: str, more: Sequence[str] = ()
) -> Failure:
    """The failure in cell `cell` (0, 1, ... in the notebook's file), with the command that resumes."""
    code_number = sum(one.cell_type == "code" for one in notebook.cells[: cell + 1])
    lines = [
        f"{notebook.name} {HAPPENED.get(cause, 'failed')} ({cause})",
        f"section: {notebook.sections()[cell]}",
        f"cell:    {cell + 1} of {len(notebook.cells)} (code cell {code_number})",
        f"cause:   {why}",
        *more,
        f"resume:  {resume}",
    ]
    return Failure("\n  ".join(lines), cause)


class Indented(io.StringIO):
    """A stream that passes each line of a notebook's output on, marked, and keeps the text."""

    def __init__(self, stream: Any) -> None:
        super().__init__()
        self.stream, self.at_start = stream, True

    def write(self, text: str) -> int:
        for line in text.splitlines(keepends=True):
            self.stream.write(f"      | {line}" if self.at_start else line)
            self.at_start = line.endswith("\n")
        return super().write(text)

    def flush(self) -> None:
        self.stream.flush()
