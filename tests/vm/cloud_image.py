"""A small cloud image, built here as Debian builds its own: GPT, GRUB, cloud-init.

It stands in for one from the network. Its kernel is by default Debian's cloud kernel, which has no
9p, its resolv.conf is a link, its fstab names the EFI partition, and a user's password is set
nowhere. It starts by its own loader under BIOS, and grows with its disk.
"""

from __future__ import annotations

import hashlib
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

_PACKAGES = (
    *("cloud-init", "openssh-server", "sudo", "systemd-sysv", "udev", "grub-pc-bin"),
    *("iproute2", "ca-certificates", "python3-apt", "systemd-resolved", "netbase"),
    # growpart; and what brings up the network that cloud-init writes down
    *("cloud-guest-utils", "fdisk", "netplan.io"),
)
_GRUB_CFG = """\
set timeout=0
menuentry Debian {
    linux /vmlinuz root=LABEL=cloudimg ro console=ttyS0
    initrd /initrd.img
}
"""
_SETUP = (
    'ln -sf ../run/systemd/resolve/stub-resolv.conf "$1/etc/resolv.conf"',
    'echo "LABEL=cloudimg / ext4 rw,discard 0 1" >"$1/etc/fstab"',
    # Its partition is empty, so that a boot by its own loader waits for it in vain.
    'echo "UUID=ABCD-1234 /boot/efi vfat nofail,x-systemd.device-timeout=3 0 0" >>"$1/etc/fstab"',
    'mkdir -p "$1/boot/efi" "$1/boot/grub"',
    'rm -f "$1"/etc/ssh/ssh_host_*',
    f"printf '%s' '{_GRUB_CFG}' >\"$1/boot/grub/grub.cfg\"",
    "chroot \"$1\" grub-mkimage -O i386-pc -p '(hd0,gpt1)/boot/grub' -o /boot/grub/core.img "
    "biosdisk part_gpt ext2 normal linux",
)
_SECTOR = 512
_MIB = 1 << 20
#: Places on the disk, in MiB. The root partition is the last one: it can grow.
_BIOS_AT, _EFI_AT, _ROOT_AT = 1, 4, 16
#: GPT's copy at the end of the disk.
_TAIL_MIB = 1
_LAYOUT = """\
label: gpt
unit: sectors
disk14 : start={bios}, size={bios_size}, type=21686148-6449-6E6F-744E-656564454649
disk15 : start={efi}, size={efi_size}, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B
disk1 : start={root}, size={root_size}, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4
"""


def build(
    destination: Path,
    suite: str = "trixie",
    kernel: str = "linux-image-cloud-amd64",
    packages: Sequence[str] = (),
    root_mib: int = 2500,
) -> str:
    """Write a qcow2 to `destination`; returns its sha256. Takes about a minute as root."""
    with tempfile.TemporaryDirectory(prefix="vexrun-cloud-") as directory:
        work = Path(directory)
        work.chmod(0o755)  # apt downloads as a user without privileges
        tree = work / "tree"
        argv = ["mmdebstrap", "--mode=root", "--variant=minbase", "--format=directory"]
        argv += [f"--include={','.join([kernel, *_PACKAGES, *packages])}"]
        argv += ["--dpkgopt=force-unsafe-io"]
        argv += [f"--customize-hook={line}" for line in _SETUP]
        # As vexrun does: a killed mmdebstrap must not leave its mounts to this machine.
        _run(["unshare", "--mount", "--", *argv, suite, str(tree)], env_tmp=work)
        root = work / "root.raw"
        mke2fs = ["mke2fs", "-q", "-t", "ext4", "-L", "cloudimg", "-d", str(tree), str(root)]
        _run([*mke2fs, f"{root_mib}M"])
        disk = _disk(work / "disk.raw", root, root_mib)
        _make_bootable(disk, tree)
        shutil.rmtree(tree)
        root.unlink()
        _run(["qemu-img", "convert", "-O", "qcow2", str(disk), str(destination)])
    with destination.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _disk(disk: Path, root: Path, root_mib: int) -> Path:
    """GPT with partitions for GRUB and for an (empty) EFI filesystem before the root."""
    with disk.open("wb") as stream:
        stream.truncate((_ROOT_AT + root_mib + _TAIL_MIB) * _MIB)
    unit = _MIB // _SECTOR
    layout = _LAYOUT.format(
        bios=_BIOS_AT * unit,
        bios_size=(_EFI_AT - _BIOS_AT) * unit,
        efi=_EFI_AT * unit,
        efi_size=(_ROOT_AT - _EFI_AT) * unit,
        root=_ROOT_AT * unit,
        root_size=root_mib * unit,
    )
    _run(["sfdisk", "--quiet", str(disk)], given=layout)
    _run(["dd", f"if={root}", f"of={disk}", "bs=1M", f"seek={_ROOT_AT}", "conv=notrunc,sparse"])
    return disk


def _make_bootable(disk: Path, tree: Path) -> None:
    """What grub-bios-setup does, which wants a block device: where the next stage lies.

    boot.img names the first sector of core.img at 0x5c (GRUB 2.12, i386/pc/boot.h), and that
    sector, at its end, the second.
    """
    boot = (tree / "usr/lib/grub/i386-pc/boot.img").read_bytes()[:440]
    core = bytearray((tree / "boot/grub/core.img").read_bytes())
    first = _BIOS_AT * _MIB // _SECTOR
    core[_SECTOR - 12 : _SECTOR - 4] = struct.pack("<Q", first + 1)
    with disk.open("r+b") as stream:
        stream.write(boot[:0x5C] + struct.pack("<Q", first) + boot[0x64:])
        stream.seek(_BIOS_AT * _MIB)
        stream.write(core)


def _run(argv: list[str], env_tmp: Path | None = None, given: str | None = None) -> None:
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
    if env_tmp is not None:
        environment["TMPDIR"] = str(env_tmp)
    done = subprocess.run(
        argv,
        env=environment,
        input=given or "",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{argv[0]}: {done.stdout[-3000:]}"
