"""What the README says of the recorded windows on one GPU: Table 2, PPO, minutes, and how fast it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from grlib import artefacts, claims, readme, results, tables

PROFILE = "gpu"
STAGES = ("base", "iterate")
AUTHORS = "the authors trained on 4 data-centre GPUs and advise tens of them for generating data"


def paragraphs(measured: Path, base: Path) -> list[str]:
    """The part as Markdown; `measured` is the folder of all records, `base` that of its SoS model."""
    folders = results.seed_folders(measured, PROFILE)
    if not folders:
        return ["Nothing is recorded yet."]
    seed, stored = folders[min(folders)], results.load(folders, PROFILE)
    made = {stage: artefacts.read_json(seed / "manifests" / f"{stage}.json") for stage in STAGES}
    facts = artefacts.read_json(base / "manifest.json")
    table2 = tables.table2(stored)
    return [
        _head(made, facts, readme.in_numbers(claims.claims(stored))),
        "**Table 2 with four numbers of 1..99: pass@k in percent, published / measured.**",
        readme.pass_table(table2, (1, 8, 32)),
        readme.sizes_of(table2),
        *readme.reinforced(stored),
        f"**GPU minutes of every part** ({AUTHORS}):",
        cost_table(made),
        "**How fast**, from `python -m grlib gpu probe`:",
        pace_table(artefacts.read_json(seed / "probe.json"), facts),
    ]


def _head(made: dict[str, dict[str, Any]], facts: dict[str, Any], status: str) -> str:
    ran = made["iterate"]["settings"]
    minutes = sum(manifest["wall_seconds"] for manifest in made.values()) / 60
    devices = ", ".join(f"{stage} on one {manifest['device']}" for stage, manifest in made.items())
    return (
        f"**Recorded: a Llama of {facts['parameters']:,} parameters from scratch that has seen "
        f"{facts['tokens_seen']:,} tokens, iterations of {ran['train_problems']:,} problems: "
        f"{ran['iterations']}, steps of PPO: {ran['ppo_steps']}, in {minutes:.0f} GPU minutes ({devices}).** "
        f"O{status[1:]}."
    )


def cost_table(made: dict[str, dict[str, Any]]) -> str:
    """GPU minutes of every part of the recorded stages."""
    rows = [
        [stage, part, f"{spent / 60:.1f}"]
        for stage, manifest in made.items()
        for part, spent in manifest["parts"]
    ]
    total = sum(manifest["wall_seconds"] for manifest in made.values())
    return readme.markdown(["stage", "part", "minutes"], [*rows, ["**all**", "", f"{total / 60:.1f}"]])


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
        name = f"of it, attention over the cache (on {reading['device']})"
        rows.insert(4, [name, f"{reading['read_tb_s']:.2f} TB/s", f"keys and values read; {share}"])
    return readme.markdown([f"on one {found['device']}", "measured", ""], rows)
