"""The command line: parse, call, print. Every decision is made elsewhere."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.markup import escape
from rich.table import Table

from vexrun import __version__
from vexrun.commands import compare as compare_command
from vexrun.commands import device as device_commands
from vexrun.commands import gate as gate_commands
from vexrun.commands import history as history_command
from vexrun.commands import image as image_commands
from vexrun.commands import init as init_command
from vexrun.commands import machine as machine_commands
from vexrun.commands import mutate as mutate_command
from vexrun.commands import provision as provision_commands
from vexrun.commands import selftest as selftest_command
from vexrun.commands import watch as watch_command
from vexrun.commands.repeat import run_series
from vexrun.config import Backend, TargetKind, make_config
from vexrun.device.admission import DeviceRequest, admit
from vexrun.device.description import load_critical, load_device
from vexrun.doctor import examine
from vexrun.errors import ConfigError, ExitCode, VexrunError
from vexrun.image.suites import DEFAULT_SUITE
from vexrun.isolation import Isolation
from vexrun.kbuild import BuildPlace
from vexrun.output import say, stderr, stdout
from vexrun.progress import display_for
from vexrun.report import FORMATS, write_reports
from vexrun.report.terminal import render_results
from vexrun.resume import load_earlier_run
from vexrun.rundir import find_run, goes_on, load_run
from vexrun.session import run_session
from vexrun.vm.accel import AccelChoice

app = typer.Typer(
    help="Build, load and test out-of-tree filesystem modules, with a verdict that cannot lie.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(image_commands.app, name="image")
app.add_typer(device_commands.app, name="device")
app.add_typer(gate_commands.app, name="gate")
app.add_typer(machine_commands.app, name="vm")
app.add_typer(provision_commands.app, name="provision")
app.command()(watch_command.watch)
app.command()(selftest_command.selftest)
app.command()(mutate_command.mutate)
app.command()(init_command.init)
app.command()(history_command.history)
app.command()(compare_command.compare)


@app.callback(invoke_without_command=True)
def version_option(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        say(f"vexrun {__version__}")
        raise typer.Exit


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Say what this machine can do for vexrun, and how to fix what it cannot."""
    findings = examine()
    if as_json:
        print(json.dumps([vars(finding) for finding in findings], indent=2))
    else:
        table = Table(box=None, show_header=False, padding=(0, 1))
        for finding in findings:
            mark = "[green]ok[/]" if finding.ok else "[red]no[/]" if finding.needed else "[dim]-[/]"
            fix = (
                f"\n[yellow]fix:[/] {escape(finding.fix)}" if finding.fix and not finding.ok else ""
            )
            table.add_row(mark, escape(finding.name), escape(finding.text) + fix)
        stdout.print(table)
    if any(finding.needed and not finding.ok for finding in findings):
        raise typer.Exit(ExitCode.INFRASTRUCTURE)


def _split(values: list[str]) -> list[str]:
    return [part.strip() for value in values for part in value.split(",") if part.strip()]


def _asked_for(option: str, values: list[str] | None) -> list[str]:
    """Category names of --only or --skip; an option that was given must name something."""
    if values is None:
        return []
    names = _split(values)
    if not names:
        raise ConfigError(
            f"{option} was given without a category.", hint="Example: --only mount,fsops"
        )
    return names


def _refuse_with_resume(**given: object) -> None:
    for name, value in given.items():
        if value is not None:
            option = name if name.isupper() else f"--{name}"
            raise ConfigError(
                f"{option} cannot be given with --resume: the resumed run says what is tested.",
                hint="Leave it out, or start a new run without --resume.",
            )


def _device_request(
    name: str | None, seal: Path | None, token: str | None, override: str | None
) -> DeviceRequest | None:
    if name is None:
        for option, value in (("--seal", seal), ("--confirm", token), ("--override", override)):
            if value is not None:
                raise ConfigError(f"{option} is for a run on a device: name it with --device.")
        return None
    return DeviceRequest(load_device(name), load_critical(), seal, override, token)


@app.command()
def test(
    source: Annotated[
        Path | None, typer.Argument(help="The module's source tree; default: where FILE is.")
    ] = None,
    subject: Annotated[
        Path | None, typer.Option(help="The subject file; default: SOURCE/vexrun.toml.")
    ] = None,
    suite: Annotated[
        str, typer.Option(help="Guest: trixie, bookworm, sid, or an imported image.")
    ] = DEFAULT_SUITE,
    only: Annotated[list[str] | None, typer.Option(help="Only these categories.")] = None,
    skip: Annotated[list[str] | None, typer.Option(help="Not these categories.")] = None,
    target: Annotated[TargetKind, typer.Option(help="Where tests run.")] = TargetKind.VM,
    backend: Annotated[Backend, typer.Option(help="What runs the VM.")] = Backend.QEMU,
    accel: Annotated[AccelChoice, typer.Option(help="Accelerator.")] = AccelChoice.AUTO,
    build: Annotated[BuildPlace, typer.Option(help="Where to build.")] = BuildPlace.AUTO,
    isolation: Annotated[
        Isolation, typer.Option(help="A clean machine for each: category, test, or only one.")
    ] = Isolation.GROUP,
    as_json: Annotated[bool, typer.Option("--json", help="results.json on stdout.")] = False,
    keep: Annotated[bool, typer.Option(help="Leave the machine up afterwards.")] = False,
    core: Annotated[
        bool, typer.Option("--core/--no-core", help="Keep the memory of a kernel that died.")
    ] = True,
    resume: Annotated[
        str | None, typer.Option(metavar="RUN", help="Go on with what RUN did not finish.")
    ] = None,
    repeat: Annotated[
        int, typer.Option(min=1, metavar="N", help="Make N runs, and say what they share.")
    ] = 1,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="Stop at the first test that fails.")
    ] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="perf: a flame graph, counters, valgrind.")
    ] = False,
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="With --target device: which one.")
    ] = None,
    seal: Annotated[
        Path | None, typer.Option(help="With --target device: the seal of an open gate.")
    ] = None,
    confirm: Annotated[
        str | None, typer.Option(metavar="TOKEN", help="In CI, instead of typing a serial.")
    ] = None,
    override: Annotated[
        str | None, typer.Option(metavar="REASON", help="Go round the gate; stays on record.")
    ] = None,
) -> None:
    """Build the module, exercise it in a real kernel, and say what is proven."""
    earlier = None
    if resume is not None:
        _refuse_with_resume(SOURCE=source, subject=subject, only=only, skip=skip)
        earlier = load_earlier_run(resume)
        source, subject = earlier.source, earlier.subject_file
        suite, only = earlier.suite, earlier.categories
    config = make_config(
        source=source,
        subject_file=subject,
        suite=suite,
        only=_asked_for("--only", only),
        skip=_asked_for("--skip", skip),
        target=target,
        backend=backend,
        accel=accel,
        build=build,
        keep=keep,
        command=["vexrun", *sys.argv[1:]],
        earlier=earlier,
        fail_fast=fail_fast,
        isolation=isolation,
        core=core,
        profile=profile,
        device=_device_request(device, seal, confirm, override),
    )
    if config.device is not None:
        if repeat > 1:
            raise ConfigError("Each run on a device is confirmed for itself: leave out --repeat.")
        config = replace(config, admitted=admit(config.device, config.subject))
    if repeat > 1:
        raise typer.Exit(run_series(config, repeat, as_json=as_json))
    screen = stderr if as_json else stdout
    with display_for(screen, console_log=lambda: find_run(None) / "console.log") as show:
        results = run_session(config, show)
    directory = Path(results.run_dir)
    if as_json:
        print((directory / FORMATS["json"].filename).read_text(), end="")
    else:
        render_results(results, stdout)
        say(f"verdict: {results.verdict.value}")
    raise typer.Exit(results.exit_code)


@app.command()
def report(
    run: Annotated[str | None, typer.Argument(help="Run id or directory; default: latest.")] = None,
    form: Annotated[
        str | None, typer.Option("--format", help=f"One of {', '.join(FORMATS)}.")
    ] = None,
) -> None:
    """Show the report of a run; --format writes it to stdout in that form."""
    directory = find_run(run)
    results = load_run(directory)
    log = directory / "console.log"
    tail = log.read_bytes()[-30_000:].decode(errors="replace") if log.is_file() else ""
    if not (directory / FORMATS["json"].filename).exists() and not goes_on(directory):
        write_reports(results, directory, tail)  # it was killed before it could
    if form is None:
        render_results(results, stdout)
        return
    if form not in FORMATS:
        raise ConfigError(
            f"There is no report format '{form}'.", hint=f"Choose from: {', '.join(FORMATS)}."
        )
    sys.stdout.write(FORMATS[form].render(results, tail))


@contextmanager
def errors_as_messages() -> Iterator[None]:
    """Print a VexrunError as sentences, and end with its exit code."""
    try:
        yield
    except VexrunError as error:
        show_error(error)
        sys.exit(int(error.exit_code))
    except KeyboardInterrupt:
        say("Interrupted.", stderr)
        sys.exit(int(ExitCode.INTERRUPTED))
    except OSError as error:
        _no_space(error)


def show_error(error: VexrunError) -> None:
    stderr.print(f"[bold red]vexrun:[/] {escape(error.message)}", soft_wrap=True, highlight=False)
    if error.evidence:
        for line in error.evidence.splitlines():
            say(f"  {line}", stderr)
    if error.hint:
        stderr.print(f"[yellow]→[/] {escape(error.hint)}", soft_wrap=True, highlight=False)


def _no_space(error: OSError) -> NoReturn:
    """A full disk or a lost permission is the machine's fault, and has a name."""
    where = f" ('{error.filename}')" if error.filename else ""
    show_error(
        VexrunError(
            f"The operating system refused: {error.strerror}{where}.",
            hint="Run: vexrun doctor",
        )
    )
    if os.environ.get("VEXRUN_TRACEBACK"):
        raise error
    sys.exit(int(ExitCode.INFRASTRUCTURE))


def main() -> None:
    """Console entry point."""
    for stream in (sys.stdout, sys.stderr):
        # What a guest prints may hold bytes that no locale can encode.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    with errors_as_messages():
        app(standalone_mode=True)


if __name__ == "__main__":
    main()
