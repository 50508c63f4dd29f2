"""One child of the server: started, fed, watched, ended, and all traces of it cleared away."""

from __future__ import annotations

import contextlib
import json
import os
import random
import selectors
import signal
import stat
import tempfile
import time
import uuid
from dataclasses import dataclass, field
from typing import Any, NoReturn

from grlib.errors import GrlibError
from grlib.sandbox import child, confinement

STDIN, STDOUT, STDERR, REPORT = STREAMS = ("stdin", "stdout", "stderr", "report")  # descriptors 0 to 3
FOLDERS = "grlib_sandbox_"  # how the folders of programs begin
HIGH = 100  # descriptors that are free in the server
WATCH_SECONDS = 0.05  # between two looks at what a child has on disk and how many tasks it is
CLOSING_SECONDS = 0.001  # between two looks at a child that has closed its streams
EXTRA_SECONDS = 0.2  # to start and to load the program, beside the time of the tests
CLEARING_SECONDS = 2.0  # for processes that a program left behind, where it could start some
MOST_FILES = 1000
DEEPEST_PATH = 500  # characters below the folder


@dataclass(frozen=True)
class Limits:
    """What one test may use."""

    seconds: float = 2.0  # wall clock
    memory_mb: int = 512  # address space
    output_bytes: int = 1 << 20  # of all streams together
    disk_mb: int = 16
    timeouts: int = 1  # after so many tests that ran out of time the rest are skipped

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise GrlibError(f"limit {name}={value}: must be positive")


@dataclass
class Ended:
    """What became of a child: its answers, streams, exit status, and why it was ended, if it was."""

    answers: list[dict[str, Any]] = field(default_factory=list)  # JSON objects that it reported
    stdout: bytearray = field(default_factory=bytearray)  # since the last answer
    stderr: bytearray = field(default_factory=bytearray)
    status: int = 0  # of the process; negative: the signal that ended it
    stopped: str = ""  # timeout, output, disk, tasks, or report: it wrote something else on that channel


def run_child(request: dict[str, Any], inputs: list[Any], limits: Limits, means: confinement.Means) -> Ended:
    """Run one child on its inputs; nothing of it is left when this returns."""
    folder = _new_folder(means)
    pipes = {name: os.pipe() for name in STREAMS}
    if means.drop_user:  # so that a program may open /dev/stdin and the like
        for name, pair in pipes.items():
            os.fchown(pair[0] if name == STDIN else pair[1], confinement.NOBODY, confinement.NOBODY)
    number = os.fork()
    if number == 0:
        _be_child(request, inputs, limits, means, folder, pipes)
    for name, pair in pipes.items():
        os.close(pair[0] if name == STDIN else pair[1])
    ends = {name: pair[1] if name == STDIN else pair[0] for name, pair in pipes.items()}
    calls = request["style"] == "call"
    feed = b"" if calls else inputs[0].encode(errors="replace")
    keeper = Keeper(number, folder, limits, means, len(inputs) if calls else 1)
    try:
        return keeper.watch(ends, feed)
    finally:
        keeper.end()
        remove(folder)


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
        for place, (name, pair) in enumerate(pipes.items()):
            os.dup2(pair[0] if name == STDIN else pair[1], HIGH + place)
        for place in range(len(pipes)):
            os.dup2(HIGH + place, place)
        os.closerange(len(pipes), 2 * HIGH)
        os.chdir(folder)
        os.environ["TMPDIR"] = os.environ["HOME"] = folder
        tempfile.tempdir = None
        random.seed(0)  # a fork of Python draws a new one: the same program shall print the same
        signal.signal(signal.SIGINT, signal.default_int_handler)
        child.fresh_streams()
        calls = request["style"] == "call"
        seconds = limits.seconds * (len(inputs) if calls else 1) + EXTRA_SECONDS
        confinement.confine(means, folder, seconds, limits.memory_mb << 20, limits.disk_mb << 20)
        report = child.reporter(len(pipes) - 1)
        if calls:
            status = child.run_calls(request["program"], request["entry"], inputs, report)
        else:
            status = child.run_program(request["program"], report)
    except BaseException as error:  # no program ran, or it broke what reports its own errors
        os.write(2, f"{type(error).__name__}: {error}".encode(errors="replace"))
    finally:
        end_now(status)


class Keeper:
    """Watches a child and ends it. One input, or `calls` of them, each with a time of its own."""

    def __init__(
        self, number: int, folder: str, limits: Limits, means: confinement.Means, calls: int
    ) -> None:
        self.number, self.folder, self.limits, self.means, self.calls = number, folder, limits, means, calls
        self.ended, self.half_line, self.read = Ended(), bytearray(), 0  # bytes read since the last answer
        self.deadline = time.monotonic() + limits.seconds + EXTRA_SECONDS
        self.next_look = 0.0

    def watch(self, ends: dict[str, int], feed: bytes) -> Ended:
        """Feed and read until the child ends, breaks a limit or runs out of time."""
        left = memoryview(feed)
        with selectors.DefaultSelector() as waiting:
            for name, end in ends.items():
                os.set_blocking(end, False)
                waiting.register(end, selectors.EVENT_WRITE if name == STDIN else selectors.EVENT_READ, name)
            over = False
            while not (over or self.ended.stopped):
                over = self._is_over()
                for key, _ in waiting.select(0 if over else self._pause(waiting)):
                    if key.data == STDIN:
                        left = _write(key.fd, left)
                        if not left:
                            _close(waiting, key.fd)
                    elif not self._read(key.fd, key.data, everything=over):
                        _close(waiting, key.fd)
                self.ended.stopped = self.ended.stopped or self._broken(over)
            for key in list(waiting.get_map().values()):
                _close(waiting, key.fd)
        return self.ended

    def _is_over(self) -> bool:
        number, status = os.waitpid(self.number, os.WNOHANG)
        if number:
            self.ended.status = os.waitstatus_to_exitcode(status)
            self._kill_group()  # what it started must not go on writing
        return bool(number)

    def _pause(self, waiting: selectors.BaseSelector) -> float:
        """Seconds to wait for something to read: few where only the end is awaited."""
        longest = WATCH_SECONDS if waiting.get_map() else CLOSING_SECONDS
        return max(0.0, min(longest, self.deadline - time.monotonic()))

    def _read(self, end: int, name: str, everything: bool) -> bool:
        """Read what is there, or all that is left in a pipe, up to the limit; False at the end."""
        try:
            while data := os.read(end, 1 << 16):
                self.read += len(data)
                if name == REPORT:
                    self._take(data)
                else:
                    getattr(self.ended, name).extend(data)
                if not everything or self.read > self.limits.output_bytes:
                    return True
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def _take(self, data: bytes) -> None:
        """Take whole lines of the report as answers. Each gives the next call its time and its room."""
        self.half_line += data
        *lines, self.half_line = self.half_line.split(b"\n")
        for line in lines:
            if len(self.ended.answers) >= self.calls:
                self.ended.stopped = "report"
            if self.ended.stopped:
                return
            try:
                told = child.plain(json.loads(line))
            except (ValueError, TypeError, RecursionError):
                told = None
            if not isinstance(told, dict) or not ({"value", "error"} & set(told)):
                self.ended.stopped = "report"
                return
            self.ended.answers.append(told)
            if len(self.ended.answers) < self.calls:
                self.deadline = time.monotonic() + self.limits.seconds
                self.read = 0
                self.ended.stdout.clear()
                self.ended.stderr.clear()

    def _broken(self, over: bool) -> str:
        """The limit that the child exceeds, if any."""
        now = time.monotonic()
        if self.read > self.limits.output_bytes:
            return "output"
        if now >= self.next_look:
            self.next_look = now + WATCH_SECONDS
            if _heavy(self.folder, self.number, self.limits.disk_mb << 20):
                return "disk"
            if _tasks(self.number) > confinement.MOST_TASKS:
                return "tasks"
        return "timeout" if now > self.deadline and not over else ""

    def _kill_group(self) -> None:
        with contextlib.suppress(OSError):
            os.killpg(self.number, signal.SIGKILL)

    def end(self) -> None:
        """End the child and all that it started."""
        self._kill_group()
        with contextlib.suppress(ChildProcessError):  # it has ended, and its status was read
            if not os.waitpid(self.number, os.WNOHANG)[0]:
                os.kill(self.number, signal.SIGKILL)
                os.waitpid(self.number, 0)
        give_up = time.monotonic() + CLEARING_SECONDS
        while not self.means.seccomp and time.monotonic() < give_up and (orphans := _children()):
            for orphan in orphans:  # with seccomp there are none: it could not start any
                with contextlib.suppress(OSError):
                    os.kill(orphan, signal.SIGKILL)
            for orphan in orphans:
                with contextlib.suppress(OSError):
                    os.waitpid(orphan, 0)


def _write(end: int, left: memoryview) -> memoryview:
    try:
        return left[os.write(end, left[: 1 << 16]) :] if left else left
    except BlockingIOError:
        return left
    except OSError:  # it closed its input
        return left[:0]


def _close(waiting: selectors.BaseSelector, end: int) -> None:
    waiting.unregister(end)
    os.close(end)


def _heavy(folder: str, number: int, most: int) -> bool:
    """Do the files of a child, deleted ones that it holds too, exceed the limit, or are there too many?"""
    total, count = _held_open(number), 0
    stack = [folder]
    while stack:
        place = stack.pop()
        if len(place) - len(folder) > DEEPEST_PATH:
            return True
        try:
            entries = list(os.scandir(place))
        except PermissionError:  # it hides what is in there
            return True
        except OSError:
            continue
        for entry in entries:
            count += 1
            with contextlib.suppress(OSError):
                status = entry.stat(follow_symlinks=False)
                total += status.st_blocks * 512
                if stat.S_ISDIR(status.st_mode):
                    stack.append(entry.path)
        if total > most or count > MOST_FILES:
            return True
    return total > most


def _held_open(number: int) -> int:
    """Bytes of deleted files that a process holds open (Linux)."""
    total = 0
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{number}/fd"):
            with contextlib.suppress(OSError):
                status = os.stat(f"/proc/{number}/fd/{name}")
                if stat.S_ISREG(status.st_mode) and status.st_nlink == 0:
                    total += status.st_blocks * 512
    return total


def _tasks(number: int) -> int:
    """Threads of a process (Linux; the limit on a user's processes does not bind root)."""
    try:
        with open(f"/proc/{number}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[17])
    except (OSError, ValueError, IndexError):
        return 0


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
    What still cannot be removed after a while is left.
    """
    give_up = time.monotonic() + CLEARING_SECONDS
    while os.path.lexists(folder) and time.monotonic() < give_up:
        try:
            _remove_once(folder)
        except OSError:  # a child that is just ending may still write
            time.sleep(CLOSING_SECONDS)


def _remove_once(folder: str) -> None:
    if os.path.islink(folder) or not os.path.isdir(folder):  # where nothing kept a program from renaming it
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
