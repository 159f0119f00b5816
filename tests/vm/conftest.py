"""Real runs of the command line, as a user makes them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).parents[2]
SUBJECTS = CHECKOUT / "examples" / "subjects"


def vexrun(*arguments: str) -> str:
    """What a command that must succeed prints."""
    done = subprocess.run(
        [sys.executable, "-m", "vexrun.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@dataclass(frozen=True)
class Run:
    """A finished `vexrun test --json`."""

    status: int
    results: dict[str, Any]
    stderr: str

    @property
    def directory(self) -> Path:
        return Path(self.results["run_dir"])

    def outcomes(self, outcome: str) -> list[dict[str, Any]]:
        return [test for test in self.results["tests"] if test["outcome"] == outcome]


@pytest.fixture(scope="session")
def suite() -> str:
    """The guest's suite: VEXRUN_TEST_SUITE, trixie by default."""
    return os.environ.get("VEXRUN_TEST_SUITE", "trixie")


@pytest.fixture(scope="session")
def vexrun_test(suite: str) -> Callable[..., Run]:
    """Run `vexrun test ARGUMENTS --json` and read what it printed."""

    def run(*arguments: str) -> Run:
        done = subprocess.run(
            [sys.executable, "-m", "vexrun.cli", "test", *arguments, "--suite", suite, "--json"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout, done.stderr
        return Run(done.returncode, json.loads(done.stdout), done.stderr)

    return run


def qemus_of(run_or_name: str) -> list[int]:
    """Pids of QEMU processes whose command line mentions a string."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            line = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if line.startswith(b"qemu-system") and run_or_name.encode() in line:
            found.append(int(entry.name))
    return found
