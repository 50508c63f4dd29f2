"""Is a notebook's work up to date? Digests of code, parameters, inputs and outputs decide."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grlib import artefacts
from grlib.notebooks import IN_REPOSITORY, REPOSITORY, Notebook

STATE = "state"


def located(name: str, folder: Path) -> Path:
    """The path of a declared artefact: in the run folder, or in the repository if it starts with "repo:"."""
    if name.startswith(IN_REPOSITORY):
        return REPOSITORY / name.removeprefix(IN_REPOSITORY)
    return folder / name


def state_path(notebook: Notebook, folder: Path) -> Path:
    """Where the record of a notebook's last finished run is kept."""
    return folder / STATE / f"{notebook.name}.json"


def executed_path(notebook: Notebook, folder: Path) -> Path:
    """Where the executed notebook is kept."""
    return folder / "executed" / notebook.path.name


def snapshot(notebook: Notebook, parameters: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What a run of this notebook depends on, as digests by name; taken before the run."""
    resolved = {**notebook.parameters(), **parameters}
    resolved.pop("run_dir", None)  # a moved run folder is still up to date
    profile = str(resolved.get("profile", ""))
    return {
        "code": notebook.code_digest(),
        "parameters": artefacts.plain(resolved),
        "modules": notebook.modules(),
        "reads": _digests(notebook.reads(profile), folder),
    }


def remember(notebook: Notebook, before: Mapping[str, Any], folder: Path, extra: Mapping[str, Any]) -> None:
    """Store that a run with this snapshot finished, with the digests of what it wrote."""
    profile = str(before["parameters"].get("profile", ""))
    record = {**before, **extra, "writes": _digests(notebook.writes(profile), folder)}
    artefacts.write_json(state_path(notebook, folder), record)


def recall(notebook: Notebook, folder: Path) -> dict[str, Any] | None:
    """The stored record of the last finished run, None when there is none."""
    path = state_path(notebook, folder)
    return artefacts.read_json(path) if artefacts.is_whole(path) else None


def why_stale(notebook: Notebook, parameters: Mapping[str, Any], folder: Path) -> str | None:
    """Why a notebook must run again, in a few words; None when its work is up to date."""
    record = recall(notebook, folder)
    if record is None:
        return "not finished here yet"
    now = snapshot(notebook, parameters, folder)
    if record["code"] != now["code"]:
        return "the notebook's code changed"
    for part, words in (
        ("parameters", "parameter {} changed"),
        ("modules", "{} changed"),
        ("reads", "input {} changed"),
    ):
        changed = _differing(record[part], now[part])
        if changed:
            return words.format(changed[0]) + (f" (and {len(changed) - 1} more)" if len(changed) > 1 else "")
    written = _differing(record["writes"], _digests(list(record["writes"]), folder))
    if written:
        return f"output {written[0]} is missing or was changed"
    if set(record["writes"]) != set(notebook.writes(str(now["parameters"].get("profile", "")))):
        return "the list of declared outputs changed"
    return None if executed_path(notebook, folder).exists() else "the executed notebook is missing"


def _digests(names: list[str], folder: Path) -> dict[str, str | None]:
    paths = {name: located(name, folder) for name in names}
    return {name: artefacts.digest(path) if path.exists() else None for name, path in paths.items()}


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
