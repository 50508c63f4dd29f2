"""The README's measured parts: written from the recorded results, so that no number in them is typed.

`python -m grlib record` and `figures` refresh them; so does `python -m grlib.readme` alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grlib import artefacts, freshness, notebooks, profiles
from grlib.errors import GrlibError

Costs = dict[tuple[str, str], tuple[float, int]]  # (profile, notebook) -> (seconds, peak memory in MB)

if TYPE_CHECKING:
    import pandas

    from grlib.results import Results

PROFILE = "laptop"  # whose results the README shows
COSTED = ("smoke", "laptop", "gpu", "paper")
COST_COLUMNS = ["profile", "notebook", "seconds", "peak_memory_mb"]
MISSING = "–"
MOST_NAMES = 2  # files of one folder named one by one; more are counted

# The notebook whose results decide a claim; the others wait for PPO and code self-repair.
DECIDED_IN = {
    "03": ("sos_above_bc",),
    "04": ("hints_accuracy", "hints_cross_entropy"),
    "05": ("guided_likelier", "node_choice_trades"),
    "06": ("rest_above_sos", "guided_above_rest", "gap_grows", "rest_fades")
    + ("guided_above_matched", "guided_tokens", "guided_yield"),
}
DECIMALS = {"points": 1, "percent": 1, "ratio": 2, "nats per token": 3}


def refresh() -> bool:
    """Write the measured parts into README.md; False when there is no README or they were up to date."""
    path = notebooks.REPOSITORY / "README.md"
    if not path.is_file():
        return False
    old = new = path.read_text(encoding="utf-8")
    for name, content in parts().items():
        begin, end = _place(new, name)
        new = new[:begin] + content + new[end:]
    if new == old:
        return False
    artefacts.write_bytes(path, new.encode())
    return True


def stored_part(text: str, name: str) -> str:
    """What stands between the markers of a part in the text of a README."""
    begin, end = _place(text, name)
    return text[begin:end]


def _place(text: str, name: str) -> tuple[int, int]:
    first, last = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if text.count(first) != 1 or text.count(last) != 1 or text.index(first) > text.index(last):
        raise GrlibError(f"README.md: must hold {first} and, after it, {last}, once each; put them back")
    return text.index(first) + len(first), text.index(last)


def parts() -> dict[str, str]:
    """The measured parts by name, as Markdown, from the recorded results of the laptop profile."""
    from grlib import claims, results

    measured = notebooks.REPOSITORY / "paper_results" / "measured"
    folders = results.seed_folders(measured, PROFILE)
    stored = results.load(folders, PROFILE)
    status = claims.claims(stored)
    made = {
        "status": _status_part(folders, status),
        "results": _results_part(stored, status) if folders else ["Nothing is recorded yet."],
        "profiles": [profile_table()],
    }
    return {name: "\n\n" + "\n\n".join(paragraphs) + "\n\n" for name, paragraphs in made.items()}


def _status_part(folders: Mapping[int, Path], status: pandas.DataFrame) -> list[str]:
    headline = f"figures/{PROFILE}/headline.png"
    alt = "pass@k of SoS, ReST and Guided-ReST: published on the left, measured here on the right"
    figure = [f"![{alt}]({headline})"] if (notebooks.REPOSITORY / headline).is_file() else []
    return [*figure, _summary(folders, status), notebook_table(status, known_costs(), list(folders))]


def _results_part(stored: Results, status: pandas.DataFrame) -> list[str]:
    from grlib import tables

    return [
        "**Table 2: pass@k in percent, published / measured.** Unseen targets never occur in training.",
        pass_table(stored),
        _truncation_note(tables.table2(stored)),
        "**The claims, each judged by a rule fixed in `grlib/claims.py`.** Measured values carry their 95 % "
        "bootstrap interval over problems, paired by problem where two methods are compared.",
        claims_table(status),
    ]


def _summary(folders: Mapping[int, Path], status: pandas.DataFrame) -> str:
    if not folders:
        return f"**No {PROFILE} run is recorded yet**: `make reproduce`, then `make record`."
    manifests = [
        artefacts.read_json(path)
        for folder in folders.values()
        for path in sorted(folder.glob("manifests/*.json"))
    ]
    seeds = ", ".join(map(str, folders))
    words = f"seed {seeds}" if len(folders) == 1 else f"seeds {seeds}"
    devices = sorted({str(manifest.get("device")) for manifest in manifests})
    commits = sorted({str(manifest.get("commit"))[:10] for manifest in manifests})
    return (
        f"**Recorded: profile {PROFILE}, {words}, on {'; '.join(devices)}, commit {', '.join(commits)}.** "
        f"{in_numbers(status)[:1].upper()}{in_numbers(status)[1:]}. The paper's own scale has not been run."
    )


def in_numbers(status: pandas.DataFrame) -> str:
    """How many claims have which status, in words; one with seen and unseen targets counts twice."""
    from grlib.claims import NOT_AT_THIS_SCALE, NOT_RUN, REPRODUCED

    counts = status["status"].value_counts()
    listed = [f"{counts.get(name, 0)} {name}" for name in (REPRODUCED, NOT_AT_THIS_SCALE, NOT_RUN)]
    return f"of {len(status)} checks of the paper's claims and our controls, {', '.join(listed)}"


# Tables


def markdown(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table; a bar inside a cell is escaped."""
    lines = [list(header)]
    lines += [["---"] * len(lines[0])]
    lines += [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def claims_table(status: pandas.DataFrame) -> str:
    """The claims as a Markdown table, one row each: published, measured with interval, status."""
    rows = []
    for _, checks in status.groupby("claim", sort=False):
        first = checks.iloc[0]
        unit = f" ({first['unit']})"
        each: list[dict[str, Any]] = list(checks.to_dict("records"))
        paper = ["our control"] if first["source"] == "our control" else [_published(check) for check in each]
        cells = [paper, [_measured(check) for check in each], [_verdict(check) for check in each]]
        splits = checks["split"].tolist()
        rows.append([first["statement"] + unit, *(_per_split(splits, cell) for cell in cells)])
    return markdown(["claim", "published", "measured [95 % interval]", "status"], rows)


def _per_split(splits: list[str], cells: list[str]) -> str:
    """One text where all agree, else one line a split."""
    if len(set(cells)) == 1:
        return cells[0]
    return "<br>".join(f"{split}: {cell}" for split, cell in zip(splits, cells, strict=True))


def _published(check: Mapping[str, Any]) -> str:
    return _number(check["published"], DECIMALS.get(check["unit"], 2))


def _measured(check: Mapping[str, Any]) -> str:
    digits = DECIMALS.get(check["unit"], 2)
    value, low, high = (_number(check[name], digits) for name in ("measured", "low", "high"))
    return value if value == MISSING else f"{value} [{low}, {high}]"


def _verdict(check: Mapping[str, Any]) -> str:
    from grlib.claims import REPRODUCED

    return f"**{check['status']}**" if check["status"] == REPRODUCED else str(check["status"])


def _number(value: float, digits: int) -> str:
    return MISSING if value != value else f"{value:.{digits}f}".replace("-", "\u2212")


def pass_table(stored: Results, ks: tuple[int, ...] = (1, 8, 32)) -> str:
    """Table 2 in short as Markdown: published / measured for some k, and the tokens of a trace."""
    from grlib import style, tables

    table = tables.table2(stored)
    table = table[table["k"].isin(ks)]
    wide = tables.side_by_side(table)
    header = ["method", *(f"{split} @{k}" for split, k in wide.columns)]
    rows = [
        [style.style_of(method).label, *(cell.replace("-", MISSING) for cell in cells)]
        for method, cells in zip(wide.index, wide.to_numpy(), strict=True)
    ]
    return markdown(header, rows)


def _truncation_note(table: pandas.DataFrame) -> str:
    from grlib import style

    once = table[(table["k"] == 1) & table["measured"].notna()]
    shares = once.groupby("method", sort=False)["truncated"].agg(["min", "max"])
    listed = [
        f"{style.style_of(str(method)).label} {low:.1f} to {high:.1f} %"
        for method, low, high in shares.itertuples()
    ]
    problems = sorted(once["problems"].astype(int).unique())
    samples = sorted(once["samples"].astype(int).unique())
    return (
        f"{' or '.join(map(str, problems))} problems a split, {' or '.join(map(str, samples))} samples each. "
        f"Share of traces cut off by the token budget: {', '.join(listed)}."
    )


def notebook_table(status: pandas.DataFrame, costs: Costs, seeds: list[int]) -> str:
    """One row a notebook: what of the paper it makes, reads -> writes, minutes and memory, status."""
    profiles = [profile for profile in COSTED if any(known == profile for known, _ in costs)]
    header = ["notebook", "of the paper", "reads → writes", *(f"{name}: time, memory" for name in profiles)]
    rows: list[list[str]] = []
    books = notebooks.every()
    for book in books:
        number = book.name.partition("_")[0]
        link = f"[{number} {book.name.partition('_')[2].replace('_', ' ')}](notebooks/{book.path.name})"
        flow = f"{brief(book.reads(PROFILE)) or 'nothing'} → {brief(book.writes(PROFILE)) or 'nothing'}"
        paid = [_cost(costs.get((profile, book.name))) for profile in profiles]
        rows.append([link, of_the_paper(book), flow, *paid, _status_of(number, status, seeds)])
    if profiles:
        sums = []
        for profile in profiles:
            paid_for = [costs[profile, book.name] for book in books if (profile, book.name) in costs]
            sums.append(
                _cost((sum(s for s, _ in paid_for), max(m for _, m in paid_for)) if paid_for else None)
            )
        rows.append(["**all**", "", "", *(f"**{cost}**" for cost in sums), ""])
    return markdown([*header, "status"], rows)


def _status_of(number: str, status: pandas.DataFrame, seeds: list[int]) -> str:
    from grlib.claims import NOT_RUN, REPRODUCED

    if not seeds:
        return "not recorded"
    mine = status[status["claim"].isin(DECIDED_IN.get(number, ())) & (status["status"] != NOT_RUN)]
    if number == "09":
        mine = status[status["status"] != NOT_RUN]
    if mine.empty:
        return "recorded"
    return f"recorded; {(mine['status'] == REPRODUCED).sum()} of {len(mine)} checks reproduced"


def of_the_paper(book: notebooks.Notebook) -> str:
    """The tables and figures of the paper that a notebook's first cell names."""
    lines = notebooks.source(book.cells[0]).splitlines()
    line = next((line for line in lines if line.startswith("**Paper.**")), "")
    found: dict[str, set[int]] = {}
    for kind, numbers in re.findall(r"\b(Table|Figure)s? (\d+(?:(?:, | and )\d+)*)", line):
        found.setdefault(kind, set()).update(map(int, re.findall(r"\d+", numbers)))
    kinds = [
        f"{kind}{'s' if len(found[kind]) > 1 else ''} {', '.join(map(str, sorted(found[kind])))}"
        for kind in sorted(found, reverse=True)
    ]
    return "; ".join(kinds) or MISSING


def brief(names: Iterable[str]) -> str:
    """Artefact names without endings; of a folder with more than two only their number."""
    by_folder: dict[str, list[str]] = {}
    for name in names:
        folder, _, stem = name.removeprefix(notebooks.IN_REPOSITORY).rpartition("/")
        stems = by_folder.setdefault(folder, [])
        if (short := stem.partition(".")[0]) not in stems:
            stems.append(short)
    parts = []
    for folder, stems in by_folder.items():
        if len(stems) > MOST_NAMES:
            parts.append(f"{folder} ({len(stems)})")
        else:
            parts += [f"{folder}/{stem}" for stem in stems]
    return ", ".join(parts)


def profile_table() -> str:
    """The profiles side by side, a row a setting that decides their scale."""
    chosen = [profiles.get(name) for name in COSTED]
    rows: list[list[object]] = [
        ["numbers of a problem", *(f"{p.task.num_count} of 1..{p.task.max_number}" for p in chosen)],
        ["targets", *(f"{p.task.target_low}..{p.task.target_high}" for p in chosen)],
        ["model", *(_model(p) for p in chosen)],
        ["base", *("shipped" if p.shipped_base else "trained in notebook 03" for p in chosen)],
        ["token budget of a response", *(f"{p.budget:,}" for p in chosen)],
        ["training problems an iteration", *(f"{p.train_problems:,}" for p in chosen)],
        ["iterations", *(p.iterations for p in chosen)],
        ["test problems a split, samples", *(f"{p.test_problems:,} × {p.samples}" for p in chosen)],
    ]
    return markdown(["setting", *(f"`{p.name}`" for p in chosen)], rows)


def _model(profile: profiles.Profile) -> str:
    if profile.pretrained:
        return profile.pretrained.rpartition("/")[2]
    return f"Llama from scratch, {profile.layers} layers of {profile.hidden}"


# What the notebooks cost


def costs_path() -> Path:
    """Where the time and memory of recorded runs are kept, one row a profile and notebook."""
    return notebooks.REPOSITORY / "paper_results" / "measured" / "costs.csv"


def record_costs(profiles: Iterable[str] = COSTED, seed: int = 0) -> None:
    """Note what each notebook cost in the finished run folders of the profiles; other rows stay."""
    import pandas

    from grlib import runs

    known = {key: list(paid) for key, paid in known_costs().items()}
    for profile in profiles:
        folder = runs.default_folder(profile, seed)
        for book in notebooks.every():
            paid = freshness.recall(book, folder)
            if paid:
                known[profile, book.name] = [paid["seconds"], paid["peak_memory_mb"]]
    rows = [[*key, *paid] for key, paid in sorted(known.items(), key=_order)]
    if rows:
        artefacts.write_table(costs_path(), pandas.DataFrame(rows, columns=COST_COLUMNS))


def known_costs() -> Costs:
    """What each notebook of each profile cost in recorded runs."""
    if not costs_path().is_file():
        return {}
    rows: list[dict[str, Any]] = artefacts.read_table(costs_path()).to_dict("records")
    return {(row["profile"], row["notebook"]): (row["seconds"], row["peak_memory_mb"]) for row in rows}


def _order(entry: tuple[tuple[str, str], Any]) -> tuple[int, str]:
    (profile, notebook), _ = entry
    return COSTED.index(profile), notebook


def _cost(paid: tuple[float, int] | None) -> str:
    if paid is None:
        return MISSING
    seconds, megabytes = paid
    time = f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
    return f"{time}, {megabytes / 1000:.1f} GB"


if __name__ == "__main__":
    print("README.md: refreshed" if refresh() else "README.md: up to date, or not there")
