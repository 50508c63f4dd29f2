"""Recorded results: copies a finished run into the repository; redraws figures and tables from the record."""

from __future__ import annotations

import copy
import io
import shutil
import sys
import tempfile
from contextlib import ExitStack, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

from grlib.errors import GrlibError
from grlib.profiles import NO_EVIDENCE
from grlib.runs import costs, freshness, notebooks, plain, runner
from grlib.runs import files as artefacts
from grlib.runs import run as runs
from grlib.runs.notebooks import REPOSITORY, Notebook

FIGURES = REPOSITORY / "figures"
FIGURE_NOTEBOOK = "09"
STORED = ("results", "tables", "manifests")
FROM_CODE = "from_code"  # tag of a cell that shows source or settings; it needs imports, parameters and `run`


def measured_folder(profile: str, seed: int) -> Path:
    """The folder of the recorded results of a profile and seed."""
    return REPOSITORY / "paper_results" / "measured" / profile / f"seed{seed}"


def record(request: runner.Request, dest: str = "") -> list[str]:
    """Store a finished run: results, tables, manifests, figures, the notebooks' outputs. Returns notes.

    Every seed keeps its results. The notebooks' outputs, the example figures and the costs are those of the
    lowest recorded seed (costs only of a run with the profile's own sizes). Then figures and tables are drawn
    again from all seeds.
    With `request.only`, the files of those notebooks join the record or begin one; it must
    hold every file that they used. With `dest`, all is written there and the repository's record does not
    change. GrlibError for a run whose notebooks are not all up to date; and, unless `dest` is given, for a
    profile without evidence (smoke, rehearsal), and for a record of several commits, of a tree with changes
    that are in no commit, or of settings that differ between its notebooks or seeds.
    """
    if request.profile in NO_EVIDENCE and not dest:
        raise GrlibError(f"profile {request.profile!r}: its numbers mean nothing, so give --dest for a trial")
    chosen = request.notebooks()
    request = _as_it_ran(request, chosen)
    _refuse_stale(chosen, request)
    target = artefacts.absolute(dest) if dest else measured_folder(request.profile, request.seed)
    kept = target / "record.json"
    before = artefacts.read_json(kept, "profile", "seed") if kept.exists() else None
    if before and (before["profile"], before["seed"]) != (request.profile, request.seed):
        raise GrlibError(
            f"{target}: holds the record of profile {before['profile']}, seed {before['seed']}; "
            f"it is not overwritten with {request.profile}, {request.seed}: name another --dest"
        )
    joins = bool(request.only)
    paths = {path.stem: path for path in target.glob("manifests/*.json") if joins}
    paths |= {book.name: request.folder / "manifests" / f"{book.name}.json" for book in chosen}
    manifests = {name: artefacts.read_json(path, "commit") for name, path in paths.items()}
    if not dest:
        if joins:
            _refuse_loose_ends(chosen, manifests, target)
        others = (path for path in target.parent.glob("seed*/manifests/*.json") if target not in path.parents)
        _refuse_mixed(manifests | {runs.shown(path): artefacts.read_json(path) for path in others})
    lowest = bool(dest) or request.seed <= min(
        artefacts.seed_folders(target.parents[1], request.profile), default=request.seed
    )
    figures = target / "figures" if dest else FIGURES / request.profile
    recorded: dict[Path, bytes] = {}
    # all is read and copied before anything is replaced
    with artefacts.locked(request.folder), ExitStack() as places:
        files = _files(chosen, request)
        for kind in STORED:
            _replace(places, target / kind, kind, request.folder, files, joins)
        if lowest:
            shown = [name for name in files if dest or not name.endswith((".csv", ".svg"))]
            _replace(places, figures, "figures", request.folder, shown, joins)
            recorded = _with_outputs(chosen, request, target / "notebooks" if dest else None)
        for path, content in recorded.items():
            places.enter_context(artefacts.atomic(path)).write_bytes(content)
    commits = sorted({str(one["commit"]) for one in manifests.values()})
    artefacts.write_dataset_card(target)
    artefacts.write_json(kept, {"profile": request.profile, "seed": request.seed, "commits": commits})
    if not dest:
        if lowest:
            own_sizes = {} if request.parameters else {request.profile: request.folder}
            costs.record({"smoke": runs.run_folder("smoke", 0)} | own_sizes, chosen)
        redraw(request.profile, outputs=True)
    notes = [f"stored in {runs.shown(target)} and {runs.shown(figures)}"]
    if not recorded:
        notes.append("notebooks: not changed, since they hold another profile or a lower seed")
    return notes


def _refuse_loose_ends(chosen: list[Notebook], manifests: dict[str, Any], target: Path) -> None:
    """GrlibError if a notebook that joins a record used a file, or a version of one, that is not in it."""
    outputs = {name: digest for one in manifests.values() for name, digest in one.get("outputs", {}).items()}
    for book in chosen:
        for used, digest in manifests[book.name].get("inputs", {}).items():
            if not used.startswith(notebooks.IN_REPOSITORY) and outputs.get(used) != digest:
                raise GrlibError(
                    f"{book.name}: it used a {used} that is not in the record {runs.shown(target)}; record "
                    "the notebook that made it too, or run this one again in the run folder of that record"
                )


def _as_it_ran(request: runner.Request, chosen: list[Notebook]) -> runner.Request:
    """The request with the parameters that its notebooks ran with; if they differ, the first one's."""
    given: dict[str, Any] = {}
    for notebook in chosen:
        defaults = notebook.parameters() | {"profile": request.profile, "seed": request.seed}
        for name, value in (freshness.recall(notebook, request.folder) or {}).get("depends_on", {}).items():
            kind, _, parameter = name.partition(" ")
            if kind == "parameter" and value != defaults.get(parameter):
                given.setdefault(parameter, value)
    return replace(request, parameters=given)


def _refuse_stale(chosen: list[Notebook], request: runner.Request) -> None:
    """GrlibError if a notebook is out of date."""
    for notebook in chosen:
        if reason := freshness.why_stale(notebook, request.injected(notebook), request.folder):
            first = request.resume_command()
            raise GrlibError(f"{notebook.name}: {reason}, so this run is not complete; first: {first}")


def _refuse_mixed(manifests: dict[str, Any]) -> None:
    """GrlibError unless all notebooks ran at one commit, with no change beside it, and agree on each setting
    that two of them read."""
    known: dict[str, tuple[str, Any]] = {}
    for name, one in manifests.items():
        if one.get("dirty"):
            raise GrlibError(
                f"{name}: ran with changes that are in no commit; commit them, and run it again with --force"
            )
        settings = {f"setting {read}": one["settings"][read] for read in one.get("settings_read", ())}
        for what, value in {"commit": one["commit"], **settings}.items():
            first, before = known.setdefault(what, (name, value))
            if value != before:
                raise GrlibError(
                    f"{name}: its {what} is not that of {first}, and a record has one; run one of them again "
                    "with --force, or remove the older record"
                )


def _files(chosen: list[Notebook], request: runner.Request) -> list[str]:
    """Names of the files that the notebooks declare, figures in all formats, and of the manifests."""
    folder, found = request.folder, set[Path]()
    for notebook in chosen:
        declared = notebook.files(request.profile, "writes", "may_write")
        for name in (*declared, f"manifests/{notebook.name}.json"):
            path = folder / name
            found.update(path.rglob("*") if path.is_dir() else path.parent.glob(f"{path.stem}.*"))
    return sorted(path.relative_to(folder).as_posix() for path in found if path.is_file())


def _replace(places: ExitStack, target: Path, kind: str, folder: Path, files: list[str], joins: bool) -> None:
    """Let `target` hold the files of one kind when `places` closes; with `joins` the others stay."""
    names = [name.removeprefix(f"{kind}/") for name in files if name.startswith(f"{kind}/")]
    if names:
        fresh = places.enter_context(artefacts.atomic_folder(target))
        if joins and target.is_dir():
            shutil.copytree(target, fresh, dirs_exist_ok=True)
        for name in names:
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / kind / name, fresh / name)
        artefacts.write_dataset_card(fresh)


def _with_outputs(
    chosen: list[Notebook], request: runner.Request, dest: Path | None, seeds: tuple[int, ...] = ()
) -> dict[Path, bytes]:
    """The notebooks with cleaned outputs and the digest of their manifests, by the path that they belong to:
    in the repository only those whose default is this profile, or all in `dest`.

    `seeds`: those that the outputs show, if several.
    """
    import nbformat

    made = {}
    chosen = [book for book in chosen if dest or book.parameters().get("profile") == request.profile]
    hide = {str(request.folder): f"runs/{request.profile}/seed{request.seed}", f"{REPOSITORY}/": ""}
    hide |= {str(REPOSITORY): ".", sys.prefix: "<environment>", sys.base_prefix: "<python>"}
    hide[str(Path.home())] = "~"
    for notebook in chosen:
        executed = notebooks.read(freshness.executed_path(notebook, request.folder))
        content = notebooks.with_outputs(notebook, executed, hide)
        manifest = artefacts.digest(request.folder / "manifests" / f"{notebook.name}.json")
        recorded = {"profile": request.profile, "seed": request.seed, "manifest": manifest}
        recorded |= {"seeds": list(seeds)} if seeds else {}
        content["metadata"]["grlib"] = {**notebook.declared, "recorded": recorded}
        path = dest / notebook.path.name if dest else notebook.path
        made[path] = f"{nbformat.writes(nbformat.from_dict(content))}\n".encode()
    return made


def refreshed(notebook: Notebook) -> bytes:
    """The file of a notebook with a record, with what its cells tagged `FROM_CODE` print or return today."""
    import nbformat

    fresh, recorded = copy.deepcopy(notebook), notebook.declared.get("recorded")
    tagged = [cell for cell in fresh.code() if notebooks.is_tagged(cell, FROM_CODE)]
    if not (recorded and tagged):
        return notebook.path.read_bytes()
    stored = measured_folder(recorded["profile"], recorded["seed"]) / "manifests" / f"{notebook.name}.json"
    manifest = artefacts.read_json(stored, "parameters", "settings")
    names = notebook.parameters() | manifest["parameters"]
    with tempfile.TemporaryDirectory() as names["run_dir"]:
        for cell in tagged:
            with redirect_stdout(io.StringIO()) as printed:
                value = plain.run_cell(cell["source"], names, f"<{notebook.name}>")
            text, count = printed.getvalue(), fresh.code().index(cell) + 1
            stream = {"output_type": "stream", "name": "stdout", "text": text}
            cell["execution_count"], cell["outputs"] = count, [stream] if text else []
            if value is not None:
                data = {"text/plain": repr(value), "text/html": value._repr_html_()}
                result = {"output_type": "execute_result", "execution_count": count, "metadata": {}}
                cell["outputs"].append(result | {"data": data})
    now, read = artefacts.plain(names["run"].profile.settings()), manifest.get("settings_read", ())
    if any(now.get(name) != manifest["settings"].get(name) for name in read):
        return notebook.path.read_bytes()  # what is stored belongs to other settings until the next record
    return f"{nbformat.writes(nbformat.from_dict(fresh.content))}\n".encode()


# Redrawing


def redraw(profile: str, source: str = "", dest: str = "", outputs: bool = False) -> None:
    """Draw every figure and table again from all recorded seeds, and print what was written.

    Results come from the record of the profile, or from `source`: a folder with seed<number>/results in it,
    or one run folder. Figures go to figures/<profile> (PNG, and CSV of what is drawn) and tables beside the
    results, or both to `dest`, with SVG.
    `outputs`: with several seeds, the outputs of notebook 09 are stored too, with its manifest.
    """
    runs.resolve(profile, 0, {})
    stored = artefacts.absolute(source) if source else measured_folder(profile, 0).parent
    folders = _stored_seeds(stored, profile)
    work = REPOSITORY / "runs" / "figures" / profile
    shutil.rmtree(work, ignore_errors=True)
    (work / "measured" / profile).mkdir(parents=True, exist_ok=True)
    for seed, folder in folders.items():
        (work / "measured" / profile / f"seed{seed}").symlink_to(folder, target_is_directory=True)
    first = min(folders)
    shutil.copytree(folders[first] / "results", work / "results")
    notebook = notebooks.find(notebooks.every(), FIGURE_NOTEBOOK)
    parameters = {"results_dir": str(work / "measured")}
    request = runner.Request(profile, first, str(work), only=(notebook.name,), parameters=parameters)
    runner.reproduce(request)
    places = {"figures": FIGURES / profile, "tables": stored / "tables"}
    if outputs and len(folders) > 1:
        for path, content in _with_outputs([notebook], request, None, tuple(folders)).items():
            artefacts.write_bytes(path, content)
            places["manifests"] = stored / "manifests"
    for name in _files([notebook], request):
        kind, _, rest = name.partition("/")
        if kind in places and (dest or not name.endswith(".svg")):  # the repository keeps no SVG
            place = (artefacts.absolute(dest) / kind if dest else places[kind]) / rest
            artefacts.write_bytes(place, (work / name).read_bytes())
            print("wrote", runs.shown(place))


def _stored_seeds(stored: Path, profile: str) -> dict[int, Path]:
    """The folders with results under `stored`, by seed; MissingArtefact if there are none."""
    if (stored / "results").is_dir():
        owners = [stored / name for name in ("record.json", "run.json") if (stored / name).is_file()]
        return {int(artefacts.read_json(owners[0], "seed")["seed"]) if owners else 0: stored}
    found = artefacts.seed_folders(stored.parent, stored.name)
    folders = {seed: folder for seed, folder in found.items() if (folder / "results").is_dir()}
    if not folders:
        raise artefacts.MissingArtefact(
            f"{runs.shown(stored)}: no seed<number>/results in it, so no {profile} run is recorded there; "
            f"first `python -m grlib reproduce --profile {profile}`, then `record`; or give another --source"
        )
    return folders
