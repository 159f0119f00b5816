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
    verdict: Verdict = Verdict.ERROR
    exit_code: int = 69
    reasons: list[str] = Field(default_factory=list)  # one sentence each: why this verdict
    error: str | None = None  # what went wrong with vexrun or the machine, not the subject
    build_failure: str | None = None  # why the subject did not build
    selected_categories: list[str] = Field(default_factory=list)
    subject: SubjectInfo
    module: ModuleInfo = Field(default_factory=ModuleInfo)
    builds: list[VariantBuild] = Field(default_factory=list)
    target: TargetInfo
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
