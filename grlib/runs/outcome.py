"""What the runner shows of a notebook: its output, marked line by line, and where and why it failed."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

from grlib.errors import GrlibError
from grlib.runs.notebooks import Notebook

CAUSES = {  # exit code, and a pattern for the exception's "Name: text"; the first that matches counts
    "out of time": (9, r"^OutOfTime"),
    "missing artefact": (3, r"^MissingArtefact"),
    "disk full": (7, r"No space left on device|Disk quota exceeded"),
    "memory": (5, r"^(MemoryError|OutOfMemoryError|BrokenProcessPool)|can't allocate memory|out of memory"),
    "dead kernel": (5, r"^DeadKernelError|Kernel died"),
    "error": (4, r""),
}


class Failure(GrlibError):
    """A notebook did not finish, or finished without its artefacts."""

    def __init__(self, message: str, cause: str) -> None:
        super().__init__(message)
        self.exit_code, _ = CAUSES[cause]


def cause_of(text: str) -> str:
    """The class of a cause (a key of `CAUSES`) from an exception's name and text, "Name: text"."""
    return next(cause for cause, (_, pattern) in CAUSES.items() if re.search(pattern, text))


def failure(
    notebook: Notebook, cell: int, cause: str, why: str, resume: str, more: Sequence[str] = ()
) -> Failure:
    """The failure of cell number `cell` (from 0, in the notebook's file), with the command that resumes."""
    code_number = sum(one["cell_type"] == "code" for one in notebook.cells[: cell + 1])
    lines = [
        f"{notebook.name} {'stopped' if cause == 'out of time' else 'failed'} ({cause})",
        f"section: {notebook.sections()[cell]}",
        f"cell:    {cell + 1} of {len(notebook.cells)} (code cell {code_number})",
        f"cause:   {why}",
        *more,
        f"resume:  {resume}",
    ]
    return Failure("\n  ".join(lines), cause)


class Indented(io.StringIO):
    """Writes each line of a notebook's output to `stream` with a mark, and keeps the text."""

    def __init__(self, stream: Any) -> None:
        super().__init__()
        self.stream, self.at_start = stream, True

    def write(self, text: str) -> int:
        kept = re.sub(r" *[\r\n]\Z", "\n", text)  # a log keeps all lines of `Run.say`
        for line in kept.splitlines(keepends=True):
            self.stream.write(f"      | {line}" if self.at_start else line)
            self.at_start = line.endswith(("\n", "\r"))
        return super().write(text)

    def flush(self) -> None:
        self.stream.flush()
