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

from grlib import selftrain
from grlib.errors import GrlibError
from grlib.models.llama import load_both
from grlib.one_gpu.estimating import opened
from grlib.one_gpu.travelling import read_difference, write_difference
from grlib.one_gpu.window import GPU, Window
from grlib.one_gpu.work import GREEDY, RECORDED_TESTS, Work
from grlib.profiles import Profile
from grlib.results import rows as results
from grlib.selftrain import Attempt, Gathered, Policy
from grlib.tasks.countdown import task as countdown_task
from grlib.tasks.countdown.data import Solved, training_problems
from grlib.training.loss import likelihood

if TYPE_CHECKING:
    from random import Random

# Seconds kept back on a GPU for what follows: measuring all models on as many problems as in the record, PPO
# of one method (or of one of its steps, where steps are named), BC and hints. A rehearsal does everything.
EVALUATION, PPO, PPO_STEP, LAST = 180, 60, 4.5, 25
METHODS = ("rest", "guided_rest")
MATCHED = "rest_matched"  # ReST trained for as many steps as Guided-ReST


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
    methods: Sequence[str] = (),
    steps: int = 0,
) -> None:
    """Everything after the base, as far as the seconds go; `tokens` of a training line, PPO of `methods`, in
    so many `steps` (0: as the seconds allow)."""
    from grlib.one_gpu.reinforcing import refuse_other_steps, reinforce

    window = opened(
        "iterate", out, profile, seed, seconds=seconds, base=base, tokens=tokens, methods=methods, steps=steps
    )
    work = Iterating(window, base, tokens)
    refuse_other_steps(work, methods, steps)
    work.self_train(kept_back(profile, len(methods), steps) + work.last())
    window.profile = replace(profile, iterations=min(work.done.values()))  # what the manifest will say
    work.measure_all()
    reinforce(work, methods, steps)
    work.measure_bc(base / "bc")
    work.hints()


def kept_back(profile: Profile, methods: int, steps: int) -> float:
    """Seconds for measuring all models and for PPO of so many methods."""
    measuring = EVALUATION * profile.test_problems / RECORDED_TESTS
    return measuring + methods * (steps * PPO_STEP if steps else PPO)


class Iterating(Work):
    """Self-training that goes on behind what earlier windows left in the folder."""

    def __init__(self, window: Window, base: Path, tokens: int) -> None:
        super().__init__(window, base, tokens)
        self.items = training_problems(
            self.profile.task, self.profile.self_training.train_problems, self.seed
        )
        self.newest |= dict.fromkeys(METHODS, self.sos)
        self.first: list[Attempt] = []
        self.kept: list[Attempt] = []  # by the last iteration of ReST, for `MATCHED`
        self.done |= {method: self._go_on(method) for method in METHODS}
        for method in ("sos", "bc"):
            path = base / method / "curve.csv"
            if path.is_file() and not len(self.rows.of("03_curve", method=method)):
                curve = pd.read_csv(path)[["step", "tokens_seen", "loss", "valid_loss"]]
                self.rows.add("03_curve", curve.assign(method=method))
        if "05_selection" not in self.rows.tables:  # stage select makes it
            self.rows.add("05_selection", results.without_rows("selection"))
        matched = self._change(MATCHED, self.profile.self_training.iterations)
        if matched.is_file():
            self.newest[MATCHED] = read_difference(matched, load_both(self.base)[0])
        window.part("loading")

    def _go_on(self, method: str) -> int:
        """How many iterations of a method are done: the file of the last one is its newest model."""
        numbers = range(self.profile.self_training.iterations, 0, -1)
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

    # Self-training

    def self_train(self, kept_back: float) -> None:
        """Iterations of both methods, as many as the profile has or the seconds allow, but for those that are
        kept back."""
        for iteration in range(1, self.profile.self_training.iterations + 1):
            began = time.monotonic()
            for method in METHODS:
                if self.done[method] < iteration:
                    self._iterate(method, iteration)
            spent = time.monotonic() - began
            if iteration == self.profile.self_training.iterations:
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
        self.window.part(f"training {method} {iteration}")
        if method == "guided_rest" and iteration == 1:
            self._likelihoods(gathered)
        self.rows.add("tuning", curve.assign(method=method, iteration=iteration))
        write_difference(self._change(method, iteration), self.sos, self.newest[method])  # now it is done
        self._change(method, iteration - 1).unlink(missing_ok=True)
        self.done[method] = iteration
        if method == "rest":
            self.kept = gathered.kept()
        elif iteration == self.done["rest"] == self.profile.self_training.iterations and len(curve):
            self._match(int(curve["steps"].iloc[-1]))
        for reinforced in (key for key, start in results.STARTS.items() if start == method):
            self.forget(reinforced)  # it went on from the model before

    def _match(self, steps: int) -> None:
        """ReST's last training set, repeated for as many steps as Guided-ReST has had; it is at hand where
        the same window gathered it."""
        if not self.kept:
            self.say(f"{MATCHED}: not made, ReST's last training set is not of this window, or empty")
            return
        iteration = self.profile.self_training.iterations
        tuning = countdown_task.loop_settings(self.profile, "rest").training
        tuning = replace(tuning, steps=steps, precision="bfloat16")
        self.newest[MATCHED], curve = self.trainer.fine_tune(
            self.trainer.rows(self.kept), tuning, f"{self.seed}/rest/{iteration}", MATCHED
        )
        self.rows.add("tuning", curve.assign(method=MATCHED, iteration=iteration))
        write_difference(self._change(MATCHED, iteration), self.sos, self.newest[MATCHED])
        self.window.part(f"training {MATCHED}")

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
                length = self.profile.self_training.row_length
                nats = likelihood(self.sos, self.words, prompts, responses, ended, length)
                self._keep_likelihood(kind, chosen, nats)
        self.window.part("likelihoods")

    def _keep_likelihood(self, kind: str, numbers: Sequence[int], nats: np.ndarray) -> None:
        self.rows.drop("05_likelihood", kind=kind)
        columns = {"kind": kind, "index": numbers, "nll": nats[:, 0], "nll_tokens": nats[:, 1].astype(int)}
        self.rows.add("05_likelihood", pd.DataFrame(columns))
        self.say(f"likelihood {kind}: {nats[:, 0].sum() / nats[:, 1].sum():.4f} nats a token")

    # Measurements

    def measure_all(self) -> None:
        """SoS and both methods after their last iteration: all samples, then greedy."""
        models = [(method, self.newest[method], self.done[method]) for method in reversed(METHODS)]
        models.append(("sos", self.sos, 0))
        if MATCHED in self.newest:
            models.append((MATCHED, self.newest[MATCHED], self.profile.self_training.iterations))
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
        found = selftrain.evaluate(self.task, self.sampler(self.sos, "hints"), asked, 1, starts)
        prompts = [countdown_task.prompt_text(problem) for problem, _ in asked]
        ended, length = ~found["truncated"], self.profile.self_training.row_length
        nats = likelihood(self.sos, self.words, prompts, found["response"], ended, length)
        scored = found.drop(columns="response").assign(nll=nats[:, 0], nll_tokens=nats[:, 1].astype(int))
        scored["steps"], scored["index"] = scored["index"] // len(items), scored["index"] % len(items)
        hinted = scored[(scored["steps"] > 0) & scored["correct"]]
        self._keep_likelihood("hinted", hinted["index"].tolist(), hinted[["nll", "nll_tokens"]].to_numpy())
        self.rows.add("04_hints", scored.assign(method="sos", split="train"))
        self.say(f"hints: {scored.groupby('steps')['correct'].mean().round(3).to_dict()}")
        self.window.part("hints")
