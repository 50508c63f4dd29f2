"""Long work in chunks, each stored when it is done; alone, on a pool of processes, or split over machines.

`python -m grlib reproduce --shard 2/4` stops (exit code 8) at the first step that lacks chunks of other
shards; `python -m grlib merge-shards` brings them into one run folder, where the run goes on. Shard 0/n does
no chunk, only what is between them (training): the part of the machine that leads. docs/at-scale.md shows it.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grlib.errors import GrlibError
from grlib.runs import deadline
from grlib.runs import files as artefacts

if TYPE_CHECKING:
    import pandas

PROGRESS_SECONDS = 5.0
SETTINGS = ("key.json", "count.json")  # of a step, beside its chunks: what they are made from, how many
VARIABLE = "GRLIB_SHARD"  # tells the processes of a run which shard they are


def chunked(
    folder: Path,
    key: Mapping[str, Any],
    count: int,
    compute: Callable[[int], pandas.DataFrame],
    submit: Callable[[int], Future[pandas.DataFrame]] | None = None,
    progress: Callable[[str], None] | None = None,
    label: str = "work",
) -> pandas.DataFrame:
    """The rows of chunks 0 .. count-1 in order; each is stored when done, so killed work goes on there.

    `compute(i)` must depend on `key` and `i` only. `key` (settings, seed, input digests, `code_digest(...)`)
    is stored with the chunks; chunks of another key are thrown away. `submit(i)` instead starts a chunk
    elsewhere (as on `worker_pool`) and returns its Future; all open chunks are submitted at once. A shard
     does its own chunks, and OtherShards says which ones are still missing then.
    """
    import pandas

    if count < 1:
        raise GrlibError(f"{label}: {count} chunks; there must be at least 1")
    stored, sizes = folder / "key.json", folder / "count.json"
    if not artefacts.is_whole(stored) or artefacts.read_json(stored) != artefacts.plain(key):
        for chunk in folder.glob("chunk_*.parquet"):
            chunk.unlink()
        artefacts.write_json(stored, key)
    if not artefacts.is_whole(sizes) or artefacts.read_json(sizes) != {"chunks": count}:
        artefacts.write_json(sizes, {"chunks": count})
    paths = [folder / f"chunk_{number:06d}.parquet" for number in range(count)]
    frames = {}
    for number, path in enumerate(paths):
        with contextlib.suppress(artefacts.MissingArtefact):
            frames[number] = artefacts.read_table(path)
    say = progress or partial(print, flush=True)
    if frames:
        say(f"{label}: {len(frames)} of {count} chunks were done before")
    began = shown = time.monotonic()
    missing = mine(sorted(set(range(count)) - set(frames)))
    futures = {number: submit(number) for number in missing} if submit else {}
    try:
        for done, number in enumerate(missing, start=1):
            frame = futures.pop(number).result() if submit else compute(number)
            # read back, so that fresh and resumed rows went through the same file and have the same types
            frames[number] = artefacts.read_table(artefacts.write_table(paths[number], frame))
            now = time.monotonic()
            if done == len(missing) or now - shown >= PROGRESS_SECONDS:
                shown, pace = now, (now - began) / done
                left, spent = (artefacts.in_words(s) for s in (pace * (len(missing) - done), now - began))
                say(
                    f"{label}: {len(frames)}/{count} chunks, {pace:.2g} s a chunk, {left} left, {spent} spent"
                )
            deadline.stop_if(deadline.passed(), label, f"{len(frames)}/{count} chunks")
    finally:
        for future in futures.values():
            future.cancel()
    hand_over(label, folder, done=len(missing), missing=count - len(frames), count=count)
    return pandas.concat([frames[number] for number in range(count)], ignore_index=True)


def worker_pool(processes: int, initializer: Callable[[], None] | None = None) -> ProcessPoolExecutor:
    """A pool of fresh processes for `chunked(submit=...)`; `initializer()` runs first in each.

    They end with the process that made them, even if it is killed: nothing computes behind a dead notebook.
    """
    import multiprocessing

    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(processes, context, _start_worker, (os.getpid(), initializer))


def _start_worker(parent: int, initializer: Callable[[], None] | None) -> None:
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    if initializer:
        initializer()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


# Shards


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
    """Inside, every process does all chunks, and no deadline stops it: for steps that are too short to be
    handed around, and whose caller stores them whole."""
    before = {name: os.environ.pop(name) for name in (VARIABLE, deadline.VARIABLE) if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)


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
