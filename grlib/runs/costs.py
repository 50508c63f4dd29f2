"""What each notebook cost in recorded runs with its profile's own sizes: time by section, and memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from grlib.runs import files as artefacts
from grlib.runs import freshness, notebooks

COLUMNS = ["profile", "notebook", "section", "seconds", "peak_memory_mb"]  # no section: the whole
LONG_SECONDS = 10  # shorter sections are not listed


def path() -> Path:
    """Where the time and memory of recorded runs are kept, a row a profile, notebook and long section."""
    return notebooks.REPOSITORY / "paper_results" / "measured" / "costs.csv"


def record(folders: Mapping[str, Path], books: Iterable[notebooks.Notebook]) -> None:
    """Note what each of some notebooks cost in finished run folders, given by profile; other rows stay."""
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
    """What each notebook of each profile cost in recorded runs, and its long sections in their order."""
    table = artefacts.read_table(path()) if path().is_file() else pd.DataFrame()
    return table.reindex(columns=COLUMNS).astype({"section": object}).fillna({"section": ""})


def whole(profile: str, notebook: str) -> float:
    """Seconds of a notebook; 0 when none are known."""
    table = known()
    mine = (table["profile"] == profile) & (table["notebook"] == notebook) & (table["section"] == "")
    return float(table.loc[mine, "seconds"].sum())
