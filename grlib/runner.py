"""Runs notebooks in order, each in a fresh kernel; checks their artefacts and explains failures."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import papermill
import psutil
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError

from grlib import artefacts, freshness, notebooks, profiles, runs, sharding
from grlib.artefacts import in_words
from grlib.errors import GrlibError, one_line
from grlib.notebooks import Notebook
from grlib.profiles import REHEARSAL

EXIT = {
    "missing artefact": 3,
    "error": 4,
    "memory": 5,
    "dead kernel": 5,
    "time-out": 6,
    "disk full": 7,
    "other shards": 8,
}
CAUSES = {  # by the exception's name and text
    r"^OtherShards": "other shards",
    r"^MissingArtefact": "missing artefact",
    r"^DiskFull|No space left on device|Disk quota exceeded": "disk full",
    r"^(MemoryError|OutOfMemoryError|BrokenProcessPool)|can't allocate memory|out of memory": "memory",
    r"^DeadKernelError|Kernel died": "dead kernel",
}


class Failure(GrlibError):
    """A notebook that did not finish, or finished without its artefacts."""

    def __init__(self, message: str, cause: str) -> None:
        super().__init__(message)
        self.exit_code = EXIT[cause]


@dataclass(frozen=True)
class Request:
    """What to run: the options of `python -m grlib reproduce`."""

    profile: str = "laptop"
    seed: int = 0
    run_dir: str = ""
    only: tuple[str, ...] = ()
    start: str | None = None
    force: bool = False
    timeout: float | None = None
    shard: str = ""  # "i/n": only every n-th chunk of the long steps (grlib.sharding)
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The run folder, absolute."""
        return runs.run_folder(self.profile, self.seed, self.run_dir)

    def injected(self, notebook: Notebook) -> dict[str, Any]:
        """The papermill parameters for one notebook: those that it declares."""
        common = {"profile": self.profile, "seed": self.seed, "run_dir": str(self.folder)}
        return notebooks.bind(notebook, {**common, **self.parameters})

    def notebooks(self) -> list[Notebook]:
        """The notebooks to run, in order; every name and value of the request is checked first."""
        runs.resolve(self.profile, self.seed, {})
        if self.timeout is not None and self.timeout <= 0:
            raise GrlibError(f"--timeout {self.timeout:g}: must be more than 0 seconds")
        if self.shard:
            sharding.parse(self.shard)
        chosen = notebooks.select(self.only, self.start)
        known = sorted({name for book in chosen for name in self.injected(book) | book.parameters()})
        for name in self.parameters:
            if name not in known:
                raise GrlibError(f"parameter {name!r}: {notebooks.suggest(name, known)}")
        return chosen

    def resume_command(self) -> str:
        """The command that goes on after a failure; what was forced and finished is not run again."""
        words = ["python", "-m", "grlib", "reproduce", "--profile", self.profile, "--seed", str(self.seed)]
        words += ["--run-dir", str(self.folder)] if self.run_dir else []
        words += ["--only", *self.only] if self.only else []
        words += ["--from", self.start] if self.start else []
        words += ["--timeout", f"{self.timeout:g}"] if self.timeout else []
        words += ["--shard", self.shard] if self.shard else []
        for name, value in self.parameters.items():
            words += ["-p", name, str(value)]
        return shlex.join(words)


def status(request: Request) -> Iterator[tuple[str, str]]:
    """Each selected notebook's name with "up to date" or why it would run."""
    waiting: set[str] = set()
    for notebook in request.notebooks():
        reason = freshness.why_stale(notebook, request.injected(notebook), request.folder)
        late = sorted(waiting.intersection(notebook.inputs(request.profile)))
        if reason is None and late:
            reason = f"may run: its input {late[0]} is made again"
        if reason is not None:
            waiting.update(notebook.writes(request.profile))
        yield notebook.name, reason or "up to date"


def reproduce(request: Request) -> None:
    """Bring the selected notebooks up to date, in order; Failure at the first that does not get there."""
    chosen, folder, began = request.notebooks(), request.folder, time.monotonic()
    _refuse_missing_engine(chosen, request.profile)
    runs.claim(folder, request.profile, request.seed)
    os.environ[sharding.VARIABLE] = request.shard  # the kernels and their workers look there
    with artefacts.locked(folder):
        artefacts.remove_leftovers(folder)
        if request.force:
            for notebook in chosen:
                freshness.state_path(notebook, folder).unlink(missing_ok=True)
                shutil.rmtree(folder / "steps" / notebook.name, ignore_errors=True)
        expected = [_known_seconds(notebook, request) for notebook in chosen]
        for number, notebook in enumerate(chosen, start=1):
            title = f"[{number}/{len(chosen)}] {notebook.name}"
            reason = freshness.why_stale(notebook, request.injected(notebook), folder)
            if reason is None:
                say(f"{title}: up to date")
                continue
            cost, ahead = expected[number - 1], expected[number:]
            say(f"{title}: running ({reason})" + (f", takes about {in_words(cost)}" if cost else ""))
            paid = _bring_up_to_date(notebook, request)
            spent = f"{in_words(paid['seconds'])}, peak memory {paid['peak_memory_mb']} MB"
            left = f", about {in_words(sum(ahead))} left" if all(ahead) and ahead else ""
            say(f"{title}: done in {spent}; {in_words(time.monotonic() - began)} in all{left}")
    say(f"all up to date in {runs.shown(folder)}")


def _refuse_missing_engine(chosen: list[Notebook], name: str) -> None:
    """GrlibError where notebooks that have to do with models will sample with an engine that is not there:
    now, and not after the first has been trained."""
    files = {file for book in chosen for file in (*book.reads(name), *book.writes(name))}
    if any(file.startswith("models/") for file in files):
        from grlib.evaluation import sampling_settings
        from grlib.sampling import check_engine

        check_engine(sampling_settings(profiles.get(name)))


def say(line: str) -> None:
    """Print one line at once."""
    print(line, flush=True)


def _known_seconds(notebook: Notebook, request: Request) -> float:
    """What a notebook cost here before, or in a recorded run of the same sizes; 0 when nothing is known."""
    if known := freshness.recall(notebook, request.folder):
        return float(known["seconds"])
    if request.parameters:
        return 0.0
    from grlib import costs  # pandas: not for commands that need no table

    return costs.whole(request.profile, notebook.name)


def _bring_up_to_date(notebook: Notebook, request: Request) -> dict[str, Any]:
    """Run a notebook between the checks of what it reads and writes; returns what it cost."""
    folder, parameters = request.folder, request.injected(notebook)
    try:
        runs.refuse_missing(notebook.reads(request.profile), request.profile, folder)
    except artefacts.MissingArtefact as error:
        raise Failure(f"{notebook.name} cannot start: {error}", "missing artefact") from error
    before = freshness.snapshot(notebook, parameters, folder)
    freshness.state_path(notebook, folder).unlink(missing_ok=True)
    cost = execute(notebook, parameters, folder, request.resume_command(), request.timeout)
    # a figure of what was not run has no rows; the model of a rehearsal may solve nothing at all
    used = [freshness.located(name, folder) for name in notebook.may_read(request.profile)]
    may_be_empty = request.profile == REHEARSAL.name or not all(path.exists() for path in used)
    for name in notebook.writes(request.profile):
        fault = artefacts.problem_with(folder / name)
        if fault or (not may_be_empty and artefacts.without_rows(folder / name)):
            message = f"{notebook.name} ran to its end, but its declared artefact {name} is "
            message += f"{fault or 'without rows'}; correct the notebook, then: {request.resume_command()}"
            raise Failure(message, "missing artefact")
    freshness.remember(notebook, before, folder, cost)
    return cost


# One notebook


def execute(
    notebook: Notebook, parameters: Mapping[str, Any], folder: Path, resume: str, timeout: float | None
) -> dict[str, Any]:
    """Run one notebook in a fresh kernel of this interpreter and keep the executed file; returns its cost.

    Raises Failure with the section, the cell, the class of the cause and the command that resumes.
    """
    final = freshness.executed_path(notebook, folder)
    partial, failed = final.with_suffix(".partial.ipynb"), final.with_suffix(".failed.ipynb")
    final.parent.mkdir(parents=True, exist_ok=True)
    kernel, began = _Kernel(), time.monotonic()
    alarm = threading.Timer(timeout or threading.TIMEOUT_MAX, kernel.out_of_time)
    alarm.daemon = True
    alarm.start()
    papermill_engines.register("grlib", _Engine)
    try:
        papermill.execute_notebook(
            notebook.path, partial, parameters=dict(parameters), cwd=folder, progress_bar=False,
            engine_name="grlib", kernel=kernel, kernel_name="python3", language="python",
            stdout_file=_Indented(sys.stdout), stderr_file=_Indented(sys.stderr),
        )  # fmt: skip
        partial.replace(final)
    except Exception as error:
        cause, why = _cause(error, kernel, timeout)
        happened = "waits for" if cause == "other shards" else "failed"
        lines = [f"{notebook.name} {happened} ({cause})", *_where(notebook, error, kernel), f"cause:   {why}"]
        if partial.exists():
            partial.replace(failed)
            lines.append(f"so far:  {runs.shown(failed)}")
        raise Failure("\n  ".join([*lines, f"resume:  {resume}"]), cause) from error
    finally:
        alarm.cancel()
        kernel.end()
    failed.unlink(missing_ok=True)
    return {
        "seconds": round(time.monotonic() - began, 1),
        "peak_memory_mb": kernel.megabytes(),
        "sections": notebooks.read(final).seconds_by_section(),
    }


class _Kernel:
    """What the runner knows of the kernel: the cell it is in, its processes and their memory."""

    cell, timed_out = 0, False
    memory: runs.PeakMemory | None = None

    def entered(self, cell: int, pid: int) -> None:
        self.cell, self.memory = cell, self.memory or runs.PeakMemory(pid)
        if self.timed_out:
            self.end()

    def out_of_time(self) -> None:
        self.timed_out = True
        self.end()

    def end(self) -> None:
        """Kill the kernel and the workers that it started."""
        for process in self.memory.processes() if self.memory else []:
            with contextlib.suppress(psutil.Error):
                process.kill()

    def megabytes(self) -> int:
        return self.memory.megabytes() if self.memory else 0


class _Engine(NBClientEngine):
    """A papermill engine whose kernels are of this interpreter, know this grlib, and report to a _Kernel."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **options: Any) -> Any:
        kernel, files = options["kernel"], {name: options[name] for name in ("stdout_file", "stderr_file")}
        client = PapermillNotebookClient(nb_man, kernel_name=kernel_name, coalesce_streams=True, **files)
        client.extra_arguments = ["--log-level=50"]
        client.on_cell_start = lambda cell, cell_index: kernel.entered(cell_index, client.km.provisioner.pid)
        # without folders to look in, no kernel that the user installed under this name wins
        client.create_kernel_manager().kernel_spec_manager.kernel_dirs = []
        paths = [str(notebooks.REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
        grlib_first = {"PYTHONPATH": os.pathsep.join(paths), "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
        return client.execute(env={**os.environ, **grlib_first})


class _Indented:
    """A stream that marks each line of a notebook's output, as it comes."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.at_start, self.flush = stream, True, stream.flush

    def write(self, text: str) -> None:
        for line in text.splitlines(keepends=True):
            self.stream.write(f"      | {line}" if self.at_start else line)
            self.at_start = line.endswith("\n")


# Explaining a failure


def _where(notebook: Notebook, error: Exception, kernel: _Kernel) -> list[str]:
    """Section and cell, numbered as in the notebook's file (papermill adds one cell after the parameters)."""
    failed = error.cell_index if isinstance(error, PapermillExecutionError) else kernel.cell
    cells = notebook.cells
    tagged = [number for number, cell in enumerate(cells) if notebooks.is_tagged(cell, "parameters")]
    after_injected = bool(tagged) and failed > tagged[0]
    own = min(failed - after_injected, len(cells) - 1)
    code_number = sum(cell.cell_type == "code" for cell in cells[: own + 1])
    cell = f"cell:    {own + 1} of {len(cells)} (code cell {code_number})"
    return [f"section: {notebook.sections()[own]}", cell]


def _cause(error: Exception, kernel: _Kernel, timeout: float | None) -> tuple[str, str]:
    """The class of the cause (a key of EXIT) and one line about it."""
    if kernel.timed_out:
        return "time-out", f"not finished after {timeout:g} s; allow more with --timeout, or leave it out"
    name, line = type(error).__name__, one_line(error)
    if isinstance(error, PapermillExecutionError):
        name, line = error.ename.rpartition(".")[2], f"{error.ename}: {error.evalue}".strip().splitlines()[0]
    text = f"{name}: {error}"
    cause = next((cause for pattern, cause in CAUSES.items() if re.search(pattern, text)), "error")
    if cause == "dead kernel":
        memory = f"peak {kernel.megabytes()} MB of {psutil.virtual_memory().total / 1e6:.0f} MB"
        line = f"the kernel died, usually for want of memory ({memory}); close other programs"
        line += " or use a smaller profile"
    return cause, line
