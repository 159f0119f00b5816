"""Static checks and unit suites of a subject, run natively between the build and the machine.

A list of what must be there comes from the subject alone, so that a check that was never made is
missed by the tests that ask for it (tests/guest/static, tests/guest/unit).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from vexrun import unit_suites
from vexrun.events import Emit
from vexrun.image.catalog import Image
from vexrun.kbuild import BuildOutcome
from vexrun.layout import cache_dir
from vexrun.results.model import Check
from vexrun.sandbox import Ended, Job, Workplace, run_jobs
from vexrun.sources import apt_source_tree
from vexrun.static import crate_checks, source_checks
from vexrun.static.linkage import LINKAGE_CHECKS, check_linkage, read_kernel, read_linkage
from vexrun.subject import AptSource, Strictness, Subject

#: So many findings are in a note; all of them are in the results.
_SHOWN = 3
_NOT_BUILT = "the module did not build, so there is nothing to check"


def static_check_names(subject: Subject) -> list[str]:
    """Every static check of a subject, in the order of the report."""
    crates = [
        f"{check} {crate}"
        for crate in crate_checks.crate_dirs(subject)
        for check in crate_checks.CRATE_CHECKS
    ]
    return [*LINKAGE_CHECKS, *source_checks.SOURCE_CHECKS, *crates]


def unit_suite_names(subject: Subject) -> list[str]:
    """Every unit suite of a subject: its crates, then what it declares."""
    crates = [unit_suites.crate_suite(crate) for crate in crate_checks.crate_dirs(subject)]
    return crates + [unit_suites.unit_suite(suite) for suite in subject.unit]


def checkpatch_scripts(image: Image, subject: Subject, emit: Emit) -> Path | str:
    """The kernel's scripts/ with checkpatch.pl; or why there is none.

    A subject file that wants checkpatch to fail runs gets the package of the kernel's source
    fetched; otherwise only what is at hand is used.
    """
    suite = image.suite
    declared = subject.subject.source
    package = declared.apt if declared is not None else "linux-source-{series}"
    if declared is not None or subject.static.checkpatch is Strictness.ERROR:
        source = AptSource(apt=package, subdir="scripts")
        scripts = [apt_source_tree(source, image, emit).path]
    else:
        scripts = sorted((cache_dir() / "sources" / suite).glob("*/scripts/tree/scripts"))
    found = [path for path in scripts if (path / "checkpatch.pl").is_file()]
    if found:
        return found[-1]
    return (
        f"there is no checkpatch.pl at hand: the kernel headers of {suite} come without it, "
        "and no kernel source is in the cache"
    )


@dataclass(frozen=True)
class Step:
    """A job, and what makes a record of how it ended."""

    job: Job
    judge: Callable[[Ended], Check]


@dataclass(frozen=True)
class NativeChecks:
    """What the checks of one run work with; everything they make is below `work`.

    `scripts` is what `checkpatch_scripts` found.
    """

    image: Image
    subject: Subject
    source: Path
    built: BuildOutcome
    work: Path
    logs: Path
    scripts: Path | str

    # -- category static ----------------------------------------------------------------------

    def static(self) -> list[Check]:
        """Every check of `static_check_names`, in that order."""
        checks = self.linkage()
        steps: list[Step] = []
        if self.built.module is None:
            checks += [_not_built(name) for name in ("sparse", "w1")]
        elif not source_checks.c_files(self.source / self.subject.module.dir):
            reason = f"there is no C file in '{self.subject.module.dir}'"
            checks += [_skipped(name, reason) for name in ("sparse", "w1")]
        else:
            steps += [self._make_step(name) for name in ("sparse", "w1")]
        crates = crate_checks.crate_dirs(self.subject)
        if crates:
            place = self._place("crates")
            steps += [
                Step(crate_checks.crate_job(check, crate, place), self._judge_crate)
                for crate in crates
                for check in crate_checks.CRATE_CHECKS
            ]
        if isinstance(self.scripts, str):
            checks.append(_skipped("checkpatch", self.scripts))
        else:
            place = self._place("checkpatch")
            job = source_checks.checkpatch_job(self.subject, place, self.scripts)
            steps.append(
                Step(job, lambda ended: source_checks.judge_checkpatch(ended, self.subject))
            )
        by_name = {check.name: check for check in [*checks, *self._run(steps)]}
        return [by_name[name] for name in static_check_names(self.subject)]

    def _make_step(self, name: str) -> Step:
        release = self.image.manifest.kernel_release
        jobs = os.cpu_count() or 1
        job = source_checks.make_job(name, self.subject, release, self._place(name), jobs)
        return Step(job, lambda ended: source_checks.judge_make(ended, self.subject))

    def _judge_crate(self, ended: Ended) -> Check:
        return crate_checks.judge_crate(ended, self.subject)

    def linkage(self) -> list[Check]:
        """The module's symbols against the guest's kernel: no process, some tenths of a second."""
        if self.built.module is None:
            return [_not_built(name) for name in LINKAGE_CHECKS]
        kernel = read_kernel(self.image.rootfs, self.image.manifest.kernel_release)
        main = read_linkage(self.built.module.path)
        siblings = [read_linkage(file.path) for file in self.built.siblings.values()]
        wanted = set(self.built.module.depends)
        loaded = [main]
        # What modpost found it needs is loaded with it, and what that needs.
        while more := [
            each for each in siblings if each not in loaded and each.module_name in wanted
        ]:
            loaded += more
            wanted |= {name for each in more for name in (each.first("depends") or "").split(",")}
        verdicts = check_linkage(loaded, siblings, kernel)
        checks = []
        for name in LINKAGE_CHECKS:
            found, remarks = verdicts.found[name], verdicts.remarks[name]
            reason = found[0] if found else ""
            checks.append(
                Check(
                    name=name,
                    category="static",
                    ok=not found,
                    reason=reason,
                    findings=[*found, *remarks],
                )
            )
        return checks

    # -- category unit ------------------------------------------------------------------------

    def unit(self) -> list[Check]:
        """Every suite of `unit_suite_names`, in that order."""
        steps = []
        for number, crate in enumerate(crate_checks.crate_dirs(self.subject)):
            job = unit_suites.crate_job(crate, self._place(f"unit-crate-{number}"))
            steps.append(Step(job, unit_suites.judge_crate))
        for suite in self.subject.unit:
            place = self._place(f"unit-suite-{suite.name}")
            job = unit_suites.suite_job(suite, self.subject, place, self.built)
            steps.append(Step(job, partial(unit_suites.judge_suite, suite=suite)))
        return self._run(steps)

    # -- both ---------------------------------------------------------------------------------

    def _place(self, name: str) -> Workplace:
        directory = self.work / name
        return Workplace.with_copy(directory, self.subject.name, self.source, self.image.rootfs)

    def _run(self, steps: Sequence[Step]) -> list[Check]:
        """Run the jobs, two at once, and judge each; its whole output is kept in the run."""
        checks = []
        self.logs.mkdir(exist_ok=True)
        ended = run_jobs(self.image, [step.job for step in steps])
        for step, end in zip(steps, ended, strict=True):
            log = self.logs / (re.sub(r"[^\w.+-]", "_", step.job.name) + ".log")
            log.write_text(f"$ {end.job.script}\n{end.output}")
            checks.append(step.judge(end))
        return checks


def notes_on(checks: Sequence[Check]) -> list[str]:
    """A sentence for each check that found something and is in order all the same."""
    notes = []
    for check in checks:
        if check.ok and check.findings:
            count = len(check.findings)
            shown = "; ".join(check.findings[:_SHOWN])
            more = f"; and {count - _SHOWN} more (checks[] in results.json)"
            remarks = "1 remark" if count == 1 else f"{count} remarks"
            notes.append(
                f"{check.name}: {remarks}, which do not fail the run: {shown}"
                + (more if count > _SHOWN else "")
            )
    return notes


def _not_built(name: str) -> Check:
    return Check(name=name, category="static", ok=False, reason=_NOT_BUILT)


def _skipped(name: str, reason: str) -> Check:
    return Check(name=name, category="static", ok=True, skipped=True, reason=reason)
