"""The images in the cache: only whole ones, found by name, and kept while in use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vexrun.errors import ConfigError
from vexrun.image.catalog import Image, find_image, list_images, lock_path, remove_image
from vexrun.image.locking import exclusive, shared
from vexrun.image.manifest import ImageInputs

MakeImage = Callable[..., Path]

PARTS = ["root.qcow2", "vmlinuz", "initrd.img", "rootfs", "ssh/client", "manifest.json"]


@pytest.fixture
def images(home: Path, no_namespaces: object) -> Path:
    directory = home / "cache" / "images"
    directory.mkdir(parents=True)
    return directory


@pytest.fixture
def make_image(images: Path, make_manifest: Any) -> MakeImage:
    def make(name: str, *, directory: str = "", key: str = "", base: str | None = None) -> Path:
        path = images / (directory or name)
        (path / "ssh").mkdir(parents=True)
        (path / "rootfs").mkdir()
        for part in ("root.qcow2", "vmlinuz", "initrd.img", "ssh/client"):
            (path / part).touch()
        inputs = ImageInputs(suite="trixie", disk_gib=12, roles_sha256="", base_key=base)
        manifest = make_manifest(name, key=key or name, inputs=inputs)
        (path / "manifest.json").write_text(manifest.model_dump_json())
        return path

    return make


def names() -> list[str]:
    return [image.name for image in list_images()]


# -- listing -------------------------------------------------------------------------------------


def test_without_a_cache_there_is_no_image(home: Path) -> None:
    assert list_images() == []


def test_whole_images_are_listed_by_name(make_image: MakeImage) -> None:
    make_image("trixie-b")
    make_image("trixie-a")
    assert names() == ["trixie-a", "trixie-b"]


@pytest.mark.parametrize("part", PARTS)
def test_an_image_without_a_part_is_none(make_image: MakeImage, part: str) -> None:
    path = make_image("trixie-a") / part
    if path.is_dir():
        path.rmdir()
    else:
        path.unlink()
    assert names() == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": "x"}', '{"name": "x", "more": 1}'])
def test_an_image_with_a_broken_manifest_is_none(make_image: MakeImage, text: str) -> None:
    (make_image("trixie-a") / "manifest.json").write_text(text)
    assert names() == []


def test_a_stray_file_is_no_image(images: Path) -> None:
    (images / "notes.txt").touch()
    assert list_images() == []


# -- finding -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["trixie-ab", "trixie-abc", "bookworm-1", "book", "b"])
def test_an_image_is_found_by_name_or_beginning(make_image: MakeImage, name: str) -> None:
    for each in ("trixie-ab", "trixie-abc", "bookworm-1"):
        make_image(each)
    assert find_image(name).name.startswith(name)


@pytest.mark.parametrize(
    ("name", "problem"),
    [("trixie", "more than one image"), ("sid", "no image"), ("", "more than one image")],
)
def test_an_unclear_name_lists_the_images(make_image: MakeImage, name: str, problem: str) -> None:
    make_image("trixie-a")
    make_image("trixie-b")
    with pytest.raises(ConfigError, match=f"There is {problem}") as caught:
        find_image(name)
    assert caught.value.evidence == "images: trixie-a, trixie-b"
    assert caught.value.hint == "Run: vexrun image list"


# -- removing ------------------------------------------------------------------------------------


def test_an_image_goes_with_its_layers_snapshots_and_proof(
    make_image: MakeImage, images: Path
) -> None:
    make_image("trixie-a", key="ka")
    make_image("trixie-layer-x", key="kx", base="ka")
    make_image("trixie-b", key="kb")
    make_image("trixie-layer-y", key="ky", base="kb")
    cache = images.parent
    for name in ("trixie-a-1", "trixie-layer-x-2", "trixie-b-3"):
        (cache / "snapshots" / name).mkdir(parents=True)
    (cache / "proofs").mkdir()
    for key in ("ka", "kb"):
        (cache / "proofs" / f"{key}.json").touch()
    assert remove_image(find_image("trixie-a")) == ["trixie-a", "trixie-layer-x"]
    assert names() == ["trixie-b", "trixie-layer-y"]
    assert not (images / "trixie-a").exists()
    assert [path.name for path in (cache / "snapshots").iterdir()] == ["trixie-b-3"]
    assert [path.name for path in (cache / "proofs").iterdir()] == ["kb.json"]


@pytest.mark.parametrize("hold", [exclusive, shared], ids=["a build", "a machine"])
@pytest.mark.parametrize("used", ["trixie-a", "trixie-layer-x"])
def test_an_image_in_use_is_kept_whole(make_image: MakeImage, hold: Any, used: str) -> None:
    path = make_image("trixie-a", key="ka")
    make_image("trixie-layer-x", key="kx", base="ka")
    image = find_image("trixie-a")
    with hold(lock_path(used)):
        with pytest.raises(ConfigError, match=f"'{used}' is in use") as caught:
            remove_image(image)
        assert "vexrun vm down" in caught.value.hint
    assert names() == ["trixie-a", "trixie-layer-x"]
    assert Image.open(path) == image
