"""Stage iterate: ReST and Guided-ReST from one base, PPO, and every measurement, by their importance.

What an earlier window left in the folder stands: the next one goes on behind it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from grlib import artefacts, countdown_task, evaluation, results, selftrain
from grlib.countdown_data import Solved, make_splits
from grlib.errors import GrlibError
from grlib.model import load_both
from grlib.one_gpu.learning import Trainer
from grlib.one_gpu.stored import Stored
from grlib.one_gpu.travelling import read_difference, write_difference
from grlib.one_gpu.window import GPU, Sampler, Window
from grlib.profiles import Profile
from grlib.selftrain import Attempt, Gathered, Policy
from grlib.training import likelihood

if TYPE_CHECKING:
    from random import Random

    from transformers import LlamaForCausalLM

# Seconds kept back on a GPU for what follows: measuring all models, PPO of one method, BC and hints. A
# rehearsal does everything.
EVALUATION, PPO, LAST = 110, 60, 25
GREEDY = 0.0
METHODS = ("rest", "guided_rest")


class Begun:
    """A task whose first attempts at all items are there already."""

    def __init__(self, task: countdown_task.CountdownTask, attempts: list[Attempt]) -> None:
        self.task, self.attempts, self.rounds = task, attempts, task.rounds

    def attempt(
        self, policy: Policy, items: Sequence[Solved], starts: Sequence[str | None]
    ) -> list[Attempt | None]:
        """The attempts that are there, or new ones from starts."""
        return [*self.attempts] if starts[0] is None else self.task.attempt(policy, items, starts)

    def guide(self, item: Solved, attempt: Attempt, number: int, rng: Random) -> str:
        """As the task."""
        return self.task.guide(item, attempt, number, rng)


def iterate(
    out: Path,
    profile: Profile,
    tokens: int,
    seconds: float,
    base: Path,
    seed: int,
    reinforced: int = 2,
    steps: int = 0,
) -> None:
    """Everything after the base, as far as the seconds go; `tokens` of a training line, PPO of the first
    `reinforced` of `reinforcing.METHODS`, in so many `steps` (0: as the seconds allow)."""
    from grlib.one_gpu.reinforcing import refuse_other_steps, reinforce

    given = {"seconds": seconds, "base": base, "tokens": tokens, "reinforced": reinforced, "steps": steps}
    window = Window("iterate", out, profile, seed, **given)
    work = Iterating(window, base, tokens)
    refuse_other_steps(work, reinforced, steps)
    work.self_train(reinforced)
    window.profile = replace(profile, iterations=min(work.done.values()))  # what the manifest will say
    work.measure_all()
    reinforce(work, reinforced, steps)
    work.measure_bc(base / "bc")
    work.hints()


class Iterating:
    """One window's work: the base, the newest model of each method, and the rows of every kind of result."""

    def __init__(self, window: Window, base: Path, tokens: int) -> None:
        self.window, self.profile, self.seed, self.say = window, window.profile, window.seed, window.say
        drawn = make_splits(
            self.profile.task, self.profile.train_problems, 0, self.profile.test_problems, self.seed
        )
        self.items, self.tests = drawn.train, {"seen": drawn.seen, "unseen": drawn.unseen}
        self.task = countdown_task.CountdownTask(self.profile.budget, rounds=self.profile.guided_rounds)
        self.base = base / "sos"
        _refuse_another_run(window, self.base)
        self.sos, self.words = load_both(self.base)
        self.trainer = Trainer(self.base, self.profile, tokens, self.seed, self.say)
        self.newest: dict[str, LlamaForCausalLM] = dict.fromkeys(METHODS, self.sos)
        self.first: list[Attempt] = []
        self.rows = Stored(window.out / "results")
        self.done = {method: self._go_on(method) for method in METHODS}
        for method in ("sos", "bc"):
            path = base / method / "curve.csv"
            if path.is_file() and not len(self.rows.of("03_curve", method=method)):
                curve = pd.read_csv(path)[["step", "tokens_seen", "loss", "valid_loss"]]
                self.rows.add("03_curve", curve.assign(method=method))
        if "05_selection" not in self.rows.tables:  # stage select makes it
            self.rows.add("05_selection", results.without_rows("selection"))
        self.say(f"at most {window.seconds:.0f} s, lines of {self.trainer.tokens:,} tokens")
        window.part("loading")

    def _go_on(self, method: str) -> int:
        """How many iterations of a method are done: the file of the last one is its newest model."""
        numbers = range(self.profile.iterations, 0, -1)
        done = next((number for number in numbers if self._change(method, number).is_file()), 0)
        measured = self.rows.of("06_eval", method=method).get("iteration", pd.Series([0])).max()
        if measured > done:
            raise GrlibError(
                f"{self._change(method, measured)}: no such file, but the rows of its measurement are there; "
                "bring it, or name an empty folder"
            )
        for stem in ("06_yield", "tuning"):  # of an iteration that was cut off
            self.rows.drop(stem, method=method, iteration=done + 1)
        if done:
            self.newest[method] = read_difference(self._change(method, done), load_both(self.base)[0])
            self.say(f"{method}: goes on behind iteration {done}")
        return done

    def _change(self, method: str, iteration: int) -> Path:
        return self.window.out / f"{method}_{iteration}.safetensors"

    def sampler(self, model: LlamaForCausalLM, name: str, temperature: float = 1.0) -> Sampler:
        """A policy with a seed of this name."""
        return Sampler(model, self.words, self.profile.slots, f"{self.seed}/{name}", temperature)

    # Self-training

    def self_train(self, reinforced: int) -> None:
        """Iterations of both methods, as many as the profile has or the seconds allow, if PPO of so many
        methods is to follow."""
        kept_back = EVALUATION + PPO * reinforced + self.last()
        for iteration in range(1, self.profile.iterations + 1):
            began = time.monotonic()
            for method in METHODS:
                if self.done[method] < iteration:
                    self._iterate(method, iteration)
            spent = time.monotonic() - began
            if iteration == self.profile.iterations:
                return
            if GPU and min(self.done.values()) == iteration and self.window.left() < 1.1 * spent + kept_back:
                self.say(f"no time for another iteration, which may take {spent:.0f} s")
                return
            for method in METHODS:
                if self.done[method] == iteration:
                    samples = self.profile.iteration_samples
                    self.measure(method, self.newest[method], iteration, samples)

    def last(self) -> float:
        """Seconds that BC and the hints will take after PPO on a GPU, where they are not there yet."""
        return 0.0 if "04_hints" in self.rows.tables else LAST

    def _iterate(self, method: str, iteration: int) -> None:
        gathered = self._gather(method, iteration)
        self.first = self.first or gathered.attempts
        solved = pd.Series(gathered.solved_in).value_counts().sort_index().to_dict()
        self.say(f"{method} {iteration}: solved in rounds {solved}")
        self.rows.add("06_yield", selftrain.yield_rows(gathered, method, iteration))
        self.window.part(f"sampling {method} {iteration}")
        rows = self.trainer.rows(gathered.kept())
        tuning = countdown_task.loop_settings(self.profile, method).training
        name = f"{self.seed}/{method}/{iteration}"
        self.newest[method], curve = self.trainer.fine_tune(
            rows, replace(tuning, precision="bfloat16"), name, f"{method} {iteration}"
        )
        if method == "guided_rest" and iteration == 1:
            self._likelihoods(gathered)
        self.rows.add("tuning", curve.assign(method=method, iteration=iteration))
        write_difference(self._change(method, iteration), self.sos, self.newest[method])  # now it is done
        self._change(method, iteration - 1).unlink(missing_ok=True)
        self.done[method] = iteration
        for reinforced in (key for key, start in results.STARTS.items() if start == method):
            self.forget(reinforced)  # it went on from the model before
        self.window.part(f"training {method} {iteration}")

    def forget(self, reinforced: str) -> None:
        """Take away what PPO of a method left: its rows and its model."""
        for stem in ("07_curve", "07_eval", "07_greedy"):
            self.rows.drop(stem, method=reinforced)
        (self.window.out / f"{reinforced}.safetensors").unlink(missing_ok=True)

    def _gather(self, method: str, iteration: int) -> Gathered:
        rounds = countdown_task.loop_settings(self.profile, method).rounds
        task: Any = Begun(self.task, self.first) if iteration == 1 and self.first else self.task

        def policy_of_round(number: int) -> Policy:
            shared = iteration == 1 and number == 0  # the base's own first samples serve both methods
            name = f"{'first' if shared else method}/{iteration}/{number}"
            return self.sampler(self.newest[method], name)

        return selftrain.gather(
            task, self.items, policy_of_round, rounds, f"{self.seed}/{method}/{iteration}"
        )

    def _likelihoods(self, gathered: Gathered) -> None:
        """How likely the SoS model finds the first traces that it solved alone, and those after guidance."""
        solved = gathered.solved_in[: self.profile.rewrite_problems]
        for kind, guided in (("self_generated", False), ("guided", True)):
            chosen = [i for i, number in enumerate(solved) if number >= 0 and (number > 0) == guided]
            texts = [(a.prompt, a.response, a.ended) for a in (gathered.attempts[i] for i in chosen)]
            if texts:
                prompts, responses, ended = zip(*texts, strict=True)
                length = self.profile.row_length
                nats = likelihood(self.sos, self.words, prompts, responses, ended, length)
                self._keep_likelihood(kind, chosen, nats)
        self.window.part("likelihoods")

    def _keep_likelihood(self, kind: str, numbers: Sequence[int], nats: np.ndarray) -> None:
        self.rows.drop("05_likelihood", kind=kind)
        columns = {"kind": kind, "index": numbers, "nll": nats[:, 0], "nll_tokens": nats[:, 1].astype(int)}
        self.rows.add("05_likelihood", pd.DataFrame(columns))
        self.say(f"likelihood {kind}: {nats[:, 0].sum() / nats[:, 1].sum():.4f} nats a token")

    # Measurements

    def measure(
        self, method: str, model: LlamaForCausalLM, iteration: int, samples: int, temperature: float = 1.0
    ) -> None:
        """Both splits in one go, since a call waits for its longest trace. What is there stays."""
        kind = "greedy" if temperature == GREEDY else "eval"
        if self.is_measured(method, iteration, samples, kind):
            return
        stem = f"{notebook_of(method)}_{kind}"
        self.rows.drop(stem, method=method, iteration=iteration)  # fewer samples of it
        name = f"{method}/{iteration}/{temperature}"
        problems = [item for items in self.tests.values() for item in items]
        found = evaluation.evaluate(self.task, self.sampler(model, name, temperature), problems, samples)
        half = len(self.tests["seen"])
        found = found.drop(columns="response").assign(method=method, iteration=iteration)
        found["split"] = np.where(found["index"] < half, "seen", "unseen")
        found["index"] %= half
        self.rows.add(stem, found)
        for split, part in found.groupby("split"):
            any_of = part.groupby("index")["correct"].any().mean()
            self.say(
                f"{name} {split}: {100 * part['correct'].mean():.1f} %, any of {samples} {100 * any_of:.1f} "
                f"%, {part['tokens'].mean():.0f} tokens, cut off {100 * part['truncated'].mean():.0f} %"
            )
        self.window.part(f"measuring {method}")

    def is_measured(self, method: str, iteration: int, samples: int = 1, kind: str = "eval") -> bool:
        """Whether rows of so many samples a problem are there."""
        rows = self.rows.of(f"{notebook_of(method)}_{kind}", method=method, iteration=iteration)
        return bool(len(rows) and rows["sample"].max() + 1 >= samples)

    def measure_all(self) -> None:
        """SoS and both methods after their last iteration: all samples, then greedy."""
        models = [(method, self.newest[method], self.done[method]) for method in reversed(METHODS)]
        models.append(("sos", self.sos, 0))
        for model in models:
            self.measure(*model, self.profile.samples)
        for model in models:
            self.measure(*model, 1, GREEDY)

    def measure_bc(self, folder: Path) -> None:
        """BC, whose traces are short, where it is there."""
        if not folder.is_dir():
            return
        model, _ = load_both(folder)
        self.measure("bc", model, 0, 1, GREEDY)
        self.measure("bc", model, 0, self.profile.samples)

    def hints(self) -> None:
        """Table 1: accuracy and likelihood with the first steps of the solution given."""
        if "04_hints" in self.rows.tables:
            return
        items: list[Solved] = self.items[: self.profile.hint_problems]
        steps = range(self.profile.task.num_count)
        starts = [countdown_task.hint(item, given) for given in steps for item in items]
        asked = items * len(steps)
        found = evaluation.evaluate(self.task, self.sampler(self.sos, "hints"), asked, 1, starts)
        prompts = [countdown_task.prompt_text(problem) for problem, _ in asked]
        ended, length = ~found["truncated"], self.profile.row_length
        nats = likelihood(self.sos, self.words, prompts, found["response"], ended, length)
        scored = found.drop(columns="response").assign(nll=nats[:, 0], nll_tokens=nats[:, 1].astype(int))
        scored["steps"], scored["index"] = scored["index"] // len(items), scored["index"] % len(items)
        hinted = scored[(scored["steps"] > 0) & scored["correct"]]
        self._keep_likelihood("hinted", hinted["index"].tolist(), hinted[["nll", "nll_tokens"]].to_numpy())
        self.rows.add("04_hints", scored.assign(method="sos", split="train"))
        self.say(f"hints: {scored.groupby('steps')['correct'].mean().round(3).to_dict()}")
        self.window.part("hints")


def notebook_of(method: str) -> str:
    """The number of the notebook whose results hold a method."""
    return "07" if method in results.STARTS else "03" if method in ("sos", "bc") else "06"


def _refuse_another_run(window: Window, base: Path) -> None:
    """GrlibError where the folder holds another run: its rows and ours would not belong together."""
    profile = window.profile
    ours = {
        "base": artefacts.digest(base), "seed": window.seed, "profile": profile.name,
        "train_problems": profile.train_problems, "test_problems": profile.test_problems,
    }  # fmt: skip
    path = window.out / "iterate.json"
    theirs = artefacts.read_json(path) if path.is_file() else ours
    if differing := [name for name in ours if theirs.get(name) != ours[name]]:
        found = ", ".join(f"{name} {theirs.get(name)} (asked: {ours[name]})" for name in differing)
        raise GrlibError(f"{window.out} holds a run of {found}: ask for the same, or name an empty folder")
    artefacts.write_json(path, ours)
