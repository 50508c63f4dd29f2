"""Tables and claims as Markdown, for notebook 09 and the README alike."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from grlib.results import claims, style, tables
from grlib.results import rows as results

MISSING = "–"
DECIMALS = {"points": 1, "percent": 1, "ratio": 2, "nats per token": 3}


def in_numbers(status: pd.DataFrame) -> str:
    """How many claims have which status, in words; one with seen and unseen targets counts twice."""
    listed = [f"{(status['status'] == kind).sum()} {kind}" for kind in claims.STATUSES]
    return f"of {len(status)} checks of the paper's claims and our controls, {', '.join(listed)}"


def markdown(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table; a bar inside a cell is escaped."""
    lines = [[str(cell).replace("|", "\\|") for cell in line] for line in (header, *rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def claims_table(status: pd.DataFrame) -> str:
    """The claims as a Markdown table, one row each: published, measured with interval, status."""
    rows = []
    for _, checks in status.groupby("claim", sort=False):
        cells = list(zip(*(_claim_cells(check) for check in checks.to_dict("records")), strict=True))
        first, splits = checks.iloc[0], checks["split"]
        rows.append([f"{first['statement']} ({first['unit']})", *(_by_split(splits, cell) for cell in cells)])
    return markdown(["claim", "published", "measured [95 % interval]", "status"], rows)


def _claim_cells(check: Mapping[str, Any]) -> tuple[str, str, str]:
    names = ("published", "measured", "low", "high")
    digits = DECIMALS.get(check["unit"], 2)
    published, measured, low, high = (_number(check[name], digits) for name in names)
    control = check["source"] == "our control"
    reproduced = check["status"] == claims.REPRODUCED
    return (
        "our control" if control else published,
        measured if measured == MISSING else f"{measured} [{low}, {high}]{_seeds_apart(check, digits)}",
        (f"**{check['status']}**" if reproduced else check["status"]) + _besides(check),
    )


def _besides(check: Mapping[str, Any]) -> str:
    """A claim's mark, and about how many problems would decide an undecided one."""
    needed = check["needed"]
    many = "" if pd.isna(needed) else "millions of problems" if needed > 1e6 else _about(needed)
    told = [part for part in (check["mark"], many) if part]
    return f" ({', '.join(told)})" if told else ""


def _about(problems: float) -> str:
    """A number of problems, rounded up to one digit."""
    unit = 10 ** math.floor(math.log10(problems))
    return f"about {math.ceil(problems / unit) * unit:,} problems"


def _seeds_apart(row: Mapping[str, Any], digits: int) -> str:
    """The standard deviation of the seeds' values."""
    return "" if pd.isna(row["seed_sd"]) else f" ± {_number(row['seed_sd'], digits)}"


def _by_split(splits: Iterable[str], cells: tuple[str, ...]) -> str:
    """One text where all agree, else one line a split."""
    each = [f"{split}: {cell}" for split, cell in zip(splits, cells, strict=True)]
    return cells[0] if len(set(cells)) == 1 else "<br>".join(each)


def _number(value: float, digits: int) -> str:
    return MISSING if pd.isna(value) else f"{style.steady(value):.{digits}f}".replace("-", "\u2212")


def reinforced(stored: results.Results) -> list[str]:
    """Greedy accuracy before and after PPO, where PPO is recorded."""
    table = tables.greedy_table(stored)
    if table["gain"].isna().all():
        return []
    head = (
        "**Reinforcement learning: greedy accuracy at the full token budget, in percent** (Figures 3 to 6; "
        "the paper states 87 for Guided-ReST + PPO and 83 with tokens as actions). After ± the standard "
        "deviation of the seeds; in brackets, what PPO adds to the model that it starts from, in points, "
        "with the 95 % interval over problems and seeds; last, the share of traces cut off by the token "
        "budget."
    )
    rows = []
    for method, part in tables.in_order(table, ["method"]).groupby("method", sort=False):
        splits = [part[part["split"] == split] for split in tables.TEST_SPLITS]
        cut = " / ".join(f"{share:.0f}" for one in splits for share in one["truncated"])
        rows.append([style.style_of(method).label, *map(_gained, splits), cut])
    return [head, markdown(["method", *tables.TEST_SPLITS, "cut off, %, seen / unseen"], rows)]


def _gained(row: pd.DataFrame) -> str:
    """Accuracy of the one row, and its gain if it has one."""
    if row.empty:
        return MISSING
    found = row.iloc[0]
    text = _number(found["measured"], 1) + _seeds_apart(found, 1)
    if pd.isna(found["gain"]):
        return text
    gain, low, high = (_number(found[name], 1) for name in ("gain", "gain_low", "gain_high"))
    return f"{text} ({'' if found['gain'] < 0 else '+'}{gain} [{low}, {high}])"


def pass_table(table: pd.DataFrame, ks: tuple[int, ...]) -> str:
    """Table 2 or 3 in short as Markdown: published / measured for some k."""
    wide = tables.side_by_side(table[table["k"].isin(ks)]).replace("-", MISSING, regex=True)
    rows = [[style.style_of(method).label, *cells] for method, *cells in wide.itertuples(name=None)]
    return markdown(["method", *(f"{split} @{k}" for split, k in wide.columns)], rows)


def sizes_of(table: pd.DataFrame) -> str:
    """Under Table 2 or 3: problems, samples, seeds, and the share of traces cut off."""
    once = table[(table["k"] == 1) & table["measured"].notna()]
    shares = once.groupby("method", sort=False)["truncated"].agg(["min", "max"]).itertuples(name=None)
    listed = [f"{style.style_of(method).label} {low:.1f} to {high:.1f} %" for method, low, high in shares]
    problems, samples, seeds = (
        " or ".join(map(str, sorted(set(once[name].astype(int)))))
        for name in ("problems", "samples", "seeds")
    )
    apart = table.loc[table["measured"].notna(), "seed_sd"].dropna()
    spread = f" (s.d. of the seeds: up to {apart.max():.1f} points)" if len(apart) else ""
    cut = f"Share of traces cut off by the token budget, by split: {', '.join(listed)}."
    return f"{problems} problems a split, {samples} samples each, seeds: {seeds}{spread}. {cut}"
