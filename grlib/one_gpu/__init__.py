"""The paper's Countdown experiments with four numbers on one GPU, in windows of minutes, without papermill.

Each stage reads what the stage before it wrote, and writes its results as soon as it has them. The seconds
bound the training of `base`, and in `iterate` the iterations, the methods that PPO trains and, without
`--steps`, its steps; measurements always run. `iterate` in a folder where an earlier window ended goes on
behind it, and so does `reinforce`. `plan` says beforehand how long `iterate` will take. `--tiny` rehearses
a stage on the CPU at a thousandth of the size.
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
    "reinforce": "PPO alone, from models that are there (--base), and what they solve before and after",
    "plan": "how long iterate will take, by what the record took, and what fits which card; needs no GPU",
    "export": "a model of a window as a folder of transformers, with its card; needs no GPU",
    "select": "which explored node a rewrite should replace; also runs without a GPU",
}
ANYWHERE = ("select", "export", "plan")  # stages that need no GPU
# unless others are asked for: windows of four, seven and ten minutes
SECONDS = {"base": 195, "iterate": 430, "reinforce": 560}
METHODS = ("guided_rest_ppo", "sos_ppo")  # unless others are asked for
LINE = 131_072  # tokens of a training line of the base, which is one optimiser step


def sizes(tiny: bool, train_problems: int = 0, test_problems: int = 0) -> tuple[Profile, int]:
    """The profile in sizes that fit windows of minutes, or in those that are asked for, and the tokens of a
    line."""
    if not tiny:
        fitting = replace(
            profiles.get("gpu"), train_problems=train_problems or 12_000, test_problems=test_problems or 400,
            hint_problems=2000, ppo_samples=4,
        )  # fmt: skip
        return fitting, LINE
    small = replace(
        profiles.get("laptop"), engine="static", slots=16, samples=2,
        train_problems=train_problems or 40, test_problems=test_problems or 4,
        iteration_samples=2, hint_problems=4, iterations=2, rewrite_problems=40, ppo_optimizer="adamw",
        ppo_schedule="linear", ppo_problems=8, ppo_minibatch=4, ppo_actor_lr=1e-4,
    )  # fmt: skip
    return small, 4096


def parser() -> argparse.ArgumentParser:
    """The arguments of `python -m grlib gpu`."""
    stages = "\n".join(f"  {name:9s} {about}" for name, about in STAGES.items())
    found = argparse.ArgumentParser(
        prog="python -m grlib gpu", description=f"{__doc__}\n{stages}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    found.add_argument("stage", choices=STAGES)
    found.add_argument(
        "out", type=Path, nargs="?", help="folder for models/, results/ and manifests/; plan needs none"
    )
    found.add_argument(
        "--seconds", type=float, default=0,
        help="of training (base: 195), of all (iterate: 430, reinforce: 560)",
    )  # fmt: skip
    found.add_argument("--train_problems", type=int, default=0, help="of an iteration (default: 12,000)")
    found.add_argument("--test_problems", type=int, default=0, help="of each split (default: 400)")
    found.add_argument("--problems", type=int, default=2000, help="whose failures are guided (select)")
    found.add_argument(
        "--base", type=Path, help="folder with sos and, if BC is to be measured, bc; for reinforce with what "
        "PPO starts from (default: OUT/models)",
    )  # fmt: skip
    found.add_argument(
        "--methods", default=",".join(METHODS), help="that PPO trains, in their order (default: %(default)s)"
    )
    found.add_argument("--steps", type=int, default=0, help="of PPO (0: as the seconds allow; plan: 25)")
    found.add_argument("--method", default="guided_rest", help="whose model is written (export)")
    found.add_argument("--checks", default="", help="of probe, by name, with commas between (default: all)")
    found.add_argument("--seed", type=int, default=0, help="of training problems and of sampling")
    found.add_argument("--tiny", action="store_true", help="a rehearsal, also without a GPU")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run one stage."""
    chosen = parser().parse_args(arguments)
    methods = [name for name in chosen.methods.split(",") if name]
    if not chosen.out and chosen.stage != "plan":
        raise GrlibError(f"`gpu {chosen.stage}` needs a folder: python -m grlib gpu {chosen.stage} OUT")
    base = chosen.base or (chosen.out or Path()) / "models"
    _check(chosen, methods, base)
    profile, tokens = sizes(chosen.tiny, chosen.train_problems, chosen.test_problems)
    seconds = chosen.seconds or SECONDS.get(chosen.stage, 0)
    if chosen.stage == "plan":
        from grlib.one_gpu import estimating

        print(estimating.plan(profile, methods, chosen.steps or estimating.STEPS))
        return 0
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
        from grlib.one_gpu.iterating import iterate
        from grlib.one_gpu.reinforcing import reinforce_models

        run = iterate if chosen.stage == "iterate" else reinforce_models
        run(chosen.out, profile, tokens // 2, seconds, base, chosen.seed, methods, chosen.steps)
    return 0


def _check(chosen: argparse.Namespace, methods: list[str], base: Path) -> None:
    """GrlibError, before anything is made, where a request cannot be met."""
    from grlib.results.rows import STARTS

    if chosen.seconds < 0 or chosen.problems < 1:
        raise GrlibError(f"--seconds {chosen.seconds:g} --problems {chosen.problems}: must be more than 0")
    counts = {name: getattr(chosen, name) for name in ("train_problems", "test_problems", "steps")}
    for name, number in counts.items():
        if number < 0:
            raise GrlibError(f"--{name} {number}: must be 0 (as by default) or more")
    if unknown := [name for name in methods if name not in STARTS]:
        raise GrlibError(f"--methods {unknown[0]}: not trained by PPO; choose of {', '.join(STARTS)}")
    if len(set(methods)) < len(methods):
        raise GrlibError(f"--methods {chosen.methods}: a method twice; name each once")
    needs_sos = chosen.stage in ("iterate", "reinforce", "select", "export")
    if needs_sos and not (base / "sos" / "config.json").is_file():
        raise GrlibError(f"{base / 'sos'}: no model there; first `python -m grlib gpu base {chosen.out}`")
    if chosen.tiny or chosen.stage in ANYWHERE:
        return
    import torch

    if not torch.cuda.is_available():
        raise GrlibError("no GPU is there; `--tiny` rehearses the same stage on the CPU")
    from grlib.training.packed import has_flash_attention

    if not has_flash_attention():
        raise GrlibError(
            f"{torch.cuda.get_device_name()}: no FlashAttention here, which needs compute capability 8.0 and "
            "a build of torch with it; take a newer card, or the notebooks, which also run without one"
        )
