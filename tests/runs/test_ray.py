"""A pool on a Ray cluster of two nodes, both on this machine, gives what local processes give."""

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace

import pytest
from conftest import wait_for

from grlib import sandbox
from grlib.errors import GrlibError
from grlib.profiles import Sampling
from grlib.runs import chunks, notebooks
from grlib.runs import files as artefacts
from grlib.sampling import pool as sampling

with_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs ray (docs/at-scale.md)")
GREET = "print('hello', input())"
TESTS = [[{"input": name, "output": f"hello {name}"}] for name in ("a", "b", "c", "d")]


def test_without_ray_or_its_cluster_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setenv(chunks.CLUSTER, "10.0.0.1:1")
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    with pytest.raises(
        GrlibError, match=r"RAY_ADDRESS=10\.0\.0\.1:1: .*pip install 'ray\[default\]==.*unset"
    ):
        chunks.worker_pool(2)


def two_nodes(tries=5):
    """A cluster of two nodes of one core. Ray gives up a node that takes over 15 s, as on a busy machine."""
    from ray.cluster_utils import Cluster

    lean = {"num_cpus": 1, "include_dashboard": False, "include_log_monitor": False, "no_monitor": True}
    nodes = Cluster()
    while len(nodes.list_all_nodes()) < 2:
        try:
            nodes.second = nodes.add_node(**lean)
        except Exception:
            if not (tries := tries - 1):
                pytest.skip("this machine is too busy to start Ray")
    return nodes


@pytest.fixture(scope="module")
def cluster():
    with pytest.MonkeyPatch.context() as inside:
        inside.setenv("RAY_AUTH_MODE", "disabled")
        import ray

        nodes = two_nodes()
        inside.setenv(chunks.CLUSTER, nodes.address)
        yield nodes
        chunks._on_cluster.cache_clear()
        ray.shutdown()
        nodes.shutdown()


@pytest.mark.integration
@with_ray
def test_chunks_verdicts_and_errors_are_those_of_local_processes(cluster, tiny_folder, tmp_path, monkeypatch):
    settings = Sampling(temperature=1.0, slots=4, chunk=4, workers=2)
    asked = [sampling.Request("Target: 26, Numbers: [84, 2, 14, 15]", "", 60)] * 12
    jobs = [(GREET, tests) for tests in TESTS]
    with monkeypatch.context() as inside:
        for place, address in (("ray", cluster.address), ("here", "")):
            inside.setenv(chunks.CLUSTER, address)
            sampling.end_workers()
            found = sampling.sample(tiny_folder, asked, settings, seed=0, folder=tmp_path / place)
            again = replace(settings, workers=1)
            assert found == sampling.sample(tiny_folder, asked, again, seed=0, folder=tmp_path / place)
            assert [one.passed for [one] in sandbox.run_all(jobs)] == [True] * 4
        sampling.end_workers()
    assert artefacts.digest(tmp_path / "ray") == artefacts.digest(tmp_path / "here")
    pool = chunks.worker_pool(1)
    assert pool.submit(lambda: os.environ["OMP_NUM_THREADS"]).result() == "1"
    with pytest.raises(GrlibError, match="choose one of"):
        pool.submit(sandbox.run, GREET, TESTS[0], "no style").result()
    with pytest.raises(chunks.BrokenProcessPool, match="3 workers were lost over one call"):
        pool.submit(os._exit, 1).result()
    assert pool.submit(int, "7").result() == 7


@pytest.mark.integration
@with_ray
def test_a_killed_node_loses_nothing(cluster, tmp_path):
    def work(number):
        import pathlib
        import time

        import ray

        (tmp_path / ray.get_runtime_context().get_node_id()).touch()
        while not pathlib.Path(tmp_path, "go").exists():
            time.sleep(0.1)
        return number

    pool = chunks.worker_pool(1)
    futures = [pool.submit(lambda n: work(n), number) for number in range(5)]
    wait_for(lambda: len(list(tmp_path.iterdir())) == 2)  # both nodes work
    cluster.remove_node(cluster.second, allow_graceful=False)
    (tmp_path / "go").touch()
    assert [future.result() for future in futures] == list(range(5))


# In the place of Slurm: two nodes, which are both this machine.
STANDINS = {
    "scontrol": "echo $HEAD",
    "srun": """while [[ $1 == --* ]]; do shift; done
SLURM_NODEID=1 "$@" & SLURM_NODEID=0 "$@" &
wait -n || { kill $(jobs -p); exit 1; }
wait""",
    "sbatch": 'SLURM_NNODES=2 SLURM_JOB_NODELIST=here exec bash "$@"',
}


def batch(folder, python=sys.executable):
    """Submit docs/ray.sbatch to the stand-ins, for notebook 01 in smoke: exit code and what it printed."""
    for name, text in STANDINS.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (folder / name).chmod(0o755)
    with socket.create_server(("", 0)) as free:
        port = str(free.getsockname()[1])
    known = {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHON": str(python), "RAY_PORT": port}
    known |= {"HEAD": socket.gethostbyname(socket.gethostname()), "RAY_AUTH_MODE": "disabled"}
    options = ["--profile", "smoke", "--only", "01", "--run-dir", str(folder / "run")]
    with open(folder / "output", "w+") as log:
        command = ["sbatch", str(notebooks.REPOSITORY / "docs" / "ray.sbatch"), *options]
        job = subprocess.Popen(
            command, env=os.environ | known, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            job.wait(timeout=900)
        finally:  # the job's end would end Ray too
            with contextlib.suppress(ProcessLookupError):
                os.killpg(job.pid, signal.SIGTERM)
    return job.returncode, (folder / "output").read_text()


@pytest.mark.slow
@with_ray
def test_the_batch_file_runs_on_all_nodes(tmp_path):
    code, output = batch(tmp_path)
    assert code == 0, output[-4000:]
    assert output.count("Ray runtime started") == 2
    assert (tmp_path / "run" / "data" / "problems_train.parquet").exists()


@pytest.mark.slow
@with_ray
def test_a_first_node_that_fails_ends_the_job(tmp_path):
    """Otherwise the other nodes would wait for it until the job's time is over."""
    python = tmp_path / "python"
    python.write_text(f'#!/usr/bin/env bash\n[[ $* != *--head* ]] || exit 3\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    code, _ = batch(tmp_path, python)
    assert code != 0 and not (tmp_path / "run").exists()
