"""A shell in the guest that prints a line every few seconds: proof that processes still run there.

One that only waits costs nothing and needs no answer. A guest that is slow beats late; one whose
processes cannot run does not beat at all.
"""

from __future__ import annotations

import subprocess
import time

from vexrun import process
from vexrun.vm.ssh import HOST_ALIAS, GuestShell

#: `read` waits: no process is started for a beat. It ends when stdin does, with the connection.
_COMMAND = (
    "exec bash --norc --noprofile -c 'while echo; do read -t 2; [ $? -gt 128 ] || exit 0; done'"
)


class Heartbeat:
    """Follows the beats of one guest."""

    def __init__(self, shell: GuestShell) -> None:
        self._file = shell.config.parent / "heartbeat"
        self._output = self._file.open("wb")
        self._child: subprocess.Popen[bytes] = process.start(
            ["ssh", "-F", str(shell.config), HOST_ALIAS, "--", _COMMAND],
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=subprocess.DEVNULL,
        )
        self._beats = 0
        self._last = time.monotonic()

    def silent_for(self) -> float:
        """Seconds since the last beat was seen, as far as the calls of this can tell."""
        beats = self._file.stat().st_size
        if beats != self._beats:
            self._beats, self._last = beats, time.monotonic()
        return time.monotonic() - self._last

    @property
    def broken(self) -> bool:
        """Its connection or its shell is gone: silence then says nothing about processes."""
        return self._child.poll() is not None

    def close(self) -> None:
        process.stop(self._child)
        if self._child.stdin is not None:
            self._child.stdin.close()
        self._output.close()
        self._file.unlink(missing_ok=True)
