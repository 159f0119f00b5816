"""The guest's end of `in_guest` and `guest`: calls functions and runs commands without a new login.

A fresh ssh command costs 0.1 s and a fresh Python 0.5 to 1 s under emulation; a fork of this
process costs a few milliseconds. It reads one request a line from stdin and writes one answer a
line to stdout, both as Python literals. Each request runs in a child of its own, so that nothing
it does (crash, chdir, leak descriptors into the mount) outlives it.

Sent to the guest as it is: only the standard library, and little of it.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing would cost more than all the rest
    from typing import TextIO


def call(
    module: str,
    function: str,
    arguments: tuple[object, ...],
    keywords: dict[str, object],
    user: str,
) -> tuple[object, ...]:
    """Call a shipped function: ('ok', result), or ('error', exception, message, traceback)."""
    try:
        if user != "root":
            become(user)
        result = getattr(__import__(module), function)(*arguments, **keywords)
    except BaseException as error:  # noqa: BLE001 - it is the caller's to judge
        import traceback

        kind, text = type(error).__name__, str(error)
        last = text if kind == "AssertionError" and text else f"{kind}: {text}"
        return ("error", kind, last, traceback.format_exc())
    return ("ok", result)


def become(user: str) -> None:
    import pwd

    entry = pwd.getpwnam(user)
    os.setgroups([])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)


def command(line: str) -> tuple[object, ...]:
    """Run a shell command: ('ok', (exit status, stdout, stderr))."""
    outputs = [os.memfd_create(name) for name in ("stdout", "stderr")]
    pid = os.fork()
    if pid == 0:
        for number, output in enumerate(outputs, 1):
            os.dup2(output, number)
        os.execv("/bin/sh", ["sh", "-c", line])
    _, status = os.waitpid(pid, 0)
    texts = []
    for output in outputs:
        data = os.pread(output, os.fstat(output).st_size, 0)
        texts.append(data.decode(errors="replace"))
    code = os.waitstatus_to_exitcode(status)
    return ("ok", (code if code >= 0 else 128 - code, *texts))


def answer(line: str, stream: TextIO) -> None:
    """In the child: do what the request says and write the answer."""
    kind, *details = eval(line)
    result = call(*details) if kind == "call" else command(*details)
    stream.write(repr(result) + "\n")
    stream.flush()


def serve() -> None:
    stream = os.fdopen(os.dup(1), "w")
    # Whatever a function prints must not look like an answer.
    os.dup2(2, 1)
    requests = os.fdopen(os.dup(0), "rb")
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.chdir("/")
    stream.write("('ready',)\n")
    stream.flush()
    while line := requests.readline():
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                answer(line.decode(), stream)
                code = 0
            finally:
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        if status:
            stream.write(repr(("died", status)) + "\n")
            stream.flush()


if __name__ == "__main__":
    sys.path.insert(0, __file__.rpartition("/")[0])
    serve()
