"""A source that comes from a Debian source package, with a real small .deb and a fake apt."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vexrun.errors import ConfigError, InfrastructureError, VexrunError
from vexrun.events import Event, Note, StageStarted
from vexrun.image.catalog import Image
from vexrun.sources import apt_source_tree, source_of
from vexrun.subject import AptSource

pytestmark = [
    pytest.mark.usefixtures("home"),
    pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="there is no dpkg-deb here"),
]

FILES = {
    "fs/minix/Makefile": "obj-m += minix.o\n",
    "fs/minix/inode.c": "int x;\n",
    "fs/Kconfig": "menu\n",
    "mm/slab.c": "int y;\n",
}


@pytest.fixture(scope="module")
def deb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """linux-source-6.12, as Debian packs it: a tarball below /usr/src."""
    root = tmp_path_factory.mktemp("deb")
    (root / "pkg" / "DEBIAN").mkdir(parents=True)
    (root / "pkg" / "usr" / "src").mkdir(parents=True)
    (root / "pkg" / "DEBIAN" / "control").write_text(
        "Package: linux-source-6.12\nVersion: 6.12.9-1\nArchitecture: all\n"
        "Maintainer: t <t@t>\nDescription: t\n"
    )
    with tarfile.open(root / "pkg/usr/src/linux-source-6.12.tar.xz", "w:xz") as tarball:
        for name, text in FILES.items():
            member = tarfile.TarInfo(f"linux-source-6.12/{name}")
            member.size = len(text)
            tarball.addfile(member, io.BytesIO(text.encode()))
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-b", "pkg", "linux-source-6.12_all.deb"],
        cwd=root,
        check=True,
        capture_output=True,
    )
    return root / "linux-source-6.12_all.deb"


@pytest.fixture
def image(tmp_path: Path, make_manifest: Any) -> Image:
    return Image(tmp_path / "image", make_manifest())


#: unshare … sh enter.sh ROOT READONLY NBINDS SRC DST MODE -- env PACKAGE=… sh -c …
APT = "while [[ $1 == --* ]]; do shift; done\n{does}"


@pytest.fixture
def apt(programs: Any, deb: Path) -> Any:
    programs.add("unshare", APT.format(does=f'cp {deb} "$6"'))
    return programs


def get(image: Image, subdir: str = "fs/minix", **more: Any) -> Any:
    source = AptSource(apt="linux-source-{series}", subdir=subdir)
    return apt_source_tree(source, image, more.get("emit", lambda _: None))


def test_the_part_that_is_asked_for_is_unpacked(apt: Any, image: Image) -> None:
    tree = get(image)
    assert (tree.path / "inode.c").read_text() == "int x;\n"
    assert tree.origin == "apt:linux-source-6.12=6.12.9-1:fs/minix"
    top = tree.path.parents[1]
    assert (top / "fs" / "Kconfig").is_file()
    assert not (top / "mm").exists()
    (call,) = apt.calls("unshare")
    assert "PACKAGE=linux-source-6.12 " in call, "the series of the guest's kernel"


def test_a_source_is_fetched_once(apt: Any, image: Image) -> None:
    events: list[Event] = []
    assert get(image, emit=events.append) == get(image, emit=events.append)
    assert get(image, subdir="mm").path.name == "mm"
    assert len(apt.calls("unshare")) == 1
    stages = [event.stage for event in events if isinstance(event, StageStarted)]
    assert stages == ["source"]


def test_a_source_may_be_the_whole_package(apt: Any, image: Image) -> None:
    assert (get(image, subdir=".").path / "mm" / "slab.c").is_file()


def test_half_an_unpacked_source_is_unpacked_again(apt: Any, image: Image) -> None:
    tree = get(image)
    store = tree.path.parents[2]
    (store / ".complete").unlink()
    (tree.path / "inode.c").unlink()
    assert (get(image).path / "inode.c").is_file()


def test_a_directory_the_package_lacks_is_named_with_what_there_is(apt: Any, image: Image) -> None:
    with pytest.raises(ConfigError, match="has no directory 'fs/ext9'") as caught:
        get(image, subdir="fs/ext9")
    assert "minix" in caught.value.evidence
    assert "subject.source.subdir" in caught.value.hint


def cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGE = [cut, flip, empty]


def cached_deb(image: Image) -> Path:
    """The .deb of a source that will be unpacked again."""
    store = get(image).path.parents[2].parent
    shutil.rmtree(store / "fs")
    (deb,) = store.glob("*.deb")
    return deb


@pytest.mark.parametrize("with_checksum", [True, False])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_package_damaged_in_the_cache_is_named_and_fetched_again(
    apt: Any, image: Image, damage: Callable[[Path], None], with_checksum: bool
) -> None:
    deb = cached_deb(image)
    damage(deb)
    if not with_checksum:  # fetched by a vexrun that wrote none
        deb.with_name(f"{deb.name}.sha256").unlink()
    events: list[Event] = []
    tree = get(image, emit=events.append)
    assert (tree.path / "inode.c").read_text() == "int x;\n"
    assert len(apt.calls("unshare")) == 2
    (note,) = [event.text for event in events if isinstance(event, Note)]
    assert note.startswith(f"'{deb}' is damaged (")


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_package_that_arrives_damaged_is_an_error_with_a_way_out(
    apt: Any, programs: Any, image: Image, deb: Path, damage: Callable[[Path], None], home: Path
) -> None:
    bad = home / deb.name
    shutil.copy(deb, bad)
    damage(bad)
    programs.add("unshare", APT.format(does=f'cp {bad} "$6"'))
    with pytest.raises(InfrastructureError, match=r"'linux-source-6\.12' is damaged") as caught:
        get(image)
    assert caught.value.evidence.endswith(f"/{deb.name}")
    assert caught.value.hint.endswith(f"rm {caught.value.evidence}")
    assert list((home / "cache" / "work").iterdir()) == []


@pytest.mark.parametrize(
    ("said", "kind", "fix"),
    [
        ("E: Unable to locate package linux-source-6.12", ConfigError, "subject.source.apt"),
        ("E: Failed to fetch http://mirror.invalid", InfrastructureError, "VEXRUN_PROXY"),
    ],
)
def test_a_package_that_cannot_be_fetched(
    programs: Any, image: Image, said: str, kind: type[VexrunError], fix: str
) -> None:
    programs.add("unshare", APT.format(does=f"echo '{said}' >&2; exit 100"))
    with pytest.raises(kind, match=r"'linux-source-6\.12' could not be fetched") as caught:
        get(image)
    assert said in caught.value.evidence
    assert fix in caught.value.hint


def test_a_given_directory_is_the_source_whatever_the_file_says(
    make_subject: Any, image: Image, tmp_path: Path
) -> None:
    subject = make_subject(subject='name = "demo"\nsource = { apt = "linux" }')
    tree = source_of(subject, tmp_path, image, lambda _: None)
    assert (tree.path, tree.origin) == (tmp_path, str(tmp_path))
