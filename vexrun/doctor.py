"""What this machine can do for vexrun, found out by doing it, and how to fix what it cannot."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from vexrun.errors import InfrastructureError
from vexrun.image.catalog import Image, list_images
from vexrun.image.namespace import is_rootless, require_namespaces
from vexrun.layout import cache_dir, state_dir
from vexrun.process import find_program, run
from vexrun.vm.accel import kvm_problem
from vexrun.vm.machine import runtime_dir

_PACKAGES = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "ssh": "openssh-client",
    "unshare": "util-linux",
    "setpriv": "util-linux",
    "tar": "tar",
    "dpkg-deb": "dpkg",
}


@dataclass(frozen=True)
class Finding:
    """One check. `needed` findings that are not ok make vexrun unusable here."""

    name: str
    ok: bool
    text: str
    fix: str = ""
    needed: bool = True


def examine() -> list[Finding]:
    """Run every check; none of them changes anything but the remembered KVM answer."""
    findings = [_program(name) for name in _PACKAGES]
    findings += [check() for check in (_namespaces, _keyring, _disk, _memory, _kvm, _places)]
    findings.append(_vagrant())
    return findings


def _program(name: str) -> Finding:
    path = find_program(name)
    fix = f"sudo apt-get install --no-install-recommends {_PACKAGES[name]}"
    if path is None:
        return Finding(name, False, "not installed", fix)
    text = path
    if name.startswith("qemu-system"):
        text = run([name, "--version"]).stdout.splitlines()[0]
    return Finding(name, True, text)


def _vagrant() -> Finding:
    path = find_program("vagrant")
    text = path or "not installed: it is for 'vexrun test --backend vagrant' only"
    fix = "sudo apt-get install --no-install-recommends vagrant"
    return Finding("vagrant", path is not None, text, fix, needed=False)


def _namespaces() -> Finding:
    who = "rootless (user namespace)" if is_rootless() else "as root"
    try:
        require_namespaces()
    except InfrastructureError as error:
        text = f"{error.message}\n{error.evidence}"
        return Finding("namespaces", False, text, error.hint.removeprefix("Run: "))
    return Finding("namespaces", True, f"images are built {who}")


def _keyring() -> Finding:
    path = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
    fix = "sudo apt-get install debian-archive-keyring"
    return Finding("Debian keyring", path.is_file(), str(path), fix)


def _disk() -> Finding:
    try:
        cache_dir().mkdir(parents=True, exist_ok=True)
    except OSError:  # said by _places
        return Finding("disk", False, f"'{cache_dir()}' cannot be made", "see 'places'")
    free = shutil.disk_usage(cache_dir()).free / 2**30
    return Finding(
        "disk",
        free >= 8,
        f"{free:.0f} GiB free below '{cache_dir()}'",
        "free some space (an image takes 5 GiB) or set VEXRUN_CACHE_DIR",
    )


def _memory() -> Finding:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return Finding(
        "memory",
        total >= 3.5,
        f"{total:.0f} GiB",
        "a guest has 2 GiB; set VEXRUN_MEMORY_MIB=1024 on a smaller machine",
        needed=False,
    )


def _kvm() -> Finding:
    images: list[Image] = list_images()
    if not images:
        exists = Path("/dev/kvm").exists()
        return Finding(
            "KVM",
            False,
            "/dev/kvm exists, but only booting a guest kernel proves that it works"
            if exists
            else "there is no /dev/kvm; guests run under TCG (software emulation)",
            "vexrun image build" if exists else "",
            needed=False,
        )
    image = images[0]
    problem = kvm_problem(image.kernel, image.manifest.sha256["vmlinuz"])
    if problem is None:
        return Finding("KVM", True, "boots the guest kernel", needed=False)
    return Finding("KVM", False, f"{problem}; guests run under TCG", "", needed=False)


def _places() -> Finding:
    for place, variable in ((cache_dir(), "VEXRUN_CACHE_DIR"), (state_dir(), "VEXRUN_STATE_DIR")):
        try:
            place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=place) as stream:
                stream.write(b"x")
        except OSError as error:
            return Finding(
                "places",
                False,
                f"'{place}' cannot be written: {error.strerror}",
                f"set {variable} to a directory you may write",
            )
    try:
        sockets = runtime_dir("vexrun-00000000").parent
    except InfrastructureError as error:
        return Finding("places", False, f"{error.message}\n{error.evidence}", error.hint)
    return Finding(
        "places", True, f"cache '{cache_dir()}', runs '{state_dir() / 'runs'}', sockets '{sockets}'"
    )
