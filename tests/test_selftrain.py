"""The loop on a task that is no search at all, then end to end on a tiny model."""

import shutil
from dataclasses import replace
from pathlib import Path
from random import Random

import pandas as pd
import pytest

from grlib import selftrain
from grlib.errors import GrlibError
from grlib.models.llama import load_both
from grlib.profiles import Sampling, SelfTraining, Training
from grlib.runs import deadline
from grlib.runs.files import digest
from grlib.sampling.pool import Request, Sampled
from grlib.selftrain import Attempt, fine_tune, gather, self_train


class GuessDigit:
    """Toy task: name a digit. A start is the text 'at least k'; the guide leads a digit further."""

    def __init__(self, rounds: int = 9, unguided: tuple = (), stuck: tuple = ()) -> None:
        self.rounds, self.unguided, self.stuck = rounds, unguided, stuck
        self.guided: list[tuple] = []

    def attempt(self, policy, items, starts):
        answers = policy(
            [Request(f"digit {item}", start or "", 9) for item, start in zip(items, starts, strict=True)]
        )
        return [
            None
            if start is not None and item in self.stuck
            else Attempt(f"digit {item}", answer.text, answer.tokens, True, answer.text[-1] == str(item), "")
            for item, start, answer in zip(items, starts, answers, strict=True)
        ]

    def guide(self, item, attempt, number, rng):
        self.guided.append((item, attempt.response, number, rng.random()))
        return None if item in self.unguided else f"at least {number}: "


def policy(requests):
    """Guesses the least digit that its start allows."""
    least = [request.prefix[-3] if request.prefix else "0" for request in requests]
    return [
        Sampled(request.prefix + digit, len(request.prefix) + 1, True, 1)
        for request, digit in zip(requests, least, strict=True)
    ]


def test_every_failed_item_is_guided_until_it_is_solved():
    task = GuessDigit()
    found = gather(task, range(5), lambda number: policy, rounds=3, seed=0)
    assert found.solved_in == [0, 1, 2, 3, -1]
    assert [a.response for a in found.attempts] == [
        "0",
        *(f"at least {k}: {k}" for k in (1, 2, 3)),
        "at least 3: 3",
    ]
    assert [a.prompt for a in found.kept()] == [f"digit {i}" for i in range(4)]
    assert [(item, number) for item, _, number, _ in task.guided] == [
        (1, 1), (2, 1), (3, 1), (4, 1), (2, 2), (3, 2), (4, 2), (3, 3), (4, 3),
    ]  # fmt: skip


def test_a_round_works_on_the_newest_attempt_even_if_it_failed_again():
    task = GuessDigit()
    gather(task, [3], lambda number: policy, rounds=3, seed=0)
    assert [seen for _, seen, *_ in task.guided] == ["0", "at least 1: 1", "at least 2: 2"]


def test_rest_never_guides():
    task = GuessDigit()
    task.guide = None
    found = gather(task, range(4), lambda number: policy, rounds=0, seed=0)
    assert found.solved_in == [0, -1, -1, -1] and len(found.kept()) == 1


def test_there_are_no_more_rounds_than_the_task_allows():
    asked = []
    found = gather(GuessDigit(rounds=1), range(4), lambda number: asked.append(number) or policy, 9, 0)
    assert found.solved_in == [0, 1, -1, -1] and asked == [0, 1]


def test_what_the_guide_leaves_alone_is_not_attempted_again():
    task, asked = GuessDigit(unguided=(1, 2)), []

    def watched(requests):
        asked.append(len(requests))
        return policy(requests)

    found = gather(task, range(4), lambda number: watched, 3, 0)
    assert found.solved_in == [0, -1, -1, 3] and asked == [4, 1, 1, 1]
    assert found.attempts[1].response == "0"


def test_without_anything_to_guide_the_rounds_end():
    asked = []
    gather(GuessDigit(unguided=(1,)), [0, 1], lambda number: asked.append(number) or policy, 3, 0)
    assert asked == [0]


def test_an_attempt_without_room_leaves_the_one_before():
    found = gather(GuessDigit(stuck=(1,)), range(3), lambda number: policy, 3, 0)
    assert found.solved_in == [0, -1, 2] and found.attempts[1].response == "0"


def test_every_item_must_be_attempted_once():
    class NoRoom(GuessDigit):
        def attempt(self, policy, items, starts):
            return [None, *super().attempt(policy, items[1:], starts[1:])]

    with pytest.raises(GrlibError, match="1 of 3 items leave no room"):
        gather(NoRoom(), range(3), lambda number: policy, 3, 0)


def test_the_guide_draws_alike_for_the_same_seed_and_apart_for_items_and_rounds():
    def draws(seed):
        task = GuessDigit()
        gather(task, range(5), lambda number: policy, 3, seed)
        return [draw for *_, draw in task.guided]

    assert draws(0) == draws(0) != draws(1)
    assert len(set(draws(0))) == len(draws(0))


# end to end: a policy that is a model, a task that asks for an even number of characters


class EvenLength:
    """Toy task: respond with an even number of characters; the guide keeps the first half of a failure."""

    rounds = 2

    def attempt(self, policy, items, starts):
        requests = [
            Request(f"<s>{item}\n", start or "", 24) for item, start in zip(items, starts, strict=True)
        ]
        return [
            Attempt(request.prompt, found.text, found.tokens, found.ended, len(found.text) % 2 == 0, "")
            if found.new
            else None
            for request, found in zip(requests, policy(requests), strict=True)
        ]

    def guide(self, item, attempt, number, rng: Random):
        return attempt.response[: len(attempt.response) // 2]


SETTINGS = SelfTraining(
    guided_rounds=2,
    iterations=2,
    training=Training(lr=0.01, batch_rows=4, epochs=1, checkpoint_seconds=0),
    sampling=Sampling(slots=8, chunk=10, workers=1),
    row_length=64,
)


def run(base: Path, folder: Path, method: str = "guided", rounds: int = 2) -> pd.DataFrame:
    settings = replace(SETTINGS, guided_rounds=rounds)
    return self_train(
        EvenLength(),
        range(20),
        base,
        settings,
        method=method,
        seed=0,
        models=folder / "models" / method,
        work=folder / "work" / method,
        progress=str,
    )


@pytest.fixture(scope="module")
def finished(tiny_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    return folder, run(tiny_folder, folder)


def test_a_run_leaves_models_and_a_row_an_item_and_iteration(finished):
    run_folder, records = finished
    assert list(records.columns) == ["method", "iteration", "index", "round_solved", "tokens", "truncated"]
    assert records["iteration"].tolist() == [1] * 20 + [2] * 20
    assert records["index"].tolist() == [*range(20)] * 2
    assert set(records["round_solved"]) <= {-1, 0, 1, 2} and (records["round_solved"] > 0).any()
    assert records["tokens"].between(1, 24).all()
    for iteration in (1, 2):
        folder = run_folder / "models" / "guided" / f"iteration_{iteration}"
        load_both(folder)
        kept = (records.query(f"iteration == {iteration}")["round_solved"] >= 0).sum()
        assert len(pd.read_csv(folder / "curve.csv")) == -(-kept // 4)


def test_the_last_model_deleted_is_made_again_alike(tiny_folder, finished, tmp_path, chunks_done):
    """From its checkpoint, and without it: the same bytes, and nothing is sampled twice."""
    folder, records = shutil.copytree(finished[0], tmp_path / "run"), finished[1]
    last, before = folder / "models/guided/iteration_2", digest(folder / "models")
    for lost in ([last], [last, folder / "work/guided/training_2"], [folder / "models"]):
        for path in lost:
            shutil.rmtree(path)
        assert run(tiny_folder, folder).equals(records)
        assert digest(folder / "models") == before
    assert not chunks_done


def test_stopped_after_every_chunk_and_step_the_run_ends_alike(tiny_folder, finished, tmp_path, monkeypatch):
    monkeypatch.setenv(deadline.VARIABLE, "1")  # 1970: every call stores one piece of work
    stored: list[str] = []
    for _ in range(100):
        try:
            records = run(tiny_folder, tmp_path)
            break
        except deadline.OutOfTime as late:
            stored.append(str(late))
    assert records.equals(finished[1]) and digest(tmp_path / "models") == digest(finished[0] / "models")
    assert any("chunks are stored" in line for line in stored) and any("steps are" in line for line in stored)


def test_a_finished_training_needs_no_checkpoint(tiny_folder, finished, tmp_path, monkeypatch):
    folder, records = shutil.copytree(finished[0], tmp_path / "run"), finished[1]
    for path in (folder / "work").rglob("checkpoint.pt"):
        path.unlink()
    monkeypatch.setattr("grlib.training.loop.train_step", None)
    assert run(tiny_folder, folder).equals(records)


def test_a_lost_chunk_changes_nothing(tiny_folder, finished, tmp_path, chunks_done):
    folder, records = shutil.copytree(finished[0], tmp_path / "run"), finished[1]
    before = digest(folder / "models")
    (folder / "work/guided/sampled_2_0/chunk_000001.parquet").unlink()
    assert run(tiny_folder, folder).equals(records)
    assert chunks_done == [10] and digest(folder / "models") == before


def test_methods_share_the_first_samples_of_the_base(tiny_folder, finished, tmp_path, chunks_done):
    folder, records = shutil.copytree(finished[0], tmp_path / "run"), finished[1]
    rest = run(tiny_folder, folder, "rest", rounds=0)
    assert chunks_done == [10, 10], "only the second iteration of ReST is new"
    first, guided = (frame.query("iteration == 1")["round_solved"] == 0 for frame in (rest, records))
    assert first.tolist() == guided.tolist()
    assert set(rest["round_solved"]) <= {-1, 0}


def test_each_iteration_samples_with_the_newest_model_and_trains_the_base(tiny_folder, tmp_path, monkeypatch):
    sampled, trained = [], []
    monkeypatch.setattr(
        selftrain,
        "sampled_policy",
        lambda model, *_: sampled.append(model) or (lambda requests: answers(requests)),
    )
    monkeypatch.setattr(selftrain, "fine_tune", lambda kept, base, *_, out, **__: trained.append((base, out)))

    def answers(requests):
        return [Sampled("xx", 3, True, 3) for _ in requests]

    run(tiny_folder, tmp_path, rounds=0)
    models = tmp_path / "models" / "guided"
    assert sampled == [tiny_folder, models / "iteration_1"]
    assert trained == [(tiny_folder, models / "iteration_1"), (tiny_folder, models / "iteration_2")]


def tune(base: Path, folder: Path, kept: list[Attempt], steps: int = 0) -> pd.DataFrame:
    more = {"seed": 0, "out": folder / "out", "work": folder / "work", "label": "toy", "progress": str}
    return fine_tune(kept, base, SETTINGS, **more, steps=steps)


KEPT = [Attempt(f"<s>{i}\n", ", ".join("12345"[: i % 5]), i, i % 2 == 0, True, "") for i in range(9)]


def test_a_number_of_steps_overrides_the_epochs(tiny_folder, tmp_path):
    assert len(tune(tiny_folder, tmp_path / "a", KEPT)) == 3
    assert len(tune(tiny_folder, tmp_path / "b", KEPT, steps=7)) == 7


def test_another_base_does_not_use_the_old_checkpoint(tiny_folder, grouped_folder, tmp_path):
    from grlib.models.llama import save_model

    model, tokenizer = load_both(tiny_folder)
    model.model.norm.weight.data += 1
    save_model(model, tokenizer, tmp_path / "other")
    tune(tiny_folder, tmp_path / "reused", KEPT)
    tune(tmp_path / "other", tmp_path / "reused", KEPT)
    tune(tmp_path / "other", tmp_path / "fresh", KEPT)
    assert digest(tmp_path / "reused/out") == digest(tmp_path / "fresh/out")


def test_where_nothing_was_kept_the_model_stays_the_base(tiny_folder, tmp_path):
    assert len(tune(tiny_folder, tmp_path, [])) == 0
    assert digest(tmp_path / "out/model.safetensors") == digest(tiny_folder / "model.safetensors")
