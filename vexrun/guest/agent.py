"""The guest's end of `in_guest` and `guest`: calls functions and runs commands without a new login.

A fresh ssh command costs 0.1 s and a fresh Python 0.5 to 1 s under emulation; a fork of this
process a tenth of that. It reads one request a line from stdin and writes one answer a line to
stdout, both as Python literals. A function runs in a child of its own, so that nothing it does
(crash, chdir, leak descriptors into the mount) outlives it.

Sent to the guest as it is: only the standard library, and little of it.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing would cost more than all the rest
    from collections.abc import Callable


def call(
    function: Callable[..., object],
    arguments: tuple[object, ...],
    keywords: dict[str, object],
    user: str,
) -> tuple[object, ...]:
    """Call a shipped function: ('ok', result), or ('error', exception, message, traceback)."""
    try:
        if user != "root":
            become(user)
        result = function(*arguments, **keywords)
    except BaseException as error:  # noqa: BLE001 - it is the caller's to judge
        return failure(error)
    return ("ok", result)


def failure(error: BaseException) -> tuple[object, ...]:
    import traceback

    kind, text = type(error).__name__, str(error)
    last = text if kind == "AssertionError" and text else f"{kind}: {text}"
    return ("error", kind, last, "".join(traceback.format_exception(error)))


def become(user: str) -> None:
    import pwd

    entry = pwd.getpwnam(user)
    os.setgroups([])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)


def call_in_child(
    module: str,
    function: str,
    arguments: tuple[object, ...],
    keywords: dict[str, object],
    user: str,
) -> tuple[object, ...]:
    """Import here, so that it is done once; call in a child, so that nothing outlives it."""
    try:
        found = getattr(__import__(module), function)
    except BaseException as error:  # noqa: BLE001
        return failure(error)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(reader)
            with os.fdopen(writer, "wb") as stream:
                stream.write(repr(call(found, arguments, keywords, user)).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        said = stream.read()
    _, status = os.waitpid(pid, 0)
    return ("raw", said) if status == 0 and said else ("died", status)


def command(line: str) -> tuple[object, ...]:
    """Run a shell command: ('ok', (exit status, stdout, stderr))."""
    outputs = [os.memfd_create(name) for name in ("stdout", "stderr")]
    actions = [(os.POSIX_SPAWN_DUP2, output, n) for n, output in enumerate(outputs, 1)]
    # posix_spawn: a fork of Python costs 40 ms under emulation.
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", line], os.environ, file_actions=actions)
    _, status = os.waitpid(pid, 0)
    texts = []
    for output in outputs:
        data = os.pread(output, os.fstat(output).st_size, 0)
        os.close(output)
        texts.append(data.decode(errors="replace"))
    code = os.waitstatus_to_exitcode(status)
    return ("ok", (code if code >= 0 else 128 - code, *texts))


def read(path: str) -> tuple[object, ...]:
    """('ok', bytes) of a small file, ('ok', None) where it does not exist or cannot be read."""
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - not imported here
            return ("ok", file.read())
    except OSError:
        return ("ok", None)


def write(path: str, data: bytes) -> tuple[object, ...]:
    with open(path, "wb", buffering=0) as file:  # noqa: PTH123 - not imported here
        file.write(data)
    return ("ok", None)


def exists(path: str) -> tuple[object, ...]:
    return ("ok", os.path.lexists(path))


def resolve(path: str) -> tuple[object, ...]:
    return ("ok", os.path.realpath(path))


REQUESTS: dict[str, Callable[..., tuple[object, ...]]] = {
    "call": call_in_child,
    "run": command,
    "read": read,
    "write": write,
    "exists": exists,
    "resolve": resolve,
}


def serve() -> None:
    stream = os.fdopen(os.dup(1), "wb")
    # Whatever a function prints must not look like an answer.
    os.dup2(2, 1)
    requests = os.fdopen(os.dup(0), "rb")
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.chdir("/")
    answer: tuple[object, ...] = ("ok", "ready")
    while True:
        line = answer[1] if answer[0] == "raw" else repr(answer).encode()
        stream.write(line + b"\n")  # type: ignore[operator]
        stream.flush()
        request = requests.readline()
        if not request:
            return
        kind, *details = eval(request)
        try:
            answer = REQUESTS[kind](*details)
        except OSError as error:
            answer = failure(error)


if __name__ == "__main__":
    sys.path.insert(0, __file__.rpartition("/")[0])
    serve()
