"""What the stages of a profile come to: responses sampled, trained on and read, and programs tested.

They follow from the profile's sizes and from what the recorded laptop runs measured: how much of its room a
response of each method takes, how many answers an episode has, and how many problems are left after each
guided round.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from grlib.errors import GrlibError
from grlib.profiles import Profile, get
from grlib.results import rows as results
from grlib.results import tables
from grlib.runs import files as artefacts
from grlib.runs import notebooks
from grlib.tasks.countdown.task import PPO_RUNS
from grlib.tasks.repair.settings import COMPACT_MODEL

RECORDED = "laptop"  # the profile whose recorded runs say how long responses are
# Shares that no recorded table holds. Of the budget: an example with three numbers. Of a whole response: what
# is sampled after a hint, and in a guided round.
THREE_NUMBERS, CONTINUED = 0.22, 0.5
COUNTDOWN, REPAIR = "countdown", "repair"  # the tasks, each with a model of its own

Part = tuple[float, float]  # responses, and the tokens of one


@dataclass(frozen=True)
class Stage:
    """Part of a notebook: the responses that it samples and those that it trains on; texts that only go
    through the model, by the way it samples (read) or in one process in float32 (scored); programs that are
    tested; models that are trained, and the networks of each.

    Prompts of Countdown are not counted.
    """

    notebook: str
    stage: str
    sampled: tuple[Part, ...] = ()
    trained: tuple[Part, ...] = ()
    read: tuple[Part, ...] = ()
    scored: tuple[Part, ...] = ()
    tested: float = 0
    models: int = 0
    networks: int = 1  # that a trained token goes through (policy and a critic of its own: 2)
    task: str = COUNTDOWN


def tokens(parts: Iterable[Part]) -> float:
    """Tokens of all responses."""
    return sum(count * length for count, length in parts)


@dataclass(frozen=True)
class Kept:
    """What comes of training problems: the share that each method keeps, over all iterations, and the share
    that Guided-ReST has not solved after round 0, 1, ..."""

    share: dict[str, float]
    open_after: tuple[float, ...]

    @cached_property
    def guided(self) -> float:
        """Whole responses that the guided rounds sample for a problem."""
        return CONTINUED * sum(self.open_after[:-1])


@dataclass(frozen=True)
class Measured:
    """What the recorded runs say: lengths as shares of the budget, and what comes of training problems."""

    length: dict[str, float]  # of a method's responses to test problems
    kept_length: dict[str, float]  # of the responses that it keeps to train on
    hinted_length: float  # of a response with its hint
    kept: Kept
    # of self-repair; lengths as shares of the longest row that the model takes
    answers: dict[str, float]  # of a method's episodes
    answer_length: float
    row_length: float  # of an episode, conversation included
    repaired: Kept


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
        hinted_length=float(stored.rows("hints")["tokens"].mean() / profile.budget),
        kept=kept(yields),
        answers=episodes.groupby("method")["answers"].mean().to_dict(),
        answer_length=answer / profile.repair.self_training.row_length,
        row_length=imitated_tokens() / profile.repair.self_training.row_length,
        repaired=kept(own_model(stored.rows("repair_yield"))),
    )


def own_model(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the repair model that is trained from scratch."""
    return rows[rows["model"] == COMPACT_MODEL]


def kept(yields: pd.DataFrame) -> Kept:
    """From the rows of what became training data."""
    solved = yields[yields["round_solved"] >= 0]
    rounds = yields.loc[yields["method"] == "guided_rest", "round_solved"]
    return Kept(
        share=(solved.groupby("method").size() / yields.groupby("method").size()).to_dict(),
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
    length, guided = lengths(profile, known), profile.rewrite_problems

    def trace(numbers: int) -> float:
        return length["sos"] if numbers == profile.task.num_count else THREE_NUMBERS * profile.budget

    if not profile.base.shipped:
        parts = [(one.examples * profile.base.training.epochs, one.num_count) for one in profile.base.stages]
        traces = tuple((rows, trace(numbers)) for rows, numbers in parts)
        solutions = tuple((rows, length["bc"]) for rows, _ in parts)
        yield Stage("03", "training SoS and BC", trained=(*traces, *solutions), models=2)
    if profile.base.live_steps:
        first = profile.base.stages[0]
        rows = profile.base.live_steps * first.batch_rows
        yield Stage("03", "first steps, live", trained=((rows, trace(first.num_count)),), models=1)
    each = 2 * profile.test_problems * (profile.samples + 1)  # and a greedy trace
    drawn = tuple((each, length[method]) for method in profile.base.imitated)
    yield Stage("03", "accuracy of SoS and BC", drawn)
    hinted, steps = profile.hint_problems * profile.hint_samples, profile.task.num_count - 1
    whole = known.hinted_length * profile.budget  # after the whole solution nothing is left to sample
    continued = ((steps * hinted, CONTINUED * whole),)
    yield Stage("04", "hints", continued, scored=(((steps + 1) * hinted, whole),))
    # three rules choose nodes, a control samples again, and all share the first responses; traces of the
    # rules are scored, and those of two kinds
    sampled = ((guided * (1 + 4 * known.kept.guided), length["sos"]),)
    yield Stage("05", "node selection", sampled, scored=((4 * guided, length["sos"]),))


def self_training(profile: Profile, known: Measured) -> Iterator[Stage]:
    """Notebook 06."""
    length, tests = lengths(profile, known), 2 * profile.test_problems
    row = {method: share * profile.budget for method, share in known.kept_length.items()}
    problems, times = profile.self_training.train_problems, profile.self_training.iterations
    epochs = {"rest": profile.self_training.rest_epochs, "guided_rest": profile.self_training.guided_epochs}
    learnt = {method: problems * known.kept.share[method] * epochs[method] for method in epochs}
    yield Stage(
        "06", "ReST", ((problems, length["sos"]), ((times - 1) * problems, length["rest"])),
        ((times * learnt["rest"], row["rest"]),), models=times,
    )  # fmt: skip
    yield Stage(
        "06", "Guided-ReST", ((_of_guided_rest(problems, times, known.kept), length["guided_rest"]),),
        ((times * learnt["guided_rest"], row["guided_rest"]),), models=times,
    )  # fmt: skip
    yield Stage("06", "control", trained=((learnt["guided_rest"], row["rest"]),), models=1)
    each, between = tests * (profile.samples + 1), tests * profile.iteration_samples * (times - 1)
    methods = ((between + each, length["rest"]), (between + each, length["guided_rest"]))
    yield Stage("06", "evaluation", (*methods, (each, length["rest_matched"])))


def _of_guided_rest(problems: float, iterations: int, kept: Kept) -> float:
    """Whole responses that Guided-ReST samples itself: ReST's of the first iteration serve both."""
    return (iterations - 1 + iterations * kept.guided) * problems


def starts_of_ppo(*, grouped: bool) -> Counter[str]:
    """How many runs of reinforcement learning start from each method: with a critic, or with groups of
    samples in its place."""
    return Counter(
        start
        for method, start in results.STARTS.items()
        if (PPO_RUNS[method].get("baseline") == "group") == grouped
    )


def reinforcement(profile: Profile, known: Measured) -> Iterator[Stage]:
    """Notebook 07. A critic reads all responses once more before an update."""
    length, tests = lengths(profile, known), 2 * profile.test_problems
    rollouts, networks = profile.ppo.steps * profile.ppo.responses, 2 if profile.ppo.critic == "own" else 1
    critics, groups = starts_of_ppo(grouped=False), starts_of_ppo(grouped=True)
    runs, alone = (
        tuple((rollouts * times, length[start]) for start, times in starts.items())
        for starts in (critics, groups)
    )
    yield Stage("07", "PPO, five runs", runs, runs, read=runs, models=critics.total(), networks=networks)
    yield Stage("07", "GRPO", alone, alone, models=groups.total())
    every = critics + groups  # each is measured greedily, and one from each start by samples
    drawn = tuple((tests * (profile.ppo_samples + times), length[start]) for start, times in every.items())
    yield Stage("07", "evaluation", drawn)


def repair(profile: Profile, known: Measured) -> Iterator[Stage]:
    """Notebook 08. An answer is sampled after half a conversation on average, which is read anew."""
    scale, row = profile.repair, known.row_length * profile.repair.self_training.row_length

    def stage(name: str, episodes: Sequence[tuple[float, str]], learnt: float = 0, models: int = 0) -> Stage:
        answers = sum(count * known.answers[method] for count, method in episodes)
        sampled = ((answers, known.answer_length * scale.self_training.row_length),)
        return Stage(
            "08", name, sampled if answers else (), ((learnt, row),) if learnt else (),
            ((answers, row / 2),) if answers else (), tested=answers, models=models, task=REPAIR,
        )  # fmt: skip

    if scale.base_training.epochs and (scale.pretrained or not profile.base.shipped):
        yield stage(
            "repair: base", (), scale.base_problems * scale.base_episodes * scale.base_training.epochs, 1
        )
    items, times, share = (
        scale.self_training.train_problems * scale.episodes,
        scale.self_training.iterations,
        known.repaired.share,
    )
    unaided = [(items, "base"), ((times - 1) * items, "rest")]
    yield stage(
        "repair: ReST", unaided, times * items * share["rest"] * scale.self_training.rest_epochs, times
    )
    guided = [(_of_guided_rest(items, times, known.repaired), "guided_rest")]
    learnt = times * items * share["guided_rest"] * scale.self_training.guided_epochs
    yield stage("repair: Guided-ReST", guided, learnt, times)
    each = (scale.near_problems + scale.far_problems) * scale.samples
    yield stage("repair: evaluation", [(each, method) for method in ("base", "rest", "guided_rest")])
