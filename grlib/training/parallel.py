"""Training by several processes, DDP or FSDP, started by `accelerate launch` or torchrun.

All processes know every row of a step; its micro-batches are dealt out among them, so the same rows make a
step on any number of processes, and the losses agree up to the order of sums.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from grlib.errors import GrlibError
from grlib.runs.deadline import OutOfTime
from grlib.runs.files import atomic, read_json, write_json

if TYPE_CHECKING:
    pass

T = TypeVar("T")
SAID = "grlib: "  # begins the lines of a job that are progress
CAUSE = re.compile(r"^(\[rank\d+\]: ?)?((?:\w+\.)*\w*(?:Error|DiskFull|MissingArtefact|OutOfTime)\b)")
PATIENCE = timedelta(days=1)  # of a process for the others: one of them may be sampling
QUIET = {"TOKENIZERS_PARALLELISM": "false", "TORCH_CPP_LOG_LEVEL": "ERROR"}


def launched() -> bool:
    """Whether a launcher has started this process, as one of those that train together."""
    return "WORLD_SIZE" in os.environ


def first_process() -> bool:
    """Whether this is the process that writes files and says how it goes."""
    return int(os.environ.get("RANK", 0)) == 0


def free_cache() -> None:
    """Give back what torch holds of a GPU's memory and does not use: another process's engine needs it."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class Team:
    """The processes of one training run, of which this is number `rank` of `size`; by itself one process."""

    def __init__(self, strategy: str = "ddp", precision: str = "float32") -> None:
        self.rank, self.size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        self.strategy = "fsdp" if os.environ.get("ACCELERATE_USE_FSDP") == "true" else strategy
        local = int(os.environ.get("LOCAL_RANK", 0))
        self.device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
        self.precision = precision
        gpu = self.device.type == "cuda"
        if gpu and local >= torch.cuda.device_count():
            raise GrlibError(
                f"process {local + 1} of {self.size} has no GPU of its own: {torch.cuda.device_count()} are "
                "there; lower `processes`"
            )
        if gpu:  # what is exchanged as Python objects goes by the current device
            torch.cuda.set_device(self.device)
        if self.size > 1 and not torch.distributed.is_initialized():
            backend, own = ("nccl", self.device) if gpu else ("gloo", None)
            torch.distributed.init_process_group(backend, device_id=own, timeout=PATIENCE)

    @property
    def sharded(self) -> bool:
        """Whether each process holds a part of the weights only."""
        return self.size > 1 and self.strategy == "fsdp"

    def wrap(self, net: nn.Module, layers: str = "layers") -> nn.Module:
        """The network on this process's device, as all of them train it. A sharded one is a copy."""
        if not self.sharded:
            net = net.to(self.device)
            several = self.size > 1
            ids = [self.device.index] if self.device.type == "cuda" else None
            return nn.parallel.DistributedDataParallel(net, device_ids=ids) if several else net
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        net = copy.deepcopy(net).to(self.device)  # sharding would change the caller's own for good
        mesh = init_device_mesh(self.device.type, (self.size,))
        for name, blocks in net.named_modules():
            if name.endswith(layers) and isinstance(blocks, nn.ModuleList):
                for block in blocks:
                    fully_shard(block, mesh=mesh)
        fully_shard(net, mesh=mesh)
        return net

    @staticmethod
    def inside(net: nn.Module) -> Any:
        """The network that `wrap` was given, or the sharded copy of it."""
        return getattr(net, "module", net)  # DDP puts it inside another

    def share(
        self, net: nn.Module, groups: Sequence[tuple[Any, torch.Tensor, torch.Tensor]]
    ) -> Iterator[tuple[Any, torch.Tensor, torch.Tensor, float]]:
        """This process's part of the micro-batches (numbers, ids, mask): ids and mask on its device, and last
        the weight of their loss, so that gradients come out as one process would sum them.

        Every process gets as many, since all take part in every exchange: some with weight 0.
        """
        rounds = -(-len(groups) // self.size)
        for turn in range(rounds):
            number = turn * self.size + self.rank
            numbers, ids, mask = groups[number] if number < len(groups) else groups[0]
            with self._exchanging(net, turn == rounds - 1):
                weight = float(number < len(groups)) * self.size
                yield numbers, ids.to(self.device), mask.to(self.device), weight

    @contextlib.contextmanager
    def _exchanging(self, net: nn.Module, last: bool) -> Iterator[None]:
        """Gradients are exchanged after the last micro-batch of a step only."""
        if self.sharded:
            net.set_requires_gradient_sync(last)
        elif self.size > 1:
            net.require_backward_grad_sync = last
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bfloat16"):
            yield

    def total(self, number: float) -> float:
        """The sum of a number over all processes."""
        if self.size == 1:
            return number
        summed = torch.tensor(number, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(summed)
        return float(summed)

    def summed(self, numbers: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over all processes, on the CPU."""
        if self.size == 1:
            return numbers
        summed = numbers.to(self.device)
        torch.distributed.all_reduce(summed)
        return summed.cpu()

    def gathered(self, thing: T) -> list[T]:
        """What each process has, in the order of their numbers."""
        found = [thing] * self.size
        if self.size > 1:
            torch.distributed.all_gather_object(found, thing)
        return found

    def told(self, thing: T) -> T:
        """What the first process has."""
        said = [thing]
        if self.size > 1:
            torch.distributed.broadcast_object_list(said, src=0)
        return said[0]

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            torch.distributed.barrier()

    def refresh(self, net: nn.Module, model: nn.Module, part: str) -> None:
        """Put the weights so far into `model`, which was wrapped as attribute `part` of a network (sharded:
        into that of the first process; else the model itself is trained)."""
        if self.sharded:
            from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

            options = StateDictOptions(full_state_dict=True, cpu_offload=True)
            weights = get_model_state_dict(net, options=options)
            if self.rank == 0:
                own = {name: value for name, value in weights.items() if name.startswith(f"{part}.")}
                model.load_state_dict({name.partition(".")[2]: value for name, value in own.items()})

    def hand_back(self, net: nn.Module, model: nn.Module, part: str) -> None:
        """`refresh` when training is over: the model ends on the CPU."""
        self.refresh(net, model, part)
        model.to("cpu")
        free_cache()

    def save(
        self, folder: Path, key: Mapping[str, Any], net: nn.Module, optimizers: Sequence[Any], state: Any
    ) -> None:
        """A checkpoint of all processes, in parts; it takes the place of the last one when it is whole.

        It can be read by another number of processes.
        """
        import torch.distributed.checkpoint as dcp

        new = folder / "checkpoint.new"
        if self.rank == 0:
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir(parents=True)
        self.wait()
        dcp.save(self._state(net, optimizers), checkpoint_id=new)
        if self.rank == 0:
            write_json(new / "state.json", {"key": key, "state": state})
            with atomic(folder / "checkpoint") as partial:
                new.rename(partial)
        self.wait()

    def load(self, folder: Path, key: Mapping[str, Any], net: nn.Module, optimizers: Sequence[Any]) -> Any:
        """The state of the checkpoint of the run `key`, its weights put in place; None if there is none."""
        path = folder / "checkpoint"
        if not (path / "state.json").is_file():
            return None
        known = read_json(path / "state.json")
        if known["key"] != json.loads(json.dumps(key)):
            return None
        import torch.distributed.checkpoint as dcp
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict

        found = self._state(net, optimizers)
        dcp.load(found, checkpoint_id=path)
        plain = any(isinstance(optimizer, torch.optim.SGD) for optimizer in optimizers)  # keeps no state
        set_state_dict(
            net, list(optimizers), model_state_dict=found["model"], optim_state_dict=found["optimizers"],
            options=StateDictOptions(strict=not plain),
        )  # fmt: skip
        return known["state"]

    @staticmethod
    def _state(net: nn.Module, optimizers: Sequence[Any]) -> dict[str, Any]:
        from torch.distributed.checkpoint.state_dict import get_state_dict

        weights, moments = get_state_dict(net, list(optimizers))
        return {"model": weights, "optimizers": moments}


# A job: fine-tuning or reinforcement by processes of its own


def launch(
    function: Callable[..., Any],
    job: Mapping[str, Any],
    processes: int,
    folder: Path,
    label: str,
    say: Callable[[str], None],
) -> None:
    """Call `function(**job, progress=...)` in `processes` processes that train together, and wait for them.

    A process that dies ends all of them with GrlibError, which quotes the cause.
    """
    with atomic(folder / "job.pickle") as partial:
        partial.write_bytes(pickle.dumps((function, dict(job))))
    _run(folder, processes, label, say)


def _run(folder: Path, count: int, label: str, say: Callable[[str], None]) -> None:
    """Start `count` processes on the job in a folder and wait for them."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"]
    command += ["--num_processes", str(count), "--main_process_port", "0", "--mixed_precision", "no"]
    command += ["--dynamo_backend", "no", "--log_dir", str(folder / "launcher")]  # else: left in /tmp
    command += ["-m", "grlib.training.parallel", str(folder)]
    threads = max(1, (os.cpu_count() or 1) // count)
    environment = QUIET | dict(os.environ) | {"OMP_NUM_THREADS": str(threads)}
    last: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as started:
        try:
            for line in started.stdout or ():
                said = line.removeprefix(SAID)
                if said != line:
                    say(said.rstrip())
                elif line.strip():
                    last = [*last, line.rstrip()][-200:]
        except BaseException:
            started.terminate()
            raise
    if started.returncode:
        causes = [line for line in last if CAUSE.match(line) and "ChildFailedError" not in line]
        told = CAUSE.sub(r"\2", causes[0]) if causes else "a process was killed"
        name, _, text = told.partition(": ")
        if name.endswith("OutOfTime"):
            raise OutOfTime(text)
        raise GrlibError(
            f"{label}: training by {count} processes ended with code {started.returncode}: {told}; "
            f"{advice(told)}the next call goes on from the last checkpoint"
        )


def advice(told: str) -> str:
    """What to change in the profile where this is why a training process ended; "" if nothing."""
    full = "out of memory" in told.lower() or "OutOfMemoryError" in told
    return "lower micro_tokens, or set recompute or strategy='fsdp' in the profile; " if full else ""


def main() -> None:
    """One process of a job."""
    from grlib.sampling.pool import end_workers

    folder = Path(sys.argv[1])

    def say(line: str) -> None:
        if first_process():
            print(SAID + line, flush=True)

    try:
        function, job = pickle.loads((folder / "job.pickle").read_bytes())
        function(**job, progress=say)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    end_workers()
    sys.stdout.flush()
    os._exit(0)  # all is done; threads of torch now and then abort a process that ends the usual way


if __name__ == "__main__":
    main()
