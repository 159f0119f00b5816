"""`vexrun vm up|ssh|console|status|down`: a machine to work in by hand."""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import termios
import tty
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from vexrun.errors import ConfigError
from vexrun.events import Emit, Stages
from vexrun.image.build import ensure_base
from vexrun.image.catalog import find_guest
from vexrun.image.suites import DEFAULT_SUITE
from vexrun.interrupt import interruptible
from vexrun.layout import state_dir
from vexrun.output import say, stdout
from vexrun.process import minimal_environment
from vexrun.progress import display_for
from vexrun.settings import load_settings
from vexrun.vm.accel import AccelChoice, choose_accelerator
from vexrun.vm.detached import start_detached
from vexrun.vm.disks import ScratchPlan
from vexrun.vm.machine import MachinePlan, sweep_dead_machines
from vexrun.vm.registry import FREE, end_machine, find_machine, known_machines, machines_in
from vexrun.vm.snapshot import ensure_snapshot
from vexrun.vm.ssh import HOST_ALIAS
from vexrun.workdir import sweep_work_directories

app = typer.Typer(help="A machine to work in by hand.", no_args_is_help=True)
_ESCAPE = b"\x1d"  # Ctrl-]
_Name = Annotated[str | None, typer.Option("--name", help="Which machine; default: the newest.")]


@app.command()
def up(
    source: Annotated[
        Path | None, typer.Argument(help="Shared read-only at /mnt/vexfs-src.")
    ] = None,
    suite: Annotated[str, typer.Option(help="trixie, bookworm or sid.")] = DEFAULT_SUITE,
    accel: Annotated[AccelChoice, typer.Option(help="Accelerator.")] = AccelChoice.AUTO,
) -> None:
    """Start a machine from the snapshot and leave it running."""
    directory = (source or Path()).resolve()
    if not directory.is_dir():
        raise ConfigError(f"'{directory}' is not a directory.")
    with interruptible(), display_for(stdout, console_log=lambda: None) as show:
        machine = start_machine(directory, suite, accel, show)
    say(f"{machine['name']} is up. Enter it with: vexrun vm ssh")


def start_machine(source: Path, suite: str, accel: AccelChoice, emit: Emit) -> dict[str, object]:
    """A detached machine with `source` mounted; returns its record (see Machine.detach)."""
    settings = load_settings()
    stages = Stages(emit)
    sweep_dead_machines()
    sweep_work_directories()
    image = ensure_base(find_guest(suite), settings.image, emit)
    accelerator = choose_accelerator(accel, image.kernel, image.manifest.sha256["vmlinuz"])
    snapshot = ensure_snapshot(image, accelerator, settings.machine, emit)
    logs = state_dir() / "consoles"
    logs.mkdir(parents=True, exist_ok=True)
    with stages.stage("start machine", "restoring the snapshot"):
        plan = MachinePlan(
            image=image,
            accelerator=accelerator,
            memory_mib=settings.machine.memory_mib,
            cpus=settings.machine.cpus,
            source_dir=source,
            console_log=logs / "starting.log",
            scratch=ScratchPlan(),
            disk=snapshot.disk,
            state=snapshot.state,
        )
        return start_detached(plan, console_log=lambda name: logs / f"{name}.log")


@app.command()
def ssh(
    command: Annotated[list[str] | None, typer.Argument(help="Default: a shell.")] = None,
    name: _Name = None,
) -> None:
    """Enter the machine, or run one command in it."""
    machine = find_machine(name)
    sys.stdout.flush()
    argv = [
        "ssh",
        "-F",
        str(machine.ssh_config),
        HOST_ALIAS,
        *(["--", *command] if command else []),
    ]
    os.execvpe("ssh", argv, minimal_environment())


@app.command()
def console(name: _Name = None) -> None:
    """The machine's serial console; Ctrl-] leaves it."""
    machine = find_machine(name)
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(str(machine.console_socket))
        say(f"Console of {machine.name}; Ctrl-] leaves it.")
        if not sys.stdin.isatty():
            _copy(link)
            return
        before = termios.tcgetattr(sys.stdin)
        try:
            tty.setraw(sys.stdin)
            _copy(link)
        finally:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _copy(link: socket.socket) -> None:
    """Pass bytes both ways until either side ends or the escape key is typed."""
    keyboard = sys.stdin.fileno()
    sources = [link.fileno(), keyboard]
    while True:
        readable, _, _ = select.select(sources, [], [])
        if link.fileno() in readable:
            said = link.recv(4096)
            if not said:
                return
            os.write(sys.stdout.fileno(), said)
        if keyboard in readable:
            typed = os.read(keyboard, 1024)
            if not typed:
                # End of a pipe: nothing more will be typed, but the guest may still answer.
                sources.remove(keyboard)
                readable, _, _ = select.select(sources, [], [], 2.0)
                if not readable:
                    return
                continue
            if _ESCAPE in typed:
                return
            link.sendall(typed)


@app.command()
def status(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """The machines that are up."""
    machines = known_machines()
    if as_json:
        print(json.dumps([machine.describe() for machine in machines], indent=2))
        return
    if not machines:
        say("No machine is up. Run: vexrun vm up")
        return
    table = Table(box=None, padding=(0, 1))
    for heading in ("name", "state", "image", "accel", "ssh port", "pid", "source"):
        table.add_column(heading, overflow="fold")
    for machine in machines:
        keys = ("name", "state", "image", "accel", "ssh_port", "pid", "source")
        described = machine.describe()
        table.add_row(*(str(described.get(key, "?")) for key in keys))
    stdout.print(table)


@app.command()
def down(
    name: _Name = None,
    every: Annotated[bool, typer.Option("--all", help="Every machine.")] = False,
) -> None:
    """End a machine and delete its disks; --all spares those of a run that is going on."""
    doomed = machines_in(*FREE) if every else [find_machine(name, *FREE)]
    for machine in doomed:
        end_machine(machine)
        say(f"{machine.name} is down.")
