"""Files that are either whole or not there: atomic writes, stable bytes, digests, and long work in chunks."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import math
import os
import shutil
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grlib.errors import GrlibError
from grlib.sources import code_digest

if TYPE_CHECKING:
    import pandas

__all__ = [
    "DiskFull", "MissingArtefact", "atomic", "atomic_folder", "chunked", "code_digest", "digest", "in_words",
    "is_disk_full", "is_whole", "plain", "problem_with", "read_json", "read_table", "remove_leftovers",
    "rows", "worker_pool", "write_bytes", "write_json", "write_table",
]  # fmt: skip

PROGRESS_SECONDS = 5.0


class MissingArtefact(GrlibError):
    """A file that an earlier step should have made is missing or cut short."""

    exit_code = 3


class DiskFull(GrlibError):
    """There is no room left for a file."""

    exit_code = 7


# Atomic writes


@contextlib.contextmanager
def atomic(path: Path, size: int = 0) -> Iterator[Path]:
    """Give a temporary path beside `path`; what was written there takes the place of `path` at the end.

    Killed or failing on the way leaves the old file as it was. A full disk raises DiskFull, which says how
    many bytes were needed if `size` is known.
    """
    temporary = _temporary(path)
    try:
        with _disk_full_explained(path, temporary, size):
            yield temporary
            _sync(temporary)
            os.replace(temporary, path)
            _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """As `atomic`, for a folder (a saved model): gives an empty one, which takes the place of `path`."""
    temporary, old = _temporary(path), _temporary(path, "old")
    try:
        with _disk_full_explained(path, temporary):
            temporary.mkdir()
            yield temporary
            for file in sorted(temporary.rglob("*")):
                _sync(file)
            if path.exists():
                path.rename(old)
            temporary.rename(path)
            _sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def write_bytes(path: Path, content: bytes) -> Path:
    """Write a file at once or not at all; missing parent folders are made."""
    with atomic(path, len(content)) as temporary:
        temporary.write_bytes(content)
    return path


def _temporary(path: Path, kind: str = "new") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}-{kind}.tmp")


def _sync(path: Path) -> None:
    with contextlib.suppress(PermissionError, IsADirectoryError):  # folders cannot be opened on every system
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def _disk_full_explained(path: Path, temporary: Path, size: int = 0) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not is_disk_full(error):
            raise
        needed = f"{size / 1e6:.3g}" if size else f"more than {_size(temporary) / 1e6:.3g}"
        free = shutil.disk_usage(path.parent).free
        raise DiskFull(
            f"disk full: {path} needs {needed} MB, {free / 1e6:.3g} MB are free; "
            "free some space (python -m grlib clean, or another --run-dir) and run the same command again"
        ) from error


def is_disk_full(error: BaseException) -> bool:
    """Whether an error means that the disk or the quota is full, also when a library wrapped it."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return "No space left on device" in str(error)


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files under `folder` whose writers are gone (killed, or the machine went down)."""
    for path in sorted(folder.rglob(".*.tmp")):
        writer = path.name.split(".")[-2].split("-")[0]
        if writer.isdigit() and not _alive(int(writer)):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    import psutil

    return psutil.pid_exists(pid)


# Tables and JSON


def write_table(path: Path, frame: pandas.DataFrame) -> Path:
    """Write a table as .parquet or .csv, without its index; the same frame always gives the same bytes."""
    if path.suffix == ".csv":
        return write_bytes(path, frame.to_csv(index=False, lineterminator="\n").encode())
    if path.suffix != ".parquet":
        raise GrlibError(f"table {path.name!r}: its name must end in .parquet or .csv")
    import pyarrow
    import pyarrow.parquet

    # pandas would store its own version in the schema, and the bytes would change with it
    table = pyarrow.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    return write_bytes(path, buffer.getvalue())


def read_table(path: Path) -> pandas.DataFrame:
    """Read a .parquet or .csv table; a missing or damaged file raises MissingArtefact."""
    import pandas

    fault = problem_with(path)
    if fault:
        raise MissingArtefact(f"{path}: {fault}; delete it and run the step that makes it again")
    if path.suffix == ".csv":
        return pandas.read_csv(path)
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(
            path, page_checksum_verification=True, partitioning=None
        ).to_pandas()
    except (OSError, ValueError) as error:
        raise MissingArtefact(f"{path}: damaged; delete it and run its step again") from error


def write_json(path: Path, value: Any) -> Path:
    """Write JSON with sorted keys; numpy numbers become plain ones, NaN and infinities become null."""
    return write_bytes(
        path, (json.dumps(plain(value), indent=2, sort_keys=True, allow_nan=False) + "\n").encode()
    )


def read_json(path: Path) -> Any:
    """Read a JSON file; a missing or damaged file raises MissingArtefact."""
    fault = problem_with(path)
    if fault:
        raise MissingArtefact(f"{path}: {fault}; delete it and run the step that makes it again")
    return json.loads(path.read_text(encoding="utf-8"))


def plain(value: Any) -> Any:
    """The same value out of dicts, lists, strings, numbers and None only, as JSON has them."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if hasattr(value, "tolist"):  # numpy numbers and arrays
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)


# Is a file whole?


def is_whole(path: Path) -> bool:
    """Whether a file or folder exists, is not empty and, as far as its format tells, is complete."""
    return problem_with(path) is None


def problem_with(path: Path) -> str | None:
    """What is wrong with a file or folder ("missing", "empty", "cut short ..."), None when it is whole."""
    if not path.exists():
        return "missing"
    if path.is_dir():
        files = [file for file in sorted(path.rglob("*")) if file.is_file() and file.suffix != ".tmp"]
        faults = (f"{file.name} is {fault}" for file in files if (fault := problem_with(file)))
        return next(faults, None) if files else "empty"
    if path.stat().st_size == 0:
        return "empty"
    check = _CHECKS.get(path.suffix)
    try:
        whole = check is None or check(path)
    except (OSError, ValueError, KeyError, TypeError):
        whole = False
    return None if whole else "cut short or damaged"


def _whole_parquet(path: Path) -> bool:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        return file.metadata is not None


def _whole_json(path: Path) -> bool:
    json.loads(path.read_text(encoding="utf-8"))
    return True


def _whole_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length)) if length < path.stat().st_size else {}
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return path.stat().st_size == 8 + length + max(ends)


def _whole_csv(path: Path) -> bool:
    return path.read_bytes().endswith(b"\n")


def _has_end(ending: bytes) -> Callable[[Path], bool]:
    return lambda path: ending in path.read_bytes()[-32:]


_CHECKS: dict[str, Callable[[Path], bool]] = {
    ".parquet": _whole_parquet,
    ".json": _whole_json,
    ".ipynb": _whole_json,
    ".safetensors": _whole_safetensors,
    ".csv": _whole_csv,
    ".svg": _has_end(b"</svg>"),
    ".png": _has_end(b"IEND\xaeB`\x82"),
}


def rows(path: Path) -> int | None:
    """Number of rows of a table file, None for other files."""
    if path.suffix == ".parquet":
        import pyarrow.parquet

        return pyarrow.parquet.read_metadata(path).num_rows
    if path.suffix == ".csv":
        return max(0, path.read_bytes().count(b"\n") - 1)
    return None


def digest(path: Path) -> str:
    """SHA-256 (hex) of a file, or of a folder's relative names and contents; temporary files do not count."""
    if path.is_dir():
        files = [file for file in sorted(path.rglob("*")) if file.is_file() and file.suffix != ".tmp"]
        listing = "".join(f"{file.relative_to(path).as_posix()} {digest(file)}\n" for file in files)
        return hashlib.sha256(listing.encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Long work in chunks


def chunked(
    folder: Path,
    key: Mapping[str, Any],
    count: int,
    compute: Callable[[int], pandas.DataFrame] | None,
    submit: Callable[[int], Future[pandas.DataFrame]] | None = None,
    progress: Callable[[str], None] | None = None,
    label: str = "work",
) -> pandas.DataFrame:
    """The rows of chunks 0 .. count-1 in order; each is stored when done, so killed work goes on there.

    `compute(i)` must depend on `key` and `i` only. `key` (settings, seed, input digests, `code_digest(...)`)
    is stored with the chunks; chunks of another key are thrown away. `submit(i)` instead starts a chunk
    elsewhere (as on `worker_pool`) and returns its Future; all open chunks are submitted at once.
    """
    import pandas

    if count < 1:
        raise GrlibError(f"{label}: {count} chunks; there must be at least 1")
    _use_key(folder, plain(key))
    frames = {
        number: frame for number in range(count) if (frame := _stored_chunk(folder, number)) is not None
    }
    missing = [number for number in range(count) if number not in frames]
    report = _Progress(label, count, len(frames), progress or _print_line)
    with contextlib.closing(
        _from_futures(missing, submit, report) if submit else _in_turn(missing, compute)
    ) as results:
        for number, frame in results:
            # read back, so that fresh and resumed rows went through the same file and have the same types
            frames[number] = read_table(write_table(_chunk_path(folder, number), frame))
            report.one_more()
    return pandas.concat([frames[number] for number in range(count)], ignore_index=True)


def _chunk_path(folder: Path, number: int) -> Path:
    return folder / f"chunk_{number:06d}.parquet"


def _use_key(folder: Path, key: Any) -> None:
    path = folder / "key.json"
    if is_whole(path) and read_json(path) == key:
        return
    for chunk in folder.glob("chunk_*.parquet"):
        chunk.unlink()
    write_json(path, key)


def _stored_chunk(folder: Path, number: int) -> pandas.DataFrame | None:
    path = _chunk_path(folder, number)
    try:
        return read_table(path) if path.exists() else None
    except MissingArtefact:
        return None


def _in_turn(
    numbers: list[int], compute: Callable[[int], pandas.DataFrame] | None
) -> Generator[tuple[int, pandas.DataFrame]]:
    if compute is None:
        raise TypeError("chunked needs compute or submit")
    for number in numbers:
        yield number, compute(number)


def _from_futures(
    numbers: list[int], submit: Callable[[int], Future[pandas.DataFrame]], report: _Progress
) -> Generator[tuple[int, pandas.DataFrame]]:
    open_futures = {submit(number): number for number in numbers}
    try:
        while open_futures:
            done, _ = wait(open_futures, timeout=PROGRESS_SECONDS, return_when=FIRST_COMPLETED)
            for future in sorted(done, key=lambda future: open_futures[future]):
                yield open_futures.pop(future), future.result()
            report.still_busy()
    finally:
        for future in open_futures:
            future.cancel()


def _print_line(line: str) -> None:
    print(line, flush=True)


class _Progress:
    """Prints how far the work is, in one line at most every few seconds."""

    def __init__(self, label: str, count: int, found: int, show: Callable[[str], None]) -> None:
        self.label, self.count, self.found, self.done, self.show = label, count, found, found, show
        self.started = self.shown = time.monotonic()
        if found:
            show(f"{label}: {found} of {count} chunks were done before")

    def one_more(self) -> None:
        self.done += 1
        if self.done == self.count or time.monotonic() - self.shown >= PROGRESS_SECONDS:
            self._line()

    def still_busy(self) -> None:
        if self.done < self.count and time.monotonic() - self.shown >= 6 * PROGRESS_SECONDS:
            self._line()

    def _line(self) -> None:
        self.shown = time.monotonic()
        elapsed = max(self.shown - self.started, 1e-9)
        rate = (self.done - self.found) / elapsed
        left = f"{in_words((self.count - self.done) / rate)} left" if rate else "time left unknown"
        pace = f"{rate:.2f} chunks/s" if rate >= 1 or not rate else f"{1 / rate:.1f} s a chunk"
        self.show(f"{self.label}: {self.done}/{self.count} chunks, {pace}, {left}, {in_words(elapsed)} spent")


def in_words(seconds: float) -> str:
    """A duration as a person says it: "8 s", "3 min 20 s", "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def worker_pool(
    processes: int, initializer: Callable[..., None] | None = None, *arguments: Any
) -> ProcessPoolExecutor:
    """A pool of fresh processes for `chunked(submit=...)`; `initializer(*arguments)` runs first in each.

    They end with the process that made them, even if it is killed: nothing computes behind a dead notebook.
    """
    import multiprocessing

    return ProcessPoolExecutor(
        processes,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(os.getpid(), initializer, arguments),
    )


def _start_worker(parent: int, initializer: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    if initializer:
        initializer(*arguments)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
