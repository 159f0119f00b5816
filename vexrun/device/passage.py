"""The way to a device leads through the gate: only a sealed pass of the same tree is let on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from vexrun import __version__
from vexrun.device.guards import RefusedError
from vexrun.errors import ConfigError
from vexrun.gate.checklist import Checklist
from vexrun.gate.checks import series_of
from vexrun.gate.criteria import Gate, criteria_sha256, load_criteria
from vexrun.gate.seal import verify
from vexrun.image.manifest import sha256_of
from vexrun.results.readers import load_results


@dataclass(frozen=True)
class Pass:
    """What was shown at the gate. `override` is the reason of whoever went round it."""

    seal_sha256: str | None = None
    run_id: str | None = None
    override: str | None = None
    checklist: Checklist | None = None
    #: The kernel that was tested on.
    release: str | None = None
    #: What is wrong with the seal; only an override has any.
    problems: tuple[str, ...] = ()


def show_pass(seal: Path | None, override: str | None, kernel: str) -> Pass:
    """Verify the seal, for a device whose kernel is `kernel`.

    Raises RefusedError where there is none or it does not hold, unless there is an `override`;
    ConfigError for an override without a reason.
    """
    if override is not None and len(override.split()) < 2:
        raise ConfigError(
            "--override needs a reason that somebody else understands: it stays in the evidence.",
            hint="Example: --override 'bisecting issue 12, device is empty, Ada'",
        )
    problems, checklist, digest = _examine(seal, kernel)
    if problems and override is None:
        raise RefusedError(
            f"The gate to the device is shut: {problems[0]}",
            evidence="\n".join(problems),
            hint="Open it with a run in a virtual machine: vexrun test SOURCE, then "
            "vexrun gate --for device --seal FILE, then --seal FILE here.",
        )
    return Pass(
        seal_sha256=digest,
        run_id=checklist.run_id if checklist else None,
        override=override,
        checklist=checklist,
        release=_tested_on(checklist),
        problems=tuple(problems),
    )


def _examine(seal: Path | None, kernel: str) -> tuple[list[str], Checklist | None, str | None]:
    if seal is None:
        return ["No seal was given (--seal FILE)."], None, None
    verified = verify(seal, None)
    checklist = verified.checklist
    problems = list(verified.problems)
    if checklist is None:
        return problems, None, None
    return [*problems, *_unfit(checklist, kernel)], checklist, sha256_of(seal)


def _tested_on(checklist: Checklist | None) -> str | None:
    """Read from the evidence, whose hashes were verified with the seal."""
    if checklist is None:
        return None
    try:
        return load_results(Path(checklist.run_dir)).target.kernel
    except ConfigError:
        return None


def _unfit(checklist: Checklist, kernel: str) -> list[str]:
    """Why a seal that holds is none for this device, now."""
    found = []
    series = series_of(kernel)
    if checklist.kernel_series != series:
        found.append(
            f"It was sealed for the kernel series {checklist.kernel_series}, and the device runs "
            f"'{kernel}'."
        )
    if checklist.criteria_sha256 != criteria_sha256() or checklist.vexrun_version != __version__:
        found.append("It was sealed by another vexrun, or by other criteria than today's.")
    rules = load_criteria().gates[Gate.DEVICE]
    try:
        age = datetime.now(UTC) - datetime.fromisoformat(checklist.checked_at)
    except (ValueError, TypeError):
        found.append(f"It was sealed at '{checklist.checked_at}', which is no time.")
    else:
        if age > timedelta(days=rules.max_age_days):
            found.append(
                f"It was sealed {age.days} days ago; a device takes {rules.max_age_days:g} days at "
                "most."
            )
    return found


def demand_same_tree(shown: Pass, subject: str, tree_sha256: str) -> str | None:
    """The tree that is about to be built is the one that was sealed.

    Raises RefusedError when it is not; with an override returns the problem instead.
    """
    checklist = shown.checklist
    problem = None
    if checklist is not None and checklist.subject != subject:
        problem = f"The seal is about '{checklist.subject}', and this is '{subject}'."
    elif checklist is not None and checklist.tree_sha256 != tree_sha256:
        problem = (
            f"The seal is about the tree {checklist.tree_sha256[:16]}…, and this tree is "
            f"{tree_sha256[:16]}…."
        )
    return _refuse(shown, problem)


def demand_same_module(shown: Pass, sha256: str, release: str) -> str | None:
    """For the very kernel that was tested on, the module too is the file that was tested."""
    checklist = shown.checklist
    problem = None
    tested = checklist is not None and shown.release == release
    if checklist is not None and tested and checklist.module_sha256 != sha256:
        problem = (
            f"The build made the module {sha256[:16]}…, and {(checklist.module_sha256 or '?')[:16]}"
            "… was tested and sealed."
        )
    return _refuse(shown, problem)


def _refuse(shown: Pass, problem: str | None) -> str | None:
    if problem is not None and shown.override is None:
        raise RefusedError(
            f"The gate to the device is shut: {problem}",
            hint="Test what is there now in a virtual machine, and seal that.",
        )
    return problem
