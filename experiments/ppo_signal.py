"""How much do two batches of rollouts agree on the policy gradient? It says how many responses a step needs.

    python experiments/ppo_signal.py MODEL_FOLDER [--run RUN_FOLDER] [--responses 512] [--batch 64]
                                     [--work FOLDER] [--profile gpu] [--group 4]

Rollouts of one policy on training problems (of a finished run, if given: those that self-training solved
unaided at least once), in batches; each batch gives a gradient (ratio 1, advantages
whitened over its actions, no critic). The mean cosine between the gradients of different batches is the share
of a batch's gradient that is signal. Beside it, the gradient of imitating the correct responses alone, as
ReST does; with `--group` samples of each problem instead of one, that of GRPO, whose baseline is the mean of
the problem's own. Rows go to experiments/ppo_signal.csv.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from random import Random

import torch
from choices import add, responses, within_reach

from grlib import profiles
from grlib.models.llama import load_model
from grlib.ppo.learner import batch_of, by_place
from grlib.ppo.losses import group_advantages, operation_advantages, operation_policy_loss
from grlib.sampling import pool as sampling
from grlib.tasks.countdown import data as countdown_data
from grlib.training.loss import response_nll
from grlib.training.rows import Rollout, micro_batches

OUT = Path(__file__).with_name("ppo_signal.csv")
POLICY, IMITATION, GROUPED = "policy gradient", "imitation of the correct", "policy gradient, problem's mean"


def gradient(
    model: torch.nn.Module, rollouts: list[Rollout], kind: str, group: int
) -> dict[str, torch.Tensor]:
    """The gradient of one batch by parameter name; `group` responses in a row belong to one problem."""
    if kind == IMITATION:
        rollouts = [rollout for rollout in rollouts if rollout.correct]
    batch = batch_of(rollouts)
    if kind == GROUPED:
        advantage = group_advantages(batch.reward, batch.action_start, group)
    else:
        advantage, _ = operation_advantages(
            batch.reward, torch.zeros_like(batch.reward), batch.action_start, 1.0, 1.0
        )
    for numbers, ids, mask in micro_batches(batch.rows, 2048):
        width = int(mask.sum(1).max())
        old, gain, start = (t[numbers, :width] for t in (batch.old_logprob, advantage, batch.action_start))
        new = by_place(-response_nll(model, ids, mask), mask, width)
        if kind != IMITATION:
            loss = operation_policy_loss(old, new, gain, start, 0.2, 3.0) * start.sum()
        else:
            loss = -new.sum()
        (loss / batch.action_start.sum()).backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def agreement(gradients: list[dict[str, torch.Tensor]], part: str = "") -> float:
    """Mean cosine between different batches' gradients, of the parameters whose names hold `part`."""
    flat = [torch.cat([g.flatten() for name, g in one.items() if part in name]) for one in gradients]
    pairs = itertools.combinations(flat, 2)
    return float(torch.stack([torch.cosine_similarity(a, b, dim=0) for a, b in pairs]).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="folder of the policy")
    parser.add_argument("--run", type=Path, help="a finished run: only its problems within reach")
    parser.add_argument("--responses", type=int, default=512)
    parser.add_argument("--batch", type=int, default=64, help="responses of one gradient")
    parser.add_argument("--work", type=Path, default=Path("runs/ppo_signal"))
    parser.add_argument("--profile", choices=("laptop", "gpu"), default="laptop", help="whose model it is")
    parser.add_argument("--group", type=int, default=1, help="responses to each problem")
    chosen = parser.parse_args()
    if chosen.batch % chosen.group:
        parser.error(f"--batch {chosen.batch} --group {chosen.group}: groups must fill batches")
    torch.set_num_threads(sampling.cores())
    model = load_model(chosen.model)
    profile, group = profiles.get(chosen.profile), chosen.group
    if chosen.run:
        items = Random(0).sample(within_reach(chosen.run), chosen.responses // group)
    else:
        items = countdown_data.make_splits(
            profile.countdown, chosen.responses // group, 1, 1, seed=1_000
        ).train
    asked = [item for item in items for _ in range(group)]
    rollouts = responses(chosen.model, profile, asked, "signal", chosen.work, chosen.batch)
    batches = [rollouts[i : i + chosen.batch] for i in range(0, len(rollouts), chosen.batch)]
    for kind in (POLICY, GROUPED) if group > 1 else (POLICY, IMITATION):
        gradients = [gradient(model, batch, kind, group) for batch in batches]
        place = chosen.model.parent if chosen.model.name.startswith("iteration") else chosen.model
        row = {"model": place.name, "gradient": kind, "responses_a_batch": chosen.batch}
        row |= {
            "problems": "within reach" if chosen.run else "all",
            "profile": chosen.profile,
            "group": group,
        }
        row |= {"batches": len(batches), "correct": sum(r.correct for r in rollouts) / len(rollouts)}
        row |= {
            f"cosine_{part or 'all'}": agreement(gradients, part)
            for part in ("", "embed", "attn", "mlp", "norm")
        }
        add(OUT, row)


if __name__ == "__main__":
    main()
