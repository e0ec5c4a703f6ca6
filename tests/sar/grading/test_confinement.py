"""Code that runs in a grader process: no keys, files, sockets, processes, or orders to the server.

Each attack is tried in Python, where the audit hook may refuse it, and as a system call, where only
the system can.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sar.grading.label import parse_label
from sar.grading.processes import serving
from sar.grading.processes.confinement import Walls
from sar.grading.processes.forkserver import ForkServer
from sar.grading.processes.process import Budget, KillableProcess, ProcessDied
from sar.grading.processes.serving import WorkerFailed
from sar.grading.verdict import Verdict

SECRET = "secret-4f1c9a7be2d8"
BUDGET = Budget(20.0)

# Runs in the grader process. `libc` goes around Python's audit hook.
_MODULE = """
import ctypes, os, socket, subprocess
from sar.grading.processes.worker import check_label, grade_response, initialize, warm_up

libc = ctypes.CDLL(None, use_errno=True)
RAW = {
    "fork": lambda path: libc.fork(),
    "vfork": lambda path: libc.syscall(58),
    "execve": lambda path: libc.execv(b"/bin/true", (ctypes.c_char_p * 2)(b"/bin/true", None)),
    "socket": lambda path: libc.socket(2, 1, 0),
    "unix socket": lambda path: libc.socket(1, 1, 0),
    "write": lambda path: libc.open(path + b".new", os.O_WRONLY | os.O_CREAT, 0o600),
    "append": lambda path: libc.open(path, os.O_WRONLY | os.O_APPEND),
    "unlink": lambda path: libc.unlink(path),
    "rename": lambda path: libc.rename(path, path + b".old"),
    "mkdir": lambda path: libc.mkdir(path + b".d", 0o700),
    "chmod": lambda path: libc.chmod(path, 0o777),
    "kill": lambda path: libc.kill(os.getppid(), 0),
    "ptrace": lambda path: libc.ptrace(16, os.getppid(), 0, 0),
    "raise limits": lambda path: libc.setrlimit(7, (ctypes.c_ulong * 2)(1000, 1000)),
    "memfd": lambda path: libc.memfd_create(b"x", 0),
    "read a file": lambda path: libc.open(path, os.O_RDONLY),
    "read its environment": lambda path: libc.open(b"/proc/self/environ", os.O_RDONLY),
    "read the server's": lambda path: libc.open(b"/proc/%d/environ" % os.getppid(), os.O_RDONLY),
}
PYTHON = {
    "fork": lambda path: os.fork(),
    "run": lambda path: subprocess.run(["true"]),
    "system": lambda path: os.system("true"),
    "socket": lambda path: socket.socket(),
    "connect": lambda path: socket.create_connection(("127.0.0.1", 9)),
    "look up": lambda path: socket.getaddrinfo("localhost", 80),
    "write": lambda path: open(path + b".new", "w"),
    "append": lambda path: open(path, "a"),
    "remove": lambda path: os.remove(path),
    "mkdir": lambda path: os.mkdir(path + b".d"),
    "kill": lambda path: os.kill(os.getppid(), 9),
    "load a library": lambda path: ctypes.CDLL("libc.so.6"),
    "read a file": lambda path: open(path).read(),
    "read its environment": lambda path: open("/proc/self/environ").read(),
}

def attack_raw(name, path):
    return RAW[name](path.encode()) == -1

def attack_python(name, path):
    try:
        PYTHON[name](path.encode())
    except OSError as error:
        return type(error).__name__
    return "done"

def get_environment():
    return dict(os.environ)

def send_garbage(data):
    os.write(CONNECTION, data)
    os._exit(0)

def find_connection():
    global CONNECTION
    for number in range(3, 64):
        try:
            if os.readlink(f"/proc/self/fd/{number}").startswith("socket:"):
                CONNECTION = number
        except OSError:
            pass
"""
_READS = {"read a file", "read its environment", "read the server's"}


@pytest.fixture(scope="module")
def attackers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    """Starts processes that are shut in like graders and have the attacks as functions."""
    folder: Path = tmp_path_factory.mktemp("attackers")
    (folder / "attacking_worker.py").write_text(_MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setenv("REWARD_SERVER_API_KEY", SECRET)
        patch.setenv("HF_TOKEN", SECRET)
        fork_server = ForkServer("attacking_worker")
        yield fork_server
        fork_server.close()


@pytest.fixture
def attacker(attackers: ForkServer) -> Iterator[KillableProcess]:
    process = KillableProcess(attackers)
    process.wait_until_ready()
    yield process
    process.kill_and_wait()


@pytest.fixture(scope="module")
def missing(attackers: ForkServer) -> str:
    """What this machine does not have, in the words of the log."""
    process = KillableProcess(attackers)
    text = process.wait_until_ready()
    process.kill_and_wait()
    assert isinstance(text, str)
    return text.partition("NOT available here")[2]


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file that is none of the grader's business."""
    file = tmp_path / "keys"
    file.write_text(SECRET)
    return file


def _names(table: str) -> list[str]:
    namespace: dict[str, dict[str, object]] = {}
    exec(_MODULE, namespace)
    return list(namespace[table])


@pytest.mark.parametrize("name", _names("RAW"))
def test_a_system_call_fails(
    attacker: KillableProcess, victim: Path, missing: str, name: str
) -> None:
    wall = "Landlock" if name in _READS else "seccomp"
    if wall in missing:
        pytest.skip(f"not here: {missing}")
    if name == "vfork" and os.uname().machine != "x86_64":
        pytest.skip("this machine has no vfork")
    assert attacker.call("attack_raw", name, str(victim), budget=BUDGET) is True
    assert victim.read_text() == SECRET
    assert os.listdir(victim.parent) == [victim.name]


@pytest.mark.parametrize("name", _names("PYTHON"))
def test_python_refuses_it_even_where_the_system_does_not(
    attacker: KillableProcess, victim: Path, name: str
) -> None:
    outcome = attacker.call("attack_python", name, str(victim), budget=BUDGET)
    assert outcome == "PermissionError"
    assert victim.read_text() == SECRET


def test_the_environment_has_neither_keys_nor_tokens(attacker: KillableProcess) -> None:
    environment = attacker.call("get_environment", budget=BUDGET)
    assert SECRET not in str(environment)
    assert not {"REWARD_SERVER_API_KEY", "HF_TOKEN", "HOME"} & environment.keys()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_the_system_shows_no_keys_in_its_environment_either(attackers: ForkServer) -> None:
    process = KillableProcess(attackers)
    process.wait_until_ready()
    assert SECRET.encode() not in Path(f"/proc/{process._pid}/environ").read_bytes()
    process.kill_and_wait()


def test_it_can_still_grade(attacker: KillableProcess) -> None:
    for response, answer in (("Answer: 5", "5"), (r"\boxed{x^2+2x+1}", "(x+1)^2")):
        fields = attacker.call("grade_response", response, parse_label(answer), True, budget=BUDGET)
        assert Verdict.from_fields(fields).correctness == 1.0


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 8,
        serving._LENGTH.pack(3) + b"abc",
        serving._LENGTH.pack(8) + b"\x80\x04K\x01.   ",
        serving._LENGTH.pack(200_000) + b"[" * 200_000,
        serving._LENGTH.pack(2) + b"[]",
    ],
    ids=["too long", "no json", "a pickle", "too deep", "no result"],
)
def test_the_server_takes_no_orders_from_it(attackers: ForkServer, data: bytes) -> None:
    process = KillableProcess(attackers)
    process.wait_until_ready()
    process.call("find_connection", budget=BUDGET)
    with pytest.raises(ProcessDied):
        process.call("send_garbage", data, budget=BUDGET)
    process.kill_and_wait()


@pytest.mark.parametrize(
    "fields",
    [{}, {"reason": "great", "source": ""}, {"reason": "correct", "source": "nowhere", "rule": 5}],
)
def test_what_is_no_verdict_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        Verdict.from_fields(fields)


def test_a_machine_without_the_packages_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "landlock", None)
    monkeypatch.setitem(sys.modules, "pyseccomp", None)
    walls = Walls()
    with pytest.raises(ImportError):
        walls._restrict_files()
    with pytest.raises(ImportError):
        walls._restrict_system_calls()


def test_a_failing_function_is_an_error_with_its_name(attacker: KillableProcess) -> None:
    with pytest.raises(WorkerFailed, match="TypeError: get_environment"):
        attacker.call("get_environment", "too many", budget=BUDGET)
