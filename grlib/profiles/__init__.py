"""Every size and setting, as dataclasses that nobody changes; `get(name)` reads <name>.toml in this folder.

`smoke`, `laptop`, `overnight`, `gpu` and `paper` are for users; the other files are variants of them. A new
setting is a field here, a value in the files that need another one, and code that reads it.

A file holds what differs from the defaults here, or from the profile that it `extends`. The nested tables
(`Sampling`, `Training`, `SelfTraining`, `PPO`) are what the functions of their rooms take. A task declares
its own settings in its folder: the class `Scale` in `grlib/tasks/<task>/scale.py`, and in `scale.toml` its
values for each profile. They are read as `profile.<task>`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from grlib.errors import GrlibError, nearest

ENGINES = ("batched", "static", "transformers", "vllm")
LEAST_CHUNK = 32  # requests that are worth a worker process
MOST = 10**9  # the largest number of any setting; the smallest is 0
AT_MOST = {"temperature": 100} | dict.fromkeys(("unseen_fraction", "warmup", "gamma", "lam", "betas"), 1)


def _choose(settings: Any, **choices: tuple[str, ...]) -> None:
    for name, allowed in choices.items():
        if getattr(settings, name) not in allowed:
            raise GrlibError(f"{name} is {getattr(settings, name)!r}; choose one of {', '.join(allowed)}")


def _positive(settings: Any, *names: str) -> None:
    for name in names:
        if not 0 < getattr(settings, name) <= MOST:
            raise GrlibError(f"{name}={getattr(settings, name)}: must be positive, at most {MOST:,}")


def _refuse_out_of_range(where: str, name: str, value: Any) -> None:
    """GrlibError for a number, alone or in a tuple, that is negative, too large, infinite or nan."""
    for number in value if isinstance(value, tuple) else (value,):
        most = AT_MOST.get(name, MOST)
        if isinstance(number, int | float) and not 0 <= number <= most:
            raise GrlibError(f"{where}: {name} = {number:.9g}: must be a number from 0 to {most:,}")


@dataclass(frozen=True, kw_only=True)
class Compute:
    """How a training is computed. Only `precision` changes its result."""

    precision: str = "float32"  # or "bfloat16": of products and activations; weights stay float32
    processes: int = 1  # which train together (grlib.training.parallel)
    strategy: str = "ddp"  # or "fsdp": each process holds a part of the weights only
    recompute: bool = False  # gradient checkpointing: less memory for activations, a third more work
    micro_tokens: int = 2048  # padded tokens of one forward pass: bounds memory
    checkpoint_seconds: float = 60.0

    def __post_init__(self) -> None:
        _choose(self, precision=("float32", "bfloat16"), strategy=("ddp", "fsdp"))
        _positive(self, "processes")

    def fixing_the_result(self) -> dict[str, Any]:
        """The settings that the result of a run depends on: they name its checkpoints."""
        pace = {field.name for field in fields(Compute)} - {"precision"}  # these change time and memory
        return {name: value for name, value in asdict(self).items() if name not in pace}


@dataclass(frozen=True)
class Training(Compute):
    """What fixes a training run besides its rows. Defaults: the paper's SFT settings."""

    lr: float = 1e-5
    batch_rows: int = 256
    epochs: int = 1
    steps: int = 0  # number of optimiser steps, over as many epochs as they need; 0: `epochs` fixes it
    optimizer: str = "adamw"  # or "muon": torch.optim.Muon on the block matrices, AdamW on the rest
    schedule: str = "cosine"  # or "trapezoid": constant, then linear to zero over the last fifth
    warmup: float = 0.1
    weight_decay: float = 0.01
    betas: tuple[float, ...] = (0.9, 0.95)
    clip: float = 1.0
    lora_rank: int = 0  # LoRA rank; 0 trains all weights

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.strategy == "fsdp" and self.optimizer == "muon":
            raise GrlibError(
                "optimizer 'muon' with strategy 'fsdp': it needs whole matrices; use adamw or ddp"
            )
        _choose(self, optimizer=("adamw", "muon"), schedule=("cosine", "trapezoid"))
        _positive(self, "lr", "batch_rows", "steps" if self.steps else "epochs")


@dataclass(frozen=True)
class Sampling:
    """How responses are sampled, whatever the task."""

    engine: str = "batched"
    temperature: float = 1.0
    slots: int = 96  # rows in flight at once in one worker
    chunk: int = 256  # requests of one resumable piece of work
    workers: int = 0  # processes on the CPU; 0: one per core
    data_parallel: int = 1  # copies of the model, each on its own GPU (engine "vllm")
    logprobs: bool = False  # keep the new tokens and their log probabilities (not engine "transformers")

    def __post_init__(self) -> None:
        _choose(self, engine=ENGINES)
        _positive(self, "slots", "chunk", "data_parallel")
        for name in ("temperature", "workers"):
            _refuse_out_of_range("sampling", name, getattr(self, name))
        if self.logprobs and (self.engine == "transformers" or self.temperature != 1):
            raise GrlibError(
                f"log probabilities with engine {self.engine!r} at temperature {self.temperature}: only "
                "engines 'batched', 'static' and 'vllm' at temperature 1 give those of the model itself"
            )

    def for_requests(self, count: int) -> Sampling:
        """The same settings for `count` requests, in chunks so small that every copy of the model has work
        (on the CPU: two workers)."""
        copies = {"vllm": self.data_parallel, "static": 1}.get(self.engine, 2)
        return replace(self, chunk=min(self.chunk, max(LEAST_CHUNK, -(-count // copies))))


@dataclass(frozen=True)
class SelfTraining:
    """The loop of ReST and Guided-ReST (Algorithm 2)."""

    train_problems: int = 2000
    iterations: int = 2
    guided_rounds: int = 3  # at most; a solution of n numbers has n-1 steps
    rest_epochs: int = 3
    guided_epochs: int = 2
    training: Training = Training(lr=3e-3, batch_rows=16)  # chosen on validation problems: docs/log.md
    row_length: int = 1056  # tokens of the longest training row: prompt and response
    sampling: Sampling = Sampling()

    def of(self, method: str) -> SelfTraining:
        """The loop of `rest` (no guided rounds) or `guided_rest`, its epochs in `training`."""
        if method not in ("rest", "guided_rest"):
            raise GrlibError(f"method {method!r} is not self-trained; choose rest or guided_rest")
        guided = method == "guided_rest"
        epochs = self.guided_epochs if guided else self.rest_epochs
        rounds = self.guided_rounds if guided else 0
        return replace(self, guided_rounds=rounds, training=replace(self.training, epochs=epochs))


@dataclass(frozen=True)
class PPO(Compute):
    """One run of reinforcement learning. Defaults of the algorithm: the paper's, or its release where the
    text gives none."""

    steps: int = 20
    responses: int = 64  # of one step
    actor_lr: float = 1e-4
    critic_lr: float = 1e-3
    action: str = "operation"  # or "token"
    baseline: str = "value"  # a critic (PPO), or "group": other samples of the same problem (GRPO)
    optimizer: str = "adamw"  # of the policy; or "normed_sgd": steps of length `actor_lr` down the gradient
    schedule: str = "constant"  # of the policy's rate; or "linear": falls to zero
    # "own": a second body, as in the paper; "shared": a head on the policy's states; "placed": a head on
    # these states and the position in the response
    critic: str = "shared"
    reward: str = "outcome"  # or "dense": also for each subgoal reached
    group: int = 8  # samples per problem, whose rewards replace the critic (GRPO)
    minibatch: int = 16  # responses of one optimiser step
    clip: float = 0.2
    dual_clip: float = 3.0
    value_clip: float = 0.5
    gamma: float = 1.0
    lam: float = 1.0
    max_norm: float = 1.0  # of a gradient
    weight_decay: float = 0.01
    sampling: Sampling = Sampling()

    def __post_init__(self) -> None:
        super().__post_init__()
        _choose(
            self,
            action=("operation", "token"),
            baseline=("value", "group"),
            optimizer=("adamw", "normed_sgd"),
            schedule=("constant", "linear"),
            critic=("own", "shared", "placed"),
            reward=("outcome", "dense"),
        )
        if self.baseline == "group" and self.group < 2:
            raise GrlibError(f"group={self.group} with baseline 'group': must be 2 or more; raise it")
        _positive(self, "steps", "responses", "group", "minibatch")
        _positive(self, "actor_lr", "critic_lr", "clip", "dual_clip")

    @property
    def samples_each(self) -> int:
        """Responses per problem in one step: one, or a group (GRPO)."""
        return self.group if self.baseline == "group" else 1

    @property
    def problems(self) -> int:
        """Problems of one step."""
        return max(1, self.responses // self.samples_each)


@dataclass(frozen=True)
class Stage:
    """One part of the imitation curriculum: how many examples with how many numbers, and rows per step."""

    num_count: int
    examples: int
    batch_rows: int


@dataclass(frozen=True)
class Model:
    """A pretrained model by name, or the shape of a Llama that is built from scratch."""

    pretrained: str = ""  # hub name or folder; empty: built from scratch
    hidden: int = 128
    layers: int = 5
    heads: int = 4
    kv_heads: int = 1  # all heads share keys and values: sampling reads a quarter of the memory
    intermediate: int = 352


@dataclass(frozen=True)
class Base:
    """The imitation models that later notebooks start from (notebook 03)."""

    shipped: bool = True  # start from a model of the repository; False: train it from scratch
    folder: str = "base"  # where these models are, in paper_results
    imitated: tuple[str, ...] = ("sos", "bc")
    stages: tuple[Stage, ...] = ()  # the imitation curriculum of SoS; BC gets the same problems
    # BC rows are short: this many times a stage's rows have about as many tokens as its SoS rows
    bc_batch_factor: int = 4
    live_steps: int = 300  # of the full base run, the steps that notebook 03 trains live
    training: Training = Training(
        lr=3e-3, batch_rows=1, optimizer="muon", schedule="trapezoid", warmup=0.02
    )  # `batch_rows` is that of each stage


FOLDER = Path(__file__).parent
TASKS = FOLDER.parent / "tasks"


@lru_cache
def scales() -> dict[str, Any]:
    """Task -> the defaults of its own settings, `Scale()` of `grlib.tasks.<task>.scale`."""
    names = sorted(path.parent.name for path in TASKS.glob("*/scale.py"))
    return {name: import_module(f"grlib.tasks.{name}.scale").Scale() for name in names}


@dataclass(frozen=True)
class Profile(Compute):
    """All settings of one scale. Budgets and lengths in tokens of the model's own tokenizer.

    Its `sampling` and its fields of `Compute` hold for every nested table.
    """

    name: str
    tasks: Mapping[str, Any] = field(default_factory=scales, hash=False)  # read as profile.<task>
    model: Model = Model()
    whole_numbers: int = 256  # numbers below this are single tokens
    budget: int = 1024  # tokens of a whole response, end token included
    # where problems and imitated traces come from: a data set in the authors' layout (hub name or folder) for
    # both, or "" for both: drawn here
    problems_source: str = ""
    imitation_source: str = ""
    sft_examples: int = 2000  # rows that notebook 02 writes for reading and reuse
    base: Base = Base()
    sampling: Sampling = Sampling()
    self_training: SelfTraining = SelfTraining()
    ppo: PPO = PPO()
    ppo_samples: int = 4  # samples per problem for pass@k after reinforcement
    ppo_runs: tuple[str, ...] = (  # of notebook 07
        "sos_ppo", "rest_ppo", "guided_rest_ppo", "guided_rest_ppo_token", "sos_ppo_dense", "guided_rest_grpo"
    )  # fmt: skip
    # evaluation
    valid_problems: int = 100
    test_problems: int = 100  # of each split, sampled
    greedy_problems: int = 0  # of each split, decoded greedily; at least as many as are sampled
    samples: int = 32
    iteration_samples: int = 4  # samples per problem for the accuracy after each iteration
    control_samples: int = 0  # samples per problem of two more controls of self-training; 0: not trained
    hint_problems: int = 100
    hint_samples: int = 4
    rewrite_problems: int = 100

    def __getattr__(self, name: str) -> Any:
        """The settings of a task."""
        tasks = vars(self).get("tasks", {})
        if name not in tasks:
            raise AttributeError(f"profile {vars(self).get('name')!r} has no setting {name!r}")
        return tasks[name]

    @property
    def budgets(self) -> tuple[int, ...]:
        """Token budgets of the accuracy curves: eight equal steps, as 0..4096 by 512 in the paper."""
        return tuple(round(self.budget * i / 8) for i in range(9))

    @property
    def test_list(self) -> int:
        """Problems of each test split that a run draws."""
        return max(self.test_problems, self.greedy_problems)

    def settings(self) -> dict[str, Any]:
        """Setting -> value, tables as dicts; those of a task under its name. Nothing counts as read."""
        found: dict[str, Any] = {**vars(self), **vars(self)["tasks"]}
        del found["tasks"]
        tables = [name for name, value in found.items() if is_dataclass(value)]
        return found | {name: asdict(found[name]) for name in tables}


class Watched(Profile):
    """A profile that records which settings this process reads: a notebook's result depends on them."""

    read: ClassVar[set[str]] = set()

    def __getattribute__(self, name: str) -> Any:
        if name in Profile.__dataclass_fields__ or name in scales():
            Watched.read.add(name)
        return super().__getattribute__(name)


DIAL = ("smoke", "laptop", "overnight", "gpu", "paper")
NO_EVIDENCE = ("smoke", "rehearsal")  # their numbers mean nothing


def get(name: str) -> Profile:
    """The profile called `name`: <name>.toml in this folder."""
    if name not in [path.stem for path in FOLDER.glob("[!_]*.toml")]:  # whatever its type
        raise GrlibError(f"profile {name!r} does not exist; {nearest(name, DIAL)}")
    return load_file(name)


def changed(profile: Profile, **table: Any) -> Profile:
    """The profile with other values, given as in its TOML file: `changed(p, sampling={"slots": 4})`."""
    return shared(_with(profile, table, "changes"))


# The names that notebooks use, and where the value is: `test_problems`, `iterations` (of `self_training`),
# `ppo_steps` (of `ppo`).
SIZES = {field.name: ("self_training", field.name) for field in fields(SelfTraining)}
SIZES |= {f"ppo_{field.name}": ("ppo", field.name) for field in fields(PPO)}
SIZES |= {field.name: ("", field.name) for field in fields(Profile)}


def with_sizes(profile: Profile, sizes: Mapping[str, Any]) -> Profile:
    """The profile with other sizes; 0 and "" keep the profile's value.

    GrlibError for a name that is not in `SIZES`, or a wrong value.
    """
    for name, value in sizes.items():
        if name not in SIZES:
            raise GrlibError(f"size {name!r} is unknown; {nearest(name, sorted(SIZES))}")
        if value not in (0, ""):
            part, field = SIZES[name]
            table = {part: {field: value}} if part else {field: value}
            profile = _with(profile, table, f"size {name}")
    return profile


def sources(name: str) -> dict[str, str]:
    """Setting -> source of its value, the comment beside it; {} for all profiles but `paper`.

    The key of a nested setting is <table>.<setting>, that of a whole table is its name.
    """
    profile = get(name)
    if name != "paper":
        return {}
    texts = [(FOLDER / "paper.toml").read_text(encoding="utf-8")]
    for task in profile.tasks:
        text = (TASKS / task / "scale.toml").read_text(encoding="utf-8")
        texts.append(re.sub(r"^\[paper\b", f"[{task}", text, flags=re.MULTILINE))
    found, table = dict[str, str](), ""
    for line in "\n".join(texts).splitlines():
        if heading := re.match(r"\[([\w.]+)\]", line):
            table = f"{heading[1]}."
        key = heading[1] if heading else table + line.partition("=")[0].strip()
        comment = line.partition("  # ")[2]
        if comment:
            found[key] = comment
    names = profile.settings().keys() - {"name"}
    found = {key: comment for key, comment in found.items() if key.partition(".")[0] in names}
    return dict.fromkeys(names, "not stated in the paper: our choice") | found


@lru_cache
def load_file(name: str) -> Profile:
    """The profile in <name>.toml; unlike `get`, also one that only others extend."""
    return shared(_with(Profile(name), _table(name), f"{name}.toml"))


def _table(name: str) -> dict[str, Any]:
    """The TOML table of a profile, over that of the profile that it extends."""
    table = _read(FOLDER / f"{name}.toml")
    parent = table.pop("extends", "")
    tasks = {task: _read(TASKS / task / "scale.toml").get(name, {}) for task in scales()}
    return _over(_over(_table(parent), tasks) if parent else tasks, table)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise GrlibError(f"{path}: {error}; correct the line") from error


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two tables as one; where both have a value, that of `above`."""
    nested = {
        key: _over(below[key], value) for key, value in above.items() if key in below and type(value) is dict
    }
    return {**below, **above, **nested}


def shared(profile: Profile) -> Profile:
    """The profile with its `sampling` and its fields of `Compute` in every nested table that has them."""
    compute = {field.name: getattr(profile, field.name) for field in fields(Compute)}

    def within(settings: Any) -> Any:
        changes = {
            field.name: within(value)
            for field in fields(settings)
            if is_dataclass(value := getattr(settings, field.name))
        }
        changes |= {"sampling": profile.sampling} if "sampling" in changes else {}
        return replace(settings, **changes, **compute if isinstance(settings, Compute) else {})

    found: Profile = within(profile)
    return replace(found, tasks={name: within(scale) for name, scale in found.tasks.items()})


def _with(settings: Any, table: Mapping[str, Any], where: str) -> Any:
    """Settings with the values of a TOML table; GrlibError for a name, type or number that does not fit."""
    if not isinstance(table, Mapping):
        raise GrlibError(f"{where} = {table!r}: must be a table of settings, name = value")
    tasks = getattr(settings, "tasks", {})
    known = sorted({field.name for field in fields(settings)} - {"name", "tasks"} | set(tasks))
    values: dict[str, Any] = {}
    for name, value in table.items():
        if name not in known:
            raise GrlibError(f"{where}: setting {name!r} is unknown; {nearest(name, known)}")
        before = getattr(settings, name)
        if name == "stages":
            value = tuple(_with(Stage(0, 0, 0), row, f"{where}, stages") for row in value)
        elif is_dataclass(before):
            value = _with(before, value, f"{where}, {name}")
        elif isinstance(value, list):
            value = tuple(value)
        if type(value) is not type(before) and (type(before), type(value)) != (float, int):
            raise GrlibError(
                f"{where}: {name} = {value!r} must be of type {type(before).__name__}, as {before!r} is"
            )
        _refuse_out_of_range(where, name, value)
        values[name] = float(value) if isinstance(before, float) else value
    if changed_tasks := {name: values.pop(name) for name in tasks if name in values}:
        values["tasks"] = {**tasks, **changed_tasks}
    return replace(settings, **values)
