"""The server process, which runs the programs of a model in its children and reports the raw results.

It starts clean, holds no secrets, and never receives an expected output. For each request it forks a process
that reads the request, runs the program, replies and ends; request and reply are one JSON line each, on the
server's standard streams. So no program starts in a process that has held another one, or its results. The
program runs in a child, which is confined first (`grlib.sandbox.confinement`) and watched by
`grlib.sandbox.keeper`.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import site
import sys
from typing import Any

from grlib.sandbox import child, confinement
from grlib.sandbox.keeper import Ended, Limits, remove, run_child

SIGNALS = {one.value: one.name for one in signal.Signals}
TRIES = 3  # before a means of confinement counts as broken
# modules that programs often import are loaded once, here
PRELOADED = (
    "abc array ast base64 bisect calendar cmath collections collections.abc contextlib copy dataclasses "
    "datetime decimal enum fractions functools hashlib heapq inspect io itertools json math numbers "
    "operator os queue random re statistics string struct sys textwrap time traceback typing unicodedata "
    "zlib"
)


def main(home: str, library: list[str]) -> None:
    """Serve until the other end closes.

    Programs run in a subfolder of `home`, which is removed at the end, and import from the `library` paths.
    """
    home = os.path.realpath(home)
    folder = os.path.join(home, "program")
    os.mkdir(folder)
    for name in PRELOADED.split():
        __import__(name)
    site.setquit()
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        means = _that_work(confinement.available(), folder)
        _reply(replies, {"Landlock": means.landlock, "seccomp": bool(means.seccomp)})
        sys.path[:] = library
        for name in [name for name in sys.modules if name.partition(".")[0] in ("grlib", "pyseccomp")]:
            del sys.modules[name]
        gc.freeze()
        while _answered_one(replies, means, folder):
            pass
    finally:
        remove(home)


def _answered_one(replies: Any, means: confinement.Means, folder: str) -> bool:
    """Answer one request in a fork of this process; False if there are no more."""
    server = os.getpid()
    number = os.fork()
    if number:
        return os.waitpid(number, 0)[1] == 0
    status = 1
    try:
        confinement.end_with(server)
        if line := sys.stdin.buffer.readline():
            _reply(replies, answer(json.loads(line), means, folder))
            status = 0
    finally:
        os._exit(status)


def _reply(replies: Any, message: Any) -> None:
    replies.write(child.json_line(message))
    replies.flush()


def _that_work(means: confinement.Means, folder: str) -> confinement.Means:
    """The means, minus those with which an honest program fails on this machine."""
    limits = Limits(5.0)
    program = "import colorsys, wave\nopen('a', 'w').write('b')\nprint(open('a').read())"
    for one in (means, confinement.Means()):
        for _ in range(TRIES):
            ended = run_child({"style": "stdin", "program": program}, [""], limits, one, folder)
            if ended.status == 0 and ended.stdout == b"b\n":
                return one
    raise SystemExit("not even a harmless program runs in a child here")


def answer(request: dict[str, Any], means: confinement.Means, folder: str) -> list[dict[str, Any]]:
    """The raw results of all tests of a program: dictionaries that `grlib.sandbox` judges."""
    limits, inputs = Limits(*request["limits"]), request.pop("inputs")
    calls = request["style"] == "call"
    results: list[dict[str, Any]] = []
    timeouts = 0
    while inputs:
        if timeouts >= limits.timeouts:
            results += [{"kind": "skipped"}] * len(inputs)
            break
        # calls share a process; every input as text gets a new one
        ended = run_child(request, inputs if calls else inputs[:1], limits, means, folder)
        new = _results_of_calls(ended, len(inputs)) if calls else [_result_of_program(ended)]
        del inputs[: len(new)]
        timeouts += sum(result["kind"] == "timeout" for result in new)
        results += new
    return results


def _result_of_program(ended: Ended) -> dict[str, Any]:
    error = ended.answers[0] if ended.answers else {}
    if ended.stopped or ended.status or error:
        return _failure(ended, error)
    return {"kind": "printed", "stdout": ended.stdout.decode("utf-8", "replace")}


def _results_of_calls(ended: Ended, count: int) -> list[dict[str, Any]]:
    """The results of `count` calls, up to the first that ended the process; at least one."""
    if ended.answers and ended.answers[0].get("loading"):
        return [_failure(ended, ended.answers[0])] * count
    found = [
        {"kind": "value", "value": one["value"]} if "value" in one else _failure(Ended(status=1), one)
        for one in ended.answers
    ]
    return found if len(found) == count else [*found, _failure(ended, {})]


def _failure(ended: Ended, error: dict[str, Any]) -> dict[str, Any]:
    """Why there is no result, in at most a few thousand characters."""
    printed, errors = (
        part.decode("utf-8", "replace")[-child.LONGEST_TEXT :] for part in (ended.stdout, ended.stderr)
    )
    text = str(error.get("text", ""))[-child.LONGEST_TEXT :] or errors
    if ended.stopped == "report":
        kind, text = "error", "its results cannot be read: it wrote on their channel, or a number is too long"
    elif ended.stopped:
        kind = ended.stopped
    elif error.get("error") == "MemoryError":
        kind = "memory"
    elif error:
        kind = "error"
    elif ended.status < 0:
        kind, text = "crash", f"ended by signal {SIGNALS.get(-ended.status, -ended.status)}"
    else:
        kind, text = "exit", f"ended with status {ended.status} and no result" + (f"; {text}" if text else "")
    return {"kind": kind, "text": text, "stdout": printed}
