"""Rows in the authors' layout: there and back, through parquet and `datasets`, and what a wrong file says."""

import pandas
import pytest

from grlib.errors import GrlibError
from grlib.runs import files as artefacts
from grlib.tasks.countdown import rows
from grlib.tasks.countdown.data import make_splits
from grlib.tasks.countdown.fast import solve
from grlib.tasks.countdown.puzzle import Problem
from grlib.tasks.countdown.scale import Scale
from grlib.tasks.countdown.vocabulary import build_tokenizer, prompt_text

POSTER = Problem((84, 2, 14, 15), 26)
SOLUTION = ("14+15=29", "2*29=58", "84-58=26")


def items():
    return [(POSTER, SOLUTION), *make_splits(Scale(max_number=30), 5, 0, 0).train]


def test_a_row_has_the_fields_of_the_release():
    row = rows.problem_rows([(POSTER, SOLUTION)]).iloc[0]
    assert list(row.index) == ["data_source", "prompt", "reward_model", "extra_info"]
    assert row["prompt"] == [{"role": "user", "content": "Target: 26, Numbers: [84, 2, 14, 15]"}]
    assert row["reward_model"]["ground_truth"] == "26"
    assert row["extra_info"] == {
        "index": 0,
        "nums": [84, 2, 14, 15],
        "target": 26,
        "solution": list(SOLUTION),
    }


def test_problems_come_back_from_memory_and_from_parquet(tmp_path):
    frame = rows.problem_rows(items())
    assert rows.problems_from_rows(frame) == items()
    stored = artefacts.read_table(artefacts.write_table(tmp_path / "problems.parquet", frame))
    assert rows.problems_from_rows(stored) == items()
    problem, solution = rows.problems_from_rows(stored)[0]
    assert type(problem.target) is int and all(type(step) is str for step in solution)
    assert solve(problem) == solution


def test_datasets_reads_both_layouts(tmp_path):
    from datasets import Dataset

    places = {"cache_dir": str(tmp_path / "cache")}
    artefacts.write_table(tmp_path / "problems.parquet", rows.problem_rows(items()))
    loaded = Dataset.from_parquet(str(tmp_path / "problems.parquet"), **places)
    assert loaded[0]["extra_info"]["nums"] == [84, 2, 14, 15]
    assert rows.problems_from_rows(loaded.to_pandas()) == items()

    artefacts.write_table(tmp_path / "sft.parquet", rows.message_rows(["ask"], ["answer\n"]))
    loaded = Dataset.from_parquet(str(tmp_path / "sft.parquet"), **places)
    assert loaded[0]["messages"] == [
        {"role": "user", "content": "ask"},
        {"role": "assistant", "content": "answer\n"},
    ]


def test_messages_come_back_and_fit_the_chat_template(tmp_path):
    frame = rows.message_rows(["one", "two"], ["first\n", "second"])
    assert rows.turns_from_rows(frame) == [("one", "first\n"), ("two", "second")]
    stored = artefacts.read_table(artefacts.write_table(tmp_path / "sft.parquet", frame))
    assert rows.turns_from_rows(stored) == [("one", "first\n"), ("two", "second")]
    prompt = rows.problem_rows([(POSTER, SOLUTION)]).loc[0, "prompt"]
    assert build_tokenizer().apply_chat_template(prompt, tokenize=False) == prompt_text(POSTER)


@pytest.mark.parametrize(
    ("info", "words"),
    [
        ({"nums": [3, 4], "target": 7}, "must hold"),
        ({"nums": [3, 4.5], "target": 7, "solution": ["3+4=7"]}, "must hold"),
        ({"nums": [3, True], "target": 7, "solution": ["3+4=7"]}, "not a legal move"),
        ({"nums": None, "target": 7, "solution": ["3+4=7"]}, "must hold"),
        (None, "must hold"),
        ({"nums": [3, 4], "target": 7, "solution": None}, "must hold"),
        ({"nums": [3, 4], "target": 7, "solution": ["3*4=12"]}, "not the target"),
        ({"nums": [3, 4], "target": 7, "solution": ["3+5=8"]}, "not a legal move"),
        ({"nums": [], "target": 7, "solution": []}, "nums is empty"),
    ],
)
def test_a_wrong_row_is_named(info, words):
    good = rows.problem_rows([(POSTER, SOLUTION)])
    frame = pandas.concat([good, pandas.DataFrame({"extra_info": [info]})], ignore_index=True)
    with pytest.raises(GrlibError, match=words) as error:
        rows.problems_from_rows(frame)
    assert str(error.value).startswith("row 1: ") and "\n" not in str(error.value)


def test_wrong_files_and_arguments_are_refused():
    with pytest.raises(GrlibError, match="column 'extra_info' is missing"):
        rows.problems_from_rows(pandas.DataFrame({"messages": []}))
    with pytest.raises(GrlibError, match="column 'messages' is missing"):
        rows.turns_from_rows(pandas.DataFrame({"extra_info": []}))
    with pytest.raises(GrlibError, match="row 0: its roles are"):
        rows.turns_from_rows(pandas.DataFrame({"messages": [[{"role": "user", "content": "x"}]]}))
