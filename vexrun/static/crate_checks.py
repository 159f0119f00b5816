"""The subject's crates: `cargo check`, clippy without a warning, rustfmt's formatting."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import PurePosixPath

from vexrun.results.model import Check
from vexrun.sandbox import Ended, Job, Workplace
from vexrun.static.diagnostics import read_diagnostics
from vexrun.static.source_checks import record
from vexrun.subject import Strictness, Subject

#: clippy and fmt by their own programs: an alias of that name in the tree's .cargo/config.toml
#: goes before an external subcommand, and could call anything.
_COMMANDS = {
    "check": "cargo check --offline --message-format=short",
    "clippy": "cargo-clippy clippy --all-targets --offline --message-format=short -- -D warnings",
    "fmt": "cargo-fmt fmt --check",
}
CRATE_CHECKS = tuple(_COMMANDS)
_TIMEOUT_S = 900.0
_FINISHED = re.compile(r"^\s*Finished ", re.MULTILINE)
#: 'Diff in FILE at line N:' up to rustfmt 1.6, 'Diff in FILE:N:' later.
_DIFF = re.compile(r"^Diff in (?P<path>.+?)(?: at line |:)(?P<line>\d+):", re.MULTILINE)


def crate_dirs(subject: Subject) -> list[str]:
    """The declared crates, each once; two programs may come from one."""
    return list(dict.fromkeys(crate.dir for crate in subject.crates))


def crate_job(check: str, crate: str, place: Workplace) -> Job:
    directory = place.tree / crate
    return Job(f"{check} {crate}", _COMMANDS[check], place, directory, _TIMEOUT_S)


def judge_crate(ended: Ended, subject: Subject) -> Check:
    check, _, crate = ended.job.name.partition(" ")
    if check == "fmt":
        findings = _unformatted(ended)
        strictness = subject.static.fmt
    else:
        findings = _remarks(ended, crate)
        # What does not compile is no matter of style.
        lenient = check == "clippy" and subject.static.clippy is Strictness.NOTE
        strictness = Strictness.NOTE if lenient else Strictness.ERROR
    reason = ""
    if ended.stopped:
        reason = ended.stopped
    elif not ended.ended_well:
        reason = _why(ended, findings, strictness)
    elif check != "fmt" and not _FINISHED.search(ended.output):
        reason = "cargo ended with 0, but did not say that it finished anything"
    return record(ended, "static", reason, findings)


def _why(ended: Ended, findings: list[str], strictness: Strictness) -> str:
    if findings and strictness is Strictness.NOTE:
        return ""
    if findings:
        return f"{len(findings)} findings" if len(findings) > 1 else "1 finding"
    errors = [line for line in ended.output.splitlines() if line.startswith(("error", "Error"))]
    said = (
        errors[0] if errors else (ended.output.strip().splitlines() or ["nothing was printed"])[-1]
    )
    return f"{ended.failure()}: {said}"


def _unformatted(ended: Ended) -> list[str]:
    tree = f"{ended.job.place.tree}/"
    found = [
        f"{each['path'].removeprefix(tree)}:{each['line']}: not formatted as rustfmt does"
        for each in _DIFF.finditer(ended.output)
    ]
    return list(dict.fromkeys(found))


def _remarks(ended: Ended, crate: str) -> list[str]:
    """Warnings and errors, by file and line from the top of the tree.

    cargo names files from the root of the workspace, which may be above the crate.
    """
    place = ended.job.place
    said = read_diagnostics(ended.output, place.tree)
    found = []
    for each in said.ours:
        if each.path:  # without one it is cargo's sum: '`vexctl` generated 2 warnings'
            bases = [PurePosixPath(crate), *PurePosixPath(crate).parents]
            paths = [str(base / each.path) for base in bases]
            here = [path for path in paths if (place.tree_outside / path).is_file()]
            found.append(str(replace(each, path=(here or [each.path])[0])))
    return list(dict.fromkeys(found))
