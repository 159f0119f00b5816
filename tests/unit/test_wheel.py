"""What travels in the wheel: everything a user without the checkout needs."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    directory = tmp_path_factory.mktemp("wheel")
    code = (
        "import os, sys; from hatchling.build import build_wheel; os.chdir(sys.argv[1]);"
        "build_wheel(sys.argv[2])"
    )
    subprocess.run([sys.executable, "-c", code, ROOT, directory], check=True, capture_output=True)
    (wheel,) = directory.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        return set(packed.namelist())


def tracked(*paths: str) -> list[str]:
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z", "--", *paths],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return [name for name in listed.split("\0") if name]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
@pytest.mark.parametrize(
    "part",
    [
        *("roles", "playbooks", "inventory", "molecule", "tests/guest", "examples", "ansible.cfg"),
        ".config/molecule/config.yml",
    ],
)
def test_every_file_of_what_vexrun_reads_at_run_time_is_in_it(names: set[str], part: str) -> None:
    files = [name for name in tracked(part) if (ROOT / name).is_file()]
    assert files
    assert [name for name in files if f"vexrun/_data/{name}" not in names] == []


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_every_file_of_the_package_is_in_it(names: set[str]) -> None:
    files = [name for name in tracked("vexrun") if (ROOT / name).is_file()]
    assert {"vexrun/image/enter.sh", "vexrun/report/report.html.j2"} <= set(files)
    assert [name for name in files if name not in names] == []


def test_the_scripts_that_are_run_inside_are_in_it(names: set[str]) -> None:
    assert {"vexrun/image/enter.sh", "vexrun/image/probe.sh", "vexrun/image/adapt.sh"} <= names


@pytest.mark.parametrize("stray", ["__pycache__", ".venv/", "CACHEDIR.TAG", "/tests/unit/"])
def test_nothing_else_slipped_in(names: set[str], stray: str) -> None:
    assert [name for name in names if stray in name] == []
