"""Work beside the story of a run: one function in a thread, ended with the block that began it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Generic, Self, TypeVar

from vexrun import process

T = TypeVar("T")


class Background(Generic[T]):
    """Runs `work` in a thread from the start of the `with` block.

    Leaving the block before the work is done kills the process that it waits for, so that
    neither a process nor a directory in use is left behind. With `beside` false the work is
    done first, in the thread that enters the block.
    """

    def __init__(self, work: Callable[[], T], *, beside: bool = True) -> None:
        self._work = work
        self._beside = beside
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._value: T | None = None
        self._error: BaseException | None = None
        #: Seconds the work took, once it is done.
        self.duration_s = 0.0

    def _run(self) -> None:
        begun = time.monotonic()
        try:
            self._value = self._work()
        except BaseException as error:  # noqa: BLE001 - it is raised again by result()
            self._error = error
        self.duration_s = time.monotonic() - begun

    def __enter__(self) -> Self:
        if self._beside:
            self._thread.start()
        else:
            begun = time.monotonic()
            self._value = self._work()
            self.duration_s = time.monotonic() - begun
        return self

    def result(self) -> T:
        """Wait for the work; its value, or its exception raised here."""
        while self._thread.is_alive():
            # Short waits: a signal must get its chance in the main thread.
            self._thread.join(0.5)
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._thread.is_alive():
            process.cancel_thread(self._thread)
