"""Judging what checkers and unit suites printed; which checks there are for a subject."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest

from vexrun import unit_suites
from vexrun.checks import notes_on, static_check_names, unit_suite_names
from vexrun.results.model import Check
from vexrun.sandbox import Ended, Job, Workplace
from vexrun.static import crate_checks, source_checks
from vexrun.static.diagnostics import read_diagnostics
from vexrun.static.linkage import LINKAGE_CHECKS
from vexrun.subject import Subject, UnitSuite

MakeSubject = Callable[..., Subject]
DATA = Path(__file__).parents[1] / "data" / "checks"
SUITES = ("bookworm", "trixie")
#: Where the captured logs were made.
CANARYFS, F2FS, EXT2 = "canaryfs", "f2fs", "ext2"


def log(name: str, suite: str = "bookworm") -> str:
    return (DATA / suite / f"{name}.log").read_text()


def ended(
    name: str, output: str, status: int | None = 0, stopped: str = "", subject: str = CANARYFS
) -> Ended:
    place = Workplace(Path("/nowhere"), subject)
    job = Job(name, "true", place, place.tree, 60.0)
    return Ended(job, status, output, 1.0, stopped)


# -- where a remark is about ---------------------------------------------------------------------


def test_remarks_of_sparse_on_the_subject_and_on_headers_are_told_apart() -> None:
    place = Workplace(Path("/nowhere"), F2FS)
    said = read_diagnostics(log("f2fs_sparse"), place.tree)
    assert said.of("error") == []
    assert (
        "super.c:293: warning: symbol 'f2fs_cf_name_slab' was not declared. Should it be static?"
        in (said.of("warning"))
    )
    assert len(said.of("warning")) == 7
    assert {each.path.rsplit("/", 1)[-1] for each in said.others} == {"f2fs.h"}


def test_remarks_of_w1_have_file_and_line() -> None:
    said = read_diagnostics(log("ext2_w1"), Workplace(Path("/nowhere"), EXT2).tree)
    assert len(said.of("warning")) == 5
    assert all(
        each.startswith(("balloc.c:763:", "dir.c:417:", "inode.c:398:"))
        for each in said.of("warning")
    )


@pytest.mark.parametrize(
    ("directory", "ours"), [("/usr/src/linux-headers-6.12", False), ("/b/demo/source/fs", True)]
)
def test_relative_path_starts_where_make_was(directory: str, ours: bool) -> None:
    text = f"make[1]: Entering directory '{directory}'\n./include/a.h:3:5: error: bad\n"
    said = read_diagnostics(text, PurePosixPath("/b/demo/source"))
    assert [str(each) for each in said.ours] == (["fs/include/a.h:3: error: bad"] if ours else [])
    assert len(said.others) == (not ours)


def test_remarks_without_a_line_are_kept_and_makes_own_are_not() -> None:
    text = (
        "WARNING: modpost: missing MODULE_DESCRIPTION() in /b/s/demo.o\n"
        "/b/s/demo.o: warning: objtool: f()+0x1: stack state mismatch\n"
        "make[2]: warning:  Clock skew detected.  Your build may be incomplete.\n"
    )
    assert read_diagnostics(text, PurePosixPath("/b/s")).of("warning") == [
        "warning: modpost: missing MODULE_DESCRIPTION() in demo.o",
        "warning: objtool: f()+0x1: stack state mismatch",
    ]


# -- sparse, W=1, checkpatch ---------------------------------------------------------------------


def judged(
    name: str,
    output: str,
    subject: Subject,
    status: int | None = 0,
    *,
    stopped: str = "",
    built_as: str = CANARYFS,
) -> Check:
    return source_checks.judge_make(ended(name, output, status, stopped, built_as), subject)


@pytest.mark.parametrize(("name", "text"), [("sparse", "f2fs_sparse"), ("w1", "ext2_w1")])
@pytest.mark.parametrize("strictness", ["note", "error"])
def test_warnings_fail_only_where_the_subject_file_says_so(
    name: str, text: str, strictness: str, make_subject: MakeSubject
) -> None:
    subject = make_subject(static=f'{name} = "{strictness}"')
    check = judged(name, log(text), subject, built_as=text.partition("_")[0])
    assert check.ok == (strictness == "note")
    assert check.findings
    assert (f'{name} = "error"' in check.reason) == (strictness == "error")


@pytest.mark.parametrize("name", ["sparse", "w1"])
@pytest.mark.parametrize("strictness", ["note", "error"])
def test_an_error_of_a_checker_fails_only_where_the_subject_file_says_so(
    name: str, strictness: str, make_subject: MakeSubject
) -> None:
    """The module compiles: sparse may not understand what the compiler does."""
    tree = Workplace(Path("/nowhere"), CANARYFS).tree
    text = f"  CC [M]  a.o\n  CHECK   a.c\n{tree}/a.c:3:5: error: undefined identifier 'x'\n"
    check = judged(name, text, make_subject(static=f'{name} = "{strictness}"'), 2)
    assert (check.ok, check.skipped) == (strictness == "note", False)
    assert check.findings == ["a.c:3: error: undefined identifier 'x'"]


def test_error_of_an_old_sparse_about_headers_is_none_of_the_subject(
    make_subject: MakeSubject,
) -> None:
    text = "  CHECK   a.c\n/usr/src/linux/include/a.h:3:5: error: attribute 'x': unknown\n"
    assert judged("sparse", text, make_subject(), 2).ok


def test_make_that_went_on_without_a_checker_is_not_in_order(make_subject: MakeSubject) -> None:
    """Linux 7.2 in sid: `C=2` without scripts/checker-valid.sh only says so, and ends with 0."""
    strict = make_subject(static='sparse = "error"')
    check = judged("sparse", log("no_checker_valid", "sid"), strict, built_as="vexfs-ref")
    assert not check.ok
    assert check.reason == "'make' checked no file at all"
    job = source_checks.make_job("sparse", make_subject(), "7.2", Workplace(Path("/x"), "x"), 2)
    assert "KBUILD_CHECKSRC=2 CHECK=sparse" in job.script


@pytest.mark.parametrize("name", ["sparse", "w1"])
@pytest.mark.parametrize(
    ("output", "status", "stopped", "says"),
    [
        ("make: nothing to be done\n", 0, "", "no file at all"),
        ("  CC [M]  a.o\n  CHECK   a.c\n/bin/sh: 1: sparse: not found\n", 2, "", "'make' failed"),
        ("  CC [M]  a.o\n  CHECK   a.c\n", None, "it did not end within 9 s", "did not end"),
    ],
)
def test_checker_that_did_not_do_its_work_is_not_in_order(
    name: str, output: str, status: int | None, stopped: str, says: str, make_subject: MakeSubject
) -> None:
    lenient = judged(name, output, make_subject(), status, stopped=stopped)
    assert (lenient.ok, lenient.skipped) == (True, True)
    assert says in lenient.reason
    strict = make_subject(static=f'{name} = "error"')
    check = judged(name, output, strict, status, stopped=stopped)
    assert not check.ok
    assert says in check.reason


@pytest.mark.parametrize(("strictness", "ok"), [("note", True), ("error", False)])
def test_checkpatch_lists_and_fails_on_request(
    strictness: str, ok: bool, make_subject: MakeSubject
) -> None:
    subject = make_subject(
        static=f'checkpatch = "{strictness}"', module='dir = "kernel"\nko = "a.ko"'
    )
    text = (
        "./a.c:27: WARNING: Missing a blank line\ntotal: 0 errors, 1 warnings, 30 lines checked\n"
    )
    check = source_checks.judge_checkpatch(ended("checkpatch", text, 1), subject)
    assert check.ok is ok
    assert check.findings == ["kernel/a.c:27: warning: Missing a blank line"]


@pytest.mark.parametrize("strictness", ["note", "error"])
def test_checkpatch_says_nothing_of_clean_files(strictness: str, make_subject: MakeSubject) -> None:
    subject = make_subject(static=f'checkpatch = "{strictness}"')
    check = source_checks.judge_checkpatch(ended("checkpatch", "", 0), subject)
    assert (check.ok, check.skipped, check.reason) == (True, False, "")


def test_checkpatchs_remark_on_a_comparison_of_kernel_versions_is_dropped(
    tmp_path: Path, make_subject: MakeSubject
) -> None:
    """Eleven of the fifteen that it made on vexfs-ref."""
    place = Workplace(tmp_path, CANARYFS)
    place.tree_outside.mkdir(parents=True)
    (place.tree_outside / "a.c").write_text(
        "#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 3, 0)\n#endif\nint a = NULL == b;\n"
    )
    text = "Comparisons should place the constant on the right side of the test\n"
    output = f"./a.c:1: WARNING: {text}./a.c:3: WARNING: {text}"
    output += "total: 0 errors, 2 warnings, 3 lines checked\n"
    job = Job("checkpatch", "perl", place, place.tree, 9)
    check = source_checks.judge_checkpatch(Ended(job, 1, output, 1.0), make_subject())
    assert check.findings == [f"a.c:3: warning: {text.strip()}"]


def test_programs_beside_the_module_are_not_checked(tmp_path: Path) -> None:
    (tmp_path / "mkfs.c").write_text("/* makes one */\n#include <stdint.h>\n# include <stdio.h>\n")
    (tmp_path / "a.c").write_text("#include <linux/fs.h>\n")
    (tmp_path / "a.mod.c").touch()
    assert source_checks.c_files(tmp_path) == [tmp_path / "a.c"]


@pytest.mark.parametrize(("output", "status"), [("Can't locate Foo.pm", 2), ("", 1), ("", 127)])
def test_checkpatch_that_broke_is_skipped_with_the_reason(
    output: str, status: int, make_subject: MakeSubject
) -> None:
    check = source_checks.judge_checkpatch(ended("checkpatch", output, status), make_subject())
    assert (check.ok, check.skipped) == (True, True)


# -- crates --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize(
    ("name", "status", "finding"),
    [
        ("clippy_good", 0, ""),
        ("clippy_clippy", 101, "src/main.rs:3: error: length comparison to zero"),
        ("check_broken", 101, "src/main.rs:2: error: mismatched types"),
        ("fmt_unformatted", 1, "unformatted/src/main.rs:1: not formatted"),
    ],
)
def test_crate_is_judged_by_what_cargo_said(
    suite: str, name: str, status: int, finding: str, make_subject: MakeSubject
) -> None:
    check, _, crate = name.partition("_")
    judged = crate_checks.judge_crate(
        ended(f"{check} {crate}", log(name, suite), status), make_subject()
    )
    assert judged.ok == (status == 0)
    assert [each for each in judged.findings if each.startswith(finding)] or not finding


@pytest.mark.parametrize(
    ("check", "text"), [("clippy", "clippy_clippy"), ("fmt", "fmt_unformatted")]
)
def test_clippy_and_fmt_can_be_made_notes(check: str, text: str, make_subject: MakeSubject) -> None:
    subject = make_subject(static=f'{check} = "note"')
    judged = crate_checks.judge_crate(ended(f"{check} x", log(text), 1), subject)
    assert judged.ok
    assert judged.findings


@pytest.mark.parametrize("check", ["check", "clippy"])
def test_cargo_that_did_nothing_is_not_in_order(check: str, make_subject: MakeSubject) -> None:
    judged = crate_checks.judge_crate(ended(f"{check} x", "", 0), make_subject())
    assert not judged.ok
    assert "did not say that it finished" in judged.reason


@pytest.mark.parametrize("check", ["check", "clippy", "fmt"])
def test_failure_without_a_finding_is_a_failure(check: str, make_subject: MakeSubject) -> None:
    subject = make_subject(static='clippy = "note"\nfmt = "note"')
    text = "error: no matching package named `libc` found\nlocation searched: crates.io\n"
    judged = crate_checks.judge_crate(ended(f"{check} x", text, 101), subject)
    assert not judged.ok
    assert "no matching package named `libc`" in judged.reason


# -- unit suites ---------------------------------------------------------------------------------


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize(
    ("name", "status", "ok", "executed", "says"),
    [
        ("good", 0, True, 1, ""),
        ("empty", 0, False, 0, "no test ran"),
        ("failing", 101, False, 1, "1 of 1 tests failed"),
        ("failing", 0, False, 1, "1 of 1 tests failed"),
        ("broken", 101, False, 0, "could not compile `broken`"),
        ("good", 101, False, 1, "exit status 101"),
    ],
)
def test_cargo_test_is_judged(
    suite: str, name: str, status: int, ok: bool, executed: int, says: str
) -> None:
    check = unit_suites.judge_crate(ended("cargo test x", log(f"cargo_test_{name}", suite), status))
    assert (check.ok, check.executed) == (ok, executed)
    assert says in check.reason


def test_crate_whose_tests_are_all_ignored_ran_none() -> None:
    text = "test result: ok. 0 passed; 0 failed; 3 ignored; 0 measured; 0 filtered out\n"
    check = unit_suites.judge_crate(ended("cargo test x", text))
    assert not check.ok
    assert check.reason == "no test ran (3 are ignored)"


SUITE = UnitSuite(name="a", run="true")


@pytest.mark.parametrize(
    ("output", "status", "stopped", "says"),
    [
        ("3 passed", 0, "", ""),
        ("3 passed", 1, "", "exit status 1"),
        ("3 passed\ntest_b FAILED", 0, "", "printed 'test_b FAILED'"),
        ("3 passed, 1 failed", 0, "", "printed '3 passed, 1 failed'"),
        ("0 passed", 0, "", "no test ran"),
        ("", 0, "", "no test ran"),
        ("3 passed", None, "it did not end within 900 s", "did not end"),
    ],
)
def test_suite_is_judged(output: str, status: int | None, stopped: str, says: str) -> None:
    check = unit_suites.judge_suite(ended("suite a", output, status, stopped), SUITE)
    assert check.ok == (not says)
    assert says in check.reason


# -- which there are -----------------------------------------------------------------------------

CRATES = """
[[crates]]
dir = "cli"
bin = "vexctl"
[[crates]]
dir = "cli"
bin = "vexd"
[[crates]]
dir = "format"
bin = "vexfmt"
[[unit]]
name = "disk"
run = "make check"
"""


def test_every_crate_and_suite_has_its_checks_once(make_subject: MakeSubject) -> None:
    subject = make_subject(CRATES)
    assert static_check_names(subject)[-6:] == [
        "check cli",
        "clippy cli",
        "fmt cli",
        "check format",
        "clippy format",
        "fmt format",
    ]
    assert unit_suite_names(subject) == ["cargo test cli", "cargo test format", "suite disk"]


def test_module_is_checked_without_being_declared(make_subject: MakeSubject) -> None:
    subject = make_subject()
    assert static_check_names(subject) == [*LINKAGE_CHECKS, "sparse", "w1", "checkpatch"]
    assert unit_suite_names(subject) == []


def test_findings_that_do_not_fail_are_noted_and_counted() -> None:
    check = Check(name="sparse", category="static", ok=True, findings=[f"a.c:{n}" for n in "12345"])
    bad = check.model_copy(update={"ok": False})
    quiet = check.model_copy(update={"findings": []})
    (note,) = notes_on([check, bad, quiet])
    assert note.startswith("sparse: 5 remarks")
    assert "a.c:1; a.c:2; a.c:3; and 2 more" in note


def test_make_gets_the_subjects_variables(make_subject: MakeSubject) -> None:
    subject = make_subject(module='dir = "fs"\nko = "a.ko"\nmake_vars = { A = "two words" }')
    job = source_checks.make_job("w1", subject, "6.12", Workplace(Path("/x"), "demo"), 2)
    assert "M=/var/lib/vexrun/build/demo/source/fs 'A=two words' W=1 CFLAGS_MODULE=-Wno-error" in (
        job.script
    )
    prepared = make_subject(module='ko = "a.ko"\nprepare = "./genver.sh"')
    script = source_checks.make_job("w1", prepared, "6.12", Workplace(Path("/x"), "demo"), 2).script
    assert script.startswith("cd /var/lib/vexrun/build/demo/source && { ./genver.sh\n} && make ")
    mine = make_subject(module='ko = "a.ko"\nmake_vars = { CFLAGS_MODULE = "-DX" }')
    assert "-Wno-error" not in (
        source_checks.make_job("w1", mine, "6.12", Workplace(Path("/x"), "demo"), 2).script
    )
