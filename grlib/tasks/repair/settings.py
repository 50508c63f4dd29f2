"""Code self-repair at the scale of a profile: the task, its problems, the loop's settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from grlib import sandbox
from grlib.errors import GrlibError
from grlib.profiles import Profile, RepairScale, load_file, shared
from grlib.tasks.repair.episodes import CHATML, COMPACT, Format, as_answer
from grlib.tasks.repair.problems import CodeProblem, problems
from grlib.tasks.repair.sources import humaneval, load
from grlib.tasks.repair.task import RepairTask

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PROBLEMS_SEED = 0  # the problems are the same for every run; a run's seed chooses among them
METHODS = ("rest", "guided_rest")
COMPACT_MODEL = "compact"
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
    form = chat_format(scale.pretrained, tokenizer) if scale.pretrained else COMPACT

    def fits(prompt: str) -> bool:
        from grlib.models.tokenizer import encode

        return (
            tokenizer is None
            or len(encode(tokenizer, [prompt])[0]) + scale.budget <= scale.self_training.row_length
        )

    return RepairTask(
        budget=scale.budget,
        rounds=scale.self_training.guided_rounds,
        limits=sandbox.Limits(seconds=scale.seconds),
        learn_from=scale.learn_from,
        format=form,
        fits=fits,
        work=work,
        progress=progress,
    )


def chat_format(model: str, tokenizer: PreTrainedTokenizerFast | None) -> Format:
    """ChatML, with the system turn that the model's own template begins a conversation with; GrlibError for
    a model that speaks otherwise."""
    if tokenizer is None:
        return CHATML
    if not CHATML.close.startswith(tokenizer.eos_token):
        raise GrlibError(
            f"model {model!r}: its answers end with {tokenizer.eos_token!r}, those of the chat "
            f"format with {CHATML.close.strip()!r}; choose a model that speaks ChatML, or add a Format"
        )
    turn = f"{CHATML.user}?{CHATML.close}{CHATML.assistant}"
    asked = [{"role": "user", "content": "?"}]
    text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    if not text.endswith(turn):
        raise GrlibError(
            f"model {model!r}: its template writes a question as {text[-80:]!r}, not as ChatML does "
            f"({turn!r}); choose a model that speaks ChatML, or add a Format"
        )
    return replace(CHATML, begin=text.removesuffix(turn))


def training_items(
    profile: Profile, seed: int, progress: Callable[[str], None] = lambda line: None
) -> list[CodeProblem]:
    """The problems of self-training, each as often as it gets an episode: the base has seen no program of
    theirs, under whatever words."""
    scale = profile.repair
    if scale.train_source == FAMILIES:  # twice as many, so that a seed has some to choose from
        fresh = problems("train", 2 * scale.self_training.train_problems, PROBLEMS_SEED)
    else:
        found = elsewhere(scale.train_source, "train")
        fresh = with_working_reference(found, repair_task(profile))
        progress(
            f"{scale.train_source}: {len(fresh):,} of {len(found):,} problems have a reference that passes "
            "their tests; the others are left out"
        )
    if len(fresh) < scale.self_training.train_problems:
        raise GrlibError(
            f"{scale.train_source}: {len(fresh):,} problems with a reference that passes their tests, but "
            f"repair.self_training.train_problems is {scale.self_training.train_problems:,}; lower it"
        )
    chosen = Random(f"repair/{seed}").sample(fresh, scale.self_training.train_problems)
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

    `COMPACT_MODEL` is the one trained from scratch, other names are those of `grlib.models.pretrained`; ""
    changes nothing.
    """
    if model in ("", profile.repair.pretrained):
        return profile
    pretrained = bool(profile.repair.pretrained)
    if model == COMPACT_MODEL:
        return shared(replace(profile, repair=RepairScale())) if pretrained else profile
    scale = profile.repair if pretrained else load_file("_pretrained").repair
    return shared(replace(profile, repair=replace(scale, pretrained=model)))
