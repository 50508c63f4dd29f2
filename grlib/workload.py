"""What the stages of a profile come to: responses sampled, trained on and read, and programs tested.

They follow from the profile's sizes and from what the recorded laptop runs measured: how much of its room a
response of each method takes, how many answers an episode has, and how many problems are left after each
guided round.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from grlib import artefacts, notebooks, results, tables
from grlib.errors import GrlibError
from grlib.profiles import Profile, get

RECORDED = "laptop"  # the profile whose recorded runs say how long responses are
# Shares that no recorded table holds. Of the budget: an example with three numbers. Of a response of SoS:
# what is sampled after a hint. Of a whole response: what is sampled in a guided round.
THREE_NUMBERS, HINTED, CONTINUED = 0.22, 0.6, 0.5
STARTED = {"sos": 2, "rest": 1, "guided_rest": 3}  # runs of reinforcement learning, by where they start
COUNTDOWN, REPAIR = "countdown", "repair"  # the tasks, each with a model of its own

Part = tuple[float, float]  # responses, and the tokens of one


@dataclass(frozen=True)
class Stage:
    """Part of a notebook: the responses that it samples, those that it trains on, and those that only go
    through the model (texts that are scored, conversations before an answer); programs that are tested.

    Prompts of Countdown are not counted.
    """

    notebook: str
    stage: str
    sampled: tuple[Part, ...] = ()
    trained: tuple[Part, ...] = ()
    read: tuple[Part, ...] = ()
    tested: float = 0
    passes: int = 1  # networks that a trained token goes through (policy and critic: 2)
    task: str = COUNTDOWN


def tokens(parts: Iterable[Part]) -> float:
    """Tokens of all responses."""
    return sum(count * length for count, length in parts)


@dataclass(frozen=True)
class Gathered:
    """What comes of training problems: the share that each method keeps, over all iterations, and the share
    that Guided-ReST has not solved after round 0, 1, ..."""

    kept: dict[str, float]
    open_after: tuple[float, ...]

    @cached_property
    def tries(self) -> float:
        """Whole responses of Guided-ReST to a problem, the guided rounds included."""
        return 1 + CONTINUED * sum(self.open_after[:-1])


@dataclass(frozen=True)
class Measured:
    """What the recorded runs say: lengths as shares of the budget, and what comes of training problems."""

    length: dict[str, float]  # of a method's responses to test problems
    kept_length: dict[str, float]  # of the responses that it keeps to train on
    gathered: Gathered
    # of self-repair; lengths as shares of the longest row that the model takes
    answers: dict[str, float]  # of a method's episodes
    answer_length: float
    row_length: float  # of an episode, conversation included
    repaired: Gathered


def measured(stored: results.Results) -> Measured:
    """From the recorded results of `RECORDED`: all seeds, both splits of each task."""
    profile, rows = get(RECORDED), tables.test_rows(stored)
    episodes, yields = own_model(stored.rows("repair")), stored.rows("yield")
    if rows.empty or episodes.empty:
        raise GrlibError(f"no {RECORDED} run is recorded, so nothing says how long responses are")
    solved = yields[yields["round_solved"] >= 0]
    answer = episodes["tokens"].sum() / episodes["answers"].sum()
    return Measured(
        length=(rows.groupby("method")["tokens"].mean() / profile.budget).to_dict(),
        kept_length=(solved.groupby("method")["tokens"].mean() / profile.budget).to_dict(),
        gathered=gathered(yields),
        answers=episodes.groupby("method")["answers"].mean().to_dict(),
        answer_length=answer / profile.repair.row_length,
        row_length=imitated_tokens() / profile.repair.row_length,
        repaired=gathered(own_model(stored.rows("repair_yield"))),
    )


def own_model(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the repair model that is trained from scratch."""
    return rows[rows["model"] == "compact"]


def gathered(yields: pd.DataFrame) -> Gathered:
    """From the rows of what became training data."""
    solved = yields[yields["round_solved"] >= 0]
    rounds = yields.loc[yields["method"] == "guided_rest", "round_solved"]
    return Gathered(
        kept=(solved.groupby("method").size() / yields.groupby("method").size()).to_dict(),
        open_after=tuple(float(1 - rounds.between(0, last).mean()) for last in range(int(rounds.max()) + 1)),
    )


def imitated_tokens() -> float:
    """Tokens of an episode that the shipped repair base imitated, from its manifest."""
    made = artefacts.read_json(notebooks.REPOSITORY / "paper_results" / "base" / "repair" / "manifest.json")
    return float(made["tokens_seen"] / (made["steps"] * made["training"]["batch_rows"]))


def stages(profile: Profile, known: Measured) -> Iterator[Stage]:
    """All stages at a profile's sizes, in order."""
    yield from imitation(profile, known)
    yield from self_training(profile, known)
    yield from reinforcement(profile, known)
    yield from repair(profile, known)


def lengths(profile: Profile, known: Measured) -> dict[str, float]:
    """Tokens of a response of each method."""
    return {method: share * profile.budget for method, share in known.length.items()}


def imitation(profile: Profile, known: Measured) -> Iterator[Stage]:
    """Notebooks 03 to 05."""
    length, scored = lengths(profile, known), profile.rewrite_problems
    if not profile.shipped_base:
        rows = sum(stage.examples for stage in profile.stages) * profile.base_epochs
        both = ((rows, length["sos"]), (rows, length["bc"]))
        yield Stage("03", "training SoS and BC", trained=both)
    elif profile.live_steps:
        rows = profile.live_steps * profile.stages[0].batch_rows
        yield Stage("03", "first steps, live", trained=((rows, THREE_NUMBERS * profile.budget),))
    each = 2 * profile.test_problems * (profile.samples + 1)  # and a greedy trace
    yield Stage("03", "accuracy of SoS and BC", ((each, length["sos"]), (each, length["bc"])))
    hinted = profile.task.num_count * profile.hint_problems * profile.hint_samples
    read = ((hinted, length["sos"]),)
    yield Stage("04", "hints", ((hinted, HINTED * length["sos"]),), read=read)
    sampled = ((3 * scored * known.gathered.tries, length["sos"]),)
    yield Stage("05", "node selection", sampled, read=((4 * scored, length["sos"]),))


def self_training(profile: Profile, known: Measured) -> Iterator[Stage]:
    """Notebook 06."""
    length, tests = lengths(profile, known), 2 * profile.test_problems
    kept = {method: share * profile.budget for method, share in known.kept_length.items()}
    problems, rounds = profile.train_problems, profile.iterations
    epochs = {"rest": profile.rest_epochs, "guided_rest": profile.guided_epochs}
    learnt = {method: problems * known.gathered.kept[method] * epochs[method] for method in epochs}
    yield Stage(
        "06", "ReST", ((problems, length["sos"]), ((rounds - 1) * problems, length["rest"])),
        ((rounds * learnt["rest"], kept["rest"]),),
    )  # fmt: skip
    yield Stage(
        "06", "Guided-ReST", ((_guided(problems, rounds, known.gathered), length["guided_rest"]),),
        ((rounds * learnt["guided_rest"], kept["guided_rest"]),),
    )  # fmt: skip
    yield Stage("06", "control", trained=((learnt["guided_rest"], kept["rest"]),))
    each, between = tests * (profile.samples + 1), tests * profile.iteration_samples * (rounds - 1)
    methods = ((between + each, length["rest"]), (between + each, length["guided_rest"]))
    yield Stage("06", "evaluation", (*methods, (each, length["rest_matched"])))


def _guided(problems: float, rounds: int, known: Gathered) -> float:
    """Whole responses that Guided-ReST samples itself: ReST's of the first iteration serve both."""
    return (rounds - 1 + rounds * (known.tries - 1)) * problems


def reinforcement(profile: Profile, known: Measured) -> Iterator[Stage]:
    """Notebook 07."""
    length, tests = lengths(profile, known), 2 * profile.test_problems
    rollouts = profile.ppo_steps * profile.ppo_problems
    runs = tuple((rollouts * times, length[name]) for name, times in STARTED.items())
    yield Stage("07", "PPO, six runs", runs, runs, passes=2 if profile.ppo_critic == "own" else 1)
    drawn = {name: tests * (profile.ppo_samples + times) for name, times in STARTED.items()}
    yield Stage("07", "evaluation", tuple((drawn[name], length[name]) for name in STARTED))


def repair(profile: Profile, known: Measured) -> Iterator[Stage]:
    """Notebook 08. An answer is sampled after half a conversation on average, which is read anew."""
    scale, row = profile.repair, known.row_length * profile.repair.row_length

    def stage(name: str, episodes: Sequence[tuple[float, str]], learnt: float = 0) -> Stage:
        answers = sum(count * known.answers[method] for count, method in episodes)
        sampled = ((answers, known.answer_length * scale.row_length),)
        return Stage(
            "08", name, sampled if answers else (), ((learnt, row),) if learnt else (),
            ((answers, row / 2),) if answers else (), answers, task=REPAIR,
        )  # fmt: skip

    if scale.base_epochs and (scale.pretrained or not profile.shipped_base):
        yield stage("repair: base", (), scale.base_problems * scale.base_episodes * scale.base_epochs)
    items, rounds, kept = scale.train_problems * scale.episodes, scale.iterations, known.repaired.kept
    unaided = [(items, "base"), ((rounds - 1) * items, "rest")]
    yield stage("repair: ReST", unaided, rounds * items * kept["rest"] * scale.rest_epochs)
    guided = [(_guided(items, rounds, known.repaired), "guided_rest")]
    learnt = rounds * items * kept["guided_rest"] * scale.guided_epochs
    yield stage("repair: Guided-ReST", guided, learnt)
    each = (scale.near_problems + scale.far_problems) * scale.samples
    yield stage("repair: evaluation", [(each, method) for method in ("base", "rest", "guided_rest")])
