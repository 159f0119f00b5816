"""Fixtures of the tests on a mounted filesystem."""

from __future__ import annotations

import pytest
from vexrun.guest.filesystem import Filesystem
from vexrun.guest.fixtures import run_context
from vexrun.guest.payload import GuestPython
from vexrun.subject import Subject

from scenario import LIVE, REMOUNTED, Scenario


class _Phases:
    """A filesystem without persistence gets the live half of each test, and a skip that says so."""

    @staticmethod
    def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
        if "phase" not in metafunc.fixturenames:
            return
        lacked = run_context(metafunc.config).subject.filesystem.lacked_operations
        phases = [LIVE, REMOUNTED] if "persistence" in lacked else [REMOUNTED]
        needs = pytest.mark.needs_operations("persistence")
        metafunc.parametrize(
            "phase",
            [pytest.param(phase, marks=needs if phase == REMOUNTED else []) for phase in phases],
        )


def pytest_configure(config: pytest.Config) -> None:
    # As a plugin: a conftest's own hooks do not see test files outside this directory.
    config.pluginmanager.register(_Phases(), "vexrun-phases")


@pytest.fixture
def survives(
    in_guest: GuestPython, mounted: Filesystem, workdir: str, subject: Subject, phase: str
) -> Scenario:
    """`survives(scenario, *arguments)`: what the scenario makes is right, also when remounted."""
    return Scenario(in_guest, mounted, workdir, subject, phase)
