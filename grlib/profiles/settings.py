"""Every size and setting, as frozen tables, and the strict loader of the profiles' TOML files.

A file holds what differs from the defaults here, or from the profile that it `extends`.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from grlib.errors import GrlibError


@dataclass(frozen=True)
class CountdownSettings:
    """The size of the task: which problems are drawn and which searchers write the traces."""

    num_count: int = 4
    max_number: int = 99
    target_low: int = 10
    target_high: int = 100
    unseen_fraction: float = 0.1
    heuristics: tuple[str, ...] = ("sum", "mult")
    dfs_widths: tuple[int | None, ...] = (None,)  # None: no cap, as in the reference
    bfs_beams: tuple[int, ...] = (1, 2, 3, 4, 5)
    target_seed: int = 0  # one split for every seed of a run: a shipped base has seen its "seen" targets
    reserved_test: int = 2000  # problems of each test list that no training set may hold
    reserved_valid: int = 1000


@dataclass(frozen=True)
class Stage:
    """One part of the imitation curriculum: how many examples with how many numbers, and rows of a step."""

    num_count: int
    examples: int
    batch_rows: int


@dataclass(frozen=True)
class RepairScale:
    """The code self-repair part of a profile."""

    pretrained: str = ""  # package, folder or hub name (grlib.models.pretrained); empty: a model from scratch
    budget: int = 192  # tokens of one answer, end token included
    row_length: int = 1536  # tokens of a whole episode
    seconds: float = 0.3  # that one test may take
    # the base (what a repair model imitates first)
    base_problems: int = 800  # what the base imitates: so many problems,
    base_episodes: int = 16  # each in so many episodes with other words, inputs and bugs,
    base_epochs: int = 2  # 0: a pretrained model as it is
    base_batch_rows: int = 16
    base_lr: float = 3e-3
    valid_problems: int = 100
    # self-training
    train_problems: int = 400  # of an iteration, none of which the base has seen
    episodes: int = 2  # of each of them
    iterations: int = 3
    guided_rounds: int = 3
    lr: float = 1e-3
    lora_rank: int = 0  # of adapters trained in the weights' stead; 0: all weights
    batch_rows: int = 16
    rest_epochs: int = 2
    guided_epochs: int = 2
    learn_from: str = "last"  # of a kept episode: the last answer (the paper's text), or "all" (its code)
    # evaluation
    near_problems: int = 64
    far_problems: int = 32
    samples: int = 32
    # where problems come from: "families" (generated), "humaneval", a folder or a hub name
    train_source: str = "families"
    near_source: str = "families"
    far_source: str = "families"


@dataclass(frozen=True)
class Profile:
    """All settings of one scale. Budgets and lengths in tokens of the model's own tokenizer."""

    name: str
    task: CountdownSettings
    # the model and its base (notebook 03)
    pretrained: str = (
        ""  # hub name or folder of a pretrained model; empty: built from scratch with the sizes below
    )
    hidden: int = 128
    layers: int = 5
    heads: int = 4
    kv_heads: int = 1  # all heads share keys and values: sampling reads a quarter of the memory
    intermediate: int = 352
    whole_numbers: int = 256  # numbers below this are single tokens
    shipped_base: bool = True  # start from a model of the repository unless told to train it from scratch
    base_folder: str = "base"  # of paper_results: where such models are
    imitated: tuple[str, ...] = ("sos", "bc")  # the base models of notebook 03
    stages: tuple[Stage, ...] = ()  # the imitation curriculum of SoS; BC gets the same problems
    bc_batch_factor: int = (
        4  # BC rows are short: so many times the stage's rows make a step of as many tokens
    )
    base_optimizer: str = "muon"
    base_schedule: str = "trapezoid"
    base_warmup: float = 0.02
    base_lr: float = 3e-3
    base_epochs: int = 1
    live_steps: int = 300  # steps of the full base run that notebook 03 trains live
    # where problems and imitated traces come from: a data set in the authors' layout (hub name or folder) for
    # both, or "" for both: drawn here
    problems_source: str = ""
    imitation_source: str = ""
    sft_examples: int = 2000  # rows that notebook 02 writes for reading and reuse
    # sampling
    engine: str = "batched"
    temperature: float = 1.0
    budget: int = 1024  # tokens of a whole response, end token included
    tensor_parallel: int = 1  # GPUs that hold one copy of the model (engine vllm)
    data_parallel: int = 1  # copies of the model, each on its own GPUs (engines vllm, static)
    resident: bool = False  # models and engine stay in the notebook's process, on the card if there is one
    slots: int = 96  # rows in flight at once in one worker
    chunk: int = 256  # requests of one resumable piece of work
    # training, by what means
    precision: str = "float32"
    processes: int = 1  # that train together (grlib.training.parallel)
    strategy: str = "ddp"  # or "fsdp": each of them holds a part of the weights only
    recompute: bool = False  # activations are computed again in the backward pass: less memory
    micro_tokens: int = 2048  # padded tokens of one forward pass
    lora_rank: int = 0  # of adapters trained in the weights' stead where a saved model is fine-tuned; 0: all
    # self-training (notebooks 05, 06)
    train_problems: int = 2000
    valid_problems: int = 100
    iterations: int = 2
    guided_rounds: int = 3  # at most; a solution of n numbers has n-1 steps
    lr: float = 3e-3  # chosen on validation problems: docs/log.md
    batch_rows: int = 16
    rest_epochs: int = 3
    guided_epochs: int = 2
    # reinforcement learning (notebook 07); one run, from each starting model
    ppo_steps: int = 20
    ppo_problems: int = 64  # problems of a step
    ppo_minibatch: int = 16  # responses of one optimiser step
    ppo_group: int = 8  # samples of a problem where they take the critic's place (GRPO)
    ppo_optimizer: str = "adamw"  # of the policy; or "normed_sgd" (grlib.ppo.settings)
    ppo_schedule: str = "constant"  # of the policy's rate; or "linear": falls to zero
    ppo_critic: str = "shared"  # reads the policy's states; "placed", "own": see grlib.ppo.learner
    ppo_actor_lr: float = 1e-4
    ppo_critic_lr: float = 1e-3
    ppo_samples: int = 4  # samples a problem for pass@k after reinforcement
    repair: RepairScale = RepairScale()
    # evaluation
    test_problems: int = 100
    samples: int = 32
    iteration_samples: int = 4  # samples a problem for the accuracy after each iteration
    hint_problems: int = 100
    hint_samples: int = 4
    rewrite_problems: int = 100

    def __post_init__(self) -> None:
        if self.resident and (self.processes > 1 or self.data_parallel > 1 or self.engine == "vllm"):
            raise GrlibError(
                f"profile {self.name}: resident with processes={self.processes}, data_parallel="
                f"{self.data_parallel}, engine {self.engine!r}: one process holds one copy of the model and "
                "trains it; use 1, 1 and 'static' or 'batched', or resident = false"
            )

    @property
    def row_length(self) -> int:
        """Longest training row: budget and prompt."""
        return self.budget + (1024 if self.pretrained else 32)

    @property
    def budgets(self) -> tuple[int, ...]:
        """Token budgets of the accuracy curves: eight equal steps, as 0..4096 by 512 in the paper."""
        return tuple(round(self.budget * i / 8) for i in range(9))


# Profiles are files


FOLDER = Path(__file__).parent
DIAL = ("smoke", "laptop", "gpu", "paper")
NO_EVIDENCE = ("smoke", "rehearsal")  # their numbers mean nothing


def get(name: str) -> Profile:
    """The profile called `name`: <name>.toml in this folder."""
    files = {path.stem for path in FOLDER.glob("[!_]*.toml")}
    if name not in files:
        near = difflib.get_close_matches(str(name), DIAL, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise GrlibError(f"profile {name!r} does not exist{hint}; choose one of {', '.join(DIAL)}")
    return _load(name)


def sources(name: str) -> dict[str, str]:
    """Setting -> where its value comes from, the comment beside it; only the profile paper has them."""
    if get(name).name != "paper":
        return {}
    found = re.findall(r"^\[?(\w+)\b.*?  # (.+)$", (FOLDER / "paper.toml").read_text(), re.MULTILINE)
    told = dict(found)
    names = [field.name for field in fields(Profile) if field.name != "name"]
    return {field: told.get(field, "not stated in the paper: our choice") for field in names}


@lru_cache
def _load(name: str) -> Profile:
    path = FOLDER / f"{name}.toml"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise GrlibError(f"{path}: {error}; correct the line") from error
    parent = table.pop("extends", "")
    start = _load(parent) if parent else Profile(name, CountdownSettings())
    return replace(_with(start, table, path.name), name=name)


def _with(settings: Any, table: Mapping[str, Any], where: str) -> Any:
    """Settings with the values of a TOML table; GrlibError for a name or a type that does not fit."""
    known, values = {field.name for field in fields(settings)}, dict[str, Any]()
    for name, value in table.items():
        if name not in known or name == "name":
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(known))}"
            raise GrlibError(f"{where}: setting {name!r} is unknown; {hint}")
        before = getattr(settings, name)
        if name == "stages":
            value = tuple(_with(Stage(0, 0, 0), row, f"{where}, stages") for row in value)
        elif name == "dfs_widths":
            value = tuple(width or None for width in value)  # 0: no cap
        elif is_dataclass(before):
            value = _with(before, value, f"{where}, {name}")
        elif isinstance(value, list):
            value = tuple(value)
        if type(value) is not type(before) and (type(before), type(value)) != (float, int):
            raise GrlibError(
                f"{where}: {name} = {value!r} must be a {type(before).__name__}, as {before!r} is"
            )
        values[name] = float(value) if isinstance(before, float) else value
    return replace(settings, **values)


PRETRAINED_REPAIR: RepairScale = _load("_pretrained").repair
PROFILES = {name: get(name) for name in DIAL}
LAPTOP, REHEARSAL, GPU_BASE = get("laptop"), get("rehearsal"), get("gpu_base")
