"""Tables of compared variants: rows are added one by one, by several processes too, and none twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from grlib import profiles, selftrain
from grlib.models.tokenizer import load_tokenizer
from grlib.profiles import Profile
from grlib.results import metrics
from grlib.results.tables import NO_GOAL
from grlib.runs import files as artefacts
from grlib.selftrain import evaluate
from grlib.tasks.countdown import data as countdown_data
from grlib.tasks.countdown.data import Solved
from grlib.tasks.countdown.rows import problems_from_rows
from grlib.tasks.countdown.task import CountdownTask, ppo_settings, solved_unaided
from grlib.training.rows import Rollout

LAPTOP = profiles.get("laptop")


def rows_of(table: Path) -> pd.DataFrame:
    """The rows of a table so far; read again before each addition, as another process may have added some."""
    return pd.read_csv(table) if table.exists() else pd.DataFrame()


def rows_with(table: Path, **names: Any) -> pd.DataFrame:
    """The rows of a table with these names."""
    rows = rows_of(table)
    return rows[(rows.reindex(columns=list(names)) == pd.Series(names)).all(axis=1)]


def known(table: Path, **names: Any) -> bool:
    """Does a row with these names stand in the table already?"""
    return len(rows_with(table, **names)) > 0


def add(table: Path, row: dict[str, Any]) -> None:
    """Print a row and add it."""
    say(str({name: round(value, 3) if isinstance(value, float) else value for name, value in row.items()}))
    artefacts.write_table(table, pd.concat([rows_of(table), pd.DataFrame([row])], ignore_index=True))


def say(line: str) -> None:
    """Print at once, for a log that is watched."""
    print(line, flush=True)


def training_problems(run: Path) -> list[Solved]:
    """The training problems of a finished run."""
    return problems_from_rows(artefacts.read_table(run / "data" / "problems_train.parquet"))


def within_reach(run: Path) -> list[Solved]:
    """Those that self-training solved unaided at least once."""
    return solved_unaided(training_problems(run), artefacts.read_table(run / "results" / "06_yield.parquet"))


def responses(
    model: Path, profile: Profile, items: list[Solved], name: str, work: Path, chunk: int
) -> list[Rollout]:
    """A response of a model to each problem as PPO samples it, on the CPU, in resumable chunks in `work`.

    `chunk` requests each where the profile samples on a GPU, else as many as it says itself.
    """
    settings = ppo_settings(profile, "guided_rest_ppo")
    how = replace(settings.sampling, logprobs=True)
    if profile.sampling.engine != LAPTOP.sampling.engine:  # that of a GPU
        how = replace(how, engine=LAPTOP.sampling.engine, slots=64, chunk=chunk)
    policy = selftrain.sampled_policy(model, how, name, work, name, say)
    return CountdownTask(profile.budget).rollouts(policy, items, load_tokenizer(model), settings)


def solved_within(rows: pd.DataFrame, ks: Sequence[int]) -> dict[str, float]:
    """pass@k in percent of the rows of an evaluation."""
    right = rows.groupby("index")["correct"].agg(["sum", "size"]).itertuples(index=False)
    counts = [(size, correct) for correct, size in right]
    return {f"pass@{k}": 100 * sum(metrics.pass_at_k(*one, k) for one in counts) / len(counts) for k in ks}


def judge(
    model: Path, work: Path, ks: tuple[int, ...], problems: int = 100, greedy: bool = False
) -> dict[str, float]:
    """pass@k, truncated samples, false goals (percent) and tokens of a model on validation problems.

    These are never tested. As many samples per problem as the largest k; `greedy`: one, the likeliest.
    """
    tests, _ = countdown_data.reserved_keys(LAPTOP.countdown)
    items = countdown_data.draw(LAPTOP.countdown, "valid", problems, exclude=tests)
    settings = LAPTOP.sampling.for_requests(problems * max(ks))
    if greedy:
        settings = replace(settings, temperature=0)
    policy = selftrain.sampled_policy(model, settings, "choose", work, work.name, say)
    rows = evaluate(CountdownTask(LAPTOP.budget), policy, items, max(ks))
    found = solved_within(rows, ks)
    false_goals = ~rows["correct"].astype(bool) & (rows["reason"] != NO_GOAL)
    found |= {"truncated": 100 * rows["truncated"].mean(), "false_goals": 100 * false_goals.mean()}
    return found | {"tokens": rows["tokens"].mean()}
