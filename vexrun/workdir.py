"""Temporary directories that a killed run cannot leave behind for ever."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from vexrun.image.locking import exclusive, is_locked
from vexrun.image.namespace import remove_tree
from vexrun.layout import cache_dir


@contextmanager
def work_directory(name: str) -> Iterator[Path]:
    """A directory below the cache, gone afterwards; those of dead runs are swept first."""
    parent = cache_dir() / "work"
    parent.mkdir(parents=True, exist_ok=True)
    directory = parent / name
    with ExitStack() as held:
        # A directory without its lock yet must not look dead to somebody else's sweep.
        with exclusive(cache_dir() / "locks" / "work.lock"):
            for stale in parent.iterdir():
                if not is_locked(stale / "lock"):
                    remove_tree(stale)
            directory.mkdir()
            lock = held.enter_context((directory / "lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield directory
        finally:
            remove_tree(directory)
