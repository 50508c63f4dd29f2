"""The inside of a sandbox: run one program on its inputs and report the results.

No report is trusted: it is text to be parsed. No expected output is in this process.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import io
import itertools
import json
import os
import random
import sys
import tempfile
import threading
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any

FILE = "<solution>"
LONGEST_TEXT = 4000  # characters of an error message
DEEPEST = 100  # levels of lists in a result


def run_program(program: str, report: int) -> int:
    """Run a program as `python program` does, and return its exit status.

    An exception is reported as one JSON line on the descriptor `report`.
    """
    module, streams = _fresh_module("__main__"), (sys.stdout, sys.stderr)
    try:
        try:
            exec(compile(program, FILE, "exec", dont_inherit=True), module.__dict__)
        finally:
            _end_of_program(module, streams)
    except SystemExit as end:
        if end.code is None:
            return 0
        return end.code & 0xFF if isinstance(end.code, int) else 1
    except BaseException as error:
        _send(report, json_line(describe(error)))
        return 1
    return 0


def _end_of_program(module: types.ModuleType, streams: Sequence[Any]) -> None:
    """What Python does at the end: wait for threads, call exit functions, free objects, flush."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    module.__dict__.clear()  # files that were left open are written
    gc.collect()
    for stream in {id(one): one for one in (sys.stdout, sys.stderr, *streams)}.values():
        with contextlib.suppress(ValueError, AttributeError, OSError):  # closed, or no stream at all
            stream.flush()


def run_calls(program: str, entry: str, calls: list[list[Any]], report: int) -> int:
    """Call the program's function once per list of arguments; each call reports one JSON line."""
    space = _fresh_module("solution").__dict__
    # contest sites with such problems import these names, too
    space.update((name, getattr(typing, name)) for name in typing.__all__)
    try:
        with contextlib.suppress(SystemExit):
            exec(compile(program, FILE, "exec", dont_inherit=True), space)
        function = _entry(space, entry)
    except BaseException as error:
        _send(report, json_line(describe(error) | {"loading": True}))
        return 1
    for arguments in calls:
        try:
            line = json_line({"value": plain(function(*arguments))})
        except BaseException as error:
            line = json_line(describe(error))
        _send(report, line)
    return 0


def json_line(message: Any) -> bytes:
    """A message of the sandbox as a line; half characters of a program's text survive."""
    return json.dumps(message, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"


def _send(report: int, line: bytes) -> None:
    while line:
        line = line[os.write(report, line) :]


def _fresh_module(name: str) -> types.ModuleType:
    """A fresh module for the program; with the name `__main__`, its main guard runs."""
    module = types.ModuleType(name)
    module.__file__ = os.path.join(os.getcwd(), "solution.py")
    sys.modules[name] = sys.modules["__main__"] = module
    return module


def _entry(space: dict[str, Any], entry: str) -> Callable[..., Any]:
    """The function to call: one of the program, or a method of its class Solution."""
    if callable(found := space.get(entry)):
        return found
    solution = space.get("Solution")
    if isinstance(solution, type) and hasattr(solution, entry):
        return getattr(solution(), entry)
    raise NameError(f"the program defines no function {entry!r}")


def plain(value: Any, depth: int = 0) -> Any:
    """A value as JSON can hold it, tuples as lists. Raises TypeError if it is not plain data."""
    if depth > DEEPEST:
        raise TypeError(f"the result is nested more than {DEEPEST} deep, or holds itself")
    if value is None or isinstance(value, bool):
        return value
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, list | tuple):
        return [plain(one, depth + 1) for one in value]
    if isinstance(value, dict):
        return {key: plain(one, depth + 1) for key, one in value.items()}
    raise TypeError(f"the result is or holds a {type(value).__name__}: must be plain data")


def describe(error: BaseException) -> dict[str, Any]:
    """The type of an error, and its message with the lines of the program that led to it."""
    name = type(error).__name__
    lines, place = [], error.__traceback__
    while place is not None:
        if place.tb_frame.f_code.co_filename == FILE:
            lines.append(f"line {place.tb_lineno}, in {place.tb_frame.f_code.co_name}")
        place = place.tb_next
    if isinstance(error, SyntaxError) and error.lineno:
        lines = [f"line {error.lineno}"]
    try:
        message = str(error)
    except BaseException:
        message = ""
    text = "; ".join([*lines[-3:], f"{name}: {message}" if message else name])
    return {"error": name, "text": text[-LONGEST_TEXT:]}


def prepare() -> None:
    """Give this fork what a fresh Python has: separate streams, on descriptors 0 to 2.

    Random numbers and the names of temporary files are the same in every run, so that outputs are
    repeatable. Integers may have any number of digits.
    """
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), encoding="utf-8")
    sys.stdout = _writer(1)
    sys.stderr = _writer(2)
    vars(sys).update(__stdin__=sys.stdin, __stdout__=sys.stdout, __stderr__=sys.stderr)
    sys.set_int_max_str_digits(0)
    random.seed(0)
    tempfile.tempdir = None
    vars(tempfile)["_name_sequence"] = map(str, itertools.count())


def arguments(text: str) -> list[Any]:
    """The arguments of a call as `grlib.sandbox` writes them, with JSON texts as keys of dictionaries."""
    return json.loads(text, object_hook=lambda given: {json.loads(key): one for key, one in given.items()})


def _writer(descriptor: int) -> io.TextIOWrapper:
    raw = io.BufferedWriter(io.FileIO(descriptor, "w", closefd=False))
    return io.TextIOWrapper(raw, encoding="utf-8", errors="replace", write_through=descriptor == 2)
