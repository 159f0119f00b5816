"""The machine vexrun runs on, brought to what vexrun needs: the group `host` of the inventory."""

from __future__ import annotations

import grp
import os
import pwd
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from vexrun.errors import InfrastructureError
from vexrun.events import Emit, Stages
from vexrun.layout import state_dir
from vexrun.playbook import InventoryHost, PlaybookResult, run_playbook
from vexrun.process import find_program, run

#: What Ansible's apt module is run with (inventory/group_vars/host.yml).
_SYSTEM_PYTHON = Path("/usr/bin/python3")
_PACKAGE_LISTS = Path("/var/lib/apt/lists")
_KVM = Path("/dev/kvm")


def provision_host(*, check: bool, emit: Emit) -> PlaybookResult:
    """Apply the roles of the group `host` to this machine; with `check`, only look.

    Packages and, where /dev/kvm is, a group: nothing of the subject's is built or loaded. Raises
    InfrastructureError where the roles cannot work, and naming the task where one failed.
    """
    refuse_other_systems()
    variables: dict[str, Any] = {"hypervisor_kvm_user": _kvm_user()}
    if check:
        refuse_blind_check()
        variables["ansible_become"] = False  # looking needs no privileges
    else:
        refuse_without_privileges()
    with Stages(emit).stage("provision", "this machine, check only" if check else "this machine"):
        return run_playbook(
            "provision.yml",
            [InventoryHost("host", "localhost", {})],
            artifact_dir=fresh_artifacts("provision-host"),
            emit=emit,
            extra_variables=variables,
            check=check,
        )


def refuse_other_systems() -> None:
    """The roles name packages of Debian and Ubuntu."""
    missing = [name for name in ("apt-get", "dpkg-query") if find_program(name) is None]
    if missing:
        raise InfrastructureError(
            f"This machine has no '{missing[0]}': 'provision host' knows Debian and Ubuntu only.",
            hint="Install what 'vexrun doctor' misses with your own package manager.",
        )


def refuse_blind_check() -> None:
    """`--check` installs nothing, so what it looks with has to be there already."""
    probe = (
        run([str(_SYSTEM_PYTHON), "-c", "import apt, apt_pkg"], check=False)
        if (_SYSTEM_PYTHON.exists())
        else None
    )
    if probe is None or probe.returncode != 0:
        raise InfrastructureError(
            "'--check' asks apt through 'python3-apt', which is not installed; provisioning itself "
            "would install it first.",
            hint="Run: sudo apt-get install --no-install-recommends python3-apt",
        )
    if not any(_PACKAGE_LISTS.glob("*_Packages*")):
        raise InfrastructureError(
            f"There are no package lists in '{_PACKAGE_LISTS}', so nobody can say what would be "
            "installed; provisioning itself would fetch them first.",
            hint="Run: sudo apt-get update",
        )


def refuse_without_privileges() -> None:
    """Installing packages needs root: by being it, or by a sudo that asks nothing."""
    if os.geteuid() == 0:
        return
    again = f"sudo {shlex.quote(_this_program())} provision host"
    if find_program("sudo") is None:
        raise InfrastructureError(
            "Installing packages needs root, and this machine has no 'sudo'.",
            hint=f"As root, run: {again.removeprefix('sudo ')}",
        )
    asked = run(["sudo", "-n", "true"], check=False)
    if asked.returncode != 0:
        raise InfrastructureError(
            "Installing packages needs root, and 'sudo' asks for a password, which Ansible cannot "
            "be given on the way.",
            evidence=asked.tail(2),
            hint=f"Run: {again}",
        )


def _this_program() -> str:
    """sudo has a PATH of its own, so the program is named in full."""
    return str(Path(sys.executable).with_name("vexrun"))


def _kvm_user() -> str:
    """Who is going to start machines: the user behind sudo too; '' where KVM is not at hand."""
    name = os.environ.get("SUDO_USER") or pwd.getpwuid(os.getuid()).pw_name
    if name == "root" or not _KVM.exists():
        return ""
    try:
        grp.getgrnam("kvm")
    except KeyError:
        return ""
    return name


def fresh_artifacts(name: str) -> Path:
    """Ansible's output of the last time; kept, because a failure points at it."""
    directory = state_dir() / name
    if directory.exists():
        shutil.rmtree(directory)
    directory.mkdir(parents=True)
    return directory
