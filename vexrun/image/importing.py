"""Make an ordinary cloud image a guest of ours.

It is unpacked and provisioned at native speed rather than booted for that, and then boots like
every image: kernel and initrd taken out, so whether it brought a UEFI or a BIOS loader is all the
same (docs/decisions/0030-cloud-images-are-unpacked.md).
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from vexrun.errors import ConfigError, InfrastructureError
from vexrun.events import Emit, Note, Stages
from vexrun.image import namespace
from vexrun.image.build import BUILD_SPACE_GIB, apply_roles, ensure_image, make_keys, preflight
from vexrun.image.catalog import Image, list_images
from vexrun.image.download import Checksum, obtain
from vexrun.image.ext4_tree import copy_tree
from vexrun.image.manifest import ImageInputs, base_inputs
from vexrun.image.partitions import Ext4, find_ext4
from vexrun.image.suites import SUITES
from vexrun.layout import PACKAGE
from vexrun.process import run
from vexrun.settings import ImageSettings
from vexrun.workdir import work_directory

_ADAPT = PACKAGE / "image" / "adapt.sh"
_QCOW2_MAGIC = b"QFI\xfb"
_EXTERNAL_DATA_FILE = 0x04
_ELF_X86_64 = 62

#: cloud-init's own settings: only our seed, and only the modules that it needs. Debian 12's
#: cloud-init (22.4) wants about 30 s with its default modules, 7 s idle, under emulation.
_CLOUD_CFG = {
    "datasource_list": ["NoCloud"],
    "network": {"config": "disabled"},
    "preserve_hostname": True,
    "manage_etc_hosts": False,
    "disable_root": False,
    "ssh_deletekeys": False,
    "growpart": {"mode": "off"},
    "resize_rootfs": False,
    "cloud_init_modules": ["users_groups"],
    "cloud_config_modules": ["locale"],
    "cloud_final_modules": [],
}
#: By the ID of os-release.
_WHY_NOT = {
    "ubuntu": "Ubuntu calls kernels and tools otherwise than the roles do, and no Ubuntu guest has "
    "been tested; docs/cloud-images.md#ubuntu says what there is for it.",
    "debian": "This release is not one that the roles know.",
}
_WHY_NOT_ELSE = "The roles install packages by Debian's names."
#: Of the account that cloud-init makes.
CLOUD_USER = "vexrun"


def import_image(place: str, checksum: Checksum, settings: ImageSettings, emit: Emit) -> Image:
    """The image made of the cloud image at a path or URL: from the cache, or imported now."""
    for image in list_images():
        if image.manifest.inputs == _expected(image.suite, checksum, settings):
            return image
    preflight(BUILD_SPACE_GIB)
    stages = Stages(emit)
    with stages.stage("image file", place):
        file = obtain(place, checksum, emit)
    with work_directory(f"import-{checksum.digest[:16]}-{os.getpid()}") as work:
        with stages.stage("image unpack", "reading its filesystem, without mounting it"):
            tree = _unpack(file, place, work)
        inputs = _inputs(tree, place, checksum, settings)

        def make(path: Path, inner: Stages) -> None:
            tree.rename(path / "rootfs")
            make_keys(path / "ssh")
            with inner.stage("image adapt", "seed, fstab, kernels"):
                _adapt(path, inputs, settings, emit)
            apply_roles(path, inputs.suite, settings, inner)

        return ensure_image(inputs, emit, make)


def _unpack(file: Path, place: str, work: Path) -> Path:
    """The files of the image's root filesystem, in a directory of `work`."""
    disk = work / "disk.raw"
    convert = ["qemu-img", "convert", "-f", _format_of(file, place), "-O", "raw"]
    run([*convert, str(file.absolute()), str(disk)])
    tree = work / "tree"
    for filesystem in find_ext4(disk):
        tree.mkdir()
        if _has(disk, filesystem, "/usr/lib/os-release"):
            copy_tree(disk, filesystem, tree, work)
            disk.unlink()
            return tree
        tree.rmdir()
    raise ConfigError(
        f"No root filesystem was found in '{place}'.",
        evidence="looked for ext4 with /usr/lib/os-release, in GPT, in MBR and without partitions",
        hint="It must be a raw or qcow2 disk image, not compressed. xfs and btrfs are not read.",
    )


def _format_of(file: Path, place: str) -> str:
    """qcow2 or raw, by what is in it. A qcow2 that names other files is refused unread."""
    with file.open("rb") as stream:
        header = stream.read(104).ljust(104, b"\0")
    if header[:4] != _QCOW2_MAGIC:
        return "raw"
    version = int.from_bytes(header[4:8], "big")
    incompatible = int.from_bytes(header[72:80], "big") if version >= 3 else 0
    if any(header[8:16]) or incompatible & _EXTERNAL_DATA_FILE:
        raise ConfigError(
            f"'{place}' is a qcow2 that takes data from another file, which could be any of yours.",
            hint="Make one of its own of it: qemu-img convert -O qcow2 IMAGE NEW",
        )
    return "qcow2"


def _has(disk: Path, filesystem: Ext4, path: str) -> bool:
    device = f"{disk}?offset={filesystem.offset}"
    done = run(["debugfs", "-R", f"stat {path}", device], check=False)
    return "Inode:" in done.stdout


def _inputs(tree: Path, place: str, checksum: Checksum, settings: ImageSettings) -> ImageInputs:
    release = _os_release(tree)
    suite = SUITES.get(release.get("VERSION_CODENAME", ""))
    if release.get("ID") != "debian" or suite is None:
        raise ConfigError(
            f"'{place}' is '{release.get('PRETTY_NAME', 'unknown')}', which cannot be imported.",
            hint=f"{_WHY_NOT.get(release.get('ID', ''), _WHY_NOT_ELSE)}\n"
            f"Take Debian's image with the kernel nearest to yours: {_kernels()}.",
        )
    dpkg = (tree / "usr/bin/dpkg").read_bytes()[:20]
    if dpkg[:4] != b"\x7fELF" or int.from_bytes(dpkg[18:20], "little") != _ELF_X86_64:
        raise ConfigError(f"'{place}' is not for amd64.", hint="Take the amd64 image.")
    return _expected(suite.name, checksum, settings)


def _kernels() -> str:
    named = (
        f"{suite.name} ({f'Linux {suite.kernel_series}' if suite.kernel_series else 'the newest'})"
        for suite in SUITES.values()
    )
    return ", ".join(named)


def _expected(suite: str, checksum: Checksum, settings: ImageSettings) -> ImageInputs:
    inputs = base_inputs(SUITES[suite], settings)
    return inputs.model_copy(update={"imported": str(checksum)})


def _os_release(tree: Path) -> dict[str, str]:
    lines = (tree / "usr/lib/os-release").read_text(errors="replace").splitlines()
    pairs = (line.partition("=") for line in lines if "=" in line)
    return {key: value.strip().strip('"') for key, _, value in pairs}


def _adapt(work: Path, inputs: ImageInputs, settings: ImageSettings, emit: Emit) -> None:
    """What must be different before the roles can do their work, and the cloud-init seed."""
    seed = work / "seed"
    seed.mkdir()
    shutil.copy2(_ADAPT, seed)
    for name, content in seed_files(inputs, (work / "ssh" / "client.pub").read_text()).items():
        (seed / name).write_text(content)
    (seed / "apt.conf").write_text(_apt_conf(settings))
    if settings.mirror:
        (seed / "sources.list").write_text(f"deb {settings.mirror} {inputs.suite} main\n")
    rootfs = work / "rootfs"
    for step in ("files", "lists", "kernels"):  # the later ones need the first one's resolv.conf
        done = namespace.run_in_root(
            rootfs,
            ["sh", "/srv/adapt.sh", step],
            binds=[namespace.Bind(seed, "/srv")],
            check=False,
            log=work / "adapt.log",
        )
        if done.returncode != 0:
            raise InfrastructureError(
                "The cloud image could not be made ready for the roles.",
                evidence=done.tail(10),
                hint="Check the network; VEXRUN_MIRROR and VEXRUN_PROXY set another way out.",
            )
        for line in done.stdout.splitlines():
            if line.startswith("note: "):
                emit(Note(line.removeprefix("note: ")))
    shutil.rmtree(seed)


def seed_files(inputs: ImageInputs, client_key: str) -> dict[str, str]:
    """The NoCloud seed and cloud-init's settings. JSON is YAML, and needs no quoting rules."""
    user = {
        "name": CLOUD_USER,
        "shell": "/bin/bash",
        "sudo": "ALL=(ALL) NOPASSWD:ALL",
        # No password, and not locked either: sshd without PAM refuses locked accounts even a key.
        "passwd": "*",
        "lock_passwd": False,
        "ssh_authorized_keys": [client_key.strip()],
    }
    user_data = {"users": [user], "locale": "C.UTF-8", "disable_root": False}
    meta_data = {"instance-id": f"vexrun-{inputs.key}", "local-hostname": "vexrun"}
    return {
        "user-data": "#cloud-config\n" + json.dumps(user_data, indent=1) + "\n",
        "meta-data": json.dumps(meta_data, indent=1) + "\n",
        "cloud.cfg": json.dumps(_CLOUD_CFG, indent=1) + "\n",
    }


def _apt_conf(settings: ImageSettings) -> str:
    """For the time of the import only: clean() of vexrun.image.build removes the file."""
    lines = []
    if settings.proxy:
        lines.append(f'Acquire::http::Proxy "{settings.proxy}";')
    if settings.accept_expired:
        lines.append('Acquire::Check-Valid-Until "false";')
    return "".join(f"{line}\n" for line in lines)
