"""The base of self-repair: it imitates episodes in which broken programs are tested and repaired.

As SoS imitates the traces of searchers, dead ends included, a repair model first imitates episodes made from
reference programs: answers with injected bugs, the feedback of the tests, and mostly the correct program in
the end. Some show the reference, as guided rounds do. So that the base learns to read it, some statements are
made senseless: there the program can only be read from the reference.
"""

from __future__ import annotations

import itertools
import re
import string
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from grlib.models.llama import bake, digest_of, load_pretrained, low_rank, of_shape, save_model
from grlib.models.tokenizer import as_fast
from grlib.profiles import Profile
from grlib.runs.chunks import chunked
from grlib.runs.sources import code_digest
from grlib.tasks.repair import bugs, episodes
from grlib.tasks.repair.compositions import primitives
from grlib.tasks.repair.compositions import problems as draw
from grlib.tasks.repair.episodes import ASSISTANT, END, USER
from grlib.tasks.repair.problems import CodeProblem
from grlib.tasks.repair.settings import PROBLEMS_SEED, repair_task
from grlib.tasks.repair.task import RepairTask
from grlib.training.base import copy_or_make, notes
from grlib.training.loop import CURVE, train
from grlib.training.rows import Row, make_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

WRONG_ANSWERS = (0.3, 0.35, 0.2, 0.1, 0.05)  # shares of episodes with 0, 1, ... of them; 4: never correct
TWO_BUGS = 0.4  # share of the wrong answers with two bugs
SHOWN = 0.4  # share of the repaired episodes that show the reference before the correct answer
OBSCURED = 0.35  # share of the episodes whose statement is made senseless; all of them show the reference
WORD = re.compile(r"[a-z]{2,}")
SPARE = 1  # broken programs to test beyond the wrong answers of an episode: some still pass
PART = 500  # episodes that are made and kept together
PAD = "<|pad|>"
VOCABULARY, TOKENIZED = 1024, 4000  # tokens; episodes that they are chosen from
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
    obscured = [rng.random() < OBSCURED for rng in rngs]
    counts = [rng.choices(range(len(WRONG_ANSWERS)), WRONG_ANSWERS)[0] for rng in rngs]
    counts = [min(max(count, 1), 3) if dark else count for count, dark in zip(counts, obscured, strict=True)]
    tried = [
        [episodes.as_answer(code) for code in _broken(problem, count + SPARE, rng)] if count else []
        for problem, count, rng in zip(problems, counts, rngs, strict=True)
    ]
    flat = [(problem, text, 0) for problem, texts in zip(problems, tried, strict=True) for text in texts]
    turns = iter(task.judge(flat))
    found = []
    for problem, texts, count, dark, rng in zip(problems, tried, counts, obscured, rngs, strict=True):
        wrong = [turn for turn in itertools.islice(turns, len(texts)) if not turn.public]
        asked = problem._replace(statement=_obscured(problem.statement, rng)) if dark else problem
        shown = 1 if dark else SHOWN
        found.append(_episode(asked, wrong[:count], count == task.turns, shown, task, rng))
    return found


def _obscured(statement: str, rng: Random) -> str:
    """The statement with a share of its words replaced by made-up ones or those of steps."""
    share, words = rng.random(), _words()

    def other(word: re.Match[str]) -> str:
        if rng.random() > share:
            return word[0]
        made_up = "".join(rng.choices(string.ascii_lowercase, k=len(word[0])))
        return rng.choice((made_up, rng.choice(words)))

    lines, kept = statement.split("\n"), ("Write a function", "Read ")
    return "\n".join(line if line.startswith(kept) else WORD.sub(other, line) for line in lines)


@cache
def _words() -> list[str]:
    """The words in which the base reads about steps."""
    return sorted({word for one in primitives().values() for word in WORD.findall(" ".join(one.phrases))})


def _broken(problem: CodeProblem, count: int, rng: Random) -> list[str]:
    """Different programs with one or two bugs, those with two first: the answers of an episode improve."""
    ones = list(itertools.islice(bugs.programs_with_bugs(problem.solution, rng), 2 * count))
    doubled = sum(rng.random() < TWO_BUGS for _ in range(count))
    twos = [next(bugs.programs_with_bugs(code, rng), code) for code in ones[:doubled]]
    return list(dict.fromkeys(twos + ones[doubled:]))[:count]


def _episode(
    problem: CodeProblem,
    wrong: Sequence[episodes.Turn],
    never: bool,
    shown: float,
    task: RepairTask,
    rng: Random,
) -> Imitated:
    """The episode of these wrong answers; with `never` it ends with the last of them, else the reference is
    before the right one in a share `shown` of the episodes."""
    prompt, right = task.format.prompt(problem, []), episodes.as_answer(problem.solution)
    turns, last = list(wrong), right
    if never and turns:
        last = turns.pop().answer
    elif turns and rng.random() < shown:
        turns[-1] = turns[-1]._replace(feedback=episodes.with_reference(turns[-1].feedback, right))
    rest = task.format.prompt(problem, turns).removeprefix(prompt) + last
    return Imitated(prompt, rest, len(turns) + 1, not (never and wrong))


def base_episodes(
    task: RepairTask,
    first: int,
    count: int,
    seed: int,
    folder: Path | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> list[Imitated]:
    """Episodes to imitate, one for each problem, from an endless list: `count` of them from part `first` on.

    A part has `PART` episodes. A `folder` keeps the parts that are made.
    """

    def part(number: int) -> pd.DataFrame:
        drawn = draw("base", min(PART, count - number * PART), f"{PROBLEMS_SEED}/{first + number}")
        found = pd.DataFrame(imitated(drawn, task, seed))
        progress(f"episodes to imitate: {number * PART + len(found):,} of {count:,}")
        return found

    parts = -(-count // PART)
    if folder is None:
        frame = pd.concat(map(part, range(parts)))
    else:
        key = {"code": code_digest(__name__), "first": first, "count": count, "seed": seed}
        key["format"] = asdict(task.format)
        frame = chunked(folder / f"episodes_{first}", key, parts, part)
    return [Imitated(*row) for row in frame.itertuples(index=False)]


def new_model(
    profile: Profile, made: Sequence[Imitated], seed: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """An untrained model of the profile's shape, and a tokenizer that follows from the first episodes."""
    tokenizer = build_tokenizer(one.prompt + one.rest for one in made[:TOKENIZED])
    return of_shape(profile.model, tokenizer, profile.repair.self_training.row_length, seed), tokenizer


def imitation_rows(
    profile: Profile, made: Sequence[Imitated], tokenizer: PreTrainedTokenizerFast
) -> list[Row]:
    """Training rows: the loss is on all that follows the first prompt, feedback included."""
    prompts, rests = [one.prompt for one in made], [one.rest for one in made]
    length = profile.repair.self_training.row_length
    return make_rows(tokenizer, prompts, rests, length, turns=True)


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

    As SoS imitates whole traces, it imitates whole episodes. `stop_after` steps end it early; `folder` keeps
    episodes and checkpoints, so that a killed run continues.
    """
    scale = profile.repair
    if not scale.base_problems:
        return *load_pretrained(scale.pretrained), pd.DataFrame(columns=CURVE)
    model, tokenizer = load_pretrained(scale.pretrained) if scale.pretrained else (None, None)
    task = repair_task(profile, tokenizer)
    made = base_episodes(task, 0, scale.base_problems, seed, folder, progress)
    valid = imitated(draw("valid", scale.valid_problems, PROBLEMS_SEED), task, seed)
    if model is None:
        model, tokenizer = new_model(profile, made, seed)
    start = digest_of(model) if scale.pretrained else ""  # a model from scratch follows from the seed
    rows, valid_rows = (imitation_rows(profile, part, tokenizer) for part in (made, valid))
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
        "wrong_answers": WRONG_ANSWERS,
        "training": asdict(scale.base_training),
    }
    card = {
        "license": "apache-2.0",
        "title": "Base model of code self-repair",
        "origin": scale.pretrained or "from scratch",
        "imitates": "*repair episodes* on small programming problems: programs with injected bugs, the "
        "feedback of the tests, mostly the correct program in the end. Its programs run in `grlib.sandbox`",
        "made_by": f"`experiments/train_base.py` (repair, profile {profile.name}): {scale.base_problems:,} "
        "problems, an episode each, the loss on answers and feedback alike",
        "held_out": "the programs of self-training, and of all validation and test problems, under any "
        "statement",
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
