"""Files are whole or not there, tables have stable bytes, and killed chunked work goes on where it was."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
import yaml
from conftest import is_running, wait_for
from datasets import get_dataset_config_names, load_dataset

from grlib.errors import GrlibError
from grlib.runs import chunks, sources
from grlib.runs import files as artefacts
from grlib.runs import run as runs
from grlib.runs.files import MissingArtefact

FRAME = pandas.DataFrame(
    {
        "index": [3, 1, 2],
        "correct": [True, False, True],
        "reason": ["goal", "ünmet", ""],
        "x": [0.1, 1 / 3, -2.0],
    }
)


def chunk(number: int) -> pandas.DataFrame:
    """Rows that depend on the chunk number only."""
    return pandas.DataFrame(
        {"chunk": number, "row": range(5), "value": [number * 7 + row / 3 for row in range(5)]}
    )


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# atomic writes


def test_atomic_write_replaces_the_file_only_at_the_end(tmp_path):
    path = artefacts.write_bytes(tmp_path / "new" / "a.txt", b"old")
    with pytest.raises(RuntimeError), artefacts.atomic(path) as temporary:
        temporary.write_bytes(b"half")
        assert path.read_bytes() == b"old"
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert files(path.parent) == ["a.txt"]


def test_atomic_folder_replaces_the_folder_only_at_the_end(tmp_path):
    path = tmp_path / "model"
    with artefacts.atomic_folder(path) as temporary:
        (temporary / "config.json").write_text("{}")
    with pytest.raises(RuntimeError), artefacts.atomic_folder(path) as temporary:
        (temporary / "config.json").write_text("{")
        raise RuntimeError
    with artefacts.atomic_folder(path) as temporary:
        (temporary / "config.json").write_text('{"a": 1}')
    assert json.loads((path / "config.json").read_text()) == {"a": 1}
    assert files(tmp_path) == ["model"]


def test_a_full_disk_leaves_what_was_there_and_nothing_else(tmp_path, monkeypatch):
    path = artefacts.write_bytes(tmp_path / "a.bin", b"old")

    def full(self, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        artefacts.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert files(tmp_path) == ["a.bin"]


def test_leftovers_of_dead_writers_are_removed_and_live_ones_stay(tmp_path):
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
    )
    leftover = tmp_path / f".table.csv.{dead.stdout.strip()}-1-new.tmp"
    leftover.write_text("half")
    mine = tmp_path / f".table.csv.{os.getpid()}-1-new.tmp"
    mine.write_text("half")
    artefacts.remove_leftovers(tmp_path)
    assert files(tmp_path) == [mine.name]


# tables and JSON


@pytest.mark.parametrize("name", ["t.parquet", "t.csv", "a [1]*::b:c/t.parquet", "a [1]*::b:c/t.csv"])
def test_the_same_table_gives_the_same_bytes_and_reads_back(tmp_path, name):
    first = artefacts.write_table(tmp_path / "a" / name, FRAME)
    second = artefacts.write_table(tmp_path / "b" / name, FRAME.copy().set_index(pandas.Index([9, 8, 7])))
    assert first.read_bytes() == second.read_bytes()
    assert b"pandas" not in first.read_bytes()
    back = artefacts.read_table(first)
    pandas.testing.assert_frame_equal(back.fillna(""), FRAME)


def test_nested_rows_survive(tmp_path):
    rows = [[{"role": "user", "content": "26:[1, 2]"}, {"role": "assistant", "content": "x\n"}]]
    path = artefacts.write_table(
        tmp_path / "sft.parquet", pandas.DataFrame({"messages": rows, "nums": [[1, 2]]})
    )
    back = artefacts.read_table(path)
    assert [dict(turn) for turn in back["messages"][0]] == rows[0]
    assert list(back["nums"][0]) == [1, 2]


def test_json_is_sorted_and_has_no_nan(tmp_path):
    path = artefacts.write_json(
        tmp_path / "a.json", {"b": float("nan"), "a": (1, FRAME["x"].iloc[0]), "p": Path("x")}
    )
    assert json.loads(path.read_text()) == {"a": [1, 0.1], "b": None, "p": "x"}
    assert path.read_text().index('"a"') < path.read_text().index('"b"')


def test_other_table_formats_are_refused(tmp_path):
    with pytest.raises(GrlibError, match=r"must end in \.parquet or \.csv"):
        artefacts.write_table(tmp_path / "t.xlsx", FRAME)


# whole or not


def write_examples(folder: Path) -> list[Path]:
    """One good file of each format."""
    import matplotlib.figure
    import numpy
    from safetensors.numpy import save_file

    figure = matplotlib.figure.Figure(figsize=(1, 1))
    for name in ("a.png", "a.svg"):
        figure.savefig(folder / name)
    save_file({"w": numpy.arange(64.0)}, folder / "a.safetensors")
    artefacts.write_json(folder / "a.json", {"a": [1, 2, 3]})
    for name in ("a.parquet", "a.csv"):
        artefacts.write_table(folder / name, FRAME)
    return sorted(folder.iterdir())


def test_truncation_is_seen_in_every_format(tmp_path):
    for path in write_examples(tmp_path):
        content = path.read_bytes()
        assert artefacts.is_whole(path), path.name
        for length in (0, 1, len(content) // 2, len(content) - 3):
            path.write_bytes(content[:length])
            assert not artefacts.is_whole(path), f"{path.name} cut to {length} bytes"
        path.unlink()
        assert artefacts.problem_with(path) == "missing"


def test_a_folder_is_whole_when_its_files_are(tmp_path):
    assert artefacts.problem_with(tmp_path) == "empty"
    write_examples(tmp_path)
    assert artefacts.is_whole(tmp_path)
    (tmp_path / "a.json").write_text("{")
    assert artefacts.problem_with(tmp_path) == "a.json is cut short or damaged"


def test_a_flipped_bit_in_a_table_is_seen(tmp_path):
    path = artefacts.write_table(tmp_path / "t.parquet", FRAME)
    content = bytearray(path.read_bytes())
    content[30] ^= 1
    path.write_bytes(content)
    with pytest.raises(MissingArtefact, match="damaged; delete it"):
        artefacts.read_table(path)


def test_digest_of_a_folder_depends_on_names_and_contents_only(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "x").write_text("1")
    assert artefacts.digest(tmp_path / "a") == artefacts.digest(tmp_path / "b")
    (tmp_path / "b" / ".x.1-1-new.tmp").write_text("unfinished")
    assert artefacts.digest(tmp_path / "a") == artefacts.digest(tmp_path / "b")
    (tmp_path / "b" / "sub" / "x").rename(tmp_path / "b" / "sub" / "y")
    assert artefacts.digest(tmp_path / "a") != artefacts.digest(tmp_path / "b")


# chunks


def test_chunks_are_reused_under_the_same_key_and_dropped_under_another(tmp_path):
    computed = []

    def compute(number):
        computed.append(number)
        return chunk(number)

    first = chunks.chunked(tmp_path, {"seed": 0}, 3, compute, progress=lambda line: None)
    again = chunks.chunked(tmp_path, {"seed": 0}, 4, compute, progress=lambda line: None)
    assert computed == [0, 1, 2, 3]
    pandas.testing.assert_frame_equal(again[again["chunk"] < 3], first)
    chunks.chunked(tmp_path, {"seed": 1}, 2, compute, progress=lambda line: None)
    assert computed == [0, 1, 2, 3, 0, 1]
    assert files(tmp_path) == ["chunk_000000.parquet", "chunk_000001.parquet", "key.json"]


def test_a_damaged_chunk_is_computed_again(tmp_path):
    whole = chunks.chunked(tmp_path, {}, 3, chunk, progress=lambda line: None)
    path = tmp_path / "chunk_000001.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    lines = []
    pandas.testing.assert_frame_equal(chunks.chunked(tmp_path, {}, 3, chunk, progress=lines.append), whole)
    assert lines[0] == "work: 2 of 3 chunks were done before"
    assert lines[-1].startswith("work: 3/3 chunks")


def test_workers_give_the_same_rows_in_order(tmp_path):
    alone = chunks.chunked(tmp_path / "a", {}, 6, chunk, progress=lambda line: None)
    with chunks.worker_pool(2) as pool:
        together = chunks.chunked(
            tmp_path / "b",
            {},
            6,
            chunk,
            lambda number: pool.submit(chunk, number),
            progress=lambda line: None,
        )
    pandas.testing.assert_frame_equal(together, alone)
    assert artefacts.digest(tmp_path / "a") == artefacts.digest(tmp_path / "b")


def test_a_failing_chunk_keeps_the_finished_ones(tmp_path):
    def compute(number):
        if number == 2:
            raise ArithmeticError("chunk 2")
        return chunk(number)

    with pytest.raises(ArithmeticError):
        chunks.chunked(tmp_path, {}, 4, compute, progress=lambda line: None)
    assert len(list(tmp_path.glob("chunk_*.parquet"))) == 2


REPOSITORY = Path(__file__).resolve().parents[2]


def test_workers_end_when_their_parent_is_killed(tmp_path):
    program = f"""
import os, sys, time
from pathlib import Path
from grlib.runs import chunks
if __name__ == "__main__":
    pool = chunks.worker_pool(1)
    Path({str(tmp_path / "pid")!r}).write_text(str(pool.submit(os.getpid).result()))
    time.sleep(60)
"""
    (tmp_path / "program.py").write_text(program)
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen([sys.executable, str(tmp_path / "program.py")], env=environment)
    wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    worker = int((tmp_path / "pid").read_text())
    process.kill()
    process.wait()
    wait_for(lambda: not is_running(worker))


# code digests


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A little package in the place of grlib: a -> b -> c, and d alone."""
    folder = tmp_path / "grlib"
    folder.mkdir()
    modules = {
        "__init__": '"""Doc."""\n',
        "a": "from grlib import b\n",
        "b": "def f():\n    from grlib.c import g\n    return g()\n",
        "c": '"""Doc."""\n\ndef g():\n    """Doc."""\n    return 1\n',
        "d": "import grlib.c as c\n",
        "e": "from . import d\nfrom .c import g\n",
    }
    for name, code in modules.items():
        (folder / f"{name}.py").write_text(code)
    monkeypatch.setattr(sources, "PACKAGE", folder)
    return folder


def test_reached_modules_follow_every_kind_of_import(package):
    assert set(sources.reached(["grlib.a"])) == {"grlib", "grlib.a", "grlib.b", "grlib.c"}
    assert set(sources.reached(["grlib.d"])) == {"grlib", "grlib.d", "grlib.c"}
    assert set(sources.reached(["grlib.e"])) == {"grlib", "grlib.e", "grlib.d", "grlib.c"}
    with pytest.raises(GrlibError, match=r"grlib\.zzz"):
        sources.reached(["grlib.zzz"])


def test_comments_and_docstrings_do_not_count_and_code_does(package):
    before = sources.code_digest("grlib.a")
    (package / "c.py").write_text(
        '"""Other."""\n# why\ndef g():\n    """Longer.\n\n    Text."""\n\n    return 1  # one\n'
    )
    assert sources.code_digest("grlib.a") == before
    (package / "d.py").write_text("x = 5\n")
    assert sources.code_digest("grlib.a") == before
    (package / "c.py").write_text("def g():\n    return 2\n")
    assert sources.code_digest("grlib.a") != before


@pytest.mark.parametrize("place", ["laptop/seed0", "laptop/seed0/results", "gpu/seed0"])
def test_datasets_reads_each_table_of_a_record_by_its_name(place, tmp_path):
    recorded = Path(__file__).resolve().parents[2] / "paper_results" / "measured" / place

    tables = {path.stem: path for path in recorded.rglob("*.parquet")}
    assert sorted(get_dataset_config_names(str(recorded))) == sorted(tables)
    made = load_dataset(str(recorded), "03_eval", split="train", cache_dir=str(tmp_path))
    pandas.testing.assert_frame_equal(made.to_pandas(), pandas.read_parquet(tables["03_eval"]))


def test_the_tables_of_a_run_are_data_sets_when_a_notebook_is_done(tmp_path):
    run = runs.start("01_countdown_problems", "smoke", run_dir=str(tmp_path))
    run.save_table(FRAME, "data/a.parquet")
    run.save_table(FRAME, "data/b.parquet")
    run.finish()
    front = yaml.safe_load((tmp_path / "data" / "README.md").read_text().split("---\n")[1])
    assert front["configs"] == [{"config_name": name, "data_files": f"{name}.parquet"} for name in ("a", "b")]
    assert not (tmp_path / "results").exists()
