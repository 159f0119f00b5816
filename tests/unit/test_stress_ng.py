"""What stress-ng said is read so that a stressor that did nothing is never taken for a success."""

from __future__ import annotations

import pytest

from vexrun.guest.stress_ng import GROUPS, LONGEST_NAME, command, read_verdict, suitable

#: Of stress-ng 0.19.02 on tmpfs, shortened; the numbers in brackets are process ids.
OUTPUT = """\
stress-ng: info:  [9194] dispatching hogs: 1 hdd, 1 rename, 1 fiemap
stress-ng: info:  [9195] hdd: using 1M file system space per stressor instance
stress-ng: info:  [9200] fiemap: ioctl FS_IOC_FIEMAP not supported on the file system, skipping \
stressor, filesystem type: tmpfs (16384 blocks available)
stress-ng: info:  [9194] skipped: 1: fiemap (1)
stress-ng: info:  [9194] passed: 2: hdd (1) rename (1)
stress-ng: info:  [9194] failed: 0
"""
REPORT = """\
metrics:
    - stressor: hdd
      bogo-ops: 20
      bogo-ops-per-second-usr-sys-time: 15313.935681

    - stressor: rename
      bogo-ops: 92022

    - stressor: fiemap
      bogo-ops: 0
...
"""
NAMES = ["hdd", "rename", "fiemap"]


def test_a_skipped_stressor_is_told_from_one_that_ran() -> None:
    verdict = read_verdict(NAMES, 0, OUTPUT, REPORT)
    assert verdict.operations == {"hdd": 20, "rename": 92022, "fiemap": 0}
    assert not verdict.failed
    assert list(verdict.skipped) == ["fiemap"]
    assert verdict.skipped["fiemap"].startswith("fiemap: ioctl FS_IOC_FIEMAP not supported")


@pytest.mark.parametrize(
    ("status", "output", "report", "says"),
    [
        pytest.param(0, OUTPUT, REPORT.replace("20\n", "0\n"), "did nothing", id="no-operations"),
        pytest.param(0, "", "", "did nothing", id="no-report"),
        pytest.param(
            2,
            OUTPUT + "stress-ng: fail:  [9195] hdd: data at 4096 does not match\n",
            REPORT,
            "does not match",
            id="verification",
        ),
        pytest.param(2, OUTPUT, REPORT, "exit status 2", id="exit-status-alone"),
    ],
)
def test_a_failure_is_seen(status: int, output: str, report: str, says: str) -> None:
    verdict = read_verdict(NAMES, status, output, report)
    assert says in " ".join(verdict.failed.values())


def test_all_skipped_is_no_failure_whatever_the_status() -> None:
    verdict = read_verdict(["fiemap"], 4, OUTPUT, REPORT)
    assert not verdict.failed
    assert list(verdict.skipped) == ["fiemap"]


def test_another_way_to_say_that_it_was_skipped() -> None:
    """xattr of stress-ng 0.19.02 on minix: no colon, and then a warning about resources."""
    said = (
        "stress-ng: info:  [572] xattr stressor will be skipped, filesystem does not support "
        "xattr, filesystem type: minix3 (32021 blocks available)\n"
        "stress-ng: warn:  [567] xattr: [572] aborted early, out of system resources\n"
    )
    verdict = read_verdict(["xattr"], 3, said, "    - stressor: xattr\n      bogo-ops: 0\n")
    assert not verdict.failed
    assert verdict.skipped["xattr"].startswith("xattr stressor will be skipped")


def test_what_a_filesystem_lacks_is_left_out() -> None:
    assert "rename" in {each.name for each in suitable("names", [])}
    assert "rename" not in {each.name for each in suitable("names", ["rename"])}


@pytest.mark.parametrize("group", GROUPS)
def test_each_group_is_one_command_line(group: str) -> None:
    line = command(suitable(group, []), 3, "/mnt/vexrun/x", "/tmp/report")
    for stressor in GROUPS[group]:
        assert f"--{stressor.name} 1 " in line
        assert len(f"tmp-stress-ng-{stressor.name}-9999999-0") <= LONGEST_NAME
