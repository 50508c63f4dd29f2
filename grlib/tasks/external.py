"""Rows of data sets from the hub, or from a local folder or file of parquet or JSON lines."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from grlib.errors import GrlibError, one_line

if TYPE_CHECKING:
    from datasets import Dataset

KINDS = {".parquet": "parquet", ".jsonl": "json", ".json": "json"}


def load_rows(place: str, split: str = "train") -> Dataset:
    """The rows of one split of a data set; raises GrlibError if it cannot be loaded.

    `place` is a folder, a file, or a hub name with or without a revision (`owner/name@commit`). In a folder,
    a split is the files `<split>.*` or `<split>-*`, or else what `datasets` finds. A file is one split,
    whatever its name.
    """
    from datasets import load_dataset

    path = Path(place).expanduser()
    if path.exists() and (
        sign := re.search(r"::|[\[\]*?]", str(path.absolute()))
    ):  # `datasets` reads patterns
        raise GrlibError(f"data set {place!r}: {sign[0]!r} in its path cannot be read; rename the folder")
    files = [path] if path.is_file() else _files(path, split)
    name, _, revision = place.partition("@")
    try:
        if files:
            kind = KINDS.get(files[0].suffix, "json")
            return load_dataset(kind, data_files=[str(file) for file in files], split="train")
        if path.is_dir():
            return load_dataset(str(path), split=split)
        return load_dataset(name, split=split, revision=revision or None)
    except Exception as error:  # `datasets` raises many types
        raise GrlibError(
            f"data set {place!r}, split {split!r}: {one_line(error)}; name a data set of the hub, or a local "
            "folder or file, and let HF_HOME name a folder to write in"
        ) from error


def _files(folder: Path, split: str) -> list[Path]:
    """The files of a split by their names, in the folder or in its `data` folder, as on the hub."""
    places = [folder, folder / "data"] if folder.is_dir() else []
    found = [path for place in places for path in sorted(place.glob(f"{split}*")) if path.suffix in KINDS]
    return [path for path in found if path.stem == split or path.stem.startswith(f"{split}-")]
