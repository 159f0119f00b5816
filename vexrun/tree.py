"""The subject's source tree: what counts as source, its hash, and proof that we left it alone."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vexrun.errors import ConfigError
from vexrun.process import find_program, run

#: Never source: version control and what Kbuild and cargo leave behind.
BUILD_PRODUCTS = (
    "*.o",
    "*.ko",
    "*.mod",
    "*.mod.c",
    ".*.cmd",
    "Module.symvers",
    "modules.order",
    ".module-common.o",
)
_VERSION_CONTROL = (".git", ".hg", ".svn")
_PRODUCT_DIRECTORIES = (".tmp_versions",)
#: Looks only: without optional locks `git status` would rewrite the user's index.
#: A tree of another user must not run code through its .git/config: no hooks, no monitor.
_GIT = (
    *("git", "--no-optional-locks", "-c", "safe.directory=*"),
    *("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-C"),
)


@dataclass(frozen=True)
class SourceState:
    """What the tree was at one moment. `sha256` covers source files (path, mode, content);
    `fingerprint` covers every entry, build products included, by path, type, mode, size, mtime.
    """

    sha256: str
    fingerprint: str


@contextmanager
def what_cannot_be_read_is_named() -> Iterator[None]:
    """Whoever gives a tree answers for its permissions: ConfigError with the path, not 69."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"The source '{error.filename}' cannot be read: {error.strerror}.",
            hint="Give the user that runs vexrun read access to the whole tree, and leave it alone "
            "while it is read.",
        ) from error


def is_build_product(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in BUILD_PRODUCTS)


def _is_product_directory(parent: Path, name: str) -> bool:
    if name in _PRODUCT_DIRECTORIES:
        return True
    return name == "target" and (parent / "Cargo.toml").is_file()


def source_files(root: Path) -> Iterator[Path]:
    """Source files and symbolic links below `root`, relative and sorted; no build products."""
    for directory, subdirectories, names in os.walk(root, onerror=_raise):
        here = Path(directory)
        links = [name for name in subdirectories if (here / name).is_symlink()]
        subdirectories[:] = sorted(
            name
            for name in subdirectories
            if name not in links
            and name not in _VERSION_CONTROL
            and not _is_product_directory(here, name)
        )
        for name in sorted(names + links):
            path = here / name
            if name in _VERSION_CONTROL or is_build_product(name):
                continue
            if path.is_symlink() or path.is_file():
                yield path.relative_to(root)


@what_cannot_be_read_is_named()
def build_products(root: Path) -> list[Path]:
    """Build products lying in the tree that git does not ignore, relative to `root`."""
    found = []
    for directory, subdirectories, names in os.walk(root, onerror=_raise):
        here = Path(directory)
        subdirectories[:] = [
            name
            for name in subdirectories
            if name not in _VERSION_CONTROL and not _is_product_directory(here, name)
        ]
        found += [
            (here / name).relative_to(root)
            for name in names
            if is_build_product(name) and not name.startswith(".")
        ]
    return sorted(_not_ignored(root, found))


def _not_ignored(root: Path, paths: list[Path]) -> list[Path]:
    if not paths or not _in_git(root):
        return paths
    checked = run(
        [*_GIT, str(root), "check-ignore", "--stdin", "-z"],
        input_text="\0".join(map(str, paths)),
        check=False,
    )
    ignored = set(checked.stdout.split("\0"))
    return [path for path in paths if str(path) not in ignored]


@what_cannot_be_read_is_named()
def measure(root: Path) -> SourceState:
    """Hash the tree. Cost: one read of every source file and one lstat of everything else."""
    content = hashlib.sha256()
    for relative in source_files(root):
        path = root / relative
        content.update(str(relative).encode(errors="surrogateescape") + b"\0")
        if path.is_symlink():
            content.update(b"l" + os.fsencode(path.readlink()) + b"\0")
        else:
            executable = b"x" if path.stat().st_mode & 0o111 else b"-"
            content.update(executable + hashlib.sha256(path.read_bytes()).digest())
    everything = hashlib.sha256()
    for directory, subdirectories, names in os.walk(root, onerror=_raise):
        subdirectories[:] = sorted(n for n in subdirectories if n not in _VERSION_CONTROL)
        for name in sorted(subdirectories + names):
            path = Path(directory) / name
            status = path.lstat()
            record = (str(path.relative_to(root)), status.st_mode, status.st_mtime_ns)
            size = 0 if path.is_dir() and not path.is_symlink() else status.st_size
            everything.update(repr((*record, size)).encode(errors="surrogateescape"))
    return SourceState(content.hexdigest(), everything.hexdigest())


def _raise(error: OSError) -> None:
    """For os.walk, which otherwise passes over what it cannot read."""
    raise error


def copy_clean(root: Path, destination: Path) -> None:
    """Copy the source files (no build products) to a fresh `destination`, times preserved."""
    destination.mkdir(parents=True, exist_ok=True)
    for relative in source_files(root):
        target = destination / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / relative, target, follow_symlinks=False)


def _in_git(root: Path) -> bool:
    if find_program("git") is None:
        return False
    inside = run([*_GIT, str(root), "rev-parse", "--show-toplevel"], check=False)
    return inside.returncode == 0


@dataclass(frozen=True)
class Commit:
    """The git state of the tree; both None outside a repository."""

    commit: str | None
    dirty: bool | None


def git_state(root: Path) -> Commit:
    if not _in_git(root):
        return Commit(None, None)
    git = [*_GIT, str(root)]
    head = run([*git, "rev-parse", "HEAD"], check=False)
    if head.returncode != 0:
        return Commit(None, None)
    if _has_filters(root):
        # `git status` would run the commands that the tree's own configuration names.
        return Commit(head.stdout.strip(), None)
    status = run([*git, "status", "--porcelain", "--", "."], check=False)
    return Commit(head.stdout.strip(), bool(status.stdout.strip()))


def _has_filters(root: Path) -> bool:
    listed = run([*_GIT, str(root), "config", "--local", "--name-only", "--list"], check=False)
    return any(key.startswith("filter.") for key in listed.stdout.splitlines())
