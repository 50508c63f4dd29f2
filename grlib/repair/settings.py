"""Code self-repair at the scale of a profile: the task, its problems, the loop's settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from grlib import sandbox
from grlib.errors import GrlibError
from grlib.evaluation import sampling_settings
from grlib.profiles import Profile
from grlib.repair.episodes import COMPACT
from grlib.repair.problems import CodeProblem, problems
from grlib.repair.task import RepairTask
from grlib.selftrain import LoopSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PROBLEMS_SEED = 0  # the problems are the same for every run; a run's seed chooses among them
BASE_PART = 800  # so many of the training problems are for the base, those after them for self-training
METHODS = ("rest", "guided_rest")


def repair_task(
    profile: Profile,
    tokenizer: PreTrainedTokenizerFast | None = None,
    work: Path | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> RepairTask:
    """Self-repair for models trained from scratch. With their tokenizer, an episode ends before its
    conversation outgrows the model; programs that were tested are kept in `work`."""
    scale = profile.repair

    def fits(prompt: str) -> bool:
        from grlib.tokenizer import encode

        return tokenizer is None or len(encode(tokenizer, [prompt])[0]) + scale.budget <= scale.row_length

    return RepairTask(
        budget=scale.budget,
        rounds=scale.guided_rounds,
        limits=sandbox.Limits(seconds=scale.seconds),
        format=COMPACT,
        fits=fits,
        work=work,
        progress=progress,
    )


def base_problems(profile: Profile) -> list[CodeProblem]:
    """What the base imitates repairing."""
    if profile.repair.base_problems > BASE_PART:
        raise GrlibError(
            f"repair.base_problems={profile.repair.base_problems}: at most {BASE_PART}, the others are for "
            "self-training; raise base_episodes instead"
        )
    return problems("train", profile.repair.base_problems, PROBLEMS_SEED)


def training_items(profile: Profile, seed: int) -> list[CodeProblem]:
    """The problems of self-training, each as often as it gets an episode: none that the base has seen."""
    scale = profile.repair
    wanted = max(scale.train_problems, BASE_PART)  # so that a seed has some to choose from
    fresh = problems("train", BASE_PART + wanted, PROBLEMS_SEED)[BASE_PART:]
    chosen = Random(f"repair/{seed}").sample(fresh, scale.train_problems)
    return [problem for problem in chosen for _ in range(scale.episodes)]


def test_splits(profile: Profile) -> dict[str, list[CodeProblem]]:
    """New instances of the families trained on (near), and families of their own (far)."""
    scale = profile.repair
    return {
        "near": problems("near", scale.near_problems, PROBLEMS_SEED),
        "far": problems("far", scale.far_problems, PROBLEMS_SEED),
    }


def loop_settings(profile: Profile, method: str) -> LoopSettings:
    """The self-training loop of `rest` or `guided_rest` at this scale."""
    if method not in METHODS:
        raise GrlibError(f"method {method!r} is not self-trained; choose one of {', '.join(METHODS)}")
    from grlib.training import TrainSettings

    scale, guided = profile.repair, method == "guided_rest"
    return LoopSettings(
        rounds=scale.guided_rounds if guided else 0,
        iterations=scale.iterations,
        training=TrainSettings(
            lr=scale.lr,
            batch_rows=scale.batch_rows,
            epochs=scale.guided_epochs if guided else scale.rest_epochs,
        ),
        sampling=replace(sampling_settings(profile), chunk=scale.chunk),
        row_length=scale.row_length,
    )
