"""Every size and setting, as frozen tables, and the strict loader of the profiles' TOML files.

A file holds what differs from the defaults here, or from the profile that it `extends`. The nested tables
(`Sampling`, `Training`, `SelfTraining`, `PPO`) are what the functions of their rooms take.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from grlib.errors import GrlibError

PRECISIONS, STRATEGIES = ("float32", "bfloat16"), ("ddp", "fsdp")
ENGINES = ("batched", "static", "transformers", "vllm")
ON_GPUS = ("vllm", "static")  # engines with processes of their own, a GPU or more each
LEAST_CHUNK = 32  # requests that are worth a worker process


@dataclass(frozen=True, kw_only=True)
class Compute:
    """How a training is computed. Only `precision` changes what comes out."""

    precision: str = "float32"  # or "bfloat16": of products and activations; weights stay float32
    processes: int = 1  # that train together (grlib.training.parallel)
    strategy: str = "ddp"  # or "fsdp": each process holds a part of the weights only
    recompute: bool = False  # gradient checkpointing: less memory for activations, a third more work
    micro_tokens: int = 2048  # padded tokens of one forward pass: bounds memory
    checkpoint_seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS or self.strategy not in STRATEGIES:
            raise GrlibError(
                f"precision {self.precision!r}, strategy {self.strategy!r}: use {' or '.join(PRECISIONS)}, "
                f"{' or '.join(STRATEGIES)}"
            )
        if self.processes < 1:
            raise GrlibError(f"processes={self.processes}: must be 1 or more")


@dataclass(frozen=True)
class Training(Compute):
    """What fixes a training run besides its rows. Defaults: the paper's SFT settings."""

    lr: float = 1e-5
    batch_rows: int = 256
    epochs: int = 1
    steps: int = 0  # stop after so many steps, repeating epochs as needed; 0: as many as `epochs` gives
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
        if self.optimizer not in ("adamw", "muon") or self.schedule not in ("cosine", "trapezoid"):
            raise GrlibError(
                f"optimizer {self.optimizer!r}, schedule {self.schedule!r}: use adamw or muon, "
                "cosine or trapezoid"
            )
        if self.lr <= 0 or self.batch_rows < 1 or (self.epochs < 1 and self.steps < 1):
            raise GrlibError(
                f"lr {self.lr}, batch_rows {self.batch_rows}, epochs {self.epochs}: all must be positive"
            )


@dataclass(frozen=True)
class Sampling:
    """How to sample, whatever is sampled."""

    engine: str = "batched"
    temperature: float = 1.0
    slots: int = 96  # rows in flight at once in one worker
    chunk: int = 256  # requests of one resumable piece of work
    workers: int = 0  # processes; 0: one per core
    tensor_parallel: int = 1  # GPUs that hold one copy of the model (engine "vllm")
    data_parallel: int = 1  # copies of the model, each on its own GPUs (engines "vllm" and "static")
    resident: bool = False  # sample in this process, which keeps model and engine; the responses are the same
    logprobs: bool = False  # keep the new tokens and their log probabilities (not engine "transformers")

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise GrlibError(f"engine {self.engine!r} is not available; choose one of {', '.join(ENGINES)}")
        if self.temperature < 0 or self.slots < 1 or self.chunk < 1 or self.workers < 0:
            raise GrlibError(f"{self}: temperature and workers must be 0 or more, slots and chunk 1 or more")
        if self.tensor_parallel < 1 or self.data_parallel < 1:
            raise GrlibError(f"{self}: tensor_parallel and data_parallel must be 1 or more")
        if self.logprobs and (self.engine == "transformers" or self.temperature != 1):
            raise GrlibError(
                f"log probabilities with engine {self.engine!r} at temperature {self.temperature}: only "
                "engines 'batched', 'static' and 'vllm' at temperature 1 give those of the model itself"
            )

    def for_requests(self, count: int) -> Sampling:
        """The same for a known, small number of requests, which the copies of the model share: two workers on
        the CPU."""
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


PPO_CHOICES = {
    "action": ("operation", "token"),
    "baseline": ("value", "group"),
    "optimizer": ("adamw", "normed_sgd"),
    "schedule": ("constant", "linear"),
    "critic": ("own", "shared", "placed"),
    "reward": ("outcome", "dense"),
}


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
    # "own": with a body of its own, as the paper's; "shared": reads the policy's states; "placed": these, and
    # how far the response has come
    critic: str = "shared"
    reward: str = "outcome"  # or "dense": also for each subgoal reached
    group: int = 8  # samples per problem where they take the critic's place (GRPO)
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
        for name, allowed in PPO_CHOICES.items():
            if getattr(self, name) not in allowed:
                raise GrlibError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(allowed)}")
        if self.baseline == "group" and self.group < 2:
            raise GrlibError(f"group={self.group} with baseline 'group': must be 2 or more; raise it")
        positive = ("steps", "responses", "group", "minibatch", "actor_lr", "critic_lr", "clip", "dual_clip")
        for name in positive:
            if getattr(self, name) <= 0:
                raise GrlibError(f"{name}={getattr(self, name)}: must be positive")
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

    shipped: bool = True  # start from a model of the repository unless told to train it from scratch
    folder: str = "base"  # of paper_results: where such models are
    imitated: tuple[str, ...] = ("sos", "bc")
    stages: tuple[Stage, ...] = ()  # the imitation curriculum of SoS; BC gets the same problems
    # BC rows are short: so many times the stage's rows make a step of as many tokens
    bc_batch_factor: int = 4
    live_steps: int = 300  # steps of the full base run that notebook 03 trains live
    training: Training = Training(
        lr=3e-3, batch_rows=1, optimizer="muon", schedule="trapezoid", warmup=0.02
    )  # the rows of a step are each stage's own


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
    seconds: float = 0.3  # that one test may take
    # the base (what a repair model imitates first)
    base_problems: int = 800  # what the base imitates: so many problems (0: a pretrained model as it is),
    base_episodes: int = 16  # each in so many episodes with other words, inputs and bugs
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
    episodes: int = 2  # of each problem
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
    """A profile that notes which settings this process asks it for: what a notebook's result depends on."""

    read: ClassVar[set[str]] = set()

    def __getattribute__(self, name: str) -> Any:
        if name in Profile.__dataclass_fields__:
            Watched.read.add(name)
        return super().__getattribute__(name)


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
    return load_file(name)


def changed(profile: Profile, **table: Any) -> Profile:
    """The profile with other values, given as in its TOML file: `changed(p, sampling={"slots": 4})`."""
    return shared(_with(profile, table, "changes"))


def with_sizes(profile: Profile, sizes: Mapping[str, Any]) -> Profile:
    """The profile with other sizes, named as notebooks name them: `test_problems`, `iterations` (of
    `self_training`), `ppo_steps` (of `ppo`); GrlibError for an unknown name or a wrong value."""
    for name, value in sizes.items():
        part, field = _place(profile, name)
        inner: Any = getattr(profile, part) if part else profile
        default = getattr(inner, field)
        kinds = (int, float) if type(default) is float else (type(default),)
        if type(value) not in kinds or (not isinstance(value, str) and value < 0):
            wanted = f"must be a {type(default).__name__} >= 0, as the profile's {default!r}"
            raise GrlibError(f"{name}={value!r}: {wanted}")
        if value:
            table = {part: {field: value}} if part else {field: value}
            profile = _with(profile, table, name)
    return profile


def _place(profile: Profile, name: str) -> tuple[str, str]:
    """The nested table ("": none) and the field that a size's name means."""
    own = {field.name: ("", field.name) for field in fields(profile)}
    nested = {field.name: ("self_training", field.name) for field in fields(profile.self_training)}
    nested |= {f"ppo_{field.name}": ("ppo", field.name) for field in fields(profile.ppo)}
    known = nested | own
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(known))}"
        raise GrlibError(f"size {name!r} is unknown; {hint}")
    return known[name]


def sources(name: str) -> dict[str, str]:
    """Setting -> where its value comes from, the comment beside it; only the profile paper has them.

    A setting of a nested table is called <table>.<setting>, a whole table by its name.
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
    """The profile in <name>.toml, also one that only others extend."""
    found = _with(Profile(name), _table(name), f"{name}.toml")
    return shared(found)


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
    """The profile's `sampling` and fields of `Compute`, in every nested table that has them."""
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
