"""Long work in chunks, each stored when it is done: in this process, or in a pool of workers.

A pool is processes of this machine or, where the environment variable RAY_ADDRESS names a Ray cluster
("auto": the one that runs here), workers on all its nodes, with the same results. docs/at-scale.md shows how.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache, partial
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from grlib.errors import GrlibError
from grlib.runs import deadline
from grlib.runs import files as artefacts
from grlib.runs.housekeeping import cores

if TYPE_CHECKING:
    import pandas

PROGRESS_SECONDS = 5.0
KEY = "key.json"  # beside the chunks of a step: what they depend on
CLUSTER = "RAY_ADDRESS"  # environment variable, as Ray's own tools use it; empty: no cluster
TRIES = 3  # of a call whose worker is lost each time


def chunked(
    folder: Path,
    key: Mapping[str, Any],
    count: int,
    compute: Callable[[int], pandas.DataFrame],
    submit: Callable[[int], Future[pandas.DataFrame]] | None = None,
    progress: Callable[[str], None] | None = None,
    label: str = "work",
) -> pandas.DataFrame:
    """The rows of chunks 0 .. count-1 in order. Each chunk is stored when done; killed work continues there.

    `compute(i)` must depend on `key` and `i` only. `key` (settings, seed, input digests, `code_digest(...)`)
    is stored with the chunks; chunks of another key are deleted. With `submit`, `submit(i)` starts a chunk
    elsewhere (as in a `worker_pool`) and returns its Future; all missing chunks are submitted at once.
    OutOfTime after the deadline.
    """
    import pandas

    if artefacts.known_json(folder / KEY) != artefacts.plain(key):
        for chunk in folder.glob("chunk_*.parquet"):
            chunk.unlink()
        artefacts.write_json(folder / KEY, key)
    paths = [folder / f"chunk_{number:06d}.parquet" for number in range(count)]
    frames = {}
    for number, path in enumerate(paths):
        with contextlib.suppress(artefacts.MissingArtefact):  # a damaged chunk is computed again
            frames[number] = artefacts.read_table(path)
    say = progress or partial(print, flush=True)
    if frames:
        say(f"{label}: {len(frames)} of {count} chunks were done before")
    began = shown = time.monotonic()
    missing = sorted(set(range(count)) - set(frames))
    futures = {number: submit(number) for number in missing} if submit else {}
    try:
        for done, number in enumerate(missing, start=1):
            frame = futures.pop(number).result() if submit else compute(number)
            # read back, so that new and resumed rows come from a file and have the same types
            frames[number] = artefacts.read_table(artefacts.write_table(paths[number], frame))
            now = time.monotonic()
            if done == len(missing) or now - shown >= PROGRESS_SECONDS:
                shown, pace = now, (now - began) / done
                left = artefacts.in_words(pace * (len(missing) - done))
                rates = f"{pace:.2g} s per chunk, {left} left, {artefacts.in_words(now - began)} spent"
                say(f"{label}: {len(frames)}/{count} chunks, {rates}")
            deadline.stop_if(deadline.passed(), label, f"{len(frames)}/{count} chunks")
    finally:
        for future in futures.values():
            future.cancel()
    return pandas.concat([frames[number] for number in range(count)], ignore_index=True)


def worker_pool(processes: int = 0, gpus: int = 0, threads: bool = False) -> Executor:
    """Workers for `chunked(submit=...)`: `processes` here (0: one per core), or all that a Ray cluster holds.

    Each has `gpus` GPUs of its own or, with 0, one thread of torch. They end with the process that started
    them, even if it is killed: none computes for a dead notebook. `threads`: for work that only waits for
    other processes, so that here threads will do. GrlibError if the cluster does not answer.
    """
    processes = processes or cores()
    if os.environ.get(CLUSTER):
        return _on_cluster(gpus if _ray().cluster_resources().get("GPU") else 0)
    if threads:
        return ThreadPoolExecutor(processes)
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(processes, context, _start_worker, (os.getpid(), context.Value("i", 0), gpus))


RUNNING: dict[tuple[Any, ...], Executor] = {}  # the pool that is kept between calls, by its kind


def end_workers() -> None:
    """End the workers of the pool that is kept; who needs one next starts it."""
    while RUNNING:
        RUNNING.popitem()[1].shutdown()


def _start_worker(parent: int, started: Any, gpus: int) -> None:
    def end_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupted notebook ends its workers itself
    if gpus:
        take_devices(started, gpus)
    else:  # one process per core: threads of several processes would fight over the cores
        import torch

        torch.set_num_threads(1)


def take_devices(started: Any, gpus: int) -> None:
    """In a new worker: keep `gpus` of the GPUs that no other worker has (`started` counts workers)."""
    import torch

    with started.get_lock():
        number = started.value
        started.value += 1
    names = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
    if names:
        own = names.split(",")[number * gpus : (number + 1) * gpus]
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(own)


def _ray() -> Any:
    """The module ray, connected to the cluster; GrlibError if that is not possible."""
    try:
        import ray

        if not ray.is_initialized():
            ray.init(os.environ[CLUSTER], log_to_driver=False, logging_level="ERROR")
    except (ImportError, ConnectionError, ValueError, RuntimeError) as error:
        remedy = "pip install 'ray[default]==2.60.0', `ray start` a cluster, or unset the variable"
        raise GrlibError(f"{CLUSTER}={os.environ[CLUSTER]}: {error}; {remedy}") from error
    return ray


class RayWorker:
    """A process on the cluster. It keeps what the functions cache: modules, the last model, its engine."""

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """`function(*arguments)`, in that process."""
        return function(*arguments)


class RayPool(ThreadPoolExecutor):
    """Workers on a Ray cluster, with the interface of a local pool: one per `gpus` GPUs, or per CPU core.

    Each thread gives a call to a free worker and waits. The call of a lost worker goes to another; a new one
    joins when the cluster has room. Workers read models by their path: a file system that all nodes see.
    """

    def __init__(self, gpus: int = 0) -> None:
        self.ray, self.gpus = _ray(), gpus
        there = self.ray.cluster_resources()
        self.size = max(1, int(there.get("GPU", 0) / gpus if gpus else there.get("CPU", 0)))
        one = {"env_vars": {"OMP_NUM_THREADS": "1"}}  # thread of torch, as in a local worker: the same sums
        self.remote = self.ray.remote(num_gpus=gpus, num_cpus=0 if gpus else 1, runtime_env=one)(RayWorker)
        self.workers, self.free = list[Any](), SimpleQueue[Any]()
        super().__init__(self.size)

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        """The Future of `function(*arguments, **named)`."""
        if len(self.workers) < self.size and self.free.empty():
            self._start()
        return super().submit(self._call, partial(function, **named), *arguments)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the workers that hold GPUs; those on CPU cores stay warm until this process ends."""
        while self.gpus and self.workers:
            self.ray.kill(self.workers.pop())

    def _start(self) -> None:
        worker = self.remote.remote()
        self.workers.append(worker)
        worker.call.remote(int).future().add_done_callback(lambda _: self.free.put(worker))

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        lost: Exception | None = None
        for _ in range(TRIES):
            worker = self._alive()
            try:
                return self.ray.get(worker.call.remote(function, *arguments))
            except self.ray.exceptions.RayTaskError as error:
                raise error.cause from error
            except self.ray.exceptions.RayError as error:
                lost = error
            finally:
                self.free.put(worker)
        raise BrokenProcessPool(f"{TRIES} workers were lost over one call; the last: {lost}")

    def _alive(self) -> Any:
        """A free worker; those that were lost meanwhile are replaced."""
        for _ in range(self.size + TRIES):
            worker = self.free.get()
            try:
                self.ray.get(worker.call.remote(int))
                return worker
            except self.ray.exceptions.RayError as error:
                lost = error
                if worker in self.workers:  # not ended by `shutdown`
                    self.workers.remove(worker)
                    self._start()
        raise BrokenProcessPool(f"no worker starts on the cluster: {lost}")


_on_cluster = lru_cache(RayPool)  # one pool of a kind: a second one would find the cores taken
