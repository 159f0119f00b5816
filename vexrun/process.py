"""The one place that starts processes.

Every child gets a small explicit environment, stdin from /dev/null unless input is given,
the death signal of its parent, and a mark by which its own children are found: when vexrun dies,
whatever kills it, they die too.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from vexrun import orphans
from vexrun.errors import InfrastructureError, InterruptedRunError

#: mke2fs and friends live in sbin, which an ordinary user's PATH often lacks.
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_KEPT_VARIABLES = (
    "HOME",
    "USER",
    "LOGNAME",
    "TMPDIR",
    "TERM",
    "XDG_RUNTIME_DIR",
    "XDG_CACHE_HOME",
    "XDG_STATE_HOME",
    "XDG_CONFIG_HOME",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "VEXRUN_CACHE_DIR",
    "VEXRUN_STATE_DIR",
)


#: What `run` waits for in each thread, and the threads that must start nothing any more.
_waited_for: dict[int, subprocess.Popen[bytes]] = {}
_cancelled: set[int] = set()


@dataclass(frozen=True)
class Completed:
    """A finished process: its argv, exit status and decoded output."""

    argv: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        return self.stdout + self.stderr

    def tail(self, lines: int = 15) -> str:
        """The last lines of what it printed, for an error message."""
        return "\n".join(self.output.strip().splitlines()[-lines:])


def minimal_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment children get: PATH with the system directories, a fixed locale, proxies."""
    environment = {key: os.environ[key] for key in _KEPT_VARIABLES if key in os.environ}
    environment["PATH"] = os.environ.get("PATH", "") + ":" + _SYSTEM_PATH
    environment["LANG"] = "C.UTF-8"
    environment["LC_ALL"] = "C.UTF-8"
    if extra:
        environment.update(extra)
    return environment


def find_program(name: str) -> str | None:
    """Path of a program on PATH or in the system directories, or None."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":" + _SYSTEM_PATH)


def paste(argv: Sequence[str]) -> str:
    """The command line, quoted ready to paste."""
    return shlex.join(argv)


def _bound_to_us(argv: Sequence[str]) -> list[str]:
    """Let the kernel kill the child when the thread that starts it dies (prctl PDEATHSIG)."""
    return ["setpriv", "--pdeathsig", "KILL", "--", *argv]


def _missing(argv: Sequence[str]) -> InfrastructureError:
    return InfrastructureError(
        f"The program '{argv[0]}' is not installed.", hint="Run: vexrun doctor"
    )


def run(
    argv: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    input_text: str | None = None,
    timeout: float | None = None,
    check: bool = True,
    log: Path | None = None,
    pass_fds: Sequence[int] = (),
) -> Completed:
    """Run to completion. Output goes to `log` when given (and its text is returned too).

    Raises InfrastructureError when the program is missing, times out, or (with `check`)
    exits non-zero; the message carries the command and the end of its output.
    """
    if find_program(argv[0]) is None:
        raise _missing(argv)
    demand_wanted(argv[0])
    thread = threading.get_ident()
    with subprocess.Popen(
        _bound_to_us(argv),
        cwd=cwd,
        env={**minimal_environment(env), **orphans.mark()},
        stdin=subprocess.DEVNULL if input_text is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=pass_fds,
        start_new_session=True,
    ) as child:
        _waited_for[thread] = child
        try:
            given = input_text.encode() if input_text is not None else None
            out, err = child.communicate(given, timeout)
        except BaseException as error:
            # The whole group: what the child has started must not outlive it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            raise InfrastructureError(
                f"'{argv[0]}' did not finish within {timeout:.0f} s and was killed.",
                evidence=f"$ {paste(argv)}\n" + _decode(error.stdout)[-2000:],
            ) from error
        finally:
            del _waited_for[thread]
    completed = Completed(tuple(argv), child.returncode, _decode(out), _decode(err))
    if log is not None:
        with log.open("a") as stream:
            stream.write(f"$ {paste(argv)}\n{completed.output}")
    if check and completed.returncode != 0:
        raise InfrastructureError(
            f"'{argv[0]}' failed with exit status {completed.returncode}.",
            evidence=f"$ {paste(argv)}\n{completed.tail()}",
        )
    return completed


def demand_wanted(what: str) -> None:
    """Raise InterruptedRunError in a thread whose work is not wanted any more."""
    if threading.get_ident() in _cancelled:
        raise InterruptedRunError(f"'{what}' was not done: its run is being ended.")


def cancel_thread(thread: threading.Thread) -> None:
    """Kill what `run` waits for in a thread, let it start nothing more, and wait for its end.

    Other waits of the thread's must ask `demand_wanted` now and then.
    """
    ident = thread.ident
    assert ident is not None, "the thread was started"
    _cancelled.add(ident)
    while thread.is_alive():
        child = _waited_for.get(ident)
        if child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
        thread.join(0.1)
    _cancelled.discard(ident)


@contextmanager
def running(
    argv: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdout: int | IO[Any] = subprocess.DEVNULL,
    stderr: int | IO[Any] = subprocess.STDOUT,
    pass_fds: Sequence[int] = (),
) -> Iterator[subprocess.Popen[bytes]]:
    """A child that lives at most as long as the `with` block."""
    child = start(argv, cwd=cwd, env=env, stdout=stdout, stderr=stderr, pass_fds=pass_fds)
    try:
        yield child
    finally:
        stop(child)


def start(
    argv: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: int | IO[Any] = subprocess.DEVNULL,
    stdout: int | IO[Any] = subprocess.DEVNULL,
    stderr: int | IO[Any] = subprocess.STDOUT,
    pass_fds: Sequence[int] = (),
    outlive_us: bool = False,
    outlive_thread: bool = True,
) -> subprocess.Popen[bytes]:
    """Start a child. Unless `outlive_us`, it must be started from the main thread.

    PDEATHSIG fires when the starting *thread* ends (prctl(2)), so a child started from a
    worker thread would be killed with that thread. Without `outlive_thread` that is meant.
    """
    if find_program(argv[0]) is None:
        raise _missing(argv)
    main = threading.current_thread() is threading.main_thread()
    if outlive_thread and not outlive_us and not main:
        raise RuntimeError(f"'{argv[0]}' must be started from the main thread")
    return subprocess.Popen(
        list(argv) if outlive_us else _bound_to_us(argv),
        cwd=cwd,
        env={**minimal_environment(env), **({} if outlive_us else orphans.mark())},
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        pass_fds=pass_fds,
        start_new_session=True,
    )


def stop(child: subprocess.Popen[bytes], grace: float = 5.0) -> None:
    """TERM, then KILL after `grace` seconds, then reap. The child may be gone already."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(grace)
        except subprocess.TimeoutExpired:
            child.kill()
    child.wait()


def _decode(output: bytes | None) -> str:
    return (output or b"").decode(errors="replace")
