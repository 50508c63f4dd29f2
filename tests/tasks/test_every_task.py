"""What every task must hold, for each task that has a file `tests/tasks/<task>/kit.py` with a `KIT`.

A kit names the task's parts by common names; docs/your-own-task.md lists them.
"""

import importlib.util
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, Protocol

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grlib.models.tokenizer import decode, encode
from grlib.profiles import PPO
from grlib.sampling.pool import Sampled
from grlib.selftrain import Attempt, gather


class Kit(Protocol):
    """What the tests below need of a task."""

    task: Any  # a `TraceTask`
    tokenizer: Any
    items: list[Any]  # some problems with what guidance needs
    lists: dict[str, list[Any]]  # list -> keys of its problems; no two lists may share one

    def traces(self, item: Any) -> list[str]:
        """Traces that solve a problem."""

    def broken(self, item: Any, trace: str, rng: Random) -> str:
        """The trace changed such that it solves the problem no more."""

    def progress(self, item: Any, trace: str) -> int:
        """Steps of the solution that a trace has reached."""


class Found(NamedTuple):
    name: str
    kit: Kit


def kits() -> list[Found]:
    found = []
    for path in sorted(Path(__file__).parent.glob("*/kit.py")):
        spec = importlib.util.spec_from_file_location(f"kit_of_{path.parent.name}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found.append(Found(path.parent.name, module.KIT))
    return found


KITS = kits()
every_task = pytest.mark.parametrize("kit", [found.kit for found in KITS], ids=[found.name for found in KITS])


def attempt_of(kit: Kit, item: Any, trace: str) -> Attempt:
    return Attempt(kit.task.prompt(item), trace, 1, True, *kit.task.verdict(item, trace))


def test_every_task_with_traces_has_a_kit():
    assert {found.name for found in KITS} >= {"countdown", "sudoku"}


@every_task
def test_the_grader_accepts_every_true_trace_and_no_broken_one(kit):
    for number, item in enumerate(kit.items):
        for trace in kit.traces(item):
            assert kit.task.verdict(item, trace)[0], trace
            for k in range(20):
                broken = kit.broken(item, trace, Random(f"{number}/{k}"))
                assert broken != trace and not kit.task.verdict(item, broken)[0], broken


@every_task
@settings(max_examples=50)
@given(data=st.data())
def test_any_text_is_graded_guided_and_not_believed(kit, data):
    item = data.draw(st.sampled_from(kit.items))
    pieces = [line + "\n" for line in kit.traces(item)[0].split("\n")]
    lines = st.one_of(st.sampled_from(pieces[:-2]), st.text(max_size=20))
    text = "".join(data.draw(st.lists(lines, max_size=8)))
    assert kit.task.verdict(item, text)[0] is False
    guided = kit.task.guide(item, attempt_of(kit, item, text), 1, Random(0))
    assert kit.progress(item, guided) > kit.progress(item, text) or kit.task.verdict(item, guided)[0]


@every_task
def test_rewriting_a_failed_trace_reaches_one_step_more_until_it_is_solved(kit):
    for number, item in enumerate(kit.items):
        for whole in kit.traces(item):
            trace = whole[: Random(number).randrange(len(whole) - 1)]
            for _ in range(60):
                if kit.task.verdict(item, trace)[0]:
                    break
                before = kit.progress(item, trace)
                trace = kit.task.guide(item, attempt_of(kit, item, trace), 1, Random(number))
                assert trace.endswith("\n")
                assert kit.progress(item, trace) == before + 1 or kit.task.verdict(item, trace)[0]
            assert kit.task.verdict(item, trace)[0]


@every_task
def test_prompts_and_traces_survive_the_tokenizer(kit):
    for item in kit.items:
        prompt, trace = kit.task.prompt(item), kit.traces(item)[-1]
        asked, told, both = encode(kit.tokenizer, [prompt, trace, prompt + trace])
        assert asked + told == both and decode(kit.tokenizer, both) == prompt + trace
        assert kit.tokenizer(prompt + trace, add_special_tokens=False)["input_ids"] == both


@every_task
def test_no_problem_is_in_two_lists_or_twice_in_one(kit):
    keys = [key for keys in kit.lists.values() for key in keys]
    assert len(keys) == len(set(keys)) and all(kit.lists.values())


@every_task
def test_self_training_and_reinforcement_take_the_task_as_it_is(kit):
    """A policy that fails at first and, once guided, goes on as a true trace does."""

    def answered(text: str, start: str = "") -> Sampled:
        ids = tuple(encode(kit.tokenizer, [text])[0])
        new = len(ids) - len(encode(kit.tokenizer, [start])[0])
        return Sampled(text, len(ids), new, True, ids, (-1.0,) * len(ids))

    def failing(requests):
        return [answered(kit.traces(item)[0].split("\n")[0] + "\n") for item in kit.items]

    def solving(requests):
        return [answered(kit.traces(item)[0]) for item in kit.items]

    gathered = gather(kit.task, kit.items, lambda number: solving if number else failing, 1, 0)
    assert gathered.solved_in == [1] * len(kit.items)
    for action in ("operation", "token"):
        found = kit.task.rollouts(solving, kit.items, kit.tokenizer, PPO(action=action))
        for item, rollout in zip(kit.items, found, strict=True):
            assert rollout.correct and rollout.rewards == ((len(rollout.response) - 1, 1.0),)
            lines = kit.traces(item)[0].rstrip("\n").count("\n") + 1
            assert len(rollout.starts) == (lines if action == "operation" else len(rollout.response))
