"""Printing plain sentences: no markup, no colour guesses, no wrapping of paths."""

from __future__ import annotations

from rich.console import Console

stdout = Console()
stderr = Console(stderr=True)


def say(text: str, console: Console = stdout) -> None:
    """One line as it is."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)
