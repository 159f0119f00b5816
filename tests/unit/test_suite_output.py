"""What test programs print: counts, and lines that say failure."""

from __future__ import annotations

from pathlib import Path

import pytest

from vexrun.suite_output import (
    CargoCounts,
    cargo_counts,
    cargo_failed_tests,
    executed_by,
    failure_lines,
    missing_programs,
    nothing_ran,
    script_complaint,
)

DATA = Path(__file__).parents[1] / "data" / "checks"
SUITES = ("bookworm", "trixie")

SAYS_FAILURE = [
    "test_rename FAILED",
    "FAIL: mount",
    "[  FAILED  ] Inode.Rename (3 ms)",
    "Result: FAIL",
    "\x1b[31mFAILED\x1b[0m rename",
    "2 failed, 3 passed in 0.12s",
    "Tests: 3 passed, 1 failed",
    "3 tests failed.",
    "FAILED (failures=1, errors=2)",
    "failures: 1",
    "Errors: 3",
    "not ok 4 - rename",
    "    not ok 1 subtest",
    "✗ rename",
    "  ❌ Module loading",
    "thread 'main' panicked at 'oops', src/main.rs:2:5",
    "thread 'main' panicked at src/main.rs:2:5:",
    "thread 'tests::a' (4711) panicked at src/main.rs:2:5:",
    "run.sh: line 3:   123 Segmentation fault      ./a.out",
    "a.out: a.c:3: main: Assertion `x == 1' failed.",
    "Aborted (core dumped)",
    "Bus error",
    "Traceback (most recent call last):",
    "Failed!",
    "failed",
    "Error: failed.",
    "Failed, some blocks are not reclaimed",
    "Failed: rename",
    "Test failed",
    "test 3: failed!",
    "Verification of /mnt/x failed.",
    "/mnt/a /mnt/b differ: byte 4097, line 12",
    "/mnt/a /mnt/b differ: char 1, line 1",
    "Files /usr/share/common-licenses/GPL-3 and /mnt/vexrun/GPL-3 differ",
    "Binary files a.bin and /mnt/vexrun/a.bin differ",
    "Only in /usr/share/common-licenses: Apache-2.0",
    "@@ -1,3 +1,2 @@",
    "cmp: EOF on /mnt/b after byte 4096, line 9",
    "sha256sum: WARNING: 1 computed checksum did NOT match",
]
SAYS_NO_FAILURE = [
    "test_failed_mount ... ok",
    "FAILED: 0",
    "7 passed, 0 failed",
    "test result: ok. 7 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out",
    "failures: 0, errors: 0",
    "mount of a damaged disk failed as it should: ok",
    "ok 4 - not ok is a name here",
    "not ok 5 - extents # TODO not written yet",
    "not ok 6 - quota # SKIP no quota",
    "XFAIL: test_quota",
    "fail-over works",
    "FAIL-SAFE mode on",
    "3 failed attempts, then it worked",
    "FAILOVER",
    "error handling: ok",
    "Failed: 0",
    "Failed: none",
    "Failed to open /nonexistent: No such file or directory",
    "Test that a bad mount failed: ok",
    "checking what failed before",
    "the files differ, as they should",
    "Only in /mnt/vexrun: lost+found",
    "all tests passed",
    "",
]


@pytest.mark.parametrize("line", SAYS_FAILURE)
def test_line_says_failure(line: str) -> None:
    assert len(failure_lines(f"1 passed\n{line}\nok\n")) == 1


@pytest.mark.parametrize("line", SAYS_NO_FAILURE)
def test_line_says_no_failure(line: str) -> None:
    assert failure_lines(f"1 passed\n{line}\nok\n") == []


@pytest.mark.parametrize(
    ("pattern", "output", "count"),
    [
        (r"(\d+) passed", "2 passed\n\x1b[32m3 passed\x1b[0m\n", 5),
        (r"^Ran (\d+) tests", "Ran 4 tests in 0.1s\nnot Ran 9 tests", 4),
        (r"(\d+) passed", "nothing", 0),
        (r"(\S+) passed", "all passed", 0),
        (r"(\d+) passed", "0 passed", 0),
    ],
)
def test_executed_tests_are_added_up(pattern: str, output: str, count: int) -> None:
    assert executed_by(output, pattern) == count


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize(
    ("log", "counts"),
    [
        ("good", CargoCounts(1, 1, 0, 0)),
        ("failing", CargoCounts(1, 0, 1, 0)),
        ("empty", CargoCounts(1, 0, 0, 0)),
        ("broken", CargoCounts(0, 0, 0, 0)),
    ],
)
def test_cargo_is_counted(suite: str, log: str, counts: CargoCounts) -> None:
    assert cargo_counts((DATA / suite / f"cargo_test_{log}.log").read_text()) == counts


@pytest.mark.parametrize("suite", SUITES)
def test_failed_tests_of_cargo_are_named(suite: str) -> None:
    log = (DATA / suite / "cargo_test_failing.log").read_text()
    assert cargo_failed_tests(log) == ["tests::wrong"]
    assert failure_lines(log)


@pytest.mark.parametrize("suite", SUITES)
def test_good_cargo_output_says_no_failure(suite: str) -> None:
    assert failure_lines((DATA / suite / "cargo_test_good.log").read_text()) == []


def test_programs_of_cargo_are_added_up() -> None:
    line = "test result: {}. {} passed; {} failed; {} ignored; 0 measured; 0 filtered out"
    output = "\n".join(
        [line.format("ok", 3, 0, 1), line.format("FAILED", 2, 2, 0), line.format("ok", 0, 0, 0)]
    )
    assert cargo_counts(output) == CargoCounts(3, 5, 2, 1)
    assert cargo_counts(output).executed == 7


@pytest.mark.parametrize(
    ("output", "line"),
    [
        ("ok\nRan 0 tests in 0.000s\nOK", "Ran 0 tests in 0.000s"),
        ("0 passed, 0 failed\nok", "0 passed, 0 failed"),
        ("collected 0 items\n\nno tests ran in 0.01s", "collected 0 items"),
        ("1..0 # SKIP no module\nok", "1..0 # SKIP no module"),
        ("tests run: 0", "tests run: 0"),
        ("0 tests executed", "0 tests executed"),
        ("No tests found.", "No tests found."),
        ("\x1b[32m0 tests passed\x1b[0m", "0 tests passed"),
        # One program of several had nothing to do.
        ("running 0 tests\n0 passed\nrunning 2 tests\n2 passed", ""),
        ("1..3\nok 1\nok 2\nok 3", ""),
        ("Ran 4 tests", ""),
        ("smoke: ok", ""),
        ("0 errors, all well", ""),
        ("", ""),
    ],
)
def test_output_says_that_nothing_ran(output: str, line: str) -> None:
    assert nothing_ran(output) == line


@pytest.mark.parametrize(
    ("line", "program"),
    [
        ("sh: 3: fsx: not found", "fsx"),
        ("/mnt/src/t.sh: 12: ./mkfs.demo: not found", "./mkfs.demo"),
        ("/mnt/src/t.sh: line 4: xfs_io: command not found", "xfs_io"),
        ("bash: xfs_io: command not found", "xfs_io"),
        ("sudo: fsx: command not found", "fsx"),
        ("t.sh: 3: not found: ok", None),
        ("file not found: ok", None),
        ("ls: cannot access '/mnt/x': No such file or directory", None),
    ],
)
def test_program_that_was_not_there(line: str, program: str | None) -> None:
    assert missing_programs(f"begin\n{line}\nok") == ([program] if program else [])


@pytest.mark.parametrize(
    ("output", "executed", "complaint"),
    [
        ("smoke: ok", None, ""),
        ("2 tests passed\nsmoke: ok", r"(\d+) tests passed", ""),
        ("FAIL: x\nsmoke: ok", None, "printed 'FAIL: x'"),
        ("FAIL: x\nFAIL: y\nsmoke: ok", None, "printed 'FAIL: x' and 1 more lines"),
        ("sh: 1: fsx: not found\nsmoke: ok", None, "called 'fsx', which is not there"),
        ("done", None, "printed nothing that matches '^smoke: ok$'"),
        ("smoke: ok", r"(\d+) tests passed", "ran no test: '(\\d+) tests passed' counts 0"),
        ("0 tests passed\nsmoke: ok", None, "ran no test: it printed '0 tests passed'"),
        # The pattern says what counts: these are files.
        ("0 passed by\n3 files compared\nsmoke: ok", r"(\d+) files", ""),
    ],
)
def test_script_that_ended_with_0(output: str, executed: str | None, complaint: str) -> None:
    said = script_complaint(output, "^smoke: ok$", executed)
    assert said.startswith(complaint)
    assert bool(said) == bool(complaint)
