"""Every way a run can end badly, kept apart from where it is known to the exit code.

A failing *test* and a crashing *kernel* are results, not exceptions: they travel as data
(`vexrun.results`). The exceptions here are for what stops a run from producing results.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Process exit codes; part of the command-line contract."""

    PASS = 0
    FAILED = 1
    USAGE = 2
    INFRASTRUCTURE = 69  # EX_UNAVAILABLE of sysexits.h
    INTERRUPTED = 130  # 128 + SIGINT


class VexrunError(Exception):
    """An error with a sentence, its evidence, and the next command to paste.

    `evidence` is shown indented below the sentence (for example the last lines of a log);
    `hint` is what to do next.
    """

    exit_code: ExitCode = ExitCode.INFRASTRUCTURE

    def __init__(self, message: str, *, evidence: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.evidence = evidence
        self.hint = hint


class ConfigError(VexrunError):
    """The user's command line, subject file or settings are wrong."""

    exit_code = ExitCode.USAGE


class InfrastructureError(VexrunError):
    """Something vexrun depends on is missing or broken; nobody's test failed."""


class TargetLostError(InfrastructureError):
    """The target stopped answering. Whether the subject is to blame is decided from the logs."""


class KernelDiedError(InfrastructureError):
    """The guest's own kernel died before anything of a subject was in it."""


class InterruptedRunError(VexrunError):
    """The user or the system asked vexrun to stop (SIGINT, SIGTERM, SIGHUP)."""

    exit_code = ExitCode.INTERRUPTED


class BuildFailedError(VexrunError):
    """The subject does not build: a finding about the subject, not about us."""

    exit_code = ExitCode.FAILED
