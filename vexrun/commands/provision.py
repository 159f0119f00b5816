"""`vexrun provision vm`: the roles, applied to a running machine."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from vexrun.commands.machine import start_machine
from vexrun.errors import ConfigError
from vexrun.image.suites import DEFAULT_SUITE
from vexrun.interrupt import interruptible
from vexrun.output import say, stdout
from vexrun.playbook import InventoryHost, run_playbook
from vexrun.progress import display_for
from vexrun.vm.accel import AccelChoice
from vexrun.vm.registry import find_machine, known_machines
from vexrun.vm.ssh import HOST_ALIAS

app = typer.Typer(help="Apply the roles.", no_args_is_help=True)


@app.command()
def vm(
    check: Annotated[bool, typer.Option("--check", help="Only show what would change.")] = False,
    suite: Annotated[str, typer.Option(help="trixie, bookworm or sid.")] = DEFAULT_SUITE,
    name: Annotated[str | None, typer.Option(help="Which machine; default: the newest.")] = None,
) -> None:
    """Provision a machine that is up; start one if none is."""
    with interruptible(), display_for(stdout, console_log=lambda: None) as show:
        if name is not None or known_machines():
            config = find_machine(name).ssh_config
        else:
            record = start_machine(Path.cwd(), suite, AccelChoice.AUTO, show)
            config = Path(str(record["ssh_config"]))
        with tempfile.TemporaryDirectory(prefix="vexrun-provision-") as artifacts:
            variables = {"ansible_ssh_common_args": f"-F {config}", "ansible_host": HOST_ALIAS}
            result = run_playbook(
                "provision.yml",
                [InventoryHost("vm", HOST_ALIAS, variables)],
                artifact_dir=Path(artifacts),
                emit=show,
                check=check,
            )
    say(f"ok={result.ok} changed={result.changed} skipped={result.skipped}")
    for task in result.changed_tasks:
        say(f"  changed: {task}")


@app.command()
def host() -> None:
    """Provision this machine (not in this version)."""
    raise ConfigError("'provision host' is not part of this version of vexrun.")


@app.command()
def device() -> None:
    """Provision a test device (not in this version)."""
    raise ConfigError("'provision device' is not part of this version of vexrun.")
