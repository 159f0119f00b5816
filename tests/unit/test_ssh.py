"""The ssh connection: what the configuration says, and how a command's end is told."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from vexrun.errors import InfrastructureError, TargetLostError
from vexrun.vm.ssh import HOST_ALIAS, GuestShell, GuestTimeoutError, SshAddress, write_ssh_config

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJn2 vexrun-host"


def written(directory: Path) -> Path:
    directory.mkdir(exist_ok=True)
    return write_ssh_config(SshAddress(40022, directory / "client", KEY), directory)


@pytest.fixture
def options(tmp_path: Path) -> dict[str, str]:
    """What ssh itself understands of the file."""
    if shutil.which("ssh") is None:
        pytest.skip("there is no ssh here")
    config = written(tmp_path / "100% mine")
    argv = ["ssh", "-G", "-F", str(config), HOST_ALIAS]
    out = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    return dict(line.split(" ", 1) for line in out.splitlines())


def test_the_guest_is_on_loopback(options: dict[str, str]) -> None:
    assert (options["hostname"], options["port"], options["user"]) == ("127.0.0.1", "40022", "root")


def test_the_host_key_is_pinned_whatever_the_port(options: dict[str, str], tmp_path: Path) -> None:
    directory = tmp_path / "100% mine"
    assert options["stricthostkeychecking"] in ("yes", "true")
    assert options["hostkeyalias"] == "vexrun-guest"
    assert options["userknownhostsfile"].replace("%%", "%") == str(directory / "known_hosts")
    assert options["globalknownhostsfile"] == "/dev/null"
    assert (directory / "known_hosts").read_text() == f"vexrun-guest {KEY.rsplit(' ', 1)[0]}\n"


def test_only_our_key_opens_it_and_nobody_is_asked(options: dict[str, str], tmp_path: Path) -> None:
    assert options["identityfile"].replace("%%", "%") == str(tmp_path / "100% mine" / "client")
    assert options["identitiesonly"] == "yes"
    assert options["identityagent"] == "none"
    assert options["passwordauthentication"] == "no"
    assert options["kbdinteractiveauthentication"] == "no"


def test_the_shared_connection_lies_beside_its_configuration(
    options: dict[str, str], tmp_path: Path
) -> None:
    assert options["controlpath"].replace("%%", "%") == str(tmp_path / "100% mine" / "ssh")


# -- commands ------------------------------------------------------------------------------------

#: Runs what stands behind `--` here, as the guest would.
LOCAL = 'while [ "$1" != -- ]; do shift; done; shift; exec sh -c "$*"'


@pytest.fixture
def shell(tmp_path: Path, programs: Any) -> GuestShell:
    programs.add("ssh", LOCAL)
    return GuestShell(written(tmp_path / "run"))


def test_a_commands_own_failure_is_its_own(shell: GuestShell) -> None:
    done = shell.run("echo no; exit 3")
    assert (done.returncode, done.stdout) == (3, "no\n")
    with pytest.raises(InfrastructureError, match="exit status 3") as caught:
        shell.run("echo no; exit 3", check=True)
    assert caught.value.evidence == "# echo no; exit 3\nno"


def test_a_command_of_status_255_is_not_a_broken_connection(shell: GuestShell) -> None:
    assert shell.run("exit 255").returncode == 255


def test_a_broken_connection_is_a_lost_target(shell: GuestShell, programs: Any) -> None:
    programs.add("ssh", "echo 'Connection closed by 127.0.0.1' >&2; exit 255")
    with pytest.raises(TargetLostError, match="connection to the guest broke") as caught:
        shell.run("true")
    assert "Connection closed" in caught.value.evidence


def test_a_command_that_does_not_end_is_a_timeout_of_the_guest(shell: GuestShell) -> None:
    with pytest.raises(GuestTimeoutError, match="within 1 s: exec sleep 60"):
        shell.run("exec sleep 60", timeout_s=0.6)


def test_files_arrive_with_their_modes(shell: GuestShell, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "tool").write_text("x")
    (tmp_path / "a" / "tool").chmod(0o750)
    guest = tmp_path / "two words"
    shell.send_files([Path("a/tool")], tmp_path, str(guest))
    assert (guest / "a" / "tool").read_text() == "x"
    assert (guest / "a" / "tool").stat().st_mode & 0o777 == 0o750


def test_a_tree_is_fetched_and_a_missing_one_is_no_error(shell: GuestShell, tmp_path: Path) -> None:
    guest, here = tmp_path / "guest dir", tmp_path / "here"
    (guest / "logs").mkdir(parents=True)
    (guest / "logs" / "module.log").write_text("said")
    here.mkdir()
    assert shell.fetch_tree(str(guest), "logs", here)
    assert (here / "logs" / "module.log").read_text() == "said"
    assert not shell.fetch_tree(str(guest), "nothing", here)


def test_files_that_cannot_be_sent_are_an_error(shell: GuestShell, tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError, match="'bash' failed"):
        shell.send_files([Path("nothing")], tmp_path, str(tmp_path / "guest"))


# -- connecting ----------------------------------------------------------------------------------


def test_a_connection_is_there_when_its_socket_is(shell: GuestShell, programs: Any) -> None:
    started = shell.config.parent / "pid"
    programs.add("ssh", f"echo $$ >{started}; touch {shell.config.parent / 'ssh'}; exec sleep 60")
    shell.connect(20, lambda: True)
    client = Path("/proc") / started.read_text().strip()
    assert client.exists()
    shell.disconnect()
    assert not client.exists()
    assert not (shell.config.parent / "ssh").exists()


def test_a_guest_that_ends_before_it_answers_is_lost(shell: GuestShell) -> None:
    with pytest.raises(TargetLostError, match="ended before ssh answered"):
        shell.connect(20, lambda: False)


def test_a_guest_that_dies_while_ssh_waits_for_its_word_is_lost(
    shell: GuestShell, programs: Any
) -> None:
    """QEMU takes connections for a guest that is dead: ssh waited there for ten minutes."""
    programs.add("ssh", "exec sleep 60")
    looks = iter([True, True, True])
    with pytest.raises(TargetLostError, match="ended before ssh answered"):
        shell.connect(60, lambda: next(looks, False))


def test_a_guest_that_never_answers_ends_at_the_deadline(shell: GuestShell, programs: Any) -> None:
    programs.add("ssh", "echo 'Connection refused' >&2; exit 255")
    with pytest.raises(InfrastructureError, match="did not answer within 1 s") as caught:
        shell.connect(1.2, lambda: True)
    assert "Connection refused" in caught.value.evidence
    assert shell._master is None


def test_somebody_elses_host_key_is_not_tried_again(shell: GuestShell, programs: Any) -> None:
    programs.add("ssh", "echo 'Host key verification failed.' >&2; exit 255")
    with pytest.raises(InfrastructureError, match="is not the guest that was started"):
        shell.connect(20, lambda: True)
    assert len(programs.calls("ssh")) == 1
