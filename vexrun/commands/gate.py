"""`vexrun gate`: whether the evidence of a run lets the module go on, and seals of open gates."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from vexrun.errors import ConfigError, ExitCode
from vexrun.gate.checklist import examine
from vexrun.gate.criteria import Gate
from vexrun.gate.render import FORMATS
from vexrun.gate.seal import seal
from vexrun.gate.seal import verify as verify_seal
from vexrun.output import say, stderr
from vexrun.rundir import find_run

_EXAMINE = "examine"


class _ExamineByDefault(TyperGroup):
    """`vexrun gate RUN --for device` without a word for the examination itself."""

    def parse_args(self, ctx, args):  # type: ignore[no-untyped-def]
        if args and args[0] not in self.commands and args[0] != "--help":
            args = [_EXAMINE, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    help="Ask a run's evidence: vexrun gate [RUN] --for device|production.",
    cls=_ExamineByDefault,
    no_args_is_help=True,
)


@app.command(_EXAMINE)
def examine_run(
    gate: Annotated[Gate, typer.Option("--for", help="Where the module wants to go.")],
    run: Annotated[str | None, typer.Argument(help="Run id or directory; default: latest.")] = None,
    source: Annotated[
        Path | None, typer.Option(help="The source tree now; default: where it was.")
    ] = None,
    kernel: Annotated[
        str | None, typer.Option(help="Release or series of the kernel behind the gate.")
    ] = None,
    module: Annotated[
        Path | None, typer.Option(help="The .ko that is going to be loaded there.")
    ] = None,
    checklist: Annotated[
        Path | None, typer.Option(help="Who signed off backup, monitoring and recovery (TOML).")
    ] = None,
    form: Annotated[
        str | None, typer.Option("--format", help=f"One of {', '.join(FORMATS)}; default: txt.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Same as --format json.")] = False,
    seal_file: Annotated[
        Path | None, typer.Option("--seal", help="Write the statement of an open gate here.")
    ] = None,
    sign_key: Annotated[
        Path | None, typer.Option(help="Sign the seal with this ssh private key.")
    ] = None,
) -> None:
    """Examine a run: one line a criterion, with the evidence or with what is missing."""
    chosen = "json" if as_json else form or "txt"
    if as_json and form not in (None, "json"):
        raise ConfigError(f"--json and --format {form} contradict each other.")
    if chosen not in FORMATS:
        raise ConfigError(
            f"There is no format '{chosen}'.", hint=f"Choose from: {', '.join(FORMATS)}."
        )
    if sign_key is not None and seal_file is None:
        raise ConfigError("--sign-key signs a seal, and --seal is not given.")
    directory = find_run(run)
    answer = examine(
        directory, gate, source=source, kernel=kernel, module=module, checklist=checklist
    )
    sys.stdout.write(FORMATS[chosen](answer))
    if not answer.open:
        raise typer.Exit(ExitCode.FAILED)
    if seal_file is not None:
        seal(answer, directory, seal_file, sign_key)
        say(f"Sealed: {seal_file}", stderr)


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="The seal, as --seal wrote it.")],
    evidence: Annotated[
        Path | None, typer.Option(help="The run's directory; default: where it was.")
    ] = None,
    allowed_signers: Annotated[
        Path | None, typer.Option(help="Demand a signature by one of these (see ssh-keygen(1)).")
    ] = None,
    identity: Annotated[
        str | None, typer.Option(help="Whose signature: a name in that file.")
    ] = None,
) -> None:
    """Verify a seal: it and the evidence are byte for byte what they were."""
    result = verify_seal(file, evidence, allowed_signers=allowed_signers, identity=identity)
    for problem in result.problems:
        say(problem)
    for note in result.notes:
        say(note)
    if result.problems:
        say("The seal is broken.")
        raise typer.Exit(ExitCode.FAILED)
    assert result.checklist is not None
    say(result.checklist.sentence)
    say("The seal holds.")
