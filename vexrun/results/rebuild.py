"""Results of a run that could not write them, from its events.jsonl."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vexrun.results.model import (
    KernelEvent,
    Measurement,
    MemoryImage,
    RunResults,
    TestResult,
)

EVENTS_FILE = "events.jsonl"


def rebuild_results(directory: Path) -> RunResults | None:
    """What the events tell of a run; None when it was killed before it could describe itself.

    Nothing is judged here: of a run that ended properly this equals its results.json.
    """
    results: RunResults | None = None
    for event in _events(directory / EVENTS_FILE):
        kind = event["event"]
        if kind == "RunDescribed":
            results = RunResults.model_validate(event["results"])
        elif results is None:
            continue
        elif kind == "TestFinished":
            results.tests.append(TestResult.model_validate(event["result"]))
        elif kind == "KernelEventSeen":
            results.kernel_events.append(KernelEvent.model_validate(event["kernel_event"]))
        elif kind == "Measured":
            results.measurements.append(Measurement.model_validate(event["measurement"]))
        elif kind == "MemoryImageKept":
            results.memory_images.append(MemoryImage.model_validate(event["image"]))
        elif kind == "StageFinished":
            name, spent = event["stage"], event["duration_s"]
            results.durations[name] = round(results.durations.get(name, 0.0) + spent, 2)
        elif kind == "Note" and event["text"] not in results.notes:
            results.notes.append(event["text"])
    return results


def finished_categories(directory: Path) -> set[str]:
    """Categories of which every collected test has a result."""
    collected: set[str] = set()
    finished: set[str] = set()
    for event in _events(directory / EVENTS_FILE):
        if event["event"] == "TestsCollected":
            collected |= set(event["ids"])
        elif event["event"] == "TestFinished":
            finished.add(event["result"]["id"])
    unfinished = {identifier.split("/", 1)[0] for identifier in collected - finished}
    return {identifier.split("/", 1)[0] for identifier in collected} - unfinished


def _events(file: Path) -> Iterator[dict[str, Any]]:
    """The events of a file, up to a line that was cut when its writer was killed."""
    if not file.is_file():
        return
    with file.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                return
