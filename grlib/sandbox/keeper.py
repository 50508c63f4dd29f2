"""One child that runs a program: start it, watch it, end it, and remove all that it left."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import stat
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from typing import Any, NoReturn

from grlib.errors import GrlibError
from grlib.sandbox import child, confinement

OUTPUTS = ("stdout", "stderr", "report")  # pipes of the child, its descriptors 1 to 3; 0 is a file
FOLDERS = "grlib_sandbox_"  # prefix of the folders of servers
FOLDER_SHOWN = "/sandbox"  # stands for the folder of a program in its output
HIGH = 100  # from here on, descriptors are free in a server
WATCH_SECONDS = 0.05  # between two checks of the files and the tasks of a child
CLOSING_SECONDS = 0.001  # between two checks of a child that has closed its streams
EXTRA_SECONDS = 0.2  # to start and load the program, on top of the time of the tests
CLEARING_SECONDS = 2.0  # to empty a folder into which an ending child still writes
MOST_FILES = 1000
DEEPEST_PATH = 500  # characters below the folder
MOST = 1 << 30  # largest value of a limit


@dataclass(frozen=True)
class Limits:
    """What one test may use."""

    seconds: float = 2.0  # wall clock
    memory_mb: int = 512  # address space
    output_bytes: int = 1 << 20  # of all streams together
    disk_mb: int = 16
    timeouts: int = 1  # tests that may time out before the rest are skipped

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            kinds = (int, float) if name == "seconds" else (int,)
            if type(value) not in kinds or not 0 < value <= MOST:
                kind = "a number" if name == "seconds" else "a whole number"
                raise GrlibError(f"limit {name}={value!r}: must be positive, {kind}, and at most {MOST:,}")


@dataclass
class Ended:
    """How a child ended: its answers, its output, its exit status, and the limit that it broke, if any."""

    answers: list[dict[str, Any]] = field(default_factory=list)  # JSON objects that it reported
    stdout: bytearray = field(default_factory=bytearray)  # since the last answer
    stderr: bytearray = field(default_factory=bytearray)
    status: int = 0  # of the process; negative: the signal that ended it
    stopped: str = ""  # timeout, output, disk, tasks, or report: it wrote no answer on that channel


def run_child(
    request: dict[str, Any], inputs: list[str], limits: Limits, means: confinement.Means, folder: str
) -> Ended:
    """Run one child on its inputs in a folder. Afterwards the child is gone and the folder is empty."""
    calls = request["style"] == "call"
    pipes = {name: os.pipe() for name in OUTPUTS}
    given = [_file_of("" if calls else inputs[0]), *(writing for _, writing in pipes.values())]
    rules = [confinement.landlock_rules(means.landlock, folder)] if means.landlock else []
    number = os.fork()
    if number == 0:
        _be_child(request, inputs, limits, means, folder, given + rules)
    for end in given:
        os.close(end)
    keeper = Keeper(number, folder, limits, len(inputs) if calls else 1)
    try:
        return keeper.watch({reading: name for name, (reading, _) in pipes.items()})
    finally:
        keeper.end()
        clear(folder)


def _file_of(text: str) -> int:
    """A descriptor of a file with a program's input. As on contest sites, the input has a size and can be
    mapped, rewound and read again."""
    if not sys.platform.startswith("linux"):
        with tempfile.TemporaryFile() as file:
            file.write(text.encode(errors="replace"))
            file.seek(0)
            return os.dup(file.fileno())
    with open(os.memfd_create("input", os.MFD_ALLOW_SEALING), "wb") as file:
        file.write(text.encode(errors="replace"))
        file.flush()
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
        return os.open(f"/proc/self/fd/{file.fileno()}", os.O_RDONLY | os.O_CLOEXEC)


def _be_child(
    request: dict[str, Any],
    inputs: list[str],
    limits: Limits,
    means: confinement.Means,
    folder: str,
    given: list[int],
) -> NoReturn:
    """What the fork does: it closes all files of the server before it even compiles the program.

    `given` become descriptors 0, 1, ...: input, outputs and, with Landlock, its rules.
    """
    status, end_now = 97, os._exit  # a program may replace `os._exit`
    try:
        for place, end in enumerate(given):
            os.dup2(end, HIGH + place)
        for place in range(len(given)):
            os.dup2(HIGH + place, place)
        os.closerange(len(given), 2 * HIGH)
        os.chdir(folder)
        os.environ["TMPDIR"] = os.environ["HOME"] = folder
        signal.signal(signal.SIGINT, signal.default_int_handler)
        child.prepare()
        calls = [child.arguments(text) for text in inputs] if request["style"] == "call" else []
        seconds = limits.seconds * max(1, len(calls)) + EXTRA_SECONDS
        report = len(OUTPUTS)
        confinement.confine(means, report + 1, seconds, limits.memory_mb << 20, limits.disk_mb << 20)
        if calls:
            status = child.run_calls(request["program"], request["entry"], calls, report)
        else:
            status = child.run_program(request["program"], report)
    except BaseException as error:  # the program did not start, or it broke the reporting of its errors
        os.write(2, f"{type(error).__name__}: {error}".encode(errors="replace"))
    finally:
        end_now(status)


class Keeper:
    """Watches a child and ends it. Each of its `calls` (1 for a program that reads text) has its own time."""

    def __init__(self, number: int, folder: str, limits: Limits, calls: int) -> None:
        self.number, self.folder, self.limits, self.calls = number, folder, limits, calls
        self.ended, self.half_line, self.read = Ended(), bytearray(), 0  # bytes read since the last answer
        self.deadline = time.monotonic() + limits.seconds + EXTRA_SECONDS
        self.next_look = time.monotonic() + WATCH_SECONDS

    def watch(self, ends: dict[int, str]) -> Ended:
        """Read until the child ends, breaks a limit or runs out of time."""
        for end in ends:
            os.set_blocking(end, False)
        over = False
        while not (over or self.ended.stopped):
            over = self._is_over()
            # a child that has closed all its outputs can only end
            longest = 0 if over else WATCH_SECONDS if ends else CLOSING_SECONDS
            pause = max(0.0, min(longest, self.deadline - time.monotonic()))
            for end in select.select(list(ends), [], [], pause)[0]:
                if not self._read(end, ends[end], everything=over):
                    os.close(end)
                    del ends[end]
            self.ended.stopped = self.ended.stopped or self._broken(over)
        for end in ends:
            os.close(end)
        for printed in (self.ended.stdout, self.ended.stderr):
            printed[:] = self._without_places(printed)
        return self.ended

    def _without_places(self, text: bytes | bytearray) -> bytes | bytearray:
        """The text with fixed names for the program's folder and Python's, so that outputs and errors, which
        go into prompts, are the same in every run and on every machine."""
        python = os.path.dirname(os.__file__)
        for path, shown in ((self.folder, FOLDER_SHOWN), (python, "/python"), (sys.executable, "python")):
            text = text.replace(os.fsencode(path), shown.encode())
        return text

    def _is_over(self) -> bool:
        number, status = os.waitpid(self.number, os.WNOHANG)
        if number:
            self.ended.status = os.waitstatus_to_exitcode(status)
            self._kill_group()  # what it started must not write any more
        return bool(number)

    def _read(self, end: int, name: str, everything: bool) -> bool:
        """Read what is there, or all that is left in the pipe, up to the limit; False at its end."""
        try:
            while data := os.read(end, 1 << 16):
                self.read += len(data)
                if name == "report":
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
        """Take whole lines of the report as answers; after each, the limits start anew for the next call."""
        self.half_line += data
        *lines, self.half_line = self.half_line.split(b"\n")
        for line in lines:
            if len(self.ended.answers) >= self.calls:
                self.ended.stopped = "report"
            if self.ended.stopped:
                return
            try:
                answer = child.plain(json.loads(self._without_places(line)))
            except (ValueError, TypeError, RecursionError):
                answer = None
            if not isinstance(answer, dict) or not ({"value", "error"} & set(answer)):
                self.ended.stopped = "report"
                return
            self.ended.answers.append(answer)
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
            if len(_threads(self.number)) > confinement.MOST_TASKS:
                return "tasks"
        return "timeout" if now > self.deadline and not over else ""

    def _kill_group(self) -> None:
        with contextlib.suppress(OSError):
            os.killpg(self.number, signal.SIGKILL)

    def end(self) -> None:
        """End the child and its group; with seccomp it could start nothing else."""
        self._kill_group()
        with contextlib.suppress(ChildProcessError):  # it ended before, and its status was read
            if not os.waitpid(self.number, os.WNOHANG)[0]:
                os.kill(self.number, signal.SIGKILL)
                os.waitpid(self.number, 0)


def _heavy(folder: str, number: int, most: int) -> bool:
    """Do the files of a child exceed the limit, or are there too many? Deleted ones that it holds count."""
    total, count = _held(number, folder, most), 0
    faults: list[OSError] = []
    for place, folders, files in os.walk(folder, onerror=faults.append):
        count += len(folders) + len(files)
        for name in (*folders, *files):
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_blocks * 512
        hidden = any(isinstance(fault, PermissionError) for fault in faults)
        if hidden or total > most or count > MOST_FILES or len(place) - len(folder) > DEEPEST_PATH:
            return True
    return total > most


def _held(number: int, folder: str, most: int) -> int:
    """Bytes of deleted files that a process holds open or mapped (Linux).

    The size of a file that is mapped but not open is unknown: it counts as a quarter of the limit.
    """
    opened: dict[tuple[int, int], int] = {}
    mapped = set()
    for thread in _threads(number):  # the first one may have ended before the others
        place = f"/proc/{number}/task/{thread}"
        with contextlib.suppress(OSError):
            for name in os.listdir(f"{place}/fd"):
                with contextlib.suppress(OSError):
                    status = os.stat(f"{place}/fd/{name}")
                    deleted = stat.S_ISREG(status.st_mode) and status.st_nlink == 0
                    if deleted and not os.readlink(f"{place}/fd/{name}").startswith("/memfd:"):  # the input
                        opened[status.st_dev, status.st_ino] = status.st_blocks * 512
            with open(f"{place}/maps", "rb") as maps:
                for line in maps:
                    if line.endswith(b" (deleted)\n") and os.fsencode(folder) in line:
                        _, _, _, device, inode, _ = line.split(maxsplit=5)
                        major, minor = (int(part, 16) for part in device.split(b":"))
                        mapped.add((os.makedev(major, minor), int(inode)))
    return sum(opened.values()) + len(mapped - opened.keys()) * (most // 4)


def _threads(number: int) -> list[str]:
    """The threads of a process (Linux); the limit on a user's processes does not bind root."""
    with contextlib.suppress(OSError):
        return os.listdir(f"/proc/{number}/task")
    return []


def clear(folder: str) -> None:
    """Empty a folder, at any depth and with any file modes that a program left there."""
    if os.path.islink(folder):  # a weakly confined program may have replaced it
        raise OSError(f"{folder} is a link")
    os.chmod(folder, 0o700)
    give_up = time.monotonic() + CLEARING_SECONDS
    while (names := os.listdir(folder)) and time.monotonic() < give_up:  # an ending child may still write
        for command in (["chmod", "-R", "u+rwX", "."], ["rm", "-rf", "--", *names]):
            subprocess.run(command, cwd=folder, stderr=subprocess.DEVNULL, check=False)


def remove(folder: str) -> None:
    """Remove a folder and its content."""
    with contextlib.suppress(OSError):
        clear(folder)
        os.rmdir(folder)
