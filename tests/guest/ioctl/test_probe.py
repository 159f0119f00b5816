"""The declared probe of the subject's command line: it answers, twice, and after a remount."""

from __future__ import annotations

import re

import pytest
from vexrun.guest.context import RunContext
from vexrun.guest.filesystem import Filesystem
from vexrun.guest.fixtures import Guest
from vexrun.guest.probe import complaint_in
from vexrun.guest.scratch import Scratch
from vexrun.subject import CliSection


@pytest.fixture
def cli(context: RunContext) -> CliSection:
    if context.subject.cli is None:
        pytest.skip("the subject file declares no probe ([cli] probe)")
    return context.subject.cli


class Probe:
    """The declared command on the mounted filesystem."""

    def __init__(
        self, cli: CliSection, context: RunContext, guest: Guest, mount: str, disk: str
    ) -> None:
        self.expect = cli.expect
        self.guest = guest
        self.command = context.command(cli.probe, mount=mount, device=disk)

    def run(self, when: str) -> str:
        """Run it; exit 0, the expected pattern, and no complaint in what it printed."""
        status, out, err = self.guest.run(f"( {self.command} ) </dev/null")
        said = (out + err).strip()
        assert status == 0, (
            f"{when} the probe ends with exit status {status}\n# {self.command}\n{said}"
        )
        complaint = complaint_in(said)
        assert complaint is None, (
            f"{when} the probe ends with exit status 0 and prints '{complaint}'\n"
            f"# {self.command}\n{said}"
        )
        if self.expect is not None:
            assert re.search(self.expect, said, re.MULTILINE), (
                f"{when} the probe does not print what matches '{self.expect}' (cli.expect)\n"
                f"# {self.command}\n{said}"
            )
        return said


@pytest.fixture
def probe(
    cli: CliSection, context: RunContext, guest: Guest, mounted: Filesystem, scratch: Scratch
) -> Probe:
    disk = scratch.main if mounted.is_block else "none"
    return Probe(cli, context, guest, mounted.path, disk)


def test_probe_answers_twice(probe: Probe) -> None:
    probe.run("the first time")
    probe.run("the second time")


def test_probe_answers_after_a_remount(probe: Probe, mounted: Filesystem) -> None:
    probe.run("before the remount")
    mounted.remount_cold(fsck=True)
    probe.run("after a cold remount")
