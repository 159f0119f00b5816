"""A listing of a root filesystem's contents, and what differs between two of them."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from vexrun.image import namespace

#: Runs under root's view of the files (subordinate ids), so it must not import vexrun.
_LISTER = """
import hashlib, os, sys
root, out = sys.argv[1:]
with open(out, "w", errors="surrogateescape") as stream:
    for directory, names, files in os.walk(root):
        names.sort()
        for name in sorted(names + files):
            path = os.path.join(directory, name)
            status = os.lstat(path)
            if os.path.islink(path):
                content = "->" + os.readlink(path)
            elif os.path.isfile(path):
                with open(path, "rb") as file:
                    content = hashlib.file_digest(file, "sha256").hexdigest()
            else:
                content = "-"
            relative = os.path.relpath(path, root)
            owner = f"{status.st_uid}:{status.st_gid}"
            stream.write(f"{status.st_mode:06o} {owner} {content} {relative}\\n")
"""

#: Why a file differs between two builds of the same inputs: pattern of its path, reason.
KNOWN_DIFFERENCES = (
    (re.compile(r"^(root/\.ssh|etc/ssh/)"), "every image has ssh keys of its own"),
    (re.compile(r"^var/lib/dbus/machine-id$"), "dbus gives every image an identity of its own"),
    (re.compile(r"^boot/initrd"), "the initrd carries times of its build"),
    (
        re.compile(r"^var/lib/apt/(lists|extended_states|periodic)|pkgcache|srcpkgcache"),
        "package lists are those of the day",
    ),
    (re.compile(r"^var/(log|cache)/"), "logs and caches"),
    (
        re.compile(r"^etc/(machine-id|passwd-|shadow-?|group-|gshadow-)"),
        "account files carry the day of the last change",
    ),
    (re.compile(r"^(etc/ssl/certs/java|etc/\.pwd\.lock)"), "made at install time"),
    (re.compile(r"^var/lib/dpkg/(info/format|status|lock|triggers)"), "dpkg's state"),
    (re.compile(r"^var/lib/(systemd|ucf|initramfs-tools|vexrun)"), "written at install time"),
)


@dataclass(frozen=True)
class Difference:
    """One path that two root filesystems do not have alike; `reason` is None when unexplained."""

    path: str
    kind: str  # only in first, only in second, content, mode or owner
    reason: str | None


def list_files(rootfs: Path, destination: Path) -> None:
    """Write one line an entry: mode, owner, sha256 (or link target), path."""
    namespace.run_as_owner([sys.executable, "-c", _LISTER, str(rootfs), str(destination)])


def paths_in(listing: Path) -> list[str]:
    """Every path that a listing names, in its order."""
    return list(_read(listing))


def compare_listings(first: Path, second: Path) -> list[Difference]:
    """Every path that differs between two listings written by `list_files`."""
    left, right = _read(first), _read(second)
    found = []
    for path in sorted(left.keys() | right.keys()):
        if left.get(path) == right.get(path):
            continue
        found.append(Difference(path, _kind(left.get(path), right.get(path)), _reason(path)))
    return found


def _read(listing: Path) -> dict[str, tuple[str, str, str]]:
    entries = {}
    for line in listing.read_text(errors="surrogateescape").splitlines():
        mode, owner, rest = line.split(" ", 2)
        if rest.startswith("->"):
            # A link target may hold spaces only together with its path; compare them as one.
            entries[rest.rsplit(" ", 1)[1]] = (mode, owner, rest)
        else:
            content, path = rest.split(" ", 1)
            entries[path] = (mode, owner, content)
    return entries


def _kind(left: tuple[str, str, str] | None, right: tuple[str, str, str] | None) -> str:
    if left is None:
        return "only in second"
    if right is None:
        return "only in first"
    return "content" if left[2] != right[2] else "mode or owner"


def _reason(path: str) -> str | None:
    return next((reason for pattern, reason in KNOWN_DIFFERENCES if pattern.search(path)), None)
