"""Typed progress events. The core emits them; `vexrun.progress` alone draws them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from vexrun.results.model import (
    KernelEvent,
    Measurement,
    MemoryImage,
    RunResults,
    TestResult,
)


@dataclass(frozen=True)
class Event:
    """Base of all events; `at` is seconds since the epoch."""

    at: float = field(default_factory=time.time, kw_only=True)

    def record(self) -> dict[str, Any]:
        """The event as one JSON-ready object for events.jsonl."""
        return {"event": type(self).__name__, **asdict(self)}


@dataclass(frozen=True)
class StageStarted(Event):
    stage: str
    detail: str = ""


@dataclass(frozen=True)
class StageFinished(Event):
    stage: str
    duration_s: float
    ok: bool = True


@dataclass(frozen=True)
class Progress(Event):
    """A sign of life inside a stage, such as the Ansible task now running."""

    text: str


@dataclass(frozen=True)
class Note(Event):
    """Something the user should know that changes nothing, such as why TCG is used."""

    text: str


@dataclass(frozen=True)
class RunDescribed(Event):
    """Everything the results hold by now; what is found later comes in events of its own."""

    results: RunResults

    def record(self) -> dict[str, Any]:
        return {
            "event": "RunDescribed",
            "at": self.at,
            "results": self.results.model_dump(mode="json"),
        }


@dataclass(frozen=True)
class TestsCollected(Event):
    """The tests that a test process is going to run."""

    __test__ = False
    ids: list[str]


@dataclass(frozen=True)
class TestStarted(Event):
    __test__ = False
    test_id: str


@dataclass(frozen=True)
class TestFinished(Event):
    __test__ = False
    result: TestResult

    def record(self) -> dict[str, Any]:
        return {
            "event": "TestFinished",
            "at": self.at,
            "result": self.result.model_dump(mode="json"),
        }


@dataclass(frozen=True)
class Measured(Event):
    measurement: Measurement

    def record(self) -> dict[str, Any]:
        return {
            "event": "Measured",
            "at": self.at,
            "measurement": self.measurement.model_dump(mode="json"),
        }


@dataclass(frozen=True)
class KernelEventSeen(Event):
    kernel_event: KernelEvent

    def record(self) -> dict[str, Any]:
        return {
            "event": "KernelEventSeen",
            "at": self.at,
            "kernel_event": self.kernel_event.model_dump(mode="json"),
        }


@dataclass(frozen=True)
class MemoryImageKept(Event):
    image: MemoryImage

    def record(self) -> dict[str, Any]:
        return {
            "event": "MemoryImageKept",
            "at": self.at,
            "image": self.image.model_dump(mode="json"),
        }


Emit = Callable[[Event], None]


def ignore(_event: Event) -> None:
    """For callers that want no progress."""


class Stages:
    """Times the named stages of a run; `durations` is {stage: seconds} in order of first start."""

    def __init__(self, emit: Emit) -> None:
        self.emit = emit
        self.durations: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, detail: str = "") -> Iterator[None]:
        self.emit(StageStarted(name, detail))
        begun = time.monotonic()
        ok = False
        try:
            yield
            ok = True
        finally:
            self._spent(name, time.monotonic() - begun, ok)

    def went_beside(self, name: str, duration_s: float) -> None:
        """A stage that ran in the background of others, told when it is over."""
        self.emit(StageStarted(name, "in the background"))
        self._spent(name, duration_s, True)

    def _spent(self, name: str, duration_s: float, ok: bool) -> None:
        self.durations[name] = self.durations.get(name, 0.0) + duration_s
        self.emit(StageFinished(name, duration_s, ok))
