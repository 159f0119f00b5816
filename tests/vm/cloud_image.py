"""A small cloud image, built here as Debian builds its own: GPT, an EFI partition, cloud-init.

It stands in for one from the network. Its kernel is Debian's cloud kernel, which has no 9p, its
resolv.conf is a link, its fstab names the EFI partition, and a user's password is set nowhere.
"""

from __future__ import annotations

import hashlib
import shutil
import struct
import subprocess
import tempfile
import uuid
from pathlib import Path

_PACKAGES = (
    *("linux-image-cloud-amd64", "cloud-init", "openssh-server", "sudo", "systemd-sysv", "udev"),
    *("iproute2", "ca-certificates", "python3-apt", "systemd-resolved", "netbase"),
)
_SETUP = (
    'ln -sf ../run/systemd/resolve/stub-resolv.conf "$1/etc/resolv.conf"',
    'echo "PARTUUID=11111111-2222-3333-4444-555555555555 / ext4 rw,discard 0 1" >"$1/etc/fstab"',
    'echo "UUID=ABCD-1234 /boot/efi vfat defaults 0 0" >>"$1/etc/fstab"',
    'mkdir -p "$1/boot/efi"',
    'rm -f "$1"/etc/ssh/ssh_host_*',
)
_MIB = 1 << 20
_ROOT_AT, _ROOT_MIB = 16, 2500


def build(destination: Path, suite: str = "trixie") -> str:
    """Write a qcow2 to `destination`; returns its sha256. Takes about a minute as root."""
    with tempfile.TemporaryDirectory(prefix="vexrun-cloud-") as directory:
        work = Path(directory)
        work.chmod(0o755)  # apt downloads as a user without privileges
        tree = work / "tree"
        argv = ["mmdebstrap", "--mode=root", "--variant=minbase", "--format=directory"]
        argv += [f"--include={','.join(_PACKAGES)}", "--dpkgopt=force-unsafe-io"]
        argv += [f"--customize-hook={line}" for line in _SETUP]
        # As vexrun does: a killed mmdebstrap must not leave its mounts to this machine.
        _run(["unshare", "--mount", "--", *argv, suite, str(tree)], env_tmp=work)
        root = work / "root.raw"
        _run(
            ["mke2fs", "-q", "-t", "ext4", "-L", "cloudimg", "-d", str(tree), str(root)]
            + [f"{_ROOT_MIB}M"]
        )
        shutil.rmtree(tree)
        disk = _disk(work / "disk.raw", root)
        root.unlink()
        _run(["qemu-img", "convert", "-O", "qcow2", str(disk), str(destination)])
    with destination.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _disk(disk: Path, root: Path) -> Path:
    """GPT with an (empty) EFI partition first, as a reader sees it."""
    with disk.open("wb") as stream:
        stream.write(b"\0" * 446 + b"\0\0\0\0\xee" + b"\0" * 59 + b"\x55\xaa")
        stream.write(b"EFI PART".ljust(72, b"\0") + struct.pack("<QII", 2, 128, 128))
        for number, (at, size) in enumerate(((1, 15), (_ROOT_AT, _ROOT_MIB))):
            stream.seek(1024 + 128 * number)
            first, count = at * _MIB // 512, size * _MIB // 512
            stream.write(uuid.uuid4().bytes * 2 + struct.pack("<QQ", first, first + count - 1))
        stream.truncate((_ROOT_AT + _ROOT_MIB + 1) * _MIB)
    _run(["dd", f"if={root}", f"of={disk}", "bs=1M", f"seek={_ROOT_AT}", "conv=notrunc,sparse"])
    return disk


def _run(argv: list[str], env_tmp: Path | None = None) -> None:
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
    if env_tmp is not None:
        environment["TMPDIR"] = str(env_tmp)
    done = subprocess.run(
        argv,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{argv[0]}: {done.stdout[-3000:]}"
