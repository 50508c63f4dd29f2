"""The episodes that a repair base imitates, and its tokenizer."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grlib import profiles, selftrain
from grlib.models.llama import save_model
from grlib.models.tokenizer import encode
from grlib.profiles import Sampling
from grlib.selftrain import evaluate
from grlib.tasks.repair import episodes, warmup
from grlib.tasks.repair.compositions import problems
from grlib.tasks.repair.settings import repair_task
from grlib.tasks.repair.task import RepairTask
from grlib.training.rows import make_rows

TASK = RepairTask(budget=200, format=episodes.COMPACT)
PROBLEMS = problems("base", 100)


@pytest.fixture(scope="module")
def made():
    return warmup.imitated(PROBLEMS, TASK, seed=0)


@pytest.fixture(scope="module")
def words(made):
    return warmup.build_tokenizer(one.prompt + one.rest for one in made)


def answers(one):
    return [
        part.partition(episodes.END)[0]
        for part in ("x" + episodes.ASSISTANT + one.rest).split(episodes.ASSISTANT)[1:]
    ]


def test_episodes_are_wrong_before_they_are_right(made):
    assert len(made) == len(PROBLEMS)
    for problem, one in zip(PROBLEMS, made, strict=True):
        texts = answers(one)
        assert len(texts) == one.answers <= 4
        turns = TASK.judge([(problem, text, 0) for text in texts])
        assert [turn.public for turn in turns] == [False] * (len(turns) - 1) + [one.solved]
        assert turns[-1].correct == one.solved
        assert one.rest.count(episodes.USER) == len(turns) - 1
    counts = [one.answers for one in made]
    assert (
        all(counts.count(number) >= 5 for number in (1, 2, 3, 4))
        and 0.85 < sum(o.solved for o in made) / len(made) < 1
    )
    shown = [one for one in made if "A correct program is:" in one.rest]
    assert 30 < len(shown) < 70 and all(one.solved for one in shown)


def test_a_senseless_statement_comes_with_the_reference(made):
    asked = [TASK.format.prompt(problem, []) for problem in PROBLEMS]
    obscured = [one for one, prompt in zip(made, asked, strict=True) if one.prompt != prompt]
    assert 20 < len(obscured) < 50, "about a third"
    assert all("A correct program is:" in one.rest for one in obscured if one.answers > 1)
    assert sum(one.answers > 1 for one in obscured) > 0.9 * len(obscured), "unless no broken program failed"
    rng = Random(0)
    told = "Given the words xs, sort them.\nWrite a function solve(xs)."
    others = {warmup._obscured(told, rng) for _ in range(50)}
    assert len(others) > 30 and all(one.endswith("\nWrite a function solve(xs).") for one in others)


def test_episodes_follow_from_the_seed(made):
    assert warmup.imitated(PROBLEMS[:30], TASK, seed=0) == made[:30]
    assert warmup.imitated(PROBLEMS[:30], TASK, seed=1) != made[:30]


def test_the_tokenizer_is_compact_and_loses_nothing(made, words):
    texts = [one.prompt + one.rest for one in made]
    ids = encode(words, texts)
    assert [words.decode(row, clean_up_tokenization_spaces=False) for row in ids] == texts
    characters, tokens = sum(map(len, texts)), sum(map(len, ids))
    assert characters / tokens > 2.2 and len(words) <= warmup.VOCABULARY
    again = warmup.build_tokenizer(texts)
    assert again.get_vocab() == words.get_vocab()
    assert len(encode(words, ["1234567"])[0]) == 7, "digits stay apart"


@settings(max_examples=50)
@given(st.text(max_size=60))
def test_any_text_survives(words, text):
    assert words.decode(encode(words, [text])[0], clean_up_tokenization_spaces=False) == text


def test_the_chat_template_writes_what_the_format_does(words):
    problem = PROBLEMS[0]
    turn = episodes.Turn("answer", "feedback", False, False, 1)
    messages = [
        {"role": "user", "content": episodes.question(problem)},
        {"role": "assistant", "content": "answer"},
        {"role": "user", "content": "feedback"},
    ]
    text = words.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == episodes.COMPACT.prompt(problem, [turn])


def test_training_rows_end_with_the_end_mark(made, words):
    [row] = make_rows(words, [made[0].prompt], [made[0].rest], 1024, turns=True)
    assert row.ids[-1] == words.eos_token_id and row.start == len(encode(words, [made[0].prompt])[0])
    assert words.decode(row.ids[:-1]) == made[0].prompt + made[0].rest


def test_episodes_are_made_in_parts_that_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(warmup, "PART", 3)
    made = warmup.base_episodes(TASK, 0, 7, 0, tmp_path)
    assert len({one.prompt for one in made}) == 7
    monkeypatch.setattr(warmup, "imitated", None)  # nothing is made again
    assert warmup.base_episodes(TASK, 0, 7, 0, tmp_path) == made
    monkeypatch.undo()
    monkeypatch.setattr(warmup, "PART", 3)
    assert warmup.base_episodes(TASK, 1, 3, 0) == made[3:6]


def test_a_base_is_trained_and_samples_episodes(tmp_path):
    profile = profiles.get("smoke")
    model, tokenizer, curve = warmup.train_base(profile, stop_after=2, valid_every=2)
    again, _, same = warmup.train_base(profile, stop_after=2, valid_every=2)
    assert curve["step"].tolist() == [1, 2]
    assert curve["loss"].tolist() == same["loss"].tolist()
    save_model(model, tokenizer, tmp_path / "base", curve)
    task = repair_task(profiles.changed(profile, repair={"budget": 12}), tokenizer)
    policy = selftrain.sampled_policy(
        tmp_path / "base", Sampling(workers=1), 0, tmp_path / "work", "a", lambda line: None
    )
    frame = evaluate(task, policy, PROBLEMS[:2], 2)
    assert len(frame) == 4 and not frame["correct"].any()
