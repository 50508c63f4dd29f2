"""Bugs to learn repair from: small changes of a correct program, each of a kind that people make.

`programs_with_bugs` yields changed programs in random order. Some may still be correct: only tests can tell.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator
from random import Random

Change = Callable[[], None]  # applies one bug to the tree it was found in

COMPARED: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.GtE),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.LtE),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
}
COMPUTED: dict[type[ast.operator], tuple[type[ast.operator], ...]] = {
    ast.Add: (ast.Sub, ast.Mult),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Add,),
    ast.FloorDiv: (ast.Mod, ast.Mult),
    ast.Mod: (ast.FloorDiv,),
}
NAMES = {
    "max": "min", "min": "max", "append": "extend", "upper": "lower", "sum": "len", "any": "all",
    "sorted": "list",
}  # fmt: skip


def programs_with_bugs(code: str, rng: Random) -> Iterator[str]:
    """Yield the program with one bug: every possible bug once, in random order."""
    tree = ast.parse(code)
    order = list(range(len(_changes(tree))))
    rng.shuffle(order)
    for number in order:
        broken = copy.deepcopy(tree)
        _changes(broken)[number]()
        yield ast.unparse(ast.fix_missing_locations(broken))


def _changes(tree: ast.Module) -> list[Change]:
    """Every bug that fits somewhere in the tree."""
    found: list[Change] = []
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    bound = {name.id for name in names if isinstance(name.ctx, ast.Store)}
    bound |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    local = sorted(bound & {name.id for name in names})  # names that could be mistaken for each other
    for node in ast.walk(tree):
        for kind in (_operators, _constants, _calls, _bounds, _missing):
            found += kind(node)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in local:
            found += [_set(node, "id", other) for other in local if other != node.id]
    return found


def _set(node: ast.AST, field: str, value: object) -> Change:
    return lambda: setattr(node, field, value)


def _operators(node: ast.AST) -> Iterator[Change]:
    """A wrong comparison, arithmetic or Boolean operator."""
    if isinstance(node, ast.Compare):
        for other in COMPARED.get(type(node.ops[0]), ()):
            yield _set(node, "ops", [other(), *node.ops[1:]])
    if isinstance(node, ast.BinOp | ast.AugAssign):
        for computed in COMPUTED.get(type(node.op), ()):
            yield _set(node, "op", computed())
    if isinstance(node, ast.BoolOp):
        yield _set(node, "op", ast.Or() if isinstance(node.op, ast.And) else ast.And())


def _constants(node: ast.AST) -> Iterator[Change]:
    """A number that is off by one, a wrong letter, a wrong truth value."""
    if not isinstance(node, ast.Constant):
        return
    value = node.value
    if isinstance(value, bool):
        yield _set(node, "value", not value)
    elif isinstance(value, int):
        yield _set(node, "value", value + 1)
        if value > 0:
            yield _set(node, "value", value - 1)
    elif isinstance(value, str) and len(value) == 1:
        yield _set(node, "value", "a" if value != "a" else "b")


def _calls(node: ast.AST) -> Iterator[Change]:
    """A function or method mistaken for another, a missing keyword argument."""
    if isinstance(node, ast.Call):
        target = node.func
        if isinstance(target, ast.Name) and target.id in NAMES:
            yield _set(target, "id", NAMES[target.id])
        if isinstance(target, ast.Attribute) and target.attr in NAMES:
            yield _set(target, "attr", NAMES[target.attr])
        if node.keywords:
            yield _set(node, "keywords", node.keywords[1:])


def _bounds(node: ast.AST) -> Iterator[Change]:
    """A bound without its `+ 1` or `- 1`, a range without its start, a slice without one of its parts."""
    for field, child in ast.iter_fields(node):
        children = child if isinstance(child, list) else [child]
        for place, one in enumerate(children):
            match one:
                case ast.BinOp(op=ast.Add() | ast.Sub(), right=ast.Constant(value=int()), left=left):
                    in_list = isinstance(child, list)
                    yield _replace(child, place, [left]) if in_list else _set(node, field, left)
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "range" and len(node.args) > 1:
        yield _set(node, "args", node.args[1:])
    if isinstance(node, ast.Slice):
        for field in ("lower", "upper", "step"):
            if getattr(node, field) is not None:
                yield _set(node, field, None)


def _replace(statements: list[ast.AST], place: int, new: list[ast.AST]) -> Change:
    def change() -> None:
        statements[place : place + 1] = new

    return change


def _missing(node: ast.AST) -> Iterator[Change]:
    """A missing case, statement or condition."""
    for field in ("body", "orelse"):
        statements = getattr(node, field, None)
        if not isinstance(statements, list):
            continue
        for place, statement in enumerate(statements):
            if isinstance(statement, ast.If):
                yield _replace(statements, place, list(statement.body))
                if len(statements) > 1 or statement.orelse:
                    yield _replace(statements, place, list(statement.orelse))
            elif isinstance(statement, ast.AugAssign | ast.Expr) and len(statements) > 1:
                yield _replace(statements, place, [])
    if isinstance(node, ast.comprehension) and node.ifs:
        yield _set(node, "ifs", node.ifs[1:])
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield _set(node, "op", ast.UAdd())
