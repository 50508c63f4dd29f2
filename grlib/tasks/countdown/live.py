"""`python -m grlib search 84 2 14 15 --target 26`: a model searches; its trace and the verdict."""

from __future__ import annotations

import argparse
from pathlib import Path

from grlib.errors import GrlibError
from grlib.runs.notebooks import REPOSITORY
from grlib.tasks.countdown.puzzle import Problem

# From the best to the plainest; each folder holds one model.
MODELS = ("base_gpu/guided_rest_ppo", "base_gpu/sos", "base/sos")


def best_model() -> Path:
    """The folder of the first of `MODELS` that exists."""
    folders = [REPOSITORY / "paper_results" / name for name in MODELS]
    for folder in folders:
        if (folder / "config.json").is_file():
            return folder
    raise GrlibError(f"no model in {folders[0].parents[1]}: use a full checkout, or name one by --model")


def parser() -> argparse.ArgumentParser:
    """The arguments of `python -m grlib search`."""
    found = argparse.ArgumentParser(prog="python -m grlib search", description=__doc__)
    found.add_argument("numbers", type=int, nargs="+", help="the numbers to combine: the models know four")
    found.add_argument("--target", type=int, required=True, help="the number to reach")
    found.add_argument("--model", type=Path, help="model folder (default: the best one in this checkout)")
    found.add_argument("--tries", type=int, default=1, help="searches at most, until one solves the problem")
    found.add_argument("--temperature", type=float, default=1.0, help="0: always the likeliest token")
    found.add_argument("--seed", type=int, default=0, help="of the sampling")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Search, print every trace and its verdict."""
    from grlib.models.llama import load_both
    from grlib.sampling import pool as sampling
    from grlib.tasks.countdown import task as countdown_task
    from grlib.tasks.countdown import traces

    chosen = parser().parse_args(arguments)
    problem = Problem(tuple(chosen.numbers), chosen.target)
    if chosen.tries < 1:
        raise GrlibError(f"--tries {chosen.tries}: must be 1 or more")
    folder = chosen.model or best_model()
    model, words = load_both(folder)
    prompt = countdown_task.prompt_text(problem)
    room = model.config.max_position_embeddings - len(words(prompt, add_special_tokens=False)["input_ids"])
    settings = sampling.Sampling(temperature=chosen.temperature, slots=1)
    for number in range(chosen.tries):
        request = sampling.Request(prompt, "", room)
        [found] = sampling.answer(model, words, [request], settings, chosen.seed + number)
        verdict = traces.grade(found.text, problem)
        print(found.text)
        print(f"{folder.parent.name}/{folder.name}: {found.tokens} tokens; verdict: {verdict.reason}")
        if verdict.correct:
            break
    return 0
