"""What the stages share: the clock, the device, and a policy that samples in this process."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from grlib.profiles import Profile
from grlib.runs import files as artefacts
from grlib.runs import provenance
from grlib.sampling import pool as sampling

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")


# So many times the slots, where there are so many requests a slot: a step then costs less a row.
WIDER, MANY = 4, 8
MODEL = ("hidden", "layers", "heads", "kv_heads", "intermediate", "whole_numbers", "budget")
GOES_ON = (
    "iterate",
    "reinforce",
    "probe",
)  # stages that find out what an earlier window did, and go on behind it
USED = {  # fields of the profile that a stage depends on; None: all
    "probe": (*MODEL, "slots"),
    "base": (*MODEL, "task", "base_optimizer", "base_schedule", "base_warmup", "base_lr"),
    "select": ("task", "budget", "guided_rounds", "rewrite_problems", "slots"),
    "iterate": None,
    "reinforce": None,
}


class Window:
    """The seconds of one stage, and what its parts took."""

    def __init__(self, stage: str, out: Path, profile: Profile, seed: int = 0, **given: Any) -> None:
        """`given`: the arguments of the stage, for its manifest; `seconds` among them bounds it."""
        self.stage, self.out, self.profile, self.seed, self.given = stage, out, profile, seed, given
        self.seconds = float(given.get("seconds", 0))
        self.manifest = self._new_manifest()
        self.began = self.last = time.monotonic()
        self.parts: dict[str, float] = {}

    def left(self) -> float:
        """Seconds until the stage must be over."""
        return self.seconds - (time.monotonic() - self.began)

    def say(self, line: str) -> None:
        """A line of progress, after the seconds so far."""
        print(f"[{time.monotonic() - self.began:6.1f} s] {line}", flush=True)

    def part(self, name: str) -> None:
        """What was done since the last part belongs to `name`; the manifest is written anew."""
        now = time.monotonic()
        self.parts[name] = self.parts.get(name, 0.0) + now - self.last
        self.last = now
        self.write_manifest()

    def write_manifest(self) -> None:
        """manifests/<stage>.json, of a stage that goes on <stage>_2.json, ...: settings, device, versions,
        and the seconds of every part."""
        settings, used = asdict(self.profile), USED[self.stage]
        manifest = {
            "schema": provenance.MANIFEST_SCHEMA,
            "notebook": f"one_gpu_{self.stage}",
            "profile": self.profile.name,
            "seeds": [self.seed],
            "parameters": {name: str(value) for name, value in self.given.items()},
            "settings": {name: settings[name] for name in used} if used else settings,
            **provenance.git_state(),
            "versions": provenance.versions(),
            "device": provenance.device(),
            "parts": [[name, round(spent, 1)] for name, spent in self.parts.items()],  # in their order
            "wall_seconds": round(time.monotonic() - self.began, 1),
        }
        artefacts.write_json(self.manifest, manifest)

    def _new_manifest(self) -> Path:
        """Where the manifest goes: a stage that goes on leaves those of its earlier windows."""
        first = self.out / "manifests" / f"{self.stage}.json"
        if self.stage not in GOES_ON or not first.exists():
            return first
        names = (first.with_name(f"{self.stage}_{number}.json") for number in itertools.count(2))
        return next(name for name in names if not name.exists())


class Sampler:
    """A policy that samples in this process from a model on the CPU, which the sampler copies; each call has
    a seed of its own."""

    def __init__(
        self,
        model: LlamaForCausalLM,
        words: PreTrainedTokenizerFast,
        slots: int,
        seed: str,
        temperature: float = 1.0,
    ) -> None:
        self.model, self.words, self.seed, self.times = model, words, seed, itertools.count()
        engine = "static" if GPU else "batched"
        self.settings = sampling.Sampling(engine, temperature, slots, logprobs=temperature == 1)

    def __call__(self, requests: Sequence[sampling.Request]) -> list[sampling.Sampled]:
        return sampling.by_number(self.as_they_come(requests), len(requests))

    def as_they_come(self, requests: Sequence[sampling.Request]) -> Iterator[tuple[int, sampling.Sampled]]:
        """The answers with the numbers of their requests, in the order in which they are finished."""
        seed = random.Random(f"{self.seed}/{next(self.times)}").getrandbits(31)
        settings = self.settings
        if len(requests) >= MANY * settings.slots:
            settings = replace(settings, slots=WIDER * settings.slots)
        return sampling.answers(self.model, self.words, requests, settings, seed)
