"""The base of self-repair: it imitates episodes in which broken programs are tested and repaired.

As SoS imitates the traces of searchers, dead ends included, a repair model first imitates episodes made from
reference programs: answers with injected bugs, the feedback of the tests, and mostly the correct program in
the end. Some show the reference, as guided rounds do.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from grlib.models.llama import bake, digest_of, load_pretrained, low_rank, of_shape, save_model
from grlib.models.tokenizer import as_fast
from grlib.profiles import Profile
from grlib.tasks.repair import bugs, episodes
from grlib.tasks.repair.episodes import ASSISTANT, END, USER
from grlib.tasks.repair.problems import CodeProblem
from grlib.tasks.repair.problems import problems as draw
from grlib.tasks.repair.settings import PROBLEMS_SEED, repair_task
from grlib.tasks.repair.task import RepairTask
from grlib.training.base import copy_or_make, notes
from grlib.training.loop import CURVE, train
from grlib.training.rows import make_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

WRONG_ANSWERS = (0.3, 0.35, 0.2, 0.1, 0.05)  # shares of episodes with 0, 1, ... of them; 4: never correct
TWO_BUGS = 0.4  # share of the wrong answers with two bugs
SHOWN = 0.4  # share of the repaired episodes that show the reference before the correct answer
CANDIDATES = 3  # broken programs to test for each wrong answer: some still pass
PAD = "<|pad|>"
VOCABULARY = 1024
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '" + USER + "' if message['role'] == 'user' else '" + ASSISTANT + "' }}{{ message['content'] }}"
    "{% if not (loop.last and continue_final_message | default(false)) %}" + END + "{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}" + ASSISTANT + "{% endif %}"
)


class Imitated(NamedTuple):
    """An episode to imitate: the first prompt, and all that follows it, without the last end token."""

    prompt: str
    rest: str
    answers: int
    solved: bool


def imitated(problems: Sequence[CodeProblem], task: RepairTask, seed: int) -> list[Imitated]:
    """One episode per problem. The wrong answers fail public tests, the last answer passes all tests."""
    rngs = [Random(f"{seed}/{i}/{problem.statement}") for i, problem in enumerate(problems)]
    counts = [rng.choices(range(len(WRONG_ANSWERS)), WRONG_ANSWERS)[0] for rng in rngs]
    tried = [
        [episodes.as_answer(code) for code in itertools.islice(_broken(problem, rng), CANDIDATES * count)]
        for problem, count, rng in zip(problems, counts, rngs, strict=True)
    ]
    flat = [(problem, text, 0) for problem, texts in zip(problems, tried, strict=True) for text in texts]
    turns = iter(task.judge(flat))
    found = []
    for problem, texts, count, rng in zip(problems, tried, counts, rngs, strict=True):
        wrong = [turn for turn in itertools.islice(turns, len(texts)) if not turn.public]
        found.append(_episode(problem, wrong[:count], count == task.turns, task, rng))
    return found


def _broken(problem: CodeProblem, rng: Random) -> Iterator[str]:
    """Different programs with one or two bugs, those with two first: the answers of an episode improve.

    A generator, since to list all bugs of a program takes longer than to run a few.
    """
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
    """The episode of these wrong answers; with `never` it ends with the last of them."""
    prompt, right = task.format.prompt(problem, []), episodes.as_answer(problem.solution)
    turns, last = list(wrong), right
    if never and turns:
        last = turns.pop().answer
    elif turns and rng.random() < SHOWN:
        turns[-1] = turns[-1]._replace(feedback=episodes.with_reference(turns[-1].feedback, right))
    rest = task.format.prompt(problem, turns).removeprefix(prompt) + last
    return Imitated(prompt, rest, len(turns) + 1, not (never and wrong))


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

    Every program appears in several episodes, each with another statement, other inputs and other bugs. As
    SoS imitates whole traces, the loss is on all that follows the first prompt, feedback included.
    `stop_after` steps end it early; `folder` keeps checkpoints, so that a killed run continues.
    """
    scale = profile.repair
    if not scale.base_problems:
        return *load_pretrained(scale.pretrained), pd.DataFrame(columns=CURVE)
    model, tokenizer = load_pretrained(scale.pretrained) if scale.pretrained else (None, None)
    task = repair_task(profile, tokenizer, folder / "tests" if folder else None)
    made: list[Imitated] = []
    for k in range(scale.base_episodes):
        made += imitated(draw("base", scale.base_problems, PROBLEMS_SEED + k), task, seed + k)
        progress(f"episodes to imitate: {len(made):,} of {scale.base_problems * scale.base_episodes:,}")
    valid = imitated(draw("valid", scale.valid_problems, PROBLEMS_SEED), task, seed)
    length = scale.self_training.row_length
    if model is None:
        tokenizer = build_tokenizer(one.prompt + one.rest for one in made[: scale.base_problems])
        model = of_shape(profile.model, tokenizer, length, seed)
    start = digest_of(model) if scale.pretrained else ""  # a model from scratch follows from the seed
    rows, valid_rows = (
        make_rows(tokenizer, [one.prompt for one in part], [one.rest for one in part], length, turns=True)
        for part in (made, valid)
    )
    with low_rank(model, scale.base_training.lora_rank, seed):
        curve = train(
            model, rows, scale.base_training, seed=seed, start=start, folder=folder, valid=valid_rows,
            valid_every=valid_every, stop_after=stop_after, progress=progress, label="repair base",
        )  # fmt: skip
    return bake(model), tokenizer, curve


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

    def make() -> None:
        model, tokenizer, curve = train_base(profile, folder=work, progress=progress)
        card = describe_base(profile, model, curve) if len(curve) else {}
        save_model(model, tokenizer, out, curve, card, profile.repair.budget)

    ships = profile.base.shipped and not profile.repair.pretrained
    copy_or_make(source if ships else "scratch", out, shipped, make)


def describe_base(profile: Profile, model: PreTrainedModel, curve: pd.DataFrame) -> dict[str, str]:
    """The manifest and the model card of the base."""
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
        "imitates": "*repair episodes* on small programming problems: programs with injected bugs, the "
        "feedback of the tests, mostly the correct program in the end. Its programs run in `grlib.sandbox`",
        "made_by": f'notebook 08 (`base = "scratch"`, profile {profile.name}): {scale.base_problems:,} '
        f"problems, each in {scale.base_episodes} episodes, the loss on answers and feedback alike",
        "held_out": "the programs of the near and far test problems, and of those of self-training, under "
        "any statement",
        "tags": "code, self-repair",
        "limits": f"short programs, answers of at most {scale.budget} tokens",
        "prompt": repair_task(profile).format.prompt(draw("valid", 1, PROBLEMS_SEED)[0], []),
        "budget": scale.budget,
        "grading": "from grlib.tasks.repair.episodes import code_of\n\nprint(code_of(answer))",
    }
    return notes(model, curve, facts, card)


def build_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE for statements, programs and feedback, trained on texts; each digit is a token.

    The same texts give the same vocabulary. Every text survives encode -> decode unchanged.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    split = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)
    tokenizer.decoder = decoders.ByteLevel()
    marks = [AddedToken(mark, special=True, normalized=False) for mark in (PAD, USER, ASSISTANT, END)]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=marks, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return as_fast(tokenizer, PAD, USER, END, CHAT_TEMPLATE)
