"""The module's source under stricter eyes: sparse, the compiler's W=1, checkpatch."""

from __future__ import annotations

import re
import shlex
from pathlib import Path, PurePosixPath

from vexrun.image.namespace import Bind
from vexrun.kbuild import make_assignments
from vexrun.results.model import Check
from vexrun.sandbox import Ended, Job, Workplace
from vexrun.static.diagnostics import Diagnostic, read_diagnostics
from vexrun.subject import Strictness, Subject

SOURCE_CHECKS = ("sparse", "w1", "checkpatch")
_TIMEOUT_S = 900.0
#: 'CHECK', and what `make V=1` prints instead.
_CHECKED = re.compile(r"^  CHECK   |^\s*sparse .*\.c\b", re.MULTILINE)
_COMPILED = re.compile(r"^  CC \[M\]  |^\s*\S*gcc\S* .*\.c\b", re.MULTILINE)
_CHECKPATCH_LINE = re.compile(
    r"^(?P<path>[^:]+):(?P<line>\d+): (?P<severity>ERROR|WARNING|CHECK):(?P<text>.*)"
)
#: What programs begin with and no kernel code does: their style is not the kernel's.
_OF_A_PROGRAM = re.compile(r"^[ \t]*#[ \t]*include[ \t]*<(stdio|stdlib|unistd)\.h>", re.MULTILINE)
#: Said of `#if LINUX_VERSION_CODE >= ...` too, whose left side is in capitals as well.
_CONSTANT_FIRST = "Comparisons should place the constant on the right side"
#: 'total: 1 errors, 2 warnings, 300 lines checked': it looked at a file.
_CHECKPATCH_TOTAL = re.compile(r"^total: \d+ errors?, .*lines checked", re.MULTILINE)


def make_job(check: str, subject: Subject, release: str, place: Workplace, jobs: int) -> Job:
    """Build the module again, with sparse beside the compiler or with more warnings."""
    # Not C=2: Linux 7.x asks scripts/checker-valid.sh then, which Debian's headers lack, and goes
    # on without a checker. This is the variable that C sets.
    variables = {"sparse": "KBUILD_CHECKSRC=2 CHECK=sparse", "w1": "W=1"}[check]
    make_vars = dict(subject.module.make_vars)
    if check == "w1" and "CFLAGS_MODULE" not in make_vars:
        # A subject's own -Werror must not end the build at the first of the further warnings.
        variables += " CFLAGS_MODULE=-Wno-error"
    directory = place.tree / subject.module.dir
    prepare = subject.module.prepare
    script = f"cd {shlex.quote(str(place.tree))} && {{ {prepare}\n}} && " if prepare else ""
    script += (
        f"make --keep-going --print-directory -C /lib/modules/{shlex.quote(release)}/build "
        f"M={shlex.quote(str(directory))} {make_assignments(make_vars)} {variables} "
        f"-j{jobs} modules"
    )
    return Job(check, script, place, directory, _TIMEOUT_S)


def judge_make(ended: Ended, subject: Subject) -> Check:
    """What it found fails only where the subject file says so: the module compiles, and sparse
    has limits of its own (sound code of the kernel's can be beyond it)."""
    name = ended.job.name
    said = read_diagnostics(ended.output, ended.job.place.tree)
    errors, warnings = said.of("error"), said.of("warning")
    strictness = subject.static.sparse if name == "sparse" else subject.static.w1
    looked = (_CHECKED if name == "sparse" else _COMPILED).findall(ended.output)
    undone = ""
    if ended.stopped:
        undone = ended.stopped
    elif not looked:
        undone = f"'make' {'checked' if name == 'sparse' else 'compiled'} no file at all"
    elif not ended.ended_well and not errors and not _about_headers(said.others):
        undone = f"'make' failed, although the module builds: {ended.failure()}"
    found = _count([*errors, *warnings], "remark") if errors or warnings else ""
    if strictness is Strictness.ERROR:
        wanted = f'{found}, and the subject file says {name} = "error"' if found else ""
        return record(ended, "static", wanted or undone, [*errors, *warnings])
    check = record(ended, "static", "", [*errors, *warnings])
    if undone:
        check.skipped, check.reason = True, undone
    return check


def _about_headers(others: list[Diagnostic]) -> bool:
    """An old sparse may not understand a new kernel's headers, whoever includes them."""
    return any(each.severity == "error" for each in others)


def checkpatch_job(subject: Subject, place: Workplace, scripts: Path) -> Job:
    """checkpatch over every source file of the module; `scripts` is the kernel's scripts/."""
    root = place.tree_outside / subject.module.dir
    files = [path.relative_to(root).as_posix() for path in c_files(root)]
    bound = place.inside / "scripts"
    script = (
        f"perl {shlex.quote(str(bound))}/checkpatch.pl --no-tree --terse --color=never "
        # A module outside the kernel's tree is built for several versions.
        "--ignore LINUX_VERSION_CODE --file -- " + shlex.join(f"./{file}" for file in files)
    )
    return Job(
        "checkpatch",
        script,
        place,
        place.tree / subject.module.dir,
        _TIMEOUT_S,
        (Bind(scripts, str(bound)),),
    )


def c_files(root: Path) -> list[Path]:
    """The C files and headers below a directory, without those of programs."""
    found = (path for path in sorted(root.rglob("*.[ch]")) if not path.name.endswith(".mod.c"))
    files = [path for path in found if path.is_file() and not path.is_symlink()]
    return [path for path in files if not _OF_A_PROGRAM.search(path.read_text(errors="replace"))]


def judge_checkpatch(ended: Ended, subject: Subject) -> Check:
    """A style checker: it counts, and fails nothing unless the subject file asks for it."""
    findings = []
    for line in ended.output.splitlines():
        if found := _CHECKPATCH_LINE.match(line):
            path = PurePosixPath(subject.module.dir) / found["path"].removeprefix("./")
            if _about_a_version(found["text"], ended.job.place.tree_outside / path, found["line"]):
                continue
            severity = found["severity"].lower()
            findings.append(f"{path}:{found['line']}: {severity}: {found['text'].strip()}")
    reason = ""
    if ended.stopped:
        reason = ended.stopped
    elif not _looked(ended):
        reason = f"checkpatch itself failed: {ended.failure()}"
    elif findings and subject.static.checkpatch is Strictness.ERROR:
        reason = f'{_count(findings, "remark")}, and the subject file says checkpatch = "error"'
    check = record(ended, "static", reason, findings)
    if reason and subject.static.checkpatch is Strictness.NOTE:
        check.ok = check.skipped = True  # what is only listed cannot fail by not being made
    return check


def _about_a_version(text: str, file: Path, line: str) -> bool:
    """Whether a remark is of a comparison of kernel versions, which has no better way round."""
    if not text.strip().startswith(_CONSTANT_FIRST) or not file.is_file():
        return False
    lines = file.read_text(errors="replace").splitlines()
    return int(line) <= len(lines) and "LINUX_VERSION_CODE" in lines[int(line) - 1]


def _looked(ended: Ended) -> bool:
    """Whether checkpatch did its work: it ends with 0, saying nothing, where it finds nothing."""
    if ended.status == 0:
        return True
    return ended.status == 1 and bool(_CHECKPATCH_TOTAL.search(ended.output))


def record(
    ended: Ended, category: str, reason: str, findings: list[str], executed: int | None = None
) -> Check:
    """The record of a job that ran. `reason` says why it is not in order, '' when it is."""
    return Check(
        name=ended.job.name,
        category=category,
        ok=not reason,
        reason=reason,
        command=ended.job.script,
        exit_status=ended.status,
        duration_s=round(ended.seconds, 2),
        executed=executed,
        findings=findings,
        log=ended.output[-8000:],
    )


def _count(items: list[str], what: str) -> str:
    return f"1 {what}" if len(items) == 1 else f"{len(items)} {what}s"
