"""Runs one notebook in a fresh kernel with papermill; explains a failure in a few lines."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import papermill
import psutil
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError

from grlib.errors import one_line
from grlib.runs import freshness, notebooks
from grlib.runs import run as runs
from grlib.runs.notebooks import Notebook
from grlib.runs.outcome import Indented, cause_of, failure


def execute(notebook: Notebook, parameters: Mapping[str, Any], folder: Path, resume: str) -> None:
    """Run one notebook in a fresh kernel of this interpreter and keep the executed file.

    Failure names the section, the cell, the cause and the command `resume`.
    """
    final = freshness.executed_path(notebook, folder)
    partial, failed = final.with_suffix(".partial.ipynb"), final.with_suffix(".failed.ipynb")
    final.parent.mkdir(parents=True, exist_ok=True)
    before = psutil.Process().children(recursive=True)
    papermill_engines.register("grlib", _Engine)
    try:
        papermill.execute_notebook(
            notebook.path, partial, parameters=dict(parameters), cwd=folder, progress_bar=False,
            engine_name="grlib", kernel_name="python3", language="python",
            stdout_file=Indented(sys.stdout), stderr_file=Indented(sys.stderr),
        )  # fmt: skip
        partial.replace(final)
    except Exception as error:
        cause, why = _cause(error)
        so_far = [f"so far:  {runs.shown(failed)}"] if partial.exists() else []
        if so_far:
            partial.replace(failed)
        raise failure(notebook, _reached(notebook, failed), cause, why, resume, so_far) from error
    finally:  # the kernel and the workers that it started
        for process in set(psutil.Process().children(recursive=True)).difference(before):
            with contextlib.suppress(psutil.Error):
                process.kill()
    failed.unlink(missing_ok=True)


class _Engine(NBClientEngine):
    """A papermill engine: its kernels use this interpreter and this grlib."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **options: Any) -> Any:
        files = {name: options[name] for name in ("stdout_file", "stderr_file")}
        client = PapermillNotebookClient(nb_man, kernel_name=kernel_name, coalesce_streams=True, **files)
        client.extra_arguments = ["--log-level=50"]
        # without folders to search, a kernel that the user installed under this name is not found
        client.create_kernel_manager().kernel_spec_manager.kernel_dirs = []
        paths = [str(notebooks.REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
        grlib_first = {"PYTHONPATH": os.pathsep.join(paths), "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
        return client.execute(env={**os.environ, **grlib_first})


def _reached(notebook: Notebook, copy: Path) -> int:
    """The number of the last cell that began; the copy also has cells of papermill's own."""
    executed = notebooks.read(copy).cells if copy.exists() else []
    began = {cell["id"] for cell in executed if cell["metadata"].get("papermill", {}).get("start_time")}
    return max((number for number, cell in enumerate(notebook.cells) if cell.get("id") in began), default=0)


def _cause(error: Exception) -> tuple[str, str]:
    """The class of the cause and one line about it."""
    name, line = type(error).__name__, one_line(error)
    if isinstance(error, PapermillExecutionError):
        name, line = error.ename.rpartition(".")[2], f"{error.ename}: {error.evalue}".strip().splitlines()[0]
    cause = cause_of(f"{name}: {error}")
    if cause == "dead kernel":
        line = "the kernel died, usually because memory ran out; close programs or choose a smaller profile"
    return cause, line
