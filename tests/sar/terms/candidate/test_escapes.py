"""Ways out of the sandbox: each is refused by the check of the source, and, where a source gets by
the check, it still reaches nothing: the sandbox is the wall."""

from __future__ import annotations

import ast
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sar.terms.candidate import sandbox
from sar.terms.candidate.errors import CandidateError
from sar.terms.candidate.runner import CandidateRunner
from sar.terms.candidate.sample import PlainSample
from sar.terms.candidate.sandbox import Limits

SECRET = "canary-4711"
FOLDER = "@FOLDER@"
PORT = "@PORT@"

# What is tried, as the body of a function. It returns what it has got.
ESCAPES = {
    "open": f"return open('{FOLDER}/secret').read()",
    "open for writing": f"f = open('{FOLDER}/made', 'w')\nf.write('x')\nf.close()\nreturn 'made'",
    "open by descriptor": "return open(0).read()",
    "io": f"import io\nreturn io.open('{FOLDER}/secret').read()",
    "os.open": f"import os\nreturn os.read(os.open('{FOLDER}/secret', 0), 99)",
    "os.listdir": f"import os\nreturn os.listdir('{FOLDER}')",
    "os.environ": "import os\nreturn dict(os.environ)",
    "os.getenv": "import os\nreturn os.getenv('CANARY')",
    "os.system": f"import os\nreturn os.system('touch {FOLDER}/made')",
    "os.popen": f"import os\nreturn os.popen('touch {FOLDER}/made').read()",
    "os.remove": f"import os\nos.remove('{FOLDER}/secret')\nreturn 'removed'",
    "os.kill": "import os\nos.kill(os.getppid(), 9)\nreturn 'killed'",
    "os.fork": "import os\nreturn os.fork()",
    "os.execv": f"import os\nos.execv('/bin/touch', ['touch', '{FOLDER}/made'])",
    "pathlib": f"import pathlib\nreturn pathlib.Path('{FOLDER}/secret').read_text()",
    "pathlib for writing": f"import pathlib\npathlib.Path('{FOLDER}/made').write_text('x')",
    "shutil": f"import shutil\nshutil.rmtree('{FOLDER}')",
    "subprocess": f"import subprocess\nreturn subprocess.run(['touch', '{FOLDER}/made'])",
    "socket": f"import socket\nreturn socket.create_connection(('127.0.0.1', {PORT}))",
    "urllib": f"import urllib.request\nreturn urllib.request.urlopen('http://127.0.0.1:{PORT}')",
    "http": f"import http.client\nhttp.client.HTTPConnection('127.0.0.1', {PORT}).connect()",
    "asyncio": f"import asyncio\nreturn asyncio.run(asyncio.open_connection('::1', {PORT}))",
    "ctypes": "import ctypes\nreturn ctypes.CDLL(None).getpid()",
    "multiprocessing": "import multiprocessing\nreturn multiprocessing.Process().start()",
    "threading": "import threading\nreturn threading.Thread().start()",
    "signal": "import signal\nsignal.raise_signal(9)",
    "pickle": "import pickle\nreturn pickle.loads(b'cos\\ngetpid\\n(tR.')",
    "importlib": "import importlib\nreturn importlib.import_module('os').getpid()",
    "__import__": "return __import__('os').getpid()",
    "builtins": "import builtins\nreturn builtins.open",
    "__builtins__": "return __builtins__",
    "sys.modules": "import sys\nreturn sys.modules['os']",
    "sys._getframe": "import sys\nreturn sys._getframe(1).f_globals",
    "sys.exit": "import sys\nsys.exit(3)",
    "gc": "import gc\nreturn gc.get_objects()",
    "inspect": "import inspect\nreturn inspect.stack()",
    "code": "import code\ncode.interact()",
    "eval": f"return eval(\"open('{FOLDER}/secret').read()\")",
    "exec": f"exec(\"import os\\nos.system('touch {FOLDER}/made')\")",
    "compile": "return compile('1', 'x', 'eval')",
    "globals": "return globals()",
    "locals": "return locals()",
    "vars": "return vars()",
    "dir": "return dir()",
    "subclasses": "return ().__class__.__base__.__subclasses__()",
    "mro": "return type(0).__mro__",
    "function globals": "def f(): pass\nreturn f.__globals__",
    "function code": "def f(): pass\nreturn f.__code__",
    "closure": "x = 1\ndef f(): return x\nreturn f.__closure__",
    "exception's frame": (
        "try:\n    1 / 0\nexcept Exception as e:\n    return e.__traceback__.tb_frame.f_globals"
    ),
    "generator's frame": "return (i for i in [1]).gi_frame.f_globals",
    "getattr": "return getattr((), '__cla' + 'ss__')",
    "setattr": "setattr(int, 'x', 1)\nreturn int.x",
    "str.format": "return '{0.__class__.__mro__}'.format(())",
    "str.format_map": "return '{a.__init__.__globals__}'.format_map({'a': sample})",
    "f-string": "return f'{().__class__}'",
    "input": "return input()",
    "breakpoint": "breakpoint()",
    "help": "help()",
    "print": "print('x' * 100)\nreturn 'printed'",
    "metaclass": "class A(type):\n    pass\nreturn A.__subclasses__(A)",
    "wide letters": f"return ｏｐｅｎ('{FOLDER}/secret').read()",
    "a line that continues": f"return o\\\npen('{FOLDER}/secret').read()",
    "a call of the wrapper": "return __sample",
    "time": "import time\nreturn time.time()",
    "random": "import random\nreturn random.random()",
    "uuid": "import uuid\nreturn uuid.getnode()",
    "platform": "import platform\nreturn platform.node()",
    "install": "import pip\npip.main(['install', 'x'])",
    "an encoding line": "# -*- coding: utf-7 -*-\nreturn __import__('os')",
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a secret file, and a secret in the environment."""
    (tmp_path / "secret").write_text(SECRET)
    monkeypatch.setenv("CANARY", SECRET)
    return tmp_path


def test_there_are_forty_ways_and_more() -> None:
    assert len(ESCAPES) >= 40


@pytest.mark.parametrize("way", ESCAPES)
def test_the_check_of_the_source_refuses(
    way: str, place: Path, sample: PlainSample, capfd: pytest.CaptureFixture[str]
) -> None:
    source = _write(ESCAPES[way], place, 1)
    with pytest.raises(CandidateError) as caught:
        CandidateRunner(source).score(sample)
    # A few are names that the check cannot know to be more than text or a field; they fail later.
    later = ("str.format", "str.format_map", "generator's frame")
    assert caught.value.fault == "source" or way in later
    assert SECRET not in str(caught.value)
    assert capfd.readouterr().out == ""
    assert os.listdir(place) == ["secret"]


@pytest.mark.parametrize("way", ESCAPES)
def test_the_sandbox_holds_without_that_check(
    way: str, place: Path, sample: PlainSample, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        source = _write(ESCAPES[way], place, server.getsockname()[1])
        code = f"{source}\nreward(__sample)"
        try:
            got = repr(sandbox.run(code, {"__sample": dict(sample)}, Limits()).value)
        except CandidateError as error:
            got = str(error)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert SECRET not in got
    assert os.listdir(place) == ["secret"]
    assert (place / "secret").read_text() == SECRET
    assert str(os.getpid()) not in got
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("way", ["open", "os.environ", "os.getenv", "pathlib", "eval"])
def test_in_python_these_ways_do_reach_the_secret(way: str, place: Path) -> None:
    """So the tests above would notice an interpreter that lets them."""
    program = f"{_write(ESCAPES[way], place, 1)}\nprint(reward({{}}))"
    assert SECRET in subprocess.check_output([sys.executable, "-c", program], text=True)


def _write(body: str, place: Path, port: int) -> str:
    lines = body.replace(FOLDER, str(place)).replace(PORT, str(port)).splitlines()
    return "def reward(sample):\n" + "".join(f"    {line}\n" for line in lines)


def test_python_itself_runs_nothing_of_a_candidate() -> None:
    """Nothing in the package could: no call that runs a text, no import of a module by its name."""
    forbidden = {
        *("exec", "eval", "compile", "__import__", "import_module", "run_path", "run_module"),
        *("exec_module", "spec_from_file_location", "loads", "literal_eval", "FunctionType"),
    }
    files = sorted(Path(sandbox.__file__).parent.rglob("*.py"))
    assert len(files) >= 8
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, (ast.Name, ast.Attribute)):
                name = node.id if isinstance(node, ast.Name) else node.attr
                assert name not in forbidden, f"{file}:{node.lineno} {name}"
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = {one.name.partition(".")[0] for one in node.names}
                assert not names & {*forbidden, "importlib", "runpy", "pickle", "types"} - {
                    "MappingProxyType"
                }
