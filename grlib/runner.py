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
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from nbclient.exceptions import DeadKernelError
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError

from grlib import artefacts, freshness, notebooks, runs
from grlib.artefacts import in_words
from grlib.errors import GrlibError
from grlib.notebooks import Notebook

KERNEL = "python3"
EXIT = {"missing artefact": 3, "error": 4, "memory": 5, "dead kernel": 5, "time-out": 6, "disk full": 7}


class Failure(GrlibError):
    """A notebook that did not finish, or finished without its artefacts."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


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
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The run folder, absolute."""
        if self.run_dir:
            return Path(self.run_dir).expanduser().resolve()
        return runs.default_folder(self.profile, self.seed)

    def injected(self, notebook: Notebook) -> dict[str, Any]:
        """The papermill parameters for one notebook."""
        common = {"profile": self.profile, "seed": self.seed, "run_dir": str(self.folder)}
        return notebooks.bind(notebook, {**common, **self.parameters})

    def resume_command(self) -> str:
        """The command that goes on after a failure; what was forced and finished is not run again."""
        words = ["python", "-m", "grlib", "reproduce", "--profile", self.profile, "--seed", str(self.seed)]
        words += ["--run-dir", str(self.folder)] if self.run_dir else []
        words += ["--only", *self.only] if self.only else []
        words += ["--from", self.start] if self.start else []
        words += ["--timeout", f"{self.timeout:g}"] if self.timeout else []
        for name, value in self.parameters.items():
            words += ["-p", name, str(value)]
        return shlex.join(words)


def selected(request: Request) -> list[Notebook]:
    """The notebooks of a request in order; every name and value of the request is checked first."""
    runs.resolve(request.profile, {})
    runs.check_seed(request.seed)
    if request.timeout is not None and request.timeout <= 0:
        raise GrlibError(f"--timeout {request.timeout:g}: must be more than 0 seconds")
    available = notebooks.every()
    chosen = notebooks.select(available, request.only, request.start)
    chosen = [notebook for notebook in chosen if notebook.in_profile(request.profile)]
    notebooks.check_known(chosen, request.parameters)
    return chosen


def status(request: Request) -> Iterator[tuple[str, str]]:
    """Each selected notebook's name with "up to date" or why it would run."""
    waiting: set[str] = set()
    for notebook in selected(request):
        reason = freshness.why_stale(notebook, request.injected(notebook), request.folder)
        late = sorted(waiting.intersection(notebook.reads(request.profile)))
        if reason is None and late:
            reason = f"may run: its input {late[0]} is made again"
        if reason is not None:
            waiting.update(notebook.writes(request.profile))
        yield notebook.name, reason or "up to date"


def reproduce(request: Request) -> None:
    """Bring the selected notebooks up to date, in order; Failure at the first that does not get there."""
    chosen = selected(request)
    folder = request.folder
    runs.claim(folder, request.profile, request.seed)
    with locked(folder):
        artefacts.remove_leftovers(folder)
        if request.force:
            for notebook in chosen:
                freshness.state_path(notebook, folder).unlink(missing_ok=True)
                shutil.rmtree(folder / "steps" / notebook.name, ignore_errors=True)
        clock = _Clock(request, chosen)
        for number, notebook in enumerate(chosen, start=1):
            title = f"[{number}/{len(chosen)}] {notebook.name}"
            reason = freshness.why_stale(notebook, request.injected(notebook), folder)
            if reason is None:
                say(f"{title}: up to date")
            else:
                say(f"{title}: running ({reason}){clock.forecast(number - 1)}")
                seconds, megabytes = _bring_up_to_date(notebook, request)
                say(
                    f"{title}: done in {in_words(seconds)}, peak memory {megabytes} MB{clock.summary(number)}"
                )
    say(f"all up to date in {runs.shown(folder)}")


def say(line: str) -> None:
    """Print one line at once."""
    print(line, flush=True)


def _bring_up_to_date(notebook: Notebook, request: Request) -> tuple[float, int]:
    folder, parameters = request.folder, request.injected(notebook)
    for name in notebook.reads(request.profile):
        fault = artefacts.problem_with(freshness.located(name, folder))
        if fault:
            message = runs.missing_message(name, fault, request.profile, folder)
            raise Failure(f"{notebook.name} cannot start: {message}", EXIT["missing artefact"])
    before = freshness.snapshot(notebook, parameters, folder)
    freshness.state_path(notebook, folder).unlink(missing_ok=True)
    began = time.monotonic()
    megabytes = execute(notebook, parameters, folder, request.resume_command(), request.timeout)
    seconds = time.monotonic() - began
    for name in notebook.writes(request.profile):
        fault = artefacts.problem_with(folder / name) or (
            "without rows" if artefacts.rows(folder / name) == 0 else None
        )
        if fault:
            raise Failure(
                f"{notebook.name} ran to its end, but its declared artefact {name} is {fault}; "
                f"correct the notebook, then: {request.resume_command()}",
                EXIT["missing artefact"],
            )
    freshness.remember(notebook, before, folder, {"seconds": round(seconds, 1), "peak_memory_mb": megabytes})
    return seconds, megabytes


class _Clock:
    """Elapsed time, and time left as far as earlier runs of the same profile tell."""

    def __init__(self, request: Request, chosen: list[Notebook]) -> None:
        self.began = time.monotonic()
        self.costs = [_known_seconds(notebook, request) for notebook in chosen]

    def forecast(self, done: int) -> str:
        cost = self.costs[done]
        return "" if cost is None else f", takes about {in_words(cost)}"

    def summary(self, done: int) -> str:
        left = self.costs[done:]
        unknown = any(cost is None for cost in left)
        ahead = (
            ""
            if not left
            else ", time left unknown"
            if unknown
            else f", about {in_words(sum(filter(None, left)))} left"
        )
        return f"; {in_words(time.monotonic() - self.began)} in all{ahead}"


def _known_seconds(notebook: Notebook, request: Request) -> float | None:
    record = freshness.recall(notebook, request.folder)
    if record:
        return float(record["seconds"])
    recorded = notebooks.REPOSITORY / "paper_results" / "measured" / request.profile
    for path in sorted(recorded.glob(f"seed*/manifests/{notebook.name}.json")):
        return float(artefacts.read_json(path)["wall_seconds"])
    return None


# One runner at a time


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run folder; GrlibError while another runner does. A killed runner's lock does not count."""
    import fcntl

    path = folder / "lock"
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            raise GrlibError(
                f"{runs.shown(folder)}: process {file.read().strip() or '?'} is running notebooks here; "
                "wait for it, end it, or name another --run-dir"
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
        file.truncate(0)


# One notebook


def execute(
    notebook: Notebook, parameters: Mapping[str, Any], folder: Path, resume: str, timeout: float | None
) -> int:
    """Run one notebook in a fresh kernel of this interpreter and keep the executed file; returns peak MB.

    Raises Failure with the section, the cell, the class of the cause and the command that resumes.
    """
    final = freshness.executed_path(notebook, folder)
    partial, failed = final.with_suffix(".partial.ipynb"), final.with_suffix(".failed.ipynb")
    final.parent.mkdir(parents=True, exist_ok=True)
    watch = _Watch()
    alarm = threading.Timer(timeout, watch.out_of_time) if timeout else None
    if alarm:
        alarm.daemon = True
        alarm.start()
    papermill_engines.register("grlib", _engine(watch))
    try:
        papermill.execute_notebook(
            notebook.path,
            partial,
            parameters=dict(parameters),
            engine_name="grlib",
            kernel_name=KERNEL,
            language="python",
            progress_bar=False,
            stdout_file=_Indented(sys.stdout),
            stderr_file=_Indented(sys.stderr),
            cwd=folder,
        )
        os.replace(partial, final)
    except Exception as error:
        if partial.exists():
            os.replace(partial, failed)
        cause, last_line = _cause(error, watch, timeout)
        where = _where(
            notebook, error.cell_index if isinstance(error, PapermillExecutionError) else watch.cell
        )
        lines = [f"{notebook.name} failed ({cause})", *where, f"cause:   {last_line}"]
        lines += [f"so far:  {runs.shown(failed)}"] if failed.exists() else []
        raise Failure("\n  ".join([*lines, f"resume:  {resume}"]), EXIT[cause]) from error
    finally:
        if alarm:
            alarm.cancel()
        watch.end_kernel()
    failed.unlink(missing_ok=True)
    return watch.peak_megabytes()


class _Watch:
    """What the runner knows of the kernel: its process, the cell it is in, its memory."""

    def __init__(self) -> None:
        self.cell = 0
        self.timed_out = False
        self._kernel: psutil.Process | None = None
        self._memory: runs.PeakMemory | None = None

    def entered(self, cell: int, pid: int | None) -> None:
        self.cell = cell
        if self._kernel is None and pid is not None:
            self._kernel, self._memory = psutil.Process(pid), runs.PeakMemory(pid)
        if self.timed_out:
            self.end_kernel()

    def out_of_time(self) -> None:
        self.timed_out = True
        self.end_kernel()

    def end_kernel(self) -> None:
        """Kill the kernel and the workers that it started."""
        if self._kernel is None:
            return
        with contextlib.suppress(psutil.Error):
            for process in [*self._kernel.children(recursive=True), self._kernel]:
                with contextlib.suppress(psutil.Error):
                    process.kill()

    def peak_megabytes(self) -> int:
        return self._memory.megabytes() if self._memory else 0


class _ThisInterpreter(KernelSpecManager):
    """Any kernel name means the interpreter of this program, whatever else the user has installed."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=50"]
        return KernelSpec(argv=command, display_name="Python 3", language="python")


def _engine(watch: _Watch) -> type[NBClientEngine]:
    """A papermill engine whose kernels report to `watch`."""

    class Client(PapermillNotebookClient):
        def create_kernel_manager(self) -> Any:
            manager = super().create_kernel_manager()
            manager.kernel_spec_manager = _ThisInterpreter(parent=manager)
            return manager

        def execute_cell(self, cell: Any, cell_index: int, **options: Any) -> Any:
            watch.entered(cell_index, self.km.provisioner.pid)
            return super().execute_cell(cell, cell_index, **options)

    class Engine(NBClientEngine):
        @classmethod
        def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **options: Any) -> Any:
            files = {name: options[name] for name in ("stdout_file", "stderr_file")}
            client = Client(
                nb_man, kernel_name=kernel_name, startup_timeout=options["start_timeout"], **files
            )
            return client.execute(env=_kernel_environment())

    return Engine


def _kernel_environment() -> dict[str, str]:
    """This process's environment, with this very grlib importable and the debugger's warning off."""
    paths = [str(notebooks.REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYDEVD_DISABLE_FILE_VALIDATION": "1"}


class _Indented:
    """A stream that marks each line of a notebook's output, as it comes."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.at_start = stream, True

    def write(self, text: str) -> None:
        for line in text.splitlines(keepends=True):
            self.stream.write(f"      | {line}" if self.at_start else line)
            self.at_start = line.endswith("\n")

    def flush(self) -> None:
        self.stream.flush()


# Explaining a failure


def _where(notebook: Notebook, index: int) -> list[str]:
    """Section and cell, numbered as in the notebook's file (papermill adds one cell after the parameters)."""
    cells = notebook.cells
    tagged = [n for n, cell in enumerate(cells) if "parameters" in cell.get("metadata", {}).get("tags", [])]
    own = index - 1 if tagged and index > tagged[0] else index
    own = min(own, len(cells) - 1)
    code_number = sum(cell["cell_type"] == "code" for cell in cells[: own + 1])
    return [
        f"section: {notebook.section(own)}",
        f"cell:    {own + 1} of {len(cells)} (code cell {code_number})",
    ]


def _cause(error: Exception, watch: _Watch, timeout: float | None) -> tuple[str, str]:
    """The class of the cause (a key of EXIT) and one line about it."""
    if watch.timed_out:
        return "time-out", f"not finished after {timeout:g} s; allow more with --timeout, or leave it out"
    if isinstance(error, DeadKernelError) or (
        isinstance(error, RuntimeError) and "Kernel died" in str(error)
    ):
        total, peak = psutil.virtual_memory().total / 1e6, watch.peak_megabytes()
        memory = f"usually for want of memory (peak {peak} MB of {total:.0f} MB)"
        return "dead kernel", f"the kernel died, {memory}; close other programs or use a smaller profile"
    if artefacts.is_disk_full(error):
        return "disk full", _last_line(error)
    name = error.ename if isinstance(error, PapermillExecutionError) else type(error).__name__
    by_name: Mapping[str, str] = {
        "MissingArtefact": "missing artefact", "DiskFull": "disk full",
        "MemoryError": "memory", "OutOfMemoryError": "memory", "BrokenProcessPool": "memory",
    }  # fmt: skip
    out_of_memory = re.search(r"can't allocate memory|out of memory", str(error))
    return by_name.get(name.rpartition(".")[2], "memory" if out_of_memory else "error"), _last_line(error)


def _last_line(error: Exception) -> str:
    if isinstance(error, PapermillExecutionError):
        return f"{error.ename}: {error.evalue}".strip().splitlines()[0]
    return f"{type(error).__name__}: {error}".strip().splitlines()[0]
