"""Build the subject: in the image's root filesystem at native speed, or in the guest.

Both run roles/module_build/files/build.sh with the same arguments at the same path, so the two
modules are bit-identical (FACTS: 3.8 s instead of 66 s under emulation, same sha256).
"""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Any

from vexrun.errors import BuildFailedError, InfrastructureError
from vexrun.image.catalog import Image
from vexrun.image.namespace import Bind, require_namespaces, run_in_root
from vexrun.layout import data_root
from vexrun.module_file import ModuleFile, read_module_file
from vexrun.process import Completed
from vexrun.results.model import VariantBuild
from vexrun.subject import Scalar, Subject

#: The same in the image and in the guest: M= is embedded in a module.
GUEST_BUILD_ROOT = PurePosixPath("/var/lib/vexrun/build")
GUEST_SOURCE_DIR = PurePosixPath("/mnt/vexfs-src")
MAIN_VARIANT = "default"
_BUILD_TIMEOUT_S = 1800.0
_WARNING = re.compile(r"\bwarning:", re.IGNORECASE)
#: Kbuild's own remarks on building outside the tree, nothing about the subject's code.
_HARMLESS = re.compile(
    r"the compiler differs from the one used to build the kernel|Skipping BTF generation"
)


class BuildPlace(StrEnum):
    AUTO = "auto"
    NATIVE = "native"
    GUEST = "guest"


@dataclass(frozen=True)
class StepResult:
    """One step of build.sh: the module, a tool or a crate."""

    name: str
    ok: bool
    reason: str
    log: str
    seconds: float


@dataclass(frozen=True)
class BuildOutcome:
    """One run of build.sh."""

    variant: str
    where: BuildPlace
    steps: list[StepResult]
    module: ModuleFile | None
    tools_dir: Path
    duration_s: float
    command: str
    #: Other modules the same build made, by their path inside; the one under test may need them.
    siblings: dict[PurePosixPath, ModuleFile] = field(default_factory=dict)

    @property
    def module_step(self) -> StepResult:
        return next(step for step in self.steps if step.name == "module")

    def record(self) -> VariantBuild:
        step = self.module_step
        return VariantBuild(
            name=self.variant,
            ok=step.ok and self.module is not None,
            where=self.where.value,
            duration_s=round(self.duration_s, 2),
            sha256=self.module.sha256 if self.module else None,
            warnings=compiler_warnings(step.log),
            command=self.command,
            log=(step.reason + "\n" if step.reason else "") + step.log[-8000:],
        )


@dataclass(frozen=True)
class BuildSpec:
    """What to build. `variant` names the directory below the build root."""

    subject: Subject
    variant: str = MAIN_VARIANT
    make_vars: Mapping[str, Scalar] = field(default_factory=dict)
    ko: str = ""
    with_tools: bool = False

    @classmethod
    def main(cls, subject: Subject) -> BuildSpec:
        module = subject.module
        return cls(subject, MAIN_VARIANT, module.make_vars, module.ko, with_tools=True)

    @classmethod
    def again(cls, subject: Subject) -> BuildSpec:
        """The main module once more, in the same place; it is built before any tool."""
        return replace(cls.main(subject), with_tools=False)

    @classmethod
    def variants(cls, subject: Subject) -> list[BuildSpec]:
        """The further builds that must succeed; their variables come on top of the main ones."""
        return [
            cls(
                subject,
                variant.name,
                {**subject.module.make_vars, **variant.make_vars},
                variant.ko or subject.module.ko,
            )
            for variant in subject.variants
        ]

    @property
    def directory(self) -> PurePosixPath:
        """Where it builds, seen from inside."""
        return GUEST_BUILD_ROOT / self.subject.name / self.variant

    @property
    def tools_dir(self) -> PurePosixPath:
        return GUEST_BUILD_ROOT / self.subject.name / "tools"

    @property
    def logs_dir(self) -> PurePosixPath:
        return GUEST_BUILD_ROOT / self.subject.name / f"logs-{self.variant}"

    @property
    def ko_path(self) -> PurePosixPath:
        return self.directory / self.subject.module.dir / self.ko

    def arguments(self, release: str, jobs: int) -> list[str]:
        """Arguments of build.sh."""
        argv = ["--source", str(GUEST_SOURCE_DIR), "--dir", str(self.directory)]
        argv += ["--subdir", self.subject.module.dir, "--ko", self.ko]
        argv += ["--release", release, "--jobs", str(jobs)]
        argv += ["--logs", str(self.logs_dir), "--tools-dir", str(self.tools_dir)]
        if self.subject.module.prepare:
            argv += ["--prepare", self.subject.module.prepare]
        for key in sorted(self.make_vars):
            argv += ["--make-var", f"{key}={_make_value(self.make_vars[key])}"]
        if self.with_tools:
            for tool in self.subject.tools:
                argv += ["--tool", tool.name, tool.build]
            for crate in self.subject.crates:
                argv += ["--crate", crate.dir, crate.bin]
        return argv


def make_assignments(make_vars: Mapping[str, Scalar]) -> str:
    """Variables as they stand on make's command line, quoted for a shell."""
    return shlex.join(f"{key}={_make_value(value)}" for key, value in sorted(make_vars.items()))


def _make_value(value: Scalar) -> str:
    if isinstance(value, bool):
        return "y" if value else "n"
    return str(value)


def build_script() -> Path:
    return data_root() / "roles" / "module_build" / "files" / "build.sh"


class NativeBuilder:
    """Builds in the root filesystem of `image` on this machine; `work` holds the output.

    The root filesystem and the source are mounted read-only and every capability is dropped, so
    that nothing a Makefile does can touch the image, the user's tree or the running kernel.
    """

    place = BuildPlace.NATIVE

    def __init__(self, image: Image, source: Path, work: Path, jobs: int) -> None:
        self.image = image
        self.source = source
        self.work = work
        self.jobs = jobs

    def build(self, spec: BuildSpec) -> BuildOutcome:
        """Run build.sh; a subject that does not build is an outcome, not an exception."""
        self.work.mkdir(parents=True, exist_ok=True)
        release = self.image.manifest.kernel_release
        inner = ["bash", f"/srv/{build_script().name}", *spec.arguments(release, self.jobs)]
        begun = time.monotonic()
        done = run_in_root(
            self.image.rootfs,
            [
                "setpriv",
                "--bounding-set=-all,+dac_read_search",
                "--inh-caps=-all",
                "--no-new-privs",
                "--",
                *inner,
            ],
            binds=[
                Bind(build_script().parent, "/srv"),
                Bind(self.source, str(GUEST_SOURCE_DIR)),
                Bind(self.work, str(GUEST_BUILD_ROOT), writable=True),
            ],
            readonly=True,
            timeout=_BUILD_TIMEOUT_S,
            check=False,
        )
        spent = time.monotonic() - begun
        try:
            return read_outcome(spec, BuildPlace.NATIVE, done, self.work, spent)
        except InfrastructureError:
            require_namespaces()  # the usual reason, told with its fix
            raise


def read_outcome(
    spec: BuildSpec, where: BuildPlace, done: Completed, work: Path, duration_s: float
) -> BuildOutcome:
    """What a run of build.sh made; `work` is where its build root is on this machine."""

    def outside(inside: PurePosixPath) -> Path:
        return work / inside.relative_to(GUEST_BUILD_ROOT)

    logs, ko, tools_dir = map(outside, (spec.logs_dir, spec.ko_path, spec.tools_dir))
    if done.returncode not in (0, 1):
        raise InfrastructureError(
            f"The build could not start (exit status {done.returncode}).", evidence=done.tail()
        )
    steps = _steps(done.stdout, logs)
    if not any(step.name == "module" for step in steps):
        raise InfrastructureError("The build ended without a result.", evidence=done.tail())
    module = None
    step = next(step for step in steps if step.name == "module")
    if step.ok:
        try:
            module = read_module_file(ko)
        except BuildFailedError as error:
            steps[0] = StepResult("module", False, error.message, step.log, step.seconds)
    command = f"make -C /lib/modules/$(uname -r)/build M=$PWD {make_assignments(spec.make_vars)}"
    return BuildOutcome(
        spec.variant,
        where,
        steps,
        module,
        tools_dir,
        duration_s,
        f"{command} modules",
        _siblings(outside(spec.directory), spec) if module is not None else {},
    )


def _siblings(directory: Path, spec: BuildSpec) -> dict[PurePosixPath, ModuleFile]:
    """Every other .ko below the build directory, by its path inside."""
    found = {}
    for path in sorted(directory.rglob("*.ko")):
        inside = spec.directory / path.relative_to(directory).as_posix()
        if inside != spec.ko_path:
            found[inside] = read_module_file(path)
    return found


def _steps(output: str, logs: Path) -> list[StepResult]:
    steps = []
    for line in output.splitlines():
        if not line.startswith('{"step"'):
            continue
        said: dict[str, Any] = json.loads(line)
        log = logs / f"{said['step']}.log"
        text = log.read_text(errors="replace") if log.is_file() else ""
        steps.append(
            StepResult(said["step"], said["ok"], said["reason"], text, float(said["seconds"]))
        )
    return steps


def compiler_warnings(log: str) -> list[str]:
    """The warning lines of a build log, without Kbuild's remarks on out-of-tree builds."""
    return [
        line.strip()
        for line in log.splitlines()
        if _WARNING.search(line) and not _HARMLESS.search(line)
    ]
