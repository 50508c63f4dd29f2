"""The exercises: solutions pass their checks, starters do not; students get no solutions and no outputs."""

import subprocess
import sys
from functools import lru_cache

import pytest

from grlib.runs import notebooks

FOLDER = notebooks.REPOSITORY / "exercises"
BOOKS = [notebooks.read(path) for path in sorted(FOLDER.glob("*.ipynb"))]
PARTS = ("starter", "check", "solution")
LEAST = 3  # exercises of a notebook
SLOW = ("03", "04", "05", "08")  # load a model, or wait for a program that never ends


def part_of(cell):
    return next((tag for tag in PARTS if notebooks.is_tagged(cell, tag)), "given")


def exercises(book):
    """Of each exercise its three cells, and what the notebook gives before them."""
    given, found = [], []
    for cell in book.code():
        if (part := part_of(cell)) == "given":
            given.append(cell["source"])
            continue
        if part == "starter":
            found.append({"given": len(given)})
        found[-1][part] = cell["source"]
    return given, found


EVERY = [
    pytest.param(book, number, id=f"{book.name}-{number + 1}", marks=marks)
    for book in BOOKS
    for marks in [[pytest.mark.integration] * (book.name[:2] in SLOW)]
    for number in range(len(exercises(book)[1]))
]


@lru_cache(maxsize=2)
def names_given(path, cells):
    names = {}
    for source in exercises(notebooks.read(path))[0][:cells]:
        exec(source, names)
    return names


def test_every_notebook_has_exercises():
    assert [book.name for book in BOOKS] == [book.name for book in notebooks.every()]
    for book in BOOKS:
        tags = [part for part in map(part_of, book.code()) if part != "given"]
        assert tags == [*PARTS] * (len(tags) // 3) and len(tags) >= 3 * LEAST, book.name
        assert not any(cell["outputs"] or cell["execution_count"] for cell in book.code()), book.name
        linked = [cell["source"] for cell in notebooks.find(notebooks.every(), book.name).cells]
        assert f"](../exercises/{book.path.name})" in "".join(linked), book.name


@pytest.mark.parametrize(("book", "number"), EVERY)
def test_the_solution_passes_and_the_starter_does_not(book, number):
    one = exercises(book)[1][number]
    names = names_given(book.path, one["given"])
    solved, started = dict(names), dict(names)
    exec(one["solution"], solved)
    exec(one["check"], solved)
    # the next exercise needs what was given
    assert all(solved[name] is value for name, value in names.items())
    exec(one["starter"], started)
    with pytest.raises(AssertionError, match=".{10}"):  # a message that helps
        exec(one["check"], started)


def test_students_get_no_solutions_and_keep_what_they_wrote(tmp_path):
    command = [sys.executable, str(FOLDER / "student.py"), str(tmp_path)]
    subprocess.run(command, check=True)
    for original in (*BOOKS, *notebooks.every()):
        copy = notebooks.read(tmp_path / original.path.relative_to(notebooks.REPOSITORY))
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in copy.cells)
        kept = [cell["source"] for cell in original.code() if part_of(cell) != "solution"]
        assert [cell["source"] for cell in copy.code()] == kept
        assert not any(notebooks.is_tagged(cell, "solution") for cell in copy.cells)
    copy.path.write_text("mine")
    subprocess.run(command, check=True)
    assert copy.path.read_text() == "mine"
