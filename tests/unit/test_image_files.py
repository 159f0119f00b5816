"""What differs between two root filesystems of the same inputs, and which of it has a reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vexrun.image.files import compare_listings, list_files


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "motd").write_text("hello\n")
    (root / "etc" / "two words").write_text("x")
    (root / "bin").symlink_to("usr/bin")
    return root


@pytest.fixture
def listing(root: Path, no_namespaces: object) -> Path:
    path = root.with_name("first.txt")
    list_files(root, path)
    return path


def again(root: Path) -> Path:
    path = root.with_name("second.txt")
    list_files(root, path)
    return path


def test_one_tree_has_no_differences(root: Path, listing: Path) -> None:
    assert compare_listings(listing, again(root)) == []
    assert len(listing.read_text().splitlines()) == 4


def test_content_is_compared_not_time(root: Path, listing: Path) -> None:
    (root / "etc" / "motd").write_text("hello\n")
    assert compare_listings(listing, again(root)) == []


@pytest.mark.parametrize(
    ("change", "path", "kind"),
    [
        (lambda root: (root / "etc/motd").write_text("hullo\n"), "etc/motd", "content"),
        (lambda root: (root / "etc/two words").write_text("y"), "etc/two words", "content"),
        (lambda root: (root / "etc/motd").chmod(0o600), "etc/motd", "mode or owner"),
        (lambda root: (root / "etc/motd").unlink(), "etc/motd", "only in first"),
        (lambda root: (root / "new").touch(), "new", "only in second"),
        (lambda root: (root / "etc").chmod(0o700), "etc", "mode or owner"),
    ],
)
def test_a_difference_is_named_and_unexplained(
    root: Path, listing: Path, change: Callable[[Path], object], path: str, kind: str
) -> None:
    change(root)
    (found,) = compare_listings(listing, again(root))
    assert (found.path, found.kind, found.reason) == (path, kind, None)


def test_a_link_that_points_elsewhere_differs(root: Path, listing: Path) -> None:
    (root / "bin").unlink()
    (root / "bin").symlink_to("sbin")
    (found,) = compare_listings(listing, again(root))
    assert (found.path, found.kind) == ("bin", "content")


@pytest.mark.parametrize(
    ("path", "explained"),
    [
        ("var/lib/dbus/machine-id", True),
        ("var/lib/dbus/other", False),
        ("etc/ssh/ssh_host_ed25519_key", True),
        ("root/.ssh/authorized_keys", True),
        ("boot/initrd.img-6.12", True),
        ("var/log/bootstrap.log", True),
        ("etc/machine-id", True),
        ("etc/passwd", False),
        ("usr/lib/modules/6.12/kernel/fs/minix.ko", False),
        ("boot/vmlinuz-6.12", False),
        ("usr/share/var/log/x", False),
    ],
)
def test_only_known_differences_are_explained(tmp_path: Path, path: str, explained: bool) -> None:
    for name, content in (("a", "1" * 64), ("b", "2" * 64)):
        (tmp_path / name).write_text(f"100644 0:0 {content} {path}\n")
    (found,) = compare_listings(tmp_path / "a", tmp_path / "b")
    assert (found.reason is not None) is explained
