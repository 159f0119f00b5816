"""Every reason not to touch a device, provoked on real block devices of one real machine.

Each time the disk's bytes are hashed before and after the request, which goes the way of
`vexrun test --target device` with a token and an override, so that nothing but the guard is left
to stop it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import states_in_guest as states
from conftest import CHECKOUT
from playing_device import DISK, PlayedDevice, played_device

from vexrun.device.admission import DeviceRequest, admit
from vexrun.device.confirmation import token_of
from vexrun.device.connection import connection
from vexrun.device.description import CriticalMachines, load_device
from vexrun.device.facts import read_facts
from vexrun.device.guards import Here, Question, RefusedError, refusals
from vexrun.guest import faults_in_guest
from vexrun.guest.payload import GuestAgent, GuestPython
from vexrun.subject import Subject

pytestmark = [pytest.mark.vm, pytest.mark.slow]

OTHER = "/dev/disk/by-id/virtio-vexrun-scratch1"
MIB = 24
UUID = "11111111-2222-3333-4444-555555555555"
NOBODYS = "99999999-2222-3333-4444-555555555555"
UNIT = "/run/systemd/system/srv.mount"
NO_FSTAB = "sed -i '/srv/d' /etc/fstab"


@pytest.fixture(scope="module")
def shelf(suite: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlayedDevice]:
    with played_device(suite, tmp_path_factory.mktemp("device"), MIB) as device:
        device.run("modprobe -a dm-mod loop ext4")
        yield device


@pytest.fixture(scope="module")
def call(shelf: PlayedDevice) -> Iterator[GuestPython]:
    agent = GuestAgent(shelf.machine.shell)
    agent.ship(Path(faults_in_guest.__file__))
    yield GuestPython(agent, 300)
    agent.stop()


@dataclass(frozen=True)
class Case:
    """Mounts are read-only: ext4 writes to a disk that it has mounted, whoever looks.

    `before` and `after` are shell commands, or functions of states_in_guest on the disk."""

    name: str
    guard: str
    says: str
    before: str | Callable[[str], object] = ":"
    after: str = ":"
    file: dict[str, str] = field(default_factory=dict)
    critical: CriticalMachines = field(default_factory=CriticalMachines)


BLANK = f"dd if=/dev/zero of={DISK} bs=1M count={MIB} conv=fsync status=none; udevadm settle"
EXT4 = f"mkfs.ext4 -q -F -L shelf -U {UUID} {DISK}; udevadm settle; "
#: As of plain dm-crypt, or of a filesystem that nobody has heard of.
WRITE = (
    f"dd if=/dev/urandom of={DISK} bs=4096 count=1 seek={{seek}} conv=notrunc,fsync status=none; "
    "udevadm settle"
)

CASES = (
    # -- which machine
    Case("wrong machine-id", "machine-id", "0" * 32, file={"machine_id": '"' + "0" * 32 + '"'}),
    Case("critical group", "critical", "group", file={"groups": '["device", "critical"]'}),
    Case(
        "critical address",
        "critical",
        "127.0.0.1",
        critical=CriticalMachines(addresses=["127.0.0.1"]),
    ),
    Case(
        "critical by another of its addresses",
        "critical",
        "10.0.2.15",
        critical=CriticalMachines(addresses=["10.0.2.15"]),
    ),
    Case(
        "a desktop",
        "desktop",
        "'Xorg'",
        "cp /bin/sleep /var/tmp/Xorg; (/var/tmp/Xorg 600 >/dev/null 2>&1 &); sleep 1",
        "pkill -x Xorg",
    ),
    Case("somebody logged in", "users", "'root' on ttyS0", file={"allow": "users = []"}),
    Case(
        "mount point in use",
        "places",
        "/mnt/vexrun",
        "mkdir -p /mnt/vexrun; mount -t tmpfs none /mnt/vexrun",
        "umount /mnt/vexrun",
    ),
    # -- which disk
    Case(
        "no such disk",
        "disk-there",
        "There is no disk",
        file={"by_id": '"/dev/disk/by-id/virtio-none"'},
    ),
    Case(
        "not a block device",
        "disk-there",
        "no block device",
        "ln -sf /etc/passwd /dev/disk/by-id/file",
        "rm /dev/disk/by-id/file",
        {"by_id": '"/dev/disk/by-id/file"'},
    ),
    Case(
        "made of others",
        "disk-kind",
        "neither a disk nor a partition",
        f"ln -sf $(losetup -f --show {OTHER}) /dev/disk/by-id/loop",
        "losetup -D; rm /dev/disk/by-id/loop",
        {"by_id": '"/dev/disk/by-id/loop"', "serial": '"x"'},
    ),
    Case("wrong serial", "serial", "'another'", file={"serial": '"another"'}),
    Case("too large", "size", "0.01 GiB at most", file={"max_gib": "0.01"}),
    Case(
        "read-only", "writable", "read-only", f"blockdev --setro {DISK}", f"blockdev --setrw {DISK}"
    ),
    Case(
        "the system's own disk",
        "system",
        "carries the system",
        file={
            "by_id": '"/dev/disk/by-id/virtio-vexrun-root"',
            "serial": '"vexrun-root"',
            "max_gib": "99",
        },
    ),
    # -- who uses it
    Case(
        "mounted",
        "mounted",
        "/mnt/some where",
        EXT4 + f"mkdir -p '/mnt/some where'; mount -o ro {DISK} '/mnt/some where'",
        "umount '/mnt/some where'",
    ),
    Case(
        "mounted in another namespace",
        "mounted",
        "/mnt/hidden",
        EXT4 + f"mkdir -p /mnt/hidden; (unshare -m sh -c "
        f"'mount -o ro {DISK} /mnt/hidden; exec sleep 600' >/dev/null 2>&1 &); sleep 5",
        "pkill -f '^sleep 600'; sleep 1",
    ),
    Case(
        "a partition of it is mounted",
        "mounted",
        "/mnt/part",
        states.mounted_partition,
        f"umount /mnt/part; {BLANK}; blockdev --rereadpt {DISK}",
    ),
    Case(
        "swap",
        "swap",
        "swap space in use",
        f"mkswap {DISK} >/dev/null; swapon {DISK}",
        f"swapoff {DISK}",
    ),
    Case(
        "in fstab by its UUID",
        "configured",
        "/etc/fstab",
        EXT4 + f"echo 'UUID={UUID} /srv ext4 noauto 0 0' >>/etc/fstab",
        NO_FSTAB,
    ),
    Case(
        "in fstab by a UUID that leads nowhere",
        "configured",
        UUID,
        EXT4 + f"echo 'UUID={UUID} /srv ext4 noauto 0 0' >>/etc/fstab; rm /dev/disk/by-uuid/{UUID}",
        NO_FSTAB,
        {"released": f'"{UUID}"'},
    ),
    Case(
        "in fstab by its label",
        "configured",
        "LABEL=shelf",
        EXT4 + "echo 'LABEL=shelf /srv ext4 noauto 0 0' >>/etc/fstab",
        NO_FSTAB,
    ),
    Case(
        "in fstab by its path",
        "configured",
        "/etc/fstab",
        f"echo '{DISK} /srv ext4 noauto 0 0' >>/etc/fstab",
        NO_FSTAB,
    ),
    Case(
        "in crypttab",
        "configured",
        "/etc/crypttab",
        f"echo 'secret {DISK} none' >/etc/crypttab",
        "rm /etc/crypttab",
    ),
    Case(
        "in a unit",
        "configured",
        "srv.mount",
        f"printf '[Mount]\\nWhat={DISK}\\nWhere=/srv\\n' >{UNIT}",
        f"rm {UNIT}",
    ),
    Case("held by the device mapper", "holders", "vg-data", "hold", "release"),
    Case(
        "below a loop device",
        "holders",
        "loop device",
        f"losetup -f {DISK}",
        "losetup -D",
    ),
    Case(
        "open in a program",
        "open",
        "'sleep'",
        f"(sleep 600 <{DISK} >/dev/null 2>&1 &); sleep 1",
        "pkill -f '^sleep 600'",
    ),
    Case(
        "open by a node of its own",
        "open",
        "'sleep'",
        f"mkdir -p /dev/guest; cp -a $(readlink -f {DISK}) /dev/guest/disk; "
        "(sleep 600 </dev/guest/disk >/dev/null 2>&1 &); sleep 1",
        "pkill -f '^sleep 600'; rm /dev/guest/disk",
    ),
    # -- what it carries
    Case("member of LVM", "member", "volume of LVM", states.lvm_member),
    Case("member of a RAID", "member", "Linux RAID", states.raid_member),
    # The libblkid of Debian 13 has no name for these, also on 80 MiB: before data without a name
    # was refused such a disk was let on.
    Case("uberblocks of ZFS", "signature", "unknown data", states.zfs_member),
    Case("a bcache device", "member", "bcache", states.bcache),
    Case("LUKS", "signature", "crypto_LUKS", states.luks),
    Case("ext4 on it", "signature", UUID, EXT4),
    Case("minix on it", "signature", "minix@", f"mkfs.minix {DISK} >/dev/null"),
    Case("swap on it, not in use", "signature", "swap", f"mkswap {DISK} >/dev/null"),
    Case("a partition table", "signature", "partition table", states.partition_table),
    Case("data without a name", "signature", "without a name", WRITE.format(seek=40)),
    Case("data at its end", "signature", "unknown data", WRITE.format(seek=MIB * 256 - 1)),
    Case("another UUID is released", "signature", UUID, EXT4, file={"released": f'"{NOBODYS}"'}),
    Case(
        "a release that fits nothing",
        "release",
        "carries no such",
        file={"released": f'"{NOBODYS}"'},
    ),
)


def disk_hash(shelf: PlayedDevice) -> str:
    shelf.run(f"blockdev --flushbufs {DISK}")
    return shelf.run(f"sha256sum <{DISK}").split()[0]


def refused(
    shelf: PlayedDevice, file: Path, critical: CriticalMachines, subject: Subject
) -> RefusedError:
    """The request, with everything in hand that a person could have in hand."""
    device = load_device(str(file))
    request = DeviceRequest(device, critical, None, "a test of the guards", token_of(device))
    with pytest.raises(RefusedError) as caught:
        admit(request, subject)
    return caught.value


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    from vexrun.subject import load_subject

    file = tmp_path / "vexrun.toml"
    file.write_text(
        '[subject]\nname = "demo"\n[module]\nko = "demo.ko"\n'
        '[filesystem]\ntype = "demo"\nsize_mib = 8\nmkfs = "true"\n'
    )
    return load_subject(file)


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "shelf.toml"
    file.write_text(text)
    return file


def test_the_free_device_is_let_on(shelf: PlayedDevice, tmp_path: Path, subject: Subject) -> None:
    """Without this none of the others would mean anything."""
    shelf.run(BLANK)
    before = disk_hash(shelf)
    device = load_device(str(written(tmp_path, shelf.file())))
    request = DeviceRequest(device, CriticalMachines(), None, "a test of guards", token_of(device))
    assert admit(request, subject).confirmed == "token"
    assert disk_hash(shelf) == before


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_refused_and_unchanged(
    case: Case, shelf: PlayedDevice, call: GuestPython, tmp_path: Path, subject: Subject
) -> None:
    shelf.run(BLANK)
    file = written(tmp_path, shelf.file(**case.file))
    if case.before == "hold":
        call(states.hold, shelf.run(f"readlink -f {DISK}").strip(), "vg-data")
    elif callable(case.before):
        call(case.before, DISK)
        shelf.run("udevadm settle")
    else:
        shelf.run(f"set -e; {case.before}")
    try:
        before = disk_hash(shelf)
        error = refused(shelf, file, case.critical, subject)
        assert disk_hash(shelf) == before, "the disk was changed"
    finally:
        if case.after == "release":
            call(states.release, "vg-data")
        else:
            shelf.run(f"{case.after} || true")
    line = next(
        (row for row in error.evidence.splitlines() if row.startswith(f"[{case.guard}]")), ""
    )
    assert line, error.evidence
    assert case.says in line


def test_this_very_host_is_refused_whatever_its_file_says(
    shelf: PlayedDevice, tmp_path: Path, subject: Subject
) -> None:
    """The device has this machine's id, and its file says that this is right."""
    here = Here.read()
    if not here.machine_id:
        pytest.skip("this machine has no machine-id")
    shelf.run(f"{BLANK}; echo {here.machine_id} >/run/id; mount --bind /run/id /etc/machine-id")
    try:
        file = written(tmp_path, shelf.file(machine_id=f'"{here.machine_id}"'))
        before = disk_hash(shelf)
        error = refused(shelf, file, CriticalMachines(), subject)
        assert disk_hash(shelf) == before
    finally:
        shelf.run("umount /etc/machine-id")
    assert "[this-machine]" in error.evidence
    device = load_device(str(written(tmp_path, shelf.file())))
    with connection(device) as shell:
        facts = read_facts(shell, DISK)
    same_kernel = Here("", facts.boot_id)
    found = refusals(Question(device, CriticalMachines(), facts, same_kernel, subject))
    assert [each.guard for each in found] == ["this-machine"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "gate to the device is shut: No seal was given"),
        (["--override", "a test of vexrun"], "Nobody has confirmed"),
        (["--override", "a test of vexrun", "--confirm", "0" * 20], "is not that of the disk"),
        (["--override", "because", "--confirm", "0" * 20], "needs a reason"),
    ],
)
def test_the_command_is_refused_before_anything_happens(
    arguments: list[str], says: str, shelf: PlayedDevice, tmp_path: Path
) -> None:
    shelf.run(BLANK)
    file = written(tmp_path, shelf.file())
    source = tmp_path / "canaryfs"
    shutil.copytree(CHECKOUT / "tests" / "canaries" / "canaryfs", source)
    text = (source / "vexrun.toml").read_text()
    small = text.replace("[filesystem]\n", "[filesystem]\nsize_mib = 8\n")
    (source / "vexrun.toml").write_text(small)
    before = disk_hash(shelf)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "vexrun.cli", "test", str(source), "--only", "module"),
            *("--target", "device", "--device", str(file), *arguments),
        ],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert says in done.stderr, done.stderr
    assert done.returncode == (2 if "needs a reason" in says else 1)
    assert disk_hash(shelf) == before


def test_a_kernel_that_is_not_sound_is_refused(
    shelf: PlayedDevice, tmp_path: Path, subject: Subject
) -> None:
    """Last: what a kernel notes against itself stays until it boots."""
    shelf.run(
        f"{BLANK}; echo 512 >/proc/sys/kernel/tainted; echo 1 >/proc/sys/kernel/modules_disabled"
    )
    before = disk_hash(shelf)
    error = refused(shelf, written(tmp_path, shelf.file()), CriticalMachines(), subject)
    assert disk_hash(shelf) == before
    assert "[kernel]" in error.evidence
    assert "[modules]" in error.evidence
