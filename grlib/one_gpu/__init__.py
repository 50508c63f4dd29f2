"""The paper's Countdown experiments with four numbers on one GPU, in windows of minutes, without papermill.

Each stage reads what the stage before it wrote, and writes its results as soon as it has them. The seconds
bound the training of `base`, and in `iterate` the iterations, the methods that PPO trains and, without
`--steps`, its steps; measurements always run. `iterate` in a folder where an earlier window ended goes on
behind it. `--tiny` rehearses a stage on the CPU at a thousandth of the size.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from grlib import profiles
from grlib.errors import GrlibError
from grlib.profiles import Profile

STAGES = {
    "probe": "what the card can do, and whether the code computes on it what it computes on the CPU",
    "base": "SoS and BC from scratch, by the clock, their examples made meanwhile by all cores",
    "iterate": "ReST and Guided-ReST from that base, PPO from its models, and every measurement",
    "export": "a model of a window as a folder of transformers, with its card; needs no GPU",
    "select": "which explored node a rewrite should replace; also runs without a GPU",
}
ANYWHERE = ("select", "export")  # stages that need no GPU
SECONDS = {"base": 195, "iterate": 430}  # unless others are asked for: windows of four and of seven minutes
REINFORCED = 5  # methods that PPO can train (`reinforcing.METHODS`)
LINE = 131_072  # tokens of a training line of the base, which is one optimiser step


def sizes(tiny: bool) -> tuple[Profile, int]:
    """The profile in sizes that fit windows of minutes, and the tokens of a line."""
    if not tiny:
        fitting = replace(
            profiles.get("gpu"), train_problems=12_000, test_problems=400, hint_problems=2000, ppo_samples=4
        )
        return fitting, LINE
    small = replace(
        profiles.get("laptop"), engine="static", slots=16, train_problems=40, test_problems=4, samples=2,
        iteration_samples=2, hint_problems=4, iterations=2, rewrite_problems=40, ppo_optimizer="adamw",
        ppo_schedule="linear", ppo_problems=8, ppo_minibatch=4, ppo_actor_lr=1e-4,
    )  # fmt: skip
    return small, 4096


def parser() -> argparse.ArgumentParser:
    """The arguments of `python -m grlib gpu`."""
    stages = "\n".join(f"  {name:8s} {about}" for name, about in STAGES.items())
    found = argparse.ArgumentParser(
        prog="python -m grlib gpu", description=f"{__doc__}\n{stages}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    found.add_argument("stage", choices=STAGES)
    found.add_argument("out", type=Path, help="folder for models/, results/ and manifests/")
    found.add_argument(
        "--seconds", type=float, default=0, help="of training (base: 195), of all (iterate: 430)"
    )
    found.add_argument("--problems", type=int, default=2000, help="whose failures are guided (select)")
    found.add_argument(
        "--base", type=Path, help="folder with sos and, if BC is to be measured, bc (default: OUT/models)"
    )
    found.add_argument(
        "--reinforced", type=int, default=2, help="methods that PPO trains (iterate), 0 to 5 of: Guided-ReST"
        ", SoS, ReST, Guided-ReST by tokens, SoS with dense reward",
    )  # fmt: skip
    found.add_argument("--steps", type=int, default=0, help="of PPO (iterate; 0: as the seconds allow)")
    found.add_argument("--method", default="guided_rest", help="whose model is written (export)")
    found.add_argument("--checks", default="", help="of probe, by name, with commas between (default: all)")
    found.add_argument("--seed", type=int, default=0, help="of training problems and of sampling")
    found.add_argument("--tiny", action="store_true", help="a rehearsal, also without a GPU")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run one stage."""
    chosen = parser().parse_args(arguments)
    profile, tokens = sizes(chosen.tiny)
    base = chosen.base or chosen.out / "models"
    if chosen.seconds < 0 or chosen.problems < 1:
        raise GrlibError(f"--seconds {chosen.seconds:g} --problems {chosen.problems}: must be more than 0")
    if not 0 <= chosen.reinforced <= REINFORCED or chosen.steps < 0:
        raise GrlibError(
            f"--reinforced {chosen.reinforced} --steps {chosen.steps}: 0 to {REINFORCED} methods, 0 steps or "
            "more"
        )
    seconds = chosen.seconds or SECONDS.get(chosen.stage, 0)
    if chosen.stage in ("iterate", "select", "export") and not (base / "sos" / "config.json").is_file():
        raise GrlibError(f"{base / 'sos'}: no model there; first `python -m grlib gpu base {chosen.out}`")
    import torch

    if not chosen.tiny and chosen.stage not in ANYWHERE and not torch.cuda.is_available():
        raise GrlibError("no GPU is there; `--tiny` rehearses the same stage on the CPU")
    chosen.out.mkdir(parents=True, exist_ok=True)
    if chosen.stage == "probe":
        from grlib.one_gpu import probing

        probing.probe(chosen.out, profile, tokens, [name for name in chosen.checks.split(",") if name])
    elif chosen.stage == "base":
        from grlib.one_gpu import imitating

        imitating.make_bases(chosen.out, profile, tokens, seconds)
    elif chosen.stage == "export":
        from grlib.one_gpu import exporting

        print(exporting.export(chosen.out, profile, tokens // 2, base, chosen.method))
    elif chosen.stage == "select":
        from grlib.one_gpu import selecting

        selecting.select(chosen.out, profile, base, chosen.problems, chosen.seed)
    else:
        from grlib.one_gpu import iterating

        iterating.iterate(
            chosen.out, profile, tokens // 2, seconds, base, chosen.seed, chosen.reinforced, chosen.steps
        )
    return 0
