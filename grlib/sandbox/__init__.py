"""Run programs that a model wrote, and judge which tests they pass.

A program runs in a confined child (`grlib.sandbox.child`) of a server process (`grlib.sandbox.server`). The
expected outputs stay in this process, which compares plain data: a program can report anything, but it has to
compute the answers to pass.

With every isolation, a program has Python's standard library and nothing else: `import numpy` raises
ModuleNotFoundError. It has an empty folder for itself; standard input is a file. It may start threads, but
no processes, and has no network.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from grlib.errors import GrlibError
from grlib.sandbox import keeper, server
from grlib.sandbox.keeper import FOLDERS, Limits

__all__ = ["Isolation", "Limits", "Outcome", "close", "isolation", "run", "run_all"]

STYLES = ("stdin", "call")
LONGEST_OUTPUT = 1 << 18  # characters that are kept of an output; also the most digits of a number
TOLERANCE = 1e-6  # relative and absolute, for numbers with a fraction
# a number on its own: not part of a word, nor of 1.2.3
NUMBER = re.compile(r"(?<![\w.])([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)(?!\w|\.[0-9])")
UNUSUAL = re.compile(r"[^ -~\n\t]")  # characters that may not be printable
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
STARTING_SECONDS = 60.0  # for a server to start
GRACE_SECONDS = 5.0  # that a server may take longer than its program
ROOT = Path(__file__).resolve().parents[2]
# Python's limit of 4,300 digits would refuse correct answers; without a limit, reading a number may take long
sys.set_int_max_str_digits(LONGEST_OUTPUT)


class Outcome(NamedTuple):
    """The verdict on one test.

    `kind` is passed, wrong, error (an exception), exit (no result), crash (a signal), timeout, memory,
    output, disk or tasks (a limit), or skipped. `output` is what the program printed or returned, unchanged
    (`readable` makes it safe for a terminal); `message` is why it failed.
    """

    passed: bool
    kind: str
    output: str = ""
    message: str = ""


class Isolation(NamedTuple):
    """How programs are isolated on this machine."""

    means: Mapping[str, Any]  # the layers that every server must report, 0 or False for missing ones

    @property
    def name(self) -> str:
        return " + ".join([*(layer for layer, works in self.means.items() if works), "limits"])

    @property
    def open(self) -> tuple[str, ...]:
        """What is not contained."""
        return tuple(what for layer, what in LEFT_OPEN.items() if not self.means[layer])


def run(
    program: str,
    tests: Sequence[Mapping[str, Any]],
    style: str = "stdin",
    entry: str | None = None,
    limits: Limits | None = None,
) -> list[Outcome]:
    """Run a program on tests and judge it: one outcome per test, in order.

    A test has an `input` and an `output`: texts for style "stdin"; a list of arguments and the result for
    style "call", where `entry` names the function. `others` lists more outputs that are correct. Raises
    GrlibError for a test that is not plain data, and on a machine that cannot contain programs, unless the
    environment variable `ALLOWED_BY` permits it.
    """
    limits = limits or Limits()
    if not isinstance(program, str):
        raise GrlibError(f"the program is a {type(program).__name__}: must be text")
    inputs, expected = _checked(tests, style, entry)
    if not program.strip():
        return [Outcome(False, "error", message="the program is empty")] * len(tests)
    request = {
        "program": program, "style": style, "entry": entry, "inputs": inputs, "limits": astuple(limits),
    }  # fmt: skip
    return [_judged(raw, want) for raw, want in zip(_ask(request, limits), expected, strict=True)]


def run_all(jobs: Iterable[tuple[Any, ...]]) -> list[list[Outcome]]:
    """`run` for many programs, each a tuple of arguments, on all cores; results in order."""
    from grlib.runs.chunks import worker_pool  # here, since servers import this module and need little

    with worker_pool(threads=True) as pool:
        return list(pool.map(lambda job: run(*job), jobs))


def _checked(
    tests: Sequence[Mapping[str, Any]], style: str, entry: str | None
) -> tuple[list[str], list[list[Any]]]:
    """The inputs as text (for calls as `child.arguments` reads them), and the correct outputs of each."""
    if style not in STYLES:
        raise GrlibError(f"style {style!r}: choose one of {', '.join(STYLES)}")
    if style == "call" and not entry:
        raise GrlibError("style 'call' without entry: name the function that the tests call")
    if not tests:
        raise GrlibError("no tests: a program without tests cannot be judged; give one or more")
    inputs, expected = [], []
    for number, test in enumerate(tests):
        try:
            given, right = test["input"], [test["output"], *test.get("others", ())]
            written = given if isinstance(given, str) else json.dumps(_with_written_keys(given))
            right = json.loads(json.dumps(right))
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise GrlibError(
                f"test {number}: {error!r}; its input and output must be plain data (numbers, text, lists, "
                "dictionaries whose keys are text or whole numbers)"
            ) from None
        if style == "stdin" and not all(isinstance(part, str) for part in (given, *right)):
            raise GrlibError(f"test {number}: with style 'stdin' input and output must be text")
        if style == "call" and not isinstance(given, list | tuple):
            raise GrlibError(f"test {number}: with style 'call' the input must be a list of arguments")
        inputs.append(written)
        expected.append(right)
    return inputs, expected


def _with_written_keys(value: Any) -> Any:
    """Plain data with JSON texts as keys of dictionaries: JSON itself would turn numbers there into text."""
    if isinstance(value, list | tuple):
        return [_with_written_keys(one) for one in value]
    if not isinstance(value, dict):
        return value
    if wrong := [key for key in value if not isinstance(key, str | int)]:
        raise TypeError(f"a dictionary with the key {wrong[0]!r}")
    return {json.dumps(key): _with_written_keys(one) for key, one in value.items()}


def _judged(raw: Mapping[str, Any], expected: Sequence[Any]) -> Outcome:
    """The verdict on the raw result of a server: it must equal one of the expected outputs."""
    kind = str(raw.get("kind"))
    if kind == "printed":
        shown = raw["stdout"]
        passed = any(same_text(shown, one) for one in expected)
    elif kind == "value":
        shown = json.dumps(raw["value"])
        passed = any(same_value(raw["value"], one) for one in expected)
    else:
        return Outcome(False, kind, str(raw.get("stdout", "")), readable(str(raw.get("text", ""))))
    return Outcome(passed, "passed" if passed else "wrong", shown[:LONGEST_OUTPUT])


def readable(text: str) -> str:
    """Text of a program as a prompt or a terminal may show it.

    Unprintable characters are escaped as in a Python string ("\\x1b[2J"). Addresses, which differ from run to
    run, become "0x...", and half characters, which files and tokenizers refuse, become "?".
    """
    whole = ADDRESS.sub(" at 0x...", text.encode("utf-8", "replace").decode())
    return UNUSUAL.sub(lambda character: repr(character[0])[1:-1], whole)


def same_text(found: str, expected: str) -> bool:
    """Equal line by line, apart from white space and from empty lines at the end.

    Numbers that are expected to have a fraction may differ by `TOLERANCE`; whole numbers may not.
    """
    ours, theirs = ([line.split() for line in text.rstrip().split("\n")] for text in (found, expected))
    if [len(line) for line in ours] != [len(line) for line in theirs]:
        return False
    return ours == theirs or all(map(_same_word, chain(*ours), chain(*theirs)))


def _same_word(found: str, expected: str) -> bool:
    """Equal, with numbers compared as numbers: after the split they stand at the odd places."""
    ours, theirs = NUMBER.split(found), NUMBER.split(expected)
    return len(ours) == len(theirs) and all(
        a == b or (place % 2 == 1 and not b.lstrip("+-").isdecimal() and _close(float(a), float(b)))
        for place, (a, b) in enumerate(zip(ours, theirs, strict=True))
    )


def _close(found: float, expected: float) -> bool:
    """Within `TOLERANCE`; nothing is close to an expected number that no float can hold."""
    return math.isfinite(expected) and math.isclose(found, expected, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def same_value(found: Any, expected: Any) -> bool:
    """Equal plain data; numbers that are expected to be floats may differ by `TOLERANCE`.

    True and 1 are different answers, although `==` in a check of HumanEval may take one for the other.
    """
    if type(found) in (int, float) and type(expected) in (int, float):
        if isinstance(expected, int):
            return bool(found == expected)
        try:
            both_nan = math.isnan(found) and math.isnan(expected)
            return both_nan or math.isclose(found, expected, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
        except OverflowError:  # a whole number beyond every float
            return False
    if type(found) is not type(expected):
        return False
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same_value(found[key], expected[key]) for key in found)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(same_value, found, expected))
    return bool(found == expected)


# Servers


ENVIRONMENT = {
    "PATH": os.defpath,
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "MALLOC_ARENA_MAX": "1",  # an arena per thread would count as 64 MB of address space
}


class Server:
    """One server process, for one thread at a time. It is closed when it does not answer."""

    def __init__(self) -> None:
        try:
            self.folder = tempfile.mkdtemp(prefix=FOLDERS)
        except OSError as error:
            raise GrlibError(f"no temporary folder: {error}; let TMPDIR name a folder to write in") from error
        places = [str(ROOT), *(place for place in sys.path if os.path.isabs(place))]
        start = (
            f"import sys; library = sys.path[:]; sys.path += {places!r}; import {server.__name__} as server; "
            f"server.main({self.folder!r}, library)"
        )
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-S", "-s", "-P", "-c", start],  # -S: no installed packages
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=ENVIRONMENT,
                start_new_session=True,  # Ctrl-C must not reach it
            )
        except OSError as error:
            keeper.remove(self.folder)
            raise BrokenServer(f"it does not start: {error}") from error
        self.means: dict[str, Any] = self.ask(None, STARTING_SECONDS)

    def ask(self, request: Any, seconds: float) -> Any:
        """Send a request (None: only listen) and wait for the answer; BrokenServer if none comes in time."""
        assert self.process.stdin is not None and self.process.stdout is not None
        too_late = threading.Timer(seconds, self.process.kill)
        too_late.start()
        try:
            if request is not None:
                self.process.stdin.write(json.dumps(request).encode() + b"\n")
                self.process.stdin.flush()
            return json.loads(self.process.stdout.readline().decode("utf-8", "surrogatepass"))
        except (OSError, ValueError) as error:  # it ended: there is nothing to write to, or to read
            self.close()
            raise BrokenServer(
                f"no answer within {seconds:.0f} s, or one that cannot be read: {error}"
            ) from None
        except BaseException:  # an interrupt: the answer would stay in the pipe
            self.close()
            raise
        finally:
            too_late.cancel()

    def close(self) -> None:
        """End the process; its child ends with it."""
        with contextlib.suppress(OSError), self.process:  # closing cannot write what the process did not read
            self.process.kill()
        keeper.remove(self.folder)


class BrokenServer(GrlibError):
    """A server process died or hangs."""


LEFT_OPEN = {  # without a layer
    "Landlock": "reading and changing this user's files",
    "seccomp": "the network, other processes of this user, starting processes without a limit of memory",
}
ALLOWED_BY = "GRLIB_SANDBOX"  # environment variable; "portable" allows programs without these layers

_lock: threading.Lock
_idle: deque[Server]
_found: Isolation | None


def _begin() -> None:
    """Start without servers: a fork of this process must not use those of its parent."""
    global _lock, _idle, _found
    _lock, _idle, _found = threading.Lock(), deque(), None


_begin()
os.register_at_fork(after_in_child=_begin)


def isolation() -> Isolation:
    """The isolation that works on this machine. The first call starts a server that tries it out."""
    global _found
    with _lock:
        if _found is None:
            try:
                first = Server()
            except BrokenServer as error:
                raise GrlibError(
                    f"no process that could run programs starts here: {error}; repair this Python"
                ) from error
            _idle.append(first)
            _found = Isolation(first.means)
        return _found


def _ask(request: dict[str, Any], limits: Limits) -> list[dict[str, Any]]:
    """The raw results from an idle server, or from a new one if that breaks."""
    most = (limits.seconds + 1) * len(request["inputs"]) + GRACE_SECONDS
    reason = ""
    for attempt in range(2):
        try:
            mine = _take(new=attempt > 0)
            found = list(mine.ask(request, most))
            _idle.append(mine)
            return found
        except BrokenServer as broken:
            reason = str(broken)
    died = {"kind": "crash", "text": f"the process that runs programs was lost twice: {reason}"}
    return [died] * len(request["inputs"])


def _take(new: bool = False) -> Server:
    """An idle server, or a new one. Raises GrlibError if programs must not run here."""
    found = isolation()
    if found.open and os.environ.get(ALLOWED_BY) != "portable":
        raise GrlibError(
            f"this machine offers only {found.name} for programs of a model; not contained: "
            f"{', '.join(found.open)}. Use Linux 5.13 or newer with libseccomp, or accept it with "
            f"{ALLOWED_BY}=portable"
        )
    with contextlib.suppress(IndexError):  # none is idle
        while not new:
            idle = _idle.pop()
            if idle.process.poll() is None:
                return idle
            idle.close()  # it died while idle
    started = Server()
    if started.means != found.means:  # a means failed, as when the machine is short of memory
        started.close()
        raise BrokenServer(f"a server found {started.means}, the first one {found.means}")
    return started


@atexit.register
def close() -> None:
    """End all idle servers; the next program starts new ones."""
    with contextlib.suppress(IndexError):  # none is left
        while True:
            _idle.pop().close()
