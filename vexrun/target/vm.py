"""The target `vm`: a machine started from a RAM snapshot, watched, replaced when it breaks."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vexrun.errors import InfrastructureError, TargetLostError
from vexrun.events import Emit
from vexrun.guest.context import MOUNT_POINT, SECOND_MOUNT_POINT
from vexrun.image.catalog import Image
from vexrun.playbook import InventoryHost
from vexrun.results.model import TargetInfo
from vexrun.settings import MachineSettings
from vexrun.subject import Subject
from vexrun.target.kernel_watch import KernelCheck, KernelWatch, silent_event
from vexrun.vm.accel import Accelerator
from vexrun.vm.console import ConsoleFollower
from vexrun.vm.disks import ScratchPlan
from vexrun.vm.kmsg import KmsgFollower
from vexrun.vm.machine import Machine, MachinePlan, sweep_dead_machines
from vexrun.vm.snapshot import Snapshot, guest_inventory
from vexrun.vm.ssh import GuestTimeoutError
from vexrun.vm.standing_shell import StandingShell

#: Seconds from starting QEMU to the first ssh command on a current machine with KVM.
_KVM_BOOT_S = 4.0


@dataclass(frozen=True)
class VmPlan:
    """What a run needs to start its machine, again and again."""

    image: Image
    snapshot: Snapshot
    accelerator: Accelerator
    hardware: MachineSettings
    subject: Subject
    source_dir: Path
    console_log: Path
    outlives_us: bool = False


class VmTarget:
    """A running guest, ready for the subject, with its kernel watched."""

    def __init__(self, plan: VmPlan, emit: Emit) -> None:
        self.plan = plan
        self.emit = emit
        #: Modules the subject's build made besides the one under test; unloaded after it.
        self.siblings: list[str] = []
        #: Called after each start, for example to install the module again after a restore.
        self.on_start: Callable[[VmTarget], None] | None = None
        self.restores = 0
        self._machine: Machine | None = None
        self._console: ConsoleFollower | None = None
        self._kmsg: KmsgFollower | None = None
        self._standing: StandingShell | None = None
        self._watch: KernelWatch | None = None

    # -- life -------------------------------------------------------------------------------

    def open(self) -> None:
        """Start from the snapshot and prepare the guest for the subject."""
        sweep_dead_machines()
        self.plan.console_log.parent.mkdir(parents=True, exist_ok=True)
        if not self.plan.console_log.exists():
            self.plan.console_log.write_bytes(self.plan.snapshot.boot_console.read_bytes())
        self._start()

    def restore(self) -> None:
        """Throw the machine away and start a clean one from the snapshot."""
        self.restores += 1
        self._drop()
        self._start()
        if self.on_start is not None:
            self.on_start(self)

    def _start(self) -> None:
        with self.plan.console_log.open("ab") as log:
            stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            log.write(f"\n--- vexrun: machine restored from its snapshot, {stamp}\n".encode())
            offset = log.tell()
        machine = Machine(
            MachinePlan(
                image=self.plan.image,
                accelerator=self.plan.accelerator,
                memory_mib=self.plan.hardware.memory_mib,
                cpus=self.plan.hardware.cpus,
                source_dir=self.plan.source_dir,
                console_log=self.plan.console_log,
                scratch=ScratchPlan(self.plan.subject.filesystem.size_mib),
                disk=self.plan.snapshot.disk,
                state=self.plan.snapshot.state,
                outlives_us=self.plan.outlives_us,
            )
        )
        self._machine = machine
        modules = [self.plan.subject.module.sysfs_name]
        self._console = ConsoleFollower(self.plan.console_log, offset, modules)
        machine.start()
        machine.wait_for_incoming()
        machine.resize_scratch()
        machine.connect(120 * self.slowdown)
        self._prepare(machine)
        self._kmsg = KmsgFollower(machine.shell, machine.directory)
        self._standing = StandingShell(machine.shell)
        self._watch = KernelWatch(self._standing, self._console, self._kmsg, modules, self.slowdown)
        self._watch.begin()

    def _prepare(self, machine: Machine) -> None:
        """One step: clock, source share, and no in-kernel copy of the subject's module."""
        name = self.plan.subject.module.name
        names = {name, name.replace("-", "_"), name.replace("_", "-")}
        block = "".join(f"install {each} /bin/false\nblacklist {each}\n" for each in sorted(names))
        machine.set_clock_and_mount_source(
            60 * self.slowdown,
            f"printf %s {shlex.quote(block)} >/etc/modprobe.d/vexrun-subject.conf",
        )

    def close(self) -> None:
        self._drop()

    def detach(self) -> bool:
        """Leave the machine running for a person, when it is alive; True when it was left."""
        if self._machine is None or self.ended() is not None:
            return False
        machine, self._machine = self._machine, None
        self._drop()
        machine.detach()
        return True

    def _drop(self) -> None:
        try:
            self._save_dmesg()
        finally:
            self._end()

    def _save_dmesg(self) -> None:
        if self._watch is not None:
            with self.plan.console_log.with_name("dmesg.log").open("a") as log:
                log.write(self._watch.dmesg)

    def _end(self) -> None:
        if self._standing is not None:
            self._standing.close()
            self._standing = None
        if self._kmsg is not None:
            self._kmsg.close()
            self._kmsg = None
        if self._console is not None:
            self._console.close()
            self._console = None
        if self._machine is not None:
            self._machine.destroy()
            self._machine = None
        self._watch = None

    # -- looking ----------------------------------------------------------------------------

    @property
    def machine(self) -> Machine:
        if self._machine is None:
            raise TargetLostError("There is no machine.")
        return self._machine

    @property
    def console(self) -> ConsoleFollower:
        if self._console is None:
            raise TargetLostError("There is no machine.")
        return self._console

    @property
    def slowdown(self) -> float:
        """How many times slower than KVM this guest is, measured on its own boot."""
        measured = self.plan.snapshot.boot_seconds / _KVM_BOOT_S
        # A snapshot made on a busy machine must not stretch every limit for ever.
        return min(20.0, max(1.0, measured, self.plan.accelerator.slowdown))

    @property
    def ssh_config(self) -> Path:
        return self.machine.shell.config

    def disks(self) -> dict[str, str]:
        """Serial to device path in the guest."""
        return {disk.serial: disk.device for disk in self.machine.scratch}

    def info(self) -> TargetInfo:
        manifest = self.plan.image.manifest
        return TargetInfo(
            kind="vm",
            backend="qemu",
            accel=self.plan.accelerator.name,
            accel_reason=self.plan.accelerator.reason,
            kernel=manifest.kernel_release,
            suite=self.plan.image.suite,
            image_sha256=manifest.sha256["root.qcow2"],
            image_key=manifest.key,
            memory_mib=self.plan.hardware.memory_mib,
            cpus=self.plan.hardware.cpus,
            restored_from_snapshot=True,
        )

    def ended(self) -> str | None:
        """Why the guest is not running any more, None while it runs."""
        return self.machine.how_it_ended()

    def check_kernel(self, timeout_s: float) -> KernelCheck:
        """What the kernel did since the last check (see KernelWatch)."""
        if self._watch is None:
            raise TargetLostError("There is no machine.")
        ended = self.ended()
        if ended is None:
            check = self._watch.check(timeout_s)
            ended = self.ended() if not check.answered else None
        else:
            # Let QEMU's last output reach the file: a panic prints on after its QMP event.
            time.sleep(1.0)
            check = KernelCheck(self.console.take_events(), answered=False)
        if check.answered or check.events:
            return check
        if self.machine.process_gone:
            # No guest can end QEMU here (-action keeps it): somebody on this machine did.
            return KernelCheck(answered=False, log_lost=f"the target was lost: {ended}")
        title = ended or "the guest stopped answering"
        return KernelCheck([silent_event(title, *self.console.tail(20).splitlines())], [], False)

    def explain_hang(self) -> str:
        """Ask the kernel for the stacks of blocked tasks (SysRq-w, -l); '' when it is mute."""
        before = self.console.position
        try:
            self.machine.shell.run(
                "echo w >/proc/sysrq-trigger; echo l >/proc/sysrq-trigger", timeout_s=15
            )
        except TargetLostError:
            return self._registers()
        time.sleep(1.0)
        self.console.poll()
        with self.plan.console_log.open("rb") as log:
            log.seek(before)
            return log.read(200_000).decode(errors="replace") or self._registers()

    def _registers(self) -> str:
        try:
            said = self.machine.monitor.execute(
                "human-monitor-command", command_line="info registers -a"
            )
        except InfrastructureError:
            return ""
        return f"ssh is mute; CPU registers from QEMU:\n{said}"[:20_000]

    # -- changing ---------------------------------------------------------------------------

    def install(self, directory: Path, files: list[Path], destination: PurePosixPath) -> None:
        """Copy built files into the guest, at the paths the guest would have built them."""
        self.machine.shell.send_files(files, directory, str(destination))

    def umount_and_unload(self) -> tuple[str, str]:
        """Leave the kernel without the subject: `passed`, `failed`, `hung` or `lost`, and why."""
        name = self.plan.subject.module.sysfs_name
        others = " ".join(reversed(self.siblings))
        command = (
            f"cd /; for path in {MOUNT_POINT} {SECOND_MOUNT_POINT}; do "
            'while grep -q " $path " /proc/self/mounts; do umount $path || exit 1; done; done; '
            f"if [ -d /sys/module/{name} ]; then rmmod {name} || exit 1; fi; "
            f"for each in {others}; do "
            "if [ -d /sys/module/$each ]; then rmmod $each || exit 1; fi; "
            "done; sync; sleep 5"
        )
        try:
            done = self.machine.shell.run(command, timeout_s=20.0 * self.slowdown)
        except GuestTimeoutError as error:
            return "hung", error.message
        except TargetLostError as error:
            return "lost", error.message
        if done.returncode != 0:
            return "failed", f"umount or rmmod failed at the end: {done.tail(3)}"
        return "passed", ""

    def inventory(self) -> InventoryHost:
        """The guest as an Ansible host."""
        return guest_inventory(self.machine)
