"""What the README says of the recorded windows on one GPU: Table 2, PPO, minutes, and how fast it was."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

from grlib.results import claims, tables
from grlib.results import rows as results
from grlib.results.markdown import in_numbers, markdown, pass_table, reinforced, sizes_of
from grlib.runs import files as artefacts
from grlib.runs.files import manifests_of, seed_folders

PROFILE = "gpu"
AUTHORS = "the authors trained on 4 data-centre GPUs and advise tens of them for generating data"


def paragraphs(measured: Path, base: Path) -> list[str]:
    """The part as Markdown; `measured` is the folder of all records, `base` that of its SoS model."""
    folders = seed_folders(measured, PROFILE)
    if not folders:
        return ["Nothing is recorded yet."]
    seed, stored = folders[min(folders)], results.load(folders, PROFILE)
    made = windows(seed / "manifests")
    facts = artefacts.read_json(base / "manifest.json")
    table2 = tables.table2(stored)
    return [
        _head(made, facts, in_numbers(claims.claims(stored))),
        "**Table 2 with four numbers of 1..99: pass@k in percent, published / measured.**",
        pass_table(table2, (1, 8, 32)),
        sizes_of(table2),
        *reinforced(stored),
        f"**GPU minutes** ({AUTHORS}):",
        cost_table(made),
        "**How fast**, from `python -m grlib gpu probe`:",
        pace_table(artefacts.read_json(seed / "probe.json"), facts),
        ppo_split(stored.rows("ppo_curve"), list(made.values())[-1]["device"]),
    ]


def windows(manifests: Path) -> dict[str, dict[str, Any]]:
    """The manifests that tell of windows, in their order: base, iterate, iterate_2, ...,
    reinforce, ..."""
    later = [path for stage in ("iterate", "reinforce") for path in manifests_of(manifests, stage)]
    paths = [manifests / "base.json", *later]
    return {path.stem: artefacts.read_json(path) for path in paths}


def _head(made: dict[str, dict[str, Any]], facts: dict[str, Any], status: str) -> str:
    ran = list(made.values())[-1]["settings"]
    minutes = sum(manifest["wall_seconds"] for manifest in made.values()) / 60
    where = Counter((window.partition("_")[0], manifest["device"]) for window, manifest in made.items())
    devices = ", ".join(
        f"{stage} in {count} window{'s' * (count > 1)} on one {device}"
        for (stage, device), count in where.items()
    )
    return (
        f"**Recorded: a Llama of {facts['parameters']:,} parameters from scratch that has seen "
        f"{facts['tokens_seen']:,} tokens, iterations of {ran['train_problems']:,} problems: "
        f"{ran['iterations']}, steps of PPO: {ran['ppo_steps']}, in {minutes:.0f} GPU minutes ({devices}).** "
        f"O{status[1:]}."
    )


def cost_table(made: dict[str, dict[str, Any]]) -> str:
    """GPU minutes of every window by kind of work, the first word of its parts."""
    spent = {
        window: pd.Series([seconds for _, seconds in manifest["parts"]]).groupby(
            [_kind(part) for part, _ in manifest["parts"]]
        ).sum()
        for window, manifest in made.items()
    }  # fmt: skip
    table = pd.DataFrame(spent).fillna(0) / 60
    table["all"] = table.sum(axis=1)
    table = table.sort_values("all", ascending=False)
    rows = [[kind, *(f"{minutes:.1f}" for minutes in row)] for kind, row in table.iterrows()]
    totals = [manifest["wall_seconds"] / 60 for manifest in made.values()]
    rows.append(["**all**", *(f"{minutes:.1f}" for minutes in (*totals, sum(totals)))])
    return markdown(["GPU minutes", *table], rows)


def _kind(part: str) -> str:
    word = part.split()[0]
    measured = dict.fromkeys(("a", "hints", "likelihoods", "transformers'"), "measuring")
    return measured.get(word, word)


def ppo_split(curve: pd.DataFrame, device: str) -> str:
    """How a step of PPO divides."""
    sampling, rest = curve["sampling_s"].median(), (curve["scoring_s"] + curve["updating_s"]).median()
    busy = curve["gpu_busy"].dropna().mean() if "gpu_busy" in curve else math.nan
    idle = "" if math.isnan(busy) else f" The GPU computed {busy:.0f} % of the time."
    return (
        f"A step of PPO in the windows (on {device}) took {sampling + rest:.1f} s: {sampling:.1f} s of "
        f"sampling, {rest:.1f} s of scoring and updating (medians).{idle}"
    )


def pace_table(found: dict[str, Any], facts: dict[str, Any]) -> str:
    """Training and sampling beside the ceilings of the card and beside transformers."""
    needed = ("ceilings", "training_pace", "sampling_pace")
    if failed := [name for name in needed if not isinstance(found.get(name), dict)]:
        return f"The probe's {', '.join(failed)} failed: see its probe.json."
    most, training, sampling = (found[name] for name in needed)
    used = 6 * facts["parameters"] * training["packed"] / 1e12
    read = sampling["read_tb_s"]
    elsewhere = sampling.get("generate_device", found["device"])
    on_other = f" (on {elsewhere})" if elsewhere != found["device"] else ""
    rows = [
        ["copying", f"{most['copy_tb_s']:.2f} TB/s", "read and written"],
        ["bfloat16 matrix products", f"{most['bf16_tflop_s']:.0f} TFLOP/s", ""],
        [
            "training, packed and compiled",
            f"{training['packed']:,.0f} tokens/s",
            f"{training['packed'] / training['padded']:.1f} times rows padded to the longest of 64; "
            f"{used:.0f} TFLOP/s at 6 a parameter, {used / most['bf16_tflop_s']:.0%} of the products' rate",
        ],
        [
            "sampling, static cache and captured steps",
            f"{sampling['static']:,.0f} tokens/s",
            f"reads {read:.2f} TB/s of keys and values, {read / most['copy_tb_s']:.0%} of the copy's rate",
        ],
        [
            "`generate` of transformers, 1,024 short rows",
            f"{sampling['generate']:,.0f} tokens/s{on_other}",
            f"{sampling['static'] / sampling['generate']:.0f} times slower",
        ],
    ]
    if isinstance(reading := found.get("attention"), dict) and "read_tb_s" in reading:
        share = f"{reading['read_tb_s'] / reading['copy_tb_s']:.0%} of the copy's rate there"
        name = f"attention of a sampling step, most slots (on {reading['device']})"
        rows.insert(4, [name, f"{reading['read_tb_s']:.2f} TB/s", f"keys and values read; {share}"])
    return markdown([f"on one {found['device']}", "measured", ""], rows)
