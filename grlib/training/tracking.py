"""Curves of long trainings in trackio, while they run: only where GRLIB_TRACKIO names a project.

trackio keeps them in files of this machine; `trackio show --project NAME` draws them.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from grlib.errors import GrlibError
from grlib.training.parallel import first_process

VARIABLE = "GRLIB_TRACKIO"


def track(name: str, row: Mapping[str, float]) -> None:
    """Send a row of a curve, with its `step`, to the run `name`, new or begun before. GrlibError without
    the package."""
    project = os.environ.get(VARIABLE)
    if project and first_process():
        values = {key: value for key, value in row.items() if key != "step" and math.isfinite(value)}
        _run(project, name).log(values, step=int(row["step"]))


@lru_cache(maxsize=1)  # `init` ends the run before
def _run(project: str, name: str) -> Any:
    try:
        import trackio
    except ImportError as error:
        raise GrlibError(
            f"{VARIABLE}={project}: trackio is not installed; `python -m pip install trackio`, or unset it"
        ) from error
    with contextlib.redirect_stdout(io.StringIO()):  # greetings, with paths of this machine
        return trackio.init(
            project, name=name, resume="allow", embed=False, auto_log_cpu=False, auto_log_gpu=False
        )
