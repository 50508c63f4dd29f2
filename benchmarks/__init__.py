"""`python -m benchmarks`: how much faster grlib is than a plain textbook version of the same thing; and
`python -m benchmarks gpu`, what a card can do."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from grlib.errors import GrlibError

if TYPE_CHECKING:
    from benchmarks.speed import Row

TEXT_SECTIONS = (
    "problems",
    "solver",
    "trace",
    "rewrite",
    "grade",
    "hostile",
    "import",
    "sandbox",
)
MODEL_SECTIONS = ("sampling", "training", "ppo", "engines")
SECTIONS = TEXT_SECTIONS + MODEL_SECTIONS
SHIPPED = Path(__file__).parents[1] / "paper_results" / "base" / "sos"


def parser() -> argparse.ArgumentParser:
    """Options of the benchmark."""
    top = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Time grlib against a plain textbook version of the same thing, on the same inputs, in "
        "one process. Outputs are compared first. Nothing is written unless --json is given.",
    )
    add = top.add_argument
    add("names", nargs="*", metavar="SECTION", help=f"what to measure: {', '.join(SECTIONS)} (default: all)")
    add("--quick", action="store_true", help="few inputs: shows that it works, ratios are rough")
    add("--model", type=Path, metavar="DIR", help="model folder (default: the shipped base)")
    add("--threads", type=int, default=0, metavar="N", help="CPU threads for the models (default: all cores)")
    add("--json", type=Path, metavar="PATH", help="also write the figures to this file")
    return top


def main(argv: list[str] | None = None) -> int:
    """Run the chosen sections and print a table; 0 unless an input is wrong."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] == ["gpu"]:
        from benchmarks import gpu

        return gpu.main(arguments[1:])
    options = parser().parse_args(arguments)
    for name in options.names:
        if name not in SECTIONS:
            raise GrlibError(f"section {name!r} does not exist; choose from {', '.join(SECTIONS)}")
    if options.threads < 0:
        raise GrlibError(f"--threads is {options.threads}: it must be 0 (all cores) or more")
    if options.json and not options.json.absolute().parent.is_dir():
        raise GrlibError(f"--json {options.json}: its folder does not exist; make it first")
    if options.model and not (options.model / "config.json").is_file():
        raise GrlibError(
            f"no model in {options.model}: config.json is missing; name a model folder with --model"
        )
    rows = []
    print(f"{'':36s} {'unit':>9s} {'plain':>12s} {'grlib':>12s} {'ratio':>8s}")
    for name in options.names or SECTIONS:
        for row in _run(name, options):
            rows.append(row)
            print(_line(row), flush=True)
    if options.json:
        report = {"python": platform.python_version(), "machine": platform.machine(), "quick": options.quick}
        report["rows"] = [asdict(row) | {"ratio": row.ratio} for row in rows]
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def _run(name: str, options: argparse.Namespace) -> Iterator[Row]:
    if name in TEXT_SECTIONS:
        from benchmarks import speed

        yield from getattr(speed, f"bench_{name}")(options.quick)
        return
    folder = options.model or SHIPPED
    if not (folder / "config.json").is_file():
        print(f"{name}: skipped, no model in {folder}; train the base or name a folder with --model")
        return
    from benchmarks import engines, models, reinforce
    from grlib.sampling.pool import cores

    if hasattr(os, "getloadavg") and os.getloadavg()[0] > 0.5 * cores():
        print(f"{name}: the machine is busy (load {os.getloadavg()[0]:.1f}); do not quote the ratio")
    module = next(one for one in (reinforce, engines, models) if hasattr(one, f"bench_{name}"))
    yield from getattr(module, f"bench_{name}")(options.quick, folder, options.threads or cores())


def _line(row: Row) -> str:
    plain = "-" if row.plain is None else f"{row.plain:,.1f}"
    ratio = "-" if row.ratio is None else f"{row.ratio:.1f}x"
    return f"{row.what:36s} {row.unit:>9s} {plain:>12s} {row.grlib:>12,.1f} {ratio:>8s}  {row.note}"
