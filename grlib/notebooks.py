"""The notebooks as data: order, parameters, declared artefacts, code, and outputs cleaned for storing."""

from __future__ import annotations

import ast
import copy
import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grlib.errors import GrlibError
from grlib.sources import imported_modules, reached, tree_digest

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDER = REPOSITORY / "notebooks"
IN_REPOSITORY = "repo:"  # prefix of a declared input that comes with the repository, not from the run folder


@dataclass(frozen=True)
class Notebook:
    """One notebook file, read once."""

    path: Path
    content: Mapping[str, Any]

    @property
    def name(self) -> str:
        """File name without its ending, as in "03_imitate_search"."""
        return self.path.stem

    @property
    def cells(self) -> list[dict[str, Any]]:
        """All cells in order, as the file has them."""
        return list(self.content["cells"])

    @property
    def declared(self) -> Mapping[str, Any]:
        """The notebook's declaration: lists `reads`, `writes` and, unless for all, `profiles`."""
        return self.content.get("metadata", {}).get("grlib", {})

    def reads(self, profile: str) -> list[str]:
        """Declared inputs, "{profile}" filled in; names with "repo:" in front are in the repository."""
        return [name.replace("{profile}", profile) for name in self.declared.get("reads", [])]

    def writes(self, profile: str) -> list[str]:
        """Declared outputs relative to the run folder, "{profile}" filled in."""
        return [name.replace("{profile}", profile) for name in self.declared.get("writes", [])]

    def in_profile(self, profile: str) -> bool:
        """Whether this notebook belongs to a profile (to all, unless it declares some)."""
        return profile in self.declared.get("profiles", [profile])

    def parameters(self) -> dict[str, Any]:
        """Names and defaults of the cell tagged `parameters`; each must be a plain literal."""
        found: dict[str, Any] = {}
        for cell in self.cells:
            if "parameters" in cell.get("metadata", {}).get("tags", []):
                for line in ast.parse(source(cell)).body:
                    if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name):
                        found[line.targets[0].id] = ast.literal_eval(line.value)
        return found

    def code_digest(self) -> str:
        """Digest of the code cells; comments, markdown and outputs do not count."""
        return hashlib.sha256("".join(map(_cell_digest, self._code())).encode()).hexdigest()

    def modules(self) -> dict[str, str]:
        """Every grlib module that the code reaches, with its digest."""
        return reached({name for code in self._code() for name in _imports(code)})

    def section(self, index: int) -> str:
        """The last second-level heading at or above cell `index`, for messages."""
        headings = [
            match[1]
            for cell in self.cells[: index + 1]
            if cell["cell_type"] == "markdown"
            for match in re.finditer(r"^##? +(.+)$", source(cell), re.MULTILINE)
        ]
        return headings[-1] if headings else "(before the first heading)"

    def _code(self) -> list[str]:
        return [source(cell) for cell in self.cells if cell["cell_type"] == "code"]


def source(cell: Mapping[str, Any]) -> str:
    """The text of a cell (files store it as one string or as a list of lines)."""
    return cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"])


def _cell_digest(code: str) -> str:
    magics = [line for line in code.splitlines() if line.lstrip().startswith(("%", "!"))]
    try:
        return tree_digest(ast.parse(_without_magics(code))) + "\n".join(magics)
    except SyntaxError:
        return code


def _imports(code: str) -> list[str]:
    try:
        return list(imported_modules(ast.parse(_without_magics(code))))
    except SyntaxError:
        return []


def _without_magics(code: str) -> str:
    return "\n".join("" if line.lstrip().startswith(("%", "!")) else line for line in code.splitlines())


# Finding notebooks


def read(path: Path) -> Notebook:
    """Read a notebook file; a damaged one raises GrlibError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content["cells"]
    except (ValueError, KeyError, TypeError) as error:
        raise GrlibError(f"{path}: not a notebook; restore it with `git checkout {path}`") from error
    return Notebook(path, content)


def every() -> list[Notebook]:
    """All notebooks NN_name.ipynb in running order."""
    found = [read(path) for path in sorted(FOLDER.glob("[0-9][0-9]_*.ipynb"))]
    if not found:
        raise GrlibError(
            f"{FOLDER}: no notebooks here; run from a clone of the repository (pip install -e .)"
        )
    return found


def select(available: list[Notebook], only: Iterable[str] = (), start: str | None = None) -> list[Notebook]:
    """The notebooks named in `only` (all when empty) from `start` on, by number ("06") or full name."""
    wanted = {find(available, name).name for name in only} or {notebook.name for notebook in available}
    first = find(available, start).name if start else ""
    chosen = [notebook for notebook in available if notebook.name in wanted and notebook.name >= first]
    if not chosen:
        raise GrlibError(
            f"--from {start}: comes after every notebook named with --only; leave one of them out"
        )
    return chosen


def find(available: list[Notebook], name: str) -> Notebook:
    """The notebook with this number or name; an unknown one raises GrlibError with the nearest names."""
    stem = name.removesuffix(".ipynb").rpartition("/")[2]
    number = stem.zfill(2) if stem.isdigit() else stem
    for notebook in available:
        if notebook.name == stem or notebook.name.partition("_")[0] == number:
            return notebook
    raise GrlibError(f"notebook {name!r}: {suggest(stem, [notebook.name for notebook in available])}")


def suggest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest known one, or all of them."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return (
        f"unknown; did you mean {near[0]!r}?" if near else f"unknown; there are {', '.join(known) or 'none'}"
    )


def maker(name: str, profile: str) -> str | None:
    """The notebook that declares to write an artefact (or a folder around it), None when none does."""
    if not FOLDER.is_dir():
        return None
    for path in sorted(FOLDER.glob("[0-9][0-9]_*.ipynb")):
        if any(name == written or name.startswith(f"{written}/") for written in read(path).writes(profile)):
            return path.stem
    return None


# Parameters


def bind(notebook: Notebook, given: Mapping[str, Any]) -> dict[str, Any]:
    """The given values that this notebook has as parameters, checked against the types of the defaults."""
    defaults = notebook.parameters()
    return {name: _typed(name, value, defaults[name]) for name, value in given.items() if name in defaults}


def check_known(available: list[Notebook], given: Mapping[str, Any]) -> None:
    """GrlibError for a parameter that none of the notebooks declares, or that has the wrong type for one."""
    known = sorted({name for notebook in available for name in notebook.parameters()})
    for name in given:
        if name not in known:
            raise GrlibError(f"parameter {name!r}: {suggest(name, known)}")
    for notebook in available:
        bind(notebook, given)


def _typed(name: str, value: Any, default: Any) -> Any:
    wanted = type(default)
    try:
        if isinstance(value, str) and wanted is not str:
            value = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        pass
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is not wanted:
        raise GrlibError(
            f"parameter {name}={value!r}: must be of type {wanted.__name__}, as its default {default!r} is"
        )
    return value


# Outputs for storing


def with_outputs(original: Notebook, executed: Notebook, hide: Mapping[str, str]) -> dict[str, Any]:
    """The notebook with an executed one's outputs, without times, widget state and this machine's paths.

    `hide` maps texts (absolute paths) to what stands for them. GrlibError when the code is not the same.
    """
    recorded: dict[str, Any] = copy.deepcopy(dict(original.content))
    recorded["metadata"] = {
        k: v for k, v in recorded["metadata"].items() if k not in ("papermill", "widgets")
    }
    ran = [cell for cell in executed.cells if cell["cell_type"] == "code" and not _is_injected(cell)]
    mine = [cell for cell in recorded["cells"] if cell["cell_type"] == "code"]
    if [_cell_digest(source(cell)) for cell in ran] != [_cell_digest(source(cell)) for cell in mine]:
        raise GrlibError(
            f"{original.name}: its code changed since it ran; run `python -m grlib reproduce` again"
        )
    for count, (cell, done) in enumerate(zip(mine, ran, strict=True), start=1):
        cell["execution_count"] = count
        cell["outputs"] = _clean_outputs(done["outputs"], count, hide)
        cell["metadata"] = {k: v for k, v in cell["metadata"].items() if k not in ("papermill", "execution")}
    return recorded


def _is_injected(cell: Mapping[str, Any]) -> bool:
    return "injected-parameters" in cell.get("metadata", {}).get("tags", [])


def _clean_outputs(
    outputs: list[dict[str, Any]], count: int, hide: Mapping[str, str]
) -> list[dict[str, Any]]:
    cleaned: list[dict[str, Any]] = []
    for output in copy.deepcopy(outputs):
        if "execution_count" in output:
            output["execution_count"] = count
        if "data" in output:
            output["data"] = {k: v for k, v in output["data"].items() if "widget" not in k}
            output["data"] = {
                k: _hidden(v, hide) if k.startswith("text/") else v for k, v in output["data"].items()
            }
            if not output["data"]:
                continue
        if "text" in output:
            output["text"] = _hidden(output["text"], hide)
            if cleaned and cleaned[-1].get("name") == output.get("name"):
                cleaned[-1]["text"] += output["text"]
                continue
        cleaned.append(output)
    return cleaned


def _hidden(text: str | list[str], hide: Mapping[str, str]) -> str:
    joined = text if isinstance(text, str) else "".join(text)
    for secret in sorted(hide, key=len, reverse=True):
        joined = joined.replace(secret, hide[secret])
    return re.sub(r"\b0x[0-9a-f]{9,}\b", "0x...", joined)
