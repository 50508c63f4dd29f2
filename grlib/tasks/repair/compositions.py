"""Small programming problems by composition: statement, tests, reference solution.

compositions.txt beside this file holds the steps: blocks of a head `name | given -> made | constants`, two
lines `- phrase`, a line `+ phrase` that the base never reads, and code that makes `b` from `a`, in one
version or several (`or` between them). A problem is a chain of two to four steps whose types fit. Its
statement is made of their phrases, its reference of their code, and its tests by calling them here.
`problems` draws the problems of a split; all of a problem follows from split, seed and number.
"""

from __future__ import annotations

import ast
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, pairwise, product
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from zlib import crc32

from grlib.errors import GrlibError
from grlib.tasks.repair.problems import COMPOSED, PUBLIC, Case, CodeProblem

ENTRY = "solve"
PRIVATE = 10  # tests of a problem that are kept for the score
DEPTHS, DEEPER = (2, 3, 3), 4  # steps of a problem
STDIN_SHARE = 0.25  # of the problems read text and print, where their types allow it
FREE_SHARE = 0.2  # of the problems have one of their numbers as an argument, where there is such
UNREAD = 0.5  # share of the steps in words that the base never reads, in all splits but its own
RENAMED = 0.3  # share of a program's loop variables that get another name
DRAWN = 36  # inputs to choose the tests from
LONGEST = 48  # characters of an input or output as Python writes it; also values in a list, on the way too
LARGEST = 10_000  # absolute value of a number
COMMON = 16  # inputs on which chains are compared
LONGEST_CODE = 420  # characters of a reference: it must fit into an answer


@dataclass(frozen=True)
class Primitive:
    """One block of compositions.txt."""

    name: str
    given: str  # type of what it takes, a key of `KINDS`, or "groups"
    made: str
    constants: Mapping[str, Sequence[Any]]  # name -> choices
    phrases: tuple[str, ...]
    unread: str  # a phrase that the base never reads
    codes: tuple[str, ...]
    call: Callable[..., Any]  # the first code as a function of `a` and the constants


class Step(NamedTuple):
    """A primitive with values of its constants."""

    primitive: Primitive
    constants: Mapping[str, Any]


Chain = tuple[Step, ...]


@cache
def primitives() -> Mapping[str, Primitive]:
    """All primitives by name."""
    text = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8")
    return {one.name: one for one in map(_primitive, text.strip().split("\n\n"))}


def _primitive(block: str) -> Primitive:
    head, *lines = block.split("\n")
    *phrases, unread = (line[2:] for line in lines if line.startswith(("- ", "+ ")))
    codes = "\n".join(line for line in lines if not line.startswith(("- ", "+ "))).split("\nor\n")
    name, types, constants = (part.strip() for part in head.split("|"))
    given, made = types.split(" -> ")
    choices = {part[0]: _choices(part[2:]) for part in constants.split()}
    space: dict[str, Any] = {}
    body = textwrap.indent(codes[0], "    ")
    exec(f"def call({', '.join(['a', *choices])}):\n{body}\n    return b", space)  # our own text
    return Primitive(name, given, made, choices, tuple(phrases), unread, tuple(codes), space["call"])


def _choices(text: str) -> Sequence[Any]:
    """`2..5`: these numbers; other text: its characters."""
    low, between, high = text.partition("..")
    return range(int(low), int(high) + 1) if between else text


# Inputs and what a chain makes of them


def _numbers(rng: Random) -> list[int]:
    low, high = rng.choice(((-3, 6), (-9, 15), (0, 9), (0, 12), (-20, 40)))
    found = [rng.randint(low, high) for _ in range(rng.choice((0, 1, 2, 3, 4, 5, 5, 6, 6, 7, 7, 8)))]
    return [x for x in found for _ in range(rng.choice((1, 1, 2)))][:8] if rng.random() < 0.3 else found


def _word(rng: Random) -> str:
    letters = rng.choice(("ab", "abc", "abcei", "aeioxyz", "abcdefghijklmnopqrstuvwxyz"))
    return "".join(rng.choice(letters) * rng.choice((1, 1, 1, 2)) for _ in range(rng.randint(1, 5)))


def _words(rng: Random) -> list[str]:
    found = [_word(rng) for _ in range(rng.choice((1, 2, 3, 3, 4, 4)))]
    return found + found[:1] if rng.random() < 0.25 else found


class Kind(NamedTuple):
    """A type that problems are given: how it is drawn, named, read and described."""

    share: int  # of the problems
    draw: Callable[[Random], Any]
    names: tuple[str, ...]  # of the argument
    things: tuple[str, ...]
    read: str
    described: str


KINDS = {
    "ints": Kind(
        10, _numbers, ("xs", "nums", "data"), ("the list of numbers {}", "the numbers {}"),
        "{} = [int(x) for x in input().split()]", "the numbers {}, in one line",
    ),
    "text": Kind(
        6, lambda rng: " ".join(_words(rng)[: rng.choice((1, 1, 2, 3))]), ("s", "t"),
        ("the text {}", "the string {}"), "{} = input()", "the text {}",
    ),
    "words": Kind(
        4, _words, ("ws", "names", "tokens"), ("the list of words {}", "the words {}"),
        "{} = input().split()", "the words {}, in one line",
    ),
    "int": Kind(
        3, lambda rng: rng.randint(*rng.choice(((0, 12), (0, 60), (10, 300), (100, 5000), (-30, -1)))),
        ("n", "num"), ("the number {}", "the whole number {}"), "{} = int(input())", "a number {}",
    ),
}  # fmt: skip
MADE = {  # names of what steps make
    "ints": ("ys", "zs", "kept", "vals", "found", "made", "out"),
    "text": ("u", "word", "part", "out"),
    "words": ("parts", "items", "found", "out"),
    "groups": ("groups", "rows", "blocks", "lists"),
    "int": ("m", "r", "result", "value"),
}
LOOPED = ("v", "w", "y", "z", "e", "item", "one", "each")  # other names for variables of a step
FORMS = (  # of a task: before the first step, between two steps, at the end
    ("Given {}, ", ", then ", ". Return the result."),
    ("Start with {}. Then ", ". Then ", ". Return what you get."),
    ("From {}, compute this: ", "; then ", "; return the result."),
    ("Do this with {}: 1. ", "; {}. ", "; return the last result."),
)


def result(chain: Chain, value: Any) -> Any:
    """What the chain makes of a value; None where a step is undefined or makes something large."""
    for step in chain:
        if value is None:
            return None
        try:
            value = step.primitive.call(value, **step.constants)
        except (ValueError, IndexError):  # such as the maximum of nothing
            return None
        value = None if _large(value) else value
    return value


def _large(value: Any) -> bool:
    if isinstance(value, int):
        return abs(value) > LARGEST
    return len(value) > LONGEST or (isinstance(value, list) and any(map(_large, value)))


@cache
def _common(kind: str) -> tuple[Any, ...]:
    rng = Random(f"common/{kind}")
    return tuple(KINDS[kind].draw(rng) for _ in range(COMMON))


def behaviour(chain: Chain) -> int:
    """A number that tells apart what chains make of the same inputs, the same for the same behaviour."""
    return _number([result(chain, one) for one in _common(chain[0].primitive.given)])


def _number(value: object) -> int:
    return crc32(repr(value).encode())


@cache
def _simple(kind: str, depth: int) -> frozenset[int]:
    """The behaviours of all chains of at most so many steps, one or two, on inputs of a kind."""
    layer, found = [(kind, list(_common(kind)))], set[int]()
    for _ in range(depth):
        layer = [
            (one.made, [result((Step(one, constants),), value) for value in row])
            for made, row in layer
            for one in _taking(made)
            for values in product(*one.constants.values())
            for constants in (dict(zip(one.constants, values, strict=True)),)
        ]
        found |= {_number(row) for _, row in layer}
    return frozenset(found)


@cache
def _taking(kind: str) -> list[Primitive]:
    """The primitives that take a type."""
    return [one for one in primitives().values() if one.given == kind]


def _shorter(chain: Chain) -> Iterator[Chain]:
    """The chain without one or more of its steps, where the types still fit."""
    for size in range(len(chain)):
        for part in combinations(chain, size):
            types = [chain[0].primitive.given, *(step.primitive.made for step in part)]
            needs = [*(step.primitive.given for step in part), chain[-1].primitive.made]
            if types == needs:
                yield part


# A problem of a chain


def composed(chain: Chain, rng: Random, unread: float = 0) -> CodeProblem | None:
    """A problem that asks for the chain, a share `unread` of the steps in words that the base never reads.

    None where the program is long or the chain degenerate: equal to a shorter one, undefined on many inputs,
    or with one output for most inputs.
    """
    kind, made = chain[0].primitive.given, chain[-1].primitive.made
    if behaviour(chain) in _simple(kind, min(len(chain) - 1, 2)):
        return None
    numbers = [i for i, step in enumerate(chain) if "k" in step.constants]
    free = rng.choice(numbers) if numbers and rng.random() < FREE_SHARE else None
    stdin = made != "groups" and rng.random() < STDIN_SHARE
    if not (tests := _tests(chain, free, stdin, rng)):
        return None
    names = [rng.choice(KINDS[kind].names), "k"][: 1 if free is None else 2]
    solution, call = _program(chain, names, free, rng), f"{ENTRY}({', '.join(names)})"
    task, told = _task(chain, names[0], free, unread, rng)
    if stdin:
        kinds = [KINDS[kind], KINDS["int"]][: len(names)]
        described = " and ".join(one.described.format(name) for one, name in zip(kinds, names, strict=True))
        statement = f"{task}\nRead {described}; print the result."
        read = [one.read.format(name) for one, name in zip(kinds, names, strict=True)]
        shown = call if made in ("int", "text") else f"*{call}"
        solution = "\n".join([solution, *read, f"print({shown})"])
        tests = [Case("".join(map(_line, test.input)), _line(test.output)) for test in tests]
    else:
        parts = [task, f"Write a function {call}."]
        statement = "\n".join(parts if rng.random() < 0.5 else parts[::-1])
    if len(solution) > LONGEST_CODE:
        return None
    style, entry = ("stdin", None) if stdin else ("call", ENTRY)
    public, private = tuple(tests[:PUBLIC]), tuple(tests[PUBLIC:])
    pair = min(pairwise(_names(chain)), key=_rank)
    return CodeProblem(statement, style, entry, public, private, solution, COMPOSED, ">".join(pair), told)


def _line(value: Any) -> str:
    return f"{' '.join(map(str, value)) if isinstance(value, list) else value}\n"


def _tests(chain: Chain, free: int | None, filled: bool, rng: Random) -> list[Case]:
    """Different inputs that tell the chain from its shorter ones, and the outputs; [] if there are too few.

    The public ones have different outputs; with `filled` no input is empty.
    """
    found: dict[str, tuple[Case, Chain]] = {}
    for _ in range(DRAWN):
        given, used = [KINDS[chain[0].primitive.given].draw(rng)], chain
        if free is not None:
            step = chain[free]
            given.append(rng.choice(step.primitive.constants["k"]))
            step = step._replace(constants={**step.constants, "k": given[1]})
            used = (*chain[:free], step, *chain[free + 1 :])
        case = Case(given, result(used, given[0]))
        short = max(len(repr(case.input)), len(repr(case.output))) <= LONGEST
        if case.output is not None and short and (given[0] or not filled):
            found[repr(given)] = case, used
    tests = list(found.values())
    counts = Counter(repr(case.output) for case, _ in tests)
    if len(tests) < DRAWN / 2 or max(counts.values()) > len(tests) / 2:
        return []
    first = next(test for test in tests if test[0].output not in (0, "", []))
    second = next(test for test in tests if test[0].output != first[0].output)
    rest = [test for test in tests if test is not first and test is not second]
    tests = [first, second, *rest][: PUBLIC + PRIVATE]
    alike = [[result(one, case.input[0]) == case.output for one in _shorter(used)] for case, used in tests]
    return [] if any(map(all, zip(*alike, strict=True))) else [case for case, _ in tests]


def _task(chain: Chain, name: str, free: int | None, unread: float, rng: Random) -> tuple[str, int]:
    """The phrases of the steps in one of the forms, and how many of them the base never reads."""
    (begin, between, end), told = rng.choice(FORMS), 0
    text = begin.format(rng.choice(KINDS[chain[0].primitive.given].things).format(name))
    for i, step in enumerate(chain):
        values = {**step.constants, **({"k": "k"} if i == free else {})}
        known, new = rng.choice(step.primitive.phrases), rng.random() < unread
        phrase, told = (step.primitive.unread, told + 1) if new else (known, told)
        text += (between.format(i + 1) if i else "") + phrase.format(**values)
    return text + end, told


def _program(chain: Chain, names: list[str], free: int | None, rng: Random) -> str:
    """The code of the steps as a function of these names, as Python writes it; each result gets a name."""
    body: list[ast.stmt] = []
    known, given = list(names), names[0]
    for i, step in enumerate(chain):
        tree = ast.parse(rng.choice(step.primitive.codes))
        new = {name: repr(value) for name, value in step.constants.items()}
        if i == free:
            new["k"] = "k"
        new["a"], given = given, rng.choice([one for one in MADE[step.primitive.made] if one not in known])
        new["b"] = given
        known.append(given)
        used = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
        others = rng.sample(LOOPED, len(LOOPED))
        for local in sorted({node.id for node in used if isinstance(node.ctx, ast.Store)} - {"b"}):
            if local in known or rng.random() < RENAMED:
                new[local] = others.pop()
        for node in used:
            node.id = new.get(node.id, node.id)
        body += tree.body
    last = body[-1]
    if isinstance(last, ast.Assign):
        body[-1] = ast.Return(last.value)
    else:
        body.append(ast.Return(ast.Name(given)))
    lines = textwrap.indent("\n".join(map(ast.unparse, body)), "    ")
    return f"def {ENTRY}({', '.join(names)}):\n{lines}"


SPLITS = ("base", "train", "valid", "near", "far", "deeper")
# shares of the sets of steps, and of the behaviours
STEPS_OF = ("near", "near", "near", "valid", "valid", *("train",) * 5, *("base",) * 10)
BEHAVIOURS_OF = (*("near", "valid", "far", "deeper") * 2, *("train",) * 4, *("base",) * 8)
HELD_OUT = 100  # of 1000 pairs of steps that follow each other: only far problems have one
TRIES = 20_000  # chains in a row without a new problem before a split counts as used up


def problems(split: str, count: int, seed: int | str = 0) -> list[CodeProblem]:
    """`count` problems of a split, no statement and no chain twice.

    "base" (for the warm-up), "train" (for self-training), "valid" and "near" share steps and pairs of steps;
    the set of steps decides to which of them a chain belongs, whatever their order and constants. "far" has
    pairs of steps that no other split has, "deeper" one step more. The behaviour of a chain decides too:
    programs of two splits differ in what they do, across seeds. Only "base" lacks the unread phrases.
    """
    if split not in SPLITS:
        raise GrlibError(f"split {split!r}: choose one of {', '.join(SPLITS)}")
    found: list[CodeProblem] = []
    known: set[str] = set()
    last = number = 0
    while len(found) < count and number < last + TRIES:
        rng = Random(f"{seed}/{split}/{number}")
        number += 1
        chain = _drawn(DEEPER if split == "deeper" else rng.choice(DEPTHS), rng)
        key = f"{_names(chain)} {[one.constants for one in chain]}"
        if key in known or home(chain) != split:
            continue
        problem = composed(chain, rng, 0 if split == "base" else UNREAD)
        if problem and problem.statement not in known:
            found.append(problem)
            known |= {key, problem.statement}
            last = number
    if len(found) < count:
        raise GrlibError(f"split {split!r} has {len(found):,} problems, not {count:,}; ask for fewer")
    return found


def _drawn(depth: int, rng: Random) -> Chain:
    """A random chain."""
    kind = rng.choices(list(KINDS), [one.share for one in KINDS.values()])[0]
    chain: Chain = ()
    for _ in range(depth):
        one = rng.choice(_taking(kind))
        chain += (Step(one, {name: rng.choice(choices) for name, choices in one.constants.items()}),)
        kind = one.made
    return chain


def _names(chain: Chain) -> list[str]:
    return [step.primitive.name for step in chain]


def _rank(pair: tuple[str, str]) -> int:
    """A fixed number below 1000 for a pair of steps: the lowest are held out."""
    return _number(pair) % 1000


def home(chain: Chain) -> str:
    """The split of a chain; "" if its steps and its behaviour belong to different ones."""
    names = _names(chain)
    if min(map(_rank, pairwise(names))) < HELD_OUT:
        split = "far" if len(chain) < DEEPER else ""
    else:
        split = "deeper" if len(chain) == DEEPER else STEPS_OF[_number(sorted(names)) % len(STEPS_OF)]
    return split if split == BEHAVIOURS_OF[behaviour(chain) % len(BEHAVIOURS_OF)] else ""
