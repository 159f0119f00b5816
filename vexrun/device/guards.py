"""What has to be true before anything on a device may be lost: one guard a row, pure judgement.

A guard looks at facts that were read (vexrun.device.facts), at what the owner wrote, and at this
machine's own identity. It returns a refusal or nothing; it asks nobody and changes nothing. No
option turns one off; what an owner may release is said in the device file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from vexrun.device.description import CRITICAL, CRITICAL_FILE, CriticalMachines, Device
from vexrun.device.facts import DiskFacts, Facts, Part, Signature
from vexrun.device.facts_in_guest import UNKNOWN_DATA
from vexrun.errors import ConfigError, ExitCode
from vexrun.guest.context import MOUNT_POINT, SECOND_MOUNT_POINT
from vexrun.kernel_log import decode_taint
from vexrun.subject import Subject

_MIB, _GIB = 2**20, 2**30
#: Names of the device-mapper devices that a run puts over its disk.
WINDOWS = ("vexrun-scratch0", "vexrun-scratch1", "vexrun-small")
#: On top of a window, for tests with failing media (vexrun.guest.faults_in_guest).
_OURS = (*WINDOWS, "vexrun-faulty")
#: A disk that is part of something bigger, by libblkid's names.
_MEMBERS = {
    "LVM2_member": "a physical volume of LVM",
    "LVM1_member": "a physical volume of LVM",
    "linux_raid_member": "a member of a Linux RAID",
    "ddf_raid_member": "a member of a DDF RAID",
    "isw_raid_member": "a member of an Intel RAID",
    "zfs_member": "a member of a ZFS pool",
    "bcache": "a bcache device",
    "drbd": "a DRBD device",
    "VMFS_volume_member": "a member of a VMFS volume",
    "DM_multipath_member": "a path of a multipath device",
    "stratis": "a Stratis block device",
}


class RefusedError(ConfigError):
    """A device is not touched. Exit status 1, as when a gate stays shut."""

    exit_code = ExitCode.FAILED


class Phase(StrEnum):
    """Before a run nothing may use the disk; while it goes on, only its own windows do; when it
    clears up after itself, nothing does, and what the disk carries is its own."""

    BEFORE = "before"
    RUNNING = "running"
    CLEARING = "clearing"


@dataclass(frozen=True)
class Here:
    """The machine vexrun runs on."""

    machine_id: str
    boot_id: str

    @classmethod
    def read(cls) -> Here:
        return cls(_text("/etc/machine-id"), _text("/proc/sys/kernel/random/boot_id"))


def _text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


@dataclass(frozen=True)
class Question:
    """Everything a guard may look at. `claimed` are the facts with which a run began."""

    device: Device
    critical: CriticalMachines
    facts: Facts
    here: Here
    subject: Subject | None = None
    phase: Phase = Phase.BEFORE
    claimed: Facts | None = None

    @property
    def disk(self) -> DiskFacts | None:
        """The disk, where there is one to look at."""
        disk = self.facts.disk
        return disk if disk is not None and disk.is_block else None

    @property
    def own_parts(self) -> list[Part]:
        """The disk (or partition) and its partitions, without the disk around a partition."""
        return [part for part in self.disk.parts if not part.whole] if self.disk else []

    @property
    def running(self) -> bool:
        return self.phase is Phase.RUNNING

    @property
    def begun(self) -> bool:
        return self.phase is not Phase.BEFORE


@dataclass(frozen=True)
class Refusal:
    """What was found, and what to do; two sentences."""

    guard: str
    found: str
    do: str


Answer = tuple[str, str] | None


@dataclass(frozen=True)
class Guard:
    """`title` is what holds when it has nothing to say."""

    name: str
    title: str
    judge: Callable[[Question], Answer]


def examine(question: Question) -> list[tuple[Guard, Refusal | None]]:
    """Every guard with its answer, in the order of the table."""
    answers = []
    for guard in GUARDS:
        said = guard.judge(question)
        answers.append((guard, Refusal(guard.name, *said) if said else None))
    return answers


def refusals(question: Question) -> list[Refusal]:
    return [refusal for _, refusal in examine(question) if refusal is not None]


def demand(question: Question) -> None:
    """Raise RefusedError with every refusal, if there is one."""
    found = refusals(question)
    if not found:
        return
    name = question.device.name
    count = "1 reason" if len(found) == 1 else f"{len(found)} reasons"
    raise RefusedError(
        f"The device '{name}' is not touched, for {count}. {found[0].found}",
        evidence="\n".join(f"[{each.guard}] {each.found} {each.do}" for each in found),
        hint=f"Look at it with: vexrun device check {name}",
    )


# -- which machine it is -------------------------------------------------------------------------


def _answers(question: Question) -> Answer:
    if question.facts.problems:
        return (
            f"The device could not say everything: {question.facts.problems[0]}.",
            "What cannot be read is never taken for harmless. Repair that first.",
        )
    return None


def _machine_id(question: Question) -> Answer:
    wanted, found = question.device.device.machine_id, question.facts.machine_id
    if found == wanted:
        return None
    return (
        f"The machine that answers has the machine-id '{found or '(none)'}', and the device file "
        f"says '{wanted}'.",
        "Find out which machine answers at that address before you correct the file.",
    )


def _not_this_machine(question: Question) -> Answer:
    here, facts = question.here, question.facts
    if here.machine_id and facts.machine_id == here.machine_id:
        return (
            f"It has the machine-id of this very machine, '{here.machine_id}'.",
            "A module is never loaded on the machine vexrun runs on. Describe another machine; "
            "one that was cloned from this one needs a machine-id of its own.",
        )
    if here.boot_id and facts.boot_id == here.boot_id:
        return (
            f"Its kernel is the one this machine runs on (boot id '{here.boot_id}'): a container, "
            "or this machine itself.",
            "Describe a machine with a kernel of its own.",
        )
    return None


def _same_boot(question: Question) -> Answer:
    claimed = question.claimed
    if claimed is None or claimed.boot_id == question.facts.boot_id:
        return None
    return (
        f"It was booted again since the run began (boot id '{question.facts.boot_id}', before "
        f"'{claimed.boot_id}').",
        "Start a new run.",
    )


def _not_critical(question: Question) -> Answer:
    device, critical, facts = question.device.device, question.critical, question.facts
    # A name in the device file may lead to an address in the list, and the other way round.
    names = [device.address, facts.hostname, *facts.addresses]
    listed = [each for each in names if each.lower() in critical.addresses]
    if CRITICAL in device.groups:
        why = f"The device file puts it into the group '{CRITICAL}'"
    elif facts.machine_id in critical.machine_ids:
        why = f"'{CRITICAL_FILE}' lists its machine-id '{facts.machine_id}'"
    elif listed:
        why = f"'{CRITICAL_FILE}' lists its address '{listed[0]}'"
    else:
        return None
    return (f"{why}: it is a machine that matters.", "Take another machine.")


def _nobody_at_a_desktop(question: Question) -> Answer:
    seen = question.facts.graphical
    if not seen or question.device.allow.graphical:
        return None
    return (
        f"It looks like somebody's desktop: {seen[0]}.",
        "End the graphical session, or release it with 'allow.graphical = true'.",
    )


def _nobody_logged_in(question: Question) -> Answer:
    others = [
        each for each in question.facts.logged_in if each.user not in question.device.allow.users
    ]
    if not others:
        return None
    who = ", ".join(sorted({f"'{each.user}' on {each.terminal}" for each in others}))
    return (
        f"Somebody is logged in: {who}.",
        "Ask them to log out, or name them in 'allow.users' of the device file.",
    )


# -- what it can do ------------------------------------------------------------------------------


def _root(question: Question) -> Answer:
    if question.facts.uid == 0:
        return None
    return (
        f"vexrun logs in as '{question.device.device.user}' (uid {question.facts.uid}), and "
        "loading a module needs root.",
        "Give root a key of vexrun's own, and set 'device.user = \"root\"'.",
    )


def _systemd(question: Question) -> Answer:
    if question.facts.systemd:
        return None
    return (
        "It does not run systemd, whose journal keeps the kernel's last words.",
        "Take a machine with systemd.",
    )


def _takes_modules(question: Question) -> Answer:
    facts = question.facts
    if facts.modules_disabled:
        why = "Loading modules is switched off until the next boot (kernel.modules_disabled)"
    elif facts.signed_modules_only:
        why = "Its kernel takes signed modules only (module.sig_enforce)"
    elif facts.lockdown not in ("", "none"):
        why = f"Its kernel is locked down ('{facts.lockdown}'), as with Secure Boot"
    else:
        return None
    return (f"{why}.", "Boot it without that.")


def _sound_kernel(question: Question) -> Answer:
    if question.begun:
        return None  # the run itself watches the kernel, and judges what it says
    seen = [taint for taint in decode_taint(question.facts.taint) if taint.explained_by]
    if not seen:
        return None
    return (
        f"Its kernel is not sound: since it booted it has noted '{seen[0].name}' (taint mask "
        f"{question.facts.taint}).",
        "Reboot it, so that what happens in the run is the module's doing.",
    )


def _subject_is_not_there(question: Question) -> Answer:
    subject, facts = question.subject, question.facts
    if subject is None or question.begun:
        return None
    kind = subject.filesystem.type
    used = [mount.point for mount in facts.mounts if mount.type == kind]
    if used:
        return (
            f"A filesystem of the type under test, '{kind}', is mounted there on '{used[0]}'.",
            "The module under test would be put in its place. Take another machine.",
        )
    if subject.module.sysfs_name in facts.modules:
        return (
            f"A module '{subject.module.sysfs_name}' is loaded there already.",
            f"If nothing needs it, unload it: rmmod {subject.module.sysfs_name}",
        )
    if kind in facts.filesystems:
        return (
            f"Its kernel knows the filesystem type '{kind}' already, from other code than the "
            "module under test.",
            "Test that in a virtual machine.",
        )
    return None


def _our_places_are_free(question: Question) -> Answer:
    if question.begun:
        return None
    places = (MOUNT_POINT, SECOND_MOUNT_POINT)
    used = [mount for mount in question.facts.mounts if mount.point in places]
    if not used:
        return None
    return (
        f"Something is mounted where the tests mount: '{used[0].source}' on '{used[0].point}'.",
        f"If a run of vexrun left it there: umount {used[0].point}",
    )


def _room_for_logs(question: Question) -> Answer:
    if question.facts.free_mib >= 64:
        return None
    return (
        f"Its /var has {question.facts.free_mib} MiB left, and the journal has to fit there.",
        "Free some space.",
    )


# -- which disk it is ----------------------------------------------------------------------------


def _disk_is_named(question: Question) -> Answer:
    if question.device.disk is not None:
        return None
    return (
        "The device file names no disk.",
        "Choose one whose content may be lost, and write it into the section [disk].",
    )


def _disk_is_there(question: Question) -> Answer:
    named, disk = question.device.disk, question.facts.disk
    if named is None or (disk is not None and disk.there and disk.is_link and disk.is_block):
        return None
    if disk is not None and disk.there and disk.is_link:
        return (
            f"'{named.by_id}' leads to '{disk.path}', which is no block device.",
            "Look at it: ls -l /dev/disk/by-id",
        )
    known = ", ".join(f"'{each.by_id.rpartition('/')[2]}'" for each in question.facts.disks)
    return (
        f"There is no disk '{named.by_id}' there (there are {known or 'none'}).",
        "Plug it in, or correct 'disk.by_id'.",
    )


def _whole_or_partition(question: Question) -> Answer:
    disk = question.disk
    if disk is None or not disk.virtual:
        return None
    return (
        f"'{disk.by_id}' is '{disk.path}', which is neither a disk nor a partition but made of "
        "others (device-mapper, RAID or a loop device).",
        "Name a disk of its own.",
    )


def _serial(question: Question) -> Answer:
    named, disk = question.device.disk, question.disk
    if named is None or disk is None or disk.serial == named.serial:
        return None
    return (
        f"The disk '{disk.by_id}' ('{disk.path}') has the serial '{disk.serial or '(none)'}', and "
        f"the device file says '{named.serial}'.",
        "It is another disk than the one that was released. Look at it before you correct the "
        "file.",
    )


def _small_enough(question: Question) -> Answer:
    named, disk = question.device.disk, question.disk
    if named is None or disk is None or disk.size <= named.max_gib * _GIB:
        return None
    return (
        f"The disk '{disk.path}' has {disk.size / _GIB:.1f} GiB, and the device file says that it "
        f"has {named.max_gib:g} GiB at most.",
        "Whoever wrote that had another disk in mind.",
    )


def space_needed(subject: Subject) -> int:
    """Bytes that a run uses of the disk: two disks of the subject's size, and a tiny one."""
    return (2 * subject.filesystem.size_mib + 2) * _MIB


def _large_enough(question: Question) -> Answer:
    subject, disk = question.subject, question.disk
    if subject is None or disk is None or disk.size >= space_needed(subject):
        return None
    return (
        f"The disk '{disk.path}' has {disk.size // _MIB} MiB; the tests need "
        f"{space_needed(subject) // _MIB} MiB (twice filesystem.size_mib, and a little).",
        "Take a larger one, or lower filesystem.size_mib.",
    )


def _writable(question: Question) -> Answer:
    disk = question.disk
    if disk is None or not disk.read_only:
        return None
    return (f"The disk '{disk.path}' is read-only.", "Take another, or move its switch.")


def _same_disk(question: Question) -> Answer:
    """A name in by-id can move to another disk while the run goes on: hotplug, a reset bus."""
    disk, claimed = question.disk, question.claimed
    if disk is None or claimed is None or claimed.disk is None:
        return None
    for what in ("path", "dev", "size", "serial"):
        then, now = getattr(claimed.disk, what), getattr(disk, what)
        if then != now:
            return (
                f"'{disk.by_id}' is not the disk any more with which the run began: its {what} was "
                f"'{then}' and is '{now}'.",
                "Look at the device, then start a new run.",
            )
    return None


# -- who uses it ---------------------------------------------------------------------------------


def _not_the_systems(question: Question) -> Answer:
    disk = question.disk
    if disk is None or not disk.carries_system:
        return None
    what = f"'{disk.partition_of}', of which it is a partition," if disk.partition_of else "It"
    return (
        f"{what} carries the system that runs there.",
        "Take a disk of its own.",
    )


def _not_mounted(question: Question) -> Answer:
    for part in question.own_parts:
        if part.mounts:
            return (
                f"'{part.path}' is mounted on '{part.mounts[0]}'.",
                f"If nobody needs it there: umount {part.mounts[0]}",
            )
    return None


def _not_swap(question: Question) -> Answer:
    for part in question.own_parts:
        if part.swap:
            return (
                f"'{part.path}' is swap space in use.",
                f"If it can be spared: swapoff {part.path}",
            )
    return None


def _nobody_configured_it(question: Question) -> Answer:
    for part in question.own_parts:
        if part.configured:
            return (
                f"'{part.path}' is somebody's at the next boot: {part.configured[0]}.",
                "Remove that entry, if the disk is free indeed.",
            )
    return None


def _no_holders(question: Question) -> Answer:
    for part in question.disk.parts if question.disk else []:
        held = [each for each in part.holders if not _is_ours(each, question)]
        if held and all(any(f"({name})" in each for name in _OURS) for each in held):
            return (
                f"A run of vexrun that was lost has left '{part.path}' held by {', '.join(held)}.",
                "Reboot it: nothing of such a run outlives that.",
            )
        if held:
            return (
                f"'{part.path}' is held by {', '.join(held)}.",
                "Take that apart first: a device-mapper, RAID or LVM device stands on it.",
            )
    return None


def _is_ours(holder: str, question: Question) -> bool:
    name = holder.partition("(")[2].rstrip(")")
    return question.running and name in _OURS


def _nobody_has_it_open(question: Question) -> Answer:
    for part in question.disk.parts if question.disk else []:
        if part.open_by and not part.whole:
            return (
                f"'{part.path}' is open in {', '.join(part.open_by)}.",
                "End that program, if it can be spared: a virtual machine may run from the disk.",
            )
    return None


def _kernel_has_it_to_itself(question: Question) -> Answer:
    if question.running:
        held = any(_is_ours(each, question) for p in question.own_parts for each in p.holders)
        if question.disk is None or held:
            return None
        return (
            f"vexrun's own device does not stand on '{question.disk.path}' any more, so that "
            "anybody may use the disk.",
            "Start a new run.",
        )
    for part in question.own_parts:
        if part.busy:
            return (
                f"The kernel refuses to open '{part.path}' exclusively: something uses it.",
                "Find out what: a loop device, a mount in another namespace, a program.",
            )
    return None


# -- what it carries -----------------------------------------------------------------------------


def _signatures(question: Question) -> list[tuple[Part, Signature]]:
    """Without the partition table around a partition, which belongs there."""
    if question.begun or question.disk is None:
        return []
    return [
        (part, each)
        for part in question.disk.parts
        for each in part.signatures
        if not (part.whole and each.usage == "partition-table")
        and not (part.whole and each.type in ("gpt", "dos", "PMBR", "atari", "mac", "sun"))
    ]


def _no_member(question: Question) -> Answer:
    for part, signature in _signatures(question):
        what = _MEMBERS.get(signature.type)
        if what is None and signature.usage == "raid":
            what = f"a member of a RAID ({signature.type})"
        if what is not None:
            return (
                f"'{part.path}' is {what}: {signature.sentence}.",
                "No release makes up for that. Take it out of there with its own tools first.",
            )
    return None


def _no_signature(question: Question) -> Answer:
    released = question.device.disk.released if question.device.disk else ""
    carried = [
        (part, each)
        for part, each in _signatures(question)
        if each.type not in _MEMBERS and each.usage != "raid"
    ]
    for part, signature in carried:
        if signature.name == released:
            continue
        what = "a partition table" if _is_table(signature) else "a signature"
        if signature.type == UNKNOWN_DATA:
            what = "something without a name"
        return (
            f"'{part.path}' carries {what}, so somebody may want its content: "
            f"{signature.sentence}.",
            f'If nobody does, write released = "{signature.name}" into the section [disk].',
        )
    return None


def _is_table(signature: Signature) -> bool:
    return signature.usage == "partition-table" or signature.type in ("gpt", "dos", "PMBR")


def _release_is_used(question: Question) -> Answer:
    """A release that fits nothing was meant for another disk, or for another time."""
    named = question.device.disk
    if question.begun or named is None or not named.released or question.disk is None:
        return None
    if named.released in [each.name for _, each in _signatures(question)]:
        return None
    return (
        f"The device file releases the signature '{named.released}', and the disk carries no such "
        "thing.",
        "Remove 'disk.released': it was for another disk, or has been used up.",
    )


#: In the order of the checklist. What stands first is what a person has to know first.
GUARDS = (
    Guard("answers", "It answers every question", _answers),
    Guard("machine-id", "It is the machine that the file describes", _machine_id),
    Guard("this-machine", "It is not the machine vexrun runs on", _not_this_machine),
    Guard("boot", "It was not booted again since the run began", _same_boot),
    Guard("critical", "It is none of the machines that matter", _not_critical),
    Guard("desktop", "Nobody has a desktop there", _nobody_at_a_desktop),
    Guard("users", "Nobody else is logged in", _nobody_logged_in),
    Guard("root", "vexrun is root there", _root),
    Guard("systemd", "It runs systemd", _systemd),
    Guard("modules", "Its kernel takes modules", _takes_modules),
    Guard("kernel", "Its kernel is sound", _sound_kernel),
    Guard("subject", "Nothing there uses what is under test", _subject_is_not_there),
    Guard("places", "The tests' mount points are free", _our_places_are_free),
    Guard("room", "There is room for logs", _room_for_logs),
    Guard("disk", "A disk is named", _disk_is_named),
    Guard("disk-there", "The disk is there", _disk_is_there),
    Guard("disk-kind", "It is a whole disk or a partition", _whole_or_partition),
    Guard("serial", "It has the serial that the file says", _serial),
    Guard("same-disk", "It is the disk with which the run began", _same_disk),
    Guard("size", "It is not larger than the file says", _small_enough),
    Guard("space", "It is large enough for the tests", _large_enough),
    Guard("writable", "It can be written", _writable),
    Guard("system", "It does not carry the system", _not_the_systems),
    Guard("mounted", "It is not mounted", _not_mounted),
    Guard("swap", "It is not swap", _not_swap),
    Guard("configured", "fstab and the like do not name it", _nobody_configured_it),
    Guard("holders", "No other device stands on it", _no_holders),
    Guard("open", "No program has it open", _nobody_has_it_open),
    Guard("busy", "The kernel opens it exclusively", _kernel_has_it_to_itself),
    Guard("member", "It is in no RAID, LVM or ZFS", _no_member),
    Guard("signature", "It carries nothing, or what was released", _no_signature),
    Guard("release", "What is released is what it carries", _release_is_used),
)


def guard_names() -> Sequence[str]:
    return [guard.name for guard in GUARDS]
