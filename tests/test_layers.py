"""The rooms of grlib stand in an order: a room imports from itself and from those before it."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "grlib"
ORDER = (
    "errors",
    "profiles",
    "runs",
    "sandbox",
    "models",
    "training",
    "sampling",
    "selftrain",
    "tasks",
    "ppo",
)
ORDER += ("results", "plan", "__main__")
FILES = {
    ".".join(("grlib", *path.relative_to(PACKAGE).with_suffix("").parts)): path
    for path in PACKAGE.rglob("*.py")
}
FILES = {name.removesuffix(".__init__"): path for name, path in FILES.items()}


def imported(name: str) -> set[str]:
    """The files of grlib that a file imports when it runs, also inside functions."""
    found, tree = set(), ast.parse(FILES[name].read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "grlib":
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {one if one in FILES else node.module for one in whole}
    return found - {name, "grlib"}


@pytest.mark.parametrize("name", sorted(FILES.keys() - {"grlib"}))
def test_arrows_go_to_rooms_before(name):
    room = ORDER.index(name.split(".")[1])
    for other in imported(name):
        assert ORDER.index(other.split(".")[1]) <= room, f"{name} imports {other}, of a later room"


def test_no_file_is_in_a_circle():
    waiting = {name: imported(name) for name in FILES}
    while waiting:
        free = [name for name, needs in waiting.items() if not needs & waiting.keys()]
        assert free, f"a circle among {sorted(waiting)}"
        for name in free:
            del waiting[name]
