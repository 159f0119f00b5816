"""`vexrun device`: describe a test device, look at it, say whether a run may use it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from vexrun.device.confirmation import token_of
from vexrun.device.connection import connection
from vexrun.device.description import device_file, known_devices, load_critical, load_device
from vexrun.device.facts import read_facts
from vexrun.device.guards import Here, Question, examine
from vexrun.device.proposal import host_key_of, propose
from vexrun.errors import ConfigError, ExitCode
from vexrun.interrupt import interruptible
from vexrun.output import say, stdout
from vexrun.subject import load_subject

app = typer.Typer(help="Test devices: describe them, look at them.", no_args_is_help=True)


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="What it is called here.")],
    address: Annotated[str, typer.Option(help="Host name or IP address.")],
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of its ssh server.")] = 22,
    user: Annotated[str, typer.Option(help="Who vexrun logs in as.")] = "root",
    key: Annotated[Path | None, typer.Option(help="The private ssh key for it.")] = None,
) -> None:
    """Ask a machine what it is, and write a device file for its owner to fill in."""
    file = device_file(name)
    if file.exists():
        raise ConfigError(
            f"There is a device '{name}' already.", hint=f"Edit it, or remove it: {file}"
        )
    with interruptible():
        host_key, fingerprint = host_key_of(address, port)
        text = propose(name, address, port, user, key, host_key)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    say(f"Written: {file}")
    say(f"Its ssh host key is {fingerprint}: compare that with what the device itself shows.")
    say("Now choose the disk whose content may be lost, and say how to recover the device.")
    say(f"Then: vexrun device check {name}")


@app.command("list")
def show_list() -> None:
    """The devices that are described here."""
    for name in known_devices():
        device = load_device(name)
        disk = device.disk.by_id if device.disk else "no disk"
        say(f"{name}  {device.device.user}@{device.device.address}:{device.device.port}  {disk}")


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="A device, or the path of its file.")],
    subject: Annotated[
        Path | None, typer.Option(help="The subject file of what is going to be tested.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Ask every guard whether a run may use the device. Changes nothing there."""
    device = load_device(name)
    tested = load_subject(subject) if subject else None
    with interruptible(), connection(device) as shell:
        facts = read_facts(shell, device.disk.by_id if device.disk else None)
    question = Question(device, load_critical(), facts, Here.read(), tested)
    answers = examine(question)
    refused = [refusal for _, refusal in answers if refusal is not None]
    token = None if refused else token_of(device)
    if as_json:
        document = {
            "device": device.name,
            "free": not refused,
            "token": token,
            "refusals": [vars(each) for each in refused],
            "facts": facts.model_dump(mode="json"),
        }
        print(json.dumps(document, indent=2))
    else:
        table = Table(box=None, show_header=False, padding=(0, 1))
        for guard, refusal in answers:
            mark = "[green]ok[/]" if refusal is None else "[red]no[/]"
            text = (
                guard.title
                if refusal is None
                else f"{refusal.found}\n[yellow]→[/] {escape(refusal.do)}"
            )
            table.add_row(mark, escape(guard.name), text if refusal else escape(text))
        stdout.print(table)
        if refused:
            say(f"The device '{device.name}' would not be touched.")
        else:
            say(f"A run may use the device '{device.name}'. In CI: --confirm {token}")
    if refused:
        raise typer.Exit(ExitCode.FAILED)
