"""What iterations and PPO of a window share: the base, the newest models, the rows, the measurements."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from grlib import selftrain
from grlib.errors import GrlibError
from grlib.models.llama import load_both
from grlib.one_gpu.learning import Trainer
from grlib.one_gpu.stored import Stored
from grlib.one_gpu.window import Sampler, Window
from grlib.results import rows as results
from grlib.runs import files as artefacts
from grlib.tasks.countdown import task as countdown_task
from grlib.tasks.countdown.data import make_splits

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

GREEDY = 0.0
RECORDED_TESTS = 400  # test problems of a split, for which the seconds of measuring are known


class Work:
    """One window's work: the base, the newest model of each method, and the rows of every kind of result."""

    def __init__(self, window: Window, base: Path, tokens: int) -> None:
        self.window, self.profile, self.seed, self.say = window, window.profile, window.seed, window.say
        drawn = make_splits(self.profile.task, 0, 0, self.profile.test_problems)
        self.tests = {"seen": drawn.seen, "unseen": drawn.unseen}
        self.task = countdown_task.CountdownTask(
            self.profile.budget, rounds=self.profile.self_training.guided_rounds
        )
        self.base = base / "sos"
        _refuse_another_run(window, self.base)
        self.sos, self.words = load_both(self.base)
        self.trainer = Trainer(self.base, self.profile, tokens, self.seed, self.say)
        self.newest: dict[str, LlamaForCausalLM] = {"sos": self.sos}
        self.done = {"sos": self.profile.self_training.iterations}  # iterations of each method
        self.rows = Stored(window.out / "results")
        self.say(f"at most {window.seconds:.0f} s, lines of {self.trainer.tokens:,} tokens")

    def sampler(self, model: LlamaForCausalLM, name: str, temperature: float = 1.0) -> Sampler:
        """A policy with a seed of this name."""
        return Sampler(model, self.words, self.profile.sampling.slots, f"{self.seed}/{name}", temperature)

    def iteration_of(self, method: str) -> int:
        """The iteration that rows of a method's newest model bear: 0 of what no iteration made."""
        return 0 if method in ("sos", "bc") else self.done[method]

    def last(self) -> float:
        """Seconds of what is to follow PPO."""
        return 0.0

    def forget(self, reinforced: str) -> None:
        """Take away what PPO of a method left: its rows and its model."""
        for stem in ("07_curve", "07_eval", "07_greedy"):
            self.rows.drop(stem, method=reinforced)
        (self.window.out / f"{reinforced}.safetensors").unlink(missing_ok=True)

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
        found = selftrain.evaluate(self.task, self.sampler(model, name, temperature), problems, samples)
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


def notebook_of(method: str) -> str:
    """The number of the notebook whose results hold a method."""
    return "07" if method in results.STARTS else "03" if method in ("sos", "bc") else "06"


def _refuse_another_run(window: Window, base: Path) -> None:
    """GrlibError where the folder holds another run, of whatever stage: its rows and ours would not belong
    together."""
    profile = window.profile
    refuse_other(
        window.out,
        {
            "base": artefacts.digest(base), "seed": window.seed, "profile": profile.name,
            "train_problems": profile.self_training.train_problems, "test_problems": profile.test_problems,
            "ppo_critic": profile.ppo.critic,
        },
    )  # fmt: skip


def refuse_other(out: Path, ours: dict[str, Any]) -> None:
    """GrlibError where what is known of the run in a folder differs from `ours`; else that is known, too."""
    path = out / "run.json"
    theirs = artefacts.read_json(path) if path.is_file() else {}
    if differing := [name for name in ours if theirs.get(name, ours[name]) != ours[name]]:
        found = ", ".join(f"{name} {theirs[name]} (asked: {ours[name]})" for name in differing)
        raise GrlibError(f"{out} holds a run of {found}: ask for the same, or name an empty folder")
    artefacts.write_json(path, theirs | ours)
