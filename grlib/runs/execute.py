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
    kernel = _Kernel()
    papermill_engines.register("grlib", _Engine)
    try:
        papermill.execute_notebook(
            notebook.path, partial, parameters=dict(parameters), cwd=folder, progress_bar=False,
            engine_name="grlib", kernel=kernel, kernel_name="python3", language="python",
            stdout_file=Indented(sys.stdout), stderr_file=Indented(sys.stderr),
        )  # fmt: skip
        partial.replace(final)
    except Exception as error:
        cause, why = _cause(error)
        so_far = [f"so far:  {runs.shown(failed)}"] if partial.exists() else []
        if so_far:
            partial.replace(failed)
        raise failure(notebook, _cell(notebook, error, kernel), cause, why, resume, so_far) from error
    finally:
        kernel.end()
    failed.unlink(missing_ok=True)


class _Kernel:
    """What the runner knows of the kernel: the cell that runs, and its process."""

    cell = 0
    process: psutil.Process | None = None

    def entered(self, cell: int, pid: int) -> None:
        self.cell, self.process = cell, self.process or psutil.Process(pid)

    def end(self) -> None:
        """Kill the kernel and the workers that it started."""
        with contextlib.suppress(psutil.Error):
            for process in [*self.process.children(recursive=True), self.process] if self.process else []:
                process.kill()


class _Engine(NBClientEngine):
    """A papermill engine: its kernels use this interpreter and this grlib, and report to a _Kernel."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **options: Any) -> Any:
        kernel, files = options["kernel"], {name: options[name] for name in ("stdout_file", "stderr_file")}
        client = PapermillNotebookClient(nb_man, kernel_name=kernel_name, coalesce_streams=True, **files)
        client.extra_arguments = ["--log-level=50"]
        client.on_cell_start = lambda cell, cell_index: kernel.entered(cell_index, client.km.provisioner.pid)
        # without folders to search, a kernel that the user installed under this name is not found
        client.create_kernel_manager().kernel_spec_manager.kernel_dirs = []
        paths = [str(notebooks.REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
        grlib_first = {"PYTHONPATH": os.pathsep.join(paths), "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
        return client.execute(env={**os.environ, **grlib_first})


def _cell(notebook: Notebook, error: Exception, kernel: _Kernel) -> int:
    """The number of the failed cell in the notebook's file (papermill adds a cell after the parameters)."""
    failed = error.cell_index if isinstance(error, PapermillExecutionError) else kernel.cell
    tagged = [number for number, cell in enumerate(notebook.cells) if notebooks.is_tagged(cell, "parameters")]
    after_injected = bool(tagged) and failed > tagged[0]
    return min(failed - after_injected, len(notebook.cells) - 1)


def _cause(error: Exception) -> tuple[str, str]:
    """The class of the cause and one line about it."""
    name, line = type(error).__name__, one_line(error)
    if isinstance(error, PapermillExecutionError):
        name, line = error.ename.rpartition(".")[2], f"{error.ename}: {error.evalue}".strip().splitlines()[0]
    cause = cause_of(f"{name}: {error}")
    if cause == "dead kernel":
        line = "the kernel died, usually because memory ran out; close programs or choose a smaller profile"
    return cause, line
