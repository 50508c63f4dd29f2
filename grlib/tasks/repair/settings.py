"""Code self-repair at the scale of a profile: the task and its problems."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from grlib import sandbox
from grlib.errors import GrlibError
from grlib.models.tokenizer import encode
from grlib.profiles import Profile, load_file, shared
from grlib.tasks.repair.compositions import problems
from grlib.tasks.repair.episodes import CHATML, COMPACT, Format, as_answer
from grlib.tasks.repair.problems import COMPOSED, CodeProblem
from grlib.tasks.repair.scale import Scale
from grlib.tasks.repair.sources import load
from grlib.tasks.repair.task import RepairTask

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PROBLEMS_SEED = 0  # the same problems for every run; the seed of a run chooses among them
METHODS = ("rest", "guided_rest")
COMPACT_MODEL = "compact"


def repair_task(
    profile: Profile,
    tokenizer: PreTrainedTokenizerFast | None = None,
    work: Path | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> RepairTask:
    """The task at the profile's scale, in the chat format of the profile's model.

    With the model's `tokenizer`, an episode ends before its conversation outgrows `row_length` tokens. The
    folder `work` keeps test results.
    """
    scale = profile.repair
    longest = scale.self_training.row_length - scale.budget

    def fits(prompt: str) -> bool:
        return tokenizer is None or len(encode(tokenizer, [prompt])[0]) <= longest

    return RepairTask(
        budget=scale.budget,
        rounds=scale.self_training.guided_rounds,
        limits=sandbox.Limits(seconds=scale.seconds),
        learn_from=scale.learn_from,
        format=chat_format(scale.pretrained, tokenizer) if scale.pretrained else COMPACT,
        fits=fits,
        work=work,
        progress=progress,
    )


def chat_format(model: str, tokenizer: PreTrainedTokenizerFast | None) -> Format:
    """ChatML, with the system turn that the model's own chat template puts first.

    Raises GrlibError for a model with another chat format.
    """
    if tokenizer is None:
        return CHATML
    if not CHATML.close.startswith(tokenizer.eos_token):
        raise GrlibError(
            f"model {model!r}: its answers end with {tokenizer.eos_token!r}, those of the chat "
            f"format with {CHATML.close.strip()!r}; choose a model that uses ChatML, or add a Format"
        )
    turn = f"{CHATML.user}?{CHATML.close}{CHATML.assistant}"
    messages = [{"role": "user", "content": "?"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    if not text.endswith(turn):
        raise GrlibError(
            f"model {model!r}: its template writes a question as {text[-80:]!r}, not as ChatML does "
            f"({turn!r}); choose a model that uses ChatML, or add a Format"
        )
    return replace(CHATML, begin=text.removesuffix(turn))


def training_items(
    profile: Profile, seed: int, progress: Callable[[str], None] = lambda line: None
) -> list[CodeProblem]:
    """The problems of self-training, each repeated once per episode.

    The base has seen none of their programs, under any statement.
    """
    scale = profile.repair
    if scale.train_source == COMPOSED:
        fresh = problems("train", scale.self_training.train_problems, f"{PROBLEMS_SEED}/{seed}")
    else:
        found, task = load(scale.train_source, "train"), repair_task(profile)
        judged = task.judge([(problem, as_answer(problem.solution), 0) for problem in found])
        # guidance by a reference that fails its own tests would mislead
        fresh = [problem for problem, turn in zip(found, judged, strict=True) if turn.correct]
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


def test_splits(profile: Profile) -> dict[str, list[CodeProblem]]:
    """The test problems of the profile's sources, by split.

    Composed ones are near (new chains of steps and pairs trained on), far (with pairs that are never trained
    on) and deeper (one step more).
    """
    scale = profile.repair
    sources = {
        "near": (scale.near_source, scale.near_problems),
        "far": (scale.far_source, scale.far_problems),
        "deeper": (COMPOSED, scale.deeper_problems),
    }
    return {
        split: problems(split, count, PROBLEMS_SEED) if source == COMPOSED else load(source, "test")[:count]
        for split, (source, count) in sources.items()
        if count
    }


def with_model(profile: Profile, model: str = "") -> Profile:
    """The profile with another model for self-repair, at a scale that this model allows on a CPU.

    `COMPACT_MODEL` is trained from scratch, other names are those of `llama.load_pretrained`; "" changes
    nothing.
    """
    if model in ("", profile.repair.pretrained):
        return profile
    scale = profile.repair
    if model == COMPACT_MODEL:
        scale = Scale() if scale.pretrained else scale
    else:
        scale = replace(scale if scale.pretrained else load_file("_pretrained").repair, pretrained=model)
    return shared(replace(profile, tasks={**profile.tasks, "repair": scale}))
