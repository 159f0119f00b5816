"""The source tree: what counts as source, its hash, and noticing every change."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from vexrun.errors import ConfigError
from vexrun.tree import (
    build_products,
    copy_clean,
    git_state,
    is_build_product,
    measure,
    source_files,
)

PRODUCTS = [
    *("demo.o", "demo.ko", "demo.mod", "demo.mod.c", ".demo.o.cmd", "Module.symvers"),
    *("modules.order", ".module-common.o"),
]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "kernel").mkdir(parents=True)
    (root / "Kbuild").write_text("obj-m += demo.o\n")
    (root / "kernel" / "demo.c").write_text("int x;\n")
    (root / "kernel" / "tool.sh").write_text("true\n")
    (root / "kernel" / "tool.sh").chmod(0o755)
    (root / "current").symlink_to("kernel")
    (root / "latest.c").symlink_to("kernel/demo.c")
    return root


def names(root: Path) -> list[str]:
    return [str(path) for path in source_files(root)]


SOURCE = ["Kbuild", "current", "latest.c", "kernel/demo.c", "kernel/tool.sh"]


# -- what is source ------------------------------------------------------------------------------


def test_files_and_links_are_source(tree: Path) -> None:
    assert names(tree) == SOURCE


@pytest.mark.parametrize("product", PRODUCTS)
def test_build_products_are_not_source(tree: Path, product: str) -> None:
    (tree / "kernel" / product).write_text("made")
    assert names(tree) == SOURCE
    assert is_build_product(product)


@pytest.mark.parametrize("name", ["demo.c", "demo.h", "Makefile", "o", "ko.c", "demo.mod.h"])
def test_sources_are_no_build_products(name: str) -> None:
    assert not is_build_product(name)


@pytest.mark.parametrize("directory", [".git", ".hg", ".svn", ".tmp_versions"])
def test_version_control_is_not_source(tree: Path, directory: str) -> None:
    (tree / directory).mkdir()
    (tree / directory / "config").write_text("x")
    assert names(tree) == SOURCE


def test_the_git_file_of_a_worktree_is_not_source(tree: Path) -> None:
    (tree / ".git").write_text("gitdir: /elsewhere\n")
    assert names(tree) == SOURCE


@pytest.mark.parametrize("cargo", [True, False], ids=["beside Cargo.toml", "without Cargo.toml"])
def test_a_directory_target_is_cargos_only_beside_its_manifest(tree: Path, cargo: bool) -> None:
    (tree / "kernel" / "target").mkdir()
    (tree / "kernel" / "target" / "x86.c").write_text("x")
    if cargo:
        (tree / "kernel" / "Cargo.toml").write_text("[package]\n")
    assert ("kernel/target/x86.c" in names(tree)) is not cargo


# -- the hash ------------------------------------------------------------------------------------


def touch_all(root: Path) -> None:
    for path in root.rglob("*"):
        os.utime(path, (1, 1), follow_symlinks=False)


def git_and_products(root: Path) -> None:
    (root / ".git").mkdir()
    (root / ".git" / "HEAD").write_text("x")
    (root / "demo.ko").write_text("made")


def private(root: Path) -> None:
    """What another umask makes of a checkout."""
    (root / "Kbuild").chmod(0o600)
    (root / "kernel").chmod(0o700)


def empty_directory(root: Path) -> None:
    (root / "new").mkdir()


@pytest.mark.parametrize("change", [touch_all, git_and_products, private, empty_directory])
def test_the_hash_is_of_the_source_alone(tree: Path, change: Callable[[Path], None]) -> None:
    before = measure(tree).sha256
    change(tree)
    assert measure(tree).sha256 == before


def test_a_copy_elsewhere_has_the_same_hash(tree: Path, tmp_path: Path) -> None:
    shutil.copytree(tree, tmp_path / "other" / "deep", symlinks=True)
    assert measure(tmp_path / "other" / "deep").sha256 == measure(tree).sha256


CHANGES: dict[str, Callable[[Path], object]] = {
    "content": lambda root: (root / "Kbuild").write_text("obj-m += demO.o\n"),
    "executable": lambda root: (root / "Kbuild").chmod(0o755),
    "name": lambda root: (root / "Kbuild").rename(root / "Makefile"),
    "new file": lambda root: (root / "new.c").write_text(""),
    "removed file": lambda root: (root / "kernel" / "demo.c").unlink(),
    "moved file": lambda root: (root / "kernel" / "demo.c").rename(root / "demo.c"),
    "link target": lambda root: relink(root / "latest.c", "Kbuild"),
    "link becomes file": lambda root: (
        (root / "latest.c").unlink(),
        (root / "latest.c").write_text("kernel/demo.c"),
    ),
}


def relink(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_the_source_changes_the_hash(tree: Path, change: str) -> None:
    before = measure(tree)
    CHANGES[change](tree)
    after = measure(tree)
    assert after.sha256 != before.sha256
    assert after.fingerprint != before.fingerprint


#: Changes that are none of the source's, and still must not come from us.
TRACES: dict[str, Callable[[Path], object]] = {
    "build product": lambda root: (root / "demo.ko").write_text("made"),
    "empty directory": empty_directory,
    "mode": lambda root: (root / "Kbuild").chmod(0o600),
    "directory mode": lambda root: (root / "kernel").chmod(0o700),
    "time": lambda root: os.utime(root / "Kbuild", (1, 1)),
    "time of a directory": lambda root: os.utime(root / "kernel", (1, 1)),
    "fifo": lambda root: os.mkfifo(root / "fifo"),
    "dangling link": lambda root: (root / "dangling").symlink_to("nowhere"),
}


@pytest.mark.parametrize("trace", TRACES)
def test_the_fingerprint_notices_any_change(tree: Path, trace: str) -> None:
    before = measure(tree).fingerprint
    TRACES[trace](tree)
    assert measure(tree).fingerprint != before


def test_measuring_changes_nothing(tree: Path) -> None:
    assert measure(tree) == measure(tree)


def test_names_that_are_not_utf_8_are_measured(tree: Path) -> None:
    before = measure(tree).sha256
    (Path(os.fsdecode(os.fsencode(tree) + b"/caf\xe9.c"))).write_text("x")
    assert measure(tree).sha256 != before


# -- what cannot be read, and what is no file ----------------------------------------------------


@pytest.fixture
def users_tree(ordinary_user: Path) -> Path:
    """A tree of a user who is not root, with the subject file of `load_subject`."""
    root = ordinary_user / "tree"
    (root / "fs").mkdir(parents=True)
    (root / "Kbuild").write_text("obj-m += demo.o\n")
    (root / "fs" / "demo.c").write_text("int x;\n")
    return root


@pytest.mark.parametrize(
    ("name", "mode", "named"),
    [
        ("fs/demo.c", 0o000, "fs/demo.c"),
        ("fs", 0o000, "fs"),
        ("fs", 0o444, "fs/demo.c"),  # listed, not searched
        ("fs", 0o111, "fs"),
        (".", 0o000, ""),
    ],
)
def test_a_source_that_cannot_be_read_is_the_users_to_correct(
    users_tree: Path, name: str, mode: int, named: str
) -> None:
    (users_tree / name).chmod(mode)
    with pytest.raises(ConfigError, match="cannot be read: Permission denied") as caught:
        measure(users_tree)
    assert f"'{users_tree / named}'" in caught.value.message
    assert "read access" in caught.value.hint
    assert caught.value.exit_code == 2


def test_a_build_product_need_not_be_readable(users_tree: Path) -> None:
    before = measure(users_tree)
    (users_tree / "demo.ko").write_text("made")
    (users_tree / "demo.ko").chmod(0)
    assert measure(users_tree).sha256 == before.sha256


def test_a_source_on_a_broken_disk_is_named(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: Path) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(Path, "read_bytes", read)
    with pytest.raises(ConfigError, match=r"/Kbuild' cannot be read: Input/output error"):
        measure(tree)


def socket_file(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as end:
        here = Path.cwd()
        os.chdir(path.parent)  # a socket's path has at most 107 bytes
        try:
            end.bind(path.name)
        finally:
            os.chdir(here)


def loop(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize("make", [os.mkfifo, socket_file], ids=["fifo", "socket"])
def test_what_is_neither_file_nor_link_is_no_source_and_never_opened(
    tree: Path, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    before = measure(tree)
    make(tree / "kernel" / "odd")
    assert measure(tree).sha256 == before.sha256
    assert measure(tree).fingerprint != before.fingerprint
    copy_clean(tree, tmp_path / "copy")
    assert names(tmp_path / "copy") == SOURCE


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda path: path.symlink_to("nowhere"), id="dangling"),
        pytest.param(loop, id="loop"),
        pytest.param(lambda path: path.symlink_to(".."), id="parent"),
        pytest.param(lambda path: path.symlink_to("/"), id="root"),
    ],
)
def test_a_link_is_source_by_its_target_text_and_never_followed(
    tree: Path, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    before = measure(tree)
    make(tree / "kernel" / "odd")
    assert measure(tree).sha256 != before.sha256
    assert names(tree) == sorted([*SOURCE, "kernel/odd"], key=lambda name: ("/" in name, name))
    copy_clean(tree, tmp_path / "copy")
    assert (tmp_path / "copy/kernel/odd").readlink() == (tree / "kernel/odd").readlink()


# -- the clean copy ------------------------------------------------------------------------------


def test_a_clean_copy_is_the_source_and_nothing_else(tree: Path, tmp_path: Path) -> None:
    git_and_products(tree)
    os.utime(tree / "Kbuild", (7, 7))
    copy_clean(tree, tmp_path / "copy")
    copy = tmp_path / "copy"
    assert names(copy) == SOURCE
    assert not (copy / ".git").exists()
    assert not (copy / "demo.ko").exists()
    assert measure(copy).sha256 == measure(tree).sha256
    assert (copy / "current").readlink() == Path("kernel")
    assert (copy / "Kbuild").stat().st_mtime == 7


# -- build products that lie about ---------------------------------------------------------------


@pytest.fixture
def git(tmp_path: Path) -> Callable[..., str]:
    def run(root: Path, *args: str) -> str:
        return subprocess.run(
            ["git", "-C", root, "-c", "user.name=t", "-c", "user.email=t@t", *args],
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "GIT_CONFIG_NOSYSTEM": "1"},
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    return run


def test_build_products_are_found_wherever_they_lie(tree: Path) -> None:
    (tree / "kernel" / "demo.ko").write_text("made")
    (tree / "modules.order").write_text("made")
    assert build_products(tree) == [Path("kernel/demo.ko"), Path("modules.order")]


def test_what_git_ignores_is_nobodys_leftover(tree: Path, git: Callable[..., str]) -> None:
    git(tree, "init", "-q")
    (tree / ".gitignore").write_text("*.ko\n")
    for name in ("demo.ko", "d\u00e9mo.ko", "two words.ko", "demo.o"):
        (tree / name).write_text("made")
    assert build_products(tree) == [Path("demo.o")]


# -- git -----------------------------------------------------------------------------------------


def test_outside_git_nothing_is_known(tree: Path) -> None:
    state = git_state(tree)
    assert (state.commit, state.dirty) == (None, None)


def test_a_repository_without_a_commit_has_none(tree: Path, git: Callable[..., str]) -> None:
    git(tree, "init", "-q")
    assert git_state(tree).commit is None


def test_commit_and_dirt_are_told_without_touching_the_index(
    tree: Path, git: Callable[..., str]
) -> None:
    git(tree, "init", "-q")
    git(tree, "add", ".")
    git(tree, "commit", "-qm", "x")
    clean = git_state(tree)
    assert clean.commit == git(tree, "rev-parse", "HEAD").strip()
    assert clean.dirty is False
    os.utime(tree / "Kbuild", (1, 1))  # git would refresh its index
    index = (tree / ".git" / "index").read_bytes()
    assert git_state(tree).dirty is False
    assert (tree / ".git" / "index").read_bytes() == index
    (tree / "Kbuild").write_text("changed\n")
    assert git_state(tree).dirty is True


def test_dirt_beside_the_subject_is_not_the_subjects(tree: Path, git: Callable[..., str]) -> None:
    git(tree, "init", "-q")
    git(tree, "add", ".")
    git(tree, "commit", "-qm", "x")
    (tree / "elsewhere").write_text("x")
    assert git_state(tree / "kernel").dirty is False
