"""The pytest plugin of tests that run against a target.

It only executes and reports. Whether a kernel event happened, and what became of a test, is
decided by the session (vexrun.session), which sees the console and the kernel log.
"""

from __future__ import annotations

import errno
import fnmatch
import re
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest

from vexrun.errors import TargetLostError
from vexrun.guest import own_tests
from vexrun.guest.context import Selection
from vexrun.guest.payload import IN_THE_GUEST, GuestCodeError
from vexrun.guest.protocol import STOP, SessionLink
from vexrun.layout import data_root
from vexrun.vm.ssh import GuestTimeoutError

pytest_plugins = ["vexrun.guest.fixtures"]

#: How far a test got: what ends it decides its raw outcome.
PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
HUNG, LOST = "hung", "lost"


class Reporter:
    """Tells the session about collection, starts and ends of tests."""

    def __init__(self, link: SessionLink, done: Sequence[str] = ()) -> None:
        self.link = link
        self.done = done
        self._outcome = PASSED
        self._message = ""
        self._details = ""
        self._begun = 0.0
        self._ids: dict[str, str] = {}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Leave out what an earlier process of this run has run."""
        done = frozenset(self.done)
        again = [item for item in items if own_tests.identifier(item) in done]
        if again:
            items[:] = [item for item in items if own_tests.identifier(item) not in done]
            config.hook.pytest_deselected(items=again)
        from vexrun.guest.fixtures import run_context

        selection = run_context(config).selection
        if selection is not None:
            items[:] = selected(items, selection)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._ids = {item.nodeid: own_tests.identifier(item) for item in session.items}
        self.link.tell("collected", ids=list(self._ids.values()))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.link.tell("collection_failed", where=report.nodeid, text=str(report.longrepr))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> None:
        self._outcome, self._message, self._details = PASSED, "", ""
        self._begun = time.monotonic()
        self.link.tell("started", id=self._ids[item.nodeid])

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[Any]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if report.skipped and self._outcome == PASSED:
            self._outcome, self._message = SKIPPED, _skip_reason(report)
        elif report.failed and self._outcome in (PASSED, SKIPPED):
            self._outcome = _failure_kind(call)
            self._message, self._details = _failure(call, report.longreprtext)
            if report.when == "teardown":
                self._message = f"cleaning up after the test failed: {self._message}"
        return report

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        answer = self.link.ask(
            "finished",
            id=self._ids[nodeid],
            outcome=self._outcome,
            message=self._message,
            details=self._details[-20000:],
            duration_s=time.monotonic() - self._begun,
        )
        if answer == STOP:
            pytest.exit("stopped by the session", returncode=0)


def selected(items: Sequence[pytest.Item], selection: Selection) -> list[pytest.Item]:
    """The tests of a stage: those that its patterns name, in the patterns' order."""

    def matches(item: pytest.Item, patterns: Sequence[str]) -> int | None:
        name = own_tests.identifier(item)
        for number, pattern in enumerate(patterns):
            if fnmatch.fnmatchcase(name, pattern.replace("[", "[[]")):
                return number
        return None

    left = [item for item in items if matches(item, selection.without) is None]
    if not selection.tests:
        return left
    ranked = [(matches(item, selection.tests), item) for item in left]
    return [
        item
        for rank, item in sorted(
            ((rank, item) for rank, item in ranked if rank is not None), key=lambda pair: pair[0]
        )
    ]


def _failure_kind(call: pytest.CallInfo[Any]) -> str:
    error = call.excinfo.value if call.excinfo else None
    if isinstance(error, GuestTimeoutError):
        return HUNG
    if isinstance(error, TargetLostError):
        return LOST
    # testinfra reports a dropped ssh connection only in the text of a RuntimeError.
    if isinstance(error, RuntimeError) and "exit_status=255" in str(error):
        return LOST
    return FAILED


def _failure(call: pytest.CallInfo[Any], traceback: str) -> tuple[str, str]:
    """The sentence a test failed with; and where that was, without saying it again."""
    if call.excinfo is None:
        return "", traceback
    text = str(call.excinfo.value).strip() or call.excinfo.typename
    text, _, in_guest = text.partition(IN_THE_GUEST)
    message, own, values = text.partition("\nassert ")
    shown = f"assert {values}" if own and not _SAYS_NOTHING.match(values) else ""
    places = [_PLACE.sub(_from_the_root, line) for line in traceback.splitlines()]
    where = "\n".join(line for line in places if not _SAID.match(line)).strip()
    parts = (where, shown, in_guest and f"in the guest:\n{in_guest}")
    return message[:2000], "\n".join(part for part in parts if part)


#: pytest's lines of the exception itself.
_SAID = re.compile(r"E( |$)")
_PLACE = re.compile(r"^\S+\.py(?=:\d+: )")
#: What an assertion with a sentence of its own compared: nothing that could be of use.
_SAYS_NOTHING = re.compile(r"(not )?(False|True|None|''|\[\]|\{\})( is (not )?None)?(\n|$)")


def _from_the_root(place: re.Match[str]) -> str:
    path, root = Path(place[0]).resolve(), data_root().resolve()
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def _skip_reason(report: pytest.TestReport) -> str:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return reason.removeprefix("Skipped: ")


def pytest_configure(config: pytest.Config) -> None:
    from vexrun.guest.fixtures import run_context

    config.addinivalue_line(
        "markers", "needs_operations(*names): operations of vexrun.subject.KNOWN_OPERATIONS"
    )
    link = SessionLink.from_environment()
    if link is not None:
        context = run_context(config)
        own_tests.register(config, context.source)
        config.pluginmanager.register(Reporter(link, context.done), "vexrun-reporter")
        config.stash[LINK] = link


LINK: pytest.StashKey[SessionLink] = pytest.StashKey()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose operation the subject declares that it lacks."""
    lacked = _lacked(item)
    for marker in item.iter_markers("needs_operations"):
        missing = [name for name in marker.args if name in lacked]
        if missing:
            pytest.skip(f"the subject file declares that the filesystem lacks: {missing[0]}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """A test that needs what the subject lacks, and finds out on its way, is a skip as well."""
    try:
        return (yield)
    except GuestCodeError as error:
        _spoil(item)
        if own_tests.identifier(item).startswith("own/"):
            raise
        said = str(error).partition(IN_THE_GUEST)[0]
        limits = [word for error_text, word in _LIMITS.items() if error_text in said]
        word = next(iter(limits or _REFUSED.findall(said)), "")
        if word in _lacked(item):
            pytest.skip(
                f"the subject file declares that the filesystem lacks: {word} (it says: {said})"
            )
        if limits:
            raise GuestCodeError(f"{_LIMIT_HINT.format(word)}{error}", error.kind) from error
        raise
    except pytest.skip.Exception:
        _spoil(item)
        raise


#: The files of every test are larger than some filesystem's largest, and so are the names. Where a
#: size is declared to be none, test_up_to_the_largest_size proves that all below it work.
_LIMITS = {f"[Errno {errno.EFBIG}]": "largefile", f"[Errno {errno.ENAMETOOLONG}]": "longnames"}
_LIMIT_HINT = (
    "the filesystem refuses a file's size or name (if its limit is that low by design, '{}' "
    "belongs into filesystem.lacks): "
)
#: What tree_in_guest.offers says of a refused operation.
_REFUSED = re.compile(r'add "(\w+)" to filesystem\.lacks')


def _spoil(item: pytest.Item) -> None:
    """Without directories all tests share the root, and this one has not cleaned up."""
    filesystem = getattr(item, "funcargs", {}).get("mounted")
    if filesystem is not None and "mkdir" in _lacked(item):
        filesystem.spoiled = True


def _lacked(item: pytest.Item) -> set[str]:
    from vexrun.guest.fixtures import run_context

    return run_context(item.config).subject.filesystem.lacked_operations
