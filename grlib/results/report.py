"""The README's measured parts: written from the recorded results, so that no number in them is typed.

`python -m grlib record` and `figures` refresh them; so does `python -m grlib.results.report` alone.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from grlib import profiles
from grlib.errors import GrlibError
from grlib.profiles import Profile
from grlib.results import claims, tables
from grlib.results import rows as results
from grlib.results.markdown import (
    MISSING,
    claims_table,
    in_numbers,
    markdown,
    pass_table,
    reinforced,
    sizes_of,
)
from grlib.runs import costs, notebooks
from grlib.runs import files as artefacts
from grlib.runs.files import seed_folders

PROFILE = "laptop"  # whose results the README shows
PRETRAINED = "laptop_pretrained"  # self-repair at the same profile with a pretrained model, if recorded
PRETRAINED_FIGURE = f"paper_results/measured/{PRETRAINED}/seed0/figures/table3_live.png"
MOST_NAMES = 2  # files of one folder named one by one; more are counted

# The notebook whose results decide a claim.
DECIDED_IN = {
    "03": "sos_above_bc",
    "04": "hints_accuracy hints_cross_entropy",
    "05": "guided_yield_equal guided_likelier node_choice_trades random_balances",
    "06": "rest_above_sos guided_above_rest guided_not_below_rest gap_grows rest_fades rest_no_gain "
    "guided_above_matched guided_tokens guided_yield",
    "07": "sos_ppo_gains rest_ppo_gains guided_ppo_gains guided_ppo_above_ppo guided_ppo_above_rest_ppo "
    "ppo_widens_gap guided_ppo_tokens rest_ppo_no_gain operation_above_token dense_no_gain",
    "08": " ".join(claims.REPAIR),
    "09": " ".join(claims.RULES),
}


def refresh() -> bool:
    """Write the measured parts into README.md; False when there is no README or they were up to date."""
    path = notebooks.REPOSITORY / "README.md"
    if not path.is_file():
        return False
    old = new = path.read_text(encoding="utf-8")
    for name, content in parts().items():
        begin, end = _place(new, name)
        new = new[:begin] + content + new[end:]
    if new != old:
        artefacts.write_bytes(path, new.encode())
    return new != old


def stored_part(text: str, name: str) -> str:
    """What stands between the markers of a part in the text of a README."""
    return text[slice(*_place(text, name))]


def _place(text: str, name: str) -> tuple[int, int]:
    first, last = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if text.count(first) != 1 or text.count(last) != 1 or text.index(first) > text.index(last):
        raise GrlibError(f"README.md: must hold {first} and, after it, {last}, once each; put them back")
    return text.index(first) + len(first), text.index(last)


def parts() -> dict[str, str]:
    """The measured parts by name, as Markdown, from the recorded results of the laptop profile."""
    from grlib.results import gpu as report  # which writes its part with the functions here

    folders = seed_folders(_measured(), PROFILE)
    stored = results.load(folders, PROFILE)
    status, paid = claims.claims(stored), costs.known()
    picture = f"figures/{PROFILE}/headline.png"
    alt = "pass@k of SoS, ReST and Guided-ReST: published on the left, measured here on the right"
    shown = (notebooks.REPOSITORY / picture).is_file()
    overview = [_summary(list(folders), status), notebook_table(status, paid)]
    details = [
        "**Table 2: pass@k in percent, published / measured.** Unseen targets never occur in training.",
        pass_table(tables.table2(stored), (1, 8, 32)),
        sizes_of(tables.table2(stored)),
        *reinforced(stored),
        *_repair(stored),
        *_repair_pretrained(),
        "**The claims, each judged by a rule fixed in `grlib/results/claims.py`.** Measured values carry "
        "their 95 % bootstrap interval over problems and seeds, paired where two methods are compared; after "
        "± the standard deviation of the seeds. All seeds start from one base: the interval does not hold "
        "what another base would change. *Undecided* means that the interval holds both readings; in "
        "brackets, about how many problems would decide.",
        claims_table(status),
    ]
    made = {
        "status": [f"![{alt}]({picture})", *overview] if shown else overview,
        "results": details if folders else ["Nothing is recorded yet."],
        "profiles": [profile_table()],
        "sections": [section_table(paid)],
        "speed": [speed_table()],
        "engines": [engine_table()],
        "gpu": report.paragraphs(_measured(), notebooks.REPOSITORY / "paper_results" / "base_gpu" / "sos"),
    }
    return {name: "\n\n" + "\n\n".join(paragraphs) + "\n\n" for name, paragraphs in made.items()}


def _measured() -> Path:
    return notebooks.REPOSITORY / "paper_results" / "measured"


def _manifests(profile: str) -> list[dict[str, Any]]:
    """The manifests of a profile's recorded notebooks, all seeds."""
    return [
        artefacts.read_json(path) for path in sorted(_measured().glob(f"{profile}/seed*/manifests/*.json"))
    ]


def _summary(seeds: list[int], status: pd.DataFrame) -> str:
    if not seeds:
        return f"**No {PROFILE} run is recorded yet**: `make reproduce`, then `make record`."
    manifests = _manifests(PROFILE)
    devices = sorted({str(manifest.get("device")) for manifest in manifests})
    commits = sorted({str(manifest.get("commit"))[:10] for manifest in manifests})
    changed = [f"`{name}` {value}" for name, value in recorded_sizes(PROFILE).items()]
    return (
        f"**Recorded: profile {PROFILE}{' with ' if changed else ''}{', '.join(changed)}, "
        f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}, on {'; '.join(devices)}, "
        f"commit {', '.join(commits)}.** O{in_numbers(status)[1:]}. The paper's own scale has not been run."
    )


# Tables of results


def _repair(stored: results.Results) -> list[str]:
    """Table 3 in short, where code self-repair is recorded."""
    table = tables.table3(stored)
    if table["measured"].isna().all():
        return []
    head = (
        "**Table 3: code self-repair, pass@k in percent, published / measured.** The paper's benchmarks "
        "(CodeContests, CodeForces; a model of 7B parameters) are not ours: *near* problems are new "
        "instances of the generated families that are trained on, *far* ones other families."
    )
    return [head, pass_table(table, (1, 32)), sizes_of(table)]


def _repair_pretrained() -> list[str]:
    """Self-repair with a pretrained model, where it is recorded."""
    stored = results.load(seed_folders(_measured(), PRETRAINED), PROFILE)
    rows = tables.repair_rows(stored)
    if rows.empty:
        return []
    table = tables.table3(stored).dropna(subset="measured")
    made = _manifests(PRETRAINED)
    hours = sum(manifest["wall_seconds"] for manifest in made) / 3600
    sources = {split: made[0]["settings"]["repair"][f"{split}_source"] for split in ("near", "far")}
    head = (
        f"**Self-repair with {rows['model'].iloc[0]}**, a pretrained model ({hours:.1f} hours on "
        f"{made[0]['device']}{_note()}): *near* problems are {_source(sources['near'])}, *far* ones "
        f"{_source(sources['far'])} ([with intervals]({PRETRAINED_FIGURE}))."
    )
    return [head, pass_table(table, (1, int(rows["sample"].max()) + 1)), sizes_of(table)]


def _note() -> str:
    """What the pretrained model's record says of its run, if anything."""
    records = sorted(_measured().glob(f"{PRETRAINED}/seed*/record.json"))
    notes = [artefacts.read_json(record).get("note") for record in records]
    return "".join(f"; {note}" for note in notes if note)


def _source(name: str) -> str:
    return {"families": "generated ones, as above", "humaneval": "HumanEval's"}.get(name, f"those of {name}")


# Tables of notebooks and profiles


def notebook_table(status: pd.DataFrame, paid: pd.DataFrame) -> str:
    """One row a notebook: what of the paper it makes, reads -> writes, minutes and memory, status."""
    whole = paid[paid["section"] == ""]
    stored = {path.stem for path in _measured().glob(f"{PROFILE}/**/manifests/*.json")}
    costed = [name for name in profiles.PROFILES if name in set(whole["profile"])]
    rows: list[list[str]] = []
    for book in notebooks.every():
        number, _, title = book.name.partition("_")
        mine = [whole[(whole["profile"] == name) & (whole["notebook"] == book.name)] for name in costed]
        rows.append([
            f"[{number} {title.replace('_', ' ')}](notebooks/{book.path.name})", of_the_paper(book),
            f"{brief(book.reads(PROFILE)) or 'nothing'} → {brief(book.writes(PROFILE)) or 'nothing'}",
            *map(_cost, mine),
            _status_of(number, status) if book.name in stored else "not recorded",
        ])  # fmt: skip
    if costed:
        sums = [f"**{_cost(whole[whole['profile'] == name])}**" for name in costed]
        rows.append(["**all**", "", "", *sums, ""])
    header = ["notebook", "of the paper", "reads → writes", *(f"{name}: time, memory" for name in costed)]
    return markdown([*header, "status"], rows)


def _status_of(number: str, status: pd.DataFrame) -> str:
    decided = status["claim"].isin(DECIDED_IN.get(number, "").split()) & (status["status"] != claims.NOT_RUN)
    reproduced = decided & (status["status"] == claims.REPRODUCED)
    return "recorded" + (
        f"; {reproduced.sum()} of {decided.sum()} checks reproduced" if decided.any() else ""
    )


def of_the_paper(book: notebooks.Notebook) -> str:
    """The tables and figures of the paper that a notebook's first cell names."""
    line = next((line for line in book.cells[0].source.splitlines() if line.startswith("**Paper.**")), "")
    found: dict[str, set[int]] = {}
    for kind, numbers in re.findall(r"\b(Table|Figure)s? (\d+(?:(?:, | and )\d+)*)", line):
        found.setdefault(kind, set()).update(map(int, re.findall(r"\d+", numbers)))
    listed = {kind: ", ".join(map(str, sorted(found[kind]))) for kind in sorted(found, reverse=True)}
    return "; ".join(f"{kind}{'s' * (',' in text)} {text}" for kind, text in listed.items()) or MISSING


def brief(names: Iterable[str]) -> str:
    """Artefact names without endings; of a folder with more than two only their number."""
    folders: dict[str, dict[str, None]] = {}
    for name in names:
        folder, _, stem = name.removeprefix(notebooks.IN_REPOSITORY).rpartition("/")
        folders.setdefault(folder, {})[f"{folder}/{stem.partition('.')[0]}"] = None
    return ", ".join(
        f"{folder} ({len(files)})" if len(files) > MOST_NAMES else ", ".join(files)
        for folder, files in folders.items()
    )


def recorded_sizes(profile: str) -> dict[str, Any]:
    """The sizes that the recorded notebooks of a profile ran with, where the profile now has others."""
    own, used, given = vars(profiles.get(profile)), dict[str, Any](), dict[str, Any]()
    for manifest in _manifests(profile):
        settings, reinforces = manifest.get("settings", {}), manifest.get("notebook", "")[:2] == "07"
        used |= {name: value for name, value in settings.items() if reinforces or name[:4] != "ppo_"}
        given |= {name: value for name, value in manifest.get("parameters", {}).items() if value}
    differing = {name: value for name, value in (used | given).items() if value != own.get(name, value)}
    return {name: value for name, value in differing.items() if isinstance(value, int | float | str)}


def profile_table() -> str:
    """The profiles side by side, a row a setting that decides their scale; the record's where it differs."""
    columns = []
    for name, profile in profiles.PROFILES.items():
        own, used = _scale(profile), _scale(dataclasses.replace(profile, **recorded_sizes(name)))
        told = {
            row: f"{used[row]} in the record, {own[row]} by default" for row in own if used[row] != own[row]
        }
        columns.append(own | told)
    rows = [[row, *(column[row] for column in columns)] for row in columns[0]]
    return markdown(["setting", *(f"`{name}`" for name in profiles.PROFILES)], rows)


def _scale(p: Profile) -> dict[str, str]:
    scratch = f"Llama from scratch, {p.layers} layers of {p.hidden}"
    return {
        "numbers of a problem": f"{p.task.num_count} of 1..{p.task.max_number}",
        "targets": f"{p.task.target_low}..{p.task.target_high}",
        "model": p.pretrained.rpartition("/")[2] or scratch,
        "base": "shipped" if p.shipped_base else "trained in notebook 03",
        "sampling engine": f"`{p.engine}`",
        "token budget of a response": f"{p.budget:,}",
        "training problems an iteration": f"{p.train_problems:,}",
        "iterations": f"{p.iterations}",
        "test problems a split, samples": f"{p.test_problems:,} × {p.samples}",
        "code self-repair: model": p.repair.pretrained.rpartition("/")[2] or scratch,
        "training problems an iteration, episodes": f"{p.repair.self_training.train_problems:,} × {p.repair.episodes}",
        "near and far test problems, samples": f"{p.repair.near_problems:,} and {p.repair.far_problems:,} "
        f"× {p.repair.samples}",
    }


# What the notebooks cost


def section_table(paid: pd.DataFrame) -> str:
    """Where the time of the recorded run goes: its long sections in order."""
    mine = paid[paid["profile"] == PROFILE]
    long = mine[mine["section"] != ""].sort_values("notebook", kind="stable")
    if long.empty:
        return "No run with the time of its sections is recorded yet."
    total = mine.loc[mine["section"] == "", "seconds"].sum()
    rows = [[row.notebook.replace("_", " "), row.section, row.seconds] for row in long.itertuples()]
    rows.append(["**all others**", "", total - long["seconds"].sum()])
    shares = [[*names, _time(spent), f"{100 * spent / total:.0f} %"] for *names, spent in rows]
    return markdown(["notebook", "section", "time", "share"], shares)


def speed_table() -> str:
    """The recorded benchmark: what is faster than a plain version of the same, and by how much."""
    path = _measured() / "bench.json"
    if not path.is_file():
        return "No benchmark is recorded yet."
    report = artefacts.read_json(path)
    rows = [
        [
            row["what"],
            *(f"{row[side]:,.{0 if row[side] >= 100 else 3}f} {row['unit']}" for side in ("plain", "grlib")),
            f"{row['ratio']:.1f}",
            row["note"],
        ]
        for row in report["rows"]
        if row["ratio"]
    ]
    return markdown(["what", "plain version", "grlib", "times as fast", "of"], rows)


def engine_table() -> str:
    """The recorded benchmark of the sampling engines: new tokens a second of each, by model and batch."""
    path = _measured() / "bench_engines.json"
    if not path.is_file():
        return "No benchmark of the engines is recorded yet."
    rates: dict[str, dict[str, float]] = {}
    for row in artefacts.read_json(path)["rows"]:
        case, engine = row["what"].rsplit(": ", 1)
        rates.setdefault(case, {"transformers": row["plain"]})[engine] = row["grlib"]
    engines = list(dict.fromkeys(engine for found in rates.values() for engine in found))
    rows = [
        [case, *(f"{found[engine]:,.0f}" if engine in found else MISSING for engine in engines)]
        for case, found in rates.items()
    ]
    return markdown(["new tokens a second", *engines], rows)


def _cost(paid: pd.DataFrame) -> str:
    """Time and memory of some notebooks together."""
    if paid.empty:
        return MISSING
    return f"{_time(paid['seconds'].sum())}, {paid['peak_memory_mb'].max() / 1000:.1f} GB"


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


if __name__ == "__main__":
    print("README.md: refreshed" if refresh() else "README.md: up to date, or not there")
