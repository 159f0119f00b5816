"""An image packed and unpacked: the same bytes, or a refusal."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vexrun.errors import ConfigError
from vexrun.image.archive import load_image, save_image
from vexrun.image.catalog import Image, images_dir, list_images, lock_path
from vexrun.image.files import list_files
from vexrun.image.locking import shared
from vexrun.image.manifest import ImageInputs, sha256_of

Change = Callable[[Path], object]


@pytest.fixture
def image(home: Path, no_namespaces: object, make_manifest: Any) -> Image:
    """A small whole image in the cache, whose manifest is true."""
    inputs = ImageInputs(suite="trixie", disk_gib=12, roles_sha256="")
    directory = images_dir() / inputs.name
    (directory / "rootfs" / "etc").mkdir(parents=True)
    (directory / "rootfs" / "dev").mkdir()
    (directory / "rootfs" / "etc" / "shadow").write_text("root:*\n")
    (directory / "rootfs" / "etc" / "shadow").chmod(0o640)
    (directory / "rootfs" / "su").write_text("setuid\n")
    (directory / "rootfs" / "su").chmod(0o4755)
    (directory / "rootfs" / "link").symlink_to("/etc/shadow")
    (directory / "ssh").mkdir(mode=0o700)
    (directory / "ssh" / "client").write_text("key")
    for name in ("root.qcow2", "vmlinuz", "initrd.img"):
        (directory / name).write_bytes(os.urandom(64))
    list_files(directory / "rootfs", directory / "files.txt")
    manifest = make_manifest(
        inputs.name,
        inputs=inputs,
        sha256={n: sha256_of(directory / n) for n in ("root.qcow2", "vmlinuz", "initrd.img")},
        files_sha256=sha256_of(directory / "files.txt"),
    )
    (directory / "manifest.json").write_text(manifest.model_dump_json())
    found = Image.open(directory)
    assert found is not None
    return found


def contents(directory: Path) -> str:
    listing = directory.parent / "listing"
    list_files(directory, listing)
    return listing.read_text()


def test_an_image_comes_back_as_it_was(image: Image, tmp_path: Path) -> None:
    before = contents(image.directory)
    save_image(image, tmp_path / "a.tar.zst")
    shutil.rmtree(image.directory)
    assert load_image(tmp_path / "a.tar.zst").manifest == image.manifest
    assert contents(image.directory) == before
    assert [each.name for each in list_images()] == [image.name]
    assert list((images_dir().parent / "work").iterdir()) == []


def test_what_builds_left_in_the_root_filesystem_is_not_packed(
    image: Image, tmp_path: Path
) -> None:
    """A mount point and a cache: seen in images that had been used."""
    before = contents(image.directory)
    (image.rootfs / "build").mkdir()
    (image.rootfs / "dev" / "null").touch()
    save_image(image, tmp_path / "a.tar.zst")
    shutil.rmtree(image.directory)
    load_image(tmp_path / "a.tar.zst")
    assert contents(image.directory) == before


def test_an_image_that_is_there_stays(image: Image, tmp_path: Path) -> None:
    save_image(image, tmp_path / "a.tar.zst")
    stat = image.disk.stat()
    with shared(lock_path(image.name)):  # a machine of another run is using it
        assert load_image(tmp_path / "a.tar.zst").name == image.name
    assert image.disk.stat() == stat


def change(name: str) -> Change:
    return lambda directory: (directory / name).write_bytes(b"other")


def repeat_last_line(directory: Path) -> None:
    listing = (directory / "files.txt").read_text()
    (directory / "files.txt").write_text(listing + listing.splitlines()[-1] + "\n")


def rename_in_manifest(directory: Path) -> None:
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["name"] = "../../elsewhere"
    (directory / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (change("root.qcow2"), "'root.qcow2' is not the file"),
        (change("vmlinuz"), "'vmlinuz' is not the file"),
        (repeat_last_line, "'files.txt' is not the file"),
        (change("rootfs/etc/shadow"), "its root filesystem is not the one"),
        (lambda path: (path / "rootfs" / "su").chmod(0o755), "its root filesystem is not the one"),
        (rename_in_manifest, "which is not its name"),
        (lambda path: (path / "manifest.json").unlink(), "one whole image"),
        (lambda path: (path / "ssh" / "client").unlink(), "one whole image"),
    ],
)
def test_an_image_that_is_not_what_its_manifest_says_is_refused(
    image: Image, tmp_path: Path, damage: Change, why: str
) -> None:
    damage(image.directory)
    save_image(image, tmp_path / "a.tar.zst")
    shutil.rmtree(image.directory)
    with pytest.raises(ConfigError) as refused:
        load_image(tmp_path / "a.tar.zst")
    assert why in refused.value.evidence
    assert list_images() == []
    assert list((images_dir().parent / "work").iterdir()) == []


@pytest.mark.parametrize("kept", [0, 30, -20])
def test_a_file_cut_short_is_refused(image: Image, tmp_path: Path, kept: int) -> None:
    archive = tmp_path / "a.tar.zst"
    save_image(image, archive)
    archive.write_bytes(archive.read_bytes()[:kept])
    shutil.rmtree(image.directory)
    with pytest.raises(ConfigError, match="not a complete image archive"):
        load_image(archive)
    assert list_images() == []


def test_an_archive_of_something_else_is_refused(image: Image, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    archive = tmp_path / "other.tar.zst"
    subprocess.run(["tar", "-C", tmp_path, "--zstd", "-cf", archive, "other"], check=True)
    with pytest.raises(ConfigError, match="not a complete image archive"):
        load_image(archive)


def test_no_archive_is_said_so(home: Path) -> None:
    with pytest.raises(ConfigError, match="no image archive"):
        load_image(home / "nothing")


def test_a_failed_save_leaves_nothing(image: Image, tmp_path: Path, programs: Any) -> None:
    programs.add("zstd", "exit 1")
    with pytest.raises(Exception, match="exit status"):
        save_image(image, tmp_path / "a.tar.zst")
    assert list(tmp_path.glob("a.tar*")) == []
