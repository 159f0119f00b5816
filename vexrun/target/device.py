"""The target `device`: a machine of metal over ssh, guarded, watched, and never replaced."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vexrun import process
from vexrun.device import last_words, windows_in_guest
from vexrun.device.confinement import confined, demand_confinement, spare_numbers
from vexrun.device.connection import (
    address_of,
    connect,
    connection_directory,
    device_inventory,
    recovery,
)
from vexrun.device.description import CriticalMachines, Device
from vexrun.device.differences import differences
from vexrun.device.facts import DiskFacts, Facts, read_facts
from vexrun.device.guards import WINDOWS, Here, Phase, Question, demand, space_needed
from vexrun.device.kernel_log import DeviceConsole, DeviceKmsg, NetconsoleListener
from vexrun.device.safety_net import STANDS, Net, SignOfLife, arm_script, disarm_script
from vexrun.errors import InfrastructureError, TargetLostError, VexrunError
from vexrun.guest.context import DeviceClaim
from vexrun.guest.payload import GuestAgent, GuestCodeError, GuestPython
from vexrun.playbook import InventoryHost
from vexrun.results.model import DeviceInfo, KernelEvent, TargetInfo
from vexrun.subject import Subject
from vexrun.target.channels import SYSRQ_PATIENCE_S, Channels
from vexrun.target.hang import (
    HangReport,
    StuckWatch,
    find_culprit,
    waiting_in,
)
from vexrun.target.kernel_watch import KernelCheck, silent_event
from vexrun.target.leaving import umount_and_unload
from vexrun.vm.heartbeat import Heartbeat
from vexrun.vm.ssh import HOST_ALIAS, GuestShell, write_ssh_config

_MIB = 2**20
#: A device without a beat for so long is asked whether it is still there; times `slowdown`, up to
#: the second figure.
_SILENCE_S, _MAX_SILENCE_S = 20.0, 90.0
#: Silence before a person is told how to help.
_TELL_AFTER_S = 90.0
#: Loaded by us: the device mapper, and its target for failing media.
_WINDOW_MODULES = ("dm_flakey", "dm_mod")
#: Where signatures are, at both ends of a disk.
_BLANKED = _MIB


@dataclass(frozen=True)
class DevicePlan:
    """A device that may be used, as its guards have said; they say it again at the start."""

    device: Device
    critical: CriticalMachines
    subject: Subject
    rundir: Path
    suite: str
    #: Filled in as things happen; part of the results.
    info: DeviceInfo
    #: Puts a sentence into the results and before the eyes of whoever watches.
    note: Callable[[str], None]

    @property
    def console_log(self) -> Path:
        return self.rundir / "console.log"


class DeviceTarget:
    """A device with its safety net up and its kernel watched."""

    def __init__(self, plan: DevicePlan) -> None:
        self.plan = plan
        self.siblings: list[str] = []
        #: Never called: a device is not started again.
        self.on_start: Callable[[], None] | None = None
        #: Whether the disk keeps what the tests have left on it.
        self.keep_disk = False
        self._files = ExitStack()
        self.directory = self._files.enter_context(connection_directory())
        self.shell = GuestShell(write_ssh_config(address_of(plan.device), self.directory))
        self._before: Facts | None = None
        self._windows: dict[str, str] = {}
        self._prefix = ""
        self._armed = False
        self._used = False  # a test has begun, and may have written to the disk
        self._ended: str | None = None
        self._gone = False
        self._rebooted = False
        self._by_switch = False
        self._channels: Channels[DeviceConsole, DeviceKmsg] = Channels(
            plan.subject.module.sysfs_name
        )
        self._netconsole: NetconsoleListener | None = None
        self._life: SignOfLife | None = None

    # -- life -------------------------------------------------------------------------------

    def connect(self) -> Facts:
        """Open the connection and ask the guards; what the device says of itself.

        Raises RefusedError with every refusal.
        """
        connect(self.plan.device, self.shell)
        facts = self._read_facts()
        demand(self._question(facts, Phase.BEFORE))
        return facts

    def open(self) -> None:
        """Take the disk, put up the safety net, begin to watch. The guards are asked again."""
        before = self._read_facts()
        demand(self._question(before, Phase.BEFORE))
        self._before = before
        self.plan.info.boot_ids.append(before.boot_id)
        self._write_state("device-before.json", before)
        self._take_disk(before)
        self._arm()
        self._channels.begin_watch(self.shell, self.slowdown)

    def restore(self) -> None:
        raise InfrastructureError("A device is not replaced by a clean one.")

    def detach(self) -> bool:
        """A device is always put back as it was."""
        return False

    def _take_disk(self, before: Facts) -> None:
        """Open the windows: from now on the kernel itself keeps others off the disk."""
        assert before.disk is not None, "the guards have asked for a disk"
        size = self.plan.subject.filesystem.size_mib * _MIB
        assert before.disk.size >= space_needed(self.plan.subject), "a guard has asked for space"
        self.shell.run("modprobe -a dm-mod", timeout_s=self._minute, check=True)
        sizes = list(zip(WINDOWS, (size, size, 16 * 512), strict=True))
        with self._python() as call:
            self._windows = call(
                windows_in_guest.open_windows, before.disk.path, before.disk.dev, sizes
            )
        demand(self._question(self._read_facts(), Phase.RUNNING))
        self._confine(before.disk)

    def _confine(self, disk: DiskFacts) -> None:
        """What tests run may open the windows, and no other disk; tried out."""
        used = self.shell.run("cat /sys/class/block/dm-*/dev", timeout_s=self._minute, check=True)
        self._prefix = confined(self._windows.values(), disk, spare_numbers(used.stdout))
        paths = [*self._windows.values(), *(part.path for part in disk.parts)]
        may = {path.removeprefix("/dev/") for path in paths}
        demand_confinement(self.shell, self._prefix, may, self._minute)

    def _arm(self) -> None:
        """The safety net; a part that cannot be put up ends the run before it begins."""
        module = self.plan.subject.module
        begin = f"vexrun-begin {secrets.token_hex(6)}"
        if self.plan.device.netconsole is not None:
            self._netconsole = NetconsoleListener(
                self.plan.device.netconsole, self.plan.rundir / "netconsole.log"
            )
        net = Net(
            module=module.sysfs_name,
            names_to_block=tuple(self.plan.subject.names_to_block),
            slowdown=self.slowdown,
            begin=begin,
            netconsole=self.plan.device.netconsole,
            port=self._netconsole.port if self._netconsole else 0,
        )
        with self.plan.console_log.open("a") as log:
            stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            log.write(f"--- vexrun: /dev/kmsg of '{self.plan.device.name}' over ssh, {stamp}\n")
            offset = log.tell()
        kmsg = DeviceKmsg(self.shell, self.directory, self.plan.console_log, begin)
        self._channels.kmsg = kmsg
        self._channels.console = DeviceConsole(
            self.plan.console_log, offset, [module.sysfs_name], kmsg
        )
        self._armed = True
        done = self.shell.run(
            "exec bash --norc --noprofile -s",
            timeout_s=2 * self._minute,
            input_text=arm_script(net),
        )
        if done.returncode != 0:
            raise InfrastructureError(
                "The safety net cannot be put up on the device, so nothing is loaded there.",
                evidence=done.tail(8),
            )
        for line in done.output.splitlines():
            if line.startswith("note: "):
                self._note(f"On the device: {line.removeprefix('note: ')}.")
        self._life = SignOfLife(self.shell)

    def close(self) -> None:
        """Take everything down again, look at the device once more, say what is different."""
        try:
            if self._armed or self._windows:
                self._put_back()
            self._channels.save_dmesg(self.plan.rundir)
        finally:
            self._let_go()

    def _put_back(self) -> None:
        if self._gone:
            self._note(f"The device '{self.plan.device.name}' is still away.\n{self._recovery()}")
            return
        try:
            if self._ended is not None:
                self._connect_again()
            if not self._rebooted:
                self._clear_disk()
            elif self._used:
                self._tell_of_disk()
            self.shell.run(
                "exec bash --norc --noprofile -s",
                timeout_s=2 * self._minute,
                input_text=disarm_script(),
                check=True,
            )
            if self._life is not None:
                self._life.close()
                self._life = None
            self._remove_own_modules()
            after = self._read_facts()
        except VexrunError as error:
            self._note(
                f"The device '{self.plan.device.name}' could not be put back: {error.message} Its "
                f"dead man's switch will unload the module or reboot it.\n{self._recovery()}"
            )
            return
        self._write_state("device-after.json", after)
        if self._before is not None:
            self.plan.info.changed += differences(self._before, after)
            for each in self.plan.info.changed:
                self._note(f"The device is not as it was: {each}.")

    def _remove_own_modules(self) -> None:
        """Those of the windows; one that is still in use stays, and is told."""
        before = self._before.modules if self._before is not None else []
        ours = [name for name in _WINDOW_MODULES if name not in before]
        if ours and not self._windows:
            self.shell.run(f"modprobe -r {' '.join(ours)}", timeout_s=self._minute)

    def _clear_disk(self) -> None:
        """Close the windows, and leave a disk that carries nothing, unless it is evidence."""
        before = self._before
        if not self._windows or before is None or before.disk is None:
            return
        module = self.plan.subject.module.sysfs_name
        if self.shell.run(f"test ! -d /sys/module/{module}").returncode != 0:
            self._reboot(f"the module '{module}' cannot be unloaded")
            return
        with self._python() as call:
            call(windows_in_guest.close_windows, list(WINDOWS))
            self._windows = {}
            if self._used and not self.keep_disk:
                facts = self._read_facts()
                demand(self._question(facts, Phase.CLEARING))
                call(windows_in_guest.blank, before.disk.path, before.disk.dev, _BLANKED)
        if self.keep_disk:
            self._tell_of_disk()

    def _tell_of_disk(self) -> None:
        assert self._before is not None and self._before.disk is not None, "the device was open"
        self._note(
            f"The disk '{self._before.disk.by_id}' was left as the run left it. If that is not "
            "blank, the next run will ask for it to be released."
        )

    def _reboot(self, why: str) -> None:
        """The last way to a kernel without the subject."""
        self._note(f"The device is rebooted: {why}.")
        self.shell.run(
            "echo '<4>vexrun: rebooting' >/dev/kmsg; echo s >/proc/sysrq-trigger; sleep 2; "
            "(sleep 1; echo b >/proc/sysrq-trigger) >/dev/null 2>&1 &",
            timeout_s=self._minute,
        )
        time.sleep(3)
        self._ended = self._find_out()
        self._connect_again()

    def _let_go(self) -> None:
        self._channels.end()
        if self._life is not None:
            self._life.close()
            self._life = None
        if self._netconsole is not None:
            self._netconsole.pump()
            self._netconsole.close()
            self._netconsole = None
        self.shell.disconnect()
        self._files.close()

    # -- what it is -------------------------------------------------------------------------

    @property
    def console(self) -> DeviceConsole:
        if self._channels.console is None:
            raise TargetLostError("The device is not watched.")
        return self._channels.console

    @property
    def slowdown(self) -> float:
        return self.plan.device.device.slowdown

    @property
    def _minute(self) -> float:
        return 60.0 * self.slowdown

    @property
    def ssh_config(self) -> Path:
        return self.shell.config

    @property
    def kernel_release(self) -> str:
        assert self._before is not None, "the device is open"
        return self._before.release

    def disks(self) -> dict[str, str]:
        """The windows, under the names that the disks of a virtual machine have."""
        return dict(self._windows)

    def claim(self) -> DeviceClaim | None:
        """What the tests ask again before they destroy something."""
        before = self._before
        if before is None or before.disk is None or not self._windows:
            return None
        here = Here.read()
        return DeviceClaim(
            device=self.plan.device.model_dump_json(),
            critical=self.plan.critical.model_dump_json(),
            facts=before.model_dump_json(),
            by_id=before.disk.by_id,
            machine_id=here.machine_id,
            boot_id=here.boot_id,
            prefix=self._prefix,
        )

    def info(self) -> TargetInfo:
        before = self._before
        assert before is not None, "the device is open"
        return TargetInfo(
            kind="device",
            kernel=before.release,
            suite=self.plan.suite,
            memory_mib=before.memory_mib,
            cpus=before.cpus,
        )

    def inventory(self) -> InventoryHost:
        return device_inventory(self.plan.device, self.shell.config)

    # -- looking ----------------------------------------------------------------------------

    def ended(self) -> str | None:
        """Why the device cannot go on, None while it can."""
        kmsg = self._channels.kmsg
        if self._ended is None and kmsg is not None and kmsg.switch_acts:
            # It unloads the module under whatever runs: that is no failure of a test.
            self._by_switch = True
            self._ended = "the device lost vexrun, and its dead man's switch has acted"
        if self._ended is None and self._life is not None and self._life.broken:
            self._life = SignOfLife(self.shell)
        if self._ended is None and self._looks_gone():
            self._ended = self._find_out()
        return self._ended

    def _looks_gone(self) -> bool:
        beat = self._channels.heartbeat
        if self._netconsole is not None:
            self._netconsole.pump()
            if self._netconsole.ends_with_panic:
                return True
        if beat is None:
            return False
        limit = min(_SILENCE_S * self.slowdown, _MAX_SILENCE_S)
        return beat.broken or beat.silent_for() > limit

    def _find_out(self) -> str | None:
        """What became of a device that does not answer; None when it does after all.

        Waits until it is back, as long as its file says that a boot takes.
        """
        name, patience = self.plan.device.name, self.plan.device.device.back_within_s
        begun, told = time.monotonic(), False
        was = self.plan.info.boot_ids[-1]
        while time.monotonic() - begun < patience:
            if self._netconsole is not None:
                self._netconsole.pump()
            boot_id = self._ask_boot_id()
            if boot_id == was and self._answers_as_before():
                if self._netconsole is not None:
                    self._netconsole.ends_with_panic = False  # somebody else's packet
                return None
            if boot_id:
                return self._is_back(boot_id, was)
            if not told and time.monotonic() - begun > min(_TELL_AFTER_S, patience / 2):
                told = True
                self._note(f"The device '{name}' does not answer.\n{self._recovery()}")
            time.sleep(1.0)
        self._gone = True
        self._hear(False)
        return f"the device vanished, and has not come back within {patience:.0f} s"

    def _is_back(self, boot_id: str, was: str) -> str:
        if boot_id == was:
            return "the connection to the device was lost; it is up, and was not booted again"
        self._rebooted = True
        self.plan.info.boot_ids.append(boot_id)
        self._hear(True)
        if self._by_switch:
            return "the device lost vexrun, and its dead man's switch rebooted it"
        return "the device was booted again"

    def _answers_as_before(self) -> bool:
        """Only a beat was missed: the shared connection carries commands, and it beats again.

        A switch that has acted meanwhile has unloaded what was under test: then nothing is as
        before, and a test that goes on would be blamed for that.
        """
        try:
            if self.shell.run(STANDS, timeout_s=self._minute / 2).returncode != 0:
                return False
        except VexrunError:
            return False
        if self._channels.heartbeat is not None:
            self._channels.heartbeat.close()
        self._channels.heartbeat = Heartbeat(self.shell)
        if self._life is not None:
            self._life.close()
            self._life = SignOfLife(self.shell)
        return True

    def _ask_boot_id(self) -> str:
        """Over a connection of its own; '' while nobody answers."""
        argv = ["ssh", "-F", str(self.shell.config), "-o", "ControlPath=none"]
        argv += ["-o", "ConnectTimeout=10", HOST_ALIAS, "--", "cat /proc/sys/kernel/random/boot_id"]
        try:
            done = process.run(argv, timeout=15 + 3 * self.slowdown, check=False)
        except InfrastructureError:
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    def _hear(self, is_back: bool) -> None:
        """The last words: what comes first in this order and says anything goes to console.log."""
        kmsg = self._channels.kmsg
        if kmsg is None:
            return
        kmsg.pump()
        shell = None
        if is_back:
            self._connect_again()
            shell = self.shell
        assert self._before is not None, "the device was open"
        words = last_words.collect(
            shell,
            boot_id=self.plan.info.boot_ids[0],
            known_pstore=self._before.pstore,
            netconsole=self._netconsole,
            kmsg=kmsg,
            rundir=self.plan.rundir,
            timeout_s=self._minute,
        )
        self.plan.info.last_words += words.sources
        self._by_switch = words.by_switch
        if words.text:
            with self.plan.console_log.open("a") as log:
                log.write(f"--- vexrun: {words.told_by}\n{words.text}")
        if words.sources:
            self._note(f"The last words of the device came by {', '.join(words.sources)}.")

    def dead_machine(self) -> None:
        """Its memory cannot be read from outside."""

    def check_kernel(self, timeout_s: float) -> KernelCheck:
        """What the kernel did since the last check (see KernelWatch)."""
        watch = self._channels.watch
        if watch is None:
            raise TargetLostError("The device is not watched.")
        ended = self.ended()
        if ended is None:
            check = watch.check(timeout_s)
            ended = self.ended()  # what was read just now may say that the switch has acted
            if ended is None and check.answered:
                return check
            if ended is None:
                self._ended = ended = self._find_out()
            if ended is None:
                again = watch.check(3 * timeout_s)
                events = [*check.events, *again.events]
                if again.answered or events:
                    return KernelCheck(events, again.notes, again.answered, again.log_lost)
                name = self.explain_hang().name or "the device answers, its processes do not"
                return KernelCheck([silent_event(name)], answered=False)
            events = [*check.events, *self.console.take_events()]
        else:
            events = self.console.take_events()
        events = _once(events)
        if events:
            return KernelCheck(events, answered=False)
        if self._rebooted and not self._by_switch:
            return KernelCheck([silent_event(f"{ended}, without a word")], answered=False)
        return KernelCheck(answered=False, log_lost=f"the target was lost: {ended}")

    def believes_trouble(self) -> bool:
        """What is in console.log came from the kernel's own buffer."""
        return bool(self.console.events) or self.console.trouble

    def notice_hang(self, begun: float, limit_s: float) -> HangReport | None:
        """Evidence that the test which began at that time will never end, None without."""
        now = time.monotonic()
        if not self._channels.looks(begun, now):
            return None
        name = self._channels.stuck_task(now, limit_s)
        return self.explain_hang(name) if name else None

    def explain_hang(self, name: str = "") -> HangReport:
        """Ask the kernel for blocked tasks and busy CPUs, and name the hang."""
        start = self.console.position
        standing = self._channels.standing
        if standing is None or self._ended is not None:
            return HangReport(name, mute=True)
        try:
            standing.run(
                "echo l >/proc/sysrq-trigger; echo w >/proc/sysrq-trigger",
                timeout_s=SYSRQ_PATIENCE_S * self.slowdown,
            )
        except TargetLostError:
            return HangReport(name or "the device does not answer", mute=True)
        time.sleep(2.0)
        text = self._channels.said_since(start, self.plan.console_log)
        culprit = find_culprit(text, self.plan.subject.module.sysfs_name)
        name = name or (culprit.name if culprit else "") or waiting_in(self._channels.tasks())
        return HangReport(name, text, culprit=culprit)

    def begin_test(self) -> None:
        self._used = True
        self.console.poll()
        self._channels.stuck = StuckWatch()

    # -- changing ---------------------------------------------------------------------------

    def install(self, directory: Path, files: list[Path], destination: PurePosixPath) -> None:
        """Copy built files to the device, at the paths where it would have built them."""
        self.shell.send_files(files, directory, str(destination))

    def send_source(self, source: Path, destination: PurePosixPath) -> None:
        """Copy the source tree, for a build on the device."""
        self.shell.run(
            f"rm -rf --one-file-system {destination}", timeout_s=self._minute, check=True
        )
        names = [Path(each.name) for each in sorted(source.iterdir()) if each.name != ".git"]
        self.shell.send_files(names, source, str(destination))

    def umount_and_unload(self) -> tuple[str, str]:
        name = self.plan.subject.module.sysfs_name
        return umount_and_unload(self.shell, name, self.siblings, 20.0 * self.slowdown)

    # -- parts ------------------------------------------------------------------------------

    def _question(self, facts: Facts, phase: Phase) -> Question:
        return Question(
            device=self.plan.device,
            critical=self.plan.critical,
            facts=facts,
            here=Here.read(),
            subject=self.plan.subject,
            phase=phase,
            claimed=self._before,
        )

    def _read_facts(self) -> Facts:
        disk = self.plan.device.disk
        return read_facts(self.shell, disk.by_id if disk else None, 2 * self._minute)

    def _connect_again(self) -> None:
        self.shell.disconnect()
        connect(self.plan.device, self.shell, self.plan.device.device.back_within_s)

    def _python(self) -> _Calls:
        return _Calls(self.shell, self._minute)

    def _recovery(self) -> str:
        return f"How to recover it: {recovery(self.plan.device)}"

    def _note(self, text: str) -> None:
        self.plan.note(text)

    def _write_state(self, name: str, facts: Facts) -> None:
        text = json.dumps(facts.model_dump(mode="json"), indent=2)
        (self.plan.rundir / name).write_text(text + "\n")


class _Calls:
    """Calls functions on the device through an agent that ends with the block.

    What fails there is no test of anybody: InfrastructureError.
    """

    def __init__(self, shell: GuestShell, timeout_s: float) -> None:
        self._agent = GuestAgent(shell)
        self._timeout_s = timeout_s

    def __enter__(self) -> GuestPython:
        return GuestPython(self._agent, self._timeout_s)

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._agent.stop()
        if isinstance(error, GuestCodeError):
            what, _, trace = str(error).partition("\n\n")
            raise InfrastructureError(
                f"This failed on the device: {what}.", evidence=trace
            ) from error


def _once(events: list[KernelEvent]) -> list[KernelEvent]:
    """One of each: two channels may have carried the same report."""
    found: dict[tuple[str, str], KernelEvent] = {}
    for event in events:
        found.setdefault((event.event_class, event.key or event.title), event)
    return list(found.values())
