"""How long a broken kernel stays unnoticed, and what a clean machine costs, for `make bench`.

Alone: `python -m vexrun.bench_detection [SUITE]`.
"""

from __future__ import annotations

import re
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vexrun.config import Backend, TargetKind, make_config
from vexrun.errors import InfrastructureError
from vexrun.events import Event, TestFinished, ignore
from vexrun.image.build import ensure_base
from vexrun.image.suites import DEFAULT_SUITE, find_suite
from vexrun.interrupt import interruptible
from vexrun.kbuild import BuildPlace
from vexrun.layout import data_root
from vexrun.output import say
from vexrun.rundir import find_run
from vexrun.selftest import load_canaries, plant
from vexrun.session import run_session
from vexrun.settings import load_settings
from vexrun.subject import load_subject
from vexrun.target.vm import VmPlan, VmTarget
from vexrun.vm.accel import AccelChoice, choose_accelerator
from vexrun.vm.snapshot import ensure_snapshot
from vexrun.workdir import work_directory

#: Canaries, and the line with which the kernel begins to complain.
_CANARIES = {
    "warn": r"WARNING: ",
    "oops-at-mount": r"BUG: ",
    "panic": r"Kernel panic",
    "list-corruption": r"list_add corruption",
    "use-after-free": r"(?:BUG \S+|\[Poison overwritten)",
    "sleep-in-atomic": r"BUG: scheduling while atomic",
    "busy-inodes": r"VFS: Busy inodes",
    "blocked-at-mount": r"INFO: task ",
}
_RESTORES = 5
_POLL_S = 0.02


@dataclass
class FirstSight:
    """Notes when a line first appears in a file that grows, by the clock of `Event.at`."""

    file: Path
    pattern: re.Pattern[bytes]
    at: float | None = None
    _over: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        """Until it was seen or `stop` was called; in a thread of its own."""
        position, rest = 0, b""
        while not self._over.wait(_POLL_S):
            if not self.file.exists():
                continue
            with self.file.open("rb") as stream:
                stream.seek(position)
                data = rest + stream.read()
                position = stream.tell()
            if self.pattern.search(data):
                self.at = time.time()
                return
            rest = data[-200:]

    def stop(self) -> None:
        self._over.set()


def blamed_after(first_line_at: float | None, events: Sequence[Event]) -> float:
    """Seconds from the kernel's first line to the verdict on the test that ran."""
    told = [e.at for e in events if isinstance(e, TestFinished) and e.result.is_bad]
    if first_line_at is None or not told:
        raise InfrastructureError(
            "The canary was not noticed, so there is nothing to measure.",
            hint="Run: vexrun selftest",
        )
    return told[0] - first_line_at


def _latency_s(name: str, suite: str) -> float:
    """One canary through a whole run."""
    (canary,) = (row for row in load_canaries() if row.name == name)
    events: list[Event] = []
    # The log holds the boot before the snapshot too, where there is none of these lines.
    sight = FirstSight(Path(), re.compile(rb"\] " + _CANARIES[name].encode()))
    with tempfile.TemporaryDirectory(prefix="vexrun-bench-") as directory:
        source = Path(plant(canary, Path(directory))[0])
        config = make_config(
            source=source,
            subject_file=None,
            suite=suite,
            only=["mount"],
            skip=[],
            target=TargetKind.VM,
            backend=Backend.QEMU,
            accel=AccelChoice.AUTO,
            build=BuildPlace.AUTO,
            keep=False,
            command=["make", "bench"],
            core=False,
        )
        thread = threading.Thread(target=sight.watch, name="first-sight", daemon=True)

        def emit(event: Event) -> None:
            if not events:  # the run directory is there now
                sight.file = find_run(None) / "console.log"
                thread.start()
            events.append(event)

        try:
            run_session(config, emit)
        finally:
            sight.stop()
            if thread.is_alive():
                thread.join()
    return blamed_after(sight.at, events)


def _restores_s(suite: str) -> list[float]:
    """Seconds of each restore as a run makes it, up to a kernel that is watched."""
    settings = load_settings()
    image = ensure_base(find_suite(suite), settings.image, ignore)
    accelerator = choose_accelerator(
        AccelChoice.AUTO, image.kernel, image.manifest.sha256["vmlinuz"]
    )
    with work_directory("bench-restores") as work:
        (work / "source").mkdir()
        plan = VmPlan(
            image=image,
            snapshot=ensure_snapshot(image, accelerator, settings.machine, ignore),
            accelerator=accelerator,
            hardware=settings.machine,
            subject=load_subject(data_root() / "examples" / "subjects" / "minix.toml"),
            source_dir=work / "source",
            console_log=work / "console.log",
        )
        target = VmTarget(plan, ignore)
        took = []
        try:
            target.open()
            for _ in range(_RESTORES):
                begun = time.monotonic()
                target.restore()
                took.append(time.monotonic() - begun)
        finally:
            target.close()
    return took


def report(suite: str) -> None:
    """Print both figures: a line for each class of event that the kernel has words for."""
    say("from the kernel's first line to the test that is blamed for it")
    rows = {row.name: row for row in load_canaries()}
    for name in _CANARIES:
        kind = rows[name].event[0].value
        say(f"  {kind:<10} {name:<20} {_latency_s(name, suite):8.1f} s")
    took = _restores_s(suite)
    say(f"a clean machine in the middle of a run, its kernel watched ({_RESTORES} times)")
    say(f"  median               {statistics.median(took):8.1f} s   at most {max(took):.1f} s")


if __name__ == "__main__":
    with interruptible():
        report(*sys.argv[1:] or [DEFAULT_SUITE])
