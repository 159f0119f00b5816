"""Run Python functions and shell commands in the guest through one process that stays there.

Functions live in modules of plain standard-library code named `*_in_guest.py`, shipped once.
"""

from __future__ import annotations

import ast
import inspect
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vexrun import process
from vexrun.errors import TargetLostError
from vexrun.guest import agent
from vexrun.vm.ssh import HOST_ALIAS, GuestShell, GuestTimeoutError

_DIRECTORY = "/var/lib/vexrun/payload"
_SUFFIX = "_in_guest"
_AGENT = Path(agent.__file__)
#: -I -S: no site-packages, no environment; starting Python costs most under emulation.
_COMMAND = f"exec python3 -I -S {_DIRECTORY}/{_AGENT.name}"
_START_TIMEOUT_S = 300.0
#: In a GuestCodeError, between its sentence and the guest's traceback.
IN_THE_GUEST = "\n\nin the guest:\n"


class GuestCodeError(AssertionError):
    """A function failed in the guest; the message is its exception, the traceback follows.

    `kind` is the exception's class name there.
    """

    def __init__(self, message: str, kind: str = "") -> None:
        super().__init__(message)
        self.kind = kind


class GuestAgent:
    """The host's end of vexrun/guest/agent.py: started on first use, gone with the connection."""

    def __init__(self, shell: GuestShell, prefix: str = "") -> None:
        """`prefix` is a command that runs the agent, and so everything that it starts."""
        self.shell = shell
        self._prefix = prefix
        self._process: subprocess.Popen[bytes] | None = None
        self._unread = b""
        self._shipped: set[Path] = set()

    @property
    def _command(self) -> str:
        if not self._prefix:
            return _COMMAND
        return f"exec {self._prefix} {_COMMAND.removeprefix('exec ')}"

    def ship(self, source: Path) -> None:
        """Store a module and every loaded `*_in_guest` module it may import, each once."""
        loaded = {
            Path(module.__file__)
            for name, module in sys.modules.copy().items()
            if name.endswith(_SUFFIX) and module.__file__ is not None
        }
        for path in sorted((loaded | {source}) - self._shipped):
            destination = f"{_DIRECTORY}/{path.name}"
            self.ask("write", destination, path.read_bytes(), timeout_s=_START_TIMEOUT_S)
            self._shipped.add(path)

    def ask(self, *request: Any, timeout_s: float) -> tuple[Any, ...]:
        """Send one request and wait for its answer.

        Raises GuestTimeoutError after `timeout_s`, TargetLostError when the connection is gone,
        GuestCodeError when the work failed there, or died without an answer.
        """
        __tracebackhide__ = True
        if self._process is None or self._process.poll() is not None:
            self._start()
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(repr(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._explain_end()
        answer = self._read_answer(timeout_s, request)
        if answer[0] == "died":
            raise GuestCodeError(f"the process in the guest ended with wait status {answer[1]}")
        if answer[0] == "error":
            _, kind, message, traceback = answer
            raise GuestCodeError(f"{message}{IN_THE_GUEST}{traceback}", kind)
        return answer

    def _start(self) -> None:
        self.shell.send_files([Path(_AGENT.name)], _AGENT.parent, _DIRECTORY)
        self._unread = b""
        with (self.shell.config.parent / "agent.log").open("ab") as log:
            self._process = process.start(
                ["ssh", "-F", str(self.shell.config), HOST_ALIAS, "--", self._command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self._read_answer(_START_TIMEOUT_S, ("start",))

    def _read_answer(self, timeout_s: float, request: tuple[Any, ...]) -> tuple[Any, ...]:
        assert self._process is not None and self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        until = time.monotonic() + timeout_s
        pieces = [self._unread]
        while b"\n" not in pieces[-1]:
            left = until - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                self.stop()
                what = " ".join(str(part) for part in request[:3])
                raise GuestTimeoutError(
                    f"The guest did not finish this within {timeout_s:.0f} s: {what[:200]}"
                )
            piece = self._process.stdout.read1(1 << 20)  # type: ignore[attr-defined]
            if not piece:
                self._explain_end()
            pieces.append(piece)
        line, _, self._unread = b"".join(pieces).partition(b"\n")
        answer: tuple[Any, ...] = ast.literal_eval(line.decode())
        return answer

    def _explain_end(self) -> None:
        """The process in the guest is gone: was it only that, or the whole guest?"""
        self.stop()
        self.shell.run("true", timeout_s=60)  # raises when the target is lost
        raise TargetLostError(
            "The helper process in the guest ended without an answer, though the guest still "
            "answers: something in the guest killed it."
        )

    def stop(self) -> None:
        """End it; the guest does not notice."""
        if self._process is not None:
            process.stop(self._process)
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    stream.close()
            self._process = None


class GuestPython:
    """Calls functions in the guest.

    `function` must live in a module that imports only the standard library and other modules
    named `*_in_guest`; its arguments and result must survive `repr` and `ast.literal_eval`.
    """

    def __init__(self, agent: GuestAgent, timeout_s: float) -> None:
        self.agent = agent
        self.timeout_s = timeout_s

    def __call__(
        self, function: Callable[..., Any], *arguments: Any, user: str = "root", **keywords: Any
    ) -> Any:
        """Run `function(*arguments, **keywords)` in the guest as `user` and return its result.

        Raises GuestCodeError with the guest's exception, GuestTimeoutError, TargetLostError.
        """
        __tracebackhide__ = True
        source = Path(inspect.getfile(function))
        self.agent.ship(source)
        answer = self.agent.ask(
            "call",
            source.stem,
            function.__name__,
            arguments,
            keywords,
            user,
            timeout_s=self.timeout_s,
        )
        return answer[1]
