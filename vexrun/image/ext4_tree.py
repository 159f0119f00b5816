"""Copy the whole tree of an ext4 filesystem out of a disk image, without mounting it.

A foreign filesystem is nothing for this machine's kernel: debugfs (e2fsprogs) reads it as the
ordinary program it is. Its `rdump` (1.47) loses what chown(2) clears and what it never knew, so
modes, hard links and file capabilities are put back afterwards.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vexrun.errors import InfrastructureError
from vexrun.image import namespace
from vexrun.image.partitions import Ext4
from vexrun.process import run

_ENTRY = re.compile(r"^/(\d+)/(\d{6})/(\d+)/(\d+)/(.+)/(\d*)/$")
_COMMAND = re.compile(r"^debugfs: +ls -p <(\d+)>$")
_CAPABILITY = re.compile(r"^ +security\.capability \(\d+\) = ((?:[0-9a-f]{2} ?)+)$")
_ROOT_INODE = 2
#: Of st_mode: what kind of file.
_KIND, _DIRECTORY, _REGULAR, _LINK = 0o170000, 0o040000, 0o100000, 0o120000

#: Runs with root's view of the tree, so it must not import vexrun.
_REPAIR = """
import json, os, sys
root, plan = sys.argv[1], json.load(open(sys.argv[2]))
place = lambda name: os.path.join(root, name)
wrong = []
for first, *others in plan["links"]:
    for other in others:
        os.unlink(place(other))
        os.link(place(first), place(other), follow_symlinks=False)
for name, size in plan["sizes"]:
    if os.lstat(place(name)).st_size != size:
        wrong.append(name)
for name, mode in plan["modes"]:
    os.chmod(place(name), mode)
for name, value in plan["capabilities"]:
    os.setxattr(place(name), "security.capability", bytes.fromhex(value))
if wrong:
    sys.exit(f"{len(wrong)} files have another size than in the image, such as {wrong[0]}")
"""


@dataclass(frozen=True)
class _Entry:
    """One directory entry; `path` is relative to the root."""

    inode: int
    mode: int
    path: str
    size: int

    def is_kind(self, kind: int) -> bool:
        return self.mode & _KIND == kind


def copy_tree(disk: Path, filesystem: Ext4, destination: Path, work: Path) -> None:
    """Write the filesystem's files below `destination`, a directory that exists.

    Device nodes, sockets and pipes are left out: a booted system makes its own. `work` is for
    passing files. Raises InfrastructureError when anything could not be read.
    """
    device = f"{disk}?offset={filesystem.offset}"
    if filesystem.unclean:
        device = str(_replayed(disk, filesystem, work / "filesystem.raw"))
    entries = list(_walk(device, work))
    _refuse_paths_that_lead_out(entries)
    _debugfs(device, [f'rdump / "{destination}"'], work, as_owner=True)
    plan = {
        "modes": [(e.path, e.mode & 0o7777) for e in entries if not e.is_kind(_LINK)],
        "links": _hard_links(entries),
        "sizes": [(e.path, e.size) for e in entries if e.is_kind(_REGULAR)],
        "capabilities": list(_capabilities(device, entries, work)),
    }
    (work / "plan.json").write_text(json.dumps(plan))
    namespace.run_as_owner(
        [sys.executable, "-c", _REPAIR, str(destination), str(work / "plan.json")]
    )


def _refuse_paths_that_lead_out(entries: list[_Entry]) -> None:
    """No real filesystem has a name with a slash, or one name twice: a link and a directory."""
    seen: set[str] = set()
    for entry in entries:
        if "/../" in f"/{entry.path}/" or entry.path in seen:
            raise InfrastructureError(
                "The image's filesystem is damaged, or made to harm.",
                evidence=f"it holds '{entry.path}'" + (" twice" if entry.path in seen else ""),
            )
        seen.add(entry.path)


def _replayed(disk: Path, filesystem: Ext4, copy: Path) -> Path:
    """A copy of the filesystem with what its journal still held.

    e2fsck (1.47) forgets ?offset= when it opens a device again after the journal.
    """
    with disk.open("rb") as source, copy.open("wb") as target:
        target.truncate(filesystem.size)
        source.seek(filesystem.offset)
        left = filesystem.size
        while left and (block := source.read(min(left, 1 << 20))):
            left -= len(block)
            if block.count(0) == len(block):
                target.seek(len(block), os.SEEK_CUR)
            else:
                target.write(block)
    done = run(["e2fsck", "-f", "-y", str(copy)], check=False)
    if done.returncode > 2:
        raise InfrastructureError(
            "The image's filesystem could not be repaired.", evidence=done.tail(5)
        )
    return copy


def _debugfs(device: str, commands: list[str], work: Path, *, as_owner: bool = False) -> str:
    """Its standard output. It ends with 0 whatever happened, so any complaint is a failure."""
    script = work / "debugfs.commands"
    script.write_text("\n".join([*commands, ""]))
    argv = ["debugfs", "-f", str(script), device]
    done = namespace.run_as_owner(argv, check=False) if as_owner else run(argv, check=False)
    complaints = [line for line in done.stderr.splitlines() if not line.startswith("debugfs 1.")]
    if done.returncode != 0 or complaints:
        raise InfrastructureError(
            "The image's filesystem could not be read.", evidence="\n".join(complaints[-8:])
        )
    return done.stdout


def _walk(device: str, work: Path) -> Iterator[_Entry]:
    """Everything below the root, and the root itself, level by level."""
    yield from (
        _Entry(entry.inode, entry.mode, ".", 0)
        for entry in _listed(device, {_ROOT_INODE: ""}, work, named=".")
    )
    level = {_ROOT_INODE: ""}
    while level:
        found = [
            entry
            for entry in _listed(device, level, work)
            if entry.is_kind(_DIRECTORY) or entry.is_kind(_REGULAR) or entry.is_kind(_LINK)
        ]
        yield from found
        level = {entry.inode: f"{entry.path}/" for entry in found if entry.is_kind(_DIRECTORY)}


def _listed(
    device: str, directories: dict[int, str], work: Path, named: str | None = None
) -> Iterator[_Entry]:
    """The entries of some directories (inode: path with its slash), without . and ..; or only
    the entry of each that is `named`."""
    prefix = ""
    output = _debugfs(device, [f"ls -p <{inode}>" for inode in directories], work)
    for line in output.splitlines():
        if command := _COMMAND.match(line):
            prefix = directories[int(command[1])]
        elif entry := _ENTRY.match(line):
            inode, mode, name = int(entry[1]), int(entry[2], 8), entry[5]
            wanted = name == named if named else name not in (".", "..")
            if wanted and inode:
                yield _Entry(inode, mode, f"{prefix}{name}", int(entry[6] or 0))


def _hard_links(entries: list[_Entry]) -> list[list[str]]:
    by_inode: dict[int, list[str]] = {}
    for entry in entries:
        if entry.is_kind(_REGULAR):
            by_inode.setdefault(entry.inode, []).append(entry.path)
    return [paths for paths in by_inode.values() if len(paths) > 1]


def _capabilities(device: str, entries: list[_Entry], work: Path) -> Iterator[tuple[str, str]]:
    """Paths and values of security.capability; only programs can have any."""
    programs = {e.inode: e.path for e in entries if e.is_kind(_REGULAR) and e.mode & 0o111}
    inode = 0
    for line in _debugfs(device, [f"ea_list <{each}>" for each in programs], work).splitlines():
        if command := re.match(r"^debugfs: +ea_list <(\d+)>$", line):
            inode = int(command[1])
        elif value := _CAPABILITY.match(line):
            yield programs[inode], value[1].replace(" ", "")
