"""Small programming problems, generated: statement, tests, reference solution.

problems.txt beside this file holds the families: blocks of a head `name | topic | arguments | constants`, two
or more lines `- statement`, and the reference. Names in braces are constants that each instance draws; an
argument is `name: kind`, kinds as in `KINDS`. A family whose head ends in `| far` is never trained on; it
combines what others teach. Here an instance gets its constants, its wording, its test style and its tests,
all of which follow from the seed and the instance's number alone.
"""

from __future__ import annotations

import ast
import json
import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from zlib import crc32

from grlib.errors import GrlibError

ENTRY = "solve"
PUBLIC, PRIVATE = 2, 6  # tests of a problem: shown, and kept for the score
STDIN_SHARE = 0.25  # of the problems read text and print, where their arguments allow it
TRIES = 200
RENAMED = 0.5  # share of a program's variables that get another name
VARIABLES = (
    *"abcdefghjmpqruvwyz",
    *("acc", "item", "value", "total", "count", "found", "kept", "best", "left", "right", "out", "part"),
    *("one", "last", "here", "number", "letter", "size", "seen", "made", "step", "place"),
)


class Case(NamedTuple):
    """One test: input and expected output as plain data, as `grlib.sandbox.run` takes them."""

    input: Any
    output: Any
    others: Sequence[Any] = []  # more outputs that are right


class CodeProblem(NamedTuple):
    """A problem as the model sees it, its tests and one solution."""

    statement: str
    style: str  # "call" or "stdin", as in `grlib.sandbox`
    entry: str | None
    public: tuple[Case, ...]
    private: tuple[Case, ...]
    solution: str
    source: str  # family or data set

    @property
    def number(self) -> int:
        """The same for the same statement, whoever asks: tells problems apart in tables of results."""
        return crc32(self.statement.encode())

    @property
    def generated(self) -> bool:
        """Is it an instance of a family here? Its statement then has no examples yet."""
        return self.source in {family.name for family in families()}


@dataclass(frozen=True)
class Family:
    """One block of problems.txt."""

    name: str
    topic: str
    arguments: tuple[tuple[str, str], ...]  # (name, kind)
    constants: tuple[tuple[str, str], ...]  # (name, choices as text)
    statements: tuple[str, ...]
    code: str
    far: bool  # kept for the far test


def _ints(rng: Random, low: int = -9, high: int = 15, most: int = 7) -> list[int]:
    return [rng.randint(low, high) for _ in range(rng.randint(0, most))]


def _word(rng: Random, letters: str = string.ascii_lowercase, least: int = 1, most: int = 7) -> str:
    return "".join(rng.choice(letters) for _ in range(rng.randint(least, most)))


def _grid(rng: Random) -> list[list[int]]:
    width = rng.randint(2, 4)
    return [[rng.randint(0, 9) for _ in range(width)] for _ in range(rng.randint(2, 4))]


KINDS: dict[str, Callable[[Random], Any]] = {
    "ints": _ints,
    "nats": lambda rng: _ints(rng, 0, 30),
    "smalls": lambda rng: _ints(rng, 0, 5),
    "grid": _grid,
    "nat": lambda rng: rng.choice((rng.randint(0, 20), rng.randint(0, 9999))),
    "pos": lambda rng: rng.randint(1, 60),
    "small": lambda rng: rng.randint(0, 8),
    "word": lambda rng: _word(rng, rng.choice(("abcde", "abcxyz", string.ascii_lowercase))),
    "runs": lambda rng: "".join(rng.choice("ab") * rng.randint(1, 3) for _ in range(rng.randint(1, 4))),
    "text": lambda rng: " ".join(_word(rng) for _ in range(rng.randint(1, 4))),
    "moves": lambda rng: _word(rng, "RL", 1, 8),
}
READ = {
    "int": "{name} = int(input())",
    "ints": "{name} = [int(x) for x in input().split()]",
    "str": "{name} = input()",
}
DESCRIBED = {"int": "a number {name}", "ints": "the numbers {name}, in one line", "str": "the text {name}"}
PRINTED = ("int", "str", "list of int", "list of str")  # results that a stdin problem can print
CHOICES = {"letter": "abcdexyz", "later": "cdexyz", "mark": "-*#."}


@lru_cache(maxsize=1)
def families() -> tuple[Family, ...]:
    """All families in order. Raises GrlibError on a block that is not well formed, naming it."""
    text = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8")
    return tuple(_family(block) for block in text.strip().split("\n\n"))


def _family(block: str) -> Family:
    head, *lines = block.split("\n")
    parts = [part.strip() for part in head.split("|")]
    statements = tuple(line[2:] for line in lines if line.startswith("- "))
    code = "\n".join(line for line in lines if not line.startswith("- "))
    if len(parts) not in (4, 5) or len(statements) < 2 or not code.startswith(f"def {ENTRY}("):
        raise GrlibError(
            f"family {head!r}: needs name | topic | arguments | constants, statements and {ENTRY}"
        )
    arguments = tuple(_pair(one, ": ") for one in parts[2].split(","))
    constants = tuple(_pair(one, "=") for one in parts[3].split())
    return Family(parts[0], parts[1], arguments, constants, statements, code, parts[4:] == ["far"])


def _pair(text: str, between: str) -> tuple[str, str]:
    name, _, value = text.strip().partition(between)
    return name, value


def _drawn(choices: str, rng: Random) -> str:
    """One of the choices of a constant: `2..7`, `3..5:2` (a step), or the name of an alphabet."""
    if choices in CHOICES:
        return rng.choice(CHOICES[choices])
    span, _, step = choices.partition(":")
    low, high = map(int, span.split(".."))
    return str(rng.choice(range(low, high + 1, int(step or 1))))


def instance(family: Family, seed: int | str, number: int) -> CodeProblem:
    """Instance `number` of a family."""
    rng = _rng(family, seed, number)
    drawn = _constants(family, rng)

    def filled(text: str) -> str:
        for name, value in drawn.items():
            text = text.replace(f"{{{name}}}", value)
        return text

    statement = filled(rng.choice(family.statements))
    # as Python writes it, so that bugs differ in little
    code = ast.unparse(renamed(ast.parse(filled(family.code)), rng))
    tests = _tests(family, code, rng)
    names = [name for name, _ in family.arguments]
    wanted, call = f"Write a function {ENTRY}({', '.join(names)}).", True
    if _printable(family, tests) and rng.random() < STDIN_SHARE:
        call, (wanted, code, tests) = False, _as_stdin(family, code, tests)
    style, entry = ("call", ENTRY) if call else ("stdin", None)
    public, private = tuple(tests[:PUBLIC]), tuple(tests[PUBLIC:])
    return CodeProblem(f"{statement}\n{wanted}", style, entry, public, private, code, family.name)


def renamed(tree: ast.Module, rng: Random) -> ast.Module:
    """The program with other names for some of its variables (not its arguments), so that a reference cannot
    be known by heart: who writes it word for word has copied it."""
    named = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    used = {node.id for node in named} | {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    inner = [arg for node in ast.walk(tree) if isinstance(node, ast.Lambda) for arg in node.args.args]
    bound = [node.id for node in named if isinstance(node.ctx, ast.Store)]
    given = {
        arg.arg for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) for arg in node.args.args
    }
    names = {}
    for name in sorted({*(arg.arg for arg in inner), *bound} - given):
        if rng.random() < RENAMED:
            names[name] = rng.choice([one for one in VARIABLES if one not in used])
            used.add(names[name])
    for arg in inner:
        arg.arg = names.get(arg.arg, arg.arg)
    for node in named:
        node.id = names.get(node.id, node.id)
    return tree


def _rng(family: Family, seed: int | str, number: int) -> Random:
    return Random(f"{seed}/{family.name}/{number}")


def _constants(family: Family, rng: Random) -> dict[str, str]:
    return {name: _drawn(choices, rng) for name, choices in family.constants}


def _tests(family: Family, code: str, rng: Random) -> list[Case]:
    """Tests with different inputs, the public ones with different outputs too where there are such."""
    space: dict[str, Any] = {}
    exec(compile(code, family.name, "exec"), space)  # our own text, from the families above
    found: dict[str, Case] = {}
    for attempt in range(TRIES):
        arguments = [KINDS[kind](rng) for _, kind in family.arguments]
        copied = json.loads(json.dumps(arguments))
        test = Case(arguments, json.loads(json.dumps(space[ENTRY](*copied))))
        key = json.dumps(test.input)
        alike = len(found) == 1 and test.output == next(iter(found.values())).output
        if key not in found and (not alike or attempt > TRIES // 2):
            found[key] = test
        if len(found) == PUBLIC + PRIVATE:
            return list(found.values())
    raise GrlibError(f"family {family.name}: only {len(found)} different tests in {TRIES} tries")


# Problems that read text and print


def _printable(family: Family, tests: list[Case]) -> bool:
    """May this be a stdin problem: arguments are lines that are not empty, results something to print?"""
    if any(kind == "grid" for _, kind in family.arguments):  # the one kind that is not a line
        return False
    return all(
        _type_of(test.output) in PRINTED and all(value != [] for value in test.input) for test in tests
    )


def _type_of(value: Any) -> str:
    if isinstance(value, list):
        inner = {type(one).__name__ for one in value}
        return f"list of {inner.pop()}" if len(inner) == 1 else "list"
    return type(value).__name__


def _as_stdin(family: Family, code: str, tests: list[Case]) -> tuple[str, str, list[Case]]:
    """What is asked for, reference and tests with arguments as lines of text and the result printed, lists
    with spaces between."""
    kinds = [(name, _line_type(tests[0].input[i])) for i, (name, _) in enumerate(family.arguments)]
    read = [READ[kind].format(name=name) for name, kind in kinds]
    described = " and ".join(DESCRIBED[kind].format(name=name) for name, kind in kinds)
    shown = "*result" if isinstance(tests[0].output, list) else "result"
    names = ", ".join(name for name, _ in kinds)
    solution = "\n".join([code, *read, f"result = {ENTRY}({names})", f"print({shown})"])
    lines = [
        Case("".join(f"{_line(value)}\n" for value in test.input), f"{_line(test.output)}\n")
        for test in tests
    ]
    return f"Read {described}; print the result.", solution, lines


def _line_type(value: Any) -> str:
    return "ints" if isinstance(value, list) else type(value).__name__


def _line(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


# Splits

SPLITS = ("base", "train", "near", "far", "valid")
HOMES = (
    "near",
    "valid",
    *("base", "train") * 4,
)  # of equal shares of the programs of families that are not far


def problems(split: str, count: int, seed: int = 0) -> list[CodeProblem]:
    """`count` problems of a split, no statement twice, and none that another split of the seed has.

    "base" (for the warm-up), "train" (for self-training), "valid" and "near" share families but no constants,
    under whatever words; "far" has families of its own. Which split an instance belongs to follows from
    family and constants, so that splits of any size stay apart.
    """
    if split not in SPLITS:
        raise GrlibError(f"split {split!r}: choose one of {', '.join(SPLITS)}")
    found: dict[str, CodeProblem] = {}
    for problem in _stream(split, seed):
        found.setdefault(problem.statement, problem)
        if len(found) == count:
            return list(found.values())
    raise GrlibError(
        f"split {split!r}: {len(found)} different problems exist, {count} were asked for; lower the number"
    )


def _stream(split: str, seed: int) -> Iterator[CodeProblem]:
    """Instances of a split, the families in turn."""
    chosen = [family for family in families() if family.far == (split == "far")]
    for number in range(TRIES):
        for family in chosen:
            constants = _constants(family, _rng(family, seed, number))
            home = Random(f"{family.name} {constants}").choice(HOMES)
            if split in ("far", home):
                yield instance(family, seed, number)
