"""Cloud images made guests: what is refused, what is changed in them, how they are named.

The whole way, on an image with cloud-init, is in tests/vm/test_import.py.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Programs

from vexrun.config import Backend, TargetKind, make_config
from vexrun.errors import ConfigError
from vexrun.events import ignore
from vexrun.image import importing
from vexrun.image.build import ensure_base
from vexrun.image.catalog import Image, find_guest, images_dir, remove_image
from vexrun.image.download import Checksum
from vexrun.image.importing import CLOUD_USER, import_image, seed_files
from vexrun.image.manifest import base_inputs, layer_inputs
from vexrun.image.suites import SUITES
from vexrun.kbuild import BuildPlace
from vexrun.layout import PACKAGE, cache_dir
from vexrun.settings import ImageSettings
from vexrun.vm.accel import AccelChoice

MIB = 1 << 20
SETTINGS = ImageSettings()
TRIXIE = 'PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nVERSION_CODENAME=trixie\nID=debian\n'
UBUNTU = 'PRETTY_NAME="Ubuntu 22.04.5 LTS"\nVERSION_CODENAME=jammy\nID=ubuntu\n'
BUSTER = 'PRETTY_NAME="Debian GNU/Linux 10 (buster)"\nVERSION_CODENAME=buster\nID=debian\n'
AMD64, ARM64 = 62, 183
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="owners can only be given as root")

MakeDisk = Callable[..., Path]


@pytest.fixture
def make_disk(tmp_path: Path) -> MakeDisk:
    """A raw disk that is one ext4 filesystem with what an importer looks at first."""

    def make(release: str = TRIXIE, machine: int = AMD64) -> Path:
        tree = tmp_path / "tree"
        (tree / "usr" / "lib").mkdir(parents=True)
        (tree / "usr" / "bin").mkdir()
        if release:
            (tree / "usr" / "lib" / "os-release").write_text(release)
        elf = b"\x7fELF".ljust(18, b"\0") + machine.to_bytes(2, "little")
        (tree / "usr" / "bin" / "dpkg").write_bytes(elf)
        disk = tmp_path / "disk.raw"
        mke2fs = shutil.which("mke2fs", path="/usr/sbin:/sbin")
        subprocess.run([str(mke2fs), "-q", "-t", "ext4", "-d", tree, disk, "8M"], check=True)
        return disk

    return make


@pytest.fixture
def machine(home: Path, no_namespaces: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room enough, and no namespaces."""
    monkeypatch.setattr(importing, "preflight", lambda _: None)


def checksum_of(path: Path) -> Checksum:
    return Checksum("sha256", hashlib.sha256(path.read_bytes()).hexdigest())


def refused(path: Path) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        import_image(str(path), checksum_of(path), SETTINGS, ignore)
    work = cache_dir() / "work"
    assert not work.is_dir() or list(work.iterdir()) == []
    return caught.value


# -- what is refused -----------------------------------------------------------------------------


@NEEDS_ROOT
@pytest.mark.parametrize(
    ("release", "machine_of", "why"),
    [
        (UBUNTU, AMD64, "'Ubuntu 22.04.5 LTS', which cannot be imported"),
        (BUSTER, AMD64, "'Debian GNU/Linux 10 (buster)', which cannot be imported"),
        (TRIXIE, ARM64, "is not for amd64"),
        ("", AMD64, "No root filesystem was found"),
    ],
    ids=["ubuntu", "old debian", "arm64", "no system"],
)
def test_what_the_roles_cannot_work_on_is_refused(
    machine: None, make_disk: MakeDisk, release: str, machine_of: int, why: str
) -> None:
    assert why in refused(make_disk(release, machine_of)).message


@NEEDS_ROOT
@pytest.mark.parametrize(
    ("release", "why"),
    [(UBUNTU, "cloud-images.md#ubuntu"), (BUSTER, "not one that the roles know")],
)
def test_a_refusal_says_which_image_to_take_instead(
    machine: None, make_disk: MakeDisk, release: str, why: str
) -> None:
    hint = refused(make_disk(release, AMD64)).hint
    assert why in hint
    assert "trixie (Linux 6.12), bookworm (Linux 6.1), sid (the newest)" in hint


@pytest.mark.parametrize("content", [b"", b"\xfd7zXZ\0" + os.urandom(MIB), b"\0" * MIB])
def test_what_is_no_disk_is_refused(machine: None, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    error = refused(file)
    assert "No root filesystem was found" in error.message
    assert "not compressed" in error.hint


def qemu_img(*arguments: object) -> None:
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def test_a_qcow2_on_top_of_another_file_is_refused(machine: None, tmp_path: Path) -> None:
    """Such an image could have any file of this machine copied into the guest."""
    (tmp_path / "secret").write_bytes(b"s" * MIB)
    image = tmp_path / "image.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-b", tmp_path / "secret", "-F", "raw", image)
    assert "takes data from another file" in refused(image).message


def test_a_qcow2_with_its_data_elsewhere_is_refused(machine: None, tmp_path: Path) -> None:
    image = tmp_path / "image.qcow2"
    options = f"data_file={tmp_path / 'secret'},data_file_raw=on"
    qemu_img("create", "-q", "-f", "qcow2", "-o", options, image, "1M")
    assert "takes data from another file" in refused(image).message


def test_a_plain_qcow2_is_read(machine: None, tmp_path: Path) -> None:
    image = tmp_path / "image.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", image, "4M")
    assert "No root filesystem" in refused(image).message


def test_a_wrong_checksum_is_refused_before_anything_is_read(machine: None, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x")
    with pytest.raises(ConfigError, match="is not the file with this sha256"):
        import_image(str(file), Checksum("sha256", "0" * 64), SETTINGS, ignore)
    assert not images_dir().exists()


# -- what is changed in it -----------------------------------------------------------------------


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    """A root filesystem like a cloud image's, with our seed in /srv."""
    root = tmp_path / "rootfs"
    for name in ("boot", "etc/cloud", "etc/apt/apt.conf.d", "etc/apt/sources.list.d"):
        (root / name).mkdir(parents=True)
    for name in ("srv", "usr/sbin", "var/lib/cloud/instances/i-1", "lost+found", "lib/modules"):
        (root / name).mkdir(parents=True)
    for when in ("postinst", "postrm"):
        hook = root / "etc" / "kernel" / f"{when}.d" / "zz-update-grub"
        hook.parent.mkdir(parents=True)
        hook.write_text("#!/bin/sh\nexit 1\n")
        hook.chmod(0o755)
    (root / "etc" / "resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    (root / "etc" / "fstab").write_text("UUID=1 / ext4\nUUID=2 /boot/efi vfat\n")
    inputs = base_inputs(SUITES["trixie"], SETTINGS)
    for name, content in seed_files(inputs, "ssh-ed25519 AAAA vexrun-client\n").items():
        (root / "srv" / name).write_text(content)
    (root / "srv" / "apt.conf").write_text("Acquire::x 1;\n")
    return root


def adapt(rootfs: Path, step: str) -> str:
    script = ["sh", str(PACKAGE / "image" / "adapt.sh"), step, str(rootfs)]
    done = subprocess.run(script, check=True, capture_output=True, text=True)
    return done.stdout


def test_the_old_disk_is_forgotten_and_the_seed_is_there(rootfs: Path) -> None:
    assert adapt(rootfs, "files") == ""
    assert (rootfs / "etc" / "fstab").read_text().split()[:3] == ["LABEL=vexrun-root", "/", "ext4"]
    assert (rootfs / "etc" / "resolv.conf").read_bytes() == b""
    assert not (rootfs / "etc" / "resolv.conf").is_symlink()
    assert not (rootfs / "lost+found").exists()
    for when in ("postinst", "postrm"):
        hook = rootfs / "etc" / "kernel" / f"{when}.d" / "zz-update-grub"
        assert not hook.stat().st_mode & 0o111
    seed = rootfs / "var" / "lib" / "cloud" / "seed" / "nocloud"
    assert (seed / "user-data").stat().st_mode & 0o777 == 0o600
    text = (seed / "user-data").read_text()
    assert text.startswith("#cloud-config\n")
    data = json.loads(text.partition("\n")[2])
    assert data["locale"] == "C.UTF-8"
    assert [user["name"] for user in data["users"]] == [CLOUD_USER]
    assert data["users"][0]["ssh_authorized_keys"] == ["ssh-ed25519 AAAA vexrun-client"]
    assert json.loads((seed / "meta-data").read_text())["instance-id"].startswith("vexrun-")
    config = json.loads((rootfs / "etc/cloud/cloud.cfg.d/99-vexrun.cfg").read_text())
    assert config["datasource_list"] == ["NoCloud"]
    assert config["ssh_deletekeys"] is False
    assert not (rootfs / "var" / "lib" / "cloud" / "instances").exists()


@pytest.mark.parametrize(
    "name",
    ["systemd/network/10-cloud-init-eth0.network", "netplan/50-cloud-init.yaml"],
)
def test_the_network_of_an_earlier_machine_is_forgotten(rootfs: Path, name: str) -> None:
    earlier = rootfs / "etc" / name
    earlier.parent.mkdir(parents=True)
    earlier.write_text("[Match]\nPermanentMACAddress=52:54:00:12:34:56\n")
    (earlier.parent / "90-own").touch()
    adapt(rootfs, "files")
    assert [path.name for path in earlier.parent.iterdir()] == ["90-own"]


def test_a_mirror_takes_the_place_of_every_other(rootfs: Path) -> None:
    (rootfs / "etc" / "apt" / "sources.list.d" / "debian.sources").write_text("URIs: x\n")
    adapt(rootfs, "files")
    assert list((rootfs / "etc" / "apt" / "sources.list.d").iterdir())
    (rootfs / "srv" / "sources.list").write_text("deb http://mirror trixie main\n")
    adapt(rootfs, "files")
    assert list((rootfs / "etc" / "apt" / "sources.list.d").iterdir()) == []
    assert "http://mirror" in (rootfs / "etc" / "apt" / "sources.list").read_text()


def test_an_image_without_cloud_init_is_told_so(rootfs: Path) -> None:
    (rootfs / "etc" / "cloud").rmdir()
    assert "has no cloud-init" in adapt(rootfs, "files")
    assert not (rootfs / "var" / "lib" / "cloud" / "seed").exists()


def test_package_lists_are_fetched_or_it_fails(rootfs: Path, programs: Programs) -> None:
    programs.add("apt-get")
    adapt(rootfs, "lists")
    assert programs.calls("apt-get") == ["-q -o APT::Update::Error-Mode=any update"]
    programs.add("apt-get", "exit 100")
    with pytest.raises(subprocess.CalledProcessError):
        adapt(rootfs, "lists")


def kernel(rootfs: Path, release: str, *, module: bool = False, builtin: bool = False) -> None:
    (rootfs / "boot" / f"vmlinuz-{release}").touch()
    modules = rootfs / "lib" / "modules" / release
    (modules / "kernel" / "fs").mkdir(parents=True)
    if module:
        (modules / "kernel" / "fs" / "9p.ko.xz").touch()
    (modules / "modules.builtin").write_text("kernel/fs/9p/9p.ko\n" if builtin else "")


def test_only_kernels_that_cannot_share_a_tree_are_removed(
    rootfs: Path, programs: Programs
) -> None:
    programs.add("dpkg-query", 'echo "linux-image-${2#/boot/vmlinuz-}: $2"')
    programs.add("apt-get")
    kernel(rootfs, "6.12.1-cloud-amd64")
    kernel(rootfs, "6.12.1-amd64", module=True)
    kernel(rootfs, "6.12.2-own", builtin=True)
    (rootfs / "lib" / "modules" / "6.1.0-leftover").mkdir()
    said = adapt(rootfs, "kernels")
    assert "note: The image's kernel 6.12.1-cloud-amd64 has no 9p" in said
    assert programs.calls("apt-get") == ["-q purge -y linux-image-6.12.1-cloud-amd64"]
    assert not (rootfs / "usr" / "sbin" / "policy-rc.d").exists()


def test_a_kernel_that_can_is_kept(rootfs: Path, programs: Programs) -> None:
    programs.add("apt-get")
    kernel(rootfs, "6.12.1-amd64", module=True)
    assert adapt(rootfs, "kernels") == ""
    assert programs.calls("apt-get") == []


# -- its name ------------------------------------------------------------------------------------


@pytest.fixture
def imported(home: Path, make_manifest: Any) -> Image:
    """An imported image in the cache, and a layer on it."""
    base = base_inputs(SUITES["trixie"], SETTINGS)
    base = base.model_copy(update={"imported": f"sha256:{'ab' * 32}"})
    manifest = make_manifest(base.name, key=base.key, inputs=base)
    layer = layer_inputs(manifest, ["exfatprogs"])
    for each in (manifest, make_manifest(layer.name, key=layer.key, inputs=layer)):
        directory = images_dir() / each.name
        (directory / "ssh").mkdir(parents=True)
        (directory / "rootfs").mkdir()
        for part in ("root.qcow2", "vmlinuz", "initrd.img", "ssh/client"):
            (directory / part).touch()
        (directory / "manifest.json").write_text(each.model_dump_json())
    found = Image.open(images_dir() / base.name)
    assert found is not None
    return found


def test_an_imported_image_is_named_where_a_suite_is(imported: Image) -> None:
    assert imported.name.startswith("trixie-imported-")
    for name in (imported.name, imported.name[:-4], "trixie-imported"):
        suite = find_guest(name)
        assert (suite.name, suite.image) == (imported.name, imported.name)
        assert suite.kernel_series == SUITES["trixie"].kernel_series
    assert ensure_base(find_guest(imported.name), SETTINGS, ignore) == imported
    assert find_guest("trixie") == SUITES["trixie"]


def test_a_layer_on_it_is_called_like_it(imported: Image) -> None:
    layers = [each for each in images_dir().iterdir() if "-layer-" in each.name]
    layer = Image.open(layers[0])
    assert layer is not None
    assert layer.guest == imported.guest == imported.name


@pytest.mark.parametrize("name", ["trixie-imported-0", "trixie-layer", "woody", ""])
def test_no_other_name_is_one(imported: Image, name: str) -> None:
    with pytest.raises(ConfigError, match="There is no suite") as refused:
        find_guest(name)
    assert "vexrun image list" in refused.value.hint


def test_a_run_takes_it_by_its_name(imported: Image, source_tree: Path) -> None:
    config = make_config(
        source=source_tree,
        subject_file=None,
        suite=imported.name,
        only=[],
        skip=[],
        target=TargetKind.VM,
        backend=Backend.QEMU,
        accel=AccelChoice.AUTO,
        build=BuildPlace.AUTO,
        keep=False,
        command=[],
    )
    assert config.suite.image == imported.name


def test_an_image_of_other_roles_must_be_imported_again(
    imported: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = find_guest(imported.name)
    monkeypatch.setattr("vexrun.image.build.roles_sha256", lambda: "changed")
    with pytest.raises(ConfigError, match="imported with other roles") as refused:
        ensure_base(suite, SETTINGS, ignore)
    assert f"vexrun image import FILE --sha256 {'ab' * 32}" in refused.value.hint


def test_an_image_goes_with_its_layers_and_its_download(imported: Image) -> None:
    downloads = cache_dir() / "downloads"
    downloads.mkdir()
    for name in ("ab" * 32, "cd" * 32):
        (downloads / name).touch()
    layer = next(each for each in images_dir().iterdir() if "-layer-" in each.name)
    assert sorted(remove_image(imported)) == sorted([imported.name, layer.name])
    assert [path.name for path in downloads.iterdir()] == ["cd" * 32]


def test_what_was_imported_already_is_not_read_again(imported: Image, machine: None) -> None:
    assert import_image("nothing", Checksum("sha256", "ab" * 32), SETTINGS, ignore) == imported
