"""Pack a run folder into a few files, to continue on another machine: `python -m grlib pack` and `unpack`.

A pack holds the artefacts that the chosen notebooks read and write, the records of what is up to date, and
the chunks of unfinished notebooks, but no checkpoints: they are too large. Models are rounded: a fine-tuned
one to eight bits of its difference from the SoS model, any other to bfloat16.
"""

from __future__ import annotations

import gzip
import io
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from grlib.errors import GrlibError
from grlib.models.difference import PLAIN, write_difference
from grlib.models.llama import load_model
from grlib.runs.files import MissingArtefact, digest, write_bytes
from grlib.runs.freshness import state_path
from grlib.runs.notebooks import IN_REPOSITORY, select

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

PART, PARTS = 16_000_000, 8  # bytes of a file and number of files, at most
ALWAYS = ("run.json", "state", "manifests", "executed")
LEFT_OUT = ("checkpoint*", "policy", "rollouts", "job", "*.tmp")  # of an unfinished notebook's work
FINE_TUNED = 0.25  # |change| / |weights|: with a larger one, a model is not the base fine-tuned


def pack(folder: Path, out: Path, profile: str, only: Iterable[str] = ()) -> list[Path]:
    """Write what the notebooks `only` (empty: all) need and have made in `folder` as files of at most `PART`
    bytes into `out`, and return their paths. GrlibError where they are more than `PARTS`."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        packed = Path(place)
        for name in _names(folder, profile, only):
            target = packed / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if (folder / name).is_dir():
                left_out = shutil.ignore_patterns(*LEFT_OUT) if name.startswith("steps/") else None
                shutil.copytree(folder / name, target, ignore=left_out, dirs_exist_ok=True)
            elif (folder / name).is_file():
                shutil.copy2(folder / name, target)
        _round_models(packed)
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w") as archive:
            archive.add(packed, arcname=".")
    whole = gzip.compress(content.getvalue())
    count = -(-len(whole) // PART)
    if count > PARTS:
        raise GrlibError(
            f"{folder}: {len(whole) / 1e6:.0f} MB packed, {PARTS} files of {PART / 1e6:.0f} MB are allowed; "
            "name the notebooks that are still to run by --only"
        )
    names = [out / f"part_{number + 1}_of_{count}.pack" for number in range(count)]
    return [write_bytes(path, whole[PART * i : PART * (i + 1)]) for i, path in enumerate(names)]


def unpack(packed: Path, folder: Path) -> None:
    """Make the run folder `folder` from the files that `pack` wrote; GrlibError where it holds a run already,
    MissingArtefact where a file is missing or damaged."""
    if (folder / "run.json").exists():
        raise GrlibError(f"{folder}: holds a run already; name another --run-dir, or move it away")
    found = sorted(packed.glob("part_*_of_*.pack"))
    if not found or len(found) != int(found[0].stem.rpartition("_")[2]):
        raise MissingArtefact(f"{packed}: {len(found)} files part_*.pack; bring all of one packed run")
    try:
        content = gzip.decompress(b"".join(path.read_bytes() for path in found))
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise MissingArtefact(f"{packed}: damaged ({error}); bring the files again") from error
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        archive.extractall(folder, filter="data")


def _names(folder: Path, profile: str, only: Iterable[str]) -> Iterator[str]:
    """The files and folders to pack, relative to the run folder."""
    yield from (name for name in ALWAYS if (folder / name).exists())
    yield from ("models/sos",) if (folder / "models" / "sos").is_dir() else ()
    for notebook in select(only):
        extra = notebook.declared.get("may_write", [])
        declared = [*notebook.inputs(profile), *notebook.writes(profile), *extra]
        yield from (name for name in declared if not name.startswith(IN_REPOSITORY))
        if not state_path(notebook, folder).exists() and (folder / "steps" / notebook.name).is_dir():
            yield f"steps/{notebook.name}"


def _round_models(run: Path) -> None:
    """Round the models of a run, and replace their digests in its records."""
    models, sos = run / "models", run / "models" / "sos"
    folders = sorted(path for path in models.rglob("*") if path.is_dir())
    before = {folder: digest(folder) for folder in folders}
    if (sos / PLAIN).is_file():
        _to_bfloat16(sos)
        base = load_model(sos)
        for path in sorted(models.rglob(PLAIN)):
            if path.parent != sos:
                model = load_model(path.parent)
                if _is_fine_tuned(base, model):
                    write_difference(path.parent, model, sos, base)
                else:
                    _to_bfloat16(path.parent)
    renamed = {old: digest(folder) for folder, old in before.items()}
    for path in sorted(run.rglob("*.json")):  # manifests before states, which hold their digests
        old_digest, text = digest(path), path.read_text(encoding="utf-8")
        for old, new in renamed.items():
            text = text.replace(old, new)
        path.write_text(text, encoding="utf-8")
        renamed[old_digest] = digest(path)


def _is_fine_tuned(base: LlamaForCausalLM, model: LlamaForCausalLM) -> bool:
    first, second = base.state_dict(), model.state_dict()
    if {name: one.shape for name, one in first.items()} != {name: one.shape for name, one in second.items()}:
        return False
    change = sum(float((second[name] - one).square().sum()) for name, one in first.items())
    return change < FINE_TUNED**2 * sum(float(one.square().sum()) for one in first.values())


def _to_bfloat16(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = {name: one.to(torch.bfloat16) for name, one in load_file(folder / PLAIN).items()}
    save_file(weights, folder / PLAIN, metadata={"format": "pt"})
