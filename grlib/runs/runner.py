"""Brings notebooks up to date, in order; checks what they read and write, and explains failures."""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grlib.errors import GrlibError, nearest
from grlib.profiles import MOST, SIZES, Profile
from grlib.runs import deadline, freshness, notebooks, plain
from grlib.runs import files as artefacts
from grlib.runs import run as runs
from grlib.runs.files import in_words
from grlib.runs.notebooks import Notebook
from grlib.runs.outcome import Failure


@dataclass(frozen=True)
class Request:
    """What to run: the options of `python -m grlib reproduce`."""

    profile: str = "laptop"
    seed: int = 0
    run_dir: str = ""
    only: tuple[str, ...] = ()
    force: bool = False
    seconds: float | None = None  # stop after this time with what is stored (grlib.runs.deadline)
    plain: bool = False  # in this process, without papermill and kernels (grlib.runs.plain)
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The run folder, absolute."""
        return runs.run_folder(self.profile, self.seed, self.run_dir)

    def injected(self, notebook: Notebook) -> dict[str, Any]:
        """The values for those parameters that the notebook has."""
        common = {"profile": self.profile, "seed": self.seed, "run_dir": str(self.folder)}
        return notebooks.bind(notebook, {**common, **self.parameters})

    def notebooks(self) -> list[Notebook]:
        """The notebooks to run, in order; GrlibError for any wrong name or value of the request."""
        runs.resolve(self.profile, self.seed, {})
        if self.seconds is not None and not 0 < self.seconds <= MOST:
            raise GrlibError(f"--seconds {self.seconds:g}: must be more than 0, finite; no limit without it")
        chosen = notebooks.select(self.only)
        known = sorted({name for book in chosen for name in self.injected(book) | book.parameters()})
        for name in self.parameters:
            if name not in known:
                raise GrlibError(f"parameter {name!r}: unknown; {nearest(name, known)}")
        self.resolved(chosen)
        return chosen

    def resolved(self, chosen: Iterable[Notebook]) -> Profile:
        """The profile with the sizes given for these notebooks; GrlibError for a wrong value or path."""
        given = {name: value for book in chosen for name, value in self.injected(book).items()}
        for name, value in given.items():
            is_path = name != "run_dir" and str(value).startswith(("/", "~", "./", "../"))
            if is_path and (value.startswith(".") or not artefacts.absolute(value).exists()):
                raise GrlibError(f"parameter {name}={value!r}: must be the whole path of what exists")
        base = given.pop("base", "shipped")  # no size, though a table of the profile has this name
        sizes = {name: value for name, value in given.items() if name in SIZES}
        return runs.resolve(self.profile, self.seed, sizes, base)

    def resume_command(self) -> str:
        """The command that continues after a failure, without --force: what is finished is not run again."""
        words = ["python", "-m", "grlib", "reproduce", "--profile", self.profile, "--seed", str(self.seed)]
        words += ["--run-dir", str(self.folder)] if self.run_dir else []
        words += ["--only", *self.only] if self.only else []
        words += ["--seconds", f"{self.seconds:g}"] if self.seconds else []
        words += ["--plain"] if self.plain else []
        for name, value in self.parameters.items():
            words += ["-p", name, str(value)]
        return shlex.join(words)


def status(request: Request) -> Iterator[tuple[str, str]]:
    """Each selected notebook's name with "up to date" or why it would run."""
    waiting: set[str] = set()
    for notebook in request.notebooks():
        reason = freshness.why_stale(notebook, request.injected(notebook), request.folder)
        late = sorted(waiting.intersection(notebook.files(request.profile, "reads", "may_read")))
        if reason is None and late:
            reason = f"may run: its input {late[0]} is made again"
        if reason is not None:
            waiting.update(notebook.files(request.profile, "writes"))
        yield notebook.name, reason or "up to date"


def reproduce(request: Request) -> None:
    """Bring the selected notebooks up to date, in order; Failure at the first that fails."""
    deadline.set_deadline(request.seconds)
    chosen, folder, began = request.notebooks(), request.folder, time.monotonic()
    runs.claim(folder, request.profile, request.seed)
    with artefacts.locked(folder):
        artefacts.remove_leftovers(folder)
        if request.force:
            for notebook in chosen:
                freshness.state_path(notebook, folder).unlink(missing_ok=True)
                shutil.rmtree(folder / "steps" / notebook.name, ignore_errors=True)
        made: set[str] = set()
        for notebook in chosen:
            lacking = [name for name in notebook.files(request.profile, "reads") if name not in made]
            runs.refuse_missing(lacking, request.profile, request.seed, folder, notebook.name)
            made.update(notebook.files(request.profile, "writes"))
        expected = [_known_seconds(notebook, request) for notebook in chosen]
        for number, notebook in enumerate(chosen, start=1):
            title = f"[{number}/{len(chosen)}] {notebook.name}"
            reason = freshness.why_stale(notebook, request.injected(notebook), folder)
            if reason is None:
                print(f"{title}: up to date", flush=True)
                continue
            if deadline.passed():
                resume = request.resume_command()
                raise deadline.OutOfTime(f"the time is over before {notebook.name}; resume: {resume}")
            cost, ahead = expected[number - 1], expected[number:]
            about = f", takes about {in_words(cost)}" if cost else ""
            print(f"{title}: running ({reason}){about}", flush=True)
            paid = _bring_up_to_date(notebook, request)
            spent = f"{in_words(paid['seconds'])}, peak memory {paid['peak_memory_mb']} MB"
            left = f", about {in_words(sum(ahead))} left" if all(ahead) and ahead else ""
            print(f"{title}: done in {spent}; {in_words(time.monotonic() - began)} in all{left}", flush=True)
    print(f"all up to date in {runs.shown(folder)}", flush=True)


def _known_seconds(notebook: Notebook, request: Request) -> float:
    """Seconds that a notebook took here before, or in a recorded run of the same sizes; 0 if unknown."""
    if known := freshness.recall(notebook, request.folder):
        return float(known["seconds"])
    if request.parameters:
        return 0.0
    from grlib.runs import costs  # imports pandas, which `status` does not need

    return costs.whole(request.profile, notebook.name)


def _bring_up_to_date(notebook: Notebook, request: Request) -> dict[str, Any]:
    """Run a notebook and check what it wrote; returns its cost."""
    folder, parameters = request.folder, request.injected(notebook)
    before = freshness.snapshot(notebook, parameters, folder)
    freshness.state_path(notebook, folder).unlink(missing_ok=True)
    watched = runs.Cost()
    if request.plain:
        plain.execute(notebook, parameters, folder, request.resume_command())
    else:
        from grlib.runs.execute import execute  # imports papermill: a second, which `status` does not need

        execute(notebook, parameters, folder, request.resume_command())
    executed = notebooks.read(freshness.executed_path(notebook, folder))
    told = artefacts.known_json(folder / "manifests" / f"{notebook.name}.json") or {}  # of all parts
    spent = {name: max(here, told.get(name, 0)) for name, here in watched.end().items()}
    cost = {
        "seconds": spent["wall_seconds"],
        "peak_memory_mb": spent["peak_memory_mb"],
        "sections": executed.seconds_by_section(),
    }
    # a figure of what was not run has no rows; the model of a rehearsal may solve no problem
    used = [freshness.located(name, folder) for name in notebook.files(request.profile, "may_read")]
    may_be_empty = request.profile == "rehearsal" or not all(path.exists() for path in used)
    for name in notebook.files(request.profile, "writes"):
        fault = artefacts.problem_with(folder / name)
        if fault or (not may_be_empty and artefacts.without_rows(folder / name)):
            message = f"{notebook.name} ran to its end, but its declared artefact {name} is "
            message += f"{fault or 'without rows'}; correct the notebook, then: {request.resume_command()}"
            raise Failure(message, "missing artefact")
    freshness.remember(notebook, before, folder, cost)
    return cost
