"""The notebooks as data: order, parameters, declared artefacts, code, and outputs cleaned for storing.

nbformat reads notebooks too, but takes a second to import.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import copy
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grlib.errors import GrlibError, nearest
from grlib.runs.files import small_png
from grlib.runs.sources import imported_modules, reached, tree_digest

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / "notebooks"
IN_REPOSITORY = "repo:"  # prefix of a declared input that comes with the repository, not from the run folder


@dataclass(frozen=True)
class Notebook:
    """One notebook file: its path and its JSON, in which each text is one string."""

    path: Path
    content: dict[str, Any]

    @property
    def name(self) -> str:
        """File name without its ending, as in "03_imitate_search"."""
        return self.path.stem

    @property
    def cells(self) -> list[dict[str, Any]]:
        """All cells in order."""
        return list(self.content["cells"])

    @property
    def declared(self) -> Mapping[str, Any]:
        """The notebook's declaration: lists `reads`, `may_read` (what not every run has), `writes` and
        `may_write`."""
        return dict(self.content["metadata"].get("grlib", {}))

    def files(self, profile: str, *lists: str) -> list[str]:
        """The names in these lists of the declaration, "{profile}" filled in: relative to the run folder, or
        to the repository if they start with "repo:"."""
        return [name.replace("{profile}", profile) for each in lists for name in self.declared.get(each, [])]

    def parameters(self) -> dict[str, Any]:
        """Names and defaults of the cell tagged `parameters`; each must be a plain literal."""
        lines = [line for cell in self.cells if is_tagged(cell, "parameters") for line in _tree(cell).body]
        assigned = [line for line in lines if isinstance(line, ast.Assign)]
        return {ast.unparse(line.targets[0]): ast.literal_eval(line.value) for line in assigned}

    def code(self) -> list[dict[str, Any]]:
        """The code cells, without the one that papermill added."""
        cells = [cell for cell in self.cells if cell["cell_type"] == "code"]
        return [cell for cell in cells if not is_tagged(cell, "injected-parameters")]

    def code_digest(self) -> str:
        """Digest of the code cells; comments, markdown and outputs do not count."""
        return hashlib.sha256("".join(tree_digest(_tree(cell)) for cell in self.code()).encode()).hexdigest()

    def modules(self) -> dict[str, str]:
        """Every grlib module that the code imports, directly or not, with its digest."""
        return reached(name for cell in self.code() for name in imported_modules(_tree(cell)))

    def sections(self) -> list[str]:
        """For every cell the first- or second-level heading that it stands under."""
        found, heading = [], "(before the first heading)"
        for cell in self.cells:
            if cell["cell_type"] == "markdown":
                heading = [heading, *re.findall(r"^##? +(.+)$", cell["source"], re.MULTILINE)][-1]
            found.append(heading)
        return found

    def seconds_by_section(self) -> list[tuple[str, float]]:
        """Each section of an executed notebook with the seconds of its cells, in order."""
        seconds = dict.fromkeys(self.sections(), 0.0)
        for section, cell in zip(self.sections(), self.cells, strict=True):
            seconds[section] += cell["metadata"].get("papermill", {}).get("duration") or 0.0
        return [(section, round(spent, 1)) for section, spent in seconds.items()]


def is_tagged(cell: Mapping[str, Any], tag: str) -> bool:
    """Whether a cell has a tag."""
    return tag in cell["metadata"].get("tags", [])


def _tree(cell: Mapping[str, Any]) -> ast.Module:
    code = cell["source"]
    with contextlib.suppress(SyntaxError):
        return ast.parse(code)
    from IPython.core.inputtransformer2 import TransformerManager

    with contextlib.suppress(SyntaxError):
        return ast.parse(TransformerManager().transform_cell(code))  # magics become calls
    return ast.parse(f"damaged = {code!r}")  # the run will report the syntax error


# Finding notebooks


def read(path: Path) -> Notebook:
    """Read a notebook file; a damaged one raises GrlibError."""
    with contextlib.suppress(ValueError, AttributeError):  # no JSON, or no object
        content = json.loads(path.read_text(encoding="utf-8"), object_hook=_joined)
        if content.keys() >= {"cells", "metadata"}:
            return Notebook(path, content)
    raise GrlibError(f"{path}: not a notebook; restore it with `git checkout {path}`")


def _joined(part: dict[str, Any]) -> dict[str, Any]:
    """A part of a notebook's JSON; a text stored as a list of lines becomes one string."""
    for name, value in part.items():
        if isinstance(value, list) and (name in ("source", "text") or "/" in name):  # "image/png"
            part[name] = "".join(value)
    return part


def every() -> list[Notebook]:
    """All notebooks NN_name.ipynb in running order."""
    return [read(path) for path in sorted(FOLDER.glob("[0-9][0-9]_*.ipynb"))]


def select(only: Iterable[str] = ()) -> list[Notebook]:
    """The notebooks named in `only`, as "06" or in full (default: all), in running order."""
    available = every()
    if not available:
        raise GrlibError(f"{FOLDER}: no notebooks here; use a clone of the repository (pip install -e .)")
    wanted = {find(available, name).name for name in only}
    return [notebook for notebook in available if not wanted or notebook.name in wanted]


def find(available: list[Notebook], name: str) -> Notebook:
    """The notebook with this number or name; GrlibError with the nearest name if there is none."""
    stem = name.removesuffix(".ipynb").rpartition("/")[2]
    for notebook in available:
        if stem == notebook.name or stem.isdigit() and notebook.name.startswith(f"{stem.zfill(2)}_"):
            return notebook
    raise GrlibError(f"notebook {name!r}: unknown; {nearest(stem, [book.name for book in available])}")


def maker(name: str, profile: str) -> str | None:
    """The name of the notebook that writes an artefact (or a folder that holds it); None if none does."""
    for notebook in every():
        if any(f"{name}/".startswith(f"{written}/") for written in notebook.files(profile, "writes")):
            return notebook.name
    return None


def bind(notebook: Notebook, given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the given values that are parameters of this notebook; each must have its default's type."""
    defaults = notebook.parameters()
    return {name: _typed(name, value, defaults[name]) for name, value in given.items() if name in defaults}


def _typed(name: str, value: Any, default: Any) -> Any:
    wanted = type(default)
    if isinstance(value, str) and wanted is not str:
        with contextlib.suppress(ValueError, SyntaxError):
            value = ast.literal_eval(value)
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is not wanted:
        raise GrlibError(f"parameter {name}={value!r}: must be of type {wanted.__name__}, as {default!r} is")
    return value


# Outputs for storing


def with_outputs(original: Notebook, executed: Notebook, hide: Mapping[str, str]) -> dict[str, Any]:
    """The notebook's JSON with the outputs of its executed copy, without progress, paths and addresses.

    `hide` maps texts (absolute paths) to their replacements. GrlibError if the code is not the same.
    """
    if original.code_digest() != executed.code_digest():
        raise GrlibError(f"{original.name}: its code changed since it ran; first `python -m grlib reproduce`")
    recorded = copy.deepcopy(original)
    for count, (cell, done) in enumerate(zip(recorded.code(), executed.code(), strict=True), start=1):
        cell["execution_count"], cell["outputs"] = count, copy.deepcopy(done["outputs"])
        for output in cell["outputs"]:
            if "execution_count" in output:
                output["execution_count"] = count
            for holder in (output, output.get("data", {})):
                for kind in [kind for kind in holder if kind.startswith("text")]:
                    holder[kind] = _hidden(holder[kind], hide)
                if "image/png" in holder:
                    picture = small_png(base64.b64decode(holder["image/png"]))
                    holder["image/png"] = base64.b64encode(picture).decode()
        cell["outputs"] = [output for output in cell["outputs"] if output.get("text") != ""]
    return recorded.content


def _hidden(text: str, hide: Mapping[str, str]) -> str:
    for secret in sorted(hide, key=len, reverse=True):
        text = text.replace(secret, hide[secret])
    text = re.sub(r"[^\n]*\r", "", text)  # lines that were to give way to the next, as those of `Run.say`
    return re.sub(r"\b0x[0-9a-f]{9,}\b", "0x...", text)
