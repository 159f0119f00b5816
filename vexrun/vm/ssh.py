"""The ssh connection to a guest: one generated ssh_config, pinned host key, one shared master."""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vexrun import process
from vexrun.errors import InfrastructureError, TargetLostError

HOST_ALIAS = "vexrun-vm"
#: ssh's own exit status for "the connection failed".
_SSH_FAILED = 255


class GuestTimeoutError(TargetLostError):
    """A guest command did not finish in time; the guest may hang."""


@dataclass(frozen=True)
class SshAddress:
    """How to reach a guest or a device. `host_public_key` pins it.

    Without a `client_key` those of the user and of a running agent are tried. `alive_s`: seconds
    after which a connection over which nothing comes is given up.
    """

    port: int
    client_key: Path | None
    host_public_key: str
    user: str = "root"
    host: str = "127.0.0.1"
    alive_s: int = 120


def write_ssh_config(address: SshAddress, directory: Path) -> Path:
    """Write ssh_config and known_hosts into `directory`; returns the config's path.

    Host keys are pinned under an alias, so any port of any run has the same identity. The
    algorithms named first are those that cost an emulated guest least (a login takes half the
    time of the defaults, whose key exchange is a post-quantum one); the others stay allowed.
    """
    known_hosts = directory / "known_hosts"
    algorithm_and_key = " ".join(address.host_public_key.split()[:2])
    known_hosts.write_text(f"vexrun-guest {algorithm_and_key}\n")
    config = directory / "ssh_config"
    config.write_text(
        f"""Host {HOST_ALIAS}
  HostName {address.host}
  Port {address.port}
  User {address.user}
{_identity(address)}\
  UserKnownHostsFile "{_literal(known_hosts)}"
  GlobalKnownHostsFile /dev/null
  HostKeyAlias vexrun-guest
  StrictHostKeyChecking yes
  UpdateHostKeys no
  PasswordAuthentication no
  KbdInteractiveAuthentication no
  GSSAPIAuthentication no
  KexAlgorithms ^curve25519-sha256
  Ciphers ^aes128-ctr
  MACs ^umac-64-etm@openssh.com
  ControlPath "{_literal(directory)}/ssh"
  ControlMaster no
  ConnectTimeout 60
  ServerAliveInterval {address.alive_s // 6}
  ServerAliveCountMax 6
  LogLevel ERROR
"""
    )
    return config


def _identity(address: SshAddress) -> str:
    if address.client_key is None:
        return "  BatchMode yes\n"
    key = _literal(address.client_key)
    return f'  IdentityFile "{key}"\n  IdentitiesOnly yes\n  IdentityAgent none\n'


def _literal(path: Path) -> str:
    """ssh_config(5) expands percent tokens in paths."""
    return str(path).replace("%", "%%")


class GuestShell:
    """Runs commands in the guest over one shared connection (0.1 s a command)."""

    def __init__(self, config: Path) -> None:
        self.config = config
        self._master: subprocess.Popen[bytes] | None = None

    def connect(self, deadline_s: float, alive: Callable[[], bool]) -> None:
        """Open the shared connection, trying until it answers or `deadline_s` has passed.

        Raises TargetLostError when the guest is gone, InfrastructureError on the deadline.
        """
        until = time.monotonic() + deadline_s
        last = ""
        while time.monotonic() < until:
            if not alive():
                raise TargetLostError("The guest ended before ssh answered.")
            log = self.config.parent / "ssh_master.log"
            with log.open("wb") as stream:
                self._master = process.start(
                    ["ssh", "-F", str(self.config), "-M", "-N", HOST_ALIAS],
                    stdout=stream,
                )
            if self._await_socket(until, alive):
                return
            last = log.read_text(errors="replace").strip() or last
            self.disconnect()
            if "verification failed" in last:
                raise InfrastructureError(
                    "The machine that answered is not the guest that was started: its ssh host "
                    "key differs from the image's.",
                    evidence=last,
                )
            time.sleep(0.2)
        raise InfrastructureError(
            f"ssh to the guest did not answer within {deadline_s:.0f} s.", evidence=last
        )

    def _await_socket(self, until: float, alive: Callable[[], bool]) -> bool:
        socket = self.config.parent / "ssh"
        master = self._master
        # QEMU takes the connection for a guest that is dead, and ssh waits for its word.
        while master is not None and master.poll() is None and time.monotonic() < until and alive():
            if socket.exists():
                return True
            time.sleep(0.02)
        return False

    def run(
        self,
        command: str,
        *,
        timeout_s: float = 120.0,
        input_text: str | None = None,
        check: bool = False,
    ) -> process.Completed:
        """Run a shell command in the guest as its user.

        Raises GuestTimeoutError after `timeout_s`, TargetLostError when the connection is gone,
        and with `check` InfrastructureError for a non-zero exit status.
        """
        argv = ["ssh", "-F", str(self.config), HOST_ALIAS, "--", command]
        try:
            done = process.run(argv, timeout=timeout_s, input_text=input_text, check=False)
        except InfrastructureError as error:
            if not isinstance(error.__cause__, subprocess.TimeoutExpired):
                raise
            raise GuestTimeoutError(
                f"The guest did not finish this command within {timeout_s:.0f} s: {command[:200]}"
            ) from error
        if done.returncode == _SSH_FAILED and not self._answers():
            raise TargetLostError(
                "The ssh connection to the guest broke.", evidence=done.stderr.strip()[-500:]
            )
        if check and done.returncode != 0:
            raise InfrastructureError(
                f"A command failed in the guest with exit status {done.returncode}.",
                evidence=f"# {command[:500]}\n{done.tail()}",
            )
        return done

    def _answers(self) -> bool:
        """Whether the shared connection still carries commands."""
        argv = ["ssh", "-F", str(self.config), HOST_ALIAS, "--", "true"]
        try:
            return process.run(argv, timeout=30, check=False).returncode == 0
        except InfrastructureError:
            return False

    def send_files(self, files: list[Path], directory: Path, destination: str) -> None:
        """Copy `files` (relative to `directory`) to `destination` in the guest, modes kept."""
        pack = shlex.join(["tar", "-C", str(directory), "-cf", "-", *map(str, files)])
        unpack = f"mkdir -p {shlex.quote(destination)} && tar -C {shlex.quote(destination)} -xf -"
        ssh = shlex.join(["ssh", "-F", str(self.config), HOST_ALIAS, "--", unpack])
        process.run(["bash", "-o", "pipefail", "-c", f"{pack} | {ssh}"], timeout=300)

    def fetch_tree(self, directory: str, name: str, destination: Path) -> bool:
        """Copy `directory/name` of the guest to `destination`; False when it is not there."""
        quoted = shlex.quote(f"{directory}/{name}")
        if self.run(f"test -e {quoted}").returncode != 0:
            return False
        pack = f"tar -C {shlex.quote(directory)} -cf - {shlex.quote(name)}"
        ssh = shlex.join(["ssh", "-F", str(self.config), HOST_ALIAS, "--", pack])
        unpack = shlex.join(["tar", "-C", str(destination), "-xf", "-"])
        process.run(["bash", "-o", "pipefail", "-c", f"{ssh} | {unpack}"], timeout=300)
        return True

    def disconnect(self) -> None:
        """End the shared connection; the guest does not notice."""
        if self._master is not None:
            process.stop(self._master)
            self._master = None
        (self.config.parent / "ssh").unlink(missing_ok=True)
