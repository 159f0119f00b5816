"""Commands of tests on a device open its windows and no other disk."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from test_device_guards import FREE

from vexrun.device.confinement import confined, demand_confinement, spare_numbers
from vexrun.device.facts import Facts
from vexrun.errors import InfrastructureError
from vexrun.process import Completed

WINDOWS = ("/dev/dm-1", "/dev/dm-2", "/dev/dm-3")


def disk() -> Any:
    return Facts.model_validate(FREE).disk


def allowed(prefix: str) -> list[str]:
    start = "--property=DeviceAllow="
    return [word.removeprefix(start) for word in shlex.split(prefix) if word.startswith(start)]


def test_windows_may_be_written_and_the_disk_only_read() -> None:
    prefix = confined(WINDOWS, disk(), ["253:0"])
    words = allowed(prefix)
    assert "--property=DevicePolicy=closed" in shlex.split(prefix)
    assert [word for word in words if word.endswith(" rw")] == [
        *(f"{path} rw" for path in WINDOWS),
        "/dev/block/253:0 rw",
    ]
    (path,) = [part.path for part in disk().parts]
    assert [word for word in words if word.startswith(f"{path} ")] == [f"{path} r"]
    assert [word for word in words if word.startswith("block-")] == ["block-* m"]


@pytest.mark.parametrize(
    ("used", "spare"),
    [
        ("253:0\n253:1\n253:2\n", ["253:3", "253:4", "253:5"]),
        # An LVM volume of the device's own stays out of reach.
        ("254:0\n254:5\n254:1\n254:3\n", ["254:2", "254:4", "254:6"]),
    ],
)
def test_numbers_that_are_in_use_are_not_given_away(used: str, spare: list[str]) -> None:
    assert spare_numbers(used) == spare


class Shell:
    def __init__(self, said: str) -> None:
        self.said = said

    def run(self, command: str, **_: Any) -> Completed:
        return Completed((command,), 0, self.said, "")


def test_a_device_that_cannot_confine_is_not_used() -> None:
    """A kernel without CONFIG_CGROUP_BPF: systemd leaves the rule out, and the root disk opens."""
    may = {"dm-1", "dm-2", "dm-3", "vdb"}
    demand_confinement(Shell("dm-1\ndm-2\ndm-3\nvdb\n"), "x", may, 1)  # type: ignore[arg-type]
    with pytest.raises(InfrastructureError, match="'vda' could be opened"):
        demand_confinement(Shell("dm-1\nvda\nvdb\n"), "x", may, 1)  # type: ignore[arg-type]
    with pytest.raises(InfrastructureError, match="'sr0 No medium found'"):
        demand_confinement(Shell("sr0 No medium found\n"), "x", may, 1)  # type: ignore[arg-type]
