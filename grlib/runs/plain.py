"""Runs one notebook as plain Python (`reproduce --plain`): its code cells in order, in this process, without
papermill, kernel or IPython.

What one notebook has loaded and compiled stays for the next. The executed copy holds printed text only.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import linecache
import os
import re
import sys
import time
import traceback
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grlib.errors import GrlibError, one_line
from grlib.runs import files as artefacts
from grlib.runs import freshness, notebooks
from grlib.runs.notebooks import Notebook
from grlib.runs.outcome import Indented, cause_of, failure


def execute(notebook: Notebook, parameters: Mapping[str, Any], folder: Path, resume: str) -> None:
    """Run one notebook with `folder` as the working directory and keep an executed copy.

    Raises Failure as `execute.execute` does, after the traceback.
    """
    executed, names = copy.deepcopy(notebook), {"__name__": "__main__"}
    os.environ.setdefault("MPLBACKEND", "Agg")
    _stand_in_for_ipython()
    for number, cell in enumerate(executed.cells):
        if cell["cell_type"] != "code":
            continue
        output, started = Indented(sys.stdout), time.monotonic()
        try:
            with contextlib.chdir(folder), contextlib.redirect_stdout(output):
                value = run_cell(cell["source"], names, f"<{notebook.name}, cell {number + 1}>")
                if value is not None:
                    print(value)
        except Exception as error:
            if not isinstance(error, GrlibError):
                traceback.print_exc()
            cause = cause_of(f"{type(error).__name__}: {error}")
            raise failure(notebook, number, cause, one_line(error), resume) from error
        if notebooks.is_tagged(cell, "parameters"):
            names |= parameters
        cell["metadata"]["papermill"] = {"duration": time.monotonic() - started}
        text = re.sub(r".*\r(?=.)", "", output.getvalue())  # lines that were written over
        cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": text}] if text else []
    artefacts.write_json(freshness.executed_path(notebook, folder), executed.content)
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


def run_cell(source: str, names: dict[str, Any], place: str) -> Any:
    """Run a cell in the namespace `names`; returns the value of its last expression, None if it has none."""
    # where tracebacks and `inspect.getsource` look for the text
    linecache.cache[place] = (len(source), None, f"{source}\n".splitlines(keepends=True), place)
    tree, value = ast.parse(source, place), None
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, place, "exec"), names)
    if isinstance(last, ast.Expr):
        value = eval(compile(ast.Expression(last.value), place, "eval"), names)
    return value


def _stand_in_for_ipython() -> None:
    """Without IPython, `display` prints its arguments, and `Markdown` and `HTML` return their text."""
    try:
        import IPython.display  # noqa: F401
    except ImportError:
        stand_in = types.ModuleType("IPython.display")
        vars(stand_in).update(display=print, Markdown=str, HTML=str)
        sys.modules["IPython.display"] = stand_in
