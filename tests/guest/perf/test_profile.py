"""With --profile: where time goes in the kernel, and what the subject's programs do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from shlex import quote

import profile_in_guest as guest_code
import pytest
from contest import KIB, keep
from vexrun import profiling
from vexrun.guest.context import RunContext
from vexrun.guest.filesystem import Filesystem
from vexrun.guest.fixtures import Guest
from vexrun.subject import Subject

_DATA = "/var/tmp/vexrun-perf.data"
#: What valgrind ends with when it found an error; the programs' own statuses are other ones.
_FOUND = 99


@pytest.fixture(autouse=True)
def asked_for(context: RunContext) -> None:
    if not context.profile:
        pytest.skip("profiles are made with --profile")


@pytest.fixture
def commands(context: RunContext, subject: Subject, mounted: Filesystem) -> dict[str, str]:
    """The subject's own programs as it declares their calls, by name."""
    declared = {
        "probe": subject.cli.probe if subject.cli else None,
        "vectors": subject.bench.vectors if subject.bench else None,
    }
    return {
        name: context.command(template, mount=mounted.path, device=mounted.scratch.main)
        for name, template in declared.items()
        if template
    }


@pytest.mark.needs_operations("write", "create", "unlink", "mkdir", "fsync")
def test_where_time_goes(
    guest: Guest,
    mounted: Filesystem,
    subject: Subject,
    commands: dict[str, str],
    note: Callable[[str], None],
) -> None:
    """Samples of all processors while the filesystem is used: a flame graph in the report."""
    renames = "rename" not in subject.filesystem.lacked_operations
    size = 16 * KIB if "largefile" in subject.filesystem.lacked_operations else 256 * KIB
    try:
        guest.call(
            guest_code.record,
            mounted.path,
            _DATA,
            renames,
            size,
            commands.get("vectors", commands.get("probe", "")),
        )
        text = guest.check(f"perf script -i {_DATA} -F comm,ip,sym,dso 2>/dev/null")
    finally:
        guest.run(f"rm -f {_DATA} {_DATA}.old")
    stacks, idle = profiling.read_perf_script(text)
    assert stacks, f"perf took no sample of a busy processor ({idle} of idle ones)"
    keep(Path(profiling.SAMPLES).name, profiling.fold(stacks))
    module = subject.module.sysfs_name
    inside = sum(
        count
        for stack, count in stacks.items()
        if any(profiling.of_module(frame, module) for frame in stack)
    )
    note(
        f"{inside} of {stacks.total()} samples of busy processors were taken in '{module}' or "
        "below it."
    )


def test_counters_of_commands(guest: Guest, commands: dict[str, str]) -> None:
    """`perf stat` of each; what a virtual processor does not count is said there."""
    if not commands:
        pytest.skip("the subject file declares no command ([cli] probe, bench.vectors)")
    for name, command in commands.items():
        status, out, err = guest.run(f"perf stat -- sh -c {quote(command)} </dev/null")
        assert status == 0, f"'{command}' ended with {status} under perf stat: {err or out}"
        assert "elapsed" in err, f"perf stat counted nothing: {err}"
        keep(f"stat-{name}.txt", err)


def test_commands_under_valgrind(guest: Guest, commands: dict[str, str]) -> None:
    """Invalid reads and writes, and what depends on uninitialised memory, are failures."""
    if not commands:
        pytest.skip("the subject file declares no command ([cli] probe, bench.vectors)")
    found = []
    for name, command in commands.items():
        status, out, err = guest.run(
            f"valgrind --quiet --trace-children=yes --error-exitcode={_FOUND} --leak-check=no "
            f"sh -c {quote(command)} </dev/null"
        )
        keep(f"valgrind-{name}.txt", err)
        assert status in (0, _FOUND), (
            f"'{command}' ended with {status} under valgrind: {err or out}"
        )
        if status == _FOUND:
            found.append(f"valgrind found errors in '{command}':\n{err}")
    assert not found, "\n".join(found)
