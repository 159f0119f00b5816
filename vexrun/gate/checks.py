"""How each criterion is decided: one function a `check`, which reads evidence and nothing else.

A function returns what it found and, where that is not enough, what to do. None of them can be
turned off.
"""

from __future__ import annotations

import fnmatch
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from vexrun import __version__, tree
from vexrun.categories import CATEGORIES, Category
from vexrun.errors import VexrunError
from vexrun.expectations import FILE_NAME as EXPECTATIONS_FILE
from vexrun.expectations import Expectation, load_expectations
from vexrun.gate.criteria import Criterion, Gate, GateRules, load_criteria
from vexrun.gate.evidence import Evidence, edited, read_evidence
from vexrun.image.manifest import sha256_of
from vexrun.results.model import BAD, Outcome, RunResults, TestResult, Verdict
from vexrun.subject import Subject

#: What a run on a device has to have passed, at least.
DEVICE_CATEGORIES = ("module", "mkfs", "mount", "fsops")
#: Two clocks that differ by less are the same.
_CLOCK_SLACK = timedelta(minutes=5)


@dataclass(frozen=True)
class Finding:
    """What one check found; `do` is what to do about it, '' when nothing has to be done."""

    ok: bool
    found: str
    do: str = ""


@dataclass(frozen=True)
class Tree:
    """The source tree as it is now. `problem` says why it could not be measured."""

    path: Path | None
    sha256: str = ""
    commit: str | None = None
    dirty: bool | None = None
    problem: str = ""


@dataclass(frozen=True)
class Question:
    """Everything the checks may look at: the evidence, and the world as it is now."""

    gate: Gate
    rules: GateRules
    evidence: Evidence
    tree: Tree
    subject: Subject | None
    subject_problem: str
    now: datetime
    others: list[Path] = field(default_factory=list)  # directories of other runs
    kernel: str | None = None  # release or series of the machine behind the gate
    module: Path | None = None  # the file that is going to be loaded there
    checklist: Path | None = None

    @property
    def results(self) -> RunResults:
        return self.evidence.results

    @property
    def again(self) -> str:
        """The command that makes new evidence."""
        subject = self.results.subject
        parts = ["vexrun test"]
        if not subject.source.startswith("apt:"):
            parts.append(subject.source)
        parts.append(f"--subject {subject.subject_file}")
        return "Run: " + " ".join(parts)


Check = Callable[[Question, Criterion], Finding]


def series_of(release: str) -> str:
    """6.12 of 6.12.117+deb13-amd64; a series is its own."""
    return ".".join(release.split("-")[0].split("+")[0].split(".")[:2])


def intact(question: Question, _row: Criterion) -> Finding:
    problems = edited(question.evidence)
    if problems:
        return Finding(False, "; ".join(problems) + ".", question.again)
    return Finding(
        True,
        "results.json, events.jsonl, console.log, manifest.json and the module agree with each "
        "other; counts and verdict were computed again.",
    )


def passed(question: Question, _row: Criterion) -> Finding:
    results = question.results
    if not results.complete or results.finished_at is None:
        return Finding(False, "The run did not come to its end.", question.again)
    if results.resumed_from is not None:
        return Finding(
            False,
            f"The run took results over from the run '{results.resumed_from}', whose logs and "
            "module are not here.",
            f"Make one run in one go. {question.again}",
        )
    if results.verdict is not Verdict.PASS or results.exit_code != 0:
        return Finding(
            False,
            f"The verdict is '{results.verdict.value}': {' '.join(results.reasons)}",
            f"Repair that first. Look at it with: vexrun report {results.run_id}",
        )
    bad = [test.id for test in results.tests if test.outcome in BAD | {Outcome.ERROR}]
    if bad:
        return Finding(False, f"'{bad[0]}' did not pass.", question.again)
    return Finding(True, " ".join(results.reasons))


def in_a_vm(question: Question, _row: Criterion) -> Finding:
    target = question.results.target
    if target.kind != "vm":
        return Finding(
            False,
            f"The target was '{target.kind}': no kernel was put at risk, so nothing is known "
            "about loading or mounting."
            if target.kind == "host"
            else f"The target was '{target.kind}': a device comes after the virtual machine.",
            question.again,
        )
    return Finding(
        True,
        f"Backend '{target.backend}', accelerator '{target.accel}', image "
        f"'{target.image_key}' of suite '{target.suite}'.",
    )


def same_version(question: Question, _row: Criterion) -> Finding:
    version = question.results.vexrun_version
    if version != __version__:
        return Finding(
            False,
            f"It was made by vexrun {version or '(unknown)'}, and this is vexrun {__version__}.",
            question.again,
        )
    return Finding(True, f"vexrun {version}.")


def recent(question: Question, _row: Criterion) -> Finding:
    stamp = question.results.finished_at
    try:
        finished = datetime.fromisoformat(stamp or "")
    except ValueError:
        return Finding(
            False, f"Its end is recorded as '{stamp}', which is no time.", question.again
        )
    if finished.tzinfo is None:
        return Finding(False, f"Its end, '{stamp}', has no time zone.", question.again)
    age = question.now - finished
    if age < -_CLOCK_SLACK:
        return Finding(
            False,
            f"It ended at {stamp}, which is in the future: now is "
            f"{question.now.isoformat(timespec='seconds')}.",
            "Set this machine's clock, then try again.",
        )
    days = question.rules.max_age_days
    if age > timedelta(days=days):
        return Finding(
            False,
            f"It ended {age.days} days ago; this gate takes {days:g} days at most.",
            question.again,
        )
    return Finding(True, f"It ended {age.total_seconds() / 3600:.1f} hours ago, at {stamp}.")


def same_tree(question: Question, _row: Criterion) -> Finding:
    subject, now = question.results.subject, question.tree
    if not subject.tree_sha256 or subject.tree_sha256 != subject.tree_sha256_after:
        return Finding(
            False,
            "The run did not see one and the same tree throughout.",
            question.again,
        )
    if now.problem:
        return Finding(
            False,
            f"The source tree cannot be compared: {now.problem}",
            "Name it: vexrun gate RUN --source DIRECTORY",
        )
    if now.sha256 != subject.tree_sha256:
        return Finding(
            False,
            f"'{now.path}' has the hash {now.sha256[:16]}… now, and {subject.tree_sha256[:16]}… "
            "was tested.",
            f"Test what is there now. {question.again}",
        )
    return Finding(True, f"'{now.path}' was measured again: {now.sha256}.")


def same_subject(question: Question, _row: Criterion) -> Finding:
    file = question.results.subject.subject_file
    if question.subject is None:
        return Finding(False, question.subject_problem, "Restore it, or make a new run.")
    context = question.evidence.context
    if context is None:
        return Finding(False, "The run did not keep what its tests were told.", question.again)
    if context.subject != question.subject:
        then, now = context.subject.model_dump(), question.subject.model_dump()
        keys = ", ".join(f"[{name}]" for name in then if then[name] != now[name])
        return Finding(False, f"'{file}' says something else now, in {keys}.", question.again)
    return Finding(True, f"'{file}' says the same.")


def clean_commit(question: Question, _row: Criterion) -> Finding:
    then, now = question.results.subject, question.tree
    if then.dirty or now.dirty:
        when = "when it was tested" if then.dirty else "now"
        return Finding(
            False,
            f"The tree has changes that are not committed ({when}), so no commit names what "
            "was tested.",
            f"Commit them, then test that commit. {question.again}",
        )
    if then.commit is not None and now.commit is not None and then.commit != now.commit:
        return Finding(
            True,
            f"Tested at {then.commit[:12]}, now at {now.commit[:12]}, with the same content of the "
            "tree.",
        )
    if then.commit is not None and then.dirty is False:
        return Finding(True, f"Commit {then.commit}.")
    why = (
        "The tree is in no git repository"
        if then.commit is None
        else "git was not asked whether the tree has changes, because it configures filters"
    )
    if question.rules.needs_commit:
        return Finding(False, f"{why}; this gate asks for a commit.", "Put the tree under git.")
    return Finding(True, f"{why}; its hash alone names what was tested.")


def same_module(question: Question, _row: Criterion) -> Finding:
    info, kept = question.results.module, question.evidence.module
    if kept is None:
        return Finding(False, "The run has kept no module.", question.again)
    proofs = [
        (name, said, read)
        for name, said, read in (
            ("srcversion", info.loaded_srcversion, kept.srcversion),
            ("build id", info.loaded_build_id, kept.build_id),
        )
        if said or read
    ]
    wrong = [name for name, said, read in proofs if said != read]
    if not info.identity_proven or not proofs or wrong:
        return Finding(
            False,
            "The loaded module was not proven to be the file that was kept"
            + (f": its {wrong[0]} differs." if wrong else "."),
            question.again,
        )
    if question.module is not None:
        return _file_is(question.module, kept.sha256, question.again)
    by = " and ".join(f"{name} {read}" for name, _, read in proofs)
    return Finding(True, f"'{info.file}', sha256 {kept.sha256}; the kernel said {by}.")


def _file_is(file: Path, sha256: str, again: str) -> Finding:
    try:
        actual = sha256_of(file)
    except OSError as error:
        return Finding(False, f"'{file}' cannot be read: {error.strerror}.", "Name another file.")
    if actual != sha256:
        return Finding(
            False,
            f"'{file}' has sha256 {actual[:16]}…, and {sha256[:16]}… was tested.",
            f"Load the file that was tested; the run keeps it. Or: {again}",
        )
    return Finding(True, f"'{file}' is the tested file: sha256 {sha256}.")


def same_series(question: Question, _row: Criterion) -> Finding:
    release = question.results.target.kernel
    vermagic = (question.results.module.vermagic or "").split(" ")[0]
    if not release:
        return Finding(False, "The run does not say which kernel ran.", question.again)
    if vermagic != release:
        return Finding(
            False,
            f"The module was built for '{vermagic or 'no kernel'}', and '{release}' ran.",
            question.again,
        )
    series = series_of(release)
    if question.kernel is None:
        return Finding(
            True, f"'{release}': the evidence holds for the series {series} and for no other."
        )
    if series_of(question.kernel) != series:
        return Finding(
            False,
            f"It was tested on {series} ('{release}'); behind the gate runs '{question.kernel}'.",
            f"Test on that series: choose its suite with --suite. {question.again}",
        )
    return Finding(True, f"'{release}' is of the same series as '{question.kernel}'.")


def all_categories(question: Question, row: Criterion) -> Finding:
    results = question.results
    wanted = [each for each in CATEGORIES.values() if each.ready or each.name in row.categories]
    missing, counts, absent = [], [], []
    for category in wanted:
        reason = _not_applicable(question, category)
        tests = [test for test in results.tests if test.category == category.name]
        good = [test for test in tests if test.outcome is Outcome.PASSED]
        if category.name in results.selected_categories and good:
            counts.append(f"{category.name} {len(good)}")
        elif reason and category.name not in results.selected_categories:
            absent.append(f"'{category.name}' has nothing to run, because {reason}")
        else:
            missing.append(_why_not(category, results, tests))
    if missing:
        return Finding(False, " ".join(missing), f"Run every category in one run. {question.again}")
    rest = f" {'; '.join(absent)}." if absent else ""
    return Finding(True, f"Tests passed: {', '.join(counts)}.{rest}")


def _not_applicable(question: Question, category: Category) -> str:
    subject = question.subject
    if subject is None:
        return ""
    return category.missing(subject, question.tree.path)


def _why_not(category: Category, results: RunResults, tests: list[TestResult]) -> str:
    if not category.ready:
        return f"The category '{category.name}' is not in this version of vexrun, so it never ran."
    if category.name not in results.selected_categories:
        return f"The category '{category.name}' was not selected."
    said = next((test.message for test in tests if test.message), "no test exists")
    return f"No test passed in the category '{category.name}': {said}."


def no_kernel_event(question: Question, _row: Criterion) -> Finding:
    results = question.results
    events = [*results.kernel_events, *(e for test in results.tests for e in test.kernel_events)]
    if events:
        return Finding(
            False,
            f"The kernel reported '{events[0].title}'.",
            f"Repair that first. Look at it with: vexrun report {results.run_id}",
        )
    seen = len(question.evidence.console)
    if not seen:
        return Finding(False, "There is no console log to say so.", question.again)
    return Finding(True, f"None in the results, and none in the {seen} bytes of console.log.")


def tests_passed(question: Question, row: Criterion) -> Finding:
    matching = [
        test
        for test in question.results.tests
        if any(fnmatch.fnmatchcase(test.id, pattern.replace("[", "[[]")) for pattern in row.tests)
    ]
    good = [test for test in matching if test.outcome is Outcome.PASSED]
    bad = [
        test
        for test in matching
        if test.outcome not in (Outcome.PASSED, Outcome.SKIPPED, Outcome.XFAILED)
    ]
    if bad:
        return Finding(
            False, f"'{bad[0].id}' {bad[0].outcome.value}: {bad[0].message}", question.again
        )
    if not good:
        named = ", ".join(f"'{pattern}'" for pattern in row.tests)
        why = next((f"{test.id}: {test.message}" for test in matching if test.message), "")
        return Finding(
            False,
            f"None of the tests {named} passed" + (f" ({why})." if why else ": none was run."),
            f"Run every category. {question.again}",
        )
    rest = len(matching) - len(good)
    return Finding(
        True,
        f"{len(good)} passed, such as '{good[0].id}'"
        + (f"; {rest} skipped or failing as recorded." if rest else "."),
    )


def expectations_in_order(question: Question, _row: Criterion) -> Finding:
    results = question.results
    known = [test for test in results.tests if test.outcome is Outcome.XFAILED]
    if results.stale_expectations:
        return Finding(
            False,
            f"An expected failure passes now: {results.stale_expectations[0]}.",
            f"Remove it from '{EXPECTATIONS_FILE}', then: {question.again}",
        )
    if known and not question.rules.expected_failures:
        return Finding(
            False,
            f"{len(known)} tests fail as recorded, such as '{known[0].id}'; this gate takes none.",
            "Repair them.",
        )
    try:
        recorded = load_expectations(Path(results.subject.subject_file))
    except VexrunError as error:
        return Finding(False, error.message, error.hint)
    for test in known:
        problem = _debt_problem(test, recorded)
        if problem:
            return Finding(
                False,
                f"'{test.id}' fails as recorded, but {problem}.",
                f"See '{EXPECTATIONS_FILE}'.",
            )
    return Finding(
        True,
        f"{len(known)} tests fail as recorded, each with a link." if known else "There is none.",
    )


def _debt_problem(test: TestResult, recorded: list[Expectation]) -> str:
    covering = [each for each in recorded if each.covers(test)]
    if not covering:
        return "no expectation covers it any more"
    if not any(each.link.strip() for each in covering):
        return "its expectation has no link"
    return ""


def soaked(question: Question, _row: Criterion) -> Finding:
    """Complete passing VM runs of the same tree and series, this one included."""
    needed = question.rules.soak_runs
    results = question.results
    alike = [results.run_id] if results.verdict is Verdict.PASS and results.complete else []
    for directory in question.others:
        try:
            other = read_evidence(directory)
        except VexrunError:
            continue  # a run without results counts for nothing, and against nothing
        if other.results.run_id not in alike and _soaks(other, results) and not edited(other):
            alike.append(other.results.run_id)
            if len(alike) >= needed:
                break
    if len(alike) < needed:
        return Finding(
            False,
            f"{len(alike)} complete runs of this tree on this kernel series passed all of these "
            f"categories; this gate asks for {needed}.",
            f"{question.again} ({needed - len(alike)} times)",
        )
    return Finding(True, f"{len(alike)} of {needed}: {', '.join(alike)}.")


def _soaks(other: Evidence, results: RunResults) -> bool:
    run = other.results
    return (
        run.verdict is Verdict.PASS
        and run.complete
        and run.resumed_from is None
        and run.target.kind == results.target.kind
        and run.subject.tree_sha256 == results.subject.tree_sha256
        and run.subject.name == results.subject.name
        and series_of(run.target.kernel or "") == series_of(results.target.kernel or "")
        and set(results.selected_categories) <= set(run.selected_categories)
    )


def device_run(question: Question, _row: Criterion) -> Finding:
    """The newest run on a device that is about the same tree and series, and whole."""
    results = question.results
    again = (
        "Run: vexrun test SOURCE --target device --device NAME --seal FILE, with the seal of the "
        "gate to the device"
    )
    why = "There is no run of this tree on a test device, on this kernel series."
    for directory in question.others:
        try:
            other = read_evidence(directory)
        except VexrunError:
            continue  # a run without results counts for nothing, and against nothing
        if not _is_device_run_of(other.results, results):
            continue
        problem = _device_problem(other, question)
        if not problem:
            device = other.results.device
            assert device is not None, "asked before"
            return Finding(
                True,
                f"Run {other.results.run_id} on '{device.name}' (machine-id {device.machine_id}), "
                f"sealed by run {device.gate_run}.",
            )
        why = f"The run {other.results.run_id} on a device does not count: {problem}."
        break  # the newest one counts: an older pass does not outweigh it
    return Finding(False, why, again)


def _is_device_run_of(run: RunResults, results: RunResults) -> bool:
    return (
        run.target.kind == "device"
        and run.device is not None
        and run.subject.name == results.subject.name
        and run.subject.tree_sha256 == results.subject.tree_sha256
        and series_of(run.target.kernel or "") == series_of(results.target.kernel or "")
    )


def _device_problem(other: Evidence, question: Question) -> str:
    """Why a run on a device is not enough, '' when it is."""
    run, device = other.results, other.results.device
    assert device is not None, "asked before"
    if device.override:
        return f"it went round the gate ('{device.override}')"
    if device.problems or not device.seal_sha256:
        return "it had no seal that held"
    if run.verdict is not Verdict.PASS or not run.complete:
        return f"its verdict is '{run.verdict.value}'"
    if run.subject.tree_sha256_after != run.subject.tree_sha256:
        return "the tree changed while it went on"
    if problems := edited(other):
        return problems[0]
    missing = [name for name in DEVICE_CATEGORIES if name not in run.selected_categories]
    if missing:
        return f"the category '{missing[0]}' was not selected"
    try:
        age = question.now - datetime.fromisoformat(run.finished_at or "")
    except (ValueError, TypeError):
        return f"its end is recorded as '{run.finished_at}', which is no time"
    days = load_criteria().gates[Gate.DEVICE].max_age_days
    if age > timedelta(days=days):
        return f"it ended {age.days} days ago, and {days:g} days are taken"
    return ""


def signed_off(question: Question, row: Criterion) -> Finding:
    example = '[backup]\nname = "…"\ndate = 2026-01-31'.replace("\n", " / ")
    if question.checklist is None:
        return Finding(
            False,
            f"No checklist was given for {', '.join(row.items)}.",
            f"Write one table for each ({example}) and name the file with --checklist.",
        )
    try:
        given = tomllib.loads(question.checklist.read_text())
    except (OSError, ValueError) as error:
        return Finding(False, f"'{question.checklist}' cannot be read: {error}.", "Correct it.")
    signed = []
    for item in row.items:
        entry = given.get(item)
        name = entry.get("name") if isinstance(entry, dict) else None
        date = entry.get("date") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not name.strip() or not date:
            return Finding(
                False,
                f"'{item}' is not signed off in '{question.checklist}'.",
                f"Its table needs 'name' and 'date': {example}.",
            )
        signed.append(f"{item} by {name} on {date}")
    return Finding(True, "; ".join(signed) + ".")


#: Named in criteria.toml.
CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        intact,
        passed,
        in_a_vm,
        same_version,
        recent,
        same_tree,
        same_subject,
        clean_commit,
        same_module,
        same_series,
        all_categories,
        no_kernel_event,
        tests_passed,
        expectations_in_order,
        soaked,
        device_run,
        signed_off,
    )
}


def measure_tree(path: Path) -> Tree:
    """The tree at `path` now."""
    try:
        state = tree.measure(path)
        git = tree.git_state(path)
    except (VexrunError, OSError) as error:
        return Tree(path, problem=str(error))
    return Tree(path, state.sha256, git.commit, git.dirty)


def utc_now() -> datetime:
    return datetime.now(UTC)
