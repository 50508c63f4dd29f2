"""Checkpoints: all state of a run in one file that is whole or not there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    pass


def write_checkpoint(path: Path, key: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """All state of a run in one file, renamed into place when it is complete; `key` says whose it is."""
    from grlib.runs.files import atomic

    with atomic(path) as partial:
        torch.save({"key": key, **state}, partial)


def read_checkpoint(path: Path, key: Mapping[str, Any]) -> dict[str, Any] | None:
    """The state in a checkpoint of the run `key`; None where there is none, or one that cannot be read."""
    if not path.is_file():
        return None
    try:
        state = torch.load(path, weights_only=True)
    except Exception:  # a truncated file raises whatever its reader raises; the run begins anew
        return None
    return state if state["key"] == key else None
