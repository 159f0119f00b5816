"""What unit tests share: directories of their own, fake programs, small subjects and trees."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vexrun import process
from vexrun.image.manifest import ImageInputs, Manifest
from vexrun.subject import Subject, load_subject

#: A subject file's sections; a test replaces or adds what it is about.
SECTIONS = {
    "subject": 'name = "demo"',
    "module": 'ko = "demo.ko"',
    "filesystem": 'type = "demo"\nmkfs = "true"',
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """vexrun's cache, state and settings, of this test alone; `home / "config.toml"`."""
    for name in [name for name in os.environ if name.startswith("VEXRUN_")]:
        monkeypatch.delenv(name)
    directory = tmp_path / "home"
    directory.mkdir()
    monkeypatch.setenv("VEXRUN_CACHE_DIR", str(directory / "cache"))
    monkeypatch.setenv("VEXRUN_STATE_DIR", str(directory / "state"))
    monkeypatch.setenv("VEXRUN_DEVICES_DIR", str(directory / "devices"))
    (directory / "config.toml").touch()
    monkeypatch.setenv("VEXRUN_CONFIG", str(directory / "config.toml"))
    return directory


class Programs:
    """Fake executables, first on PATH."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        self._monkeypatch = monkeypatch
        directory.mkdir()
        monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")

    def add(self, name: str, script: str = "exit 0") -> Path:
        """A bash script called `name`; it appends its arguments to `calls(name)`."""
        path = self.directory / name
        log = self.directory / f"{name}.calls"
        path.write_text(f'#!/bin/bash\nprintf "%s\\n" "$*" >>{log}\n{script}\n')
        path.chmod(0o755)
        return path

    def calls(self, name: str) -> list[str]:
        """The arguments of each call so far."""
        log = self.directory / f"{name}.calls"
        return log.read_text().splitlines() if log.exists() else []

    def link(self, *names: str) -> None:
        """Real programs of this machine."""
        for name in names:
            found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
            assert found is not None, f"{name} is not installed here"
            (self.directory / name).symlink_to(found)

    def nothing_else(self) -> None:
        """From now on no other program is installed."""
        self._monkeypatch.setenv("PATH", str(self.directory))
        self._monkeypatch.setattr(process, "_SYSTEM_PATH", str(self.directory))


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    return Programs(tmp_path / "bin", monkeypatch)


#: Runs what follows its options: no namespaces, so no privileges and no uidmap.
UNSHARE = 'while [[ $1 == --* ]]; do shift; done; [[ $2 == */probe.sh ]] && exit 0; exec "$@"'


@pytest.fixture
def no_namespaces(programs: Programs) -> Programs:
    programs.add("unshare", UNSHARE)
    return programs


@pytest.fixture
def ordinary_user() -> Iterator[Path]:
    """This process as a user without privileges, who root's tests need to be refused anything.

    Yields a directory of this user's, outside of root's temporary ones.
    """
    directory = Path(tempfile.mkdtemp(prefix="vexrun-unit-"))
    root = os.geteuid() == 0
    if root:
        os.chown(directory, 65534, 65534)
        os.seteuid(65534)
    try:
        yield directory
    finally:
        if root:
            os.seteuid(0)
        subprocess.run(["chmod", "-R", "u+rwX", directory], check=True)
        shutil.rmtree(directory)


MakeManifest = Callable[..., Manifest]


@pytest.fixture
def make_manifest() -> MakeManifest:
    """Manifests of images that exist on paper alone; keywords replace fields."""

    def make(name: str = "trixie-0", **changed: Any) -> Manifest:
        fields = {
            "name": name,
            "key": name.rpartition("-")[2],
            "inputs": ImageInputs(suite="trixie", disk_gib=12, roles_sha256=""),
            "created_at": "",
            "built_as": "root",
            "kernel_release": "6.12.9-amd64",
            "packages": {},
            "sha256": {},
            "files_sha256": "",
        }
        return Manifest(**{**fields, **changed})

    return make


SubjectText = Callable[..., str]
MakeSubject = Callable[..., Subject]


@pytest.fixture
def subject_text() -> SubjectText:
    """TOML of a small valid subject; keywords replace, add or (None) drop sections."""

    def text(more: str = "", **changed: str | None) -> str:
        sections = {**SECTIONS, **changed}
        parts = [f"[{name}]\n{body}" for name, body in sections.items() if body is not None]
        return "\n".join([*parts, more, ""])

    return text


@pytest.fixture
def make_subject(tmp_path: Path, subject_text: SubjectText) -> MakeSubject:
    """The subject of `subject_text`, loaded from a file."""

    def make(more: str = "", **changed: str | None) -> Subject:
        path = tmp_path / "made-subject.toml"
        path.write_text(subject_text(more, **changed))
        return load_subject(path)

    return make


@pytest.fixture
def source_tree(tmp_path: Path, subject_text: SubjectText) -> Path:
    """A small source tree with its subject file."""
    root = tmp_path / "source"
    root.mkdir()
    (root / "vexrun.toml").write_text(subject_text())
    (root / "Kbuild").write_text("obj-m += demo.o\n")
    (root / "demo.c").write_text("int x;\n")
    return root
