"""`python -m grlib search 84 2 14 15 --target 26`: a model searches; its trace as it is written, the verdict.

Exit codes: 0 the model searched, 1 the problem has no solution, 2 it is not of the kind that the model knows.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from grlib import profiles
from grlib.errors import GrlibError
from grlib.runs.files import read_json, write_bytes
from grlib.runs.notebooks import REPOSITORY
from grlib.tasks.countdown.fast import solve
from grlib.tasks.countdown.puzzle import Problem
from grlib.tasks.countdown.searchers import depth_first
from grlib.tasks.countdown.traces import audit, grade
from grlib.tasks.countdown.vocabulary import prompt_text

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

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
    found.add_argument(
        "--temperature", type=float, default=1.0, help="0: always the most likely token; else 0.01 to 100"
    )
    found.add_argument("--seed", type=int, default=0, help="seed of the sampling")
    found.add_argument("--html", type=Path, metavar="FILE", help="write a page that plays the search")
    return found


def main(
    arguments: list[str] | None = None, page: Callable[[Problem, str, Sequence[str]], str] | None = None
) -> int:
    """Solve the problem, then let the model search it: every trace line by line, its verdict, its nodes.

    `page` makes the content of `--html` from the problem, the last trace and the solution.
    """
    chosen = parser().parse_args(arguments)
    problem = Problem(tuple(chosen.numbers), chosen.target)
    coldest = 0.01 if chosen.temperature else 0
    for name, low, high in (("tries", 1, 1000), ("temperature", coldest, 100), ("seed", 0, 2**32)):
        if not low <= getattr(chosen, name) <= high:  # not a number, too
            raise GrlibError(f"--{name} {getattr(chosen, name)}: must be from {low} to {high}")
    folder = chosen.model or best_model()
    _refuse_unknown(problem, folder)
    solution = solve(problem)
    if solution is None:
        print(f"solver: {list(problem.nums)} cannot make {problem.target}; try another target")
        return 1
    print(f"solver: {', '.join(solution) or 'nothing to do'}", flush=True)  # before the model is loaded

    gc.disable()  # while the libraries load, it takes a seventh of the time to the first line of the trace
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # for a single row, threads on busy cores wait for each other: 30 times slower
    try:
        from grlib.models.llama import load_both

        model, tokenizer = load_both(folder)
        gc.enable()
        for number in range(chosen.tries):
            text, tokens = _search(model, tokenizer, problem, chosen.temperature, chosen.seed + number)
            verdict = grade(text, problem)
            print(f"{folder.parent.name}/{folder.name}: {tokens} tokens; verdict: {verdict.reason}")
            if verdict.correct:
                break
    finally:
        gc.enable()
        torch.set_num_threads(threads)
    explored = [audit(trace, problem)["operations"] for trace in (text, depth_first(problem))]
    print(f"nodes explored: model {explored[0]}, depth-first search {explored[1]}")
    if chosen.html and page:
        write_bytes(chosen.html, page(problem, text, solution).encode())
        print(f"{chosen.html}: open it in a browser")
    return 0


def _refuse_unknown(problem: Problem, folder: Path) -> None:
    """GrlibError where there is no model, or for a problem unlike those that it was trained on, as far as its
    manifest says."""
    if not (folder / "config.json").is_file():  # before the libraries are loaded
        raise GrlibError(f"no model in {folder}: config.json is missing; name another folder by --model")
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        return
    task = profiles.get(read_json(manifest, "profile")["profile"]).countdown
    if (
        len(problem.nums) != task.num_count
        or max(problem.nums) > task.max_number
        or not task.target_low <= problem.target <= task.target_high
    ):
        raise GrlibError(
            f"numbers {list(problem.nums)}, target {problem.target}: the model in {folder} knows "
            f"{task.num_count} numbers of 1..{task.max_number} and targets of {task.target_low}.."
            f"{task.target_high}; choose such a problem, or another model by --model"
        )


def _search(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    problem: Problem,
    temperature: float,
    seed: int,
) -> tuple[str, int]:
    """Sample one trace and print it while it is made: (trace, number of its tokens, end token included)."""
    from transformers import TextStreamer

    from grlib.models.tokenizer import decode, encode
    from grlib.sampling.transformers import generate

    prompts = encode(tokenizer, [prompt_text(problem)])
    budget = model.config.max_position_embeddings - len(prompts[0])
    settings = profiles.Sampling("transformers", temperature, slots=1)
    streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    [ids], _ = generate(model, tokenizer, prompts, [budget], settings, seed, streamer)
    return decode(tokenizer, ids).removesuffix(tokenizer.eos_token), len(ids)
