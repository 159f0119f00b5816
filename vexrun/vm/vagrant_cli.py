"""The one place that calls Vagrant, through python-vagrant."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import vagrant

from vexrun import orphans
from vexrun.errors import InfrastructureError
from vexrun.layout import cache_dir, data_root
from vexrun.process import minimal_environment

PROVIDER = "vexrun"
INSTALL = "Run: sudo apt-get install --no-install-recommends vagrant"
_EVIDENCE_LINES = 30
_Result = TypeVar("_Result")


def vagrant_home() -> Path:
    """Boxes and Vagrant's register of machines: vexrun's own, not the user's ~/.vagrant.d."""
    return cache_dir() / "vagrant"


class VagrantCli:
    """Vagrant with our Vagrantfile and provider. `state` takes what Vagrant and we must remember.

    Every method raises InfrastructureError with Vagrant's own words when Vagrant fails.
    """

    def __init__(
        self, state: Path, settings: dict[str, str] | None = None, *, outlives_us: bool = False
    ) -> None:
        self.log = state / "vagrant.log"
        environment = minimal_environment(
            {
                "VAGRANT_HOME": str(vagrant_home()),
                "VAGRANT_DOTFILE_PATH": str(state / "vagrant"),
                "VAGRANT_DEFAULT_PROVIDER": PROVIDER,
                "VAGRANT_NO_PLUGINS": "1",
                "VAGRANT_NO_COLOR": "1",
                "VAGRANT_CHECKPOINT_DISABLE": "1",
                **({} if outlives_us else orphans.mark()),
                **(settings or {}),
            }
        )
        to_log = vagrant.make_file_cm(str(self.log))
        self._vagrant = vagrant.Vagrant(
            str(data_root() / "vagrant"), env=environment, out_cm=to_log, err_cm=to_log
        )

    def up(self) -> None:
        self._say("up", lambda: self._vagrant.up(provider=PROVIDER))

    def state(self) -> str:
        """`running`, `poweroff`, `paused` or `not_created`."""
        (status,) = self._say("status", self._vagrant.status)
        return str(status.state)

    def ssh_config(self) -> dict[str, str]:
        """HostName, Port, User, IdentityFile …"""
        text = self._say("ssh-config", self._vagrant.ssh_config)
        found: dict[str, str] = self._vagrant.conf(ssh_config=text)
        return found

    def snapshot_save(self, name: str) -> None:
        self._say("snapshot save", lambda: self._vagrant.snapshot_save(name))

    def snapshot_restore(self, name: str) -> None:
        self._say("snapshot restore", lambda: self._vagrant.snapshot_restore(name))

    def snapshots(self) -> list[str]:
        """Their names; python-vagrant 1.0.0 gives Vagrant's heading as the first one."""
        lines = self._say("snapshot list", self._vagrant.snapshot_list)
        return [line.strip() for line in lines if line.strip() and not line.startswith("==>")]

    def halt(self) -> None:
        self._say("halt", self._vagrant.halt)

    def destroy(self) -> None:
        self._say("destroy", self._vagrant.destroy)

    def box_versions(self, name: str) -> list[str]:
        boxes = self._say("box list", self._vagrant.box_list)
        return [box.version for box in boxes if box.name == name]

    def box_add(self, catalog: Path) -> None:
        """Take the boxes that `catalog` names."""
        # python-vagrant's box_add gives a name too, which Vagrant refuses beside a catalog.
        self._say("box add", lambda: self._vagrant.box_add(None, str(catalog)))

    def _say(self, what: str, call: Callable[[], _Result]) -> _Result:
        vagrant_home().mkdir(parents=True, exist_ok=True)
        begun = self.log.stat().st_size if self.log.exists() else 0
        try:
            return call()
        except subprocess.CalledProcessError as error:
            printed = error.output.decode(errors="replace") if error.output else ""
            raise InfrastructureError(
                f"'vagrant {what}' failed with exit status {error.returncode}.",
                evidence=_tail(printed + self._said_since(begun)),
                hint=f"The whole of it is in '{self.log}'." if self.log.exists() else "",
            ) from error
        except RuntimeError as error:  # python-vagrant found no executable
            raise InfrastructureError(
                "The program 'vagrant' is not installed.", hint=INSTALL
            ) from error

    def _said_since(self, offset: int) -> str:
        if not self.log.exists():
            return ""
        with self.log.open("rb") as stream:
            stream.seek(offset)
            return stream.read().decode(errors="replace")


def _tail(text: str) -> str:
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return "\n".join(lines[-_EVIDENCE_LINES:])
