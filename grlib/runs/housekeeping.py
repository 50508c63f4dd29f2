"""The commands `check` (versions of packages, size of the machine) and `clean` (what can be made again)."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from grlib.errors import GrlibError
from grlib.runs import files as artefacts

REPOSITORY = Path(__file__).resolve().parents[2]
CACHES = (".pytest_cache", ".ruff_cache", ".mypy_cache", ".hypothesis", "build", "dist", "*.egg-info")
# what make puts into a virtual environment; the last is its mark
ENVIRONMENT = {"bin", "etc", "include", "lib", "lib64", "share", "pyvenv.cfg", ".gitignore", ".ready"}
MEMORY_GB, DISK_GB = 4, 2


def check() -> int:
    """Print a line per check of the environment; returns the exit code: 0 if all passed, else 2."""
    checks = list(_checks())
    for passed, text in checks:
        print("ok  " if passed else "FAIL", text)
    good = all(passed for passed, _ in checks)
    print("all checks passed" if good else "some checks failed: `make reproduce` makes the right environment")
    return 0 if good else 2


def _checks() -> Iterator[tuple[bool, str]]:
    yield sys.version_info >= (3, 11), f"Python {platform.python_version()} (3.11 or newer)"
    for name, wanted in _packages().items():
        found = installed(name)
        good = found.partition("+")[0] == wanted if wanted else found != "not installed"
        yield good, f"{name} {found}" + (f" (pinned: {wanted})" if wanted else "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    yield memory >= MEMORY_GB, f"memory {memory:.1f} GB ({MEMORY_GB} GB or more), {os.cpu_count()} cores"
    free = shutil.disk_usage(REPOSITORY).free / 1e9
    yield free >= DISK_GB, f"free disk {free:.1f} GB ({DISK_GB} GB or more)"


def _packages() -> dict[str, str]:
    """The packages that grlib imports, with their versions in the lock; "" outside a clone: any will do."""
    if not (REPOSITORY / "pyproject.toml").is_file():
        needed = [need for need in importlib.metadata.requires("grlib") or [] if "extra ==" not in need]
        return {re.match(r"[\w-]+", need)[0]: "" for need in needed}  # type: ignore[index]
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    needed = [*project["dependencies"], *extras["train"], *extras["notebooks"]]
    lines = (REPOSITORY / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    return {name: pins[name] for need in needed if (name := re.split(r"[<>=\[]", need)[0]) != "grlib"}


def refuse_without_clone(command: str) -> None:
    """GrlibError for a command that works on the notebooks and records of a clone, where there is none."""
    if not any((REPOSITORY / name).exists() for name in ("notebooks", "pyproject.toml")):
        raise GrlibError(
            f"{command}: needs a clone of the repository, for its notebooks and records; clone it, and run "
            "`make reproduce` there. Without one: search --model DIR, check"
        )


def installed(package: str) -> str:
    """The version of a package, without importing it, or "not installed"."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def clean(venv: str, keep_runs: bool = False) -> None:
    """Remove run folders, caches and the environment of make; what git tracks, and a link, stays."""
    places = [path for pattern in CACHES for path in REPOSITORY.glob(pattern)]
    places += [path for path in REPOSITORY.rglob("__pycache__") if ".venv" not in path.parts]
    places += [] if keep_runs else [REPOSITORY / "runs"]
    environment = REPOSITORY / os.path.expanduser(venv)
    if environment.is_dir():
        names = {path.name for path in environment.iterdir()}
        if names - ENVIRONMENT or ".ready" not in names:
            print(f"kept {environment}: not made by make, or something else is in it; remove it yourself")
        else:
            places.append(environment)
    for path in places:
        if path.is_symlink():
            print(f"kept {path}: a symbolic link; remove it and its target yourself")
        elif path.is_dir() and not _tracked(path):
            for lock in path.glob("*/*/lock"):
                with artefacts.locked(lock.parent):
                    pass  # GrlibError if a process runs notebooks there
            shutil.rmtree(path)
            print(f"removed {path.relative_to(REPOSITORY) if path.is_relative_to(REPOSITORY) else path}")


def _tracked(path: Path) -> bool:
    command = ["git", "-C", str(REPOSITORY), "ls-files", "--", str(path)]
    try:
        return bool(subprocess.run(command, capture_output=True, check=False).stdout)
    except OSError:
        return False
