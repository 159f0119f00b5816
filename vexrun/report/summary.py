"""What every report shows, drawn from the results once, so that no two formats can disagree.

Nothing here judges: verdict and outcomes arrive computed. The one thing it refuses is to
call a run good that is not (`is_clean_pass`).
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from vexrun.report.printable import one_line
from vexrun.results.model import (
    EXECUTED,
    DeviceInfo,
    FrameAddress,
    KernelEvent,
    Measurement,
    MemoryImage,
    Outcome,
    RestoreCost,
    RunResults,
    StackFrame,
    TestResult,
    Verdict,
)
from vexrun.results.ratio import median, ratio_to_reference


class Tone(StrEnum):
    """How a fact is drawn; each format has its own colours for it."""

    PLAIN = "plain"
    GOOD = "good"
    WARN = "warn"
    BAD = "bad"


VERDICT_MEANING = {
    Verdict.PASS: "Every selected category ran and passed, and the kernel had no complaint.",
    Verdict.FAIL: "A test failed, the kernel complained, or something that must be proven was not.",
    Verdict.ERROR: (
        "Void: the harness or the machine failed, so this run says nothing about the subject."
    ),
    Verdict.INTERRUPTED: "Stopped from outside: what did not run is unknown, not good.",
}

OUTCOME_TONE = {
    Outcome.PASSED: Tone.PLAIN,  # green belongs to the verdict alone
    Outcome.FAILED: Tone.BAD,
    Outcome.CRASHED: Tone.BAD,
    Outcome.HUNG: Tone.BAD,
    Outcome.ERROR: Tone.WARN,
    Outcome.SKIPPED: Tone.PLAIN,
    Outcome.XFAILED: Tone.PLAIN,
}

#: The order in which an engineer wants to read what went wrong: a crash explains the rest.
PROBLEM_ORDER = (Outcome.CRASHED, Outcome.HUNG, Outcome.FAILED, Outcome.ERROR)


def is_clean_pass(results: RunResults) -> bool:
    """Whether a report may look good at all."""
    return results.verdict is Verdict.PASS and results.complete and results.exit_code == 0


def headline(results: RunResults) -> str:
    """The verdict in capitals, with `incomplete` wherever the run is."""
    if results.verdict is Verdict.PASS and not is_clean_pass(results):
        return "NOT A PASS" if results.complete else "INCOMPLETE"
    word = results.verdict.value.upper()
    return word if results.complete else f"{word}, incomplete"


def verdict_tone(results: RunResults) -> Tone:
    if is_clean_pass(results):
        return Tone.GOOD
    return Tone.BAD if results.verdict is Verdict.FAIL else Tone.WARN


def why(results: RunResults) -> list[str]:
    """The sentences below the headline: the error, the reasons, and what makes it unreliable."""
    sentences = [results.error] if results.error else []
    sentences += [reason for reason in results.reasons if reason not in sentences]
    if not sentences:
        sentences.append(
            VERDICT_MEANING[results.verdict]
            if results.verdict is not Verdict.PASS or is_clean_pass(results)
            else "No reason was recorded."
        )
    if not results.complete:
        sentences.append("The run is incomplete: it ended before every selected test had a result.")
    if results.verdict is Verdict.PASS and results.complete and results.exit_code != 0:
        sentences.append(
            f"The results contradict themselves: verdict 'pass' with exit code "
            f"{results.exit_code}. Do not rely on this run."
        )
    return sentences


# ---------------------------------------------------------------- tests


@dataclass(frozen=True)
class CategoryRow:
    """One category; `selected` is False when tests appeared that nobody selected.

    `duration_s` is its tests and the work for them, some of which went on at the same time: all
    together may be more than the run took.
    """

    name: str
    counts: dict[Outcome, int]
    duration_s: float
    selected: bool = True

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    @property
    def executed(self) -> int:
        return sum(count for outcome, count in self.counts.items() if outcome in EXECUTED)

    @property
    def state(self) -> str:
        """The worst thing in it, in one word."""
        for outcome in PROBLEM_ORDER:
            if self.counts[outcome]:
                return outcome.value
        if self.total == 0:
            return "nothing ran"
        return "passed" if self.executed else "all skipped"

    @property
    def tone(self) -> Tone:
        for outcome in PROBLEM_ORDER:
            if self.counts[outcome]:
                return OUTCOME_TONE[outcome]
        return Tone.PLAIN if self.executed else Tone.WARN


#: What is done outside the guest for a category, by the names of `RunResults.durations`.
_NATIVE_WORK = {"build": ("build", "build again"), "static": ("static",), "unit": ("unit",)}


def category_rows(results: RunResults) -> list[CategoryRow]:
    """The selected categories in their order, empty ones included, then unselected ones."""
    names = list(
        dict.fromkeys([*results.selected_categories, *(t.category for t in results.tests)])
    )
    rows = []
    for name in names:
        tests = [test for test in results.tests if test.category == name]
        counts = dict.fromkeys(Outcome, 0)
        for test in tests:
            counts[test.outcome] += 1
        work_s = sum(results.durations.get(stage, 0.0) for stage in _NATIVE_WORK.get(name, ()))
        rows.append(
            CategoryRow(
                name=name,
                counts=counts,
                duration_s=work_s + sum(test.duration_s for test in tests),
                selected=name in results.selected_categories,
            )
        )
    return rows


def total_row(results: RunResults) -> CategoryRow:
    counts = {Outcome(name): count for name, count in results.count_outcomes().items()}
    return CategoryRow("total", counts, sum(row.duration_s for row in category_rows(results)))


def counts_phrase(results: RunResults) -> str:
    """`12 passed, 1 crashed, 2 skipped`: the executed outcomes first, zeros left out."""
    counts = results.count_outcomes()
    parts = [f"{counts[o.value]} {o.value}" for o in Outcome if counts[o.value]]
    return ", ".join(parts) if parts else "no tests"


def counted(number: int, noun: str) -> str:
    """`1 line`, `2 lines`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def problems(results: RunResults) -> list[TestResult]:
    """Tests that need a person, crashes first, otherwise in the order they ran."""
    bad = [test for test in results.tests if test.outcome in PROBLEM_ORDER]
    return sorted(bad, key=lambda test: PROBLEM_ORDER.index(test.outcome))


def problem_groups(results: RunResults) -> list[list[TestResult]]:
    """Problems, with errors that say the same put together.

    After a crash every remaining test says that it could not run; that is one fact.
    """
    groups: dict[str, list[TestResult]] = {}
    for test in problems(results):
        alike = test.outcome is Outcome.ERROR and test.message and not test.details
        groups.setdefault(test.message if alike else f"\0{test.id}", []).append(test)
    return list(groups.values())


def with_outcome(results: RunResults, outcome: Outcome) -> list[TestResult]:
    return [test for test in results.tests if test.outcome is outcome]


def skip_reason(test: TestResult) -> str:
    """Why a test was skipped or is expected to fail."""
    if test.outcome is Outcome.XFAILED and test.expectation:
        return test.expectation
    return test.message or "no reason was recorded"


def by_reason(tests: Iterable[TestResult]) -> dict[str, list[TestResult]]:
    """Tests grouped by their reason, in order of appearance."""
    groups: dict[str, list[TestResult]] = {}
    for test in tests:
        groups.setdefault(one_line(skip_reason(test)), []).append(test)
    return groups


# ---------------------------------------------------------------- kernel events


def kernel_events(results: RunResults) -> list[KernelEvent]:
    """Every event once: those of the run, then those that only a test carries."""

    def identity(event: KernelEvent) -> tuple[str, str, int | None, str | None]:
        return (event.event_class, event.title, event.console_offset, event.test)

    events = {identity(event): event for event in results.kernel_events}
    for test in results.tests:
        for event in test.kernel_events:
            named = event.model_copy(update={"test": event.test or test.id})
            events.setdefault(identity(named), named)
    return list(events.values())


def events_of(test: TestResult, results: RunResults) -> list[KernelEvent]:
    """The events of one test, whether the test carries them or the run attributes them."""
    return [event for event in kernel_events(results) if event.test == test.id]


def where(event: KernelEvent) -> str:
    """Where in the subject it happened, as far as known."""
    parts = [part for part in (event.module_frame, event.source_line) if part]
    return ", ".join(parts) if parts else "no frame inside the module"


def frame_place(frame: StackFrame) -> str:
    """`inode.c:212`, or that it is not known."""
    return f"{frame.file}:{frame.line}" if frame.file and frame.line else "line not known"


def frame_name(frame: StackFrame) -> str:
    """The function, with what has to be known about it."""
    name = frame.function if frame.inlined else f"{frame.function}+{frame.offset}"
    remarks = [
        remark
        for remark, applies in (
            ("inlined", frame.inlined),
            ("left on the stack, perhaps by an earlier call", frame.address is FrameAddress.GUESS),
        )
        if applies
    ]
    return f"{name} ({', '.join(remarks)})" if remarks else name


def trace(event: KernelEvent) -> list[str]:
    """The frames inside the subject's modules, innermost first, each with its source line.

    Empty when no frame has one: the excerpt says all there is.
    """
    if not any(frame.line for frame in event.frames):
        return []
    return [f"{frame_place(frame)}  {frame_name(frame)}" for frame in event.frames]


@dataclass(frozen=True)
class SourceLine:
    number: int
    text: str
    marked: bool  # it is the line of the frame


def source_around(frame: StackFrame, context: int = 6) -> list[SourceLine]:
    """The source that was kept with a frame, at most `context` lines on each side of its line."""
    if frame.line is None or frame.source_from is None:
        return []
    return [
        SourceLine(number, text, number == frame.line)
        for number, text in enumerate(frame.source, start=frame.source_from)
        if abs(number - frame.line) <= context
    ]


def main_frame(event: KernelEvent) -> StackFrame | None:
    """The frame whose source is shown first: that of `source_line`, else the first with any."""
    with_source = [frame for frame in event.frames if frame.source]
    for frame in with_source:
        if frame_place(frame) == event.source_line:
            return frame
    return with_source[0] if with_source else None


def code(event: KernelEvent, context: int) -> list[str]:
    """The source of the main frame as text, its line marked with `>`."""
    frame = main_frame(event)
    if frame is None:
        return []
    return [
        f"{'>' if line.marked else ' '} {line.number:>5}  {line.text}"
        for line in source_around(frame, context)
    ]


def with_line(message: str, events: Iterable[KernelEvent]) -> str:
    """A message in one line, with the source line of the first event that has one."""
    line = next((event.source_line for event in events if event.source_line), None)
    head = one_line(message)
    if line is None or line.rpartition("/")[2] in head:
        return head
    return f"{head} at {one_line(line)}"


def seen_at(event: KernelEvent) -> str:
    """Where the raw text is."""
    if event.console_offset is not None:
        return f"console.log, byte {event.console_offset}"
    return {"dmesg": "dmesg.log"}.get(event.source, event.source)


# ---------------------------------------------------------------- time


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `2 min 05 s`: as precise as a reader needs."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def elapsed_s(results: RunResults) -> float | None:
    """Wall-clock seconds of the run; None when it has no end or no readable times."""
    try:
        start = datetime.fromisoformat(results.started_at)
        end = datetime.fromisoformat(results.finished_at or "")
        return (end - start).total_seconds()
    except (ValueError, TypeError):  # unreadable, or only one of them has a time zone
        return None


@dataclass(frozen=True)
class Stage:
    name: str
    seconds: float
    share: float  # of all stages, 0 to 1


def stages(results: RunResults) -> list[Stage]:
    total = sum(results.durations.values())
    return [
        Stage(name, seconds, seconds / total if total > 0 else 0.0)
        for name, seconds in results.durations.items()
    ]


# ---------------------------------------------------------------- evidence


@dataclass(frozen=True)
class Fact:
    label: str
    value: str
    tone: Tone = Tone.PLAIN


@dataclass(frozen=True)
class FactGroup:
    title: str
    facts: list[Fact] = field(default_factory=list)

    def add(self, label: str, value: object | None, tone: Tone = Tone.PLAIN) -> None:
        """Add a fact; one that is not known is left out."""
        if value not in (None, ""):
            self.facts.append(Fact(label, str(value), tone))


def evidence(results: RunResults) -> list[FactGroup]:
    groups = [_run(results), _subject(results), _module(results), _target(results)]
    return [*groups, _device(results.device)] if results.device else groups


def _run(results: RunResults) -> FactGroup:
    group = FactGroup("Run")
    row = total_row(results)
    group.add(
        "tests",
        f"{row.executed} executed of {row.total} ({counts_phrase(results)})"
        if row.total
        else "none",
        Tone.PLAIN if row.executed else Tone.BAD,
    )
    group.add("started", results.started_at)
    group.add("finished", results.finished_at or "not finished", _unless(results.finished_at))
    elapsed = elapsed_s(results)
    group.add("elapsed", None if elapsed is None else duration(elapsed))
    group.add("exit code", results.exit_code)
    group.add("command", shlex.join(results.command))
    group.add("vexrun", results.vexrun_version)
    return group


def _subject(results: RunResults) -> FactGroup:
    subject = results.subject
    group = FactGroup("Subject")
    group.add("name", subject.name)
    group.add("source", subject.source)
    group.add("subject file", subject.subject_file)
    if subject.commit:
        state = {True: ", with uncommitted changes", False: ", clean", None: ""}[subject.dirty]
        group.add("commit", subject.commit + state, Tone.WARN if subject.dirty else Tone.PLAIN)
    group.add("tree sha256", subject.tree_sha256)
    if subject.tree_sha256_after:
        if subject.tree_sha256_after == subject.tree_sha256:
            group.add("after the run", "the tree is unchanged")
        else:
            group.add("after the run", f"CHANGED to {subject.tree_sha256_after}", Tone.BAD)
    return group


def _module(results: RunResults) -> FactGroup:
    module = results.module
    group = FactGroup("Module")
    if module.file is None:
        group.add("file", "no module was built", Tone.WARN)
    group.add("file", module.file)
    group.add("sha256", module.sha256)
    group.add("srcversion", module.srcversion)
    group.add("build id", module.build_id)
    group.add("vermagic", module.vermagic)
    for label, loaded, built in (
        ("srcversion", module.loaded_srcversion, module.srcversion),
        ("build id", module.loaded_build_id, module.build_id),
    ):
        if loaded:
            same = loaded == built
            group.add(
                "loaded",
                f"{label} {loaded} ({'same' if same else 'NOT the built file'})",
                Tone.PLAIN if same else Tone.BAD,
            )
    if module.identity_proven:
        group.add("identity", "proven: the loaded module is this file")
    elif module.loaded_srcversion or module.loaded_build_id:
        group.add("identity", "NOT proven: the loaded module may be another one", Tone.BAD)
    else:
        group.add("identity", "no module was seen loaded", Tone.WARN)
    return group


def _target(results: RunResults) -> FactGroup:
    target = results.target
    group = FactGroup("Target")
    group.add("kind", " / ".join(p for p in (target.kind, target.backend, target.accel) if p))
    group.add("accelerator", target.accel_reason)
    group.add("kernel", target.kernel or "not known", _unless(target.kernel))
    group.add("suite", target.suite)
    size = [f"{target.cpus} CPUs" if target.cpus else "", f"{target.memory_mib} MiB"]
    group.add("size", ", ".join(p for p in size if p) if target.memory_mib else size[0])
    group.add("image sha256", target.image_sha256)
    group.add("image key", target.image_key)
    group.add("image manifest", target.image_manifest_sha256)
    if target.kind == "vm":
        group.add("start", "RAM snapshot" if target.restored_from_snapshot else "cold boot")
        group.add("isolation", f"{results.isolation}, {_restores(results.restores)}")
    return group


def _restores(cost: RestoreCost) -> str:
    """`3 clean machines in 14.2 s (4.7 s each, at most 5.1 s)`."""
    if not cost.count:
        return "no machine was replaced"
    each = cost.total_s / cost.count
    return (
        f"{counted(cost.count, 'clean machine')} in {cost.total_s:.1f} s "
        f"({each:.1f} s each, at most {cost.longest_s:.1f} s)"
    )


def _device(device: DeviceInfo) -> FactGroup:
    group = FactGroup("Device")
    group.add("name", f"{device.name} ({device.hostname})" if device.hostname else device.name)
    group.add("machine-id", device.machine_id)
    group.add("disk", device.disk)
    group.add("serial", f"{device.disk_serial} (confirmed: {device.confirmed})")
    group.add("gate", f"sealed by run {device.gate_run}" if device.gate_run else None)
    group.add("seal sha256", device.seal_sha256)
    if device.override:
        group.add("OVERRIDE", f"the gate was gone round: {device.override}", Tone.BAD)
    for problem in device.problems:
        group.add("gate said", problem, Tone.BAD)
    group.add("boots", ", ".join(device.boot_ids))
    group.add("last words by", ", ".join(device.last_words))
    for each in device.changed:
        group.add("not as before", each, Tone.WARN)
    return group


def _unless(known: object | None) -> Tone:
    return Tone.PLAIN if known else Tone.WARN


# ---------------------------------------------------------------- what to do next


@dataclass(frozen=True)
class NextStep:
    why: str
    command: str


def next_steps(results: RunResults) -> list[NextStep]:
    """Commands to paste, most useful first. A clean pass needs none."""
    if is_clean_pass(results):
        return []
    steps = []
    run = results.run_dir or results.run_id
    for event in kernel_events(results)[:1]:
        if event.console_offset is not None and results.run_dir:
            log = shlex.quote(f"{results.run_dir}/console.log")
            steps.append(
                NextStep(
                    f"Read what the kernel said from '{one_line(event.title, 60)}' on",
                    f"tail -c +{event.console_offset + 1} {log} | head -n 80",
                )
            )
    broken = [row.name for row in category_rows(results) if row.tone is not Tone.PLAIN]
    if results.verdict is Verdict.ERROR:
        steps.append(NextStep("Ask what this machine is missing", "vexrun doctor"))
    if results.verdict is Verdict.FAIL and broken:
        steps.append(
            NextStep(
                "Run only what went wrong, and keep the machine to look at",
                _rerun(results, only=broken),
            )
        )
    elif results.command:
        steps.append(NextStep("Run it again", shlex.join(results.command)))
    steps.append(NextStep("See this run again", f"vexrun report {shlex.quote(run)} --format html"))
    return steps


def _rerun(results: RunResults, only: list[str]) -> str:
    argv = ["vexrun", "test", results.subject.source]
    if results.subject.subject_file:
        argv += ["--subject", results.subject.subject_file]
    if results.target.suite:
        argv += ["--suite", results.target.suite]
    if results.target.kind != "vm":
        argv += ["--target", results.target.kind]
        if results.device:
            argv += ["--device", results.device.name, "--seal", "FILE"]
    elif results.target.backend not in (None, "qemu"):
        argv += ["--backend", str(results.target.backend)]
    argv += ["--only", ",".join(only)]
    if results.isolation != "group":
        argv += ["--isolation", results.isolation]
    if results.target.kind == "vm":
        argv.append("--keep")
    return shlex.join(argv)


def memory_image(image: MemoryImage) -> str:
    """One sentence on a memory image that was kept."""
    return (
        f"{one_line(image.file, 80)}: {image.size_mib:.0f} MiB, {one_line(image.why, 200)} during "
        f"{one_line(image.test, 200)} (taken in {image.taken_in_s:.1f} s, read in "
        f"{image.read_in_s:.1f} s)"
    )


@dataclass(frozen=True)
class MeasurementRow:
    """One figure, ready to show; `ratio` is '' where there is nothing to compare it with."""

    name: str
    value: str
    ratio: str
    judgement: str
    measurement: Measurement


def measurements(results: RunResults) -> list[MeasurementRow]:
    """The figures of the category perf: medians, and the ratio to ext4 with its 95 % interval."""
    rows = []
    for measurement in results.measurements:
        found = ratio_to_reference(measurement)
        value = f"{median(measurement.samples):.4g} {measurement.unit}".strip()
        rows.append(
            MeasurementRow(
                one_line(measurement.name, 80),
                one_line(value, 40),
                f"{found} of ext4" if found else "",
                f"{measurement.better} is better, {counted(len(measurement.samples), 'sample')}",
                measurement,
            )
        )
    return rows
