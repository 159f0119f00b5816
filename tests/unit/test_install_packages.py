"""`make setup` installs what is missing, and lives with what a distribution does not have."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from conftest import Programs

ROOT = Path(__file__).resolve().parents[2]
LIST = "# a comment\n\ngit\nqemu-utils\npacker optional # not everywhere\n"


@pytest.fixture
def apt(programs: Programs) -> Programs:
    """A machine that has git, as root; its archive has everything."""
    programs.add("dpkg-query", 'if [ "$4" = git ]; then echo -n installed; else exit 1; fi')
    programs.add("apt-get")
    programs.add("apt-cache")
    programs.add("id", "echo 0")
    return programs


def install(tmp_path: Path, text: str = LIST) -> subprocess.CompletedProcess[str]:
    packages = tmp_path / "packages.txt"
    packages.write_text(text)
    return subprocess.run(
        [ROOT / "tools" / "install-packages.sh", packages],
        capture_output=True,
        text=True,
        check=False,
    )


def installed(programs: Programs) -> list[list[str]]:
    words = [call.split() for call in programs.calls("apt-get")]
    return [
        [word for word in call[1:] if not word.startswith("-")]
        for call in words
        if call[0] == "install"
    ]


def test_what_is_missing_is_installed(apt: Programs, tmp_path: Path) -> None:
    assert install(tmp_path).returncode == 0
    assert apt.calls("apt-get")[0].startswith("update")
    assert installed(apt) == [["qemu-utils", "packer"]]


def test_an_optional_one_that_the_archive_has_not_is_left_out(
    apt: Programs, tmp_path: Path
) -> None:
    apt.add("apt-cache", "exit 100")
    done = install(tmp_path)
    assert done.returncode == 0
    assert "has no 'packer'" in done.stderr
    assert installed(apt) == [["qemu-utils"]]


def test_any_other_is_not_left_out(apt: Programs, tmp_path: Path) -> None:
    apt.add("apt-get", '[ "$1" != install ]')
    assert install(tmp_path).returncode != 0


def test_nothing_is_asked_for_when_nothing_is_missing(apt: Programs, tmp_path: Path) -> None:
    assert install(tmp_path, "git\n").returncode == 0
    assert apt.calls("apt-get") == []


@pytest.mark.parametrize(("text", "status"), [(LIST, 69), ("git\npacker optional\n", 0)])
def test_without_root_only_what_everything_needs_is_demanded(
    apt: Programs, tmp_path: Path, text: str, status: int
) -> None:
    apt.add("id", "echo 1000")
    apt.link("bash", "sh")
    apt.nothing_else()
    done = install(tmp_path, text)
    assert done.returncode == status
    assert ("qemu-utils" in done.stderr) == (status == 69)
    assert apt.calls("apt-get") == []
