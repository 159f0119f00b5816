"""The gate's answer: one line a criterion, and whether the gate is open."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from vexrun.errors import ConfigError, VexrunError
from vexrun.events import ignore
from vexrun.gate.checks import CHECKS, Question, Tree, measure_tree, series_of, utc_now
from vexrun.gate.criteria import Gate, criteria_sha256, load_criteria
from vexrun.gate.evidence import Evidence, read_evidence
from vexrun.image.catalog import find_image
from vexrun.results.model import RunResults
from vexrun.results.readers import FILENAME
from vexrun.rundir import runs_dir
from vexrun.sources import source_of
from vexrun.subject import Subject, load_subject


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Line(_Model):
    """One criterion: what was found, and what to do where that is not enough."""

    id: str
    title: str
    ok: bool
    found: str
    do: str = ""


class Checklist(_Model):
    """What `vexrun gate` prints in every format."""

    gate: Gate
    open: bool
    run_id: str
    run_dir: str
    subject: str
    tree_sha256: str
    module_sha256: str | None
    kernel_series: str
    vexrun_version: str
    criteria_sha256: str
    checked_at: str
    lines: list[Line]

    @property
    def refused(self) -> list[Line]:
        return [line for line in self.lines if not line.ok]

    @property
    def sentence(self) -> str:
        name = f"'{self.subject}', run {self.run_id}"
        if self.open:
            return f"The gate to the {self.gate.value} is open for {name}."
        count = len(self.refused)
        return (
            f"The gate to the {self.gate.value} stays shut for {name}: "
            f"{count} of {len(self.lines)} criteria are not met."
        )


def examine(
    directory: Path,
    gate: Gate,
    *,
    source: Path | None = None,
    kernel: str | None = None,
    module: Path | None = None,
    checklist: Path | None = None,
) -> Checklist:
    """Ask every criterion of `gate` about the run in `directory`; every line is answered.

    Nothing is built or started, and nothing of the run is written.
    """
    criteria = load_criteria()
    try:
        evidence = read_evidence(directory)
    except ConfigError as error:
        return _unreadable(directory, gate, error)
    subject, subject_problem = _subject_now(evidence.results)
    question = Question(
        gate=gate,
        rules=criteria.gates[gate],
        evidence=evidence,
        tree=_tree_now(evidence, source, subject),
        subject=subject,
        subject_problem=subject_problem,
        now=utc_now(),
        others=_other_runs(directory),
        kernel=kernel,
        module=module,
        checklist=checklist,
    )
    lines = []
    for row in criteria.of(gate):
        finding = CHECKS[row.check](question, row)
        lines.append(
            Line(id=row.id, title=row.title, ok=finding.ok, found=finding.found, do=finding.do)
        )
    results = evidence.results
    return Checklist(
        gate=gate,
        open=bool(lines) and all(line.ok for line in lines),
        run_id=results.run_id,
        run_dir=str(directory),
        subject=results.subject.name,
        tree_sha256=results.subject.tree_sha256,
        module_sha256=results.module.sha256,
        kernel_series=series_of(results.target.kernel or ""),
        vexrun_version=results.vexrun_version,
        criteria_sha256=criteria_sha256(),
        checked_at=question.now.isoformat(timespec="seconds"),
        lines=lines,
    )


def _unreadable(directory: Path, gate: Gate, error: ConfigError) -> Checklist:
    """Without results there is one line to show: why there are none."""
    line = Line(
        id="intact",
        title="The evidence is what the run wrote",
        ok=False,
        found=" ".join(part for part in (error.message, error.evidence) if part),
        do=error.hint,
    )
    return Checklist(
        gate=gate,
        open=False,
        run_id=directory.name,
        run_dir=str(directory),
        subject="?",
        tree_sha256="",
        module_sha256=None,
        kernel_series="",
        vexrun_version="",
        criteria_sha256=criteria_sha256(),
        checked_at=utc_now().isoformat(timespec="seconds"),
        lines=[line],
    )


def _subject_now(results: RunResults) -> tuple[Subject | None, str]:
    """The subject file as it is now, or why it cannot be read."""
    try:
        return load_subject(Path(results.subject.subject_file)), ""
    except VexrunError as error:
        return None, error.message


def _tree_now(evidence: Evidence, given: Path | None, subject: Subject | None) -> Tree:
    """The source tree as it is now; that of a Debian package is where the package was unpacked."""
    if given is not None:
        return measure_tree(given.resolve())
    origin = evidence.results.subject.source
    if not origin.startswith("apt:"):
        path = Path(origin)
        if not path.is_dir():
            return Tree(None, problem=f"'{origin}' is not a directory any more.")
        return measure_tree(path)
    if subject is None or evidence.manifest is None:
        return Tree(None, problem="neither subject file nor image say which package it is.")
    return _package_tree(subject, evidence.manifest.name)


def _package_tree(subject: Subject, image_name: str) -> Tree:
    try:
        unpacked = source_of(subject, None, find_image(image_name), ignore)
    except VexrunError as error:
        return Tree(None, problem=error.message)
    return measure_tree(unpacked.path)


def _other_runs(directory: Path) -> list[Path]:
    """Runs that lie beside this one, and those of this user, newest first."""
    places = {runs_dir(), directory.parent}
    found = {
        path.parent.resolve()
        for place in places
        if place.is_dir()
        for path in place.glob(f"*/{FILENAME}")
    }
    return sorted(found - {directory.resolve()}, key=lambda path: path.name, reverse=True)
