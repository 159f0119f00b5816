"""The shell that stays in the guest: answers, late answers, and what killing it does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vexrun.errors import InfrastructureError, TargetLostError
from vexrun.vm.ssh import GuestShell, GuestTimeoutError
from vexrun.vm.standing_shell import StandingShell

#: A "guest" on this machine: runs what stands after `--`, as sshd would.
LOGIN = 'while [[ $1 != -- ]]; do shift; done; shift; exec bash -c "$*"'


@pytest.fixture
def standing(tmp_path: Path, programs: Any) -> Iterator[StandingShell]:
    programs.add("ssh", LOGIN)
    shell = StandingShell(GuestShell(tmp_path / "ssh_config"))
    yield shell
    shell.close()


def logins(programs: Any) -> int:
    return len(programs.calls("ssh"))


@pytest.mark.parametrize(
    ("command", "status", "text"),
    [
        ("echo one && echo two", 0, "one\ntwo\n"),
        ("echo gone >&2; false", 1, "gone\n"),
        ("printf 'no newline'", 0, "no newline"),
        ("read word </proc/sys/kernel/ostype && echo $word", 0, "Linux\n"),
    ],
)
def test_output_and_status_come_back(
    standing: StandingShell, command: str, status: int, text: str
) -> None:
    done = standing.run(command, timeout_s=60)
    assert (done.returncode, done.stdout) == (status, text)


def test_one_login_serves_many_commands(standing: StandingShell, programs: Any) -> None:
    assert [standing.run(f"echo {n}", timeout_s=60).stdout for n in range(5)] == [
        f"{n}\n" for n in range(5)
    ]
    assert logins(programs) == 1


def test_a_checked_command_that_fails_is_an_error(standing: StandingShell) -> None:
    with pytest.raises(InfrastructureError, match="exit status 3"):
        standing.run("exit 3", timeout_s=60, check=True)


def test_a_late_answer_is_a_timeout_and_the_next_command_works(standing: StandingShell) -> None:
    standing.run("true", timeout_s=60)
    with pytest.raises(GuestTimeoutError, match="sleep 1000"):
        standing.run("sleep 1000", timeout_s=0.5)
    assert standing.run("echo again", timeout_s=60).stdout == "again\n"


def test_a_killed_shell_is_replaced_without_a_word(standing: StandingShell, programs: Any) -> None:
    """What kills every process in the guest is no reason to call the guest lost."""
    standing.run("true", timeout_s=60)
    standing._ask("kill -9 $$", 60)
    assert standing.run("echo here", timeout_s=60).stdout == "here\n"
    assert logins(programs) == 2


def test_a_lost_guest_is_lost(standing: StandingShell, programs: Any) -> None:
    programs.add("ssh", "exit 255")
    with pytest.raises(TargetLostError):
        standing.run("true", timeout_s=60)
