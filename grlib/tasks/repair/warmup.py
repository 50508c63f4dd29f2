"""What the base of self-repair imitates: episodes in which broken programs are tested and mended.

As SoS imitates the traces of searchers, dead ends included, a repair model first imitates episodes made from
reference programs: answers with injected bugs, what the tests say to them, and the right program in the end,
or never. Some show the reference, as guided rounds will.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from random import Random
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from grlib.models import pretrained
from grlib.models.tokenizer import as_fast
from grlib.profiles import Profile
from grlib.tasks.repair import bugs, episodes
from grlib.tasks.repair.episodes import ASSISTANT, END, USER
from grlib.tasks.repair.problems import CodeProblem
from grlib.tasks.repair.problems import problems as draw
from grlib.tasks.repair.settings import PROBLEMS_SEED, repair_task
from grlib.tasks.repair.task import RepairTask

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerFast


WRONG_ANSWERS = (0.3, 0.35, 0.2, 0.1, 0.05)  # share of episodes with 0, 1, ... of them; 4: never right
TWO_BUGS = 0.4  # of the wrong answers
SHOWN = 0.4  # of the episodes with a wrong answer show the reference before the right one
CANDIDATES = 3  # broken programs tried for each that is wanted: some still pass
PAD = "<|pad|>"
VOCABULARY = 1024
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '" + USER + "' if message['role'] == 'user' else '" + ASSISTANT + "' }}{{ message['content'] }}"
    "{% if not (loop.last and continue_final_message | default(false)) %}" + END + "{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}" + ASSISTANT + "{% endif %}"
)


class Imitated(NamedTuple):
    """An episode to imitate: the first prompt, and all that follows, without the last end mark."""

    prompt: str
    rest: str
    answers: int
    solved: bool


def imitated(
    problems: Sequence[CodeProblem],
    task: RepairTask,
    seed: int,
    progress: Callable[[str], None] = lambda line: None,
    portion: int = 200,
) -> list[Imitated]:
    """One episode a problem. The wrong answers fail public tests, the last one passes all."""
    found: list[Imitated] = []
    for first in range(0, len(problems), portion):
        part = problems[first : first + portion]
        rngs = [Random(f"{seed}/{first + i}/{problem.statement}") for i, problem in enumerate(part)]
        plans = [rng.choices(range(len(WRONG_ANSWERS)), WRONG_ANSWERS)[0] for rng in rngs]
        tried = [
            [episodes.as_answer(code) for code in itertools.islice(_broken(problem, rng), CANDIDATES * plan)]
            for problem, plan, rng in zip(part, plans, rngs, strict=True)
        ]
        flat = [(problem, text, 0) for problem, texts in zip(part, tried, strict=True) for text in texts]
        turns = iter(task.judge(flat))
        for problem, texts, plan, rng in zip(part, tried, plans, rngs, strict=True):
            wrong = [turn for turn in itertools.islice(turns, len(texts)) if not turn.public]
            found.append(_episode(problem, wrong[:plan], plan == task.turns, task, rng))
        progress(f"episodes to imitate: {len(found):,} of {len(problems):,}")
    return found


def _broken(problem: CodeProblem, rng: Random) -> Iterator[str]:
    """Different programs with a bug or two, those with two first: answers get better. Made as they are asked
    for, since listing all of a program's bugs takes longer than running a few."""
    ones = bugs.programs_with_bugs(problem.solution, rng)
    count = max(1, round(TWO_BUGS * CANDIDATES))
    twos = (next(bugs.programs_with_bugs(code, rng), code) for code in itertools.islice(ones, count))
    seen = set()
    for code in itertools.chain(twos, ones):
        if code not in seen:
            seen.add(code)
            yield code


def _episode(
    problem: CodeProblem, wrong: Sequence[episodes.Turn], never: bool, task: RepairTask, rng: Random
) -> Imitated:
    turns = list(wrong)
    if turns and not never and rng.random() < SHOWN:
        reference = episodes.as_answer(problem.solution)
        shown = episodes.with_reference(turns[-1].feedback, reference)
        turns[-1] = turns[-1]._replace(feedback=shown)
    prompt, whole = task.format.prompt(problem, []), task.format.prompt(problem, turns)
    right = episodes.as_answer(problem.solution)
    rest = whole.removeprefix(prompt) + right
    if never and turns:  # its last answer stays wrong
        rest = task.format.prompt(problem, turns[:-1]).removeprefix(prompt) + turns[-1].answer
    return Imitated(prompt, rest, len(turns) + (not (never and turns)), not (never and turns))


def train_base(
    profile: Profile,
    *,
    seed: int = 0,
    folder: Path | None = None,
    stop_after: int = 0,
    valid_every: int = 200,
    progress: Callable[[str], None] = lambda line: None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast, pd.DataFrame]:
    """Train the base of self-repair: (model, tokenizer, curve).

    Every program appears in several episodes, each with other words, inputs and bugs. `stop_after` steps end
    it early; `folder` keeps checkpoints, so a killed run goes on. As SoS imitates whole traces, the loss
    falls on all that follows the first prompt, what the tests say included.
    """
    from grlib.models.llama import bake, digest_of
    from grlib.models.lora import low_rank
    from grlib.training.loop import CURVE, train
    from grlib.training.rows import make_rows

    scale = profile.repair
    if not scale.base_problems:
        return *pretrained.load(scale.pretrained), pd.DataFrame(columns=CURVE)
    loaded = pretrained.load(scale.pretrained) if scale.pretrained else None
    task = repair_task(profile, loaded[1] if loaded else None, folder / "tests" if folder else None)
    made: list[Imitated] = []
    for k in range(scale.base_episodes):  # the same programs with other words, inputs and bugs
        problems = draw("base", scale.base_problems, PROBLEMS_SEED + k)
        made += imitated(problems, task, seed + k, progress)
    model, tokenizer = loaded or beginning(profile, made[: scale.base_problems], seed)
    start = digest_of(model) if scale.pretrained else ""  # a model from scratch follows from the seed
    rows, valid = (
        make_rows(
            tokenizer,
            [one.prompt for one in part],
            [one.rest for one in part],
            scale.self_training.row_length,
        )
        for part in (made, imitated(draw("valid", scale.valid_problems, PROBLEMS_SEED), task, seed))
    )
    with low_rank(model, scale.base_training.lora_rank, seed):
        curve = train(
            model, rows, scale.base_training, seed=seed, start=start, folder=folder, valid=valid,
            valid_every=valid_every, stop_after=stop_after, progress=progress, label="repair base",
        )  # fmt: skip
    return bake(model), tokenizer, curve


def beginning(
    profile: Profile, made: Sequence[Imitated], seed: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A new model, and a tokenizer made from episodes."""
    from grlib.models.llama import build_model

    tokenizer = build_tokenizer(one.prompt + one.rest for one in made)
    shape, positions = profile.model, profile.repair.self_training.row_length
    model = build_model(
        tokenizer,
        shape.hidden,
        shape.layers,
        shape.heads,
        shape.intermediate,
        positions,
        seed,
        shape.kv_heads,
    )
    return model, tokenizer


def obtain_base(
    profile: Profile,
    source: str,
    out: Path,
    *,
    shipped: Path | None = None,
    work: Path | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> None:
    """Put the base of self-repair into `out`: a copy of the `shipped` one, or a new one ("scratch")."""
    from grlib.models.llama import save_model
    from grlib.training.base import copy_or_make

    def make() -> None:
        model, tokenizer, curve = train_base(profile, folder=work, progress=progress)
        notes = describe_base(profile, model, curve) if len(curve) else {}
        save_model(model, tokenizer, out, curve, notes=notes)

    ships = profile.base.shipped and not profile.repair.pretrained
    copy_or_make(source if ships else "scratch", out, shipped, make)


def describe_base(profile: Profile, model: PreTrainedModel, curve: pd.DataFrame) -> dict[str, str]:
    """The manifest and the model card that travel with the base."""
    from grlib.training.base import notes

    scale = profile.repair
    facts = {
        "method": "base",
        "profile": profile.name,
        "problems": scale.base_problems,
        "episodes_of_each": scale.base_episodes,
        "wrong_answers": WRONG_ANSWERS,
        "training": asdict(scale.base_training),
    }
    card = {
        "license": "apache-2.0",
        "title": "Base model of code self-repair",
        "origin": scale.pretrained or "from scratch",
        "imitates": "*repair episodes* on small programming problems: programs with injected bugs, what the "
        "tests say to them, and the right program in the end, or never. Its programs run in `grlib.sandbox`",
        "made_by": f'notebook 08 (`base = "scratch"`, profile {profile.name}): {scale.base_problems:,} '
        f"problems, each in {scale.base_episodes} episodes, the loss on answers and test reports alike",
        "held_out": "the programs of the near and far test problems, and of those of self-training, under "
        "whatever words",
    }
    return notes(model, curve, facts, card)


def build_tokenizer(texts: Iterable[str], size: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """A byte-level BPE for statements, programs and feedback, trained on texts; digits stay apart.

    The same texts give the same vocabulary. Every text survives encode -> decode unchanged.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    split = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)
    tokenizer.decoder = decoders.ByteLevel()
    marks = [AddedToken(mark, special=True, normalized=False) for mark in (PAD, USER, ASSISTANT, END)]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=size, special_tokens=marks, initial_alphabet=alphabet, show_progress=False
        ),
    )
    return as_fast(tokenizer, PAD, USER, END, CHAT_TEMPLATE)
