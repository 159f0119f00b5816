"""A Vagrant box from an image: a disk that boots by itself, Vagrant's user, a machine description.

The format is vagrant-libvirt's (metadata.json, box.img, Vagrantfile). Our own provider starts the
same box from the kernel and the initrd that travel in it, described by machine.json.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from vexrun.errors import InfrastructureError
from vexrun.events import Stages
from vexrun.image import namespace
from vexrun.image.build import clean, deb_archive, install_packages, make_filesystem
from vexrun.image.catalog import Image, lock_path
from vexrun.image.locking import shared
from vexrun.image.manifest import sha256_of
from vexrun.layout import PACKAGE
from vexrun.process import find_program, run
from vexrun.settings import Settings
from vexrun.vm.description import BOX_KEY, box_description, write_description
from vexrun.vm.qemu import KERNEL_ARGUMENTS, ROOT_UUID

#: Raised when what is made of an image changes; it is the last part of a box's version.
BOX_RECIPE = 1
PROVIDER_FORMAT = "libvirt"
_SETUP = PACKAGE / "image" / "box.sh"
_GRUB = Path("/usr/lib/grub/i386-pc")
#: What a core image of GRUB needs to find an ext4 partition and start Linux from it.
_GRUB_MODULES = ("biosdisk", "part_msdos", "ext2", "search_fs_uuid", "linux", "normal")
_SECTOR = 512
#: The partition begins here; a boot loader has the space before it, by everybody's convention.
_PARTITION_AT = 2**20
_LINUX = 0x83
#: Vagrant's provider settings that a box of ours wants whoever starts it.
_VAGRANTFILE = f"""\
Vagrant.configure("2") do |config|
  config.vm.guest = :debian
  config.vm.boot_timeout = 600
  config.vm.synced_folder ".", "/vagrant", disabled: true
  config.ssh.insert_key = false
  config.ssh.private_key_path = File.expand_path("../{BOX_KEY}", __FILE__)
end
"""


@dataclass(frozen=True)
class BoxId:
    """What Vagrant knows a box by. Versions of one name sort by the time of their images."""

    name: str
    version: str

    @classmethod
    def of(cls, image: Image) -> BoxId:
        made = datetime.fromisoformat(image.manifest.created_at)
        name = image.guest if image.manifest.inputs.base_key is None else image.name
        return cls(f"vexrun/{name}", f"{made:%Y%m%d}.{int(f'{made:%H%M%S}')}.{BOX_RECIPE}")

    @property
    def stem(self) -> str:
        """For file names."""
        return self.name.replace("/", "-")


def make_box(image: Image, work: Path, settings: Settings, stages: Stages) -> Path:
    """The files of `image`'s box, in a directory of `work`, which is returned."""
    _require_grub()
    box = work / "box"
    box.mkdir()
    with shared(lock_path(image.name)):
        rootfs = _box_rootfs(image, work, settings, stages)
        release = image.manifest.kernel_release
        with stages.stage("box disk", "ext4, boot loader, compressed qcow2"):
            make_filesystem(rootfs, work / "root.raw", settings.image.disk_gib)
            namespace.remove_tree(rootfs)
            make_bootable_disk(work / "root.raw", release, box / "box.img", work)
            (work / "root.raw").unlink()
        shutil.copy2(image.kernel, box / "vmlinuz")
        shutil.copy2(image.initrd, box / "initrd.img")
        shutil.copy2(image.manifest_path, box / "manifest.json")
    (work / BOX_KEY).rename(box / BOX_KEY)
    (box / "Vagrantfile").write_text(_VAGRANTFILE)
    write_description(box_description(settings.machine), box / "machine.json")
    (box / "metadata.json").write_text(json.dumps(metadata(image, box / "box.img"), indent=2))
    return box


def metadata(image: Image, disk: Path) -> dict[str, object]:
    """metadata.json: vagrant-libvirt wants the first three, in GiB."""
    size = int(
        json.loads(run(["qemu-img", "info", "--output=json", str(disk)]).stdout)["virtual-size"]
    )
    return {
        "provider": PROVIDER_FORMAT,
        "format": "qcow2",
        "virtual_size": -(-size // 2**30),
        "architecture": "amd64",
        "vexrun": {
            "image": image.name,
            "kernel": image.manifest.kernel_release,
            "version": BoxId.of(image).version,
            "sha256": sha256_of(disk),
        },
    }


def _box_rootfs(image: Image, work: Path, settings: Settings, stages: Stages) -> Path:
    """A copy of the image's root filesystem with sudo and the user `vagrant`."""
    rootfs, seed = work / "rootfs", work / "seed"
    with stages.stage("box files", "user vagrant, sudo, a key of its own"):
        rootfs.mkdir()
        namespace.run_as_owner(["cp", "-a", "--reflink=auto", f"{image.rootfs}/.", str(rootfs)])
        if "sudo" not in image.manifest.packages:
            with deb_archive(image.suite) as archive:
                install_packages(rootfs, ["sudo"], archive, work / "apt.log", settings.image)
        seed.mkdir()
        comment = f"vexrun-box-{image.manifest.key}"
        keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment]
        run([*keygen, "-f", str(work / BOX_KEY)])
        (work / f"{BOX_KEY}.pub").rename(seed / "authorized_key")
        shutil.copy2(_SETUP, seed)
        namespace.run_in_root(rootfs, ["sh", "/srv/box.sh"], binds=[namespace.Bind(seed, "/srv")])
        clean(rootfs)
    return rootfs


def make_bootable_disk(filesystem: Path, release: str, disk: Path, work: Path) -> None:
    """A disk at `disk` (compressed qcow2) whose only partition is the raw image `filesystem`.

    GRUB is written as grub-bios-setup would: its first sector into the master boot record, the
    rest behind it. No loop device, no mount: BIOS, GRUB and kernel find each other by number and
    by UUID.
    """
    size = filesystem.stat().st_size
    raw = work / "disk.raw"
    with raw.open("wb") as stream:
        stream.truncate(_PARTITION_AT + size)
        stream.write(boot_area(_core_image(release, work), size))
    target = f"driver=raw,offset={_PARTITION_AT},size={size},file.driver=file,file.filename={raw}"
    run(["qemu-img", "convert", "-n", "-f", "raw", "--target-image-opts", str(filesystem), target])
    convert = ["qemu-img", "convert", "-c", "-W", "-f", "raw", "-O", "qcow2"]
    run([*convert, "-o", "compression_type=zstd", str(raw), str(disk)])
    raw.unlink()


def boot_area(core: bytes, filesystem_size: int) -> bytes:
    """The disk up to its partition: master boot record, partition table, GRUB's core image."""
    boot = (_GRUB / "boot.img").read_bytes()
    room = _PARTITION_AT - _SECTOR
    assert len(boot) == _SECTOR and len(core) <= room, "GRUB fits before the partition"
    first, count = _PARTITION_AT // _SECTOR, filesystem_size // _SECTOR
    # Status, three bytes of geometry nobody reads, type, three more, first sector, count.
    entry = b"\x80\xfe\xff\xff" + bytes([_LINUX]) + b"\xfe\xff\xff"
    entry += first.to_bytes(4, "little") + count.to_bytes(4, "little")
    table = entry.ljust(4 * len(entry), b"\0")
    signature = b"vxrn"
    return boot[:440] + signature + b"\0\0" + table + b"\x55\xaa" + core.ljust(room, b"\0")


def _core_image(release: str, work: Path) -> bytes:
    config, core = work / "grub.cfg", work / "core.img"
    config.write_text(
        f"search.fs_uuid {ROOT_UUID} root\n"
        f"linux /boot/vmlinuz-{release} {' '.join(KERNEL_ARGUMENTS)} vexrun.net=dhcp\n"
        f"initrd /boot/initrd.img-{release}\n"
        "boot\n"
    )
    make = ["grub-mkimage", "-O", "i386-pc", "-p", "/boot/grub", "-d", str(_GRUB)]
    run([*make, "-c", str(config), "-o", str(core), *_GRUB_MODULES])
    return core.read_bytes()


def _require_grub() -> None:
    if find_program("grub-mkimage") is None or not (_GRUB / "boot.img").is_file():
        raise InfrastructureError(
            "A box needs a boot loader, and GRUB's files for BIOS are not on this machine.",
            hint="Run: sudo apt-get install --no-install-recommends grub-common grub-pc-bin",
        )


def write_box(image: Image, box: Path, output: Path) -> tuple[Path, Path]:
    """`box` as a .box file in `output`, and the catalog that gives it its name and version."""
    known = BoxId.of(image)
    output.mkdir(parents=True, exist_ok=True)
    file = output.absolute() / f"{known.stem}-{known.version}.box"
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    names = sorted(path.name for path in box.iterdir())
    try:
        # box.img is compressed already.
        run(["tar", "-C", str(box), "--owner=0", "--group=0", "-cf", str(part), *names])
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
    catalog = output.absolute() / f"{known.stem}.json"
    catalog.write_text(json.dumps(catalog_of(known, file, sha256_of(file)), indent=2) + "\n")
    return file, catalog


def catalog_of(known: BoxId, file: Path, sha256: str) -> dict[str, object]:
    """What `vagrant box add` reads to learn a box's name and version."""
    provider = {
        "name": PROVIDER_FORMAT,
        "url": file.as_uri(),
        "checksum_type": "sha256",
        "checksum": sha256,
    }
    return {
        "name": known.name,
        "versions": [{"version": known.version, "providers": [provider]}],
    }
