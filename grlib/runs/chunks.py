"""Long work in chunks, each stored when it is done: in this process, in a pool, or split over machines.

On one machine, `chunked` does it all. `python -m grlib reproduce --shard 2/4` does every fourth chunk and
stops (exit code 8) at the first step that needs chunks of other shards. `python -m grlib merge-shards` copies
them into one run folder, and the same command continues there. Shard 0/n is the leading machine: it does no
chunk, only the work between them (training). docs/at-scale.md shows an example.
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
KEY, COUNT = "key.json", "count.json"  # files beside the chunks of a step: what they depend on; how many
VARIABLE = "GRLIB_SHARD"  # the shard of a run, for all its processes; empty: all chunks


def chunked(
    folder: Path,
    key: Mapping[str, Any],
    count: int,
    compute: Callable[[int], pandas.DataFrame],
    submit: Callable[[int], Future[pandas.DataFrame]] | None = None,
    progress: Callable[[str], None] | None = None,
    label: str = "work",
) -> pandas.DataFrame:
    """The rows of chunks 0 .. count-1 in order. Each chunk is stored when done; killed work continues there.

    `compute(i)` must depend on `key` and `i` only. `key` (settings, seed, input digests, `code_digest(...)`)
    is stored with the chunks; chunks of another key are deleted. With `submit`, `submit(i)` starts a chunk
    elsewhere (as in a `worker_pool`) and returns its Future; all missing chunks are submitted at once.
    OtherShards if chunks of other shards are missing, OutOfTime after the deadline.
    """
    import pandas

    if artefacts.known_json(folder / KEY) != artefacts.plain(key):
        for chunk in folder.glob("chunk_*.parquet"):
            chunk.unlink()
        artefacts.write_json(folder / KEY, key)
    artefacts.write_json(folder / COUNT, {"chunks": count})
    paths = [_path(folder, number) for number in range(count)]
    frames = {}
    for number, path in enumerate(paths):
        with contextlib.suppress(artefacts.MissingArtefact):  # a damaged chunk is computed again
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
            # read back, so that new and resumed rows come from a file and have the same types
            frames[number] = artefacts.read_table(artefacts.write_table(paths[number], frame))
            now = time.monotonic()
            if done == len(missing) or now - shown >= PROGRESS_SECONDS:
                shown, pace = now, (now - began) / done
                left = artefacts.in_words(pace * (len(missing) - done))
                rates = f"{pace:.2g} s per chunk, {left} left, {artefacts.in_words(now - began)} spent"
                say(f"{label}: {len(frames)}/{count} chunks, {rates}")
            deadline.stop_if(deadline.passed(), label, f"{len(frames)}/{count} chunks")
    finally:
        for future in futures.values():
            future.cancel()
    shard, lacking = os.environ.get(VARIABLE), count - len(frames)
    if shard and (missing or lacking):  # the leading machine merges all shards before anyone continues
        raise OtherShards(
            f"{label}: shard {shard} has done its part; {lacking} of {count} chunks of {folder.name} belong "
            "to other shards; run `python -m grlib merge-shards`, then the same command"
        )
    return pandas.concat([frames[number] for number in range(count)], ignore_index=True)


def _path(folder: Path, number: int) -> Path:
    return folder / f"chunk_{number:06d}.parquet"


def worker_pool(processes: int, initializer: Callable[[], None] | None = None) -> ProcessPoolExecutor:
    """A pool of fresh processes for `chunked(submit=...)`; `initializer()` runs first in each.

    They end with the process that started them, even if it is killed: none computes for a dead notebook.
    """
    import multiprocessing

    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(processes, context, _start_worker, (os.getpid(), initializer))


def _start_worker(parent: int, initializer: Callable[[], None] | None) -> None:
    def end_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    if initializer:
        initializer()


# Shards


class OtherShards(GrlibError):
    """This shard has done its part of a step, and needs those of the others to continue."""

    exit_code = 8


def parse(text: str) -> tuple[int, int]:
    """(2, 4) from "2/4", the second of four shards; GrlibError if the text is not of this form."""
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    number, count = map(int, found.groups()) if found else (1, 0)
    if not 0 <= number <= count or count < 1:
        raise GrlibError(f"shard {text!r}: must be i/n with i from 1 to n (0: the leading machine), as 2/4")
    return number, count


def mine(chunks: Iterable[int]) -> list[int]:
    """The chunks that this process does: all, or in shard i/n each chunk c with c % n + 1 == i."""
    shard = os.environ.get(VARIABLE)
    if not shard:
        return list(chunks)
    number, count = parse(shard)
    return [chunk for chunk in chunks if chunk % count + 1 == number]


@contextlib.contextmanager
def as_a_whole() -> Iterator[None]:
    """Inside, every process does all chunks, and no deadline stops it: for steps that are too short to be
    shared, and whose caller stores them as a whole."""
    before = {name: os.environ.pop(name) for name in (VARIABLE, deadline.VARIABLE) if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)


def merge(into: Path, shards: Sequence[Path]) -> list[str]:
    """Copy the chunks of every step of the shards' run folders into `into`; returns a line per step.

    Nothing is written before all is checked: GrlibError for a folder of another profile or seed, a step made
    with other settings, two results for one chunk, or a chunk that no shard has.
    """
    owner = artefacts.read_json(into / "run.json")
    found: dict[Path, Path] = {}  # name in the run folders: the first file of that name
    for folder in (into, *shards):
        if (run := artefacts.read_json(folder / "run.json")) != owner:
            raise GrlibError(f"{folder}: holds a run of {run}, not of {owner}; merge shards of one run")
        for step in (path.parent for path in (folder / "steps").rglob(KEY)):
            for path in (*step.glob(KEY), *step.glob(COUNT), *step.glob("chunk_*.parquet")):
                known = found.setdefault(path.relative_to(folder), path)
                if known.read_bytes() != path.read_bytes():
                    _refuse(path, known)
    lines = []
    for step in sorted(name.parent for name in found if name.name == KEY):
        count = artefacts.read_json(found.get(step / COUNT, into / step / COUNT))["chunks"]
        chunks = [_path(step, number) for number in range(count)]
        if missing := [number for number, name in enumerate(chunks) if name not in found]:
            raise GrlibError(
                f"{step}: {len(missing)} of {count} chunks are in none of the folders, first "
                f"{missing[0]}; run the shard that does it (chunk c of n shards: c % n + 1), then merge again"
            )
        new = sum(found[name] != into / name for name in chunks)
        lines.append(f"{step}: {new} of {count} chunks copied")
    for name, path in found.items():
        if path != into / name:
            artefacts.write_bytes(into / name, path.read_bytes())
    return lines


def _refuse(path: Path, known: Path) -> None:
    """GrlibError about two files of the same step and name that differ."""
    if path.name in (KEY, COUNT):
        raise GrlibError(
            f"{path}: made with other settings, inputs or code than {known}; "
            "run all shards with the same checkout, profile and parameters"
        )
    raise GrlibError(f"{path} and {known} hold different results of one chunk; keep one of them")
