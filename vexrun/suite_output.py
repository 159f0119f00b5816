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
#: A line that is nothing but the claim: 'Failed!', 'Failed, blocks are lost', 'Test 3 failed.',
#: and what cmp(1), diff(1) and md5sum(1) print. What a tool said may be as it should:
#: 'Failed to open x'.
_CLAIMS = re.compile(
    r"^\W*(?:error\W+)?failed\s*(?:[,!]|:(?!\s*(?:none|no)\b)|\.*$)|"
    r"^\W*(?:tests?|checks?|verification)\b.*\bfailed[.!]*$|"
    r"^\S+ \S+ differ: (?:byte|char) \d+, line \d+$|^cmp: EOF on |"
    r"^(?:binary )?files .+ and .+ differ$|^only in .+: (?!lost\+found$)|"
    r"^@@ -\d+(?:,\d+)? \+\d+(?:,\d+)? @@|"
    r"\bcomputed checksums? did NOT match$",
    re.IGNORECASE,
)
_CRASHES = re.compile(
    r"^thread '.*' (?:\(\d+\) )?panicked at |Segmentation fault|\bBus error\b|\(core dumped\)|"
    r"\bAssertion [`'‘].*failed\b|^Traceback \(most recent call last\)"
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
    return _WORDS.search(line) is not None or _CLAIMS.search(line) is not None


def executed_by(output: str, pattern: str) -> int:
    """The sum of a regular expression's one group over the whole output.

    A match that is no number counts nothing: it is evidence of no test.
    """
    found = re.findall(pattern, "\n".join(plain_lines(output)), re.MULTILINE)
    return sum(int(each) for each in found if each.isdecimal())


#: What says how many tests ran: '3 passed', 'Ran 0 tests in', 'collected 0 items', TAP's plan.
_RAN = re.compile(
    r"\b(?P<passed>\d+) (?:\w+ )?passed\b|\bran (?P<ran>\d+) tests?\b|"
    r"\b(?P<tests>\d+) (?:tests?|checks?|cases?) (?:were )?(?:ran|run|executed|completed)\b|"
    r"\btests? (?:run|ran|passed|executed)\s*[:=]\s*(?P<of>\d+)|"
    r"\bcollected (?P<items>\d+) items?\b|^1\.\.(?P<plan>\d+)\b|"
    r"\b(?P<none>no) tests? (?:were )?(?:ran|run|found|executed|to run)\b",
    re.IGNORECASE,
)


def nothing_ran(output: str) -> str:
    """The line that says that no test ran, where nothing says that one did; else ''."""
    said = ""
    for line in plain_lines(output):
        for found in _RAN.finditer(line):
            count = next(each for each in found.groups() if each is not None)
            if count.isdecimal() and int(count):
                return ""
            said = said or line.strip()
    return said


#: How dash, bash and sudo say that there is no such program.
_NO_PROGRAM = re.compile(
    r"^\S+: (?:line )?\d+: (?P<shell>\S+): (?:command )?not found$|"
    r"^\S+: (?P<other>\S+): command not found$"
)


def missing_programs(output: str) -> list[str]:
    """Programs that a script called and a shell did not find."""
    found = [_NO_PROGRAM.match(line.strip()) for line in plain_lines(output)]
    return [each["shell"] or each["other"] for each in found if each is not None]


def script_complaint(output: str, success: str, executed: str | None) -> str:
    """Why a script that ended with 0 has not passed all the same; '' when it has."""
    if failures := failure_lines(output):
        more = f" and {len(failures) - 1} more lines that say failure" if len(failures) > 1 else ""
        return f"printed '{failures[0]}'{more}"
    if missing := missing_programs(output):
        return (
            f"called '{missing[0]}', which is not there (subject.packages names what the guest "
            "needs)"
        )
    if not re.search(success, "\n".join(plain_lines(output)), re.MULTILINE):
        return f"printed nothing that matches '{success}'"
    if executed is not None and not executed_by(output, executed):
        return f"ran no test: '{executed}' counts 0 in what it printed"
    if executed is None and (line := nothing_ran(output)):
        return f"ran no test: it printed '{line}'"
    return ""


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
