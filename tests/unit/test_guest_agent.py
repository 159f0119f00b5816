"""Running code in a guest through one process: here the guest is a directory of this machine."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vexrun.errors import TargetLostError
from vexrun.guest import agent as agent_module
from vexrun.guest import payload
from vexrun.guest.payload import GuestAgent, GuestCodeError, GuestPython
from vexrun.vm.ssh import GuestShell, GuestTimeoutError, SshAddress, write_ssh_config

FUNCTIONS = """
import os, sys, time

def add(*numbers, extra=0):
    return {"sum": sum(numbers) + extra, "pid": os.getpid()}

def refuse(what):
    assert what is None, f"{what} is in the way"

def missing(path):
    return open(path).read()

def die():
    os._exit(3)

def noisy():
    print("this is no answer")
    sys.stdout.flush()
    return "heard"

def leave():
    os.chdir("/proc")
    return os.getcwd()

def where():
    return os.getcwd()

def sleep(seconds):
    time.sleep(seconds)
"""

Ask = Callable[..., tuple[Any, ...]]


# -- the guest's end -----------------------------------------------------------------------------


@pytest.fixture
def ask(tmp_path: Path) -> Iterator[Ask]:
    """Asks an agent as the guest runs it: isolated, without site-packages."""
    (tmp_path / "demo_in_guest.py").write_text(FUNCTIONS)
    script = tmp_path / "agent.py"
    script.write_text(Path(agent_module.__file__).read_text())
    argv = [sys.executable, "-I", "-S", str(script)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(argv, **pipes) as child:

        def request(*words: object) -> tuple[Any, ...]:
            child.stdin.write(repr(words).encode() + b"\n")
            child.stdin.flush()
            return answer()

        def answer() -> tuple[Any, ...]:
            read: tuple[Any, ...] = ast.literal_eval(child.stdout.readline().decode())
            return read

        assert answer() == ("ok", "ready")
        yield request
        child.stdin.close()
        assert child.wait(5) == 0, "the agent ends with its connection"


def call(ask: Ask, function: str, *arguments: object, **keywords: object) -> tuple[Any, ...]:
    return ask("call", "demo_in_guest", function, arguments, keywords, "root")


def test_a_function_is_called_in_a_process_of_its_own(ask: Ask) -> None:
    first = call(ask, "add", 1, 2, extra=4)
    second = call(ask, "add")
    assert (first[0], first[1]["sum"], second[1]["sum"]) == ("ok", 7, 0)
    assert first[1]["pid"] != second[1]["pid"]


def test_nothing_a_function_does_outlives_it(ask: Ask) -> None:
    assert call(ask, "leave") == ("ok", "/proc")
    assert call(ask, "where") == ("ok", "/")


def test_what_a_function_prints_is_no_answer(ask: Ask) -> None:
    assert call(ask, "noisy") == ("ok", "heard")
    assert call(ask, "where") == ("ok", "/")


@pytest.mark.parametrize(
    ("function", "arguments", "kind", "message"),
    [
        ("refuse", ("dirt",), "AssertionError", "dirt is in the way"),
        ("missing", ("/nope",), "FileNotFoundError", "FileNotFoundError: [Errno 2]"),
        ("add", ("a",), "TypeError", "TypeError: "),
        ("no_such_function", (), "AttributeError", "AttributeError: "),
    ],
)
def test_an_exception_comes_back_with_its_traceback(
    ask: Ask, function: str, arguments: tuple[object, ...], kind: str, message: str
) -> None:
    answer = call(ask, function, *arguments)
    assert (answer[0], answer[1]) == ("error", kind)
    assert answer[2].startswith(message)
    assert answer[3].startswith("Traceback")
    assert call(ask, "where")[0] == "ok", "the agent goes on"


def test_a_function_that_kills_its_process_is_told(ask: Ask) -> None:
    status = call(ask, "die")
    assert status[0] == "died"
    assert os.waitstatus_to_exitcode(status[1]) == 3
    assert call(ask, "where")[0] == "ok"


def test_a_command_has_its_status_and_both_outputs(ask: Ask) -> None:
    assert ask("run", "echo out; echo err >&2; exit 3") == ("ok", (3, "out\n", "err\n"))
    assert ask("run", "kill -9 $$")[1][0] == 137, "as a shell reports a signal"
    assert ask("run", r"printf 'a\377'")[1][1] == "a\ufffd"


def test_files_are_written_read_and_looked_for(ask: Ask, tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    assert ask("exists", path) == ("ok", False)
    assert ask("read", path) == ("ok", None)
    assert ask("write", path, b"\0\n\xff") == ("ok", None)
    assert ask("read", path) == ("ok", b"\0\n\xff")
    assert ask("exists", path) == ("ok", True)
    failed = ask("write", str(tmp_path / "no" / "file"), b"")
    assert failed[:2] == ("error", "FileNotFoundError")


# -- the host's end ------------------------------------------------------------------------------

LOCAL = 'while [ "$1" != -- ]; do shift; done; shift; exec sh -c "$*"'


@pytest.fixture
def agent(tmp_path: Path, programs: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[GuestAgent]:
    guest = tmp_path / "guest"
    monkeypatch.setattr(payload, "_DIRECTORY", str(guest))
    command = f"exec {sys.executable} -I -S {guest}/agent.py"
    monkeypatch.setattr(payload, "_COMMAND", command)
    programs.add("ssh", LOCAL)
    run = tmp_path / "run"
    run.mkdir()
    key = "ssh-ed25519 AAAA host"
    agent = GuestAgent(GuestShell(write_ssh_config(SshAddress(1, run / "key", key), run)))
    yield agent
    agent.stop()


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of FUNCTIONS, importable here as a test's own helpers are."""
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "demo_in_guest.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(tmp_path / "here")
    monkeypatch.delitem(sys.modules, "demo_in_guest", raising=False)
    import demo_in_guest

    yield demo_in_guest
    del sys.modules["demo_in_guest"]


def test_a_function_of_this_machine_runs_there(agent: GuestAgent, functions: Any) -> None:
    in_guest = GuestPython(agent, 30)
    answer = in_guest(functions.add, 1, 2, extra=3)
    assert answer["sum"] == 6
    assert answer["pid"] != os.getpid()


def test_an_exception_there_is_an_assertion_here(agent: GuestAgent, functions: Any) -> None:
    with pytest.raises(GuestCodeError, match="dirt is in the way") as caught:
        GuestPython(agent, 30)(functions.refuse, "dirt")
    assert caught.value.kind == "AssertionError"
    assert "in the guest:\nTraceback" in str(caught.value)
    with pytest.raises(GuestCodeError, match="ended with wait status"):
        GuestPython(agent, 30)(functions.die)


def test_work_that_does_not_end_is_a_timeout_and_the_next_works(
    agent: GuestAgent, functions: Any
) -> None:
    agent.ship(Path(functions.__file__))
    begun = time.monotonic()
    with pytest.raises(GuestTimeoutError, match="did not finish this within 0 s: call"):
        GuestPython(agent, 0.2)(functions.sleep, 60)
    assert time.monotonic() - begun < 30
    assert GuestPython(agent, 30)(functions.where) == "/"


def test_an_agent_that_somebody_killed_is_a_lost_target(agent: GuestAgent, functions: Any) -> None:
    with pytest.raises(TargetLostError, match="ended without an answer"):
        agent.ask("run", "kill -9 $PPID; sleep 1", timeout_s=30)


def test_a_connection_that_broke_is_a_lost_target(
    agent: GuestAgent, functions: Any, programs: Any
) -> None:
    assert GuestPython(agent, 30)(functions.where) == "/"
    programs.add("ssh", "exit 255")
    with pytest.raises(TargetLostError, match="connection to the guest broke"):
        agent.ask("run", "kill -9 $PPID; sleep 1", timeout_s=30)
