"""Curves in the real trackio: kept on this machine; a training that goes on continues its run."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

PART = """
from grlib.training.loop import track
for step in range({0}, {0} + 2):
    track("toy, seed 0", {{"step": step, "loss": 1 / step, "valid_loss": float("nan") if step < 4 else 0.5}})
"""


@pytest.mark.skipif(
    importlib.util.find_spec("trackio") is None, reason="needs trackio (tests/ecosystem/requirements.txt)"
)
def test_a_curve_is_kept_and_continued(tmp_path):
    here = {"TRACKIO_DIR": str(tmp_path), "GRLIB_TRACKIO": "paper", "HF_HUB_OFFLINE": "1"}
    here["PYTHONPATH"] = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")]))

    def run(*arguments):
        command = [sys.executable, *arguments]
        return subprocess.run(
            command, env=os.environ | here, capture_output=True, text=True, check=True
        ).stdout

    run("-c", PART.format(1))
    run("-c", PART.format(3))
    asked = ["-m", "trackio.cli", "get", "metric", "--project", "paper", "--run", "toy, seed 0", "--json"]
    for name, wanted in (("loss", {1: 1, 2: 1 / 2, 3: 1 / 3, 4: 1 / 4}), ("valid_loss", {4: 0.5})):
        values = json.loads(run(*asked, "--metric", name))["values"]
        assert {row["step"]: row["value"] for row in values} == pytest.approx(wanted)
