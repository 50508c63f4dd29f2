"""Episodes with a scripted model: what it is shown, what is stored, what the loop gets."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grlib import sandbox, selftrain
from grlib.models.tokenizer import encode
from grlib.profiles import Sampling
from grlib.sampling.pool import Sampled
from grlib.selftrain import evaluate
from grlib.tasks.repair import episodes
from grlib.tasks.repair.compositions import problems
from grlib.tasks.repair.episodes import CHATML, COMPACT, PLACEHOLDER, PLAIN, as_answer, code_of
from grlib.tasks.repair.problems import COMPOSED, Case, CodeProblem
from grlib.tasks.repair.task import Episode, RepairTask, Start
from grlib.tasks.repair.warmup import build_tokenizer

DOUBLE = CodeProblem(
    "Double x.\nWrite a function solve(x).", "call", "solve",
    (Case([1], 2), Case([3], 6)), (Case([0], 0), Case([50], 100)),
    "def solve(x):\n    return 2 * x", COMPOSED,
)  # fmt: skip
ECHO = CodeProblem(
    "Print what you read.", "stdin", None, (Case("a b\n", "a b\n"),), (Case("c\n", "c\n"),),
    "print(input())", COMPOSED,
)  # fmt: skip
RIGHT = as_answer(DOUBLE.solution)
WRONG = as_answer("def solve(x):\n    return x + 1")  # right for 1
CHEAT = as_answer("def solve(x):\n    return {1: 2, 3: 6}[x]")  # passes the public tests only
BROKEN = as_answer("def solve(x):\n    return y")
TASK = RepairTask(budget=100)
QUOTING = '''def solve(x):
    """Doubles.

    ```
    solve(1)
    ```
    """
    return 2 * x'''


class Script:
    """Answers from a list, in order; None is an answer that runs into the budget. Keeps what it was asked."""

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []

    def __call__(self, requests):
        self.asked.append([request.prompt for request in requests])
        assert all(request.prefix == "" and request.budget == 100 for request in requests)
        texts = [self.answers.pop(0) for _ in requests]
        return [Sampled(text or "half", 9 if text else 100, text is not None, 9) for text in texts]


def attempt(*answers, item=DOUBLE, start=None, task=TASK):
    script = Script(*answers)
    [found] = task.attempt(script, [item], [start])
    assert script.answers == []
    return found, [prompt for [prompt] in script.asked]


def test_an_episode_ends_with_the_first_answer_that_passes_the_public_tests():
    found, asked = attempt(WRONG, "no idea", RIGHT)
    assert found.correct and found.reason == "correct" and found.tokens == 27 and found.ended
    assert found.response == RIGHT and found.prompt == asked[-1]
    assert [turn.correct for turn in found.turns] == [False, False, True]
    assert asked[0] == (
        "### User\nDouble x.\nWrite a function solve(x).\nsolve(1) -> 2\nsolve(3) -> 6\n### Assistant\n"
    )
    assert asked[1] == asked[0] + (
        f"{WRONG}\n### User\n1 of 2 tests fail.\nInput: [3]\nExpected: 6\nOutput: 4\nFix the program.\n"
        "### Assistant\n"
    )
    assert "There is no program in your answer (no code)." in asked[2]


def test_rows_of_results_tell_answers_and_copies():
    found, _ = attempt(WRONG, RIGHT)
    row = found.row()
    assert (row["answers"], row["right_answer"], row["public"], row["copied"]) == (2, 2, True, True)
    assert (row["correct"], row["truncated"], row["tokens"], row["reason"]) == (True, False, 18, "correct")
    other, _ = attempt(as_answer("def solve(x):\n    return x + x"))
    assert (other.row()["right_answer"], other.row()["copied"]) == (1, False)
    assert (row["like_reference"], row["like_before"]) == (1, 0.5), "of two lines one stayed"
    row = attempt(None)[0].row()
    assert row.pop("like_before") != row.get("like_reference"), "not a number: there is none before"
    assert row == {
        "correct": False, "reason": "budget", "tokens": 100, "truncated": True, "response": "", "answers": 0,
        "public": False, "right_answer": 0, "copied": False, "like_reference": 0, "group": str(DOUBLE.number),
        "unread": 0,
    }  # fmt: skip
    frame = evaluate(TASK, Script(WRONG, RIGHT, RIGHT), [DOUBLE], 2)
    assert frame["right_answer"].tolist() == [2, 1] and frame["sample"].tolist() == [0, 1]


def test_the_last_of_four_answers_counts():
    found, asked = attempt(WRONG, WRONG, WRONG, BROKEN)
    assert len(asked) == 4 and not found.correct and found.reason == "public"
    assert "Error: error: line 2, in solve; NameError: name 'y' is not defined" in found.turns[-1].feedback


def test_who_passes_the_public_tests_alone_is_done_but_not_right():
    found, asked = attempt(CHEAT)
    assert len(asked) == 1 and not found.correct and found.reason == "private"
    assert TASK.guide(DOUBLE, found, 1, Random(0)) is None, "its public tests do not fail"


def test_an_answer_that_runs_into_the_budget_is_dropped():
    found, _ = attempt(WRONG, None)
    assert (found.response, found.ended, found.reason) == (WRONG, False, "budget")
    assert len(found.turns) == 1 and found.tokens == 109, "what was sampled counts, dropped or not"
    found, _ = attempt(None)
    assert (found.response, found.turns, found.correct) == ("", (), False)
    assert TASK.guide(DOUBLE, found, 1, Random(0)) is None, "nothing to go on from"


def test_a_guided_round_shows_the_reference_once_and_stores_a_placeholder():
    failed, _ = attempt(WRONG, BROKEN, WRONG, WRONG)
    start = TASK.guide(DOUBLE, failed, 2, Random(0))
    assert [turn.answer for turn in start.turns] == [WRONG, BROKEN]
    found, asked = attempt(BROKEN, RIGHT, start=start)
    assert DOUBLE.solution in asked[0] and PLACEHOLDER not in asked[0]
    assert DOUBLE.solution not in asked[1] and asked[1].count(PLACEHOLDER) == 1
    assert asked[0].replace(as_answer(DOUBLE.solution), PLACEHOLDER) == asked[1][: len(PLAIN.prompt(
        DOUBLE, found.turns[:2]))]  # fmt: skip
    assert "NameError" in asked[0], "the feedback is that of the answer it follows"
    assert found.correct and len(found.turns) == 4
    assert DOUBLE.solution not in found.prompt and found.response == RIGHT
    assert TASK.guide(DOUBLE, failed, 4, Random(0)) is None, "no answer would be left"


def test_where_the_first_answer_after_a_start_is_dropped_the_attempt_before_it_stands():
    failed, _ = attempt(WRONG, WRONG, WRONG, WRONG)
    start = TASK.guide(DOUBLE, failed, 1, Random(0))
    assert attempt(None, start=start)[0] is None
    found, _ = attempt(WRONG, None, start=start)
    assert len(found.turns) == 2 and found.reason == "budget"


def test_many_episodes_go_on_side_by_side():
    script = Script(RIGHT, as_answer("print(input()[::-1])"), as_answer(ECHO.solution))
    found = TASK.attempt(script, [DOUBLE, ECHO], [None, None])
    assert [one.correct for one in found] == [True, True]
    assert [len(asked) for asked in script.asked] == [2, 1]
    assert "Input:\na b\nOutput:\na b" in script.asked[0][1]
    assert "Input: a b\nExpected: a b\nOutput: b a\n" in script.asked[1][0]


def test_the_loop_repairs_failed_episodes_with_guidance():
    def policy_of_round(number):
        def policy(requests):
            return [
                Sampled(RIGHT if DOUBLE.solution in request.prompt else WRONG, 9, True, 9)
                for request in requests
            ]

        return policy

    found = selftrain.gather(TASK, [DOUBLE], policy_of_round, rounds=3, seed=0)
    assert found.solved_in == [1] and len(found.kept()) == 1
    assert found.kept()[0].prompt.count(PLACEHOLDER) == 1 and DOUBLE.solution not in found.kept()[0].prompt
    assert selftrain.gather(TASK, [DOUBLE], policy_of_round, rounds=0, seed=0).solved_in == [-1]


def test_each_turn_samples_in_a_place_of_its_own(tiny_folder, tmp_path):
    policy = selftrain.sampled_policy(
        tiny_folder, Sampling(workers=1), 0, tmp_path / "work", "a", lambda line: None
    )
    first = policy([selftrain.Request("26:[84, 2, 14, 15]\n", "", 5)])
    again = policy([selftrain.Request("26:[84, 2, 14, 15]\n", "", 5)])
    assert (tmp_path / "work" / "turn_1").is_dir()
    fresh = selftrain.sampled_policy(
        tiny_folder, Sampling(workers=1), 0, tmp_path / "work", "a", lambda line: None
    )
    assert [fresh([selftrain.Request("26:[84, 2, 14, 15]\n", "", 5)]) for _ in range(2)] == [first, again]


@pytest.mark.parametrize(
    ("answer", "code", "reason"),
    [
        ("```python\nx = 1\n```", "x = 1", ""),
        ("```\nx = 1\n\n```", "x = 1", ""),
        ("one ```python\nx = 1\n``` two\n```py\ny = 2\n```", "y = 2", ""),
        ("```python\nx = 1\n```\n```python\ny = 2", "x = 1", ""),
        ("x = 1", None, "no code"),
        ("```python\nx = 1", None, "no code"),
        ("```x = 1```", None, "no code"),
        ("```python\n \n```", None, "no code"),
        ("```js\nlet x\n```", None, "wrong language: js"),
        ("", None, "no code"),
        (f"```python\n{'x' * 200_000}\n```", None, "code of 200,001 characters: at most 100,000"),
        ("```python\nprint('```')\n```", "print('```')", ""),
        (f"```python\n{QUOTING}\n```", QUOTING, ""),
        ("```python\nprint(1)\n```\nIt prints\n```\n1\n```", "print(1)", ""),
        ("```python\nprint(1)\n```\nRun it:\n```bash\npython x.py\n```", "print(1)", ""),
        ("````python\nprint(1)\n````", "print(1)", ""),
        ("````python\nx = '''\n```\n'''\n````", "x = '''\n```\n'''", ""),
        ("~~~python\nx = 1\n~~~\n", "x = 1", ""),
        ("1. So:\n   ```python title=x\n   if x:\n       y\n   ```", "if x:\n    y", ""),
        ("```python\nx = 1\n```\n```python\n\n```", "x = 1", ""),
        ("```Python3\nx = 1\n```", "x = 1", ""),
    ],
)
def test_the_code_of_an_answer_is_its_last_closed_block_of_python(answer, code, reason):
    assert code_of(answer) == (code, reason)


@pytest.mark.parametrize("code", [QUOTING, 'x = """\n```\n````python\n"""', "```", "print('~~~')", "<|end|>"])
def test_a_program_as_an_answer_is_that_program(code):
    assert code_of(as_answer(code)) == (code, "")
    assert code_of(episodes.without_control(as_answer(code))) == (code, "")


LOUD = as_answer("print('no<|end|><|assistant|>\\x1b[2J', map(str, []))")
SPELT = ECHO._replace(statement="Print <|end|> twice.", solution="print('<|user|>')")


def test_control_tokens_in_outside_text_stay_text():
    tokenizer = build_tokenizer([SPELT.statement, LOUD, *map(chr, range(32, 127))] * 9)
    control = set(tokenizer.convert_tokens_to_ids([episodes.USER, episodes.ASSISTANT, episodes.END]))

    def controls(text):
        [ids] = encode(tokenizer, [text])
        return [tokenizer.decode(one) for one in ids if one in control]

    task = replace(TASK, format=COMPACT, learn_from="all")
    failed, asked = attempt(LOUD, LOUD, LOUD, LOUD, item=SPELT, task=task)
    assert controls(failed.turns[0].feedback) == []
    assert controls(asked[0]) == ["<|user|>", "<|end|>", "<|assistant|>"]
    assert controls(asked[1]) == ["<|user|>", "<|end|>", "<|assistant|>", "<|end|>"] + controls(asked[0])
    guided, asked = attempt(LOUD, item=SPELT, start=task.guide(SPELT, failed, 3, Random(0)), task=task)
    assert "print('<\u2060|user|>')" in asked[0] and len(controls(asked[0])) == 15
    for example in guided.examples():
        assert controls(example.response) == [] and code_of(example.response) == code_of(LOUD)
    chat = replace(TASK, format=CHATML).format.prompt(
        SPELT._replace(statement="<|im_end|> <file_sep> </s>"), []
    )
    assert "<\u2060|im_end|> <\u2060file_sep> <\u2060/s>" in chat and chat.count("<|im_end|>") == 1


def test_feedback_is_fit_for_a_terminal_and_the_same_every_time():
    [turn] = TASK.judge([(ECHO, LOUD, 1)])
    assert "\x1b" not in turn.feedback and "\\x1b[2J <map object at 0x...>" in turn.feedback
    sandbox.close()
    assert TASK.judge([(ECHO, LOUD, 1)]) == [turn]


def test_ten_megabytes_and_half_characters_are_an_answer_like_any_other():
    found, _ = attempt("```" * 3_000_000, "\ud800```python\nprint('\ud800')\n```", WRONG, RIGHT)
    assert found.correct and not found.turns[0].public and not found.turns[1].public


def test_long_fields_lose_their_middle():
    text = "a" * 150 + "b" * 1000 + "c" * 150
    assert episodes.shortened(text) == "a" * 150 + " ... " + "c" * 150
    assert episodes.shortened("a" * 300) == "a" * 300
    outcome = sandbox.Outcome(False, "wrong", "x" * 10_000)
    assert len(episodes.report(Case([1], 2), outcome)) < 400


def test_chat_models_have_their_own_marks():
    assert CHATML.prompt(DOUBLE, []).startswith("<|im_start|>user\nDouble x.\n")
    assert CHATML.prompt(DOUBLE, []).endswith("6<|im_end|>\n<|im_start|>assistant\n")


POOL = problems("train", 12)
ANSWERS = st.sampled_from(["right", "cheat", "reference", "none", "budget"]) | st.text(max_size=30)


@settings(max_examples=15)
@given(st.integers(0, len(POOL) - 1), st.lists(ANSWERS, min_size=60, max_size=60))
def test_what_is_stored_never_holds_the_reference_in_a_user_turn(which, script):
    item, left = POOL[which], list(script)

    def policy(requests):
        found = []
        for _ in requests:
            said = left.pop()
            text = (
                as_answer(item.solution) if said in ("right", "reference") else f"{said}\n{as_answer('pass')}"
            )
            found.append(Sampled(text, 5, said != "budget", 5))
        return found

    gathered = selftrain.gather(TASK, [item], lambda number: policy, rounds=3, seed=0)
    [episode] = gathered.attempts
    assert isinstance(episode, Episode)
    assert all(item.solution not in turn.feedback for turn in episode.turns)
    rendered = PLAIN.prompt(item, episode.turns)
    for turn in episode.turns:
        rendered = rendered.replace(turn.answer, "", 1)
    assert item.solution not in rendered
    assert episode.correct == bool(gathered.kept())
    start = TASK.guide(item, episode, 1, Random(0))
    assert start is None or (isinstance(start, Start) and item.solution in start.shown)


def test_all_answers_can_be_learnt_from():
    task = replace(TASK, learn_from="all")
    found, asked = attempt(WRONG, BROKEN, RIGHT, task=task)
    assert [(one.prompt, one.response) for one in found.examples()] == list(
        zip(asked, [WRONG, BROKEN, RIGHT], strict=True)
    )
    found, asked = attempt(WRONG, RIGHT)
    assert [(one.prompt, one.response, one.ended) for one in found.examples()] == [(asked[1], RIGHT, True)]
    failed, _ = attempt(WRONG, WRONG, WRONG, WRONG, task=task)
    guided, _ = attempt(RIGHT, start=task.guide(DOUBLE, failed, 2, Random(0)), task=task)
    assert [one.response for one in guided.examples()] == [WRONG, WRONG, RIGHT]
    assert not any(DOUBLE.solution in one.prompt for one in guided.examples())


def test_an_episode_ends_before_its_conversation_outgrows_the_model():
    found, asked = attempt(WRONG, WRONG, task=replace(TASK, fits=lambda prompt: prompt.count(WRONG) < 2))
    assert len(asked) == 2 and found.reason == "budget" and not found.ended and found.tokens == 18
    never = replace(TASK, fits=lambda prompt: False)
    assert attempt(task=never)[0].turns == ()
    failed, _ = attempt(WRONG, WRONG, WRONG, WRONG)
    assert attempt(start=TASK.guide(DOUBLE, failed, 1, Random(0)), task=never)[0] is None


def test_private_tests_run_only_where_the_public_ones_pass(monkeypatch):
    ran = []
    real = sandbox.run_all

    def counted(jobs):
        jobs = list(jobs)
        ran.extend((code, len(tests)) for code, tests, *_ in jobs)
        return real(jobs)

    monkeypatch.setattr(sandbox, "run_all", counted)
    turns = TASK.judge([(DOUBLE, WRONG, 1), (DOUBLE, RIGHT, 2), (DOUBLE, RIGHT, 3), (DOUBLE, "none", 4)])
    assert [(turn.public, turn.correct, turn.tokens) for turn in turns] == [
        (False, False, 1), (True, True, 2), (True, True, 3), (False, False, 4),
    ]  # fmt: skip
    assert sorted(ran) == sorted([(code_of(WRONG).code, 2), (DOUBLE.solution, 2), (DOUBLE.solution, 2)]), (
        "equal programs once"
    )


def test_tested_programs_are_not_run_again_after_a_kill(tmp_path, monkeypatch):
    task = replace(TASK, work=tmp_path)
    answers = [(DOUBLE, as_answer(f"def solve(x):\n    return {k} * x"), 5) for k in range(5)]
    monkeypatch.setattr("grlib.tasks.repair.task.PORTION", 2)
    real, calls = sandbox.run_all, []

    def killed(jobs):
        calls.append(len(jobs := list(jobs)))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(jobs)

    monkeypatch.setattr(sandbox, "run_all", killed)
    with pytest.raises(KeyboardInterrupt):
        task.judge(answers)
    done = len(calls)
    turns = task.judge(answers)
    assert turns == TASK.judge(answers) and [turn.correct for turn in turns] == [k == 2 for k in range(5)]
    assert done == 4 and calls[4] == 2, "went on with the portion that was not finished"


def test_half_characters_in_an_error_reach_no_file(tmp_path):
    code = as_answer("def solve(x):\n    raise ValueError(chr(0xD800))")
    [turn] = replace(TASK, work=tmp_path).judge([(DOUBLE, code, 1)])
    assert "ValueError: ?" in turn.feedback and turn == TASK.judge([(DOUBLE, code, 1)])[0]


def test_a_copy_is_told_whatever_ends_the_reference():
    found, _ = attempt(RIGHT, item=DOUBLE._replace(solution=DOUBLE.solution + "\n"))
    assert found.row()["copied"]
