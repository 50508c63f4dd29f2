"""One notebook's run: its profile, seed and folder, and every file that it reads and writes there."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import io
import os
import platform
import random
import re
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grlib import artefacts, freshness, notebooks, profiles
from grlib.errors import GrlibError

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "numpy", "pandas", "pyarrow", "matplotlib")
BASES = ("shipped", "scratch")
MANIFEST_SCHEMA = 1


def default_folder(profile: str, seed: int) -> Path:
    """The run folder when none is named: <repository>/runs/<profile>/seed<seed>."""
    return notebooks.REPOSITORY / "runs" / profile / f"seed{seed}"


def start(
    notebook: str,
    profile: str = "laptop",
    seed: int = 0,
    run_dir: str = "",
    base: str = "shipped",
    **sizes: Any,
) -> Run:
    """Begin a notebook: check its parameters, make the run folder, seed the random generators.

    `base` says where the base model comes from ("shipped" or "scratch"); it is only recorded here.
    `sizes` are profile fields that the notebook offers as parameters; 0 and "" keep the profile's value.
    Wrong types, unknown names and a folder that belongs to another profile or seed raise GrlibError.
    """
    check_seed(seed)
    if not isinstance(run_dir, str | Path):
        raise GrlibError(f"run_dir={run_dir!r}: must be a path as text, or '' for runs/<profile>/seed<seed>")
    if base not in BASES:
        raise GrlibError(f"base={base!r}: {notebooks.suggest(str(base), BASES)}")
    settings = resolve(profile, sizes)
    folder = Path(run_dir).expanduser().resolve() if str(run_dir) else default_folder(profile, seed)
    claim(folder, profile, seed)
    _seed_everything(seed)
    warnings.filterwarnings("ignore", message="IProgress not found")  # progress is plain lines
    return Run(notebook, settings, seed, folder, {"profile": profile, "seed": seed, "base": base, **sizes})


def check_seed(seed: int) -> None:
    """GrlibError unless the seed is a whole number that every generator takes."""
    if type(seed) is not int or not 0 <= seed < 2**32:
        raise GrlibError(f"seed={seed!r}: must be a whole number from 0 to {2**32 - 1}")


def resolve(profile: str, sizes: Mapping[str, Any]) -> profiles.Profile:
    """The named profile with the given fields replaced."""
    if not isinstance(profile, str):
        raise GrlibError(f"profile={profile!r}: must be the name of a profile, as 'laptop'")
    settings = profiles.get(profile)
    fields = {field.name for field in dataclasses.fields(settings)}
    changes = {}
    for name, value in sizes.items():
        if name not in fields:
            raise GrlibError(f"size {name!r}: {notebooks.suggest(name, sorted(fields))}")
        default = getattr(settings, name)
        kinds = (int, float) if type(default) is float else (type(default),)
        if type(value) not in kinds or (not isinstance(value, str) and value < 0):
            raise GrlibError(
                f"{name}={value!r}: must be a {type(default).__name__} >= 0, as the profile's {default!r}"
            )
        if value:
            changes[name] = value
    return dataclasses.replace(settings, **changes)


def claim(folder: Path, profile: str, seed: int) -> None:
    """Make a run folder for this profile and seed; GrlibError when it already holds another run."""
    owner = {"profile": profile, "seed": seed}
    path = folder / "run.json"
    if not artefacts.is_whole(path):
        artefacts.write_json(path, owner)
    elif (found := artefacts.read_json(path)) != owner:
        raise GrlibError(
            f"{folder}: holds a run of profile {found.get('profile')}, seed {found.get('seed')}, "
            f"not {profile}, {seed}; name another run_dir"
        )


def _seed_everything(seed: int) -> None:
    """Seed `random`, and numpy and torch where loaded (a draw that matters takes its own generator)."""
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


class Run:
    """What a notebook holds on to: settings, and paths of artefacts relative to the run folder."""

    def __init__(
        self, notebook: str, profile: profiles.Profile, seed: int, folder: Path, parameters: Mapping[str, Any]
    ) -> None:
        self.notebook, self.profile, self.seed, self.folder = notebook, profile, seed, folder
        self.parameters = dict(parameters)
        self._inputs: dict[str, str] = {}
        self._outputs: set[str] = set()
        self._began = time.monotonic()
        self._memory = PeakMemory()

    def show(self) -> pandas.DataFrame:
        """A small table: resolved settings, seed, run folder, device and versions."""
        import pandas

        fields = [field.name for field in dataclasses.fields(self.profile) if field.name != "name"]
        settings = {name: getattr(self.profile, name) for name in fields}
        values: dict[str, Any] = {
            "profile": self.parameters["profile"],
            "seed": self.seed,
            "run folder": shown(self.folder),
        }
        values |= settings | {"device": device()} | versions()
        frame = pandas.DataFrame({"value": [str(value) for value in values.values()]}, index=list(values))
        return frame.rename_axis("setting")

    # paths

    def path(self, name: str) -> Path:
        """The path of an artefact to write, its folders made."""
        path = self._located(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not name.startswith("steps/"):
            self._outputs.add(name)
        return path

    def require(self, name: str) -> Path:
        """The path of an artefact to read; if it is not whole, MissingArtefact names the notebook behind it.

        A name that starts with "repo:" is a file of the repository.
        """
        path = self._located(name)
        fault = artefacts.problem_with(path)
        if fault:
            raise artefacts.MissingArtefact(
                missing_message(name, fault, self.parameters["profile"], self.folder)
            )
        self._inputs.setdefault(name, artefacts.digest(path))
        return path

    def _located(self, name: str) -> Path:
        path = freshness.located(name, self.folder)
        root = notebooks.REPOSITORY if name.startswith(notebooks.IN_REPOSITORY) else self.folder
        if not path.resolve().is_relative_to(root.resolve()):
            raise GrlibError(
                f"artefact {name!r}: must lie inside the run folder, as 'results/03_eval.parquet'"
            )
        return path

    # tables, JSON, figures

    def save_table(self, frame: pandas.DataFrame, name: str) -> Path:
        """Write a table (.parquet or .csv) into the run folder."""
        return artefacts.write_table(self.path(name), frame)

    def load_table(self, name: str) -> pandas.DataFrame:
        """Read a table that this or an earlier notebook wrote."""
        return artefacts.read_table(self.require(name))

    def save_json(self, value: Any, name: str) -> Path:
        """Write a value as JSON into the run folder."""
        return artefacts.write_json(self.path(name), value)

    def load_json(self, name: str) -> Any:
        """Read JSON that this or an earlier notebook wrote."""
        return artefacts.read_json(self.require(name))

    def save_figure(self, figure: Figure, name: str, data: pandas.DataFrame) -> Path:
        """Write figures/<name>.png, .svg and .csv (`data`: what is drawn), without dates or versions."""
        import matplotlib

        if not re.fullmatch(r"\w+", name):
            raise GrlibError(f"figure {name!r}: letters, digits and _ only, as 'fig03_budget'")
        png, svg = io.BytesIO(), io.BytesIO()
        with matplotlib.rc_context({"svg.hashsalt": "grlib", "svg.fonttype": "path"}):
            figure.savefig(png, format="png", dpi=150, metadata={"Software": None})
            figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
        artefacts.write_bytes(self.path(f"figures/{name}.svg"), svg.getvalue())
        artefacts.write_table(self.path(f"figures/{name}.csv"), data)
        return artefacts.write_bytes(self.path(f"figures/{name}.png"), png.getvalue())

    # long work

    def chunked(
        self,
        name: str,
        key: Mapping[str, Any],
        count: int,
        compute: Callable[[int], pandas.DataFrame] | None,
        *,
        modules: Iterable[str],
        inputs: Iterable[str] = (),
        submit: Callable[[int], Future[pandas.DataFrame]] | None = None,
        label: str = "",
    ) -> pandas.DataFrame:
        """`artefacts.chunked` under steps/<notebook>/<name>; `reproduce --force` throws its chunks away.

        The seed, the code of `modules` and the digests of `inputs` (artefact names) join the key.
        """
        digests = {artefact: artefacts.digest(self.require(artefact)) for artefact in inputs}
        full_key = {**key, "seed": self.seed, "code": artefacts.code_digest(*modules), "inputs": digests}
        return artefacts.chunked(self.steps(name), full_key, count, compute, submit, label=label or name)

    def steps(self, name: str) -> Path:
        """The folder for checkpoints of long work: steps/<notebook>/<name>."""
        folder = self.folder / "steps" / self.notebook / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def finish(self) -> dict[str, Any]:
        """Write manifests/<notebook>.json: where these results come from and what they cost."""
        outputs = {
            name: artefacts.digest(path)
            for name in sorted(self._outputs)
            if (path := self.folder / name).exists()
        }
        manifest = {
            "schema": MANIFEST_SCHEMA,
            "notebook": self.notebook,
            "profile": self.parameters["profile"],
            "seeds": [self.seed],
            "parameters": self.parameters,
            "settings": dataclasses.asdict(self.profile),
            **git_state(),
            "versions": versions(),
            "device": device(),
            "inputs": self._inputs,
            "outputs": outputs,
            "wall_seconds": round(time.monotonic() - self._began, 1),
            "peak_memory_mb": self._memory.megabytes(),
        }
        artefacts.write_json(self.folder / "manifests" / f"{self.notebook}.json", manifest)
        return artefacts.plain(manifest)


def missing_message(name: str, fault: str, profile: str, folder: Path) -> str:
    """One line: which artefact is missing or damaged, who makes it, and the command for that."""
    if name.startswith(notebooks.IN_REPOSITORY):
        path = name.removeprefix(notebooks.IN_REPOSITORY)
        return f"{path}: {fault}, and it comes with the repository; restore it with `git checkout {path}`"
    made_by = notebooks.maker(name, profile)
    if made_by is None:
        return f"{name}: {fault} in {shown(folder)}, and no notebook declares to write it; check the name"
    return (
        f"{name}: {fault} in {shown(folder)}; notebook {made_by} makes it: "
        f"python -m grlib reproduce --profile {profile} --only {made_by.partition('_')[0]}"
    )


def shown(path: Path) -> str:
    """A path as messages show it: relative to the repository where it lies inside."""
    return (
        str(path.relative_to(notebooks.REPOSITORY))
        if path.is_relative_to(notebooks.REPOSITORY)
        else str(path)
    )


# Where a result came from


def versions() -> dict[str, str]:
    """Versions of Python and the packages that results depend on, without importing them."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def device() -> str:
    """What computes: the GPU when torch is loaded and has one, else the processor and its number of cores."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"cpu, {platform.machine()}, {cores} cores"


def git_state() -> dict[str, Any]:
    """The commit and whether tracked files were changed since; both None outside a git clone."""
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--untracked-files=no")
    return {"commit": commit or None, "dirty": None if commit is None or changes is None else bool(changes)}


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(notebooks.REPOSITORY), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


class PeakMemory:
    """Watches the resident memory of a process and its children, twice a second, from a background thread.

    Memory that processes share is counted in each of them, so the peak is an upper bound.
    """

    def __init__(self, pid: int | None = None) -> None:
        import psutil

        self._process = psutil.Process(pid)
        self._peak = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def megabytes(self) -> int:
        """The highest sum seen so far, in MB (1e6 bytes)."""
        self._sample()
        return round(self._peak / 1e6)

    def _watch(self) -> None:
        while self._sample():
            time.sleep(0.5)

    def _sample(self) -> bool:
        import psutil

        try:
            total = self._process.memory_info().rss
            for child in self._process.children(recursive=True):
                try:
                    total += child.memory_info().rss
                except psutil.Error:
                    continue
        except psutil.Error:
            return False
        self._peak = max(self._peak, total)
        return True
