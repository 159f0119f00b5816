"""A machine that Vagrant starts, snapshots and ends, with our provider (vagrant/provider).

It is the same guest as any other of ours: the same command line with the same serial log, monitor
and disks, written down for the provider. What differs is who holds the process: vexrun finds it,
watches it and speaks to its monitor, and leaves the rest to Vagrant.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from vexrun.errors import InfrastructureError, TargetLostError
from vexrun.image.box import BoxId
from vexrun.image.catalog import lock_path
from vexrun.vm.description import description_of, write_description
from vexrun.vm.machine import Machine, MachinePlan, MachineState
from vexrun.vm.qemu_process import AdoptedQemu, qemu_named
from vexrun.vm.ssh import SshAddress, write_ssh_config
from vexrun.vm.vagrant_cli import VagrantCli

DESCRIPTION = "vagrant.json"
#: The only snapshot we take: the guest after its boot, nothing of a subject in it.
CLEAN = "clean"
#: Vagrant's word when another of its commands works on the machine, and how long one is waited for.
_LOCKED = "another process is already executing an action"
_LOCK_PATIENCE_S = 60.0


class VagrantMachine(Machine):
    """`start` is `vagrant up`; the root disk is an overlay of the box's, which Vagrant has."""

    def __init__(
        self,
        plan: MachinePlan,
        box: BoxId,
        console_log: Callable[[str], Path] | None = None,
    ) -> None:
        assert plan.state is None, "a box boots cold; its snapshots are Vagrant's"
        super().__init__(plan, console_log)
        self.box = box
        self.vagrant = vagrant_of(self.directory, box, outlives_us=plan.outlives_us)

    def start(self) -> None:
        """Boot the box to its first ssh login, and connect to its monitor."""
        self._make_directories()
        assert self._lock is not None, "made with the directory"
        # Shared with the QEMU that the provider starts, which holds it when we are gone.
        fcntl.flock(self._lock, fcntl.LOCK_SH)
        self._describe()
        self.vagrant.up()
        self._adopt()
        if self.plan.outlives_us:
            self._write_record(MachineState.STARTING)

    def _make_root_disk(self) -> None:
        """The provider's: it knows where Vagrant has the box."""

    def _describe(self) -> None:
        hardware = replace(self.hardware(), control_socket=self.runtime_dir / "control")
        described = description_of(
            hardware,
            disks=[{"path": str(hardware.root_overlay), "backing": "@box@/box.img"}],
            ssh={"user": "root", "key": str(self.plan.image.client_key)},
            holds=[self.directory / "lock", lock_path(self.plan.image.name)],
            name=self.name,
            run=str(self.runtime_dir),
        )
        described["log"] = str(self.directory / "qemu.log")
        write_description(described, self.directory / DESCRIPTION)

    def _adopt(self) -> None:
        """Watch the QEMU that Vagrant has started, and learn from Vagrant how to reach it."""
        pid = qemu_named(self.name)
        if pid is None:
            raise TargetLostError("QEMU ended right after Vagrant had started it.")
        self._process = AdoptedQemu(pid)
        self._connect_monitor()
        given = self.vagrant.ssh_config()
        self.ssh_port = int(given["Port"])
        address = SshAddress(
            self.ssh_port,
            Path(given["IdentityFile"]),
            self.plan.image.host_public_key,
            user=given["User"],
            host=given["HostName"],
        )
        write_ssh_config(address, self.runtime_dir)

    def save_clean(self) -> None:
        """`vagrant snapshot save`; nothing of the host may be mounted in the guest."""
        self.shell.disconnect()
        self.vagrant.snapshot_save(CLEAN)

    def restore_clean(self) -> None:
        """`vagrant snapshot restore`: another QEMU, at the moment of `save_clean`."""
        self.end_at_once()
        self.vagrant.snapshot_restore(CLEAN)
        self._adopt()

    def end_at_once(self) -> None:
        """End its QEMU; Vagrant has its disks and its snapshot."""
        self.let_go()
        self._stop_process()

    def let_go(self) -> None:
        """Close our connections; the guest goes on."""
        self.shell.disconnect()
        if self._monitor is not None:
            self._monitor.close()
            self._monitor = None

    def reconnect(self) -> None:
        """To the monitor again, after `let_go`."""
        self._connect_monitor()

    def power_off(self, grace_s: float = 60.0) -> None:
        """`vagrant halt`, which asks the guest to shut down, and `vagrant destroy`."""
        try:
            if self.running:
                self.vagrant.halt()
        finally:
            self.destroy()

    def destroy(self) -> None:
        """`vagrant destroy`; when that fails, its QEMU is ended all the same."""
        self.let_go()
        try:
            if (self.directory / DESCRIPTION).exists():
                self.vagrant.destroy()
        finally:
            end_qemu(self.name)
            super().destroy()


def vagrant_of(directory: Path, box: BoxId, *, outlives_us: bool = False) -> VagrantCli:
    """Vagrant for the machine whose files are in `directory`."""
    return VagrantCli(
        directory,
        {
            "VEXRUN_BOX": box.name,
            "VEXRUN_BOX_VERSION": box.version,
            "VEXRUN_MACHINE": str(directory / DESCRIPTION),
        },
        outlives_us=outlives_us,
    )


def end_vagrant_machine(directory: Path, box: BoxId) -> None:
    """`vagrant destroy` for a machine that outlived its maker; quiet when Vagrant knows of none.

    QEMU goes first: a `vagrant up` that still waits for the guest gives up then, and with it the
    lock that keeps every other command of Vagrant from the machine.
    """
    if not (directory / DESCRIPTION).is_file():
        return
    end_qemu(directory.name)
    until = time.monotonic() + _LOCK_PATIENCE_S
    while True:
        try:
            vagrant_of(directory, box, outlives_us=True).destroy()
        except InfrastructureError as error:
            if _LOCKED not in error.evidence or time.monotonic() > until:
                raise
            time.sleep(1)
        else:
            return


def end_qemu(name: str) -> None:
    """Kill the QEMU called `name`, if there is one, and wait for its end."""
    pid = qemu_named(name)
    if pid is not None:
        try:
            qemu = AdoptedQemu(pid)
        except ProcessLookupError:
            return
        qemu.kill()
        qemu.wait()
