"""Checkpoints: all state of a run in one file, which is complete or absent."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from grlib.runs.files import atomic, digest, is_whole, plain, read_json, write_json


def finished(folder: Path, key: Mapping[str, Any], out: Path) -> bool:
    """Whether the run `key` that worked in `folder` has ended, with the model in `out`."""
    path = folder / "finished.json"
    return is_whole(path) and is_whole(out) and read_json(path) == plain({"key": key, "model": digest(out)})


def write_finished(folder: Path, key: Mapping[str, Any], out: Path) -> None:
    """Record that the run `key` has ended with the model in `out`: it then needs no checkpoint."""
    write_json(folder / "finished.json", {"key": key, "model": digest(out)})


def write_checkpoint(path: Path, key: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Write all state of the run `key` as one file, renamed into place when it is complete."""
    with atomic(path) as partial:
        torch.save({"key": key, **state}, partial)


def read_checkpoint(path: Path, key: Mapping[str, Any]) -> dict[str, Any] | None:
    """The state in a checkpoint; None if it is missing, unreadable or of another run than `key`."""
    if not path.is_file():
        return None
    try:
        state = torch.load(path, weights_only=True)
    except Exception:  # a truncated file raises whatever its reader raises; the run starts again
        return None
    return state if state["key"] == key else None
