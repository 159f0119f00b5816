"""Command lines of vexrun, parsed by the real parser and run by nobody."""

from __future__ import annotations

from typing import Any

import typer

from vexrun.cli import app


def parameters_of(words: list[str]) -> dict[str, Any]:
    """What a command line (without the word 'vexrun') asks for; fails when it is wrong."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        if not words:
            return {}  # a group of commands, by its name
        if words[0] not in command.commands and "examine" in command.commands:
            words = ["examine", *words]  # as vexrun/commands/gate.py does
        name, *words = words
        assert name in command.commands, f"there is no command '{name}'"
        command = command.commands[name]
    parsed: dict[str, Any] = command.make_context("vexrun", list(words)).params
    return parsed
