"""stress-ng's filesystem stressors: which a subject can take, and what they say happened."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Stressor:
    """One stress-ng stressor; `needs` are words of filesystem.lacks, `options` keep it small."""

    name: str
    needs: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


#: Stressors that run at the same time; more would only wait for the CPU under emulation. Only
#: those that count fine steps: one step of link and symlink is 8192 names, half a minute there,
#: and chmod, fstat, mknod and fallocate come to a handful, too near to nothing to judge. sync-file
#: of 0.19.02 takes 1 GiB whatever it is told, and utime wants finer times than exfat keeps.
GROUPS: dict[str, tuple[Stressor, ...]] = {
    "content": (
        Stressor("hdd", options=("--hdd-bytes 2m", "--hdd-write-size 8k")),
        Stressor("seek", needs=("sparse",), options=("--seek-size 1m",)),
        Stressor("readahead", options=("--readahead-bytes 1m",)),
    ),
    "names": (
        Stressor("dentry", options=("--dentries 64",)),
        Stressor("rename", needs=("rename",)),
        Stressor("dir", needs=("mkdir",), options=("--dir-dirs 64",)),
        Stressor("touch"),
        Stressor("getdent"),
    ),
}

#: Names that stress-ng makes below its --temp-path are up to so long.
LONGEST_NAME = 48


def suitable(group: str, lacked: Collection[str]) -> list[Stressor]:
    """Those stressors of a group that need nothing the filesystem lacks."""
    return [each for each in GROUPS[group] if not set(each.needs) & set(lacked)]


def command(stressors: Sequence[Stressor], seconds: int, directory: str, report: str) -> str:
    """One run with one worker of each; `report` becomes the YAML file."""
    words = [f"--{each.name} 1" for each in stressors]
    words += [option for each in stressors for option in each.options]
    return (
        f"stress-ng {' '.join(words)} --timeout {seconds}s --temp-path {directory} --verify "
        f"--oomable --metrics --yaml {report} 2>&1"
    )


@dataclass
class Verdict:
    """What a run's output says. `failed` and `skipped` are name -> the line that says why."""

    operations: dict[str, int] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def read_verdict(names: Sequence[str], status: int, said: str, report: str) -> Verdict:
    """Judge a run by its exit status, its output and its YAML report together.

    A stressor counts as run when the report has operations for it. One without any was either
    skipped, and a line of the output says so, or it has failed.
    """
    verdict = Verdict(operations=_operations(report))
    for name in names:
        own = re.compile(rf"\] {re.escape(name)}(?::| stressor) ")
        lines = [line for line in said.splitlines() if own.search(line)]
        bad = [line for line in lines if re.search(r"\b(fail|error): ", line)]
        skips = [line for line in lines if re.search(r"skipp|not (?:implemented|supported)", line)]
        if bad:
            verdict.failed[name] = _text(bad[0])
        elif not verdict.operations.get(name):
            if skips:
                verdict.skipped[name] = _text(skips[0])
            else:
                verdict.failed[name] = "it did nothing at all (0 operations) and gives no reason"
    if status != 0 and not verdict.failed and verdict.skipped.keys() != set(names):
        summary = [line for line in said.splitlines() if "failed:" in line]
        verdict.failed["stress-ng"] = f"exit status {status}: {' '.join(map(_text, summary))}"
    return verdict


def _operations(report: str) -> dict[str, int]:
    """Name -> bogo operations, from the report's list of metrics."""
    found, name = {}, ""
    for line in report.splitlines():
        key, _, value = line.strip().removeprefix("- ").partition(":")
        if key == "stressor":
            name = value.strip()
        elif key == "bogo-ops" and name:
            found[name] = int(value)
    return found


def _text(line: str) -> str:
    """A line of output without program and process number."""
    return re.sub(r"^stress-ng: \w+: +\[\d+\] ", "", line).strip()
