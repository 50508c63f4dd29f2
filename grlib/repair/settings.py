"""Code self-repair at the scale of a profile: the task, its problems, the loop's settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from grlib import sandbox
from grlib.errors import GrlibError
from grlib.evaluation import sampling_settings
from grlib.profiles import PRETRAINED_REPAIR, Profile, RepairScale
from grlib.repair.episodes import CHATML, COMPACT, as_answer
from grlib.repair.problems import CodeProblem, problems
from grlib.repair.sources import humaneval, load
from grlib.repair.task import RepairTask
from grlib.selftrain import LoopSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PROBLEMS_SEED = 0  # the problems are the same for every run; a run's seed chooses among them
BASE_PART = 800  # so many of the training problems are for the base, those after them for self-training
METHODS = ("rest", "guided_rest")
FAMILIES, HUMANEVAL = "families", "humaneval"  # sources of problems with names of their own


def repair_task(
    profile: Profile,
    tokenizer: PreTrainedTokenizerFast | None = None,
    work: Path | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> RepairTask:
    """Self-repair as the profile's model speaks. With its tokenizer, an episode ends before its conversation
    outgrows the model; programs that were tested are kept in `work`."""
    scale = profile.repair

    def fits(prompt: str) -> bool:
        from grlib.tokenizer import encode

        return tokenizer is None or len(encode(tokenizer, [prompt])[0]) + scale.budget <= scale.row_length

    return RepairTask(
        budget=scale.budget,
        rounds=scale.guided_rounds,
        limits=sandbox.Limits(seconds=scale.seconds),
        format=CHATML if scale.pretrained else COMPACT,
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


def training_items(
    profile: Profile, seed: int, progress: Callable[[str], None] = lambda line: None
) -> list[CodeProblem]:
    """The problems of self-training, each as often as it gets an episode: none that the base has seen."""
    scale = profile.repair
    if scale.train_source == FAMILIES:
        wanted = max(scale.train_problems, BASE_PART)  # so that a seed has some to choose from
        fresh = problems("train", BASE_PART + wanted, PROBLEMS_SEED)[BASE_PART:]
    else:
        found = elsewhere(scale.train_source, "train")
        fresh = with_working_reference(found, repair_task(profile))
        progress(
            f"{scale.train_source}: {len(fresh):,} of {len(found):,} problems have a reference that passes "
            "their tests; the others are left out"
        )
    if len(fresh) < scale.train_problems:
        raise GrlibError(
            f"{scale.train_source}: {len(fresh):,} problems with a reference that passes their tests, but "
            f"repair.train_problems is {scale.train_problems:,}; lower it"
        )
    chosen = Random(f"repair/{seed}").sample(fresh, scale.train_problems)
    return [problem for problem in chosen for _ in range(scale.episodes)]


def with_working_reference(found: Sequence[CodeProblem], task: RepairTask) -> list[CodeProblem]:
    """Those whose reference passes their own tests: guidance by any other would mislead."""
    judged = task.judge([(problem, as_answer(problem.solution), 0) for problem in found])
    return [problem for problem, turn in zip(found, judged, strict=True) if turn.correct]


def test_splits(profile: Profile) -> dict[str, list[CodeProblem]]:
    """The test problems: near ones (new instances of the families trained on) and far ones (other families,
    HumanEval), or whatever sources the profile names."""
    scale = profile.repair
    wanted = {
        "near": (scale.near_source, scale.near_problems),
        "far": (scale.far_source, scale.far_problems),
    }
    return {
        split: problems(split, count, PROBLEMS_SEED)
        if source == FAMILIES
        else elsewhere(source, "test")[:count]
        for split, (source, count) in wanted.items()
    }


def elsewhere(source: str, split: str) -> list[CodeProblem]:
    """Problems that are not generated: HumanEval, or the split of a data set in the authors' format."""
    return humaneval() if source == HUMANEVAL else load(source, split)


def with_model(profile: Profile, model: str = "") -> Profile:
    """The profile with another model for self-repair, at the scale that such a model allows on a CPU.

    "compact" is the one trained from scratch, other names are those of `grlib.pretrained`; "" changes
    nothing.
    """
    if model in ("", profile.repair.pretrained):
        return profile
    if model == "compact":
        return replace(profile, repair=RepairScale())
    return replace(profile, repair=replace(PRETRAINED_REPAIR, pretrained=model))


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
            lora_rank=scale.lora_rank,
            batch_rows=scale.batch_rows,
            epochs=scale.guided_epochs if guided else scale.rest_epochs,
        ),
        sampling=replace(sampling_settings(profile), chunk=scale.chunk),
        row_length=scale.row_length,
    )
