"""Store a fine-tuned model as its difference from its base: eight bits per weight, half of bfloat16.

A difference is small, so its eight bits are more exact than the weight in bfloat16. The model folder has
`model.difference.safetensors` instead of the weights, and `difference.json`, which names the folder of the
base; `llama.load_model` reads it like any other folder.
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
LEVELS = 127  # of one sign, in eight bits


def difference(base: LlamaForCausalLM, model: LlamaForCausalLM) -> dict[str, torch.Tensor]:
    """For each weight <name> its change in levels -127..127 (int8, (rows, all other dimensions)), and as
    <name>/scale the size of one level in each row (rows, 1)."""
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
    """Replace the weights in a model folder by their difference from the base."""
    from safetensors.torch import save_file

    with atomic(folder / WEIGHTS) as partial:
        save_file(difference(base, model), partial)
    about = {"base": os.path.relpath(base_folder, folder), "base_digest": digest(base_folder / PLAIN)}
    write_json(folder / ABOUT, about)
    (folder / PLAIN).unlink(missing_ok=True)


def base_of(folder: Path) -> Path | None:
    """The base folder of a model that is stored as a difference, else None; GrlibError where the base is
    missing or has changed."""
    if not (folder / ABOUT).is_file():
        return None
    about = read_json(folder / ABOUT)
    base = folder / about["base"]
    if not (base / PLAIN).is_file() or digest(base / PLAIN) != about["base_digest"]:
        raise GrlibError(f"{folder}: its base {base} is missing or has changed; put that base back")
    return base


def add_difference(base: LlamaForCausalLM, folder: Path) -> LlamaForCausalLM:
    """The model of a folder: its difference added to `base` in place."""
    from safetensors.torch import load_file

    try:
        found = load_file(folder / WEIGHTS)
        with torch.no_grad():
            for name, weights in base.named_parameters():
                weights += (found[name].float() * found[f"{name}/scale"]).view_as(weights)
    except Exception as error:  # a truncated file raises whatever its reader raises
        raise GrlibError(f"{folder / WEIGHTS}: cannot be read ({one_line(error)}); fetch it again") from error
    return base
