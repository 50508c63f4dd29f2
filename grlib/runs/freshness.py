"""Is a notebook's work up to date? Settings, parameters and digests of code, inputs and outputs decide."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grlib import profiles
from grlib.errors import GrlibError
from grlib.runs import files as artefacts
from grlib.runs.notebooks import IN_REPOSITORY, REPOSITORY, Notebook
from grlib.runs.sources import reached

# of a finished run: what it depended on, the digests of what it wrote, and its cost
RECORD = ("depends_on", "written", "seconds", "peak_memory_mb", "sections")


def located(name: str, folder: Path) -> Path:
    """The path of an artefact: in the run folder, or in the repository if its name starts with "repo:"."""
    root = REPOSITORY if name.startswith(IN_REPOSITORY) else folder
    path = root / name.removeprefix(IN_REPOSITORY)
    if not path.resolve().is_relative_to(root.resolve()):
        raise GrlibError(f"artefact {name!r}: must lie inside the run folder, as 'results/03_eval.parquet'")
    return path


def state_path(notebook: Notebook, folder: Path) -> Path:
    """The file with the record of a notebook's last finished run."""
    return folder / "state" / f"{notebook.name}.json"


def executed_path(notebook: Notebook, folder: Path) -> Path:
    """The file of the executed notebook."""
    return folder / "executed" / notebook.path.name


def snapshot(notebook: Notebook, parameters: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What a run of this notebook depends on: values and digests, by the names that messages give them."""
    resolved = {**notebook.parameters(), **parameters}
    resolved.pop("run_dir", None)  # a moved run folder is still up to date
    profile = resolved.get("profile")
    settings = profiles.get(profile).settings() if profile else {}
    modules = notebook.modules()
    if settings and "grlib.sampling.pool" in modules:  # which imports the profile's engine when it is used
        modules |= reached([f"grlib.sampling.{settings['sampling']['engine']}"])
    return {
        "the notebook's code": notebook.code_digest(),
        **{f"setting {name}": artefacts.plain(value) for name, value in settings.items()},
        **{f"parameter {name}": artefacts.plain(value) for name, value in resolved.items()},
        **modules,
        **_digests("input", notebook.files(str(profile), "reads", "may_read"), folder),
    }


def remember(notebook: Notebook, before: Mapping[str, Any], folder: Path, cost: Mapping[str, Any]) -> None:
    """Store that a run with the snapshot `before` finished, the digests of what it wrote, and its cost.

    Of the settings, only those that the notebook read are kept; its manifest names them.
    """
    noted = folder / "manifests" / f"{notebook.name}.json"
    manifest = artefacts.known_json(noted) or {}
    read = {f"setting {name}" for name in manifest.get("settings_read", ())}
    if read:
        unread = {name for name in before if name.startswith("setting ")} - read
        before = {name: value for name, value in before.items() if name not in unread}
    names = notebook.files(str(before.get("parameter profile")), "writes")
    own = [path for path in (noted, executed_path(notebook, folder)) if path.exists()]
    names += [path.relative_to(folder).as_posix() for path in own]
    written = _digests("output", names, folder)
    artefacts.write_json(state_path(notebook, folder), {"depends_on": before, "written": written, **cost})


def recall(notebook: Notebook, folder: Path) -> dict[str, Any] | None:
    """The record of the last finished run, None if there is none or it is damaged."""
    return artefacts.known_json(state_path(notebook, folder), *RECORD)


def why_stale(notebook: Notebook, parameters: Mapping[str, Any], folder: Path) -> str | None:
    """Why a notebook must run again, as "parameter seed changed"; None if its work is up to date."""
    record = recall(notebook, folder)
    if record is None:
        damaged = state_path(notebook, folder).exists()
        return "the record of its last run is damaged" if damaged else "not finished here yet"
    now, before = snapshot(notebook, parameters, folder), record.get("depends_on", {})
    unread = {name for name in now if name.startswith("setting ")} - before.keys()
    changed = [name for name in now | before if now.get(name) != before.get(name) and name not in unread]
    if changed:
        return f"{changed[0]} changed" + (f" (and {len(changed) - 1} more)" if len(changed) > 1 else "")
    names = [name.removeprefix("output ") for name in record["written"]]
    names += notebook.files(str(now.get("parameter profile")), "writes")
    for name, written in _digests("output", names, folder).items():
        if written is None or written != record["written"].get(name):
            return f"{name} is missing or was changed"
    return None if executed_path(notebook, folder).exists() else "the executed notebook is missing"


def _digests(kind: str, names: list[str], folder: Path) -> dict[str, str | None]:
    paths = {f"{kind} {name}": located(name, folder) for name in names}
    return {name: artefacts.digest(path) if path.exists() else None for name, path in paths.items()}
