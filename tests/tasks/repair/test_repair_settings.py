"""Code self-repair at the scale of a profile: which problems, which base, which loop; what a reader sees."""

from __future__ import annotations

from dataclasses import replace

import pytest

from grlib import profiles
from grlib.errors import GrlibError
from grlib.models.tokenizer import encode
from grlib.results.conversation import conversation
from grlib.sampling.pool import Sampled
from grlib.tasks.repair import episodes, settings, warmup
from grlib.tasks.repair.compositions import problems
from grlib.tasks.repair.scale import Scale
from grlib.tasks.repair.task import Episode, RepairTask, Turn

LAPTOP = profiles.get("laptop")


def test_the_roles_of_a_run_share_no_problem():
    smoke = profiles.get("smoke")
    scale, parts = smoke.repair, settings.test_splits(smoke)
    assert {split: len(part) for split, part in parts.items()} == {"near": 6, "far": 4, "deeper": 4}
    items = settings.training_items(smoke, seed=0)
    assert len(items) == scale.self_training.train_problems * scale.episodes
    assert settings.training_items(smoke, 0) == items != settings.training_items(smoke, 1)
    parts |= {"train": items, "valid": problems("valid", scale.valid_problems), "base": problems("base", 40)}
    statements = [one.statement for part in parts.values() for one in part]
    assert len(set(statements)) == len(statements)
    twice = settings.training_items(profiles.changed(smoke, repair={"episodes": 2}), 0)
    assert all(twice[i] is twice[i + 1] for i in range(0, 20, 2)), "episodes of a problem follow each other"


def test_results_say_which_problems_are_resampled_together():
    [composed] = problems("near", 1)
    external = composed._replace(source="taco", group="")
    for problem, group in ((composed, composed.group), (external, str(external.number))):
        [episode] = RepairTask(budget=9, turns=1, rounds=0).attempt(
            lambda asked: [Sampled("no", 1, True, 1)], [problem], [None]
        )
        assert ">" in composed.group and episode.row()["group"] == group


def test_the_methods_differ_in_rounds_and_epochs_alone():
    loops = {method: LAPTOP.repair.self_training.of(method) for method in settings.METHODS}
    assert (loops["rest"].guided_rounds, loops["guided_rest"].guided_rounds) == (0, 3)
    assert (
        replace(loops["rest"], guided_rounds=3, training=loops["guided_rest"].training)
        == loops["guided_rest"]
    )
    with pytest.raises(GrlibError, match="'bc' is not self-trained; choose rest or guided_rest"):
        LAPTOP.repair.self_training.of("bc")


def test_a_conversation_may_fill_the_model_and_no_more():
    words = warmup.build_tokenizer(["abc " * 30])
    task = settings.repair_task(LAPTOP, words)
    most = LAPTOP.repair.self_training.row_length - LAPTOP.repair.budget
    text = "7" * most  # digits stay apart: a token each
    assert len(encode(words, [text])[0]) == most
    assert task.fits(text) and not task.fits(text + "7")
    assert settings.repair_task(LAPTOP).fits(text * 9), "without a tokenizer nothing is counted"


def test_the_paper_takes_the_authors_model_as_it_is_and_their_data_sets(monkeypatch):
    paper, asked = profiles.get("paper"), []
    monkeypatch.setattr(warmup, "load_pretrained", lambda name: (name, "tokenizer"))
    model, _, curve = warmup.train_base(paper)
    assert model.startswith("Qwen/Qwen2.5-7B-Instruct@") and len(curve) == 0

    def load(place, split):
        asked.append((place, split))
        found = problems("train", 20)
        wrong = found[0]._replace(solution=found[1].solution.replace("return", "return 7,"))
        return [wrong, found[1]._replace(solution=""), *found[2:]]

    monkeypatch.setattr(settings, "load", load)
    assert {name: len(part) for name, part in settings.test_splits(paper).items()} == {"near": 20, "far": 20}
    said = []
    with pytest.raises(GrlibError, match="18 problems with a reference that .*train_problems is 16,000"):
        settings.training_items(paper, 0, said.append)
    assert said[0].startswith("symoon11/code-repair-rl-pi: 18 of 20 problems have a reference that passes")
    assert asked == [
        ("symoon11/code-repair-rl-cc", "test"),
        ("symoon11/code-repair-rl-cf", "test"),
        ("symoon11/code-repair-rl-pi", "train"),
    ]
    few = profiles.changed(paper, repair={"self_training": {"train_problems": 5}})
    assert len({problem.statement for problem in settings.training_items(few, 0)}) == 5


def test_a_conversation_shows_every_test_and_what_the_model_is_told():
    [problem] = [p for p in problems("train", 60) if p.style == "call"][:1]
    task, right = RepairTask(budget=99), episodes.as_answer(problem.solution)
    wrong = episodes.as_answer(f"def {problem.entry}(*given):\n    return None")
    turns = task.judge([(problem, "no idea", 1), (problem, wrong, 1), (problem, right, 1)])
    episode = Episode("", right, 3, True, True, "correct", tuple(turns))
    shown = conversation(problem, episode).split("\n")
    assert shown[0] == "PROBLEM" and "> no idea" in shown and "- no code" in shown
    assert shown.count("THE MODEL IS TOLD") == 1, "the first answer has no program: nothing was tested"
    assert [line for line in shown if line.startswith("- public")] == [
        "- public test 1: wrong, got null",
        "- public test 2: wrong, got null",
    ]
    assert shown[-3:] == [
        "+ public test 1: passed",
        "+ public test 2: passed",
        "+ private tests: 10 of 10 pass",
    ]
    page = conversation(problem, Episode("", "<b>", 1, True, False, "", (Turn("<b>", "", 0, 0, 1),)))
    assert "&lt;b&gt;" in page._repr_html_() and "<b>" not in page._repr_html_()


def test_models_are_chosen_at_a_scale_that_fits():
    smoke, gpu = profiles.get("smoke"), profiles.get("gpu")
    assert settings.with_model(smoke, "compact") == smoke
    assert settings.with_model(gpu, "compact").repair.base_problems == Scale().base_problems
    expected = replace(profiles.load_file("_pretrained").repair, pretrained="some/model")
    found = settings.with_model(smoke, "some/model").repair
    assert replace(found, self_training=expected.self_training) == expected
    assert found.self_training == replace(expected.self_training, sampling=smoke.sampling)
    assert settings.with_model(gpu, "some/model").repair == replace(gpu.repair, pretrained="some/model")


def test_a_model_that_ends_its_answers_otherwise_is_refused():
    words = warmup.build_tokenizer(["abc"])
    with pytest.raises(
        GrlibError, match=r"'some/model': its answers end with '<\|end\|>', those of the chat"
    ):
        settings.repair_task(settings.with_model(LAPTOP, "some/model"), words)
    words.add_special_tokens({"eos_token": "<|im_end|>"})
    with pytest.raises(GrlibError, match="'some/model': its template writes a question as .*not as ChatML"):
        settings.repair_task(settings.with_model(LAPTOP, "some/model"), words)
