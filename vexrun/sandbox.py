"""Commands on a copy of the source, run natively in the image's root filesystem.

What a checker or a test suite of the subject does cannot reach the user's tree, the image, the
network or the running kernel: the root filesystem is read-only, every capability is dropped, and
the only network is a loopback of its own. Time and output are bounded, because a suite may hang
or print for ever.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from vexrun import process
from vexrun.errors import InfrastructureError
from vexrun.image.catalog import Image
from vexrun.image.namespace import Bind, enter_argv
from vexrun.kbuild import GUEST_BUILD_ROOT
from vexrun.tree import copy_clean

#: More output than this says nothing more; what prints for ever is stopped here.
OUTPUT_LIMIT = 4 << 20
#: Printed once the namespaces are there: what ends before it is our failure, not the job's.
_BEGUN = "vexrun: begun"
#: A namespace of its own for the network, with a loopback, which tests of daemons need; then no
#: capability is left, so that not even a set-uid program of the image can get one.
_ENTER = (
    "unshare",
    "--net",
    "--",
    "sh",
    "-c",
    'ip link set lo up; exec setpriv --bounding-set=-all --inh-caps=-all --no-new-privs -- "$@"',
    "sh",
)
#: Not exec: the job must not be process 1, which signals cannot end.
_START = f'echo "{_BEGUN}"; cd "$1" || exit 125; bash -c "$2"; exit $?'
#: Debian's librust-*-dev packages are cargo's only registry offline; as in build.sh.
_REGISTRY = "/usr/share/cargo/registry"
_REGISTRY_CONFIG = (
    f'[source.crates-io]\nreplace-with = "debian"\n[source.debian]\ndirectory = "{_REGISTRY}"\n'
)
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Workplace:
    """A directory of this machine that a job sees, writable, as the build root.

    It holds a copy of the source, and what the job makes.
    """

    outside: Path
    subject: str

    @property
    def inside(self) -> PurePosixPath:
        return GUEST_BUILD_ROOT / self.subject

    @property
    def tree(self) -> PurePosixPath:
        """Where the copy of the source is, seen from inside."""
        return self.inside / "source"

    @property
    def tree_outside(self) -> Path:
        return self.outside / self.subject / "source"

    @classmethod
    def with_copy(cls, outside: Path, subject: str, source: Path, rootfs: Path) -> Workplace:
        """Copy the source files, without build products, into a new workplace."""
        place = cls(outside, subject)
        copy_clean(source, place.tree_outside)
        (outside / subject / "home").mkdir()
        cargo_home = outside / subject / "cargo-home"
        cargo_home.mkdir()
        if (rootfs / _REGISTRY.lstrip("/")).is_dir():
            (cargo_home / "config.toml").write_text(_REGISTRY_CONFIG)
        return place

    def environment(self) -> dict[str, str]:
        """What jobs see, and nothing of this machine's; the same as in build.sh."""
        return {
            "PATH": _PATH,
            "HOME": str(self.inside / "home"),
            "LC_ALL": "C.UTF-8",
            "SOURCE_DATE_EPOCH": "0",
            "KBUILD_BUILD_TIMESTAMP": "1970-01-01",
            "KBUILD_BUILD_USER": "vexrun",
            "KBUILD_BUILD_HOST": "vexrun",
            "CARGO_HOME": str(self.inside / "cargo-home"),
            "CARGO_TARGET_DIR": str(self.inside / "cargo-target"),
            "CARGO_NET_OFFLINE": "true",
            "CARGO_TERM_COLOR": "never",
            "CARGO_TERM_QUIET": "false",
        }


@dataclass(frozen=True)
class Job:
    """One command: `script` is run by bash in `directory`, a path below the place's tree."""

    name: str
    script: str
    place: Workplace
    directory: PurePosixPath
    timeout_s: float
    binds: tuple[Bind, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ended:
    """How a job ended. `status` is None when it was stopped: out of time, or too much output."""

    job: Job
    status: int | None
    output: str
    seconds: float
    stopped: str = ""

    @property
    def ended_well(self) -> bool:
        return self.status == 0

    def failure(self) -> str:
        """Why it did not end well, '' when it did."""
        if self.stopped:
            return self.stopped
        return "" if self.status == 0 else f"it ended with exit status {self.status}"


def run_jobs(image: Image, jobs: Sequence[Job], parallel: int = 2) -> list[Ended]:
    """Run every job, at most `parallel` at once, and say how each ended, in the order given.

    Raises InfrastructureError when one could not even begin, InterruptedRunError when the thread
    is cancelled.
    """
    waiting = deque(jobs)
    ended: dict[int, Ended] = {}
    with _started() as active, selectors.DefaultSelector() as selector:
        while waiting or active:
            process.demand_wanted("a native check")
            while waiting and len(active) < max(1, parallel):
                running = _Running(image, waiting.popleft())
                active.append(running)
                selector.register(running.stdout, selectors.EVENT_READ, running)
            for key, _ in selector.select(0.1):
                if not key.data.read():
                    # End of file, while the process may still be there.
                    selector.unregister(key.fileobj)
            for running in [each for each in active if each.is_over()]:
                with contextlib.suppress(KeyError):
                    selector.unregister(running.stdout)
                active.remove(running)
                ended[id(running.job)] = running.end()
    return [ended[id(job)] for job in jobs]


@contextmanager
def _started() -> Iterator[list[_Running]]:
    """A list whose members do not outlive it."""
    active: list[_Running] = []
    try:
        yield active
    finally:
        for running in active:
            running.kill()


class _Running:
    def __init__(self, image: Image, job: Job) -> None:
        self.job = job
        environment = {**job.place.environment(), **job.environment}
        self._child = process.start(
            [
                *enter_argv(
                    image.rootfs,
                    [Bind(job.place.outside, str(GUEST_BUILD_ROOT), writable=True), *job.binds],
                    readonly=True,
                ),
                *_ENTER,
                *("env", "-i", *(f"{key}={value}" for key, value in environment.items())),
                *("bash", "-c", _START, "bash", str(job.directory), job.script),
            ],
            stdout=subprocess.PIPE,
            outlive_thread=False,
        )
        assert self._child.stdout is not None
        self.stdout = self._child.stdout
        os.set_blocking(self.stdout.fileno(), False)
        self._output = bytearray()
        self._begun = time.monotonic()
        self._stopped = ""

    def read(self) -> bool:
        """Take what is there to be read; False at the end of the output."""
        data = self.stdout.read(1 << 16)
        if data:
            self._output += data
        return data != b""

    def is_over(self) -> bool:
        """Whether it has ended, by itself or because it must end now."""
        if self._child.poll() is not None:
            return True
        if len(self._output) > OUTPUT_LIMIT:
            self._stopped = f"it printed more than {OUTPUT_LIMIT >> 20} MiB and was stopped"
        elif time.monotonic() - self._begun > self.job.timeout_s:
            self._stopped = f"it did not end within {self.job.timeout_s:.0f} s and was stopped"
        return self._stopped != ""

    def kill(self) -> None:
        """With --kill-child the whole pid namespace dies with `unshare`."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()
        self.stdout.close()

    def end(self) -> Ended:
        seconds = time.monotonic() - self._begun
        status = self._child.poll()
        if status is not None:
            # What a process that it left behind goes on printing is not waited for.
            while len(self._output) <= OUTPUT_LIMIT and (data := self.stdout.read(1 << 16)):
                self._output += data
        self.kill()
        text = self._output[:OUTPUT_LIMIT].decode(errors="replace")
        before, begun, output = text.partition(f"{_BEGUN}\n")
        if not begun:
            raise InfrastructureError(
                f"'{self.job.name}' could not begin (exit status {status}).",
                evidence="\n".join(before.splitlines()[-10:]),
                hint="Run: vexrun doctor",
            )
        if self._stopped:
            status = None
        elif status is not None and status < 0:
            status = 128 - status
        return Ended(self.job, status, before + output, seconds, self._stopped)
