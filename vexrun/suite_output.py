"""What the output of a test program says: how many tests ran, and whether something failed.

An exit status alone is not believed: `run-tests | tee log`, `|| true` and a forgotten `exit 1`
all end with 0. Used for unit suites, on the host, and for the subject's own scripts, in the guest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
#: TAP; a failing test that is marked TODO or SKIP counts as expected there.
_TAP = re.compile(r"\s*not ok\b(?!.*#\s*(?:TODO|SKIP)\b)", re.IGNORECASE)
#: '2 failed', '3 tests failed,', 'failures: 1', 'errors=2'. A count of what failed is a claim on
#: its own line or in a list; '3 failed attempts' is prose.
_COUNTS = (
    re.compile(
        r"\b(\d+) (?:\w+ )?(?:failed|failures?|failing)"
        r"(?=\s*(?:[;,.:!)\]|/]|$|in\b|out of\b|and\b))",
        re.IGNORECASE,
    ),
    re.compile(r"\b(?:failed|failures?|errors?)\b\s*[:=]\s*(\d+)\b", re.IGNORECASE),
)
#: Only capitals: 'test_failed_mount ... ok' and 'fails with EIO: ok' are names and sentences.
_WORDS = re.compile(r"\b(?:FAIL|FAILED|FAILURE|FAILURES)\b(?![-_/])|^\s*[\u2717\u2718\u274c]")
_CRASHES = re.compile(
    r"^thread '.*' (?:\(\d+\) )?panicked at |Segmentation fault|\(core dumped\)|"
    r"\bAssertion [`'‘].*failed\b"
)


def plain_lines(output: str) -> list[str]:
    """The lines without colours."""
    return _ANSI.sub("", output).splitlines()


def failure_lines(output: str) -> list[str]:
    """The lines that say that something failed, stripped."""
    return [line.strip() for line in plain_lines(output) if _says_failure(line)]


def _says_failure(line: str) -> bool:
    if _TAP.match(line) or _CRASHES.search(line):
        return True
    counts = [int(found) for pattern in _COUNTS for found in pattern.findall(line)]
    if counts:
        # 'FAILED: 0' and '7 passed, 0 failed' hold the word and mean the opposite.
        return any(counts)
    return _WORDS.search(line) is not None


def executed_by(output: str, pattern: str) -> int:
    """The sum of a regular expression's one group over the whole output.

    A match that is no number counts nothing: it is evidence of no test.
    """
    found = re.findall(pattern, "\n".join(plain_lines(output)), re.MULTILINE)
    return sum(int(each) for each in found if each.isdecimal())


#: One line for each test program, and one for the documentation tests.
_CARGO_RESULT = re.compile(
    r"^test result: (?P<word>\w+)\. (?P<passed>\d+) passed; (?P<failed>\d+) failed; "
    r"(?P<ignored>\d+) ignored;",
    re.MULTILINE,
)


@dataclass(frozen=True)
class CargoCounts:
    """The sums over all `test result:` lines of `cargo test`."""

    programs: int
    passed: int
    failed: int
    ignored: int

    @property
    def executed(self) -> int:
        return self.passed + self.failed


def cargo_counts(output: str) -> CargoCounts:
    found = list(_CARGO_RESULT.finditer("\n".join(plain_lines(output))))

    def total(name: str) -> int:
        return sum(int(each[name]) for each in found)

    return CargoCounts(len(found), total("passed"), total("failed"), total("ignored"))


#: libtest names every test that failed on a line of its own.
_CARGO_FAILED_TEST = re.compile(r"^test (\S+)(?: - .*)? \.\.\. FAILED$", re.MULTILINE)


def cargo_failed_tests(output: str) -> list[str]:
    return _CARGO_FAILED_TEST.findall("\n".join(plain_lines(output)))
