"""Shards do their chunks and no others; merging them gives what one machine would have made."""

import pandas as pd
import pytest

from grlib.__main__ import main
from grlib.errors import GrlibError
from grlib.runs import chunks, deadline
from grlib.runs import files as artefacts

KEY = {"seed": 1}
COUNT = 7


def work(folder, monkeypatch, shard="", key=KEY, times=10):
    """A step of seven chunks as a shard does it; returns its rows and which chunks were computed now."""
    monkeypatch.setenv(chunks.VARIABLE, shard)
    done = []

    def compute(number):
        done.append(number)
        return pd.DataFrame({"chunk": [number], "value": [times * number]})

    artefacts.write_json(folder / "run.json", {"profile": "laptop", "seed": 0})
    try:
        rows = chunks.chunked(folder / "steps" / "06" / "sampled", key, COUNT, compute, progress=[].append)
    except chunks.OtherShards as error:
        return str(error), done
    return rows, done


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_merged_shards_are_what_one_machine_makes(tmp_path, monkeypatch, count):
    whole, _ = work(tmp_path / "whole", monkeypatch)
    folders = [tmp_path / f"shard{number}" for number in range(count + 1)]  # the first leads: 0/n
    parts = [work(folder, monkeypatch, f"{number}/{count}")[1] for number, folder in enumerate(folders)]
    assert parts[0] == [] and sorted(sum(parts, [])) == list(range(COUNT))
    said = chunks.merge(folders[0], folders[1:])
    assert said == [f"steps/06/sampled: {COUNT} of {COUNT} chunks copied"]
    rows, again = work(folders[0], monkeypatch, f"0/{count}")
    assert again == []
    pd.testing.assert_frame_equal(rows, whole)
    assert chunks.merge(folders[0], folders[1:]) == [f"steps/06/sampled: 0 of {COUNT} chunks copied"]


def test_a_shard_says_what_it_waits_for_and_does_nothing_twice(tmp_path, monkeypatch):
    said, done = work(tmp_path, monkeypatch, "2/3")
    assert done == [1, 4] and "shard 2/3 has done its part; 5 of 7 chunks" in said
    assert work(tmp_path, monkeypatch, "2/3")[1] == []


def test_a_shard_that_does_all_of_a_step_stops_there_too(tmp_path, monkeypatch):
    said, done = work(tmp_path, monkeypatch, "1/1")
    assert done == list(range(COUNT)) and "0 of 7" in said
    rows, again = work(tmp_path, monkeypatch, "1/1")  # what came from others is no reason to stop
    assert again == [] and len(rows) == COUNT


def test_a_step_that_is_not_shared_is_done_by_everyone(tmp_path, monkeypatch):
    monkeypatch.setenv(chunks.VARIABLE, "2/3")
    with chunks.as_a_whole():
        assert chunks.mine(range(4)) == [0, 1, 2, 3]
    assert chunks.mine(range(4)) == [1]


def test_gaps_overlaps_and_mixed_settings_are_refused(tmp_path, monkeypatch):
    first, second, odd = (tmp_path / name for name in ("first", "second", "odd"))
    work(first, monkeypatch, "1/3")
    work(second, monkeypatch, "2/3")
    with pytest.raises(
        GrlibError, match=r"steps/06/sampled: 2 of 7 chunks are in none of the folders, first 2"
    ):
        chunks.merge(first, [second])
    assert len(list(first.rglob("chunk_*"))) == 3  # nothing was brought

    work(odd, monkeypatch, "", times=11)
    with pytest.raises(GrlibError, match="hold different results"):
        chunks.merge(first, [second, odd])
    work(odd, monkeypatch, "", key={"seed": 2})
    with pytest.raises(GrlibError, match="with other settings, inputs or code"):
        chunks.merge(first, [second, odd])
    artefacts.write_json(odd / "run.json", {"profile": "laptop", "seed": 5})
    with pytest.raises(GrlibError, match="merge shards of one run"):
        chunks.merge(first, [odd])


@pytest.mark.parametrize("text", ["", "3", "4/3", "1/0", "-1/2", "a/b", "1/2/3"])
def test_a_shard_is_i_of_n(text):
    with pytest.raises(GrlibError, match="must be i/n"):
        chunks.parse(text)


def test_the_command_merges(tmp_path, monkeypatch, capsys):
    for number in (1, 2):
        work(tmp_path / str(number), monkeypatch, f"{number}/2")
    assert main(["merge-shards", "--run-dir", str(tmp_path / "1"), str(tmp_path / "2")]) == 0
    assert capsys.readouterr().out == "steps/06/sampled: 3 of 7 chunks copied\n"
    assert main(["merge-shards", "--run-dir", str(tmp_path / "1"), str(tmp_path / "none")]) == 3


def test_after_the_deadline_every_call_stores_one_chunk(tmp_path, monkeypatch):
    whole, _ = work(tmp_path / "whole", monkeypatch)
    monkeypatch.setenv(deadline.VARIABLE, "1")  # 1970
    for number in range(COUNT):
        with pytest.raises(deadline.OutOfTime, match=f"{number + 1}/{COUNT} chunks are stored; the same"):
            work(tmp_path / "late", monkeypatch)
    rows, again = work(tmp_path / "late", monkeypatch)
    assert again == []
    pd.testing.assert_frame_equal(rows, whole)
    with chunks.as_a_whole():  # its caller stores it as a whole
        rows, done = work(tmp_path / "short", monkeypatch)
    assert done == list(range(COUNT)) and deadline.passed()
