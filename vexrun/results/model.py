"""The results of one run, as data. Writers render it; nothing here decides or draws.

The JSON form of `RunResults` is `results.json`; its schema is published in
`docs/results-format.md` and versioned by `SCHEMA_VERSION`.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = 1


class Outcome(StrEnum):
    """What became of one test."""

    PASSED = "passed"
    FAILED = "failed"
    CRASHED = "crashed"  # the kernel broke while it ran
    HUNG = "hung"
    ERROR = "error"  # our infrastructure, or the target was lost: nobody's test failed
    SKIPPED = "skipped"  # always with a reason
    XFAILED = "xfailed"  # failed as a recorded expectation says


#: Outcomes of tests that really executed on the target.
EXECUTED = frozenset(
    {Outcome.PASSED, Outcome.FAILED, Outcome.CRASHED, Outcome.HUNG, Outcome.XFAILED}
)
#: Outcomes that make a run fail.
BAD = frozenset({Outcome.FAILED, Outcome.CRASHED, Outcome.HUNG})


class Verdict(StrEnum):
    """The one-word answer of a run."""

    PASS = "pass"
    FAIL = "fail"
    ERROR = "error"  # void: the harness or the machine, not the subject
    INTERRUPTED = "interrupted"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class FrameAddress(StrEnum):
    """What an address in a call trace is."""

    INSTRUCTION = "instruction"  # that was executing
    RETURN = "return"  # behind the call that was executing
    GUESS = "guess"  # `?`: found on the stack, and perhaps left there by an earlier call


class StackFrame(_Model):
    """One frame inside the subject's modules, decoded as far as the module's DWARF says.

    A function that the compiler inlined is a frame of its own (`inlined`), before the frame that
    it was inlined into. `source` are the lines around `line`, from line `source_from` on, as
    they were when the run ended.
    """

    function: str
    module: str
    offset: str  # as the kernel printed it: 0x1f/0xa0
    address: FrameAddress
    inlined: bool = False
    file: str | None = None
    line: int | None = None
    source_from: int | None = None
    source: list[str] = Field(default_factory=list)


class KernelEvent(_Model):
    """Something bad the kernel said.

    `console_offset` is the byte offset of the first line of the event in `console.log`
    (None when it was only seen in dmesg). `key` recognises the same event in another run.
    """

    event_class: str = Field(alias="class")
    title: str
    module_frame: str | None = None
    source_line: str | None = None
    console_offset: int | None = None
    test: str | None = None
    key: str = ""
    excerpt: list[str] = Field(default_factory=list)
    source: str = "console"  # console, dmesg, taint or qmp
    frames: list[StackFrame] = Field(default_factory=list)

    model_config = ConfigDict(extra="forbid", populate_by_name=True, serialize_by_alias=True)


class TestResult(_Model):
    """One test. `id` is `category/file.py::function[param]`; durations are seconds."""

    __test__ = False  # not a pytest class, whatever its name says

    id: str
    category: str
    outcome: Outcome
    duration_s: float = 0.0
    message: str = ""
    details: str = ""
    kernel_events: list[KernelEvent] = Field(default_factory=list)
    expectation: str | None = None  # why an xfailed test is expected to fail

    @property
    def is_bad(self) -> bool:
        """Whether this test alone makes the run fail."""
        return self.outcome in BAD


class SubjectInfo(_Model):
    name: str
    source: str
    commit: str | None = None
    dirty: bool | None = None
    tree_sha256: str = ""
    tree_sha256_after: str | None = None
    subject_file: str = ""


class VariantBuild(_Model):
    """One build of the module: the main one is named `default`."""

    name: str
    ok: bool
    where: str  # native or guest
    duration_s: float
    sha256: str | None = None
    warnings: list[str] = Field(default_factory=list)
    command: str = ""
    log: str = ""  # tail of the build log


class Check(_Model):
    """A static check or a unit test suite, run natively before any machine was started.

    `ok` is the answer; `findings` are what was found, also where that does not fail.
    """

    name: str
    category: str  # static or unit
    ok: bool
    reason: str = ""  # why it is not in order, or was not made
    skipped: bool = False
    command: str = ""
    exit_status: int | None = None  # null: no command, or it was stopped
    duration_s: float = 0.0
    executed: int | None = None  # tests that ran, of a suite
    findings: list[str] = Field(default_factory=list)
    log: str = ""  # tail of what it printed


class Measurement(_Model):
    """One figure of the category perf; `samples` are single measurements, in order.

    `reference` are the samples of the same job on ext4 in the same machine, measured in turn
    with `samples`; only ratios of the two mean something on another machine.
    """

    name: str
    unit: str
    better: str  # lower or higher
    samples: list[float] = Field(default_factory=list)
    reference: list[float] = Field(default_factory=list)


class ModuleInfo(_Model):
    file: str | None = None
    sha256: str | None = None
    srcversion: str | None = None
    build_id: str | None = None
    vermagic: str | None = None
    loaded_srcversion: str | None = None
    loaded_build_id: str | None = None
    identity_proven: bool = False


class TargetInfo(_Model):
    kind: str
    backend: str | None = None
    accel: str | None = None
    accel_reason: str | None = None
    kernel: str | None = None
    suite: str | None = None
    image_sha256: str | None = None
    image_key: str | None = None
    image_manifest_sha256: str | None = None
    memory_mib: int | None = None
    cpus: int | None = None
    restored_from_snapshot: bool = False


class MemoryImage(_Model):
    """The memory of a guest whose kernel died, in the kdump-compressed format."""

    file: str  # in the run directory
    test: str  # that ran
    why: str
    size_mib: float
    taken_in_s: float
    read_in_s: float
    report: str  # what it says; the whole text is beside it


class RestoreCost(_Model):
    """Machines that were thrown away for a clean one from the snapshot, and what that took."""

    count: int = 0
    total_s: float = 0.0
    longest_s: float = 0.0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.total_s = round(self.total_s + seconds, 2)
        self.longest_s = round(max(self.longest_s, seconds), 2)


class DeviceInfo(_Model):
    """The device of a run, and what was shown before it was touched.

    `problems` are what an `override` went round; `changed` says what was not as before.
    """

    name: str
    machine_id: str = ""
    hostname: str = ""
    disk: str = ""  # below /dev/disk/by-id
    disk_serial: str = ""
    confirmed: str = ""  # typed or token
    seal_sha256: str | None = None
    gate_run: str | None = None
    override: str | None = None
    problems: list[str] = Field(default_factory=list)
    boot_ids: list[str] = Field(default_factory=list)
    last_words: list[str] = Field(default_factory=list)  # netconsole, pstore, journal
    changed: list[str] = Field(default_factory=list)


class RunResults(_Model):
    """Everything a run found out."""

    schema_version: int = SCHEMA_VERSION
    vexrun_version: str = ""
    run_id: str
    run_dir: str = ""
    started_at: str = ""  # RFC 3339, UTC
    finished_at: str | None = None
    complete: bool = False
    command: list[str] = Field(default_factory=list)
    resumed_from: str | None = None  # run_id of the run whose finished categories are in here
    verdict: Verdict = Verdict.ERROR
    exit_code: int = 69
    reasons: list[str] = Field(default_factory=list)  # one sentence each: why this verdict
    error: str | None = None  # what went wrong with vexrun or the machine, not the subject
    build_failure: str | None = None  # why the subject did not build
    selected_categories: list[str] = Field(default_factory=list)
    subject: SubjectInfo
    module: ModuleInfo = Field(default_factory=ModuleInfo)
    builds: list[VariantBuild] = Field(default_factory=list)
    checks: list[Check] = Field(default_factory=list)
    measurements: list[Measurement] = Field(default_factory=list)
    target: TargetInfo
    isolation: str = "group"
    restores: RestoreCost = Field(default_factory=RestoreCost)
    memory_images: list[MemoryImage] = Field(default_factory=list)
    device: DeviceInfo | None = None
    durations: dict[str, float] = Field(default_factory=dict)
    counts: dict[str, int] = Field(default_factory=dict)
    tests: list[TestResult] = Field(default_factory=list)
    kernel_events: list[KernelEvent] = Field(default_factory=list)
    stale_expectations: list[str] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)

    def count_outcomes(self) -> dict[str, int]:
        """Counts of every outcome over the tests, zeros included."""
        counts = {outcome.value: 0 for outcome in Outcome}
        for test in self.tests:
            counts[test.outcome.value] += 1
        return counts
