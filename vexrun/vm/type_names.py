"""Keep a filesystem type's name free for the module under test.

The guest's root is ext4, and Debian's ext4 module registers "ext2" and "ext3" too
(CONFIG_EXT4_USE_FOR_EXT2), so an external ext2 would be refused with EBUSY. For such subjects a
small module of ours holds the name from the initrd until ext4 is loaded, and is then unloaded.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from vexrun.errors import ConfigError, InfrastructureError
from vexrun.image.catalog import Image
from vexrun.image.namespace import Bind, run_in_root
from vexrun.kbuild import build_script
from vexrun.layout import PACKAGE

MODULE = "vexrun_reserve"
_SOURCE = PACKAGE / "vm" / "reserve_names"
#: Type names that the module of the root filesystem takes besides its own.
_TAKEN_BY_EXT4 = frozenset({"ext2", "ext3"})


def names_to_reserve(filesystem_type: str) -> tuple[str, ...]:
    """Which names must be held for a subject of this type. ConfigError when it cannot work."""
    if filesystem_type == "ext4":
        raise ConfigError(
            "The filesystem type 'ext4' is the guest's own root filesystem: another module of "
            "that type cannot be loaded beside it.",
            hint="Register the module under another type name, for example 'ext4dev'.",
        )
    return (filesystem_type,) if filesystem_type in _TAKEN_BY_EXT4 else ()


def reserving_initrd(image: Image, names: tuple[str, ...], work: Path) -> Path:
    """The image's initrd with the holding module in front, in `work`; the kernel unpacks both."""
    release = image.manifest.kernel_release
    shutil.copytree(_SOURCE, work / "source")
    (work / "build").mkdir()
    (work / "initrd" / "conf" / "conf.d").mkdir(parents=True)
    command = f"insmod /{MODULE}.ko names={','.join(names)}\n"
    (work / "initrd" / "conf" / "conf.d" / "vexrun-reserve").write_text(command)
    # Below /srv everything is ours to write; the root filesystem itself stays read-only.
    script = (
        "set -e; cd /srv; bash /srv/build.sh --source /srv/source --dir /srv/build/reserve "
        f"--ko {MODULE}.ko --release {release} --logs /srv/build/logs "
        f"--tools-dir /srv/build/tools; cp build/reserve/{MODULE}.ko initrd/; "
        "cd initrd; find . | cpio --quiet -o -H newc -R 0:0 >../extra.cpio"
    )
    shutil.copy2(build_script(), work / "build.sh")
    done = run_in_root(
        image.rootfs,
        ["sh", "-c", script],
        binds=[Bind(work, "/srv", writable=True)],
        readonly=True,
        check=False,
    )
    if done.returncode != 0:
        raise InfrastructureError(
            f"The module that holds the name '{names[0]}' does not build.", evidence=done.tail()
        )
    initrd = work / "initrd.img"
    # Ours first: cpio pads it to whole blocks, and what follows a compressed archive is ignored.
    initrd.write_bytes((work / "extra.cpio").read_bytes() + image.initrd.read_bytes())
    return initrd
