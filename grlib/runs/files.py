"""Files that are either complete or absent: atomic writes, the same bytes for the same content, locks."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grlib.errors import GrlibError

if TYPE_CHECKING:
    import pandas

ENDS = {".csv": (b"\n",), ".svg": (b"</svg>", b"</svg>\n"), ".png": (b"IEND\xaeB`\x82",)}


class MissingArtefact(GrlibError):
    """A file that an earlier step should have made is missing or cut short."""

    exit_code = 3


# Atomic writes


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; the file or folder made there replaces `path` at the end.

    After a kill or an exception, `path` is as before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    mark = f"{os.getpid()}-{threading.get_ident()}"
    new, old = (path.with_name(f".{path.name}.{mark}-{kind}.tmp") for kind in ("new", "old"))
    try:
        yield new
        for written in (new, *new.rglob("*")):
            _sync(written)
        if path.is_dir():
            path.rename(old)
        new.rename(path)
        _sync(path.parent)
    finally:
        _remove(new)
        _remove(old)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """As `atomic`, for a folder (a saved model): gives an empty folder, which replaces `path` at the end."""
    with atomic(path) as temporary:
        temporary.mkdir()
        yield temporary


def write_bytes(path: Path, content: bytes) -> Path:
    """Write a file completely or not at all; makes missing folders above it."""
    with atomic(path) as temporary:
        temporary.write_bytes(content)
    return path


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files under `folder` whose writers no longer run."""
    import psutil

    for path in sorted(folder.rglob(".*.tmp")):
        writer = path.name.split(".")[-2].split("-")[0]
        if writer.isdigit() and not psutil.pid_exists(int(writer)):
            _remove(path)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a run folder; GrlibError if another process holds it. The lock of a killed process is free."""
    import fcntl

    with (folder / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = f"process {file.read().strip() or '?'} is running notebooks here"
            raise GrlibError(f"{folder}: {holder}; wait for it, end it, or name another --run-dir") from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
        file.truncate(0)


def absolute(path: str | Path) -> Path:
    """The path that a user named, absolute, "~" resolved; GrlibError for a user who does not exist."""
    try:
        return Path(path).expanduser().resolve()
    except RuntimeError as error:
        raise GrlibError(f"{path}: no such user; name the folder by its whole path") from error


# Tables and JSON


def small_png(picture: bytes) -> bytes:
    """The PNG with a palette of 128 colours: enough for figures, and a third of the size."""
    from PIL import Image

    made = io.BytesIO()
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    image.quantize(128, dither=Image.Dither.NONE).save(made, "PNG", optimize=True)
    return made.getvalue()


def write_table(path: Path, frame: pandas.DataFrame) -> Path:
    """Write a table as .parquet or .csv, without its index; the same rows always give the same bytes."""
    if path.suffix == ".csv":
        return write_bytes(path, frame.to_csv(index=False, lineterminator="\n").encode())
    if path.suffix != ".parquet":
        raise GrlibError(f"table {path.name!r}: its name must end in .parquet or .csv")
    import pyarrow
    import pyarrow.parquet

    # without pandas' metadata, whose version number would change the bytes
    table = pyarrow.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    return write_bytes(path, buffer.getvalue())


def read_table(path: Path) -> pandas.DataFrame:
    """Read a .parquet or .csv table; a missing or damaged file raises MissingArtefact."""
    import pandas
    import pyarrow.parquet

    _refuse_if_damaged(path)
    try:
        if path.suffix == ".csv":
            return pandas.read_csv(path)
        checked = pyarrow.parquet.read_table(path, page_checksum_verification=True, partitioning=None)
        return checked.to_pandas()
    except (OSError, ValueError) as error:
        raise MissingArtefact(f"{path}: damaged; delete it and run the step that makes it again") from error


def write_dataset_card(folder: Path) -> None:
    """Write README.md, by which `datasets` and the hub find each Parquet table under a folder by its name."""
    tables = {path.stem: path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.parquet"))}
    configs = "".join(f"- config_name: {name}\n  data_files: {place}\n" for name, place in tables.items())
    if tables:
        card = Path(__file__).with_name("dataset_card.md").read_text(encoding="utf-8")
        write_bytes(folder / "README.md", card.format(configs=configs, first=min(tables)).encode())


def write_json(path: Path, value: Any) -> Path:
    """Write JSON with sorted keys; numpy numbers become plain ones, NaN and infinities become null."""
    text = json.dumps(plain(value), indent=2, sort_keys=True, allow_nan=False)
    return write_bytes(path, f"{text}\n".encode())


def read_json(path: Path, *keys: str) -> Any:
    """Read a JSON file; MissingArtefact if it is missing, damaged or without an object of these keys."""
    _refuse_if_damaged(path)
    found = json.loads(path.read_text(encoding="utf-8"))
    if keys and not (isinstance(found, dict) and found.keys() >= set(keys)):
        raise MissingArtefact(f"{path}: damaged, no {', '.join(keys)}; delete it and make it again")
    return found


def known_json(path: Path, *keys: str) -> Any | None:
    """The content of a JSON file as `read_json` gives it, None if it is missing or damaged."""
    with contextlib.suppress(MissingArtefact):
        return read_json(path, *keys)
    return None


def plain(value: Any) -> Any:
    """The value as JSON can hold it: dicts, lists, strings, finite numbers, booleans and None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
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
    """What is wrong with a file or folder ("missing", "empty", "cut short ..."), None if it is whole."""
    if not path.exists():
        return "missing"
    if path.is_dir():
        faults = (f"{file.name} is {fault}" for file in _files(path) if (fault := problem_with(file)))
        return next(faults, None) if _files(path) else "empty"
    if path.stat().st_size == 0:
        return "empty"
    try:
        _open(path)
    except Exception:  # whatever a library raises for a damaged file
        return "cut short or damaged"
    return None


def _open(path: Path) -> None:
    """Read enough of a file to see that it is complete; raises whatever the format's library raises."""
    if path.suffix == ".parquet":
        import pyarrow.parquet

        pyarrow.parquet.read_metadata(path)
    elif path.suffix in (".json", ".ipynb"):
        json.loads(path.read_text(encoding="utf-8"))
    elif path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, "numpy"):
            pass
    elif not path.read_bytes().endswith(ENDS.get(path.suffix, b"")):
        raise MissingArtefact(f"{path}: its end is missing")


def _refuse_if_damaged(path: Path) -> None:
    if fault := problem_with(path):
        raise MissingArtefact(f"{path}: {fault}; delete it and run the step that makes it again")


def _files(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.rglob("*")) if file.is_file() and file.suffix != ".tmp"]


def without_rows(path: Path) -> bool:
    """Whether a file is a table without rows."""
    return path.suffix in (".parquet", ".csv") and read_table(path).empty


def digest(path: Path) -> str:
    """SHA-256 (hex) of a file, or of the names and contents in a folder, without temporary files."""
    if path.is_dir():
        listing = "".join(f"{file.relative_to(path).as_posix()} {digest(file)}\n" for file in _files(path))
        return hashlib.sha256(listing.encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def in_words(seconds: float) -> str:
    """A duration for people: "8 s", "3 min 20 s", "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def seed_folders(measured: Path, profile: str) -> dict[int, Path]:
    """The folders measured/<profile>/seed<number>, by seed, in order."""
    folders = [path for path in (measured / profile).glob("seed*") if path.is_dir()]
    found = {folder.name.removeprefix("seed"): folder for folder in folders}
    return {int(seed): found[seed] for seed in sorted(filter(str.isdecimal, found), key=int)}
