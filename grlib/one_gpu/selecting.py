"""Stage select: which explored child a rewrite should replace (node selection), on the base's failures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from grlib import selftrain
from grlib.models.llama import load_both
from grlib.one_gpu.iterating import Begun
from grlib.one_gpu.window import Sampler, Window
from grlib.profiles import Profile
from grlib.runs import files as artefacts
from grlib.tasks.countdown.data import make_splits
from grlib.tasks.countdown.guidance import CHOICES
from grlib.tasks.countdown.task import CountdownTask
from grlib.training.loss import likelihood

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast


def select(out: Path, profile: Profile, base: Path, problems: int, seed: int) -> None:
    """Guide the failures at the first training problems by each choice; results/05_selection.parquet."""
    profile = replace(profile, rewrite_problems=problems)
    window = Window("select", out, profile, seed, base=base, problems=problems)
    items = make_splits(profile.task, problems, 0, 0, seed).train
    model, words = load_both(base / "sos")

    def policy_of_round(number: int) -> Sampler:
        return Sampler(model, words, profile.sampling.slots, f"{seed}/select/{number}")

    task = CountdownTask(profile.budget, rounds=profile.self_training.guided_rounds)
    first = selftrain.gather(task, items, policy_of_round, 0, seed).attempts
    window.part("first attempts")
    found = []
    for choose in CHOICES:
        begun = Begun(replace(task, choose=choose), first)
        gathered = selftrain.gather(begun, items, policy_of_round, task.rounds, f"{seed}/{choose}")
        found.append(_rows(gathered, model, words, profile).assign(choose=choose))
        window.say(f"{choose}: {100 * found[-1]['correct'].mean():.1f} % solved")
        window.part(choose)
    artefacts.write_table(out / "results" / "05_selection.parquet", pd.concat(found, ignore_index=True))


def _rows(
    gathered: selftrain.Gathered, model: LlamaForCausalLM, words: PreTrainedTokenizerFast, profile: Profile
) -> pd.DataFrame:
    """One row a problem: verdict, round, tokens, and how likely the base finds the trace."""
    attempts = gathered.attempts
    prompts, responses, ended = zip(*((a.prompt, a.response, a.ended) for a in attempts), strict=True)
    nats = likelihood(model, words, prompts, responses, ended, profile.self_training.row_length)
    return pd.DataFrame(
        {
            "index": range(len(attempts)),
            "correct": [attempt.correct for attempt in attempts],
            "round": [max(0, solved) for solved in gathered.solved_in],
            "tokens": [attempt.tokens for attempt in attempts],
            "truncated": [not attempt.ended for attempt in attempts],
            "nll": nats[:, 0],
            "nll_tokens": nats[:, 1].astype(int),
        }
    )
