"""What each notebook cost in recorded runs of the profile's own sizes: seconds by section, peak memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from grlib.runs import files as artefacts
from grlib.runs import freshness, notebooks

COLUMNS = ["profile", "notebook", "section", "seconds", "peak_memory_mb"]  # section "": the whole notebook
LONG_SECONDS = 10  # shorter sections are left out


def path() -> Path:
    """The file: one row per profile, notebook and long section."""
    return notebooks.REPOSITORY / "paper_results" / "measured" / "costs.csv"


def record(folders: Mapping[str, Path], books: Iterable[notebooks.Notebook]) -> None:
    """Store what these notebooks cost in finished run folders, given by profile; other rows stay."""
    parts = dict(iter(known().groupby(["profile", "notebook"], sort=False)))
    for profile, folder in folders.items():
        for book in books:
            if paid := freshness.recall(book, folder):
                long = {name: spent for name, spent in paid["sections"] if spent >= LONG_SECONDS}
                spent = pd.Series({"": paid["seconds"]} | long, name="seconds").rename_axis("section")
                rows = spent.reset_index().assign(profile=profile, notebook=book.name)
                parts[profile, book.name] = rows.assign(peak_memory_mb=paid["peak_memory_mb"])
    if parts:
        artefacts.write_table(path(), pd.concat(parts.values())[COLUMNS])


def known() -> pd.DataFrame:
    """The table, with the sections of a notebook in their order; without rows if nothing is recorded."""
    table = artefacts.read_table(path()) if path().is_file() else pd.DataFrame()
    return table.reindex(columns=COLUMNS).astype({"section": object}).fillna({"section": ""})


def whole(profile: str, notebook: str) -> float:
    """Seconds that a notebook took; 0 if unknown."""
    seconds = known().set_index(["profile", "notebook", "section"])["seconds"]
    return float(seconds.get((profile, notebook, ""), 0))
