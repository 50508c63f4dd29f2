"""Checkpoints of a run, by one process or by several, and the record that it has ended."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from grlib.runs.files import atomic, digest, is_whole, plain, read_json, write_json
from grlib.training.parallel import Team


def finished(folder: Path, key: Mapping[str, Any], out: Path) -> bool:
    """Whether the run `key` that worked in `folder` has ended, with the model in `out`."""
    path = folder / "finished.json"
    return is_whole(path) and is_whole(out) and read_json(path) == plain({"key": key, "model": digest(out)})


def write_finished(folder: Path, key: Mapping[str, Any], out: Path) -> None:
    """Record that the run `key` has ended with the model in `out`: it then needs no checkpoint."""
    write_json(folder / "finished.json", {"key": key, "model": digest(out)})


def write_checkpoint(
    team: Team,
    folder: Path,
    key: Mapping[str, Any],
    net: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    place: Mapping[str, Any],
) -> None:
    """Store the state of the run `key`, which replaces its last checkpoint when it is complete.

    `place`: where the run is, its step and its curve. One process writes the file `checkpoint.pt`. Several
    write the folder `checkpoint` in parts, which any number of processes can load.
    """
    if team.size == 1:
        state = {"model": _trained(net), "optimizers": [optimizer.state_dict() for optimizer in optimizers]}
        with atomic(folder / "checkpoint.pt") as partial:
            torch.save({"key": key, **place, **state}, partial)
        return
    import torch.distributed.checkpoint as dcp

    new = folder / "checkpoint.new"
    if team.rank == 0:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
    team.wait()
    dcp.save(_shared_state(net, optimizers), checkpoint_id=new)
    if team.rank == 0:
        torch.save({"key": key, **place}, new / "place.pt")
        with atomic(folder / "checkpoint") as partial:
            new.rename(partial)
    team.wait()


def read_checkpoint(
    team: Team,
    folder: Path,
    key: Mapping[str, Any],
    net: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
) -> dict[str, Any] | None:
    """Load the newest checkpoint of the run `key` and return its place; None if there is none to use."""
    alone = _read(folder / "checkpoint.pt", key) if team.size == 1 else None
    together = _read(folder / "checkpoint" / "place.pt", key)
    if together and together["step"] >= (alone["step"] if alone else 0):
        _load_shared(folder / "checkpoint", net, optimizers)
        return together
    if alone is None or _shapes(alone.get("model", {})) != _shapes(_trained(net)):  # of another network
        return None
    net.load_state_dict(alone["model"], strict=False)  # frozen weights are not in it
    for optimizer, saved in zip(optimizers, alone["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return alone


def _read(path: Path, key: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a checkpoint file holds; None if it is missing, unreadable or of another run than `key`."""
    if not path.is_file():
        return None
    try:
        state = torch.load(path, weights_only=True)
    except Exception:  # a truncated file raises whatever its reader raises; the run starts again
        return None
    return state if state["key"] == key else None


def _trained(net: nn.Module) -> dict[str, torch.Tensor]:
    """The weights that training changes, by name."""
    return {name: weights.detach() for name, weights in net.named_parameters() if weights.requires_grad}


def _shapes(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in weights.items()}


def _shared_state(net: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Any]:
    from torch.distributed.checkpoint.state_dict import get_state_dict

    weights, moments = get_state_dict(net, list(optimizers))
    return {"model": weights, "optimizers": moments}


def _load_shared(path: Path, net: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> None:
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict

    found = _shared_state(net, optimizers)
    dcp.load(found, checkpoint_id=path)
    stateless = any(isinstance(optimizer, torch.optim.SGD) for optimizer in optimizers)
    set_state_dict(
        net, list(optimizers), model_state_dict=found["model"], optim_state_dict=found["optimizers"],
        options=StateDictOptions(strict=not stateless),
    )  # fmt: skip
