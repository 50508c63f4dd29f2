"""Stored results: copy a finished run into the repository; redraw figures and tables from what is stored."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from grlib import artefacts, freshness, notebooks, runner, runs
from grlib.artefacts import MissingArtefact
from grlib.errors import GrlibError
from grlib.notebooks import REPOSITORY, Notebook

FIGURES = REPOSITORY / "figures"
FIGURE_NOTEBOOK = "09"
STORED = ("results", "tables", "manifests")


def measured_folder(profile: str, seed: int) -> Path:
    """Where the recorded results of a profile and seed are kept."""
    return REPOSITORY / "paper_results" / "measured" / profile / f"seed{seed}"


def record(request: runner.Request, dest: str = "", allow_stale: bool = False) -> list[str]:
    """Store a finished run: results, tables, manifests, figures, the notebooks' outputs; returns notes.

    Refuses a run whose notebooks are not all up to date, and a smoke run unless `dest` names a folder.
    With `dest` all of it goes there and the repository's own record stays as it is.
    """
    if request.profile == "smoke" and not dest:
        raise GrlibError(
            "profile 'smoke': its numbers mean nothing and are not recorded; give --dest for a trial"
        )
    chosen = [notebook for notebook in notebooks.every() if notebook.in_profile(request.profile)]
    stale = _stale(chosen, request, allow_stale)
    target = Path(dest).expanduser().resolve() if dest else measured_folder(request.profile, request.seed)
    _check_owner(target, request)
    with runner.locked(request.folder):
        names = _declared(chosen, request)
        hide = _private_texts(request)
        for kind in STORED:
            _replace(target / kind, request.folder, [name for name in names if name.startswith(f"{kind}/")])
        figures = target / "figures" if dest else FIGURES / request.profile
        if dest or request.seed == 0 or not figures.is_dir():  # the examples shown are those of seed 0
            _replace(figures, request.folder, _with_companions(names, request.folder))
        recorded = _record_notebooks(chosen, request, target / "notebooks" if dest else None, hide)
    commits = sorted({str(artefacts.read_json(path)["commit"]) for path in target.glob("manifests/*.json")})
    summary = {
        "profile": request.profile,
        "seed": request.seed,
        "commits": commits,
        "stale": stale,
        "notebooks": recorded,
    }
    artefacts.write_json(target / "record.json", summary)
    notes = [f"stored in {runs.shown(target)} and {runs.shown(figures)}"]
    notes += (
        [] if recorded else ["notebooks: left as they are, since their defaults are another profile or seed"]
    )
    notes += [f"note: the notebooks ran at {len(commits)} different commits"] if len(commits) > 1 else []
    return notes + [f"note: {name} was out of date ({reason})" for name, reason in stale.items()]


def _stale(chosen: list[Notebook], request: runner.Request, allowed: bool) -> dict[str, str]:
    """Notebooks out of date and why; GrlibError when one never finished or none is allowed."""
    found = {}
    for notebook in chosen:
        reason = freshness.why_stale(notebook, request.injected(notebook), request.folder)
        if reason and (not allowed or freshness.recall(notebook, request.folder) is None):
            raise GrlibError(
                f"{notebook.name}: {reason}, so this run is not complete; first: {request.resume_command()}"
            )
        if reason:
            found[notebook.name] = reason
    return found


def _check_owner(target: Path, request: runner.Request) -> None:
    path = target / "record.json"
    if path.exists():
        owner = artefacts.read_json(path)
        if (owner["profile"], owner["seed"]) != (request.profile, request.seed):
            raise GrlibError(
                f"{target}: holds the record of profile {owner['profile']}, seed {owner['seed']}; "
                f"it is not overwritten with {request.profile}, {request.seed}: name another --dest"
            )


def _declared(chosen: list[Notebook], request: runner.Request) -> list[str]:
    """Every file (relative to the run folder) that the notebooks declare, and all manifests."""
    names = {name for notebook in chosen for name in notebook.writes(request.profile)}
    files: set[str] = {f"manifests/{notebook.name}.json" for notebook in chosen}
    for name in names:
        path = request.folder / name
        inside = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
        files.update(file.relative_to(request.folder).as_posix() for file in inside)
    return sorted(name for name in files if (request.folder / name).is_file())


def _with_companions(names: Iterable[str], folder: Path) -> list[str]:
    """The declared figures with the other two of .png, .svg and .csv."""
    stems = {name.rpartition(".")[0] for name in names if name.startswith("figures/")}
    return sorted(
        f"{stem}{end}"
        for stem in stems
        for end in (".png", ".svg", ".csv")
        if (folder / f"{stem}{end}").exists()
    )


def _replace(target: Path, folder: Path, names: list[str]) -> None:
    """Make `target` hold exactly these files of the run folder (paths without their first part)."""
    if not names:
        return
    with artefacts.atomic_folder(target) as fresh:
        for name in names:
            destination = fresh / name.partition("/")[2]
            destination.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, destination)


def _record_notebooks(
    chosen: list[Notebook], request: runner.Request, dest: Path | None, hide: dict[str, str]
) -> dict[str, str]:
    """Write the cleaned outputs; returns the digest of the manifest that each notebook belongs to."""
    done = {}
    for notebook in chosen:
        defaults = notebook.parameters()
        if dest is None and (defaults.get("profile"), defaults.get("seed")) != (
            request.profile,
            request.seed,
        ):
            continue
        executed = notebooks.read(freshness.executed_path(notebook, request.folder))
        content = notebooks.with_outputs(notebook, executed, hide)
        manifest = artefacts.digest(request.folder / "manifests" / f"{notebook.name}.json")
        recorded = {"profile": request.profile, "seed": request.seed, "manifest": manifest}
        content["metadata"]["grlib"] = {**content["metadata"].get("grlib", {}), "recorded": recorded}
        _write_notebook((dest / notebook.path.name) if dest else notebook.path, content)
        done[notebook.name] = manifest
    return done


def _write_notebook(path: Path, content: dict[str, Any]) -> None:
    import nbformat

    node = nbformat.from_dict(content)
    artefacts.write_bytes(path, (nbformat.writes(node) + "\n").encode())


def _private_texts(request: runner.Request) -> dict[str, str]:
    """Absolute paths of this machine and what stands for them in stored outputs."""
    relative = f"runs/{request.profile}/seed{request.seed}"
    return {
        str(request.folder): relative,
        f"{REPOSITORY}/": "",
        str(REPOSITORY): ".",
        sys.prefix: "<environment>",
        sys.base_prefix: "<python>",
        str(Path.home()): "~",
    }


# Redrawing


def redraw(profile: str, source: str = "", dest: str = "") -> list[str]:
    """Draw every figure and table again from all recorded seeds; returns what was written.

    Results come from the record of the profile, or from `source`: a folder with seed<number>/results in it,
    or one run folder. Figures go to figures/<profile>, tables beside the results, or both to `dest`.
    """
    runs.resolve(profile, {})
    stored = Path(source).expanduser().resolve() if source else measured_folder(profile, 0).parent
    folders = _stored_seeds(stored, profile)
    work = REPOSITORY / "runs" / "figures" / profile
    shutil.rmtree(work, ignore_errors=True)
    first = min(folders)
    for seed, folder in folders.items():
        for kind in ("results", "manifests"):
            if (folder / kind).is_dir():
                shutil.copytree(folder / kind, work / "measured" / profile / f"seed{seed}" / kind)
    shutil.copytree(folders[first] / "results", work / "results")
    runs.claim(work, profile, first)
    notebook = notebooks.find(notebooks.every(), FIGURE_NOTEBOOK)
    parameters = {"results_dir": str(work / "measured")} if "results_dir" in notebook.parameters() else {}
    request = runner.Request(profile, first, str(work), only=(notebook.name,), parameters=parameters)
    runner.reproduce(request)
    places = {
        "figures": Path(dest).resolve() / "figures" if dest else FIGURES / profile,
        "tables": Path(dest).resolve() / "tables" if dest else stored / "tables",
    }
    names = _declared([notebook], request)
    written = []
    for name in [*_with_companions(names, work), *(name for name in names if name.startswith("tables/"))]:
        kind, _, rest = name.partition("/")
        artefacts.write_bytes(places[kind] / rest, (work / name).read_bytes())
        written.append(runs.shown(places[kind] / rest))
    return written


def _stored_seeds(stored: Path, profile: str) -> dict[int, Path]:
    """The folders with results under `stored`, by seed; MissingArtefact when there are none."""
    from grlib.results import seed_folders

    if (stored / "results").is_dir():
        owners = [stored / name for name in ("record.json", "run.json") if (stored / name).is_file()]
        return {int(artefacts.read_json(owners[0])["seed"]) if owners else 0: stored}
    found = seed_folders(stored.parent, stored.name)
    folders = {seed: folder for seed, folder in found.items() if (folder / "results").is_dir()}
    if not folders:
        raise MissingArtefact(
            f"{runs.shown(stored)}: no seed<number>/results in it, so no {profile} run is recorded there; "
            f"first `python -m grlib reproduce --profile {profile}`, then `record`; or give another --source"
        )
    return folders
