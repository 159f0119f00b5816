"""A shell that stays in the guest and is asked one line after the other.

A fresh command over the shared ssh connection costs 0.13 s under emulation, mostly for the fork
of sshd and the start of a shell. What is asked around every single test must cost less.
"""

from __future__ import annotations

import contextlib
import secrets
import select
import subprocess
import time

from vexrun import process
from vexrun.vm.ssh import HOST_ALIAS, GuestShell, GuestTimeoutError

_COMMAND = "exec bash --norc --noprofile 2>&1"


class StandingShell:
    """Runs shell commands in one bash of the guest; stdout and stderr come back as one text.

    Not dash: its `read NAME <FILE` takes the rest of a script that comes through stdin (0.5.12).
    A test may have killed that bash (the OOM killer, `kill -1`): then the command runs once over
    the connection itself, which alone says whether the target is lost.
    """

    def __init__(self, shell: GuestShell) -> None:
        self.shell = shell
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, command: str, *, timeout_s: float, check: bool = False) -> process.Completed:
        """As GuestShell.run: GuestTimeoutError when it is late, TargetLostError when it is gone."""
        if not check:
            answer = self._ask(command, timeout_s)
            if answer is not None:
                return answer
        return self.shell.run(command, timeout_s=timeout_s, check=check)

    def _ask(self, command: str, timeout_s: float) -> process.Completed | None:
        """The answer, None when the standing shell ended without one."""
        if self._process is None or self._process.poll() is not None:
            self._start()
        child = self._process
        assert child is not None and child.stdin is not None and child.stdout is not None
        end = secrets.token_hex(8)
        try:
            child.stdin.write(f"{{ {command}; }}; status=$?; echo; echo {end} $status\n".encode())
            child.stdin.flush()
        except OSError:
            self.close()
            return None
        said = b""
        until = time.monotonic() + timeout_s
        while f"\n{end} ".encode() not in said or not said.endswith(b"\n"):
            left = until - time.monotonic()
            if left <= 0 or not select.select([child.stdout], [], [], left)[0]:
                self.close()
                raise GuestTimeoutError(
                    f"The guest did not finish this command within {timeout_s:.0f} s: "
                    f"{command[:200]}"
                )
            piece = child.stdout.read1(1 << 16)  # type: ignore[attr-defined]
            if not piece:
                self.close()
                return None
            said += piece
        text, _, status = said.decode(errors="replace").rpartition(f"\n{end} ")
        return process.Completed((command,), int(status), text, "")

    def _start(self) -> None:
        self.close()
        self._process = process.start(
            ["ssh", "-F", str(self.shell.config), HOST_ALIAS, "--", _COMMAND],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def close(self) -> None:
        """End it; the guest does not notice."""
        if self._process is None:
            return
        process.stop(self._process)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                # What was not sent has nobody to read it any more.
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        self._process = None
