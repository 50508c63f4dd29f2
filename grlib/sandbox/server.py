"""The process that runs model code in its children and says what came out.

It is started clean, holds no secrets, and never learns an expected output. It reads requests and writes
replies as JSON lines on its own standard streams. One child at a time: a fork of this process, confined
before it runs anything (`grlib.sandbox.confinement`), watched by `grlib.sandbox.keeper`.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import sys
import tempfile
from dataclasses import replace
from typing import Any

from grlib.sandbox import child, confinement
from grlib.sandbox.keeper import Ended, Limits, remove, run_child

TRIES = 3  # before a means of confinement counts as not working
# what programs often import is loaded once, here
PRELOADED = (
    "abc array ast base64 bisect calendar cmath collections collections.abc contextlib copy dataclasses "
    "datetime decimal enum fractions functools hashlib heapq inspect io itertools json math numbers "
    "operator os queue random re statistics string struct sys textwrap time traceback typing unicodedata "
    "zlib"
)


def main(folder: str = "") -> None:
    """Serve until the other end closes. Programs get folders within `folder`, which is removed at the end."""
    if folder:
        tempfile.tempdir = folder
    for name in PRELOADED.split():
        __import__(name)
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        confinement.adopt_orphans()
        means = _that_work(confinement.available())
        told = {"landlock": means.landlock, "seccomp": bool(means.seccomp), "dropped": means.drop_user}
        _reply(replies, told)
        gc.freeze()
        for line in iter(requests.readline, b""):
            request = json.loads(line)
            del line  # children shall not carry it twice
            _reply(replies, answer(request, means))
    except BrokenPipeError:
        pass
    finally:
        if folder:
            remove(folder)


def _reply(replies: Any, message: Any) -> None:
    replies.write(json.dumps(message, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
    replies.flush()


def _that_work(means: confinement.Means) -> confinement.Means:
    """The means, less those with which an honest program does not run here."""
    limits = Limits(5.0, 512, 1 << 16, 16, 1)
    program = "import colorsys, wave\nopen('a', 'w').write('b')\nprint(open('a').read())"
    stay, portable = replace(means, drop_user=False), replace(means, landlock=0, seccomp=b"")
    for one in (means, stay, portable, confinement.Means()):
        for _ in range(TRIES):
            with contextlib.suppress(OSError):  # no other user in this name space
                ended = run_child({"style": "stdin", "program": program}, [""], limits, one)
                if ended.status == 0 and ended.stdout == b"b\n":
                    return one
    raise SystemExit("not even a harmless program runs in a child here")


def answer(request: dict[str, Any], means: confinement.Means) -> list[dict[str, Any]]:
    """Raw results of all tests of a program: dictionaries that `grlib.sandbox` judges."""
    limits, inputs = Limits(*request["limits"]), request.pop("inputs")
    run = _run_calls if request["style"] == "call" else _run_programs
    results: list[dict[str, Any]] = []
    timeouts = 0
    while inputs:
        if timeouts >= limits.timeouts:
            results += [{"kind": "skipped"}] * len(inputs)
            break
        new = run(request, inputs, limits, means)
        del inputs[: len(new)]
        timeouts += sum(result["kind"] == "timeout" for result in new)
        results += new
    return results


def _run_programs(
    request: dict[str, Any], inputs: list[str], limits: Limits, means: confinement.Means
) -> list[dict[str, Any]]:
    """The result of the first input: every input has a process of its own."""
    ended = run_child(request, inputs[:1], limits, means)
    error = ended.answers[0] if ended.answers else {}
    if ended.stopped or ended.status or error:
        return [_failure(ended, error)]
    return [{"kind": "printed", "stdout": ended.stdout.decode("utf-8", "replace")}]


def _run_calls(
    request: dict[str, Any], inputs: list[Any], limits: Limits, means: confinement.Means
) -> list[dict[str, Any]]:
    """The results of the calls up to the first that ended the process; at least one."""
    ended = run_child(request, inputs, limits, means)
    if ended.answers and ended.answers[0].get("loading"):
        return [_failure(ended, ended.answers[0])] * len(inputs)
    found = [
        {"kind": "value", "value": one["value"]} if "value" in one else _failure(Ended(status=1), one)
        for one in ended.answers
    ]
    return found if len(found) == len(inputs) else [*found, _failure(ended, {})]


def _failure(ended: Ended, error: dict[str, Any]) -> dict[str, Any]:
    """Why there is no result, in a few thousand characters at most."""
    printed, said = (
        part.decode("utf-8", "replace")[-child.LONGEST_TEXT :] for part in (ended.stdout, ended.stderr)
    )
    text = str(error.get("text", ""))[-child.LONGEST_TEXT :] or said
    if ended.stopped == "report":
        kind, text = "error", "it wrote on the channel of results"
    elif ended.stopped:
        kind = ended.stopped
    elif error.get("error") == "MemoryError":
        kind = "memory"
    elif error:
        kind = "error"
    elif ended.status < 0:
        kind, text = "crash", f"ended by signal {_signal_name(-ended.status)}"
    else:
        kind, text = "exit", f"ended with status {ended.status} and no result" + (f"; {text}" if text else "")
    return {"kind": kind, "text": text, "stdout": printed}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
