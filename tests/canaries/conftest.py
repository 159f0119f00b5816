"""Options of the canary tests."""

from __future__ import annotations

import os

import pytest


@pytest.fixture
def suite() -> str:
    """The guest's suite: VEXRUN_TEST_SUITE, trixie by default."""
    return os.environ.get("VEXRUN_TEST_SUITE", "trixie")
