"""Digests of source code that ignore comments, docstrings and layout."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable
from functools import cache
from importlib.util import resolve_name
from pathlib import Path

from grlib.errors import GrlibError

PACKAGE = Path(__file__).resolve().parents[1]
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def code_digest(*modules: str) -> str:
    """One digest (hex) for the named modules (as "grlib.errors") and all grlib modules that they import."""
    lines = [f"{name} {digest}\n" for name, digest in sorted(reached(modules).items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def reached(modules: Iterable[str]) -> dict[str, str]:
    """The digest of each named grlib module and of all grlib modules that it imports, directly or not.

    Imports inside functions count, so a change of a module that is loaded late makes its users stale too.
    GrlibError for an unknown name.
    """
    found: dict[str, str] = {}
    todo = [PACKAGE.name, *modules]
    while todo:
        name = todo.pop()
        if name in found:
            continue
        path = module_file(name)
        if path is None:
            raise GrlibError(f"module {name!r}: must be one of {PACKAGE.name}/*.py")
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        found[name], imported = _parsed(path.read_text(encoding="utf-8"), package)
        todo += [other for other in imported if module_file(other)]
        if (data := path.with_suffix(".txt")).is_file():  # the data of the module
            found[name] += hashlib.sha256(data.read_bytes()).hexdigest()
    return found


@cache  # by the text itself: a loop needs the same digests at each of its steps
def _parsed(text: str, package: str) -> tuple[str, list[str]]:
    """The digest of a module's text and the names that it imports."""
    tree = ast.parse(text)
    names = _imported(tree, package)
    return tree_digest(tree), names


def module_file(name: str) -> Path | None:
    """The file of a grlib module, None if there is no such module."""
    base = PACKAGE.parent.joinpath(*name.split("."))
    candidates = (base.with_name(f"{base.name}.py"), base / "__init__.py")
    found = next((path for path in candidates if path.is_file()), None)
    return found if name.split(".")[0] == PACKAGE.name else None


def imported_modules(tree: ast.AST) -> list[str]:
    """Names of the grlib modules that a syntax tree imports."""
    return [name for name in _imported(tree, "") if module_file(name)]


def _imported(tree: ast.AST, package: str) -> list[str]:
    """All names that a syntax tree imports: modules, and what comes from them; `package` resolves dots."""
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return names


def tree_digest(tree: ast.AST) -> str:
    """Digest of a syntax tree without positions and docstrings; changes the tree in place."""
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            del node.body[0]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()
