"""What one `vexrun test` was asked to do, checked and resolved."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from vexrun.categories import Category, select_categories, without_missing
from vexrun.device.admission import Admitted, DeviceRequest
from vexrun.errors import ConfigError
from vexrun.expectations import Expectation, load_expectations
from vexrun.image.catalog import find_guest
from vexrun.image.suites import DEFAULT_SUITE, Suite
from vexrun.isolation import Isolation
from vexrun.kbuild import BuildPlace
from vexrun.resume import EarlierRun
from vexrun.settings import Settings, load_settings
from vexrun.subject import SUBJECT_FILE_NAME, Subject, load_subject
from vexrun.tree import what_cannot_be_read_is_named
from vexrun.vm.accel import AccelChoice


class TargetKind(StrEnum):
    VM = "vm"
    HOST = "host"
    DEVICE = "device"


class Backend(StrEnum):
    QEMU = "qemu"
    VAGRANT = "vagrant"


@dataclass(frozen=True)
class RunConfig:
    """A validated request. `source` is None when the subject file names a source package."""

    subject: Subject
    subject_file: Path
    source: Path | None
    suite: Suite
    categories: list[Category]
    target: TargetKind
    backend: Backend
    accel: AccelChoice
    build: BuildPlace
    keep: bool
    settings: Settings
    expectations: list[Expectation] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    earlier: EarlierRun | None = None
    notes: list[str] = field(default_factory=list)
    fail_fast: bool = False
    isolation: Isolation = Isolation.GROUP
    core: bool = True
    profile: bool = False
    device: DeviceRequest | None = None
    #: Set once guards, gate and a person have let the run on (vexrun.device.admission).
    admitted: Admitted | None = None

    @property
    def needs_guest(self) -> bool:
        return any(category.needs_guest for category in self.categories)

    def selects(self, name: str) -> bool:
        return any(category.name == name for category in self.categories)


def make_config(
    *,
    source: Path | None,
    subject_file: Path | None,
    suite: str = DEFAULT_SUITE,
    only: list[str],
    skip: list[str],
    target: TargetKind,
    backend: Backend,
    accel: AccelChoice,
    build: BuildPlace,
    keep: bool,
    command: list[str],
    earlier: EarlierRun | None = None,
    fail_fast: bool = False,
    isolation: Isolation = Isolation.GROUP,
    core: bool = True,
    profile: bool = False,
    device: DeviceRequest | None = None,
) -> RunConfig:
    """Check everything that can be checked before anything is built or started.

    Raises ConfigError naming what is wrong and what to do.
    """
    if source is not None:
        _check_source(source)
    _check_backend(backend, target)
    _check_device(target, device, keep=keep, resumed=earlier is not None)
    path = subject_file or (source or Path()) / SUBJECT_FILE_NAME
    subject = load_subject(path)
    categories = select_categories(only, skip)
    categories = _allowed_on(target, categories, only)
    if device is not None:
        categories = _allowed_by_owner(device, categories, only)
    if source is None and subject.subject.source is None:
        source = path.parent
    if profile and not any(category.name == "perf" for category in categories):
        raise ConfigError(
            "--profile is for the category 'perf', which this run leaves out.",
            hint="Leave out --profile, or let 'perf' run: --only perf --profile",
        )
    categories, notes = without_missing(categories, only, subject, source)
    return RunConfig(
        subject=subject,
        subject_file=path.resolve(),
        source=source.resolve() if source is not None else None,
        suite=find_guest(suite),
        categories=categories,
        target=target,
        backend=backend,
        accel=accel,
        build=build,
        keep=keep,
        settings=load_settings(),
        expectations=load_expectations(path),
        command=command,
        earlier=earlier,
        notes=notes,
        fail_fast=fail_fast,
        isolation=isolation,
        core=core,
        profile=profile,
        device=device,
    )


def _check_source(source: Path) -> None:
    with what_cannot_be_read_is_named():
        if not source.is_dir():
            raise ConfigError(
                f"The source tree '{source}' is not a directory.",
                hint="Give the directory of the module's source tree, or leave SOURCE out.",
            )
        if not os.access(source, os.R_OK | os.X_OK, effective_ids=True):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(source))
    if not str(source).isprintable():
        raise ConfigError(
            f"The path of the source tree, {str(source)!r}, has unprintable or undecodable "
            "characters.",
            hint="Rename the directory.",
        )


def _check_backend(backend: Backend, target: TargetKind) -> None:
    if backend is Backend.VAGRANT and target is not TargetKind.VM:
        raise ConfigError(
            f"'--backend vagrant' is for virtual machines, and the target is '{target.value}'.",
            hint="Leave --backend out.",
        )


def _check_device(
    target: TargetKind, device: DeviceRequest | None, *, keep: bool, resumed: bool
) -> None:
    """A device is named, and nothing is asked of it that only a virtual machine can do."""
    if (target is TargetKind.DEVICE) != (device is not None):
        raise ConfigError(
            "A run on a device needs both '--target device' and '--device NAME'.",
            hint="vexrun device list shows what is described here.",
        )
    if device is None:
        return
    if keep:
        raise ConfigError("--keep keeps a virtual machine; a device is always put back.")
    if resumed:
        raise ConfigError("A run on a device is made in one go: --resume is for virtual machines.")


def _allowed_on(target: TargetKind, categories: list[Category], only: list[str]) -> list[Category]:
    """On this host nothing is ever loaded, formatted or mounted, whatever was asked for."""
    if target is not TargetKind.HOST:
        return categories
    refused = [row.name for row in categories if row.needs_guest and row.name in only]
    if refused:
        raise ConfigError(
            f"The category '{refused[0]}' needs a kernel to break, and the target 'host' is the "
            "machine you sit at: a module is never loaded here.",
            hint=f"Run: vexrun test --only {','.join(refused)} --target vm",
        )
    allowed = [row for row in categories if not row.needs_guest]
    if not allowed:
        raise ConfigError("None of the selected categories can run on the target 'host'.")
    return allowed


def _allowed_by_owner(
    device: DeviceRequest, categories: list[Category], only: list[str]
) -> list[Category]:
    """Of a device its owner says what may run there; by default that is little."""
    allowed = device.device.allow.categories
    refused = [name for name in only if name not in allowed]
    if refused:
        raise ConfigError(
            f"The device '{device.device.name}' does not allow the category '{refused[0]}'.",
            evidence=f"allow.categories: {', '.join(allowed)}",
            hint="Its owner may add it to 'allow.categories' of the device file.",
        )
    kept = [row for row in categories if row.name in allowed]
    if not kept:
        raise ConfigError("The device allows none of the selected categories.")
    return kept
