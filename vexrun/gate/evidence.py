"""The evidence of one run, read from its directory, and whether it is what the run wrote.

The verdict is recorded in three places that must agree: `results.json`, the last event of
`events.jsonl`, and the tests themselves. Below them lie the logs and the module: the console is
parsed once more, the module is hashed once more. Whoever edits one of these has to edit all.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from pydantic import ValidationError

from vexrun.categories import CATEGORIES
from vexrun.errors import BuildFailedError, ConfigError
from vexrun.guest.context import RunContext
from vexrun.image.manifest import MANIFEST_NAME, Manifest, sha256_of
from vexrun.kernel_log import KernelLogParser
from vexrun.module_file import ModuleFile, read_module_file
from vexrun.report.json import to_json
from vexrun.results.model import EXECUTED, KernelEvent, Outcome, RunResults, TestResult
from vexrun.results.readers import FILENAME, load_results
from vexrun.results.rebuild import EVENTS_FILE, rebuild_results
from vexrun.rundir import goes_on
from vexrun.verdict import judge

CONTEXT_FILE = "context.json"
CONSOLE_FILE = "console.log"
#: Set by the session after each test (vexrun.target.kernel_watch); 0 is a machine's first.
_MARK = re.compile(rb"vexrun-mark ([0-9a-f]+) (\d{5})")
TEARDOWN = "teardown"


@dataclass(frozen=True)
class Evidence:
    """A run's directory and the results in it."""

    directory: Path
    results: RunResults

    @cached_property
    def module(self) -> ModuleFile | None:
        """The .ko that the run has kept, read again."""
        name = self.results.module.file
        if name is None or Path(name).name != name or not (self.directory / name).is_file():
            return None
        try:
            return read_module_file(self.directory / name)
        except (BuildFailedError, OSError):
            return None

    @cached_property
    def context(self) -> RunContext | None:
        """What the tests were told."""
        try:
            return RunContext.model_validate_json((self.directory / CONTEXT_FILE).read_text())
        except (OSError, ValueError, ValidationError):
            return None

    @cached_property
    def manifest(self) -> Manifest | None:
        try:
            text = (self.directory / MANIFEST_NAME).read_text()
            return Manifest.model_validate(json.loads(text))
        except (OSError, ValueError, ValidationError):
            return None

    @cached_property
    def console(self) -> bytes:
        path = self.directory / CONSOLE_FILE
        return path.read_bytes() if path.is_file() else b""

    def tests_in_guest(self) -> list[TestResult]:
        """Tests that were executed in a guest, the teardown included."""
        return [
            test
            for test in self.results.tests
            if test.outcome in EXECUTED
            and (test.category == TEARDOWN or CATEGORIES[test.category].needs_guest)
        ]

    def console_events(self) -> list[KernelEvent]:
        """What the console says today, parsed from its first byte, forgeries left out."""
        module = self.module.internal_name if self.module else None
        parser = KernelLogParser([module] if module else [])
        events = [*parser.feed(self.console), *parser.finish()]
        # The session found these in no kernel buffer, and its note names each.
        return [
            event
            for event in events
            if not any(
                note.startswith("Userspace printed") and f"'{event.title}'" in note
                for note in self.results.notes
            )
        ]


def read_evidence(directory: Path) -> Evidence:
    """The evidence in a run's directory.

    Raises ConfigError when there are no results to read, or they are about categories that do not
    exist.
    """
    results = load_results(directory)
    named = {*results.selected_categories, *(test.category for test in results.tests)}
    unknown = sorted(named - CATEGORIES.keys() - {TEARDOWN})
    if unknown:
        raise ConfigError(
            f"'{FILENAME}' names a category '{unknown[0]}', which does not exist.",
            hint="It was edited, or made by another vexrun. Make a new run with `vexrun test`.",
        )
    return Evidence(directory, results)


def edited(evidence: Evidence) -> list[str]:
    """What is not as the run left it, one clause each; nothing when all of it agrees."""
    if goes_on(evidence.directory):
        return ["the run is still going on"]
    return [
        *_not_our_writing(evidence),
        *_disagrees_with_itself(evidence.results),
        *_disagrees_with_events(evidence),
        *_disagrees_with_console(evidence),
        *_wrong_hashes(evidence),
    ]


def _not_our_writing(evidence: Evidence) -> list[str]:
    text = (evidence.directory / FILENAME).read_text()
    if text == to_json(evidence.results):
        return []
    return [
        f"'{FILENAME}' is not byte for byte what this vexrun writes: it was edited, or another "
        "vexrun wrote it"
    ]


def _disagrees_with_itself(results: RunResults) -> list[str]:
    """Counts, verdict and reasons follow from the tests; here they are computed once more."""
    again = results.model_copy(deep=True)
    judge(again, interrupted=not results.complete)
    found = []
    for name in ("counts", "verdict", "exit_code", "reasons"):
        said, computed = getattr(results, name), getattr(again, name)
        if said != computed:
            found.append(
                f"'{FILENAME}' says {name} = {_short(said)}, and its tests say {_short(computed)}"
            )
    twice = sorted({test.id for test in results.tests if _count(results, test.id) > 1})
    if twice:
        found.append(f"'{FILENAME}' has more than one result of '{twice[0]}'")
    return found


def _count(results: RunResults, identifier: str) -> int:
    return sum(test.id == identifier for test in results.tests)


def _short(value: object) -> str:
    text = str(getattr(value, "value", value))
    return text if len(text) <= 120 else text[:117] + "..."


def _disagrees_with_events(evidence: Evidence) -> list[str]:
    results = evidence.results
    try:
        rebuilt = rebuild_results(evidence.directory)
        told = _told(evidence.directory / EVENTS_FILE)
    except (ValidationError, ValueError, KeyError, TypeError, AttributeError) as error:
        return [f"'{EVENTS_FILE}' is damaged: {str(error).splitlines()[0]}"]
    if rebuilt is None:
        return [f"'{EVENTS_FILE}' is missing or does not describe the run"]
    found = [
        f"'{FILENAME}' and '{EVENTS_FILE}' differ in '{name}'"
        for name in RunResults.model_fields
        if getattr(rebuilt, name) != getattr(results, name)
    ]
    final = {test.id: test for test in results.tests}
    for identifier, outcome in told.outcomes.items():
        test = final.get(identifier)
        if test is None:
            found.append(f"'{EVENTS_FILE}' tells of '{identifier}', and '{FILENAME}' does not")
        elif test.outcome is not outcome and not _became_expected(outcome, test):
            found.append(
                f"'{identifier}' was '{outcome.value}' when it ended, and is "
                f"'{test.outcome.value}' in '{FILENAME}'"
            )
    missing = sorted(told.collected - set(told.outcomes))
    if missing:
        found.append(f"{len(missing)} collected tests have no result, such as '{missing[0]}'")
    # What was never run has a result without an event, and never a good one.
    good = {test.id for test in results.tests if test.outcome in (Outcome.PASSED, Outcome.XFAILED)}
    untold = sorted(good - set(told.outcomes))
    if untold:
        found.append(f"'{EVENTS_FILE}' never told of '{untold[0]}', which '{FILENAME}' has")
    if told.kernel_events and not results.kernel_events:
        found.append(f"'{EVENTS_FILE}' tells of a kernel event: '{told.kernel_events[0]}'")
    return found


def _became_expected(outcome: Outcome, test: TestResult) -> bool:
    return outcome is Outcome.FAILED and test.outcome is Outcome.XFAILED and bool(test.expectation)


@dataclass
class _Told:
    """What the events said while the run went on."""

    collected: set[str] = field(default_factory=set)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    kernel_events: list[str] = field(default_factory=list)


def _told(path: Path) -> _Told:
    told = _Told()
    if not path.is_file():
        return told
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        try:
            event = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"line {number} is no JSON ({error.msg})") from error
        kind = event["event"]
        if kind == "TestsCollected":
            told.collected |= set(event["ids"])
        elif kind == "TestFinished":
            told.outcomes[event["result"]["id"]] = Outcome(event["result"]["outcome"])
        elif kind == "KernelEventSeen":
            told.kernel_events.append(event["kernel_event"]["title"])
    return told


def _disagrees_with_console(evidence: Evidence) -> list[str]:
    results = evidence.results
    in_guest = evidence.tests_in_guest()
    if not in_guest:
        return []
    if not evidence.console:
        return [f"'{CONSOLE_FILE}' is missing or empty, and {len(in_guest)} tests ran in a guest"]
    found = []
    marks = {mark for mark in _MARK.findall(evidence.console) if mark[1] != b"00000"}
    # After a crash or a hang there was no kernel left to set one.
    survived = [test for test in in_guest if test.outcome not in (Outcome.CRASHED, Outcome.HUNG)]
    if len(marks) < len(survived):
        found.append(
            f"'{CONSOLE_FILE}' has the marks of {len(marks)} tests, and {len(survived)} ran to "
            "their end in a guest: a part of it is missing"
        )
    events = evidence.console_events()
    if events and not results.kernel_events:
        found.append(
            f"'{CONSOLE_FILE}' has a kernel event at byte {events[0].console_offset} that "
            f"'{FILENAME}' does not have: '{events[0].title}'"
        )
    return found


def _wrong_hashes(evidence: Evidence) -> list[str]:
    results, directory = evidence.results, evidence.directory
    found = []
    info = results.module
    if info.file is not None:
        kept = evidence.module
        if kept is None:
            found.append(f"the module '{info.file}' is missing or not a module any more")
        elif kept.sha256 != info.sha256:
            found.append(
                f"'{info.file}' has sha256 {kept.sha256[:16]}…, and the run recorded "
                f"{(info.sha256 or 'none')[:16]}…"
            )
        main = next((build for build in results.builds if build.name == "default"), None)
        if main is None or main.sha256 != info.sha256:
            found.append("the main build recorded another module than the one that was tested")
    expected = results.target.image_manifest_sha256
    path = directory / MANIFEST_NAME
    if expected is None or not path.is_file() or sha256_of(path) != expected:
        found.append(f"'{MANIFEST_NAME}' is not the image's manifest that the run recorded")
    elif evidence.manifest is None or (
        # A device may run another release of the series; the module was built there then.
        results.target.kind != "device"
        and evidence.manifest.kernel_release != results.target.kernel
    ):
        found.append(f"'{MANIFEST_NAME}' names another kernel than '{FILENAME}'")
    context = evidence.context
    if context is None:
        found.append(f"'{CONTEXT_FILE}' is missing or damaged")
    elif context.module is not None and context.module.sha256 != info.sha256:
        found.append(f"'{CONTEXT_FILE}' names another module than '{FILENAME}'")
    return found
