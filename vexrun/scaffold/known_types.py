"""Filesystem types whose mkfs is in Debian: one row each.

Packages and options as in Debian 12 and 13. `lacks` are properties of the format, which no
source line shows; what the module's operations lack is read from the source.
"""

from __future__ import annotations

from dataclasses import dataclass

#: FAT and its kin: no owners or modes on the medium, no holes, names without case.
_FAT = ("sparse", "casesensitive", "chmod", "chown")
#: Made complete by mkfs, and never written again.
_READ_ONLY = ("write", "create", "unlink", "truncate", "append", "chmod", "chown", "timestamps")


@dataclass(frozen=True)
class KnownType:
    """`fsck` changes nothing and ends with 0 only for a clean filesystem; '' where none does so.

    `config` are build variables beyond the module's own without which the driver is not whole.
    """

    mkfs: str
    package: str
    size_mib: int = 64
    fsck: str = ""
    lacks: tuple[str, ...] = ()
    config: tuple[str, ...] = ()
    options: tuple[str, ...] = ()  # without which a mount is not the ordinary one
    made_of: str = ""  # the guest's directory whose content mkfs puts there


#: Of the guest: files, directories and links that stay as they are.
_CONTENT = "/usr/lib/systemd"


def _only_read(mkfs: str, package: str) -> KnownType:
    command = mkfs.replace("{content}", _CONTENT)
    return KnownType(command, package, lacks=_READ_ONLY, made_of=_CONTENT)


KNOWN_TYPES: dict[str, KnownType] = {
    "apfs": KnownType(
        "mkapfs {device}",
        "apfsprogs",
        64,
        "apfsck {device}",
        ("casesensitive", "mountedcheck"),
        options=("readwrite",),
    ),
    "bfs": KnownType("mkfs.bfs {device}", "util-linux-extra", size_mib=16),
    "btrfs": KnownType(
        "mkfs.btrfs -q -f {device}", "btrfs-progs", 256, "btrfs check --readonly {device}"
    ),
    "cramfs": _only_read("mkfs.cramfs {content} {device}", "util-linux-extra"),
    "erofs": _only_read("mkfs.erofs {device} {content}", "erofs-utils"),
    "exfat": KnownType("mkfs.exfat {device}", "exfatprogs", 64, "fsck.exfat -n {device}", _FAT),
    "ext2": KnownType("mke2fs -q -F -t ext2 {device}", "e2fsprogs", 64, "e2fsck -fn {device}"),
    "ext3": KnownType("mke2fs -q -F -t ext3 {device}", "e2fsprogs", 64, "e2fsck -fn {device}"),
    "f2fs": KnownType(
        "mkfs.f2fs -q -f {device}",
        "f2fs-tools",
        128,
        "fsck.f2fs --dry-run {device}",
        config=("CONFIG_F2FS_FS_XATTR", "CONFIG_F2FS_STAT_FS"),
    ),
    "iso9660": _only_read("genisoimage -quiet -R -o {device} {content}", "genisoimage"),
    "jfs": KnownType("mkfs.jfs -q {device}", "jfsutils", 64, "fsck.jfs -n -f {device}"),
    "minix": KnownType("mkfs.minix -3 {device}", "util-linux-extra", 32, "fsck.minix -f {device}"),
    "msdos": KnownType(
        "mkfs.fat -F 16 {device}", "dosfstools", 64, "fsck.fat -n {device}", (*_FAT, "longnames")
    ),
    "nilfs2": KnownType("mkfs.nilfs2 -q -f {device}", "nilfs-tools", 256),
    # Without -F it makes nothing on a whole disk, and with it also on one that is mounted.
    "ntfs3": KnownType(
        "mkfs.ntfs -q -F -f {device}",
        "ntfs-3g",
        64,
        lacks=("casesensitive", "mountedcheck", "sparse"),
    ),
    "reiserfs": KnownType(
        "mkfs.reiserfs -q -f -f {device}",
        "reiserfsprogs",
        64,
        "reiserfsck --check --yes --quiet {device}",
    ),
    "romfs": _only_read("genromfs -f {device} -d {content}", "genromfs"),
    "squashfs": _only_read(
        "mksquashfs {content} {device} -noappend -quiet -no-progress", "squashfs-tools"
    ),
    "udf": KnownType("mkudffs --utf8 {device}", "udftools"),
    "vfat": KnownType("mkfs.vfat -F 32 {device}", "dosfstools", 64, "fsck.vfat -n {device}", _FAT),
    "xfs": KnownType("mkfs.xfs -q -f {device}", "xfsprogs", 320, "xfs_repair -n {device}"),
}
