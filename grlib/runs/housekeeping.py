"""What this machine has, and the state of the code: for the manifests of results and the command `check`.

Memory, cores, GPU, versions of packages, git commit. It needs no package besides grlib.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grlib.errors import GrlibError

REPOSITORY = Path(__file__).resolve().parents[2]
MEMORY_GB, DISK_GB = 4, 2
PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "numpy", "pandas", "pyarrow", "matplotlib")


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


def versions() -> dict[str, str]:
    """Versions of Python and the packages that results depend on, without importing them."""
    return {"python": platform.python_version()} | {name: installed(name) for name in PACKAGES}


def device() -> str:
    """The name of the GPU if torch is loaded and has one, else the processor and its number of cores."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return f"cpu, {platform.machine()}, {cores()} cores"


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def git_state() -> dict[str, Any]:
    """The commit, and whether tracked files differ from it; both None outside a git clone."""
    git = ["git", "-C", str(REPOSITORY), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        said = subprocess.run(git, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}
    return {"commit": said.removesuffix("-dirty"), "dirty": said.endswith("-dirty")}
