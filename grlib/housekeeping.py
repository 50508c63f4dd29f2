"""The environment: is it the pinned one, is the machine big enough, and removing what can be made again."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from grlib.errors import GrlibError

REPOSITORY = Path(__file__).resolve().parents[1]
CACHES = (".pytest_cache", ".ruff_cache", ".mypy_cache", ".hypothesis", "build", "dist")
MEMORY_GB, DISK_GB = 4, 2


def check() -> int:
    """Print one line per check of the environment; returns 0 when all passed, else 2."""
    passed = [_report(*line) for line in (_python(), *_packages(), _memory(), _disk())]
    print(
        "all checks passed"
        if all(passed)
        else "some checks failed: `make reproduce` makes the right environment"
    )
    return 0 if all(passed) else 2


def _report(passed: bool, text: str) -> bool:
    print(f"{'ok  ' if passed else 'FAIL'} {text}")
    return passed


def _python() -> tuple[bool, str]:
    return sys.version_info >= (3, 11), f"Python {platform.python_version()} (3.11 or newer)"


def _packages() -> list[tuple[bool, str]]:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = []
    for pin in project["dependencies"]:
        name, _, wanted = pin.partition("==")
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found = "not installed"
        lines.append((found.partition("+")[0] == wanted, f"{name} {found} (pinned: {wanted})"))
    return lines


def _memory() -> tuple[bool, str]:
    try:
        import psutil
    except ImportError:
        return False, "memory: cannot tell, psutil is not installed"
    total = psutil.virtual_memory().total / 1e9
    return total >= MEMORY_GB, f"memory {total:.1f} GB ({MEMORY_GB} GB or more), {psutil.cpu_count()} cores"


def _disk() -> tuple[bool, str]:
    free = shutil.disk_usage(REPOSITORY).free / 1e9
    return free >= DISK_GB, f"free disk {free:.1f} GB ({DISK_GB} GB or more)"


def clean(venv: str, keep_runs: bool = False) -> int:
    """Remove run folders, caches and the virtual environment; whatever holds a file that git tracks stays."""
    places = [REPOSITORY / name for name in CACHES]
    places += [path for path in REPOSITORY.rglob("__pycache__") if ".venv" not in path.parts]
    places += list(REPOSITORY.glob("*.egg-info"))
    places += [] if keep_runs else [REPOSITORY / "runs"]
    environment = (REPOSITORY / venv).resolve()
    if (environment / "pyvenv.cfg").is_file():
        places.append(environment)
    for path in places:
        if path.is_dir() and not _tracked(path):
            _refuse_if_busy(path)
            shutil.rmtree(path)
            print(f"removed {path.relative_to(REPOSITORY) if path.is_relative_to(REPOSITORY) else path}")
    return 0


def _refuse_if_busy(path: Path) -> None:
    import fcntl

    for lock in path.glob("*/*/lock"):
        with lock.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise GrlibError(
                    f"{lock.parent}: notebooks are running there; wait for them or end them"
                ) from error


def _tracked(path: Path) -> bool:
    try:
        command = ["git", "-C", str(REPOSITORY), "ls-files", "--", str(path)]
        return bool(subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip())
    except OSError:
        return False
