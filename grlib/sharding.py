"""Long work split over machines: a shard does every n-th chunk of a step, and the parts are put together.

`python -m grlib reproduce --shard 2/4` stops (exit code 8) at the first step that lacks chunks of other
shards; `python -m grlib merge-shards` brings them into one run folder, where the run goes on. Shard 0/n does
no chunk, only what is between them (training): the part of the machine that leads. docs/at-scale.md shows it.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from grlib import artefacts
from grlib.errors import GrlibError

SETTINGS = ("key.json", "count.json")  # of a step, beside its chunks: what they are made from, how many
VARIABLE = "GRLIB_SHARD"  # tells the processes of a run which shard they are


class OtherShards(GrlibError):
    """This shard has done its part of a step, and needs the parts of the others to go on."""

    exit_code = 8


def parse(text: str) -> tuple[int, int]:
    """(2, 4) from "2/4", the second of four shards; GrlibError for anything else."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    number, count = map(int, found.groups()) if found else (1, 0)
    if not 0 <= number <= count or count < 1:
        raise GrlibError(f"shard {text!r}: must be i/n with i from 1 to n (0: the leading machine), as 2/4")
    return number, count


def owner(chunk: int, count: int) -> int:
    """The shard, 1 to `count`, that does a chunk."""
    return chunk % count + 1


def mine(chunks: Iterable[int]) -> list[int]:
    """Those of the chunks that this process does: all, unless it is a shard."""
    shard = os.environ.get(VARIABLE)
    if not shard:
        return list(chunks)
    number, count = parse(shard)
    return [chunk for chunk in chunks if owner(chunk, count) == number]


def hand_over(label: str, folder: Path, *, done: int, missing: int, count: int) -> None:
    """OtherShards where this is a shard that has done chunks of a step, or lacks those of others: the leading
    machine brings all of them together before anyone goes on."""
    if os.environ.get(VARIABLE) and (done or missing):
        raise OtherShards(
            f"{label}: shard {os.environ[VARIABLE]} is done with its part, and {missing} of {count} "
            f"chunks of {folder.name} are other shards'; `python -m grlib merge-shards`, then go on"
        )


@contextlib.contextmanager
def as_a_whole() -> Iterator[None]:
    """Inside, every process does all chunks: for steps that are too short to be handed around."""
    before = os.environ.pop(VARIABLE, None)
    try:
        yield
    finally:
        if before is not None:
            os.environ[VARIABLE] = before


def merge(into: Path, shards: Sequence[Path]) -> list[str]:
    """Bring the chunks of every step of the shards' run folders into `into`; a line for each step.

    Nothing is written unless all of it fits: GrlibError for a folder of another profile or seed, a step made
    with other settings, two results for one chunk, or a chunk that no shard has.
    """
    owners = {folder: artefacts.read_json(folder / "run.json") for folder in (into, *shards)}
    for folder, run in owners.items():
        if run != owners[into]:
            raise GrlibError(
                f"{folder}: holds a run of {run}, not of {owners[into]}; merge shards of one run"
            )
    steps: dict[Path, dict[str, Path]] = {}
    for folder in (into, *shards):
        for key in sorted((folder / "steps").rglob("key.json")):
            step = key.parent.relative_to(folder)
            chunks = steps.setdefault(step, {})
            _join(step, chunks, key.parent, folder)
    for step, chunks in steps.items():
        _refuse_incomplete(step, chunks)
    return [_bring(into / step, step, chunks) for step, chunks in steps.items()]


def _join(step: Path, chunks: dict[str, Path], place: Path, folder: Path) -> None:
    """Add the files of a step in one folder to those known; the same chunk twice must be the same."""
    for path in (*(place / name for name in SETTINGS), *sorted(place.glob("chunk_*.parquet"))):
        if not path.is_file():
            raise artefacts.MissingArtefact(f"{path}: missing; run the shard in {folder} again")
        known = chunks.setdefault(path.name, path)
        if known.read_bytes() == path.read_bytes():
            continue
        if path.name in SETTINGS:
            raise GrlibError(
                f"{step}: {folder} made it with other settings, inputs or code than {known.parent}; "
                "run all shards with the same checkout, profile and parameters"
            )
        raise GrlibError(f"{step}: {path} and {known} hold different results; keep one of them")


def _refuse_incomplete(step: Path, chunks: dict[str, Path]) -> None:
    count = int(artefacts.read_json(chunks["count.json"])["chunks"])
    missing = [number for number in range(count) if f"chunk_{number:06d}.parquet" not in chunks]
    if missing:
        raise GrlibError(
            f"{step}: {len(missing)} of {count} chunks are in none of the folders, first {missing[0]}; "
            "run the shard that it belongs to (chunk c of n shards: shard c % n + 1), then merge again"
        )


def _bring(target: Path, step: Path, chunks: dict[str, Path]) -> str:
    for name in SETTINGS:
        artefacts.write_bytes(target / name, chunks.pop(name).read_bytes())
    new = [path for name, path in chunks.items() if not artefacts.is_whole(target / name)]
    for path in new:
        artefacts.write_bytes(target / path.name, path.read_bytes())
    return f"{step}: {len(new)} of {len(chunks)} chunks brought"
