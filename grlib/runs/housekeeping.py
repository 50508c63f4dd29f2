"""The command `check`: versions of packages, size of the machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from grlib.errors import GrlibError

REPOSITORY = Path(__file__).resolve().parents[2]
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
    lock = REPOSITORY / "requirements.lock"  # only in a clone
    pins = re.findall(r"^([\w.-]+)==([^\s+;]+)", lock.read_text() if lock.is_file() else "", re.MULTILINE)
    found = {name: installed(name).partition("+")[0] for name, _ in pins}
    wrong = [f"{name} {found[name]} (pinned: {wanted})" for name, wanted in pins if found[name] != wanted]
    yield from ((False, line) for line in wrong)
    yield not wrong, f"{len(pins) - len(wrong)} of {len(pins)} packages are those of requirements.lock"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    yield memory >= MEMORY_GB, f"memory {memory:.1f} GB ({MEMORY_GB} GB or more), {os.cpu_count()} cores"
    free = shutil.disk_usage(REPOSITORY).free / 1e9
    yield free >= DISK_GB, f"free disk {free:.1f} GB ({DISK_GB} GB or more)"


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
