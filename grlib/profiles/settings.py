"""Every size and setting, as frozen tables, and the strict loader of the profiles' TOML files.

A file holds what differs from the defaults here, or from the profile that it `extends`. The nested tables
(`Sampling`, `Training`, `SelfTraining`, `PPO`) are what the functions of their rooms take.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from grlib.errors import GrlibError, nearest

ENGINES = ("batched", "static", "transformers", "vllm")
ON_GPUS = ("vllm", "static")  # engines with processes of their own, a GPU or more each
LEAST_CHUNK = 32  # requests that are worth a worker process


def _choose(settings: Any, **choices: tuple[str, ...]) -> None:
    for name, allowed in choices.items():
        if getattr(settings, name) not in allowed:
            raise GrlibError(f"{name} is {getattr(settings, name)!r}; choose one of {', '.join(allowed)}")


def _positive(settings: Any, *names: str) -> None:
    for name in names:
        if getattr(settings, name) <= 0:
            raise GrlibError(f"{name}={getattr(settings, name)}: must be positive")


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
    tensor_parallel: int = 1  # GPUs that hold one copy of the model (engine "vllm")
    data_parallel: int = 1  # copies of the model, each on its own GPUs (engines "vllm" and "static")
    resident: bool = False  # sample in this process, which keeps model and engine; the responses are the same
    logprobs: bool = False  # keep the new tokens and their log probabilities (not engine "transformers")

    def __post_init__(self) -> None:
        _choose(self, engine=ENGINES)
        _positive(self, "slots", "chunk", "tensor_parallel", "data_parallel")
        if self.temperature < 0 or self.workers < 0:
            raise GrlibError(
                f"temperature={self.temperature}, workers={self.workers}: both must be 0 or more"
            )
        if self.logprobs and (self.engine == "transformers" or self.temperature != 1):
            raise GrlibError(
                f"log probabilities with engine {self.engine!r} at temperature {self.temperature}: only "
                "engines 'batched', 'static' and 'vllm' at temperature 1 give those of the model itself"
            )

    def for_requests(self, count: int) -> Sampling:
        """The same settings for `count` requests, in chunks so small that every copy of the model has work
        (on the CPU: two workers)."""
        copies = self.data_parallel if self.engine in ON_GPUS else 2
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
        refuse_uneven(self.processes, "minibatch", self.minibatch)

    @property
    def samples_each(self) -> int:
        """Responses per problem in one step: one, or a group (GRPO)."""
        return self.group if self.baseline == "group" else 1

    @property
    def problems(self) -> int:
        """Problems of one step."""
        return max(1, self.responses // self.samples_each)


def refuse_uneven(processes: int, name: str, rows: int) -> None:
    """GrlibError where a number of processes does not divide the rows of a step, the setting `name`."""
    if rows % processes:
        raise GrlibError(
            f"processes={processes} and {name}={rows}: the processes must divide the rows of a step; change "
            "one of them"
        )


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
class RepairScale:
    """The code self-repair part of a profile."""

    pretrained: str = ""  # package, folder or hub name (grlib.models.pretrained); empty: a model from scratch
    budget: int = 192  # tokens of one answer, end token included
    seconds: float = 0.3  # time limit of one test
    # the base, which imitates repair episodes
    base_problems: int = 60_000  # one episode each for the base to imitate; 0: a pretrained model as it is
    base_training: Training = Training(
        lr=3e-3, batch_rows=16, epochs=2, optimizer="muon", schedule="trapezoid", warmup=0.02
    )
    valid_problems: int = 100
    # self-training, on problems none of which the base has seen
    self_training: SelfTraining = SelfTraining(
        train_problems=400,
        iterations=3,
        rest_epochs=2,
        training=Training(lr=1e-3, batch_rows=16),
        row_length=1536,  # tokens of a whole episode
    )
    episodes: int = 2  # per problem
    learn_from: str = "last"  # of a kept episode: the last answer (the paper's text), or "all" (its code)
    # evaluation
    near_problems: int = 64
    far_problems: int = 32
    deeper_problems: int = 32
    samples: int = 32
    # where problems come from: "compositions" (composed here), "humaneval", a folder or a hub name
    train_source: str = "compositions"
    near_source: str = "compositions"
    far_source: str = "compositions"


@dataclass(frozen=True)
class Profile(Compute):
    """All settings of one scale. Budgets and lengths in tokens of the model's own tokenizer.

    Its `sampling` and its fields of `Compute` hold for every nested table.
    """

    name: str
    task: CountdownSettings = CountdownSettings()
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
    repair: RepairScale = RepairScale()
    # evaluation
    valid_problems: int = 100
    test_problems: int = 100
    samples: int = 32
    iteration_samples: int = 4  # samples per problem for the accuracy after each iteration
    hint_problems: int = 100
    hint_samples: int = 4
    rewrite_problems: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        how = self.sampling
        if how.resident and (self.processes > 1 or how.data_parallel > 1 or how.engine == "vllm"):
            raise GrlibError(
                f"profile {self.name}: resident with processes={self.processes}, data_parallel="
                f"{how.data_parallel}, engine {how.engine!r}: one process holds one copy of the model and "
                "trains it; use 1, 1 and 'static' or 'batched', or resident = false"
            )

    @property
    def budgets(self) -> tuple[int, ...]:
        """Token budgets of the accuracy curves: eight equal steps, as 0..4096 by 512 in the paper."""
        return tuple(round(self.budget * i / 8) for i in range(9))


class Watched(Profile):
    """A profile that records which settings this process reads: a notebook's result depends on them."""

    read: ClassVar[set[str]] = set()

    def __getattribute__(self, name: str) -> Any:
        if name in Profile.__dataclass_fields__:
            Watched.read.add(name)
        return super().__getattribute__(name)


FOLDER = Path(__file__).parent
DIAL = ("smoke", "laptop", "gpu", "paper")
NO_EVIDENCE = ("smoke", "rehearsal")  # their numbers mean nothing


def get(name: str) -> Profile:
    """The profile called `name`: <name>.toml in this folder."""
    if name not in {path.stem for path in FOLDER.glob("[!_]*.toml")}:
        raise GrlibError(f"profile {name!r} does not exist; {nearest(name, DIAL)}")
    return load_file(name)


def changed(profile: Profile, **table: Any) -> Profile:
    """The profile with other values, given as in its TOML file: `changed(p, sampling={"slots": 4})`."""
    return shared(_with(profile, table, "changes"))


def with_sizes(profile: Profile, sizes: Mapping[str, Any]) -> Profile:
    """The profile with other sizes; 0 and "" keep the profile's value.

    Sizes have the names that notebooks use: `test_problems`, `iterations` (of `self_training`), `ppo_steps`
    (of `ppo`). GrlibError for an unknown name or a wrong value.
    """
    places = {field.name: ("self_training", field.name) for field in fields(SelfTraining)}
    places |= {f"ppo_{field.name}": ("ppo", field.name) for field in fields(PPO)}
    places |= {field.name: ("", field.name) for field in fields(Profile)}
    for name, value in sizes.items():
        if name not in places:
            raise GrlibError(f"size {name!r} is unknown; {nearest(name, sorted(places))}")
        if isinstance(value, (int, float)) and value < 0:
            raise GrlibError(f"{name}={value}: must be 0 or more")
        if value not in (0, ""):
            part, field = places[name]
            profile = _with(profile, {part: {field: value}} if part else {field: value}, "sizes")
    return profile


def sources(name: str) -> dict[str, str]:
    """Setting -> source of its value, the comment beside it; {} for all profiles but `paper`.

    The key of a nested setting is <table>.<setting>, that of a whole table is its name.
    """
    if get(name).name != "paper":
        return {}
    found, table = dict[str, str](), ""
    for line in (FOLDER / "paper.toml").read_text(encoding="utf-8").splitlines():
        if heading := re.match(r"\[([\w.]+)\]", line):
            table = f"{heading[1]}."
        key = heading[1] if heading else line.partition("=")[0].strip()
        comment = line.partition("  # ")[2]
        if comment:
            found[key if heading else table + key] = comment
    names = [field.name for field in fields(Profile) if field.name != "name"]
    return dict.fromkeys(names, "not stated in the paper: our choice") | found


@lru_cache
def load_file(name: str) -> Profile:
    """The profile in <name>.toml; unlike `get`, also one that only others extend."""
    return shared(_with(Profile(name), _table(name), f"{name}.toml"))


def _table(name: str) -> dict[str, Any]:
    """The TOML table of a profile, over that of the profile that it extends."""
    path = FOLDER / f"{name}.toml"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise GrlibError(f"{path}: {error}; correct the line") from error
    parent = table.pop("extends", "")
    return _over(_table(parent), table) if parent else table


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
    return found


def _with(settings: Any, table: Mapping[str, Any], where: str) -> Any:
    """Settings with the values of a TOML table; GrlibError for a name or a type that does not fit."""
    known = sorted(field.name for field in fields(settings) if field.name != "name")
    values: dict[str, Any] = {}
    for name, value in table.items():
        if name not in known:
            raise GrlibError(f"{where}: setting {name!r} is unknown; {nearest(name, known)}")
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
                f"{where}: {name} = {value!r} must be of type {type(before).__name__}, as {before!r} is"
            )
        values[name] = float(value) if isinstance(before, float) else value
    return replace(settings, **values)
