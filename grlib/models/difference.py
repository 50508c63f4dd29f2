"""A fine-tuned model as its change since its base, in eight bits a weight: half the size of bfloat16.

A change is small beside the weight, so eight bits of it say more than the weight's own bfloat16 does. A model
folder then has `model.difference.safetensors` in the place of its weights and `difference.json`, which names
the folder of the base; `llama.load_model` reads it as any other.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from grlib.errors import GrlibError, one_line
from grlib.runs.files import atomic, digest, read_json, write_json

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

WEIGHTS, ABOUT, PLAIN = "model.difference.safetensors", "difference.json", "model.safetensors"
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


def write_difference(
    folder: Path, model: LlamaForCausalLM, base_folder: Path, base: LlamaForCausalLM
) -> None:
    """Replace the weights in a model folder by their difference from the base, which stays where it is."""
    from safetensors.torch import save_file

    with atomic(folder / WEIGHTS) as partial:
        save_file(difference(base, model), partial)
    about = {"base": os.path.relpath(base_folder, folder), "base_digest": digest(base_folder / PLAIN)}
    write_json(folder / ABOUT, about)
    (folder / PLAIN).unlink(missing_ok=True)


def base_of(folder: Path) -> Path | None:
    """The folder of the base where a model is stored as a difference, else None; GrlibError where the base is
    missing or another one."""
    if not (folder / ABOUT).is_file():
        return None
    about = read_json(folder / ABOUT)
    base = folder / about["base"]
    if not (base / PLAIN).is_file() or digest(base / PLAIN) != about["base_digest"]:
        raise GrlibError(f"{folder}: a difference from the model in {base}, which is missing or another one")
    return base


def add_difference(base: LlamaForCausalLM, folder: Path) -> LlamaForCausalLM:
    """The model in a folder, made of its base in place."""
    from safetensors.torch import load_file

    try:
        found = load_file(folder / WEIGHTS)
        with torch.no_grad():
            for name, weights in base.named_parameters():
                weights += (found[name].float() * found[f"{name}/scale"]).view_as(weights)
    except Exception as error:  # a truncated file raises whatever its reader raises
        raise GrlibError(f"{folder / WEIGHTS}: cannot be read ({one_line(error)}); fetch it again") from error
    return base
