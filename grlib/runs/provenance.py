"""Where a result comes from: versions, device, commit. It works without the notebook packages."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from typing import Any

from grlib.runs import housekeeping

PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "numpy", "pandas", "pyarrow", "matplotlib")


def versions() -> dict[str, str]:
    """Versions of Python and the packages that results depend on, without importing them."""
    return {"python": platform.python_version()} | {name: housekeeping.installed(name) for name in PACKAGES}


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
    git = ["git", "-C", str(housekeeping.REPOSITORY)]
    options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 30, "check": True}
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], **options).stdout.strip()
        changes = subprocess.run([*git, "status", "--porcelain", "--untracked-files=no"], **options).stdout
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}
    return {"commit": commit, "dirty": bool(changes.strip())}
