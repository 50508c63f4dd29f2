"""One model on the GPU whose compiled blocks serve every training of a window: fine-tuning and PPO."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from grlib.errors import GrlibError
from grlib.models.llama import bake, load_both
from grlib.one_gpu import utilisation
from grlib.one_gpu.window import DEVICE, GPU, Sampler
from grlib.ppo import loop as ppo
from grlib.ppo import watch as ppo_watch
from grlib.ppo.packed import PackedLearner
from grlib.ppo.rollouts import batch_of
from grlib.profiles import PPO, Profile, Training
from grlib.selftrain import Attempt
from grlib.tasks.countdown.base import new_model
from grlib.tasks.countdown.data import Solved
from grlib.tasks.countdown.task import CountdownTask
from grlib.training.packed import Line, PackedScorer, line_that_fits, lines, train_lines
from grlib.training.rows import Row, make_rows

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

# Steps of PPO after which the last one's time says how long the rest will take; earlier ones compile.
TRIED = 3
MOST = 100_000  # steps, while nobody knows


class NoTime(Exception):
    """The seconds do not hold the steps that were asked for."""


class Trainer:
    """Every fine-tuning starts from the base's weights, every PPO from those that it is given."""

    def __init__(
        self, base: Path, profile: Profile, tokens: int, seed: int, say: Callable[[str], None]
    ) -> None:
        """`tokens` of an optimiser step of fine-tuning; a line of as many, or a part of them that fits the
        card, is one forward pass."""
        self.profile, self.seed, self.say = profile, seed, say
        if profile.self_training.training.lora_rank:
            raise GrlibError(
                f"lora_rank {profile.self_training.training.lora_rank}: the GPU stages train all weights; make it 0"
            )
        self.model, self.words = load_both(base)
        refuse_other_shape(self.model, profile, base)
        self.start = {name: weights.clone() for name, weights in self.model.state_dict().items()}
        self.model.to(DEVICE)
        self.tokens = line_that_fits(self.model, tokens)
        self.together = tokens // self.tokens
        self.net = PackedScorer(self.model, profile.self_training.row_length, compiled=True)

    def rows(self, attempts: Sequence[Attempt]) -> list[Row]:
        """What kept attempts teach."""
        examples = [one for attempt in attempts for one in attempt.examples()]
        prompts, responses, ended = zip(*examples, strict=True) if examples else ((), (), ())
        return make_rows(self.words, prompts, responses, self.profile.self_training.row_length, ended)

    def weights(self) -> dict[str, Any]:
        """The weights as they are now, on the CPU."""
        return {name: weights.cpu() for name, weights in self.model.state_dict().items()}

    def on_cpu(self) -> LlamaForCausalLM:
        """A copy of the model as it is now, for a sampler."""
        copied = bake(new_model(self.profile, self.words))
        copied.load_state_dict(self.weights())
        return copied.eval()

    def fine_tune(
        self, rows: Sequence[Row], settings: Training, seed: str, label: str
    ) -> tuple[LlamaForCausalLM, pd.DataFrame]:
        """A model and its curve. Without rows the model stays the base. As many epochs as the settings say,
        or as `steps` need where they name some."""
        self.model.load_state_dict(self.start)
        planned: list[Line] = []
        most = settings.steps * self.together if rows else 0
        for epoch in itertools.count():
            if len(planned) >= most if settings.steps else epoch == settings.epochs:
                break
            order = list(rows)
            random.Random(f"{seed}/{epoch}").shuffle(order)
            planned += lines(order, self.tokens)
        planned = planned[: most or None]
        whole = -(-len(planned) // self.together)
        curve = train_lines(
            self.net, planned, settings, lambda step: step / whole, progress=self.say, label=label,
            together=self.together,
        )  # fmt: skip
        return self.on_cpu(), curve.assign(steps=whole)

    def reinforce(
        self,
        start: LlamaForCausalLM,
        task: CountdownTask,
        items: Sequence[Solved],
        settings: PPO,
        label: str,
        seconds: float,
        steps: int = 0,
    ) -> tuple[LlamaForCausalLM, pd.DataFrame]:
        """PPO from `start`: a model and its curve; `steps` 0: as many as the seconds allow. NoTime where, on
        a GPU, they do not hold `steps`.

        The rate stays as it is for the first `TRIED` steps, after which it is known how many there will be.
        """
        self.model.load_state_dict(start.state_dict())
        settings = replace(settings, steps=steps or MOST)
        learner = PackedLearner(self.model, settings, self.seed, self.net, self.tokens)
        with utilisation.watched() as busy:
            curve = self._steps(learner, task, items, label, seconds, steps)
        if busy.seen:
            self.say(f"{label}: the GPU computed {busy.percent:.0f} % of the time")
        return self.on_cpu(), pd.DataFrame(curve).assign(method=label, gpu_busy=busy.percent)

    def _steps(
        self,
        learner: PackedLearner,
        task: CountdownTask,
        items: Sequence[Solved],
        label: str,
        seconds: float,
        steps: int,
    ) -> list[dict[str, Any]]:
        shadow, curve = self.on_cpu(), list[dict[str, Any]]()
        concerns, begun = ppo_watch.Concerns(learner.settings.precision), time.monotonic()
        while len(curve) < learner.settings.steps:
            began = time.monotonic()
            curve.append(self._step(learner, shadow, task, items, len(curve), label))
            for concern in concerns.new(curve):
                self.say(f"{label}: warning: {concern}")
            if len(curve) == TRIED and (GPU or not steps):
                each, left = time.monotonic() - began, seconds - (time.monotonic() - begun)
                if steps and (need := each * (steps - TRIED)) > left:
                    raise NoTime(f"{steps - TRIED} more steps take {need:.0f} s, {left:.0f} s are left")
                learner.settings = replace(learner.settings, steps=steps or TRIED + max(0, int(left / each)))
                self.say(f"{label}: {each:.2f} s a step, so {learner.settings.steps} steps")
            if len(curve) % 5 == 0 or len(curve) < TRIED:
                self.say(f"{label}: {ppo_watch.progress_line(curve[-1], learner.settings)}")
        return curve

    def _step(
        self,
        learner: PackedLearner,
        shadow: LlamaForCausalLM,
        task: CountdownTask,
        items: Sequence[Solved],
        step: int,
        label: str,
    ) -> dict[str, Any]:
        began = time.monotonic()
        shadow.load_state_dict(self.weights())
        problems = ppo.problems_of_step(items, learner.settings, self.seed, step)
        chosen = [problem for problem in problems for _ in range(learner.settings.group)]
        policy = Sampler(shadow, self.words, self.profile.sampling.slots, f"{self.seed}/{label}/{step}")
        rollouts = task.rollouts(policy, chosen, self.words, learner.settings)
        sampled = time.monotonic()
        if step >= TRIED:
            learner.set_rate(step)
        row = learner.update(batch_of(rollouts), random.Random(f"{self.seed}/{label}/{step}"))
        spent = time.monotonic() - sampled - row["scoring_s"]
        row |= {"step": step + 1, "sampling_s": sampled - began, "updating_s": spent}
        return row | ppo_watch.watched(rollouts)


def refuse_other_shape(model: LlamaForCausalLM, profile: Profile, base: Path) -> None:
    """GrlibError where a base is not what the profile describes: its copies would not fit it."""
    config = model.config
    found = (config.hidden_size, config.num_hidden_layers, config.max_position_embeddings)
    wanted = (profile.model.hidden, profile.model.layers, profile.self_training.row_length)
    if found[:2] != wanted[:2] or found[2] < wanted[2]:
        raise GrlibError(
            f"{base}: hidden size, layers, positions are {found}, profile {profile.name} needs {wanted}: "
            "name a base of this profile (`--base`), or make one with `python -m grlib gpu base`"
        )
