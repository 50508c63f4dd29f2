"""The processes that train together, one or several: their checkpoints, and the note of a finished run.

Several are started by `accelerate launch` or torchrun. With DDP each holds all weights, with FSDP a part. All
know every row of a step and share its micro-batches, so a step has the same rows on any number of processes,
and the losses differ only by rounding.
"""

from __future__ import annotations

import copy
import os
import pickle
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from grlib.errors import GrlibError, one_line
from grlib.models.llama import gpu_dtype
from grlib.runs import deadline
from grlib.runs.chunks import end_workers
from grlib.runs.deadline import OutOfTime
from grlib.runs.files import atomic, digest, is_whole, plain, read_json, write_json

T = TypeVar("T")
Progress = Callable[[str], None]
Optimizers = Sequence[torch.optim.Optimizer]
FAILED = "failed.txt"  # in a job's folder: the error that ended it
PROGRESS = "grlib: "  # starts the lines of a job's output that are progress
TIMEOUT = timedelta(days=1)  # the others wait while one process samples
QUIET = {"TOKENIZERS_PARALLELISM": "false", "TORCH_CPP_LOG_LEVEL": "ERROR"}


def first_process() -> bool:
    """Whether this is the process that writes files and reports progress."""
    return int(os.environ.get("RANK", 0)) == 0


def release_gpus() -> None:
    """End workers that may hold the memory of a GPU (nearly all of it with vLLM): training needs it."""
    if torch.cuda.is_available():
        end_workers()


class Team:
    """The processes of one training run: this one is number `rank` of `size`, or the only one."""

    def __init__(self, strategy: str = "ddp", precision: str = "float32") -> None:
        self.rank, self.size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        self.strategy = "fsdp" if os.environ.get("ACCELERATE_USE_FSDP") == "true" else strategy
        local = int(os.environ.get("LOCAL_RANK", 0))
        self.device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
        gpu = self.device.type == "cuda"
        self.precision = "float32" if gpu and gpu_dtype() != torch.bfloat16 else precision
        if gpu:  # Python objects are exchanged through the current device
            torch.cuda.set_device(self.device)
        if self.size > 1 and not torch.distributed.is_initialized():
            backend, own = ("nccl", self.device) if gpu else ("gloo", None)
            torch.distributed.init_process_group(backend, device_id=own, timeout=TIMEOUT)

    @property
    def sharded(self) -> bool:
        """Whether each process holds only a part of the weights."""
        return self.size > 1 and self.strategy == "fsdp"

    def wrap(self, net: nn.Module) -> nn.Module:
        """The network on this process's device, ready to be trained by all. A sharded one is a copy."""
        if self.size == 1:
            return net.to(self.device)
        if not self.sharded:
            ids = [self.device.index] if self.device.type == "cuda" else None
            return nn.parallel.DistributedDataParallel(net.to(self.device), device_ids=ids)
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        net = copy.deepcopy(net).to(self.device)  # sharding cannot be undone
        mesh = init_device_mesh(self.device.type, (self.size,))
        for name, blocks in net.named_modules():
            if name.endswith("layers") and isinstance(blocks, nn.ModuleList):
                for block in blocks:
                    fully_shard(block, mesh=mesh)
        fully_shard(net, mesh=mesh)
        return net

    @staticmethod
    def inside(net: nn.Module) -> Any:
        """The argument of `wrap`, or its sharded copy."""
        return getattr(net, "module", net)  # DDP wraps it in another module

    def share(
        self, net: nn.Module, groups: Sequence[tuple[Any, torch.Tensor, torch.Tensor]]
    ) -> Iterator[tuple[Any, torch.Tensor, torch.Tensor, float]]:
        """This process's micro-batches, of all (numbers, ids, mask): ids and mask on its device, and last the
        weight of their loss, so that the gradients are the sums that one process would have.

        All processes take part in every exchange, so they get equally many: some with weight 0.
        """
        rounds = -(-len(groups) // self.size)
        for turn in range(rounds):
            number = turn * self.size + self.rank
            numbers, ids, mask = groups[number] if number < len(groups) else groups[0]
            last = turn == rounds - 1  # gradients are exchanged once per step
            if self.sharded:
                net.set_requires_gradient_sync(last)
            elif self.size > 1:
                net.require_backward_grad_sync = last
            weight = float(number < len(groups)) * self.size
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
                yield numbers, ids.to(self.device), mask.to(self.device), weight

    def total(self, number: float) -> float:
        """The sum of a number over all processes."""
        return float(self.summed(torch.tensor(number, dtype=torch.float64)))

    def summed(self, numbers: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over all processes, on the CPU."""
        if self.size == 1:
            return numbers
        summed = numbers.to(self.device)
        torch.distributed.all_reduce(summed)
        return summed.cpu()

    def gathered(self, thing: T) -> list[T]:
        """The `thing` of each process, in the order of their ranks."""
        found = [thing] * self.size
        if self.size > 1:
            torch.distributed.all_gather_object(found, thing)
        return found

    def told(self, thing: T) -> T:
        """The `thing` of the first process."""
        shared = [thing]
        if self.size > 1:
            torch.distributed.broadcast_object_list(shared, src=0)
        return shared[0]

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            torch.distributed.barrier()

    def refresh(self, net: nn.Module, model: nn.Module, part: str) -> None:
        """Copy the weights of a sharded `net` into `model`, its attribute `part` before `wrap`, in the first
        process; without sharding, `model` itself is trained."""
        if self.sharded:
            from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

            options = StateDictOptions(full_state_dict=True, cpu_offload=True)
            weights = get_model_state_dict(net, options=options)
            if self.rank == 0:
                start = f"{part}."
                own = {name.removeprefix(start): w for name, w in weights.items() if name.startswith(start)}
                model.load_state_dict(own)

    def hand_back(self, net: nn.Module, model: nn.Module, part: str) -> None:
        """`refresh` at the end of training, and move the model to the CPU."""
        self.refresh(net, model, part)
        model.to("cpu")
        torch.cuda.empty_cache()  # the engine of another process needs what torch holds and does not use

    def checkpoint_due(self, saved: float, every: float) -> bool:
        """Whether it is time for a checkpoint, for one of the processes: they all save together."""
        return self.total(float(time.monotonic() - saved > every or deadline.passed())) > 0

    def stop_if_late(self, label: str, stored: str) -> None:
        """OutOfTime after the deadline, for one of the processes: they all stop together."""
        deadline.stop_if(self.total(float(deadline.passed())) > 0, label, stored)

    def write_checkpoint(
        self,
        folder: Path,
        key: Mapping[str, Any],
        net: nn.Module,
        optimizers: Optimizers,
        place: Mapping[str, Any],
    ) -> None:
        """Store the state of the run `key`, which replaces its last checkpoint when it is complete.

        `place`: where the run is, its step and its curve. One process writes the file `checkpoint.pt`.
        Several write the folder `checkpoint` in parts, which any number of processes can load.
        """
        if self.size == 1:
            moments = [optimizer.state_dict() for optimizer in optimizers]
            with atomic(folder / "checkpoint.pt") as partial:
                torch.save({"key": key, **place, "model": _trained(net), "optimizers": moments}, partial)
            return
        import torch.distributed.checkpoint as dcp

        new = folder / "checkpoint.new"
        if self.rank == 0:
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir(parents=True)
        self.wait()
        dcp.save(_shared_state(net, optimizers), checkpoint_id=new)
        if self.rank == 0:
            torch.save({"key": key, **place}, new / "place.pt")
            with atomic(folder / "checkpoint") as partial:
                new.rename(partial)
        self.wait()

    def read_checkpoint(
        self, folder: Path, key: Mapping[str, Any], net: nn.Module, optimizers: Optimizers
    ) -> dict[str, Any] | None:
        """Load the newest checkpoint of the run `key` and return its place; None if there is none to use."""
        alone = _read(folder / "checkpoint.pt", key) if self.size == 1 else None
        together = _read(folder / "checkpoint" / "place.pt", key)
        if together and together["step"] >= (alone["step"] if alone else 0):
            _load_shared(folder / "checkpoint", net, optimizers)
            return together
        if alone is None or _shapes(alone["model"]) != _shapes(_trained(net)):  # of another network
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


def _shared_state(net: nn.Module, optimizers: Optimizers) -> dict[str, Any]:
    from torch.distributed.checkpoint.state_dict import get_state_dict

    weights, moments = get_state_dict(net, list(optimizers))
    return {"model": weights, "optimizers": moments}


def _load_shared(path: Path, net: nn.Module, optimizers: Optimizers) -> None:
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict

    found = _shared_state(net, optimizers)
    dcp.load(found, checkpoint_id=path)
    stateless = any(isinstance(optimizer, torch.optim.SGD) for optimizer in optimizers)
    set_state_dict(
        net, list(optimizers), model_state_dict=found["model"], optim_state_dict=found["optimizers"],
        options=StateDictOptions(strict=not stateless),
    )  # fmt: skip


def is_made(
    function: Callable[..., Any],
    job: Mapping[str, Any],
    key: Mapping[str, Any],
    processes: int,
    label: str,
    progress: Progress,
) -> bool:
    """Whether the model of the run `key` is in the folder `out` of the job: it was there, or `processes`
    that this call started have made it by `function` with the job. False: the caller makes it, here."""
    out, path = job["out"], job["work"] / "finished.json"
    if is_whole(path) and is_whole(out) and read_json(path) == plain({"key": key, "model": digest(out)}):
        return True
    release_gpus()
    if processes == 1 or "WORLD_SIZE" in os.environ:  # a launcher started this process as one of several
        return False
    _launch(function, job, processes, label, progress)
    return True


def write_finished(folder: Path, key: Mapping[str, Any], out: Path) -> None:
    """Record that the run `key` has ended with the model in `out`: it then needs no checkpoint."""
    write_json(folder / "finished.json", {"key": key, "model": digest(out)})


def _launch(
    function: Callable[..., Any], job: Mapping[str, Any], processes: int, label: str, progress: Progress
) -> None:
    """Call function(**job, progress=...) in `processes` processes that train together, and wait for them. If
    one of them fails, all end, with a GrlibError that quotes the cause."""
    folder = job["work"] / "job"
    (folder / FAILED).unlink(missing_ok=True)
    with atomic(folder / "job.pickle") as partial:
        partial.write_bytes(pickle.dumps((function, dict(job))))
    here = [sys.executable, "-m", "accelerate.commands.launch", "--num_machines", "1"]
    here += ["--main_process_port", "0"]
    command = shlex.split(os.environ.get("GRLIB_ACCELERATE", "")) or here  # of several machines: at-scale.md
    command += ["--multi_gpu", "--num_processes", str(processes), "--mixed_precision", "no"]
    command += ["--dynamo_backend", "no", "--log_dir", str(folder / "launcher")]  # else: left in /tmp
    command += ["-m", "grlib.training.parallel", str(folder)]
    threads = max(1, (os.cpu_count() or 1) // processes)
    environment = QUIET | dict(os.environ) | {"OMP_NUM_THREADS": str(threads)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as started:
        try:
            for line in started.stdout or ():
                if line.startswith(PROGRESS):
                    progress(line.removeprefix(PROGRESS).rstrip())
        except BaseException:
            started.terminate()
            raise
    if started.returncode:
        cause = (folder / FAILED).read_text() if (folder / FAILED).exists() else "a process was killed"
        name, _, text = cause.partition(": ")
        if name == OutOfTime.__name__:
            raise OutOfTime(text)
        raise GrlibError(
            f"{label}: training by {processes} processes ended with code {started.returncode}: {cause}; the "
            "next call continues from the last checkpoint; where memory was full, lower micro_tokens, or set "
            "recompute or strategy='fsdp' in the profile"
        )


def main() -> None:
    """One process of a job."""
    folder = Path(sys.argv[1])

    def progress(line: str) -> None:
        if first_process():
            print(PROGRESS + line, flush=True)

    try:
        function, job = pickle.loads((folder / "job.pickle").read_bytes())
        function(**job, progress=progress)
    except Exception as error:
        if not (folder / FAILED).exists():  # another process may fail because the first one did
            (folder / FAILED).write_text(one_line(error))
        raise
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    end_workers()
    sys.stdout.flush()
    os._exit(0)  # at an ordinary exit, threads of torch sometimes abort the process


if __name__ == "__main__":
    main()
