"""A running guest: start, reach, save, stop. Everything it owns dies or is deleted with it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from vexrun import process
from vexrun.errors import InfrastructureError, TargetLostError
from vexrun.image.catalog import Image, lock_path
from vexrun.image.locking import exclusive, is_locked
from vexrun.layout import cache_dir
from vexrun.vm.accel import Accelerator
from vexrun.vm.disks import ScratchPlan, demand_space, make_overlay, make_scratch_files
from vexrun.vm.qemu import GuestHardware, ScratchDisk, qemu_argv
from vexrun.vm.qemu_process import QemuProcess
from vexrun.vm.qmp import Monitor, QmpEvent
from vexrun.vm.ssh import GuestShell, SshAddress, write_ssh_config

#: QMP events after which the guest will not run any more.
FINAL_EVENTS = frozenset({"GUEST_PANICKED", "SHUTDOWN", "RESET", "GUEST_CRASHLOADED"})
#: The same of a machine that boots again after a reset (MachinePlan.reboots).
_FINAL_FOR_METAL = frozenset({"SHUTDOWN"})
#: sun_path of unix(7) less its NUL. ssh makes its socket under a name of 17 bytes more first.
_SOCKET_PATH_BYTES = 107
_SSH_SUFFIX_BYTES = 17


#: In the directory of a machine that may outlive its vexrun: how to reach it, and a lock that
#: vexrun holds until it lets go of the machine.
RECORD = "machine.json"
OWNER_LOCK = "owner"


class MachineState(StrEnum):
    """What a machine that may outlive its vexrun is to the next one."""

    STARTING = "starting"  # the vexrun that started it still works with it
    UP = "up"
    LEFT_BEHIND = "left behind"  # that vexrun was killed before it let go of it


@dataclass(frozen=True)
class MachinePlan:
    """What to start. `source_dir` is shared read-only; `disk` backs the disposable overlay."""

    image: Image
    accelerator: Accelerator
    memory_mib: int
    cpus: int
    source_dir: Path
    console_log: Path
    scratch: ScratchPlan
    disk: Path
    state: Path | None = None  # a saved RAM state to start from
    initrd: Path | None = None  # instead of the image's
    outlives_us: bool = False
    reboots: bool = False  # it plays a machine of metal


class Machine:
    """One QEMU process with its disks, sockets and ssh connection."""

    def __init__(self, plan: MachinePlan, console_log: Callable[[str], Path] | None = None) -> None:
        self.name = f"vexrun-{uuid.uuid4().hex[:8]}"
        self.plan = (
            replace(plan, console_log=console_log(self.name)) if console_log is not None else plan
        )
        self.directory = machines_dir() / self.name
        self.runtime_dir = runtime_dir(self.name)
        self.ssh_port = 0
        self.scratch: list[ScratchDisk] = []
        self._process: QemuProcess | None = None
        self._monitor: Monitor | None = None
        self._lock: int | None = None
        self._owner: int | None = None
        self.shell = GuestShell(self.runtime_dir / "ssh_config")

    # -- starting ---------------------------------------------------------------------------

    def start(self) -> None:
        """Start QEMU and connect to its monitor; a boot or an incoming state then goes on."""
        self._make_directories()
        attempts = 3
        for attempt in range(1, attempts + 1):
            try:
                self._start_once()
                return
            except TargetLostError as error:
                said = self._qemu_said()
                self._stop_process()
                # Another process took the free port between our look and QEMU's bind.
                if "Could not set up host forwarding" in said and attempt < attempts:
                    continue
                raise InfrastructureError(
                    "QEMU did not start.",
                    evidence=f"$ {process.paste(self._argv)}\n{said}",
                    hint="Run: vexrun doctor",
                ) from error

    def _make_directories(self) -> None:
        with exclusive(_sweep_lock()):
            self.directory.mkdir(parents=True)
            self._lock = _locked(self.directory / "lock")
            (self.directory / "runtime_dir").write_text(str(self.runtime_dir))
            if self.plan.outlives_us:
                # Before there is a QEMU that nobody would know of, were we killed now.
                self._owner = _locked(self.directory / OWNER_LOCK)
                self._write_record(MachineState.STARTING)
        demand_space(self.plan.scratch, self.directory)
        self.runtime_dir.mkdir(mode=0o700)
        self.scratch = make_scratch_files(self.plan.scratch, self.directory)
        self._make_root_disk()

    def _make_root_disk(self) -> None:
        make_overlay(self.directory / "root.qcow2", self.plan.disk)

    def hardware(self, incoming: int | None = None) -> GuestHardware:
        """What QEMU is told. `incoming`: the descriptor of a saved state to start from."""
        plan = self.plan
        return GuestHardware(
            name=self.name,
            accelerator=plan.accelerator,
            memory_mib=plan.memory_mib,
            cpus=plan.cpus,
            kernel=plan.image.kernel,
            initrd=plan.initrd or plan.image.initrd,
            root_overlay=self.directory / "root.qcow2",
            runtime_dir=self.runtime_dir,
            console_log=plan.console_log,
            ssh_port=self.ssh_port,
            source_dir=plan.source_dir,
            scratch=self.scratch,
            incoming_fd=incoming,
            reboots=plan.reboots,
        )

    def _start_once(self) -> None:
        plan = self.plan
        self.ssh_port = _free_port()
        with contextlib.ExitStack() as files:
            descriptors = [self._lock] if self._lock is not None else []
            image_lock = files.enter_context(lock_path(plan.image.name).open("a"))
            fcntl.flock(image_lock, fcntl.LOCK_SH)
            descriptors.append(image_lock.fileno())
            incoming = None
            if plan.state is not None:
                state = files.enter_context(plan.state.open("rb"))
                incoming = state.fileno()
                descriptors.append(incoming)
            self._argv = qemu_argv(self.hardware(incoming))
            with (self.directory / "qemu.log").open("wb") as log:
                # QEMU inherits the locks: they last exactly as long as it does.
                self._process = process.start(
                    self._argv,
                    stdout=log,
                    pass_fds=descriptors,
                    outlive_us=plan.outlives_us,
                )
        if plan.outlives_us:
            self._write_record(MachineState.STARTING)
        self._connect_monitor()
        write_ssh_config(
            SshAddress(self.ssh_port, plan.image.client_key, plan.image.host_public_key),
            self.runtime_dir,
        )

    def _connect_monitor(self) -> None:
        self._monitor = Monitor(self.hardware().monitor_socket)
        self._monitor.connect(30, self._process_alive)

    def wait_for_incoming(self, deadline_s: float = 60.0) -> None:
        """Wait until a saved state is loaded and the guest runs."""
        until = time.monotonic() + deadline_s
        while time.monotonic() < until:
            status = self.monitor.execute("query-status")["status"]
            if status == "running":
                return
            if status == "paused":  # loaded, but saved while stopped
                self.monitor.execute("cont")
                continue
            if not self._process_alive():
                break
            time.sleep(0.02)
        raise InfrastructureError(
            "The saved machine state could not be restored.", evidence=self._qemu_said()
        )

    def connect(self, deadline_s: float, alive: Callable[[], bool] = lambda: True) -> None:
        """Open the shared ssh connection (see GuestShell.connect for errors).

        `alive` may know more about the guest than QEMU does.
        """
        self.shell.connect(deadline_s, lambda: self.running and alive())

    def set_clock_and_mount_source(self, timeout_s: float, also: str = "true") -> None:
        """After a restore: the clock stands at the snapshot, and 9p could not be in it."""
        self.shell.run(
            f"date -s @{time.time():.3f} >/dev/null && "
            "{ mountpoint -q /mnt/vexfs-src || mount /mnt/vexfs-src; } && " + also,
            timeout_s=timeout_s,
            check=True,
        )

    # -- looking ----------------------------------------------------------------------------

    @property
    def monitor(self) -> Monitor:
        if self._monitor is None:
            raise TargetLostError("The machine is not running.")
        return self._monitor

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def events(self) -> list[QmpEvent]:
        return list(self._monitor.events) if self._monitor else []

    @property
    def running(self) -> bool:
        """QEMU lives and has reported nothing final about its guest."""
        return self._process_alive() and self.end_event() is None and not self._stopped_by_disk()

    def end_event(self) -> QmpEvent | None:
        """The first QMP event that says the guest panicked, went down or reset; else None."""
        final = _FINAL_FOR_METAL if self.plan.reboots else FINAL_EVENTS
        return next((event for event in self.events if event["event"] in final), None)

    def how_it_ended(self) -> str | None:
        """One sentence on why the guest is not running, None while it is."""
        event = self.end_event()
        if event is not None:
            if event["event"] == "GUEST_PANICKED":
                return "the guest kernel panicked (pvpanic)"
            reason = event.get("data", {}).get("reason", "")
            return {
                "guest-reset": "the guest reset itself",
                "guest-shutdown": "the guest powered itself off",
                "guest-panic": "the guest kernel panicked",
            }.get(reason, f"QEMU reported {event['event']} {reason}".strip())
        disk = self._stopped_by_disk()
        if disk is not None:
            free = shutil.disk_usage(self.directory).free / 2**20
            return (
                f"this machine's disk is full: QEMU stopped the guest at a write to '{disk}' "
                f"({free:.0f} MiB free below '{self.directory.parent}')"
            )
        if not self._process_alive():
            status = self._process.returncode if self._process else None
            return f"QEMU is gone (exit status {status})"
        return None

    @property
    def died(self) -> bool:
        """The guest's kernel panicked or reset the machine, which QEMU keeps as it was."""
        event = self.end_event()
        if event is None or not self._process_alive():
            return False
        panicked = event["event"] in ("GUEST_PANICKED", "GUEST_CRASHLOADED")
        return panicked or event.get("data", {}).get("reason") in ("guest-reset", "guest-panic")

    @property
    def lost_by_host(self) -> bool:
        """The end was none of the guest's: QEMU is gone, or this machine's disk is full."""
        if self.end_event() is not None:
            return False
        return not self._process_alive() or self._stopped_by_disk() is not None

    def _stopped_by_disk(self) -> str | None:
        """The disk whose write this machine had no space for: QEMU has stopped the guest then."""
        for event in self.events:
            data = event.get("data", {})
            if event["event"] == "BLOCK_IO_ERROR" and data.get("action") == "stop":
                return str(data.get("node-name") or data.get("device") or "a disk")
        return None

    def _process_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _qemu_said(self) -> str:
        log = self.directory / "qemu.log"
        return log.read_text(errors="replace").strip()[-2000:] if log.exists() else ""

    # -- changing ---------------------------------------------------------------------------

    def resize_scratch(self) -> None:
        """Tell a restored guest the sizes of this run's disks; it remembers the snapshot's."""
        for disk in self.scratch:
            if disk.serial not in self.plan.scratch.fixed:
                self.monitor.execute("block_resize", node_name=disk.serial, size=disk.size)

    def save_state(self, destination: Path) -> None:
        """Write RAM and device state to `destination` and leave the guest stopped for good.

        Migration into a file descriptor rather than `savevm`: the result is a read-only file
        that any number of machines can start from, each on its own overlay.
        """
        monitor = self.monitor
        monitor.execute("stop")
        monitor.execute("migrate-set-parameters", max_bandwidth=16 * 2**30)
        with destination.open("wb") as stream:
            monitor.send_file_descriptor(stream.fileno(), "state")
        monitor.execute("migrate", uri="fd:state")
        until = time.monotonic() + 300
        while time.monotonic() < until:
            progress = monitor.execute("query-migrate")
            if progress["status"] == "completed":
                return
            if progress["status"] in ("failed", "cancelled"):
                break
            time.sleep(0.05)
        raise InfrastructureError(
            "QEMU could not save the machine's state.",
            evidence=str(progress.get("error-desc", progress)),
        )

    # -- ending -----------------------------------------------------------------------------

    def power_off(self, grace_s: float = 60.0) -> None:
        """Ask the guest to shut down, wait, then end QEMU in any case."""
        if self.running:
            try:
                self.monitor.execute("system_powerdown")
            except InfrastructureError:
                grace_s = 0
            until = time.monotonic() + grace_s
            while self.running and time.monotonic() < until:
                time.sleep(0.1)
        self.destroy()

    def destroy(self) -> None:
        """End QEMU at once and delete everything that is only this machine's."""
        self.shell.disconnect()
        self._stop_process()
        self._release()
        shutil.rmtree(self.runtime_dir, ignore_errors=True)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _stop_process(self) -> None:
        if self._monitor is not None:
            self._monitor.close()
            self._monitor = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def detach(self) -> dict[str, object]:
        """Leave the guest running without us; returns what is needed to find it again."""
        record = self._write_record(MachineState.UP)
        self.shell.disconnect()
        if self._monitor is not None:
            self._monitor.close()
            self._monitor = None
        self._release()  # QEMU still holds the lock of its directory
        return record

    def _release(self) -> None:
        for lock in (self._lock, self._owner):
            if lock is not None:
                os.close(lock)
        self._lock = self._owner = None

    def _write_record(self, state: MachineState) -> dict[str, object]:
        record: dict[str, object] = {
            "name": self.name,
            "state": state.value,
            "pid": self.pid,
            "ssh_port": self.ssh_port,
            "ssh_config": str(self.runtime_dir / "ssh_config"),
            "console_socket": str(self.runtime_dir / "console"),
            "monitor_socket": str(self.runtime_dir / "qmp"),
            "console_log": str(self.plan.console_log),
            "image": self.plan.image.name,
            "accel": self.plan.accelerator.name,
            "source": str(self.plan.source_dir),
        }
        temporary = self.directory / "machine.json.new"
        temporary.write_text(json.dumps(record, indent=2))
        temporary.rename(self.directory / RECORD)
        return record


def runtime_dir(name: str) -> Path:
    """A directory for sockets called `name`, short enough for them, which caches are not.

    Raises InfrastructureError when every place there is has too long a path.
    """
    longest = len(f"/{name}/console")
    longest = max(longest, len(f"/{name}/ssh") + _SSH_SUFFIX_BYTES)
    places = [tempfile.gettempdir(), os.environ.get("XDG_RUNTIME_DIR"), "/tmp", "/var/tmp"]
    for place in filter(None, places):
        if len(os.fsencode(place)) + longest <= _SOCKET_PATH_BYTES and os.access(place, os.W_OK):
            return Path(place) / name
    raise InfrastructureError(
        "There is no place for a machine's sockets: their paths have "
        f"{_SOCKET_PATH_BYTES - longest} bytes for the directory.",
        evidence=f"too long or not writable: {', '.join(filter(None, places))}",
        hint="Set TMPDIR to a short path.",
    )


def machines_dir() -> Path:
    return cache_dir() / "machines"


def sweep_dead_machines() -> None:
    """Delete what machines left whose vexrun and QEMU both died without cleaning up."""
    if not machines_dir().is_dir():
        return
    # Held while a machine makes its directory, so that it never looks dead before it is locked.
    with exclusive(_sweep_lock()):
        for directory in machines_dir().iterdir():
            if not is_locked(directory / "lock"):
                _remove_remains(directory)


def _locked(path: Path) -> int:
    """A descriptor that holds an exclusive lock on a file of ours."""
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def _sweep_lock() -> Path:
    return cache_dir() / "locks" / "machines.lock"


def _remove_remains(directory: Path) -> None:
    note = directory / "runtime_dir"
    if note.is_file():
        runtime_dir = Path(note.read_text())
        if runtime_dir.name == directory.name:
            shutil.rmtree(runtime_dir, ignore_errors=True)
    shutil.rmtree(directory, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def booted(plan: MachinePlan) -> Iterator[Machine]:
    """A started machine that is gone when the block ends, however it ends."""
    sweep_dead_machines()
    machine = Machine(plan)
    try:
        machine.start()
        yield machine
    finally:
        machine.destroy()
