"""Signals that ask us to stop become an exception, so that everything is cleaned up and written."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from vexrun.errors import InterruptedRunError

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _raise(number: int, _frame: FrameType | None) -> None:
    # Once: a second signal must not cut the cleaning up short.
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise InterruptedRunError(f"The run was interrupted ({signal.Signals(number).name}).")


@contextmanager
def uninterruptible() -> Iterator[None]:
    """Within the block the same signals are ignored: cleaning up and writing take seconds."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def interruptible() -> Iterator[None]:
    """Within the block SIGINT, SIGTERM and SIGHUP raise InterruptedRunError, once."""
    before = {number: signal.signal(number, _raise) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
