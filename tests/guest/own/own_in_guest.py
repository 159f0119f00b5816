"""Runs a script of the subject's own in the guest: bounded output, nothing left running."""

from __future__ import annotations

import os
import select
import signal


def run_script(command, limit):
    """(exit status, output, whether it was cut) of `sh -c command` in an empty directory.

    stdout and stderr are one stream, as on a terminal. A status above 128 is a signal.
    """
    directory = f"/tmp/vexrun-own-{os.getpid()}"
    os.mkdir(directory, 0o700)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            os.chdir(directory)
            os.dup2(writer, 1)
            os.dup2(writer, 2)
            os.execv("/bin/sh", ["sh", "-c", command])
        finally:
            os._exit(127)
    os.close(writer)
    try:
        output, cut = _read(reader, pid, limit)
        if cut:
            os.killpg(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    finally:
        _kill_group(pid)
        os.close(reader)
        os.posix_spawnp("rm", ["rm", "-rf", "--one-file-system", directory], os.environ)
        os.wait()
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code, output.decode(errors="replace"), cut


def _read(reader, pid, limit):
    """Its output, until it has ended. What it left in the background is not waited for."""
    output = b""
    ended = False
    while len(output) <= limit:
        if not select.select([reader], [], [], 0.1)[0]:
            if ended:
                break
            ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
            continue
        data = os.read(reader, 1 << 16)
        if not data:
            break
        output += data
    return output[:limit], len(output) > limit


def _kill_group(pid):
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
