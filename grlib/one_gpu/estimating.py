"""Stage plan: how long a window will take, from the rates of the recorded ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from grlib.errors import GrlibError
from grlib.one_gpu.window import GPU, WIDER, Window
from grlib.ppo.watch import TIMES
from grlib.profiles import Profile
from grlib.results import rows as results
from grlib.runs import files as artefacts
from grlib.runs.files import manifests_of
from grlib.sampling.static import rows_that_fit
from grlib.tasks.countdown.base import new_model
from grlib.tasks.countdown.vocabulary import build_tokenizer
from grlib.training.packed import line_that_fits

RECORD = Path(__file__).resolve().parents[2] / "paper_results" / "measured" / "gpu" / "seed0"
STEPS = 25  # of PPO in the record
CARDS = (16, 24, 80)  # gigabytes


def plan(profile: Profile, methods: Sequence[str], steps: int) -> str:
    """Minutes of each part of `iterate` at the sizes of the profile, and what fits which card."""
    rates = Rates(RECORD)
    lines = [f"GPU minutes by the rates of the record, on one {rates.device}; base: as its --seconds say"]
    total = 0.0
    every = of_self_training(profile, rates) | of_ppo(profile, methods, steps, rates)
    for name, seconds in every.items():
        lines.append(f"{name:40s} {seconds / 60:7.1f}")
        total += seconds
    lines.append(f"{'all':40s} {total / 60:7.1f}")
    lines += ["", "on a card of     rows sampled at once     tokens of a training line"]
    lines += [f"{size:4d} GB {rows:24,d} {tokens:29,d}" for size, rows, tokens in fits(profile)]
    return "\n".join(lines)


def opened(
    stage: str, out: Path, profile: Profile, seed: int, *, methods: Sequence[str], steps: int, **given: Any
) -> Window:
    """A window of `iterate` or `reinforce`, which on a GPU has said how long it will take."""
    window = Window(stage, out, profile, seed, **given, methods=methods, steps=steps)
    if GPU:
        window.say(beforehand(profile, methods, steps, alone=stage == "reinforce"))
    return window


def beforehand(profile: Profile, methods: Sequence[str], steps: int, alone: bool = False) -> str:
    """A line that says how long a stage will take; `alone`: PPO without self-training."""
    try:
        rates = Rates(RECORD)
    except GrlibError as fault:
        return f"how long it will take is not known: {fault}"
    wanted = of_ppo(profile, methods, steps or STEPS, rates)
    if alone:  # what it starts from is measured as well
        traces = traces_of_ppo(profile)
        starts = dict.fromkeys(results.STARTS[method] for method in methods)
        wanted |= {"loading": rates.loading} | {start: rates.measuring(start, traces) for start in starts}
    else:
        wanted |= of_self_training(profile, rates)
    minutes = sum(wanted.values()) / 60
    return f"{minutes:.1f} min on one {rates.device} by the rates of the record, less what is done already"


def of_self_training(profile: Profile, rates: Rates) -> dict[str, float]:
    """Seconds of each part. What is done for all problems is taken to grow with their number, though a part
    of it, waiting for the longest trace, does not."""
    found = {"loading": rates.loading}
    for method in ("rest", "guided_rest"):
        for kind in ("sampling", "training"):
            each = rates.of_a_problem(kind, method)
            found[f"{kind} {method}"] = (
                each * profile.self_training.train_problems * profile.self_training.iterations
            )
    found["training rest_matched"] = (
        rates.of_a_problem("training", "guided_rest") * profile.self_training.train_problems
    )
    a_split = profile.samples + 1  # of the last iteration, and greedy
    between = profile.iteration_samples * (profile.self_training.iterations - 1)
    for method in ("sos", "rest", "rest_matched", "guided_rest"):
        traces = a_split + (between if method in ("rest", "guided_rest") else 0)
        found[f"measuring {method}"] = rates.measuring(method, 2 * profile.test_problems * traces)
    return found | {"hints": rates.hints}


def of_ppo(profile: Profile, methods: Sequence[str], steps: int, rates: Rates) -> dict[str, float]:
    """Seconds of each part."""
    traces, found = traces_of_ppo(profile), {}
    for method in methods:
        found[f"PPO {method}, {steps} steps"] = rates.of_a_step(method) * steps
        found[f"measuring {method}"] = rates.measuring(method, traces)
    return found


def traces_of_ppo(profile: Profile) -> int:
    """By which a method is measured, greedy ones included."""
    return 2 * profile.test_problems * (profile.ppo_samples + 1)


class Rates:
    """What a problem, a step and a token took in the recorded windows."""

    def __init__(self, record: Path) -> None:
        """Raises GrlibError where there is no record."""
        windows = [artefacts.read_json(path) for path in manifests_of(record / "manifests", "iterate")]
        if not windows:
            raise GrlibError(f"{record}: no record of a window there, whose rates are needed; fetch it again")
        self.device = str(windows[-1]["device"])
        self.problems = int(windows[-1]["settings"]["train_problems"])
        self.spent = [(name, float(seconds)) for window in windows for name, seconds in window["parts"]]
        tables = [artefacts.read_table(record / "results" / f"{kind}.parquet") for kind in KINDS]
        every = pd.concat([rows[["method", "tokens"]] for rows in tables])
        self.curve = artefacts.read_table(record / "results" / "07_curve.parquet")
        self.tokens = every.groupby("method")["tokens"].agg(["sum", "mean"])
        seconds = sum(self._seconds("measuring", measured) for measured in MEASURED)
        self.pace = float(self.tokens.loc[list(MEASURED), "sum"].sum()) / seconds  # tokens a second
        self.loading = self._seconds("loading") / len(windows)
        self.hints = self._seconds("hints")

    def _seconds(self, *words: str) -> float:
        """Of all parts whose names begin with these words."""
        return sum(s for name, s in self.spent if tuple(name.replace(",", "").split()[: len(words)]) == words)

    def of_a_problem(self, kind: str, method: str) -> float:
        """Seconds of sampling or training for one problem of an iteration."""
        times = sum(name.startswith(f"{kind} {method} ") for name, _ in self.spent)
        return self._seconds(kind, method) / times / self.problems

    def of_a_step(self, method: str) -> float:
        """Seconds of one step of PPO; of a method that was not recorded, those of all others."""
        own = self.curve[self.curve["method"] == method]
        return seconds_a_step(own if len(own) else self.curve)

    def measuring(self, method: str, traces: int) -> float:
        """Seconds for so many traces of a method, as long as the recorded ones (of a method that was not
        recorded: as its start's)."""
        start = "rest" if method == "rest_matched" else results.STARTS.get(method, method)
        likely = method if method in self.tokens.index else start
        return traces * float(self.tokens.loc[likely, "mean"]) / self.pace


def seconds_a_step(curve: pd.DataFrame) -> float:
    """Of PPO, with what no column of its curve counts: weights handed over, responses made into tensors."""
    return 1.1 * float(curve[list(TIMES)].sum(axis=1).median()) if len(curve) else 0.0


MEASURED = ("sos", "rest", "guided_rest")  # all of whose measured rows are in the record
KINDS = ("03_eval", "03_greedy", "06_eval", "06_greedy", "07_eval", "07_greedy")  # of measured rows


def fits(profile: Profile) -> list[tuple[int, int, int]]:
    """(gigabytes of a card, rows that it samples at once, tokens of a training line)."""
    model: Any = new_model(profile, build_tokenizer(profile.whole_numbers))
    config = model.config
    found = []
    for size in CARDS:
        rows = rows_that_fit(
            WIDER * profile.sampling.slots, size * 1e9, config.num_hidden_layers, config.num_key_value_heads,
            config.head_dim, profile.self_training.row_length, 2,
        )  # fmt: skip
        found.append((size, rows, line_that_fits(model, profile.micro_tokens, size * 1e9)))
    return found
