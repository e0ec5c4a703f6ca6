"""What a candidate does to its interpreter, and what the machine does to both."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest

from sar.terms.candidate import sandbox
from sar.terms.candidate.errors import CandidateError, Fault, SandboxError
from sar.terms.candidate.runner import CandidateRunner
from sar.terms.candidate.sample import PlainSample
from sar.terms.candidate.sandbox import Limits

CORRECT = "def reward(s): return 1.0 if s['correct'] else 0.0"
LOOP = "def reward(s):\n    while True: pass"

HOSTILE: dict[str, tuple[str, set[Fault]]] = {
    "loop": ("while True: pass", {"time"}),
    "loop that catches": (
        "while True:\n        try:\n            while True: pass\n        except Exception: pass",
        {"time"},
    ),
    # Multiplying large numbers is one step, in which the interpreter does not look at the clock.
    "endless step": ("x = 3\n    while True: x = x * x", {"time", "memory"}),
    "nested loops": (
        "return sum(i * j for i in range(10**5) for j in range(10**5))",
        {"memory", "time"},
    ),
    "sum of a range": ("return sum(range(10**12))", {"time"}),
    "recursion": ("return reward(s)", {"memory"}),
    "recursion of two": ("f = lambda x: g(x)\n    g = lambda x: f(x)\n    return f(1)", {"memory"}),
    "power": ("return 9**9**9", {"memory"}),
    "shift": ("return 1 << 10**10", {"memory"}),
    "text": ("return len('a' * 10**10)", {"memory"}),
    "text that doubles": ("x = 'a'\n    while True: x += x", {"memory"}),
    "list": ("return len([0] * 10**10)", {"memory"}),
    "list that grows": ("x = []\n    while True: x.append(x)", {"memory", "time"}),
    "set": ("return len(set(range(10**9)))", {"memory"}),
    "dict": ("return len({i: i for i in range(10**9)})", {"memory"}),
    "replace": ("return len(('a' * 10**4).replace('a', 'b' * 10**5))", {"memory"}),
    "join": ("return len(('b' * 10**4).join(['a'] * 10**5))", {"memory"}),
    "format": ("return len('{:10000000000}'.format(1))", {"memory", "raised"}),
    "f-string": ("n = 10**10\n    return len(f'{1:{n}}')", {"memory", "raised"}),
    "percent": ("return len('%10000000000d' % 1)", {"memory", "raised"}),
    "justify": ("return len(''.ljust(10**10))", {"memory"}),
    "digits": ("return len(str(10**5000))", {"raised"}),
    "division by zero": ("return 1 / 0", {"raised"}),
    "overflow": ("return 1e308 * 10", {"result"}),
    "no such index": ("return s['response'].split()[99]", {"raised"}),
}


@pytest.mark.parametrize(("body", "faults"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_call_is_an_error_and_the_next_call_is_none(
    body: str, faults: set[Fault], sample: PlainSample
) -> None:
    hostile = CandidateRunner(f"def reward(s):\n    {body}")
    with pytest.raises(CandidateError) as caught:
        hostile.score(sample)
    assert caught.value.fault in faults
    assert "\n" not in str(caught.value)
    assert CandidateRunner(CORRECT).score(sample) == 1.0


REGEX = {
    "nested": r"re.match('(a+)+$', 'a' * 40 + 'b')",
    "alternatives": r"re.match('(a|a)*$', 'a' * 40 + 'b')",
    "back reference": r"re.match(r'(a*)*(b?)*\2c', 'a' * 40)",
    "look ahead": r"re.findall('(?=(.*))', 'a' * 30000)",
    "repeats of repeats": r"re.compile('((a{1000}){1000}){1000}')",
    "deep": r"re.compile('(' * 5000 + ')' * 5000)",
}


@pytest.mark.parametrize("expression", REGEX.values(), ids=REGEX)
def test_a_regular_expression_ends(expression: str, sample: PlainSample) -> None:
    runner = CandidateRunner(f"import re\ndef reward(s):\n    {expression}\n    return 0.5")
    outcome: object
    try:
        outcome = runner.score(sample)
    except CandidateError as error:
        outcome = error.fault
    assert outcome in (0.5, "time", "memory", "raised")
    assert CandidateRunner(CORRECT).score(sample) == 1.0


def test_no_call_knows_of_another(sample: PlainSample) -> None:
    """Neither a list outside the function, nor a default, nor an attribute keeps anything."""
    for source in (
        "SEEN = []\ndef reward(s):\n    SEEN.append(1)\n    return len(SEEN)",
        "SEEN = {}\ndef reward(s):\n    SEEN[len(SEEN)] = 1\n    return len(SEEN)",
        "def f(seen=[]):\n    seen.append(1)\n    return len(seen)\ndef reward(s):\n    return f()",
    ):
        runner = CandidateRunner(source)
        assert runner.score_all([sample] * 5) == [1.0] * 5


def test_a_changed_sample_is_the_candidates_own(sample: PlainSample) -> None:
    runner = CandidateRunner(
        "def reward(s):\n    t = s\n    t['response'] = ''\n    return len(s['response'])"
    )
    before = dict(sample)
    assert runner.score(sample) == 0.0
    assert sample == before


def test_threads_get_their_own_answers(sample: PlainSample) -> None:
    runners = [CandidateRunner(f"def reward(s): return s['sar'] + {n}") for n in range(8)]

    def call(number: int) -> float:
        own: PlainSample = {**sample, "sar": number / 1000}
        return runners[number % 8].score(own)

    with ThreadPoolExecutor(8) as threads:
        got = list(threads.map(call, range(400)))
    assert got == [number / 1000 + number % 8 for number in range(400)]


def test_a_call_that_hangs_leaves_other_threads_running(sample: PlainSample) -> None:
    """The interpreter works in another process: Python's lock is free meanwhile."""
    runner, turns = CandidateRunner(LOOP, Limits(call_s=0.5)), 0

    def hang() -> None:
        with pytest.raises(CandidateError):
            runner.score(sample)

    thread = threading.Thread(target=hang)
    thread.start()
    while thread.is_alive():
        turns += 1
        time.sleep(0.001)
    assert turns > 20


def _find_workers() -> list[psutil.Process]:
    return [one for one in psutil.Process().children() if "monty" in one.name()]


def test_a_process_that_is_killed_in_a_call_is_replaced(sample: PlainSample) -> None:
    """The machine may kill it, short of memory: the call is repeated before it is blamed."""
    runner = CandidateRunner(
        "def reward(s):\n    t = 0\n    for i in range(10**7): t += 1\n    return t / 10**7",
        Limits(call_s=60.0),
    )
    CandidateRunner(CORRECT).score(sample)  # starts the processes
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(runner.score, sample)
        time.sleep(0.1)
        killed = _find_workers()
        for one in killed:
            one.kill()
        assert killed
        assert not future.done()
        assert future.result() == 1.0
    assert {one.pid for one in _find_workers()}.isdisjoint(one.pid for one in killed)


def test_processes_that_die_between_calls_are_replaced(sample: PlainSample) -> None:
    runner = CandidateRunner(CORRECT)
    with ThreadPoolExecutor(4) as threads:  # as many processes as there may be
        list(threads.map(runner.score, [sample] * 200))
    for _ in range(10):
        for one in _find_workers():
            one.kill()
        assert runner.score(sample) == 1.0


def test_a_sample_that_is_not_plain_data_is_no_fault_of_the_candidate(sample: PlainSample) -> None:
    wrong = {**sample, "sar": np.float32(0.5)}
    with pytest.raises(SandboxError, match=r"not plain data.*numpy\.float32"):
        CandidateRunner(CORRECT).score(wrong)  # type: ignore[arg-type]


def test_a_process_that_dies_each_time_is_the_candidates_fault(
    sample: PlainSample, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def fail(*args: object) -> None:
        calls.append(args)
        raise sandbox._UnclearError(CandidateError("a call ended its interpreter", "crash"))

    monkeypatch.setattr(sandbox, "_run_once", fail)
    with pytest.raises(CandidateError, match="ended its interpreter") as caught:
        CandidateRunner(CORRECT).score(sample)
    assert caught.value.fault == "crash"
    assert len(calls) == 2


@pytest.mark.slow
def test_a_process_without_cpu_time_is_the_machines_fault(
    sample: PlainSample, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine where others take the CPU: the time is up, and the process has used none."""
    monkeypatch.setattr(sandbox, "_read_cpu_s", lambda pid: 1.0)
    with pytest.raises(SandboxError, match="the machine is busy"):
        CandidateRunner(LOOP).score(sample)


def test_no_package_is_an_error_that_says_what_to_install(
    sample: PlainSample, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "_pools", {})
    monkeypatch.setitem(sys.modules, "pydantic_monty", None)
    with pytest.raises(SandboxError, match=r"pip install .*search"):
        CandidateRunner(CORRECT).score(sample)


def test_an_interpreter_that_does_not_start_is_no_fault_of_the_candidate(
    sample: PlainSample, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "_pools", {})
    monkeypatch.setenv("MONTY_BIN", "/bin/false")
    with pytest.raises(SandboxError, match="sandbox"):
        CandidateRunner(CORRECT).score(sample)


def test_interpreters_get_nothing_of_the_environment(sample: PlainSample) -> None:
    CandidateRunner(CORRECT).score(sample)
    workers = _find_workers()
    assert workers
    for one in workers:
        assert "PATH" not in one.environ()


PROGRAM = """
import os, sys
from sar.terms.candidate.runner import CandidateRunner
from sar.terms.candidate.sandbox import Limits
import psutil
sample = dict.fromkeys(("prompt", "response", "label"), "") | dict.fromkeys(
    ("correct", "response_tokens", "ppl_qa", "ppl_a", "sar"), 1)
CandidateRunner("def reward(s): return 1").score(sample)
print(*(one.pid for one in psutil.Process().children()), flush=True)
"""


def test_interpreters_end_with_their_process(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    ran = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, check=True)
    assert ran.stderr == ""
    _wait_until_gone([int(pid) for pid in ran.stdout.split()])


@pytest.mark.slow
def test_interpreters_end_with_a_process_that_is_killed_in_a_call(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM + f"CandidateRunner({LOOP!r}, Limits(call_s=2.0)).score(sample)\n")
    process = subprocess.Popen([sys.executable, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    pids = [int(pid) for pid in process.stdout.readline().split()]
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    _wait_until_gone(pids)


def _wait_until_gone(pids: list[int]) -> None:
    assert pids
    deadline_s = time.monotonic() + 30
    while any(psutil.pid_exists(pid) for pid in pids):
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def test_a_forked_process_is_told_so(sample: PlainSample) -> None:
    """The threads of pydantic-monty are not there any more: a call would hang."""
    runner = CandidateRunner(CORRECT)
    assert runner.score(sample) == 1.0
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            runner.score(sample)
        except SandboxError as error:
            status = 0 if "spawn" in str(error) else 2
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert runner.score(sample) == 1.0
