"""The target `vm`: a machine started from a RAM snapshot, watched, replaced when it breaks."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from vexrun.errors import InfrastructureError, TargetLostError
from vexrun.events import Emit
from vexrun.image.catalog import Image
from vexrun.kernel_log.emulator import trap_that_is_not_there
from vexrun.playbook import InventoryHost
from vexrun.results.model import TargetInfo
from vexrun.settings import MachineSettings
from vexrun.subject import Subject
from vexrun.target.channels import SYSRQ_PATIENCE_S, Channels
from vexrun.target.hang import (
    BLOCKED_AGAIN_S,
    BLOCKED_S,
    FLOOD_BYTES,
    HangReport,
    Schedule,
    StuckWatch,
    find_culprit,
    is_blocked_task,
    kernel_answers,
    waiting_in,
)
from vexrun.target.kernel_watch import KernelCheck, silent_event
from vexrun.target.leaving import umount_and_unload
from vexrun.vm.accel import Accelerator
from vexrun.vm.console import ConsoleFollower
from vexrun.vm.disks import ScratchPlan
from vexrun.vm.kmsg import KmsgFollower
from vexrun.vm.machine import Machine, MachinePlan, sweep_dead_machines
from vexrun.vm.snapshot import Snapshot, guest_inventory
from vexrun.vm.ssh import GuestShell

#: Seconds from starting QEMU to the first ssh command on a current machine with KVM.
_KVM_BOOT_S = 4.0
#: A guest without a beat for so long is asked whether its kernel lives. The kernel's own
#: detectors of lockups and RCU stalls have spoken by then.
_SILENCE_S = 80.0


#: The machine under the kernel was at fault, so that nothing is known about the subject.
EMULATOR_FAULT = (
    "the emulator, not the kernel, is at fault: QEMU stopped at an instruction in {place} that is "
    "no longer in the guest's memory. QEMU 8.1 has that mended. Run the test again"
)


@dataclass(frozen=True)
class VmPlan:
    """What a run needs to start its machine, again and again."""

    image: Image
    snapshot: Snapshot | None  # None: its backend takes one of its own
    accelerator: Accelerator
    hardware: MachineSettings
    subject: Subject
    source_dir: Path
    console_log: Path
    outlives_us: bool = False


class VmTarget:
    """A running guest, ready for the subject, with its kernel watched."""

    #: How the machine comes up, for the screen.
    starts_by = "restoring the snapshot"

    def __init__(self, plan: VmPlan, emit: Emit) -> None:
        self.plan = plan
        self.emit = emit
        #: Modules the subject's build made besides the one under test; unloaded after it.
        self.siblings: list[str] = []
        #: Called after each start, for example to install the module again after a restore.
        self.on_start: Callable[[], None] | None = None
        self.restores = 0
        self._machine: Machine | None = None
        self._channels: Channels[ConsoleFollower, KmsgFollower] = Channels(
            plan.subject.module.sysfs_name
        )
        self._asked = 0.0
        self._test_offset = 0
        self._explained: HangReport | None = None  # of the running test
        self._blocked_s = BLOCKED_S

    # -- life -------------------------------------------------------------------------------

    def open(self) -> None:
        """Start from the snapshot and prepare the guest for the subject."""
        sweep_dead_machines()
        self.plan.console_log.parent.mkdir(parents=True, exist_ok=True)
        if not self.plan.console_log.exists():
            self.plan.console_log.write_bytes(self.snapshot.boot_console.read_bytes())
        self._start()

    def restore(self) -> None:
        """Throw the machine away and start a clean one from the snapshot."""
        self.restores += 1
        self._drop()
        self._start()
        if self.on_start is not None:
            self.on_start()

    def _start(self) -> None:
        with self.plan.console_log.open("ab") as log:
            stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            log.write(f"\n--- vexrun: machine restored from its snapshot, {stamp}\n".encode())
            offset = log.tell()
        machine = self._make_machine()
        self._machine = machine
        self._test_offset, self._explained = offset, None
        modules = [self.plan.subject.module.sysfs_name]
        self._channels.console = ConsoleFollower(self.plan.console_log, offset, modules)
        self._bring_up(machine)
        machine.connect(120 * self.slowdown)
        self._prepare(machine)
        self._channels.kmsg = KmsgFollower(machine.shell, machine.directory)
        self._channels.begin_watch(machine.shell, self.slowdown)

    def machine_plan(self) -> MachinePlan:
        """The machine, with a cold boot."""
        return MachinePlan(
            image=self.plan.image,
            accelerator=self.plan.accelerator,
            memory_mib=self.plan.hardware.memory_mib,
            cpus=self.plan.hardware.cpus,
            source_dir=self.plan.source_dir,
            console_log=self.plan.console_log,
            scratch=ScratchPlan(self.plan.subject.filesystem.size_mib),
            disk=self.plan.image.disk,
            outlives_us=self.plan.outlives_us,
        )

    def _make_machine(self) -> Machine:
        snapshot = self.snapshot
        return Machine(replace(self.machine_plan(), disk=snapshot.disk, state=snapshot.state))

    def _bring_up(self, machine: Machine) -> None:
        """From its saved state to where it answers to ssh."""
        machine.start()
        machine.wait_for_incoming()
        machine.resize_scratch()

    def _prepare(self, machine: Machine) -> None:
        """One step: clock, source share, and no in-kernel copy of the subject's module."""
        names = self.plan.subject.names_to_block
        block = "".join(f"install {each} /bin/false\nblacklist {each}\n" for each in names)
        machine.set_clock_and_mount_source(
            60 * self.slowdown,
            f"printf %s {shlex.quote(block)} >/etc/modprobe.d/vexrun-subject.conf && "
            f"echo {self._blocked_s} >/proc/sys/kernel/hung_task_timeout_secs && "
            "echo 10 >/proc/sys/kernel/hung_task_check_interval_secs",
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
            self._channels.save_dmesg(self.plan.console_log.parent)
        finally:
            self._channels.end()
            if self._machine is not None:
                machine, self._machine = self._machine, None
                self._discard(machine)

    def _discard(self, machine: Machine) -> None:
        machine.destroy()

    # -- looking ----------------------------------------------------------------------------

    @property
    def machine(self) -> Machine:
        if self._machine is None:
            raise TargetLostError("There is no machine.")
        return self._machine

    @property
    def console(self) -> ConsoleFollower:
        if self._channels.console is None:
            raise TargetLostError("There is no machine.")
        return self._channels.console

    @property
    def snapshot(self) -> Snapshot:
        assert self.plan.snapshot is not None, "this backend starts from vexrun's snapshot"
        return self.plan.snapshot

    @property
    def boot_seconds(self) -> float:
        """Seconds of the boot that the running machine comes from."""
        return self.snapshot.boot_seconds

    @property
    def slowdown(self) -> float:
        """How many times slower than KVM this guest is, measured on its own boot."""
        measured = self.boot_seconds / _KVM_BOOT_S
        # A snapshot made on a busy machine must not stretch every limit for ever.
        return min(20.0, max(1.0, measured, self.plan.accelerator.slowdown))

    @property
    def shell(self) -> GuestShell:
        return self.machine.shell

    @property
    def ssh_config(self) -> Path:
        return self.shell.config

    @property
    def kernel_release(self) -> str:
        return self.plan.image.manifest.kernel_release

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
            suite=self.plan.image.guest,
            image_sha256=manifest.sha256["root.qcow2"],
            image_key=manifest.key,
            memory_mib=self.plan.hardware.memory_mib,
            cpus=self.plan.hardware.cpus,
            restored_from_snapshot=True,
        )

    def ended(self) -> str | None:
        """Why the guest is not running any more, None while it runs."""
        return self.machine.how_it_ended()

    def dead_machine(self) -> tuple[Machine, str] | None:
        """The machine, and why, when its kernel died and QEMU still has its memory."""
        if self._machine is None or self._machine.lost_by_host:
            return None
        ended = self._machine.how_it_ended()
        if ended is None:
            mute = self._explained is not None and self._explained.mute
            return (self._machine, "the guest is mute") if mute else None
        return (self._machine, ended) if self._machine.died else None

    def check_kernel(self, timeout_s: float) -> KernelCheck:
        """What the kernel did since the last check (see KernelWatch)."""
        check = self._check_kernel(timeout_s)
        place = trap_that_is_not_there(check.events[0]) if check.events else ""
        if place and self.plan.accelerator.name == "tcg":
            # What it said after that is the same fault's doing.
            return replace(check, events=[], log_lost=EMULATOR_FAULT.format(place=place))
        if any(is_blocked_task(event) for event in check.events):
            self._blocked_s = BLOCKED_AGAIN_S
        return check

    def _check_kernel(self, timeout_s: float) -> KernelCheck:
        watch = self._channels.watch
        if watch is None:
            raise TargetLostError("There is no machine.")
        ended, hang = self.ended(), HangReport("")
        if ended is None:
            check = watch.check(timeout_s)
            if not check.answered and not check.events and self.ended() is None:
                hang = self._explained or self.explain_hang()
                if hang.starved or (not hang.mute and self._channels.beats()):
                    # Slow is not hung: whoever still runs processes gets a second chance.
                    check = watch.check(3 * timeout_s)
            ended = self.ended() if not check.answered else None
        else:
            # Let QEMU's last output reach the file: a panic prints on after its QMP event.
            time.sleep(1.0)
            check = KernelCheck(self.console.take_events(), answered=False)
        if check.answered or check.events:
            return check
        if self.machine.lost_by_host:
            # No guest can end QEMU here (-action keeps it): somebody on this machine did.
            return KernelCheck(answered=False, log_lost=f"the target was lost: {ended}")
        if ended is None and hang.starved:
            return KernelCheck(answered=False, log_lost=hang.name)
        title = ended or hang.name or self._silence()
        return KernelCheck([silent_event(title, *self.console.tail(20).splitlines())], [], False)

    def _silence(self) -> str:
        """A name for a guest whose kernel answers, while we cannot reach its processes."""
        beat = self._channels.heartbeat
        if beat is None or beat.broken:
            return "ssh is gone, while the guest's kernel still answers"
        return "the guest's kernel answers, its processes do not"

    def believes_trouble(self) -> bool:
        """Whether what the console shows can be the kernel's word, and not a process's."""
        if not self.console.events and not self.console.trouble:
            return False
        # Where no process runs nobody can forge, and nobody can carry the kernel's buffer to us.
        watch = self._channels.watch
        return watch is None or watch.confirms() or not self._channels.beats()

    def notice_hang(self, begun: float, limit_s: float) -> HangReport | None:
        """Evidence that the test which began at that time will never end, None without.

        A guest that is slow and goes on is left alone: its processes beat, tasks come back from
        the kernel, and the kernel answers. `limit_s` is the time one command of the test has.
        """
        now = time.monotonic()
        beat = self._channels.heartbeat
        if beat is None or not self._channels.looks(begun, now):
            return None
        if self._channels.beats():
            name = self._channels.stuck_task(now, limit_s)
            return self.explain_hang(name) if name else None
        if beat.broken or beat.silent_for() < _SILENCE_S or now - self._asked < _SILENCE_S:
            return None
        self._asked = now
        report = self.explain_hang()
        return report if report.mute else None

    def explain_hang(self, name: str = "") -> HangReport:
        """Ask the kernel for the stacks of blocked tasks and busy CPUs, and name the hang."""
        start = self.console.position
        printed = start - self._test_offset
        if printed > FLOOD_BYTES:
            name = f"the guest floods the console ({printed >> 20} MiB in this test)"

        def said() -> str:
            return self._channels.said_since(start, self.plan.console_log)

        before = Schedule.of(self.machine.pid)
        answered, text = kernel_answers(self.machine, said, "lw", SYSRQ_PATIENCE_S)
        starved = Schedule.of(self.machine.pid).starved_since(before)
        culprit = find_culprit(text, self.plan.subject.module.sysfs_name)
        where = culprit.name if culprit else ""
        if name and where:
            name += f"; {where.partition(': ')[2]}"
        name = name or where
        beats = self._channels.beats
        if not name and beats():
            name = waiting_in(self._channels.tasks())
        mute = not answered and not name and not beats() and not starved
        if starved and not answered:
            name = name or "the guest does not answer, and this machine hardly lets it run"
        elif mute:
            name = "the guest is mute: neither its processes nor its kernel answer"
        elif not name and not beats():
            name = self._silence()
        details = text if answered else self._registers()
        self._explained = HangReport(name, details, mute, starved and not answered, culprit)
        return self._explained

    def begin_test(self) -> None:
        """What the console says from now on belongs to the next test."""
        self.console.poll()
        self._test_offset = self.console.position
        self._channels.stuck, self._explained = StuckWatch(), None

    def _registers(self) -> str:
        try:
            said = self.machine.monitor.execute(
                "human-monitor-command", command_line="info registers -a"
            )
        except InfrastructureError:
            return ""
        return f"CPU registers from QEMU:\n{said}"[:20_000]

    # -- changing ---------------------------------------------------------------------------

    def install(self, directory: Path, files: list[Path], destination: PurePosixPath) -> None:
        """Copy built files into the guest, at the paths the guest would have built them."""
        self.machine.shell.send_files(files, directory, str(destination))

    def umount_and_unload(self) -> tuple[str, str]:
        """Leave the kernel without the subject: `passed`, `failed`, `hung` or `lost`, and why."""
        name = self.plan.subject.module.sysfs_name
        return umount_and_unload(self.shell, name, self.siblings, 20.0 * self.slowdown)

    def inventory(self) -> InventoryHost:
        """The guest as an Ansible host."""
        return guest_inventory(self.machine)
