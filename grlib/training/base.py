"""Base models of every task: shipped or trained from scratch, with a manifest and a model card.

The card's text is `model_card.md`; a card that is stored with a model stays as it is until the model is saved
again.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from grlib.errors import GrlibError
from grlib.runs.files import MissingArtefact, atomic_folder, plain, problem_with

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CARD = Path(__file__).with_name("model_card.md").read_text(encoding="utf-8")  # of a model: its README.md
INDEX = """metrics: [loss]
model-index:
- name: {title}
  results:
  - task: {{type: text-generation}}
    dataset: {{type: made, name: examples that it was not trained on}}
    metrics: [{{type: loss, name: nats per token, value: {loss}}}]
"""
VALIDATION = """- **Validation loss** at the end, on examples it was not trained on: {loss} nats per token.
"""


def copy_or_make(source: str, out: Path, shipped: Path | None, make: Callable[[], None]) -> None:
    """Put a base into `out`: a copy of the `shipped` folder, or the model that `make` trains.

    GrlibError for another `source` than "shipped" and "scratch", or where the shipped folder is not whole.
    """
    if source not in ("shipped", "scratch"):
        raise GrlibError(
            f"base is {source!r}: choose shipped (comes with the repository) or scratch (train it in full)"
        )
    if source == "scratch":
        make()
        return
    if shipped is None:
        raise GrlibError(f"no shipped base for {out.name} was given; pass its folder, or base scratch")
    if fault := problem_with(shipped):
        raise MissingArtefact(f"shipped base {shipped}: {fault}; fetch it again, or choose base scratch")
    with atomic_folder(out) as partial:
        shutil.copytree(shipped, partial, dirs_exist_ok=True)


def notes(
    model: PreTrainedModel, curve: pd.DataFrame, facts: Mapping[str, Any], card: Mapping[str, Any]
) -> dict[str, str]:
    """Manifest and model card of a base (file name -> content), from the run that trained it.

    `facts`: further entries of the manifest; `card`: the texts of `CARD` that depend on the task, with a
    `prompt` that works as pasted, the `budget` of its answer in tokens, and the lines that grade it.
    """
    import transformers

    valid = curve["valid_loss"].dropna()
    loss = round(float(valid.iloc[-1]), 5) if len(valid) else None
    found = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": int(curve["step"].iloc[-1]),
        "tokens_seen": int(curve["tokens_seen"].iloc[-1]),
        "validation_loss_nats_per_token": loss,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    texts = {"validation": VALIDATION, "index": INDEX}
    texts = {name: "" if loss is None else text.format(**card, loss=loss) for name, text in texts.items()}
    manifest = json.dumps(plain(found | dict(facts)), indent=1, sort_keys=True) + "\n"
    return {"manifest.json": manifest, "README.md": CARD.format(**found, **card, **texts)}


def card_after(base: Path, training: str) -> dict[str, str]:
    """The card of a model trained further from `base`: that one's, if any, and a line on the `training`."""
    if not (base / "README.md").is_file():
        return {}
    text = (base / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"^metrics:.*\nmodel-index:\n(( |- ).*\n)*", "", text, flags=re.M)  # numbers of the base
    more = f"- **Trained further**: {training}. All above is about the model that it started from.\n"
    return {"README.md": text.replace("\n## Use", f"{more}\n## Use", 1)}
