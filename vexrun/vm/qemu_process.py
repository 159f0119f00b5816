"""QEMU processes that are not our children: recognised by their own command line."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
from pathlib import Path
from typing import Protocol


class QemuProcess(Protocol):
    """What a machine asks of its QEMU; subprocess.Popen has it all."""

    pid: int

    @property
    def returncode(self) -> int | None: ...
    def poll(self) -> int | None: ...
    def kill(self) -> None: ...
    def wait(self, timeout: float | None = None) -> int: ...


#: Of a process that is not our child nobody tells us how it ended.
UNKNOWN_STATUS = -1


class AdoptedQemu:
    """A QEMU that somebody else started for us. Its number cannot be taken by another process."""

    def __init__(self, pid: int) -> None:
        """Raises ProcessLookupError when it is gone."""
        self.pid = pid
        self._descriptor: int | None = os.pidfd_open(pid)

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def poll(self) -> int | None:
        if self._descriptor is None or _ended(self._descriptor, 0):
            return UNKNOWN_STATUS
        return None

    def kill(self) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        if self._descriptor is not None:
            if not _ended(self._descriptor, timeout):
                raise subprocess.TimeoutExpired("qemu", timeout or 0)
            os.close(self._descriptor)
            self._descriptor = None
        return UNKNOWN_STATUS


def _ended(descriptor: int, timeout: float | None) -> bool:
    readable, _, _ = select.select([descriptor], [], [], timeout)
    return bool(readable)


def qemu_named(name: str) -> int | None:
    """The pid of the QEMU whose `-name` is `name`."""
    for process in Path("/proc").glob("[0-9]*"):
        words = _command_line(process)
        if "qemu" not in words[0] or "-name" not in words[:-1]:
            continue
        if words[words.index("-name") + 1].split(",")[0] == name:
            return int(process.name)
    return None


def _command_line(process: Path) -> list[str]:
    try:
        return (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return [""]
