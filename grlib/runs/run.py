"""The run of one notebook: its profile, seed and folder, and every file that it reads and writes there.

from grlib.runs import run as runs

run = runs.start("03_imitate_search", profile=profile, seed=seed, run_dir=run_dir)
problems = run.load_table("data/problems_seen.parquet")
run.save_table(rows, "results/03_eval.parquet")
run.finish()
"""

from __future__ import annotations

import contextlib
import io
import random
import re
import shlex
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from grlib import profiles
from grlib.errors import GrlibError, nearest
from grlib.runs import chunks, freshness, housekeeping, notebooks
from grlib.runs import files as artefacts
from grlib.runs.sources import code_digest

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

BASES = ("shipped", "scratch")
DIGITS = 6  # of a number in a CSV file
KEPT_EACH = 5.0  # seconds after which the cost of a run is written again


def start(
    notebook: str,
    profile: str = "laptop",
    seed: int = 0,
    run_dir: str = "",
    base: str = "shipped",
    **sizes: Any,
) -> Run:
    """Begin a notebook: check its parameters, make the run folder, seed the random generators; pandas shows
    tables whole.

    `base`: where the base model comes from, "shipped" or "scratch"; here it is only checked and recorded.
    `sizes`: profile fields that the notebook has as parameters; 0 and "" keep the profile's value.
    GrlibError for wrong types, unknown names, and a folder that holds a run of another profile or seed.
    """
    if not isinstance(run_dir, str | Path):
        raise GrlibError(f"run_dir={run_dir!r}: must be a path as text, or '' for runs/<profile>/seed<seed>")
    settings = resolve(profile, seed, sizes, base)
    folder = run_folder(profile, seed, run_dir)
    claim(folder, profile, seed)
    random.seed(seed)  # a draw that matters takes its own generator
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)
    warnings.filterwarnings("ignore", message="IProgress not found")  # progress is plain lines
    import pandas

    pandas.set_option("display.max_colwidth", None, "display.max_columns", None, "display.max_rows", 200)
    settings = profiles.Watched(**vars(settings))
    profiles.Watched.read.clear()
    return Run(notebook, settings, folder, {"profile": profile, "seed": seed, "base": base, **sizes})


def run_folder(profile: str, seed: int, run_dir: str | Path = "") -> Path:
    """The run folder, absolute: the named one, or <repository>/runs/<profile>/seed<seed>."""
    folder = artefacts.absolute(run_dir) if str(run_dir) else None
    return folder or notebooks.REPOSITORY / "runs" / profile / f"seed{seed}"


def resolve(profile: str, seed: int, sizes: Mapping[str, Any], base: str = "shipped") -> profiles.Profile:
    """The profile with these sizes (see `profiles.with_sizes`); GrlibError for any bad value."""
    if type(seed) is not int or not 0 <= seed < 2**32:
        raise GrlibError(f"seed={seed!r}: must be a whole number from 0 to {2**32 - 1}")
    if base not in BASES:
        raise GrlibError(f"base={base!r}: unknown; {nearest(str(base), BASES)}")
    return profiles.with_sizes(profiles.get(profile), sizes)


def claim(folder: Path, profile: str, seed: int) -> None:
    """Make the run folder of this profile and seed; GrlibError if it holds a run of another one."""
    owner = {"profile": profile, "seed": seed}
    path = folder / "run.json"
    if not path.exists():
        artefacts.write_json(path, owner)
    if (found := artefacts.read_json(path, *owner)) != owner:
        held = f"profile {found['profile']}, seed {found['seed']}, not {profile}, {seed}"
        raise GrlibError(f"{folder}: holds a run of {held}; name another run_dir")


class Run:
    """What a notebook works with: `profile`, `seed`, and artefacts by their names in the run folder."""

    def __init__(
        self, notebook: str, profile: profiles.Profile, folder: Path, parameters: dict[str, Any]
    ) -> None:
        self.notebook, self.profile, self.folder = notebook, profile, folder
        self.parameters, self.seed = parameters, parameters["seed"]
        self._inputs: dict[str, str] = {}
        self._outputs: set[str] = set()
        self._code = housekeeping.git_state()
        key = artefacts.plain({"parameters": parameters, **self._code})
        self._cost = Cost(folder / "steps" / notebook / "spent.json", key)

    def show(self, *names: str) -> pandas.DataFrame:
        """A table of one column: profile, seed, and the settings of these names, as in
        `show("budget", "self_training.iterations")`; without names, all settings and the versions.

        GrlibError for an unknown name.
        """
        import pandas

        settings = self.profile.settings()
        del settings["name"]
        known = dict(settings)
        for table, values in settings.items():
            known |= {f"{table}.{name}": values[name] for name in values} if isinstance(values, dict) else {}
        if unknown := [name for name in names if name not in known]:
            raise GrlibError(f"setting {unknown[0]!r}: unknown; {nearest(unknown[0], known)}")
        found = {"profile": self.profile.name, "seed": self.seed}
        found |= {name: known[name] for name in names} if names else settings | housekeeping.versions()
        return pandas.Series(found).map(str).to_frame("value").rename_axis("setting")

    def say(self, line: str) -> None:
        """Print a line of progress, and keep what the run has cost so far. One that counts, as in "3/8" or
        "3 of 8", gives way to the next line.

        So minutes of work leave one line in a notebook; the runner's log keeps them all.
        """
        end = "\r" if re.search(r"\d(/| of )\d", line) else "\n"
        print(f"{line:<120}{end}", end="", flush=True)  # covers the line before
        self._cost.keep()

    # paths

    def path(self, name: str) -> Path:
        """The path of an artefact to write; makes the folders above it."""
        path = freshness.located(name, self.folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._outputs.add(name)
        return path

    def require(self, name: str) -> Path:
        """The path of an artefact to read; a name that starts with "repo:" is a file of the repository.

        MissingArtefact if it is not whole; the message names the notebook that makes it.
        """
        refuse_missing([name], self.profile.name, self.seed, self.folder, self.notebook)
        path = freshness.located(name, self.folder)
        self._inputs.setdefault(name, artefacts.digest(path))
        return path

    def shipped(self, model: str) -> Path:
        """The folder of a base model ("sos", "bc") that comes with the repository for this profile."""
        return self.require(f"repo:paper_results/{self.profile.base.folder}/{model}")

    # tables and figures

    def save_table(self, frame: pandas.DataFrame, name: str) -> Path:
        """Write a table (.parquet or .csv) into the run folder; CSV, which people read, with `DIGITS`."""
        return artefacts.write_table(self.path(name), _short(frame) if name.endswith(".csv") else frame)

    def load_table(self, name: str) -> pandas.DataFrame:
        """Read a table that this or an earlier notebook wrote."""
        return artefacts.read_table(self.require(name))

    def save_figure(self, figure: Figure, name: str, data: pandas.DataFrame) -> Path:
        """Write figures/<name>.png, .svg and .csv (`data`: what is drawn), without dates or versions.

        Returns the path of the PNG.
        """
        import matplotlib

        if not re.fullmatch(r"\w+", name):
            raise GrlibError(f"figure {name!r}: letters, digits and _ only, as 'fig03_budget'")
        png, svg = io.BytesIO(), io.BytesIO()
        with matplotlib.rc_context({"svg.hashsalt": "grlib", "svg.fonttype": "path"}):
            figure.savefig(png, format="png", dpi=150, metadata={"Software": None})
            figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
        artefacts.write_bytes(self.path(f"figures/{name}.svg"), svg.getvalue())
        self.save_table(data, f"figures/{name}.csv")
        return artefacts.write_bytes(self.path(f"figures/{name}.png"), artefacts.small_png(png.getvalue()))

    # long work

    def chunked(
        self,
        name: str,
        key: Mapping[str, Any],
        count: int,
        compute: Callable[[int], pandas.DataFrame],
        *,
        modules: Iterable[str],
        inputs: Iterable[str] = (),
    ) -> pandas.DataFrame:
        """`chunks.chunked` in the folder steps/<notebook>/<name>; `reproduce --force` deletes its chunks.

        The key also gets the seed, the code of `modules` and the digests of `inputs` (artefact names).
        """
        digests = {artefact: artefacts.digest(self.require(artefact)) for artefact in inputs}
        full_key = {**key, "seed": self.seed, "code": code_digest(*modules), "inputs": digests}
        return chunks.chunked(self.steps(name), full_key, count, compute, progress=self.say, label=name)

    def steps(self, name: str) -> Path:
        """The folder for chunks and checkpoints of long work: steps/<notebook>/<name>."""
        folder = freshness.located(f"steps/{self.notebook}/{name}", self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def finish(self) -> dict[str, Any]:
        """Write manifests/<notebook>.json, which says where the results come from and what they cost."""
        paths = {name: self.folder / name for name in sorted(self._outputs)}
        manifest = {
            "schema": 1,
            "notebook": self.notebook,
            "profile": self.profile.name,
            "seeds": [self.seed],
            "parameters": self.parameters,
            "settings_read": sorted(profiles.Watched.read),
            "settings": self.profile.settings(),
            **self._code,
            "versions": housekeeping.versions(),
            "device": housekeeping.device(),
            "inputs": self._inputs,
            "outputs": {name: artefacts.digest(path) for name, path in paths.items() if path.exists()},
            **self._cost.end(),
        }
        artefacts.write_json(self.folder / "manifests" / f"{self.notebook}.json", manifest)
        for kind in ("data", "results"):
            artefacts.write_dataset_card(self.folder / kind)
        return artefacts.plain(manifest)


def refuse_missing(names: Sequence[str], profile: str, seed: int, folder: Path, reader: str) -> None:
    """MissingArtefact for the first artefact that is not whole, or not what its maker's manifest notes, with
    the command that makes all that is lacking. The manifest of the notebook `reader` does not count."""
    for name in names:
        fault, place = _fault(name, folder, reader), shown(folder)
        if fault is None:
            continue
        if name.startswith(notebooks.IN_REPOSITORY):
            name, place = name.removeprefix(notebooks.IN_REPOSITORY), "the repository"
            remedy = f"restore it with `git checkout {name}`"
        elif made_by := notebooks.maker(name, profile):
            words = ["python", "-m", "grlib", "reproduce", "--profile", profile, "--seed", str(seed)]
            words += ["--run-dir", str(folder)] if folder != run_folder(profile, seed) else []
            needed = sorted(book.partition("_")[0] for book in _makers(names, profile, folder))
            remedy = f"notebook {made_by} makes it: {shlex.join([*words, '--only', *needed])}"
        else:
            remedy = "no notebook declares to write it; check the name"
        raise artefacts.MissingArtefact(f"{reader} needs {name}: {fault} in {place}; {remedy}")


def _fault(name: str, folder: Path, reader: str = "") -> str | None:
    """What is wrong with an artefact, None if it is whole and has the digest that manifests note, if any."""
    path = freshness.located(name, folder)
    if fault := artefacts.problem_with(path):
        return fault
    manifests = [path for path in folder.glob("manifests/*.json") if path.stem != reader]
    known = [artefacts.known_json(manifest, "outputs") or {"outputs": {}} for manifest in manifests]
    noted = {one["outputs"][name] for one in known if name in one["outputs"]}
    return "damaged or changed" if noted and artefacts.digest(path) not in noted else None


def _makers(names: Sequence[str], profile: str, folder: Path) -> set[str]:
    """The notebooks that make those of the artefacts that are at fault, and what these notebooks lack."""
    makers = (notebooks.maker(name, profile) for name in names if _fault(name, folder))
    found = {maker for maker in makers if maker}
    reads = [
        name for book in notebooks.every() if book.name in found for name in book.files(profile, "reads")
    ]
    return found | _makers(reads, profile, folder) if found else found


def _short(frame: pandas.DataFrame) -> pandas.DataFrame:
    """The table with `DIGITS` of each number below a million: how threads order a sum must not show."""

    def short(value: Any) -> Any:
        small = isinstance(value, float) and abs(value) < 1e6
        return float(f"{round(value, 10):.{DIGITS}g}") + 0.0 if small else value  # + 0.0: no -0.0

    return frame.map(short)


def shown(path: Path) -> str:
    """A path as messages show it: relative to the repository if it lies inside."""
    root = notebooks.REPOSITORY
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


class Cost:
    """Seconds and peak memory of this process and its children, in MB (1e6 bytes), seen twice a second by a
    background thread. Memory that processes share counts in each of them, so the peak is an upper bound.

    `path` keeps what is spent, so that the parts of a run that was interrupted add up: those with an equal
    `key`. A kill loses what came after the last line of progress.
    """

    def __init__(self, path: Path | None = None, key: Any = None) -> None:
        self._process, self._began, self._path, self._key = psutil.Process(), time.monotonic(), path, key
        kept = (artefacts.known_json(path, "key", "wall_seconds", "peak_memory_mb") if path else None) or {}
        earlier = kept if kept.get("key") == key else {}
        self._before, self._peak = earlier.get("wall_seconds", 0.0), earlier.get("peak_memory_mb", 0)
        self._kept, self._over = self._began, threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def spent(self) -> dict[str, float]:
        """Both, as a manifest names them."""
        total = 0
        for process in [*self._process.children(recursive=True), self._process]:
            with contextlib.suppress(psutil.Error):
                total += process.memory_info().rss
        self._peak = max(self._peak, round(total / 1e6))
        seconds = round(self._before + time.monotonic() - self._began, 1)
        return {"wall_seconds": seconds, "peak_memory_mb": self._peak}

    def keep(self) -> None:
        """Write what is spent, if `KEPT_EACH` seconds have passed since it was written."""
        if self._path and time.monotonic() - self._kept >= KEPT_EACH:
            self._kept = time.monotonic()
            artefacts.write_json(self._path, {"key": self._key, **self.spent()})

    def end(self) -> dict[str, float]:
        """`spent`, and the work is over: nothing is kept."""
        self._over.set()
        if self._path:
            self._path.unlink(missing_ok=True)
        return self.spent()

    def _watch(self) -> None:
        while not self._over.wait(0.5):
            self.spent()
