"""The self-training loop: ReST and Guided-ReST on any task (the paper's Algorithm 2), and evaluation.

A task knows its problems: how to attempt them, how to grade an attempt, and from where a failed attempt is to
be continued. The loop does not. ReST is Guided-ReST without guided rounds.

`self_train` runs the loop: per iteration `gather` attempts, `fine_tune` the base on the correct ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, Protocol

import pandas as pd

from grlib.errors import GrlibError
from grlib.models.llama import load_both, low_rank, save_model
from grlib.models.tokenizer import load_tokenizer
from grlib.profiles import Profile, Sampling, SelfTraining, Training
from grlib.runs.files import digest, read_table
from grlib.sampling.pool import InMemory, Request, Sampled, sample
from grlib.training.base import card_after
from grlib.training.loop import rows_digest, train
from grlib.training.parallel import first_process, is_made, write_finished
from grlib.training.rows import Row, make_rows


class Example(NamedTuple):
    """What fine-tuning learns from: the loss is on the response, and on the end token where `ended`."""

    prompt: str
    response: str
    ended: bool


@dataclass(frozen=True)
class Attempt:
    """One try at a problem: the full response, its length in tokens, and the verdict on it."""

    prompt: str
    response: str
    tokens: int
    ended: bool  # False: it ran into the budget
    correct: bool
    reason: str

    def row(self) -> dict[str, Any]:
        """The attempt in a table of results."""
        return {
            "correct": self.correct,
            "reason": self.reason,
            "tokens": self.tokens,
            "truncated": not self.ended,
            "response": self.response,
        } | self.details()

    def details(self) -> dict[str, Any]:
        """Columns of results that only the attempts of one task have."""
        return {}

    def examples(self) -> list[Example]:
        """The training examples of the attempt, if it is kept."""
        return [Example(self.prompt, self.response, self.ended)]


# A model to sample from, as a task sees it: one response per request, in order.
Policy = Callable[[Sequence[Request]], list[Sampled]]


class Task(Protocol):
    """What a problem domain must offer to be self-trained on. `Item` and `Start` are types of the task."""

    @property
    def rounds(self) -> int:
        """The largest useful number of guided rounds."""

    def attempt(
        self, policy: Policy, items: Sequence[Any], starts: Sequence[Any | None]
    ) -> list[Attempt | None]:
        """Attempt each item once, from scratch (start None) or from a start that `guide` made.

        None where a start leaves the model no room to continue: then the attempt before it counts.
        """

    def guide(self, item: Any, attempt: Attempt, number: int, rng: Random) -> Any | None:
        """The start from which guided round `number` (1, 2, ...) continues a failed attempt; None: it is not
        attempted again."""


@dataclass(frozen=True)
class Gathered:
    """The newest attempt at every item, and the round in which it became correct (0: unguided, -1: never)."""

    attempts: list[Attempt]
    solved_in: list[int]

    def kept(self) -> list[Attempt]:
        """The correct attempts, which become training data."""
        return [attempt for attempt in self.attempts if attempt.correct]


def gather(
    task: Task, items: Sequence[Any], policy_of_round: Callable[[int], Policy], rounds: int, seed: int | str
) -> Gathered:
    """Attempt every item once, then guide the failed attempts for at most `rounds` rounds (0: ReST).

    Each round works on the newest attempt, even if the round before it failed again.
    """
    first = task.attempt(policy_of_round(0), items, [None] * len(items))
    attempts = [attempt for attempt in first if attempt]
    if len(attempts) != len(items):
        raise GrlibError(
            f"{len(items) - len(attempts)} of {len(items)} items leave no room for an attempt; "
            "raise the budget"
        )
    solved_in = [0 if attempt.correct else -1 for attempt in attempts]
    for number in range(1, min(rounds, task.rounds) + 1):
        guided = {
            i: task.guide(items[i], attempt, number, Random(f"guide/{seed}/{number}/{i}"))
            for i, attempt in enumerate(attempts)
            if not attempt.correct
        }
        starts = {i: start for i, start in guided.items() if start is not None}
        if not starts:
            break
        renewed = task.attempt(policy_of_round(number), [items[i] for i in starts], list(starts.values()))
        for i, attempt in zip(starts, renewed, strict=True):
            if attempt is not None:
                attempts[i] = attempt
                solved_in[i] = number if attempt.correct else -1
    return Gathered(attempts, solved_in)


def self_train(
    task: Task,
    items: Sequence[Any],
    base: Path,
    settings: SelfTraining,
    *,
    method: str,
    seed: int,
    models: Path,
    work: Path,
    progress: Callable[[str], None],
) -> pd.DataFrame:
    """Run all iterations and return one row per item and iteration: how it was solved and what it cost.

    Every iteration samples with the newest model and fine-tunes *the base* on the correct attempts. Models
    are written to `models`/iteration_<n>; `work` holds sampled chunks and checkpoints, so a call that was
    killed continues when it is made again.
    """
    records = []
    for iteration in range(1, settings.iterations + 1):
        newest = base if iteration == 1 else models / f"iteration_{iteration - 1}"
        gathered = gather_iteration(
            task, items, newest, settings, method=method, iteration=iteration, seed=seed, work=work,
            progress=progress,
        )  # fmt: skip
        fine_tune(
            gathered.kept(), base, settings, seed=f"{seed}/{iteration}",
            out=models / f"iteration_{iteration}", work=work / f"training_{iteration}",
            label=f"{method} {iteration}", progress=progress,
        )  # fmt: skip
        records.append(yield_rows(gathered, method, iteration))
    return pd.concat(records, ignore_index=True)


def gather_iteration(
    task: Task,
    items: Sequence[Any],
    model: Path,
    settings: SelfTraining,
    *,
    method: str,
    iteration: int,
    seed: int,
    work: Path,
    progress: Callable[[str], None],
) -> Gathered:
    """The sampling half of one iteration. Round 0 of iteration 1 is the same for every method."""
    name = f"{seed}/first" if iteration == 1 else f"{seed}/{method}/{iteration}"

    def policy_of_round(number: int) -> Policy:
        label = f"{method} {iteration}, round {number}"
        shared = iteration == 1 and number == 0  # all methods share the first samples of the base
        folder = (work.parent / "shared" if shared else work) / f"sampled_{iteration}_{number}"
        return sampled_policy(model, settings.sampling, f"{name}/{number}", folder, label, progress)

    return gather(task, items, policy_of_round, settings.guided_rounds, f"{seed}/{method}/{iteration}")


def fine_tune(
    kept: Sequence[Attempt],
    base: Path,
    settings: SelfTraining,
    *,
    seed: int | str,
    out: Path,
    work: Path,
    label: str,
    progress: Callable[[str], None],
    steps: int = 0,
) -> pd.DataFrame:
    """The training half of one iteration: fine-tune the base on kept attempts, save it in `out` and return
    its curve. `steps` overrides the epochs. Where nothing was kept, the model stays the base."""
    examples = [example for attempt in kept for example in attempt.examples()]
    prompts, responses = [one.prompt for one in examples], [one.response for one in examples]
    ended = [one.ended for one in examples]
    rows = make_rows(load_tokenizer(base), prompts, responses, settings.row_length, ended)
    training = replace(settings.training, steps=steps) if steps else settings.training
    return fine_tune_rows(rows, training, base, out, work, seed=seed, label=label, progress=progress)


def yield_rows(gathered: Gathered, method: str, iteration: int) -> pd.DataFrame:
    """One row per item: the round in which it was solved, and what that cost."""
    rows = pd.DataFrame(
        {
            "method": method,
            "iteration": iteration,
            "index": range(len(gathered.attempts)),
            "round_solved": gathered.solved_in,
            "tokens": [attempt.tokens for attempt in gathered.attempts],
            "truncated": [not attempt.ended for attempt in gathered.attempts],
        }
    )
    return rows.join(pd.DataFrame([attempt.details() for attempt in gathered.attempts], index=rows.index))


# Evaluation


def evaluate(
    task: Task, policy: Policy, items: Sequence[Any], samples: int, starts: Sequence[Any | None] | None = None
) -> pd.DataFrame:
    """`samples` attempts at each item, one row each: index, sample, and the columns of `Attempt.row`.

    `starts` gives each item a start (a hint) to continue from. Raises GrlibError where a start leaves the
    model no room.
    """
    repeated = [item for item in items for _ in range(samples)]
    begun = [start for start in starts or [None] * len(items) for _ in range(samples)]
    rows = []
    for number, attempt in enumerate(task.attempt(policy, repeated, begun)):
        if attempt is None:
            raise GrlibError(f"{task}: the start of item {number // samples} fills the budget; raise it")
        rows.append({"index": number // samples, "sample": number % samples} | attempt.row())
    return pd.DataFrame(rows)


def evaluate_splits(
    task: Task,
    method: str,
    model: Path,
    profile: Profile,
    splits: Mapping[str, Sequence[Any]],
    *,
    seed: int | str,
    work: Path,
    progress: Callable[[str], None],
    samples: int = 0,
    temperature: float | None = None,
) -> pd.DataFrame:
    """`evaluate` a model folder on all splits at once; adds the columns method and split.

    `index` counts the items of a split. `samples` 0 and `temperature` None take the profile's values;
    temperature 0 decodes greedily, with one sample per problem.
    """
    count = 1 if temperature == 0 else samples or profile.samples
    items = [item for part in splits.values() for item in part]
    settings = profile.sampling.for_requests(count * len(items))
    if temperature is not None:
        settings = replace(settings, temperature=temperature)
    name = method + ("_greedy" if temperature == 0 else "")
    policy = sampled_policy(model, settings, f"{seed}/{name}", work / name, name, progress)
    rows = evaluate(task, policy, items, count)
    places = [(split, number) for split, part in splits.items() for number in range(len(part))]
    split, index = zip(*(places[i] for i in rows["index"]), strict=True)
    return rows.assign(index=index, method=method, split=split)


# Models: sampling from a folder, training in this process or in several


def sampled_policy(
    model: Path | InMemory,
    settings: Sampling,
    seed: int | str,
    folder: Path,
    label: str,
    progress: Callable[[str], None],
) -> Policy:
    """A policy that samples from a model (`pool.sample`), in resumable chunks kept in `folder`.

    A task with several turns calls it once per turn; each call has its own seed and its own subfolder.
    """
    turns = itertools.count()

    def policy(requests: Sequence[Request]) -> list[Sampled]:
        turn = next(turns)
        place, own_seed = (folder / f"turn_{turn}", f"{seed}/{turn}") if turn else (folder, seed)
        name = f"{label}, turn {turn + 1}" if turn else label
        return sample(model, requests, settings, seed=own_seed, folder=place, progress=progress, label=name)

    return policy


def fine_tune_rows(
    rows: Sequence[Row],
    training: Training,
    base: Path,
    out: Path,
    work: Path,
    *,
    seed: int | str,
    label: str,
    progress: Callable[[str], None],
) -> pd.DataFrame:
    """`fine_tune` on rows. With `training.processes` it starts that many processes, which all call it with
    the same arguments and train together; the first of them saves the model."""
    start = digest(base)
    fixed = training.fixing_the_result()
    key = {"base": start, "rows": rows_digest(rows), "settings": fixed, "seed": seed}
    job = {"rows": list(rows), "training": training, "seed": seed, "label": label}
    job |= {"base": base, "out": out, "work": work}
    if is_made(fine_tune_rows, job, key, training.processes, label, progress):
        return read_table(out / "curve.csv")
    model, tokenizer = load_both(base)
    if not rows:
        progress(f"{label}: no attempt was correct, so the model stays the base")
    with low_rank(model, training.lora_rank, seed):
        curve = train(
            model, rows, training, seed=seed, start=start, folder=work, batches=None if rows else [],
            progress=progress, label=label,
        )  # fmt: skip
    if first_process():
        card = card_after(base, f"{label}, {len(curve):,} steps on {len(rows):,} examples")
        save_model(model, tokenizer, out, curve, card)
        write_finished(work, key, out)
    return curve
