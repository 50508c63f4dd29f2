"""Chunks after the deadline, and the old options for several machines."""

import pandas as pd
import pytest

from grlib.runs import chunks, deadline

COUNT = 7


def work(folder):
    """A step of seven chunks; returns its rows and which chunks were computed now."""
    done = []

    def compute(number):
        done.append(number)
        return pd.DataFrame({"chunk": [number], "value": [10 * number]})

    return chunks.chunked(folder, {"seed": 1}, COUNT, compute, progress=[].append), done


def test_after_the_deadline_every_call_stores_one_chunk(tmp_path, monkeypatch):
    whole, _ = work(tmp_path / "whole")
    monkeypatch.setenv(deadline.VARIABLE, "1")  # 1970
    for number in range(COUNT):
        with pytest.raises(deadline.OutOfTime, match=f"{number + 1}/{COUNT} chunks are stored; the same"):
            work(tmp_path / "late")
    rows, again = work(tmp_path / "late")
    assert again == []
    pd.testing.assert_frame_equal(rows, whole)
    with deadline.put_off():  # its caller stores it as a whole
        rows, done = work(tmp_path / "short")
    assert done == list(range(COUNT)) and deadline.passed()
