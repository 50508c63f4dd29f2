"""The report: tables and claims as Markdown, for notebook 09 and for the pages of this repository.

A page (`README.md`, `paper_results/RESULTS.md`, `docs/*.md`) marks the place of a generated table with::

    <!-- table2 gpu -->
    <!-- end -->

`refresh` writes the table between the two lines. The first word is one of `TABLES` or `FACTS`, the second the
record that a table is made from. `python -m grlib figures` and `record` call it, as does
`python -m grlib.results.report` alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from grlib import profiles
from grlib.errors import GrlibError
from grlib.profiles import Profile
from grlib.results import claims, style, tables
from grlib.results import rows as results
from grlib.runs import costs, notebooks
from grlib.runs import files as artefacts
from grlib.runs.files import seed_folders

MISSING = "–"
NOTHING = "Nothing is recorded yet."
DECIMALS = {"points": 1, "percent": 1, "ratio": 2, "nats per token": 3}
MARKED = re.compile(r"(<!-- (\w+)(?: (\w+))? -->\n).*?(<!-- end -->)", re.DOTALL)


class Record:
    """The results of all seeds under paper_results/measured/<name>, where the name is a profile.

    With "_pretrained" after it: code self-repair of that profile with a pretrained model.
    """

    def __init__(self, name: str) -> None:
        self.profile = name.removesuffix("_pretrained")
        self.folders = seed_folders(_measured(), name)
        self.results = results.load(self.folders, self.profile)
        paths = sorted(_measured().glob(f"{name}/seed*/manifests/*.json"))
        self.manifests = [artefacts.read_json(path) for path in paths]

    @cached_property
    def status(self) -> pd.DataFrame:
        """The claims with their status (`claims.claims`)."""
        return claims.claims(self.results)


def _measured() -> Path:
    return notebooks.REPOSITORY / "paper_results" / "measured"


def pages() -> list[Path]:
    """The pages that may hold generated tables."""
    root = notebooks.REPOSITORY
    found = [root / "README.md", root / "paper_results" / "RESULTS.md", *sorted(root.glob("docs/*.md"))]
    return [path for path in found if path.is_file()]


def refresh() -> list[Path]:
    """Write every generated table into its page; returns the pages that changed."""
    changed, records = [], dict[str, Record]()
    for path in pages():
        old = path.read_text(encoding="utf-8")
        try:
            new = MARKED.sub(lambda mark: _filled(mark, records), old)
        except GrlibError as error:
            raise GrlibError(f"{path}: {error}") from error
        if new != old:
            artefacts.write_bytes(path, new.encode())
            changed.append(path)
    return changed


def _filled(mark: re.Match[str], records: dict[str, Record]) -> str:
    first, name, record, last = mark.groups()
    if record is None and name in FACTS:
        return f"{first}\n{FACTS[name]()}\n\n{last}"
    if record is None or name not in TABLES:
        known = ", ".join([*FACTS, *(f"{table} RECORD" for table in TABLES)])
        raise GrlibError(f"mark {first.strip()!r}: must be one of {known}; correct it")
    if record not in records:
        records[record] = Record(record)
    table = TABLES[name](records[record]) if records[record].folders else NOTHING
    return f"{first}\n{table}\n\n{last}"


# Cells


def markdown(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table; a bar inside a cell is escaped."""
    lines = [[str(cell).replace("|", "\\|") for cell in line] for line in (header, *rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(value: float, digits: int) -> str:
    return MISSING if pd.isna(value) else f"{style.steady(value):.{digits}f}".replace("-", "\u2212")


def _plus_minus(row: Mapping[str, Any], digits: int) -> str:
    """The standard deviation of the seeds' values, after the measured value."""
    return "" if pd.isna(row["seed_sd"]) else f" ± {_number(row['seed_sd'], digits)}"


# Claims


def in_numbers(status: pd.DataFrame) -> str:
    """How many checks have each status; a claim about seen and unseen targets has two."""
    marked = ((status["status"] == claims.REPRODUCED) & (status["mark"] != "")).sum()
    listed = [f"{(status['status'] == kind).sum()} {kind}" for kind in claims.STATUSES]
    listed[0] += f" ({marked} of them with a mark that weakens it)" if marked else ""
    return f"of {len(status)} checks of the paper's claims and our controls, {', '.join(listed)}"


def claims_table(status: pd.DataFrame) -> str:
    """The claims as a Markdown table, one row each: published, measured with interval, status."""
    rows = []
    for _, checks in status.groupby("claim", sort=False):
        cells = zip(*(_claim_cells(check) for check in checks.to_dict("records")), strict=True)
        first, splits = checks.iloc[0], checks["split"]
        rows.append([f"{first['statement']} ({first['unit']})", *(_by_split(splits, cell) for cell in cells)])
    return markdown(["claim", "published", "measured [95 % interval]", "status"], rows)


def _claim_cells(check: Mapping[str, Any]) -> tuple[str, str, str]:
    digits = DECIMALS.get(check["unit"], 2)
    published, measured, low, high = (
        _number(check[name], digits) for name in ("published", "measured", "low", "high")
    )
    status = f"**{check['status']}**" if check["status"] == claims.REPRODUCED else check["status"]
    remarks = ", ".join(filter(None, (check["mark"], check["fails"], _problems_needed(check["needed"]))))
    return (
        check["source"] if check["source"] == "our control" else published,
        measured if measured == MISSING else f"{measured} [{low}, {high}]{_plus_minus(check, digits)}",
        f"{status} ({remarks})" if remarks else status,
    )


def _problems_needed(needed: float) -> str:
    """About how many problems would decide an undecided claim, rounded up to one digit."""
    if pd.isna(needed):
        return ""
    if math.isinf(needed):
        return "no difference"
    if needed > 1e6:
        return "millions of problems"
    unit = 10 ** math.floor(math.log10(needed))
    return f"about {math.ceil(needed / unit) * unit:,} problems"


def _by_split(splits: Iterable[str], cells: tuple[str, ...]) -> str:
    """One text if all splits agree, else a line per split."""
    each = [f"{split}: {cell}" for split, cell in zip(splits, cells, strict=True)]
    return cells[0] if len(set(cells)) == 1 else "<br>".join(each)


# Tables of one record


def pass_table(table: pd.DataFrame, ks: Iterable[int] = (1, 8, 32)) -> str:
    """Table 2 or 3 as Markdown: published / measured for these k, with the sizes below it."""
    shown = table[table["k"].isin(list(ks))]
    wide = tables.side_by_side(shown).replace("-", MISSING, regex=True)
    rows = [[style.STYLES[method].label, *cells] for method, *cells in wide.itertuples(name=None)]
    header = ["method", *(f"{split} @{k}" for split, k in wide.columns)]
    return f"{markdown(header, rows)}\n\n{_sizes_of(table)}"


def _sizes_of(table: pd.DataFrame) -> str:
    """Problems, samples, seeds, and the share of traces cut off."""
    once = table[(table["k"] == 1) & table["measured"].notna()]
    shares = once.groupby("method", sort=False)["truncated"].agg(["min", "max"]).itertuples(name=None)
    listed = [f"{style.STYLES[method].label} {low:.1f} to {high:.1f} %" for method, low, high in shares]
    many = table[table["measured"].notna() & (table["samples"] > once["samples"].max())]

    def sizes(part: pd.DataFrame, name: str) -> str:
        return " or ".join(map(str, sorted(set(part[name].astype(int)))))

    problems, samples, seeds = (sizes(once, name) for name in ("problems", "samples", "seeds"))
    few, most = sizes(many, "problems"), sizes(many, "samples")
    more = f" (large k: {few} problems with {most})" if most else ""
    deviations = table.loc[table["measured"].notna(), "seed_sd"].dropna()
    spread = f" (s.d. of the seeds: up to {deviations.max():.1f} points)" if len(deviations) else ""
    cut = f"Cut off by the token budget, by split: {', '.join(listed)}."
    return f"{problems} problems per split, {samples} samples each{more}, seeds: {seeds}{spread}. {cut}"


def greedy(record: Record) -> str:
    """Greedy accuracy, with the gain of PPO over the model that it starts from, and the share cut off."""
    table, rows = tables.in_order(tables.greedy_table(record.results), ["method"]), []
    for method, part in table.groupby("method", sort=False):
        splits = [part[part["split"] == split] for split in tables.TEST_SPLITS]
        cut = " / ".join(f"{share:.0f}" for one in splits for share in one["truncated"])
        rows.append([style.STYLES[method].label, *map(_gained, splits), cut])
    return markdown(["method", *tables.TEST_SPLITS, "cut off, %, seen / unseen"], rows)


def _gained(row: pd.DataFrame) -> str:
    """Accuracy of a single row, and its gain if it has one."""
    if row.empty:
        return MISSING
    found = row.iloc[0]
    text = _number(found["measured"], 1) + _plus_minus(found, 1)
    if pd.isna(found["gain"]):
        return text
    gain, low, high = (_number(found[name], 1) for name in ("gain", "gain_low", "gain_high"))
    return f"{text} ({'' if found['gain'] < 0 else '+'}{gain} [{low}, {high}])"


def headline(record: Record) -> str:
    """pass@1 and pass@32 of the three methods that the paper compares, and how many claims hold."""
    table = tables.table2(record.results, methods=("sos", "rest", "guided_rest"))
    return f"{pass_table(table, (1, 32))}\n\nClaims: {in_numbers(record.status)}."


def provenance(record: Record) -> str:
    """Where a record comes from: sizes that differ from the profile's, seeds, devices, commits."""
    profile, sizes = profiles.get(record.profile), dict[str, str]()
    for manifest in record.manifests:
        for name, value in manifest.get("parameters", {}).items():
            is_size = type(value) is int and name != "seed"
            if is_size and profiles.with_sizes(profile, {name: value}) != profile:
                sizes[name] = f" with `{name}` {value}"
    devices = sorted({str(manifest.get("device")) for manifest in record.manifests})
    commits = sorted({str(manifest.get("commit"))[:10] for manifest in record.manifests})
    return (
        f"Profile `{record.profile}`{','.join(sizes.values())}; seeds {', '.join(map(str, record.folders))}; "
        f"on {'; '.join(devices)}; commits {', '.join(commits)}."
    )


# Facts about the profiles and what they cost


def profile_table() -> str:
    """The profiles side by side: a row per setting that decides the scale."""
    columns = [_scale(profiles.get(name)) for name in profiles.DIAL]
    rows = [[row, *(column[row] for column in columns)] for row in columns[0]]
    return markdown(["setting", *(f"`{name}`" for name in profiles.DIAL)], rows)


def _short(model: str) -> str:
    """The name of a pretrained model without its owner and revision."""
    return model.partition("@")[0].rpartition("/")[2]


def _scale(p: Profile) -> dict[str, str]:
    loop, scratch = p.self_training, f"Llama from scratch, {p.model.layers} layers of {p.model.hidden}"
    return {
        "numbers of a problem": f"{p.countdown.num_count} of 1..{p.countdown.max_number}",
        "model": _short(p.model.pretrained) or scratch,
        "base": "shipped" if p.base.shipped else "trained in notebook 03",
        "sampling engine": f"`{p.sampling.engine}`",
        "token budget of a response": f"{p.budget:,}",
        "training problems × iterations": f"{loop.train_problems:,} × {loop.iterations}",
        "test problems per split × samples": f"{p.test_problems:,} × {p.samples}",
        "code self-repair: model": _short(p.repair.pretrained) or scratch,
        "training problems × episodes": f"{p.repair.self_training.train_problems:,} × {p.repair.episodes}",
        "near, far test problems × samples": f"{p.repair.near_problems:,}, {p.repair.far_problems:,} "
        f"× {p.repair.samples}",
    }


def cost_table() -> str:
    """Time and memory of the recorded runs: each notebook, and the long sections of profile laptop."""
    known = costs.known()
    if known.empty:
        return NOTHING
    names = [name for name in profiles.DIAL if name in set(known["profile"])]
    rows = []
    for book in notebooks.every():
        cost = known[known["notebook"] == book.name]
        rows.append([f"**{book.name.replace('_', ' ')}**", *(_cost(cost, name) for name in names)])
        for row in cost[(cost["profile"] == "laptop") & (cost["section"] != "")].itertuples():
            rows.append([row.section, *(_time(row.seconds) if name == "laptop" else "" for name in names)])
    rows.append(["**all**", *(_cost(known, name) for name in names)])
    return markdown(["notebook, its long sections", *(f"`{name}`" for name in names)], rows)


def _cost(known: pd.DataFrame, profile: str) -> str:
    """Total time and peak memory of whole notebooks."""
    whole = known[(known["profile"] == profile) & (known["section"] == "")]
    if whole.empty:
        return MISSING
    return f"{_time(whole['seconds'].sum())}, {whole['peak_memory_mb'].max() / 1000:.1f} GB"


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def speed_table(name: str = "bench") -> str:
    """A recorded benchmark: grlib against a plain version of the same step."""
    path, rows = _measured() / f"{name}.json", []
    if not path.is_file():
        return NOTHING
    for row in artefacts.read_json(path)["rows"]:
        if row["ratio"]:
            times = (row["plain"], row["grlib"])
            plain, ours = (f"{time:,.{0 if time >= 100 else 3}f} {row['unit']}" for time in times)
            rows.append([row["what"], plain, ours, f"{row['ratio']:.1f}", row["note"]])
    return markdown(["what", "plain version", "grlib", "times as fast", "of"], rows)


TABLES: dict[str, Callable[[Record], str]] = {
    "headline": headline,
    "provenance": provenance,
    "table2": lambda record: pass_table(tables.table2(record.results)),
    "table3": lambda record: pass_table(tables.table3(record.results), (1, 8, 32)),
    "repair": lambda record: pass_table(tables.table3(record.results).dropna(subset="measured"), (1, 4)),
    "greedy": greedy,
    "claims": lambda record: f"In sum, {in_numbers(record.status)}.\n\n{claims_table(record.status)}",
}
FACTS: dict[str, Callable[[], str]] = {
    "profiles": profile_table,
    "costs": cost_table,
    "speed": speed_table,
    "engines": lambda: speed_table("bench_engines"),
}

if __name__ == "__main__":
    changed = refresh()
    print(*changed if changed else ["every page is up to date"], sep="\n")
