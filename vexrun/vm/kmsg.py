"""Following a guest's /dev/kmsg over ssh: every record with its facility and sequence number.

Reading the whole buffer with dmesg after each test took longer than most tests do under
emulation; one open stream costs nothing, and its sequence numbers prove that nothing is missing.
"""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

from vexrun import process
from vexrun.vm.ssh import HOST_ALIAS, GuestShell

#: Documentation/ABI/testing/dev-kmsg: "pri,seq,usec,flags[,…];text", then lines of properties.
_RECORD = re.compile(rb"(\d+),(\d+),(\d+),[^;]*;(.*)")


class KmsgFollower:
    """The kernel's log buffer as it grows, as `dmesg --raw` would print it.

    `lost` says why records are missing, '' as long as none is.
    """

    def __init__(self, shell: GuestShell, directory: Path) -> None:
        self.lost = ""
        self._file = directory / "kmsg"
        self._output = self._file.open("wb")
        self._child: subprocess.Popen[bytes] = process.start(
            ["ssh", "-F", str(shell.config), HOST_ALIAS, "--", "exec cat /dev/kmsg"],
            stdout=self._output,
        )
        self._stream = self._file.open("rb")
        self._partial = b""
        self._next: int | None = None

    def read(self) -> str:
        """What came since the last call: complete records, one a line."""
        data = self._partial + self._stream.read()
        complete, newline, self._partial = data.rpartition(b"\n")
        lines = [self._line(row) for row in complete.split(b"\n")] if newline else []
        return "".join(line for line in lines if line)

    def read_until(self, text: str, timeout_s: float) -> tuple[str, bool]:
        """Read on until `text` has come; what was read, and whether it came in time."""
        read = ""
        until = time.monotonic() + timeout_s
        while True:
            read += self.read()
            if text in read:
                return read, True
            if self._child.poll() is not None:
                self.lost = self.lost or "the stream of the kernel's log buffer ended"
            if self.lost or time.monotonic() > until:
                return read, False
            time.sleep(0.01)

    def _line(self, row: bytes) -> str:
        match = _RECORD.match(row)
        if match is None:
            return ""  # a property line of the record before it
        priority, sequence, microseconds, text = match.groups()
        number = int(sequence)
        if self._next is not None and number != self._next:
            self.lost = f"{number - self._next} records of the kernel's log buffer were overwritten"
        self._next = number + 1
        seconds = int(microseconds) / 1e6
        return f"<{int(priority)}>[{seconds:12.6f}] {text.decode(errors='replace')}\n"

    def close(self) -> None:
        process.stop(self._child)
        self._output.close()
        self._stream.close()
        self._file.unlink(missing_ok=True)
