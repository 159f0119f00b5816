"""`vexrun provision`: the roles, applied to a running machine or to the one you sit at."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from vexrun.commands.machine import start_machine
from vexrun.device.description import load_device
from vexrun.device.provisioning import provision_device
from vexrun.image.suites import DEFAULT_SUITE
from vexrun.interrupt import interruptible
from vexrun.output import say, stdout
from vexrun.playbook import InventoryHost, PlaybookResult, run_playbook
from vexrun.progress import display_for
from vexrun.provisioning import provision_host
from vexrun.vm.accel import AccelChoice
from vexrun.vm.machine import MachineState
from vexrun.vm.registry import find_machine, machines_in
from vexrun.vm.ssh import HOST_ALIAS
from vexrun.workdir import work_directory

app = typer.Typer(help="Apply the roles.", no_args_is_help=True)


@app.command()
def vm(
    check: Annotated[bool, typer.Option("--check", help="Only show what would change.")] = False,
    suite: Annotated[str, typer.Option(help="trixie, bookworm or sid.")] = DEFAULT_SUITE,
    name: Annotated[str | None, typer.Option(help="Which machine; default: the newest.")] = None,
) -> None:
    """Provision a machine that is up; start one if none is."""
    with interruptible(), display_for(stdout, console_log=lambda: None) as show:
        if name is not None or machines_in(MachineState.UP):
            config = find_machine(name).ssh_config
        else:
            record = start_machine(Path.cwd(), suite, AccelChoice.AUTO, show)
            config = Path(str(record["ssh_config"]))
        with work_directory(f"provision-{os.getpid()}") as artifacts:
            variables = {"ansible_ssh_common_args": f"-F {config}", "ansible_host": HOST_ALIAS}
            result = run_playbook(
                "provision.yml",
                [InventoryHost("vm", HOST_ALIAS, variables)],
                artifact_dir=artifacts,
                emit=show,
                check=check,
            )
    _say_result(result, check=check)


@app.command()
def host(
    check: Annotated[bool, typer.Option("--check", help="Only show what would change.")] = False,
) -> None:
    """Install on this machine what vexrun needs; no module is built or loaded."""
    with interruptible(), display_for(stdout, console_log=lambda: None) as show:
        result = provision_host(check=check, emit=show)
    _say_result(result, check=check)


@app.command()
def device(
    name: Annotated[str, typer.Argument(help="A device, or the path of its file.")],
    check: Annotated[bool, typer.Option("--check", help="Only show what would change.")] = False,
) -> None:
    """Install on a test device what tests need; its identity and its disks are left alone."""
    with interruptible(), display_for(stdout, console_log=lambda: None) as show:
        result = provision_device(load_device(name), check=check, emit=show)
    _say_result(result, check=check)


def _say_result(result: PlaybookResult, *, check: bool) -> None:
    say(f"ok={result.ok} changed={result.changed} skipped={result.skipped}")
    for task in result.changed_tasks:
        say(f"  {'would change' if check else 'changed'}: {task}")
    packages = sorted(set(result.packages))  # in check mode every role asks for all it lacks
    if packages:
        did = "would install" if check else "installed"
        say(f"  {did} ({len(packages)}): {', '.join(packages)}")
