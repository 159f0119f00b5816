"""What a test process is told about the run, as one JSON file written by the session."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from vexrun.results.model import Check, VariantBuild
from vexrun.subject import Subject

#: Where tests mount the filesystem under test, in the target.
MOUNT_POINT = "/mnt/vexrun"
SECOND_MOUNT_POINT = "/mnt/vexrun-second"


class BuiltModule(BaseModel):
    """The module file under test; `path` is where it lies in the target."""

    model_config = ConfigDict(extra="forbid")

    path: str
    name: str | None  # as modinfo says
    sha256: str
    srcversion: str | None
    build_id: str | None
    vermagic: str | None
    licence: str | None
    depends: list[str] = Field(default_factory=list)  # as modpost found out


class BuiltTool(BaseModel):
    """One declared tool or crate."""

    model_config = ConfigDict(extra="forbid")

    name: str
    ok: bool
    reason: str = ""
    log: str = ""


class Selection(BaseModel):
    """Which collected tests run, by patterns of their ids: `tests` in that order (none: all of
    them), never those of `without`."""

    model_config = ConfigDict(extra="forbid")

    tests: list[str] = Field(default_factory=list)
    without: list[str] = Field(default_factory=list)


class DeviceClaim(BaseModel):
    """On a device: what is asked again before each step that destroys something.

    All of it is JSON of models in vexrun.device, which this module knows nothing of.
    """

    model_config = ConfigDict(extra="forbid")

    device: str
    critical: str
    facts: str
    by_id: str
    machine_id: str
    boot_id: str
    #: Goes before every command of the tests there (vexrun.device.confinement).
    prefix: str = ""


class RunContext(BaseModel):
    """Everything a test may need to know. Paths named `target_*` are in the target."""

    model_config = ConfigDict(extra="forbid")

    subject: Subject
    source: Path
    kernel: str | None = None
    builds: list[VariantBuild] = Field(default_factory=list)
    rebuild: VariantBuild | None = None
    tools: list[BuiltTool] = Field(default_factory=list)
    #: Static checks and unit suites, which ran natively after the build.
    checks: list[Check] = Field(default_factory=list)
    module: BuiltModule | None = None
    #: Other modules of the same build, which the one under test may depend on.
    siblings: list[BuiltModule] = Field(default_factory=list)
    target_tools: str = ""
    ssh_config: Path | None = None
    disks: dict[str, str] = Field(default_factory=dict)
    timeouts_s: dict[str, float] = Field(default_factory=dict)
    slowdown: float = 1.0
    #: Tests that an earlier process of this run has run: they are not run again.
    done: list[str] = Field(default_factory=list)
    selection: Selection | None = None
    #: Whether profiles were asked for (--profile).
    profile: bool = False
    claim: DeviceClaim | None = None

    def command(self, template: str, **values: str) -> str:
        """Fill a subject file's command: {tools} and what is given, such as device=PATH."""
        filled = template.replace("{tools}", self.target_tools)
        for key, value in values.items():
            filled = filled.replace("{" + key + "}", value)
        return filled
