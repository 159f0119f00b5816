"""Building an image when the machine is not up to it: a clear message, and nothing left behind."""

from __future__ import annotations

import fcntl
import os
import shutil
import types
from pathlib import Path
from typing import Any

import pytest

from vexrun.errors import ExitCode, InfrastructureError, VexrunError
from vexrun.events import Event, Note, StageFinished, StageStarted
from vexrun.image.build import ensure_base, ensure_layer
from vexrun.image.catalog import Image, lock_path
from vexrun.image.locking import is_locked
from vexrun.image.manifest import base_inputs
from vexrun.image.suites import SUITES
from vexrun.settings import ImageSettings

TRIXIE = SUITES["trixie"]
SETTINGS = ImageSettings(mirror="http://mirror.invalid/debian", proxy="http://proxy.invalid:3128")

UNREACHABLE = """
echo "I: automatically chosen format: tar"
echo "W: Failed to fetch http://mirror.invalid/debian/dists/trixie/InRelease" >&2
echo "E: apt-get update failed" >&2
exit 25
"""


@pytest.fixture
def images(home: Path) -> Path:
    return home / "cache" / "images"


@pytest.fixture
def builder(no_namespaces: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine with every program an image needs, none of which does anything."""
    for name in ("mmdebstrap", "mke2fs", "qemu-img", "ssh-keygen"):
        no_namespaces.add(name)
    space(monkeypatch, 100)
    return no_namespaces


def space(monkeypatch: pytest.MonkeyPatch, gib: float) -> None:
    usage = types.SimpleNamespace(free=int(gib * 2**30))
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)


def refused(events: list[Event] | None = None) -> InfrastructureError:
    with pytest.raises(InfrastructureError) as caught:
        ensure_base(TRIXIE, SETTINGS, (events if events is not None else []).append)
    assert caught.value.exit_code is ExitCode.INFRASTRUCTURE
    return caught.value


def left(images: Path) -> list[str]:
    return [path.name for path in images.iterdir()] if images.is_dir() else []


# -- the mirror ----------------------------------------------------------------------------------


def test_an_unreachable_mirror_is_named_with_what_apt_said(builder: Any, images: Path) -> None:
    builder.add("mmdebstrap", UNREACHABLE)
    events: list[Event] = []
    error = refused(events)
    assert "'trixie'" in error.message
    assert "http://mirror.invalid/debian" in error.message
    assert "Failed to fetch" in error.evidence
    assert "VEXRUN_MIRROR" in error.hint
    assert "VEXRUN_PROXY" in error.hint
    assert left(images) == []
    assert not is_locked(lock_path(base_inputs(TRIXIE, SETTINGS).name))
    stages = [event for event in events if isinstance(event, StageStarted | StageFinished)]
    assert [event.stage for event in stages] == ["image bootstrap"] * 2
    assert isinstance(stages[-1], StageFinished)
    assert not stages[-1].ok


def test_the_mirror_and_the_proxy_reach_mmdebstrap(builder: Any, images: Path) -> None:
    builder.add("mmdebstrap", UNREACHABLE)
    refused()
    (call,) = builder.calls("mmdebstrap")
    assert call.endswith(" http://mirror.invalid/debian")
    assert 'Acquire::http { Proxy "http://proxy.invalid:3128"; }' in call
    assert " trixie " in call


def test_a_build_that_breaks_later_leaves_nothing_either(builder: Any, images: Path) -> None:
    builder.add("ssh-keygen", "echo 'No space left on device' >&2; exit 1")
    builder.add("tar", "exit 0")
    builder.add("mmdebstrap", 'for word; do case $word in *base.tar) : >"$word" ;; esac; done')
    error = refused()
    assert "'ssh-keygen' failed" in error.message
    assert "No space left" in error.evidence
    assert left(images) == []


def test_what_a_killed_build_left_is_swept_and_another_ones_is_not(
    builder: Any, images: Path
) -> None:
    work = images.parent / "work"
    for name in ("bookworm-killed-1", "bookworm-alive-2"):
        (work / name / "rootfs").mkdir(parents=True)
    builder.add("mmdebstrap", UNREACHABLE)
    with (work / "bookworm-alive-2.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        refused()
    assert sorted(left(work)) == ["bookworm-alive-2", "bookworm-alive-2.lock"]
    assert left(images) == []


# -- the machine ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "package"),
    [
        ("mmdebstrap", "mmdebstrap"),
        ("mke2fs", "e2fsprogs"),
        ("qemu-img", "qemu-utils"),
        ("ssh-keygen", "openssh-client"),
    ],
)
def test_a_missing_program_is_named_by_its_package(
    builder: Any, images: Path, program: str, package: str
) -> None:
    (builder.directory / program).unlink()
    builder.link("tar", "setpriv", "bash", "rm")
    builder.nothing_else()
    error = refused()
    assert error.message.endswith(f"not installed: {package}.")
    assert error.hint == f"Run: sudo apt-get install --no-install-recommends {package}"
    assert left(images) == []


def test_every_missing_program_is_told_at_once(home: Path, programs: Any) -> None:
    programs.link("setpriv")
    programs.nothing_else()
    packages = "e2fsprogs mmdebstrap openssh-client qemu-utils tar util-linux"
    assert refused().hint.endswith(packages)


def test_a_machine_without_namespaces_is_told_what_to_do(builder: Any, images: Path) -> None:
    builder.add("unshare", "echo 'unshare: write failed /proc/self/uid_map' >&2; exit 1")
    error = refused()
    assert "namespace" in error.message
    assert "uid_map" in error.evidence
    assert builder.calls("mmdebstrap") == []
    if os.geteuid() != 0:
        assert error.hint.startswith("Run: sudo ")


def test_a_full_disk_is_noticed_before_anything_is_written(
    builder: Any, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space(monkeypatch, 7.4)
    error = refused()
    assert error.message == (
        f"Building an image needs 8 GiB of free disk, and '{images}' has 7.4 GiB."
    )
    assert "VEXRUN_CACHE_DIR" in error.hint
    assert builder.calls("mmdebstrap") == []
    assert left(images) == []


# -- the cache -----------------------------------------------------------------------------------


@pytest.fixture
def cached(builder: Any, images: Path, make_manifest: Any) -> Path:
    """The image that would be built."""
    inputs = base_inputs(TRIXIE, SETTINGS)
    path = images / inputs.name
    (path / "ssh").mkdir(parents=True)
    (path / "rootfs").mkdir()
    for part in ("root.qcow2", "vmlinuz", "initrd.img", "ssh/client"):
        (path / part).touch()
    manifest = make_manifest(inputs.name, key=inputs.key, inputs=inputs, packages={"gcc": "14"})
    (path / "manifest.json").write_text(manifest.model_dump_json())
    return path


def test_an_image_in_the_cache_needs_nothing(cached: Path, builder: Any) -> None:
    image = ensure_base(TRIXIE, SETTINGS, lambda _: None)
    assert image.directory == cached
    assert builder.calls("unshare") == []


def test_half_an_image_is_not_used(cached: Path, builder: Any, images: Path) -> None:
    (cached / "vmlinuz").unlink()
    builder.add("mmdebstrap", UNREACHABLE)
    assert "mmdebstrap could not make" in refused().message
    assert left(images) == []


def test_packages_the_image_has_need_no_layer(cached: Path) -> None:
    base = Image.open(cached)
    assert base is not None
    assert ensure_layer(base, ["gcc"], SETTINGS, lambda _: None) is base
    assert ensure_layer(base, [], SETTINGS, lambda _: None) is base


#: In the place of enter.sh: what apt-get says in the image.
APT = """
while [[ $1 == --* ]]; do shift; done
case "$*" in
    *probe.sh) exit 0 ;;
    *enter.sh*install*) echo "E: {install}" >&2; exit 100 ;;
    *enter.sh*update*) echo "Err: mirror.invalid"; exit {update} ;;
esac
exec "$@"
"""


@pytest.mark.parametrize(
    ("install", "update", "code", "fix"),
    [
        ("Unable to locate package nope", 0, ExitCode.USAGE, "subject.packages"),
        (
            "E: Package hfsprogs has no installation candidate",
            0,
            ExitCode.USAGE,
            "subject.packages",
        ),
        ("Unable to locate package nope", 100, ExitCode.INFRASTRUCTURE, "VEXRUN_MIRROR"),
        ("Failed to fetch http://mirror.invalid", 0, ExitCode.INFRASTRUCTURE, "VEXRUN_MIRROR"),
    ],
    ids=["unknown package", "removed package", "stale lists", "unreachable mirror"],
)
def test_packages_that_cannot_be_installed(
    cached: Path, builder: Any, images: Path, install: str, update: int, code: int, fix: str
) -> None:
    base = Image.open(cached)
    assert base is not None
    (cached / "ssh" / "host.pub").touch()
    builder.add("unshare", APT.format(install=install, update=update))
    builder.add("cp")
    with pytest.raises(VexrunError, match="could not be installed: gcc, nope") as caught:
        ensure_layer(base, ["gcc", "nope"], SETTINGS, lambda _: None)
    assert caught.value.exit_code == code
    assert install in caught.value.evidence
    assert fix in caught.value.hint
    assert left(images) == [cached.name]


def test_waiting_for_another_builder_is_told(cached: Path, builder: Any) -> None:
    """The other one finishes while we wait: its image is ours."""
    manifest = (cached / "manifest.json").rename(cached / "later")
    path = lock_path(cached.name)
    path.parent.mkdir(parents=True)
    notes: list[str] = []
    with path.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)

        def hear(event: Event) -> None:
            if isinstance(event, Note):
                notes.append(event.text)
                manifest.rename(cached / "manifest.json")
                fcntl.flock(other, fcntl.LOCK_UN)

        assert ensure_base(TRIXIE, SETTINGS, hear).directory == cached
    assert notes == [f"Another vexrun is building the image '{cached.name}'; waiting for it."]
    assert builder.calls("mmdebstrap") == []
