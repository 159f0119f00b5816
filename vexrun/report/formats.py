"""The formats a run is written in: one row each, one module each."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vexrun.errors import InfrastructureError
from vexrun.report.html import to_html
from vexrun.report.json import to_json
from vexrun.report.junit import to_junit
from vexrun.report.markdown import to_markdown
from vexrun.report.text import to_text
from vexrun.results.model import RunResults


@dataclass(frozen=True)
class Format:
    """`render` takes the results and the end of console.log, which only HTML shows."""

    filename: str
    render: Callable[[RunResults, str], str]
    media_type: str


#: Named as in `vexrun report --format`. results.json comes first: the others can be made from it.
FORMATS: dict[str, Format] = {
    "json": Format("results.json", lambda r, _: to_json(r), "application/json"),
    "junit": Format("junit.xml", lambda r, _: to_junit(r), "application/xml"),
    "txt": Format("report.txt", lambda r, _: to_text(r), "text/plain; charset=utf-8"),
    "md": Format("report.md", lambda r, _: to_markdown(r), "text/markdown; charset=utf-8"),
    "html": Format("report.html", to_html, "text/html; charset=utf-8"),
}


def write_reports(results: RunResults, rundir: Path, console_tail: str = "") -> dict[str, Path]:
    """Write every format into `rundir`, each whole or not at all; returns the files by format.

    A format that fails does not stop the others; the failures are raised when all had their
    turn, as one InfrastructureError.
    """
    written: dict[str, Path] = {}
    failures: dict[str, Exception] = {}
    for name, form in FORMATS.items():
        path = rundir / form.filename
        try:
            _replace(path, form.render(results, console_tail).encode("utf-8"))
            written[name] = path
        except Exception as failure:  # noqa: BLE001 - kept, and raised below
            failures[name] = failure
    if failures:
        raise _report_error(rundir, failures)
    return written


def _replace(path: Path, content: bytes) -> None:
    """Put the file in place in one step, so that no reader sees half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())  # a report outlives the crash it reports
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _report_error(rundir: Path, failures: dict[str, Exception]) -> InfrastructureError:
    names = ", ".join(f"'{FORMATS[name].filename}'" for name in failures)
    error = InfrastructureError(
        f"Could not write {names} in '{rundir}'.",
        evidence="\n".join(
            f"{FORMATS[name].filename}: {type(failure).__name__}: {failure}"
            for name, failure in failures.items()
        ),
        hint=(
            f"Look at the disk with `df -h '{rundir}'`; the verdict itself is not affected."
            if all(isinstance(failure, OSError) for failure in failures.values())
            else f"This is a bug in vexrun's report writers; attach '{rundir}/results.json'."
        ),
    )
    error.__cause__ = ExceptionGroup("reports that failed", list(failures.values()))
    return error
