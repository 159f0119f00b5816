"""When vexrun dies without a chance to clean up, nothing of what it started lives on.

Each child has the death signal of its parent (vexrun.process), but that reaches no grandchild: the
processes of a pipe, of mmdebstrap, of Ansible's workers. So every child carries a mark in its
environment, and a watcher that hears of our end kills what still carries it, like the process
tree killers of build servers. It needs no privileges, and no session or group escapes it.
"""

from __future__ import annotations

import os
import sys
import threading
import uuid

#: NAME of the mark; a test process that vexrun starts hands its own mark on.
MARK = "VEXRUN_OWNER"

#: Reads until the other end is closed, which the kernel does whatever ends us.
_WATCHER = """
import os, signal, sys, time

def marked():
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            process = os.pidfd_open(int(name))
        except OSError:
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as stream:
                if sys.argv[1].encode() in stream.read().split(b"\\0"):
                    yield process
        except OSError:
            pass  # it is gone, or somebody else's
        os.close(process)

os.setsid()
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
os.read(0, 1)
for _ in range(50):
    count = 0
    for process in marked():
        signal.pidfd_send_signal(process, signal.SIGKILL)
        count += 1
    if not count:
        break
    time.sleep(0.1)
"""

_starting = threading.Lock()
_mark: str | None = None
#: The watcher reads from the other end of this pipe.
_lifeline: int | None = None


def mark() -> dict[str, str]:
    """What goes into the environment of a child that must not outlive us; starts the watcher."""
    global _mark
    inherited = os.environ.get(MARK)
    if inherited:
        return {MARK: inherited}
    with _starting:
        if _mark is None:
            _mark = uuid.uuid4().hex
            _start_watcher(_mark)
    return {MARK: _mark}


def _start_watcher(value: str) -> None:
    global _lifeline
    reader, _lifeline = os.pipe()  # neither is inherited
    null = os.open(os.devnull, os.O_RDWR)
    os.posix_spawn(
        sys.executable,
        [sys.executable, "-I", "-S", "-c", _WATCHER, f"{MARK}={value}"],
        {},
        file_actions=[
            (os.POSIX_SPAWN_DUP2, reader, 0),
            (os.POSIX_SPAWN_DUP2, null, 1),
            (os.POSIX_SPAWN_DUP2, null, 2),
        ],
    )
    os.close(reader)
    os.close(null)
