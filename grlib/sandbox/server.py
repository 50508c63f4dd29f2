"""The process that starts, feeds, watches and ends the children that run model code.

It is started clean, holds no secrets, and never learns an expected output. It reads requests and writes
replies as JSON lines on its own standard streams. One child at a time: a fork of this process, confined
before it runs anything (`grlib.sandbox.confinement`).
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import random
import selectors
import signal
import stat
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, NoReturn

from grlib.sandbox import child, confinement

STDIN, STDOUT, STDERR, REPORT = STREAMS = ("stdin", "stdout", "stderr", "report")  # descriptors 0 to 3
FOLDERS = "grlib_sandbox_"  # how the folders of programs begin
HIGH = 100  # descriptors that are free in this process
WATCH_SECONDS = 0.05  # between two looks at the folder of a child
EXTRA_SECONDS = 0.2  # to start and to load the program, beside the time of the tests
MOST_FILES = 1000
DEEPEST_PATH = 500  # characters below the folder
# what programs often import is loaded once, here
PRELOADED = (
    "abc array ast base64 bisect calendar cmath collections collections.abc contextlib copy dataclasses "
    "datetime decimal enum fractions functools hashlib heapq inspect io itertools json math numbers "
    "operator os queue random re statistics string struct sys textwrap time traceback typing unicodedata "
    "zlib"
)


class Limits(NamedTuple):
    """As in `grlib.sandbox.Limits`."""

    seconds: float
    memory_mb: int
    output_bytes: int
    disk_mb: int
    timeouts: int


@dataclass
class Ended:
    """What became of a child: its report, streams, exit status, and why it was ended, if it was."""

    report: bytearray = field(default_factory=bytearray)
    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)
    status: int = 0  # of the process; negative: the signal that ended it
    stopped: str = ""  # timeout, output, disk


def main(folder: str = "") -> None:
    """Serve until the other end closes. Programs get folders within `folder`, which is removed at the end."""
    if folder:
        tempfile.tempdir = folder
    for name in PRELOADED.split():
        __import__(name)
    means = _that_work(confinement.available())
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    confinement.adopt_orphans()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _reply(replies, {"landlock": means.landlock, "seccomp": bool(means.seccomp), "dropped": means.drop_user})
    gc.freeze()
    for line in iter(requests.readline, b""):
        _reply(replies, answer(json.loads(line), means))
    if folder:
        remove(folder)


def _reply(replies: Any, message: Any) -> None:
    replies.write(json.dumps(message).encode() + b"\n")
    replies.flush()


def _that_work(means: confinement.Means) -> confinement.Means:
    """The means, less those with which an honest program does not run here."""
    limits = Limits(5.0, 512, 1 << 16, 16, 1)
    program = "import colorsys, wave\nopen('a', 'w').write('b')\nprint(open('a').read())"
    stay, portable = replace(means, drop_user=False), replace(means, landlock=0, seccomp=b"")
    for one in (means, stay, portable, confinement.Means()):
        with contextlib.suppress(OSError):  # no other user in this name space
            ended = run_child({"style": "stdin", "program": program}, [""], limits, one)
            if ended.status == 0 and ended.stdout == b"b\n":
                return one
    raise SystemExit("not even a harmless program runs in a child here")


def answer(request: dict[str, Any], means: confinement.Means) -> list[dict[str, Any]]:
    """Raw results of all tests of a program: dictionaries that `grlib.sandbox` judges."""
    limits, inputs = Limits(*request["limits"]), request["inputs"]
    run = _run_calls if request["style"] == "call" else _run_programs
    results: list[dict[str, Any]] = []
    timeouts = 0
    while len(results) < len(inputs):
        if timeouts >= limits.timeouts:
            results += [{"kind": "skipped"}] * (len(inputs) - len(results))
            break
        new = list(run(request, inputs[len(results) :], limits, means))
        timeouts += sum(result["kind"] == "timeout" for result in new)
        results += new
    return results


def _run_programs(
    request: dict[str, Any], inputs: list[str], limits: Limits, means: confinement.Means
) -> Iterator[dict[str, Any]]:
    """The result of the first input: every input has a process of its own."""
    ended = run_child(request, inputs[:1], limits, means)
    told = _lines(ended)
    error = told[0] if told and "error" in told[0] else {}
    result = {"kind": "output", "stdout": ended.stdout.decode("utf-8", "replace")}
    if ended.stopped or ended.status or error:
        result |= _failure(ended, error)
    yield result


def _run_calls(
    request: dict[str, Any], inputs: list[Any], limits: Limits, means: confinement.Means
) -> Iterator[dict[str, Any]]:
    """The results of the calls up to the first that ended the process; at least one."""
    ended = run_child(request, inputs, limits, means)
    told = _lines(ended)[: len(inputs)]
    if told and told[0].get("loading"):
        yield from [_failure(ended, told[0])] * len(inputs)
        return
    for one in told:
        yield {"kind": "value", "value": one["value"]} if "value" in one else _failure(Ended(status=1), one)
    if len(told) < len(inputs):
        yield _failure(ended, {})


def _lines(ended: Ended) -> list[dict[str, Any]]:
    """The whole lines of a report that are JSON objects of plain data, up to the first that is not."""
    found = []
    for line in bytes(ended.report).split(b"\n")[:-1]:
        try:
            told = child.plain(json.loads(line))
        except (ValueError, TypeError, RecursionError):
            break
        if not isinstance(told, dict):
            break
        found.append(told)
    return found


def _failure(ended: Ended, error: dict[str, Any]) -> dict[str, Any]:
    """Why there is no result."""
    text = str(error.get("text", ""))[-child.LONGEST_TEXT :] or ended.stderr.decode("utf-8", "replace")
    if ended.stopped:
        kind = ended.stopped
    elif error.get("error") == "MemoryError":
        kind = "memory"
    elif error:
        kind = "error"
    elif ended.status < 0:
        kind, text = "crash", f"ended by signal {_signal_name(-ended.status)}"
    else:
        kind, text = "exit", f"ended with status {ended.status} and no result" + (f"; {text}" if text else "")
    return {"kind": kind, "text": text, "stdout": ended.stdout.decode("utf-8", "replace")}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


# One child


def run_child(request: dict[str, Any], inputs: list[Any], limits: Limits, means: confinement.Means) -> Ended:
    """Fork, confine, run, watch and clear away: nothing of the child is left when this returns."""
    folder = _new_folder(means)
    pipes = {name: os.pipe() for name in STREAMS}
    number = os.fork()
    if number == 0:
        _be_child(request, inputs, limits, means, folder, pipes)
    ends = {name: pair[1] if name == STDIN else pair[0] for name, pair in pipes.items()}
    for name, pair in pipes.items():
        os.close(pair[0] if name == STDIN else pair[1])
    calls = request["style"] == "call"
    feed = b"" if calls else inputs[0].encode(errors="replace")
    try:
        return _watch(number, ends, feed, limits, len(inputs) if calls else 1, folder)
    finally:
        _clear(number, folder, means)


def _new_folder(means: confinement.Means) -> str:
    """A folder for one program, empty."""
    folder = tempfile.mkdtemp(prefix=FOLDERS)
    if means.drop_user:
        try:
            os.chown(folder, confinement.NOBODY, confinement.NOBODY)
        except OSError:
            os.rmdir(folder)
            raise
    return folder


def _be_child(
    request: dict[str, Any],
    inputs: list[Any],
    limits: Limits,
    means: confinement.Means,
    folder: str,
    pipes: dict[str, tuple[int, int]],
) -> NoReturn:
    """What the fork does: everything of the server's is closed before the program is even compiled."""
    status, end_now = 97, os._exit  # a program may replace the latter
    try:
        random.seed(0)  # a fork of Python draws a new one: the same program shall print the same
        for place, (name, pair) in enumerate(pipes.items()):
            os.dup2(pair[0] if name == STDIN else pair[1], HIGH + place)
        for place in range(len(pipes)):
            os.dup2(HIGH + place, place)
        os.closerange(len(pipes), 2 * HIGH)
        os.chdir(folder)
        os.environ["TMPDIR"] = os.environ["HOME"] = folder
        tempfile.tempdir = None
        child.fresh_streams()
        calls = request["style"] == "call"
        seconds = limits.seconds * (len(inputs) if calls else 1) + EXTRA_SECONDS
        confinement.confine(means, folder, seconds, limits.memory_mb << 20, limits.disk_mb << 18)
        report = child.reporter(len(pipes) - 1)
        if calls:
            status = child.run_calls(request["program"], request["entry"], inputs, report)
        else:
            status = child.run_program(request["program"], report)
    except BaseException as error:  # no program ran, or it broke what reports its own errors
        os.write(2, f"{type(error).__name__}: {error}".encode(errors="replace"))
    finally:
        end_now(status)


def _watch(number: int, ends: dict[str, int], feed: bytes, limits: Limits, calls: int, folder: str) -> Ended:
    """Feed and read a child until it ends, breaks a limit or runs out of time."""
    ended = Ended()
    held = {STDOUT: ended.stdout, STDERR: ended.stderr, REPORT: ended.report}
    left, answered = memoryview(feed), 0
    deadline = time.monotonic() + limits.seconds + EXTRA_SECONDS
    with selectors.DefaultSelector() as waiting:
        for name, end in ends.items():
            os.set_blocking(end, False)
            waiting.register(end, selectors.EVENT_WRITE if name == STDIN else selectors.EVENT_READ, name)
        while not ended.stopped:
            over, status = os.waitpid(number, os.WNOHANG)
            for key, _ in waiting.select(0 if over else _pause(waiting, deadline)):
                if key.data == STDIN:
                    left = _write(key.fd, left)
                    if not left:
                        _close(waiting, key.fd)
                elif not _read(key.fd, held[key.data], everything=bool(over)):
                    _close(waiting, key.fd)
            if over:
                ended.status = os.waitstatus_to_exitcode(status)
                break
            if (lines := ended.report.count(b"\n")) > answered and lines < calls:
                answered, deadline = lines, time.monotonic() + limits.seconds
            ended.stopped = _broken(held, folder, limits) or "timeout" * (time.monotonic() > deadline)
        for key in list(waiting.get_map().values()):
            _close(waiting, key.fd)
    return ended


def _pause(waiting: selectors.BaseSelector, deadline: float) -> float:
    """Seconds to wait for something to read: few where every pipe is closed and only the end is awaited."""
    longest = WATCH_SECONDS if waiting.get_map() else WATCH_SECONDS / 50
    return max(0.0, min(longest, deadline - time.monotonic()))


def _broken(held: dict[str, bytearray], folder: str, limits: Limits) -> str:
    """The limit that a child exceeds, if any."""
    if sum(map(len, held.values())) > limits.output_bytes:
        return "output"
    return "disk" if _heavy(folder, limits.disk_mb << 20) else ""


def _write(end: int, left: memoryview) -> memoryview:
    try:
        return left[os.write(end, left[: 1 << 16]) :] if left else left
    except BlockingIOError:
        return left
    except OSError:  # it closed its input
        return left[:0]


def _read(end: int, held: bytearray, everything: bool = False) -> bool:
    """Read what is there, or all that is left in the pipe; False at the end."""
    try:
        while data := os.read(end, 1 << 16):
            held += data
            if not everything:
                return True
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _close(waiting: selectors.BaseSelector, end: int) -> None:
    waiting.unregister(end)
    os.close(end)


def _heavy(folder: str, most: int) -> bool:
    """Do the files of a child exceed the limit, or are there too many?"""
    total = count = 0
    stack = [folder]
    while stack:
        place = stack.pop()
        if len(place) - len(folder) > DEEPEST_PATH:
            return True
        try:
            entries = list(os.scandir(place))
        except OSError:
            continue
        for entry in entries:
            count += 1
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            total += status.st_blocks * 512
            if stat.S_ISDIR(status.st_mode):
                stack.append(entry.path)
        if total > most or count > MOST_FILES:
            return True
    return False


def _clear(number: int, folder: str, means: confinement.Means) -> None:
    """End a child and all that it started, and remove its folder."""
    with contextlib.suppress(OSError):
        os.killpg(number, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):  # it has ended, and its status was read
        if not os.waitpid(number, os.WNOHANG)[0]:
            os.kill(number, signal.SIGKILL)
            os.waitpid(number, 0)
    while not means.seccomp and (orphans := _children()):  # with seccomp it could start none
        for orphan in orphans:
            with contextlib.suppress(OSError):
                os.kill(orphan, signal.SIGKILL)
        for orphan in orphans:
            with contextlib.suppress(OSError):
                os.waitpid(orphan, 0)
    remove(folder)


def _children() -> list[int]:
    """Processes whose parent this one is (Linux); those of ended parents have come here."""
    found = []
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                with open(f"/proc/{name}/stat") as file:
                    parent = int(file.read().rpartition(")")[2].split()[1])
                if parent == os.getpid():
                    found.append(int(name))
    return found


def remove(folder: str) -> None:
    """Remove a folder however deep it is nested and whatever rights its parts have.

    What lies in a subfolder moves up one level until all is flat: paths stay short, and nothing recurses.
    """
    if os.path.islink(folder) or not os.path.isdir(folder):  # where nothing keeps a program from renaming it
        with contextlib.suppress(OSError):
            os.unlink(folder)
        return
    os.chmod(folder, 0o700)
    while names := os.listdir(folder):
        for name in names:
            path = os.path.join(folder, name)
            if os.path.islink(path) or not os.path.isdir(path):
                os.unlink(path)
                continue
            os.chmod(path, 0o700)
            for inner in os.listdir(path):
                below = os.path.join(path, inner)
                if os.path.isdir(below) and not os.path.islink(below):
                    os.chmod(below, 0o700)
                os.rename(below, os.path.join(folder, uuid.uuid4().hex))
            os.rmdir(path)
    os.rmdir(folder)
