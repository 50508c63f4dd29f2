"""A fine-tuned model as what has changed since its base, in eight bits a weight: half of bfloat16's size.

A change is small beside the weight, so that eight bits of it say more than the weight's own bfloat16 does.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from grlib.errors import GrlibError, one_line

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

LEVELS = 127


def difference(base: LlamaForCausalLM, model: LlamaForCausalLM) -> dict[str, torch.Tensor]:
    """By the name of each weight: its change as whole numbers -127..127 (a row each as (rows, the rest)), and
    under <name>/scale the size of one of them in every row."""
    found: dict[str, torch.Tensor] = {}
    first = dict(base.named_parameters())
    for name, weights in model.named_parameters():
        change = (weights.detach() - first[name].detach()).reshape(len(weights), -1)
        scale = change.abs().amax(1, keepdim=True).clamp(min=1e-12) / LEVELS
        found |= {name: (change / scale).round().to(torch.int8), f"{name}/scale": scale}
    return found


def apply_difference(base: LlamaForCausalLM, found: dict[str, torch.Tensor]) -> LlamaForCausalLM:
    """The model that `difference` was made of, made of its base in place."""
    with torch.no_grad():
        for name, weights in base.named_parameters():
            weights += (found[name].float() * found[f"{name}/scale"]).view_as(weights)
    return base


def write_difference(path: Path, base: LlamaForCausalLM, model: LlamaForCausalLM) -> None:
    """`difference` as one file, whole or not at all."""
    from safetensors.torch import save_file

    from grlib.runs.files import atomic

    with atomic(path) as partial:
        save_file(difference(base, model), partial)


def read_difference(path: Path, base: LlamaForCausalLM) -> LlamaForCausalLM:
    """The model in such a file, made of its base in place; GrlibError where they do not belong together."""
    from safetensors.torch import load_file

    try:
        found = load_file(path)
    except Exception as error:  # a truncated file raises whatever its reader raises
        raise GrlibError(f"{path}: cannot be read ({one_line(error)}); fetch it again") from error
    shapes = {name: (len(weights), weights[0].numel()) for name, weights in base.named_parameters()}
    if {name: tuple(tensor.shape) for name, tensor in found.items() if "/" not in name} != shapes:
        raise GrlibError(f"{path}: not a change of this base: other weights; give the base it was made from")
    return apply_difference(base, found)
