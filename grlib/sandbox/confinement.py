"""What a process gives up before it runs a program: files, network, processes, privileges.

Takes effect in the child, after the fork, and cannot be undone. Imports only the standard library and
`pyseccomp`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import socket
import stat
import struct
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

MOST_TASKS = 64  # processes and threads of a program
SET_PDEATHSIG, SET_NO_NEW_PRIVS, SET_SECCOMP = 1, 38, 22
SECCOMP_FILTER_MODE = 2
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446  # the same on every architecture
WRITE_FILE, READ_FILE, READ_DIR = 1 << 1, 1 << 2, 1 << 3
ON_FILES = 0b111 | 1 << 14 | 1 << 15  # the rights that a single file can have
PACKAGES = ("site-packages", "dist-packages")  # folders of installed packages, which stay closed
FILES_BY_VERSION = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # number of file rights by version of Landlock
SCOPES = 0b11  # abstract sockets and signals; from version 6 on
CLONE_THREAD = 0x10000
# fcntl on descriptors: copy, flags, locks, size of a pipe; not the owner, which would get signals
FILE_COMMANDS = (0, 1, 2, 3, 4, 5, 6, 7, 1030, 1032)
CAPABILITIES = 0x20080522  # version 3 of the interface
SOCK_STREAM, SOCK_TYPE_MASK = 1, 0xF
# ioctl on descriptors: is it a terminal, do not block, close or keep it when another program starts
QUERIES = (0x5401, 0x5421, 0x5451, 0x5450)

# System calls of Python and of honest programs. All others fail with "not permitted": sockets, new programs
# and processes, signals to others, changes of file modes and owners, and calls that newer kernels add.
ALLOWED = (
    "read readv pread64 preadv write writev pwrite64 pwritev lseek close close_range dup dup2 dup3 fstat "
    "newfstatat stat lstat statx getdents getdents64 readlink readlinkat getcwd chdir mkdir mkdirat rmdir "
    "unlink unlinkat rename renameat renameat2 ftruncate fsync fdatasync umask mmap munmap mremap "
    "mprotect madvise brk clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time times "
    "alarm setitimer getitimer rt_sigaction rt_sigprocmask rt_sigreturn rt_sigtimedwait sigaltstack pause "
    "restart_syscall futex set_robust_list get_robust_list rseq sched_yield sched_getaffinity getcpu "
    "membarrier getpid gettid getppid getuid geteuid getgid getegid getresuid getresgid getpgrp getpgid "
    "uname sysinfo getrusage getrlimit pipe pipe2 epoll_create1 epoll_ctl epoll_wait epoll_pwait eventfd2 "
    "poll ppoll select pselect6 sendto recvfrom getrandom exit exit_group set_tid_address arch_prctl "
    "access faccessat faccessat2"
)

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Means:
    """The means of confinement of this machine, found once and used for every child."""

    landlock: int = 0  # its version; 0: missing
    seccomp: bytes = b""  # the filter as a BPF program; empty: missing


def available() -> Means:
    """The means of this machine."""
    if not sys.platform.startswith("linux"):
        return Means()
    version = _libc.syscall(LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1)
    return Means(max(0, version), _seccomp_program(version))


def _seccomp_program(version: int) -> bytes:
    """The allow list, compiled by libseccomp; empty if the library is not installed.

    Calls that this `version` of Landlock cannot contain are left out.
    """
    try:
        import pyseccomp as kernel
    except (ImportError, RuntimeError, OSError):
        return b""
    rules = kernel.SyscallFilter(kernel.ERRNO(1))

    def allow(name: str, *arguments: Any) -> None:
        if kernel.resolve_syscall(kernel.Arch.NATIVE, name) != -1:  # some architectures lack it
            rules.add_rule(kernel.ALLOW, name, *arguments)

    for name in ALLOWED.split():
        allow(name)
    for command in FILE_COMMANDS:
        allow("fcntl", kernel.Arg(1, kernel.EQ, command))
    _allow_opening(allow, kernel, version)
    allow("clone", kernel.Arg(0, kernel.MASKED_EQ, CLONE_THREAD, CLONE_THREAD))
    rules.add_rule(kernel.ERRNO(38), "clone3")  # ENOSYS: the C library then falls back to clone
    allow("prlimit64", kernel.Arg(0, kernel.EQ, 0))  # its own limits: it can only lower them
    stream = kernel.Arg(1, kernel.MASKED_EQ, SOCK_TYPE_MASK, SOCK_STREAM)
    allow("socketpair", kernel.Arg(0, kernel.EQ, socket.AF_UNIX), stream)  # asyncio needs one
    for query in QUERIES:
        allow("ioctl", kernel.Arg(1, kernel.EQ, query))
    if version >= 6:
        allow("tgkill")  # abort; Landlock keeps it from other processes
    with open(os.memfd_create("filter"), "w+b") as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()


def _allow_opening(allow: Callable[..., None], kernel: Any, version: int) -> None:
    """Allow to open and truncate files. Under an old Landlock, read-only files could be truncated."""
    if version >= 3:
        for name in ("open", "openat", "truncate"):
            allow(name)
        return
    for name, place in (("open", 1), ("openat", 2)):
        allow(name, kernel.Arg(place, kernel.MASKED_EQ, os.O_TRUNC, 0))
        for mode in (os.O_WRONLY, os.O_RDWR):
            wanted = os.O_TRUNC | mode
            allow(name, kernel.Arg(place, kernel.MASKED_EQ, os.O_TRUNC | os.O_ACCMODE, wanted))


def confine(means: Means, rules: int, seconds: float, memory: int, file_bytes: int) -> None:
    """Give up all but computing, the folder that `rules` allow, and read access to Python's library."""
    parent = os.getppid()
    os.setsid()
    _limit(seconds, memory, file_bytes)
    end_with(parent)
    if sys.platform.startswith("linux"):
        _control(SET_NO_NEW_PRIVS, 1)
        if os.geteuid() == 0:  # root, but without its privileges
            _checked(_libc.capset(struct.pack("=Ii", CAPABILITIES, 0), bytes(24)), "capset")
    if means.landlock:
        _checked(_libc.syscall(LANDLOCK_RESTRICT, rules, 0), "Landlock")
        os.close(rules)
    if means.seccomp:
        _apply_seccomp(means.seccomp)


def end_with(parent: int) -> None:
    """End this process when its parent ends (Linux)."""
    if sys.platform.startswith("linux"):
        _control(SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            raise OSError("the parent is gone")


def _limit(seconds: float, memory: int, file_bytes: int) -> None:
    inherited = int(_proc_field("/proc/self/statm", 0, "0")) * resource.getpagesize()
    wanted = {
        resource.RLIMIT_CPU: int(seconds) + 2,
        resource.RLIMIT_AS: memory + inherited,
        resource.RLIMIT_FSIZE: file_bytes,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }
    if hasattr(resource, "RLIMIT_NPROC"):  # counts all processes of the user
        tasks = _proc_field("/proc/loadavg", 3, "1/512").partition("/")[2]  # of all users: an upper bound
        wanted[resource.RLIMIT_NPROC] = MOST_TASKS + int(tasks)
    for what, value in wanted.items():
        most = resource.getrlimit(what)[1]
        value = value if most == resource.RLIM_INFINITY else min(value, most)
        try:
            resource.setrlimit(what, (value, value))
        except (ValueError, OSError):  # some systems know a limit but do not set it
            continue


def _proc_field(path: str, place: int, otherwise: str) -> str:
    """A field of a file in /proc (Linux), or `otherwise`."""
    with contextlib.suppress(OSError, IndexError):
        return Path(path).read_text().split()[place]
    return otherwise


def _readable() -> Iterator[str]:
    """Paths that programs may read: Python's library without packages, shared libraries, time zones."""
    library = sysconfig.get_paths(vars={"base": sys.base_prefix, "platbase": sys.base_prefix})
    places = [os.path.dirname(library["stdlib"]), os.path.dirname(library["platstdlib"])]
    for place in dict.fromkeys(map(os.path.realpath, [*places, "/usr/lib", "/usr/lib64", "/lib", "/lib64"])):
        for entry in os.scandir(place) if os.path.isdir(place) else ():
            python = entry.name.startswith("python") and entry.is_dir()
            inner = os.scandir(entry.path) if python else [entry]
            yield from (one.path for one in inner if one.name not in PACKAGES)
    yield from ("/usr/share/zoneinfo", "/etc/localtime", "/etc/ld.so.cache")
    yield from ("/dev/zero", "/dev/urandom", "/dev/random")


@lru_cache
def landlock_rules(version: int, folder: str) -> int:
    """A descriptor of Landlock's rules: all access in `folder`, read access to what programs need.

    Cached for all children of a server, since it takes longer than the start of a child.
    """
    files = (1 << FILES_BY_VERSION.get(version, 16)) - 1
    network = 0b11 if version >= 4 else 0
    handled = struct.pack("QQQ", files, network, SCOPES if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    rules = _checked(_libc.syscall(LANDLOCK_CREATE, handled, ctypes.c_size_t(size), 0), "Landlock")
    library = sysconfig.get_path("stdlib", vars={"base": sys.base_prefix})
    no_devices = files & ~(1 << 6 | 1 << 9 | 1 << 10 | 1 << 11 | 1)  # nor sockets, pipes, programs
    given = [(path, READ_FILE | READ_DIR) for path in _readable()]
    given += [(library, READ_DIR), (os.devnull, READ_FILE | WRITE_FILE), (folder, no_devices)]
    for path, rights in given:
        if os.path.exists(path):
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            rights &= files if stat.S_ISDIR(os.fstat(place).st_mode) else ON_FILES
            rule = struct.pack("=Qi", rights, place)
            _checked(_libc.syscall(LANDLOCK_ADD, rules, 1, rule, 0), "Landlock")
            os.close(place)
    return rules


def _apply_seccomp(program: bytes) -> None:
    held = ctypes.create_string_buffer(program, len(program))
    filter_of_kernel = struct.pack("@HP", len(program) // 8, ctypes.addressof(held))  # struct sock_fprog
    wanted = ctypes.create_string_buffer(filter_of_kernel)
    _control(SET_SECCOMP, SECCOMP_FILTER_MODE, ctypes.addressof(wanted))


def _control(option: int, *values: int) -> None:
    arguments = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]]
    _checked(_libc.prctl(option, *arguments), f"prctl {option}")


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return int(result)
