"""pytest files of the subject's own (`vexrun-tests/`), among ours in one report.

A file that cannot be imported, or that holds no test, is a failed test of its own: it must
neither break the run nor go unnoticed.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from vexrun.categories import OWN_TESTS_DIR

#: Ids of these tests begin so; the first part is the category.
_PREFIX = f"own/{OWN_TESTS_DIR}"


class BrokenTestFileError(AssertionError):
    """Something in `vexrun-tests/` is no test that could run."""


class BrokenTestFile(pytest.Item):
    """Stands for a file without a test that can be run; `details` is what pytest said."""

    def __init__(self, *, message: str, details: str = "", **keywords: Any) -> None:
        super().__init__(**keywords)
        self.message = message
        self.details = details

    def runtest(self) -> None:
        raise BrokenTestFileError(self.message)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> str:
        return self.details or str(excinfo.value)

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.path, None, self.name


class SkippedTestFile(pytest.Item):
    """Stands for a file that skips itself as a whole, with its reason."""

    def __init__(self, *, reason: str, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.reason = reason

    def runtest(self) -> None:
        pytest.skip(self.reason)


class OwnTests:
    """The pytest plugin for one directory of such files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._files: dict[Path, pytest.Collector] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        if not collector.path.is_relative_to(self.directory):
            return (yield)
        try:
            report = yield
        except SystemExit as error:
            message = f"{self._shown(collector)} ends Python when it is imported ({error!r})"
            return self._instead(collector, BrokenTestFile, message=message)
        if isinstance(collector, pytest.File):
            self._files[collector.path] = collector
        if report.failed:
            details = str(report.longrepr)
            causes = [line[1:].strip() for line in details.splitlines() if line[:2] == "E "]
            cause = causes[-1] if causes else details.strip().splitlines()[-1]
            message = f"{self._shown(collector)} cannot be imported: {cause}"
            return self._instead(collector, BrokenTestFile, message=message, details=details)
        if report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
            reason = reason.removeprefix("Skipped: ") or "it skips itself"
            return self._instead(collector, SkippedTestFile, reason=reason)
        return report

    def _instead(
        self, collector: pytest.Collector, kind: type[pytest.Item], **keywords: str
    ) -> pytest.CollectReport:
        item = kind.from_parent(collector, name="import", **keywords)
        return pytest.CollectReport(collector.nodeid, "passed", None, [item])

    def pytest_collection_modifyitems(
        self, session: pytest.Session, items: list[pytest.Item]
    ) -> None:
        """No file without a test."""
        with_tests = {item.path for item in items}
        items += [
            BrokenTestFile.from_parent(
                collector, name="tests", message=f"{self._shown(collector)} has no test"
            )
            for path, collector in self._files.items()
            if path not in with_tests
        ]
        if not any(item.path.is_relative_to(self.directory) for item in items):
            message = f"there is no file test_*.py in '{OWN_TESTS_DIR}'"
            items.append(
                BrokenTestFile.from_parent(
                    session, name="files", path=self.directory / "none", message=message
                )
            )

    def _shown(self, node: pytest.Collector) -> str:
        relative = node.path.relative_to(self.directory)
        return f"'{OWN_TESTS_DIR}/{relative}'"


_OWN_TESTS: pytest.StashKey[OwnTests] = pytest.StashKey()


def register(config: pytest.Config, source: Path) -> None:
    """Take in the tests of `source`, when they are to be run."""
    directory = source / OWN_TESTS_DIR
    if str(directory) in config.args:
        config.stash[_OWN_TESTS] = plugin = OwnTests(directory)
        config.pluginmanager.register(plugin, "vexrun-own-tests")


def identifier(item: pytest.Item) -> str:
    """An item's id, `category/file.py::function[param]`, wherever its file is."""
    plugin = item.config.stash.get(_OWN_TESTS, None)
    if plugin is None or not item.path.is_relative_to(plugin.directory):
        return item.nodeid
    names = item.nodeid.split("::")[1:]
    return "::".join([f"{_PREFIX}/{item.path.relative_to(plugin.directory)}", *names])
