"""The recorded windows on one GPU are whole, and what is written about them follows from them."""

import numpy as np
import pandas as pd
import pytest

from grlib.results import gpu as report
from grlib.results import rows as results
from grlib.runs.notebooks import REPOSITORY

RECORD = REPOSITORY / "paper_results" / "measured" / "gpu" / "seed0"


def test_the_record_is_whole_and_reported():
    stored = results.load({0: RECORD}, "gpu")
    evaluated = stored.rows("eval")
    guided = evaluated[evaluated["method"] == "guided_rest"]
    for iteration, samples in ((1, 32), (2, 4), (3, 32)):
        shape = guided[guided["iteration"] == iteration].groupby(["split", "index"]).size()
        assert (shape == samples).all() and len(shape) == 800
    assert stored.rows("ppo_curve").groupby("method")["step"].apply(list).tolist() == [list(range(1, 26))] * 4
    made = report.windows(RECORD / "manifests")
    assert list(made) == ["base", "iterate", "iterate_2", "iterate_3"]
    for manifest in made.values():
        assert sum(spent for _, spent in manifest["parts"]) == pytest.approx(
            manifest["wall_seconds"], abs=1.5
        )
    text = "\n".join(
        report.paragraphs(
            REPOSITORY / "paper_results" / "measured", REPOSITORY / "paper_results" / "base_gpu" / "sos"
        )
    )
    sos = evaluated[(evaluated["method"] == "sos") & (evaluated["split"] == "seen")]
    assert f"55.3 / {100 * sos['correct'].mean():.1f}" in text
    assert f"{sum(m['wall_seconds'] for m in made.values()) / 60:.1f} |" in text
    assert (
        "A step of PPO in the windows (on NVIDIA H200) took 3.4 s: " in text
        and "iterations of 12,000 problems: 3, steps of PPO: 25, " in text
    )


def test_nothing_is_said_of_a_record_that_is_not_there(tmp_path):
    assert report.paragraphs(tmp_path, tmp_path) == ["Nothing is recorded yet."]


def test_paces_stand_beside_the_ceilings_of_the_card():
    found = {
        "device": "a card",
        "ceilings": {"copy_tb_s": 2.0, "bf16_tflop_s": 500.0},
        "training_pace": {"packed": 1e6, "padded": 4e5},
        "sampling_pace": {"static": 6e5, "read_tb_s": 0.5, "generate": 2e4, "generate_device": "another"},
    }
    text = report.pace_table(found, {"parameters": 10_000_000})
    assert "attention" not in text
    reading = {"device": "a third", "copy_tb_s": 4.0, "read_tb_s": 3.0}
    more = report.pace_table(found | {"attention": reading}, {"parameters": 1})
    assert (
        "attention of a sampling step, most slots (on a third) | 3.00 TB/s | keys and values read; 75% of"
        in more
    )
    assert "2.5 times rows padded" in text and "60 TFLOP/s at 6 a parameter, 12% of" in text
    assert "25% of the copy's rate" in text and "20,000 tokens/s (on another) | 30 times slower" in text


def test_minutes_of_all_windows_by_kind_of_work():
    """By hand: hints and likelihoods are measuring; the windows' own totals stand below."""
    made = {
        "base": {"parts": [["sos steps", 60.0], ["hints", 30.0]], "wall_seconds": 96.0},
        "iterate": {
            "parts": [["sos again", 12.0], ["likelihoods", 6.0], ["PPO", 120.0]],
            "wall_seconds": 138.0,
        },
    }
    assert report.cost_table(made).splitlines()[2:] == [
        "| PPO | 0.0 | 2.0 | 2.0 |",
        "| sos | 1.0 | 0.2 | 1.2 |",
        "| measuring | 0.5 | 0.1 | 0.6 |",
        "| **all** | 1.6 | 2.3 | 3.9 |",
    ]


def test_measured_numbers_are_numbers():
    frame = pd.read_parquet(RECORD / "results" / "05_likelihood.parquet")
    assert set(frame["kind"]) == {"self_generated", "hinted", "guided"}
    assert np.isfinite(frame["nll"]).all() and (frame["nll_tokens"] > 0).all()
