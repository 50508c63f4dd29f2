"""The rows of a window: those that earlier windows left in the same folder, and those that it adds."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from grlib.runs import files as artefacts


class Stored:
    """results/*.parquet of a folder, by the name of the file; every change is written at once."""

    def __init__(self, folder: Path) -> None:
        """Read what is there."""
        self.folder = folder
        self.tables = {path.stem: artefacts.read_table(path) for path in sorted(folder.glob("*.parquet"))}

    def of(self, stem: str, **wanted: object) -> pd.DataFrame:
        """The rows of a table whose columns have the wanted values; no rows where the table is not there."""
        rows = self.tables.get(stem, pd.DataFrame())
        for column, value in wanted.items():
            rows = rows[rows[column] == value] if column in rows else rows.head(0)
        return rows

    def add(self, stem: str, rows: pd.DataFrame) -> None:
        """Add rows to a table."""
        held = [self.tables[stem]] if stem in self.tables else []
        self._write(stem, pd.concat([*held, rows], ignore_index=True))

    def drop(self, stem: str, **wanted: object) -> None:
        """Take away the rows that `of` gives."""
        gone = self.of(stem, **wanted).index
        if len(gone):
            self._write(stem, self.tables[stem].drop(index=gone).reset_index(drop=True))

    def _write(self, stem: str, rows: pd.DataFrame) -> None:
        self.tables[stem] = rows
        artefacts.write_table(self.folder / f"{stem}.parquet", rows)
