"""Unfinished things live in one directory of the cache, where no killed run leaves any for ever."""

from __future__ import annotations

import fcntl
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from vexrun.image.locking import exclusive, is_locked
from vexrun.image.namespace import remove_tree
from vexrun.layout import cache_dir

_OUTSIDE_NOTE = "outside"
_OUTSIDE_PREFIX = "vexrun-outside-"
#: Directories elsewhere that a work directory may name; a torn note must not delete anything else.
_OUTSIDE_PREFIXES = (_OUTSIDE_PREFIX, "vexrun-dev-")


@contextmanager
def work_directory(name: str) -> Iterator[Path]:
    """A directory below the cache, gone afterwards; those of dead runs are swept first.

    What is made in it may be renamed to its place in the cache when it is whole, the directory
    itself too.
    """
    directory = _parent() / name
    with ExitStack() as held:
        # A directory without its lock yet must not look dead to somebody else's sweep.
        with exclusive(_sweep_lock()):
            _sweep()
            directory.mkdir(parents=True)
            lock = held.enter_context(_lock_of(directory).open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield directory
        finally:
            remove_tree(directory)
            _lock_of(directory).unlink()


@contextmanager
def outside_directory(work: Path) -> Iterator[Path]:
    """A temporary directory that other users can reach, for the caches of a user are private.

    `work` is the work directory with which it is swept should we be killed.
    """
    directory = Path(tempfile.gettempdir()) / f"{_OUTSIDE_PREFIX}{secrets.token_hex(8)}"
    (work / _OUTSIDE_NOTE).write_text(str(directory))
    try:
        directory.mkdir(mode=0o700)
        directory.chmod(0o755)  # whatever the umask is
        yield directory
    finally:
        remove_tree(directory)
        (work / _OUTSIDE_NOTE).unlink()


@contextmanager
def private_directory(directory: Path) -> Iterator[Path]:
    """`directory`, outside of the cache, for nobody else; swept with a work directory of its own.

    Its name has to begin with one of `_OUTSIDE_PREFIXES`.
    """
    assert directory.name.startswith(_OUTSIDE_PREFIXES), directory
    with work_directory(directory.name) as work:
        (work / _OUTSIDE_NOTE).write_text(str(directory))
        try:
            directory.mkdir(mode=0o700)
            yield directory
        finally:
            if directory.exists():
                remove_tree(directory)
            (work / _OUTSIDE_NOTE).unlink()


def sweep_work_directories() -> None:
    """Remove what killed runs left; a directory whose maker lives is never touched."""
    if _parent().is_dir():
        with exclusive(_sweep_lock()):
            _sweep()


def _sweep() -> None:
    if not _parent().is_dir():
        return
    for path in _parent().iterdir():
        if path.suffix == ".lock":
            # A killed run's whose directory has moved to its place, or was being removed.
            if not path.with_suffix("").exists() and not is_locked(path):
                path.unlink(missing_ok=True)  # gone with its directory, a moment ago
        elif not is_locked(_lock_of(path)):
            _remove_outside(path / _OUTSIDE_NOTE)
            remove_tree(path)
            _lock_of(path).unlink(missing_ok=True)


def _remove_outside(note: Path) -> None:
    if note.is_file():
        directory = Path(note.read_text())
        if directory.name.startswith(_OUTSIDE_PREFIXES):
            remove_tree(directory)


def _parent() -> Path:
    return cache_dir() / "work"


def _lock_of(directory: Path) -> Path:
    """Beside the directory, for that may be renamed."""
    return directory.with_name(f"{directory.name}.lock")


def _sweep_lock() -> Path:
    return cache_dir() / "locks" / "work.lock"
