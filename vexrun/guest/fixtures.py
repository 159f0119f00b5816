"""Fixtures of guest tests. docs/writing-tests.md shows them at work."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vexrun.guest.context import MOUNT_POINT, RunContext
from vexrun.guest.filesystem import Filesystem
from vexrun.guest.kernel_module import KernelModule
from vexrun.guest.own_tests import identifier
from vexrun.guest.payload import GuestAgent, GuestPython
from vexrun.guest.protocol import CONTEXT_FILE, SessionLink
from vexrun.guest.scratch import Scratch
from vexrun.subject import Subject
from vexrun.vm.ssh import GuestShell

_CONTEXT: pytest.StashKey[RunContext] = pytest.StashKey()


def run_context(config: pytest.Config) -> RunContext:
    """The run's context, read once from the file the session wrote."""
    if _CONTEXT not in config.stash:
        if CONTEXT_FILE not in os.environ:
            raise pytest.UsageError(
                "these tests run against a target: start them with 'vexrun test', which sets "
                f"{CONTEXT_FILE}"
            )
        text = Path(os.environ[CONTEXT_FILE]).read_text()
        config.stash[_CONTEXT] = RunContext.model_validate_json(text)
    return config.stash[_CONTEXT]


@pytest.fixture(scope="session")
def context(pytestconfig: pytest.Config) -> RunContext:
    """Everything known about this run: subject, builds, module file, disks, time limits."""
    return run_context(pytestconfig)


@pytest.fixture(scope="session")
def subject(context: RunContext) -> Subject:
    """The validated subject file."""
    return context.subject


@pytest.fixture
def command_timeout(request: pytest.FixtureRequest, context: RunContext) -> float:
    """Seconds one guest command may take in this test's category, scaled to this guest."""
    category = identifier(request.node).split("/", 1)[0]
    return context.timeouts_s.get(category, 60.0 * context.slowdown)


@pytest.fixture(scope="session")
def shell(context: RunContext) -> GuestShell:
    """The shared ssh connection as it is; most tests want `guest`."""
    if context.ssh_config is None:
        pytest.fail("this test needs a target, and the run has none")
    return GuestShell(context.ssh_config)


@pytest.fixture(scope="session")
def _agent(shell: GuestShell, context: RunContext) -> Iterator[GuestAgent]:
    agent = GuestAgent(shell, context.claim.prefix if context.claim else "")
    yield agent
    agent.stop()


@pytest.fixture
def guest(_agent: GuestAgent, command_timeout: float) -> Guest:
    """Runs shell commands in the target as root."""
    return Guest(_agent, command_timeout)


class Guest:
    """Shell commands in the target, within the test's time limit."""

    def __init__(self, agent: GuestAgent, timeout_s: float) -> None:
        self.agent = agent
        self.timeout_s = timeout_s

    def run(self, command: str) -> tuple[int, str, str]:
        """Exit status, stdout, stderr of `sh -c command`. A hang or a lost target raises."""
        answer = self.agent.ask("run", command, timeout_s=self.timeout_s)
        status, out, err = answer[1]
        return status, out, err

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a Python function in the target, as `in_guest` does."""
        return GuestPython(self.agent, self.timeout_s)(function, *arguments)

    def read(self, path: str) -> str | None:
        """A small file's text, None where it cannot be read. Much cheaper than `cat`."""
        data = self.agent.ask("read", path, timeout_s=self.timeout_s)[1]
        return None if data is None else data.decode(errors="replace")

    def read_bytes(self, path: str) -> bytes | None:
        data: bytes | None = self.agent.ask("read", path, timeout_s=self.timeout_s)[1]
        return data

    def exists(self, path: str) -> bool:
        return bool(self.agent.ask("exists", path, timeout_s=self.timeout_s)[1])

    def resolve(self, path: str) -> str:
        """The path behind every symbolic link."""
        return str(self.agent.ask("resolve", path, timeout_s=self.timeout_s)[1])

    def check(self, command: str) -> str:
        """stdout of a command that must succeed; otherwise the test fails with what it said."""
        status, out, err = self.run(command)
        assert status == 0, f"'{command}' failed with exit status {status}: {(err or out).strip()}"
        return out


@pytest.fixture
def in_guest(_agent: GuestAgent, command_timeout: float) -> GuestPython:
    """Calls Python functions in the target: `in_guest(function, *arguments)`."""
    return GuestPython(_agent, command_timeout)


@pytest.fixture
def module(request: pytest.FixtureRequest, guest: Guest, context: RunContext) -> KernelModule:
    """The subject's kernel module: load, unload, identity, references."""
    from vexrun.guest.plugin import LINK

    return KernelModule(guest, context, request.config.stash.get(LINK, None))


@pytest.fixture
def scratch(guest: Guest, context: RunContext) -> Scratch:
    """The scratch disks, found by their serials, and what may be written on them."""
    return Scratch(guest, context.disks, context.claim)


@pytest.fixture
def filesystem(
    guest: Guest, module: KernelModule, scratch: Scratch, context: RunContext
) -> Filesystem:
    """The filesystem under test with its module loaded and identified: mkfs, mount, umount.

    Nothing is mounted yet and nothing is left mounted by an earlier test.
    """
    filesystem = Filesystem(guest, context, scratch)
    filesystem.umount_all()
    module.ensure_loaded()
    return filesystem


class Measure:
    """Reports one figure: see vexrun.results.model.Measurement for the arguments."""

    def __init__(self, link: SessionLink | None) -> None:
        self._link = link

    def __call__(
        self,
        name: str,
        unit: str,
        better: str,
        samples: list[float],
        reference: list[float],
    ) -> None:
        assert samples, f"'{name}' was measured not once"
        if self._link is not None:
            self._link.tell(
                "measured",
                name=name,
                unit=unit,
                better=better,
                samples=samples,
                reference=reference,
            )


@pytest.fixture
def measure(request: pytest.FixtureRequest) -> Measure:
    """Puts a figure into the results: `measure(name, unit, better, samples, reference)`."""
    from vexrun.guest.plugin import LINK

    return Measure(request.config.stash.get(LINK, None))


class Notes:
    """Says in the report what a test that passed could not look at."""

    def __init__(self, link: SessionLink | None) -> None:
        self._link = link

    def __call__(self, text: str) -> None:
        if self._link is not None:
            self._link.tell("note", text=text)


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Notes:
    """`note("text")` puts a sentence into the notes of the run, once."""
    from vexrun.guest.plugin import LINK

    return Notes(request.config.stash.get(LINK, None))


_FAILURES_WHEN_MADE: pytest.StashKey[int] = pytest.StashKey()
_SPOILED: pytest.StashKey[bool] = pytest.StashKey()


@pytest.fixture
def mounted(
    request: pytest.FixtureRequest,
    guest: Guest,
    module: KernelModule,
    scratch: Scratch,
    context: RunContext,
) -> Iterator[Filesystem]:
    """The filesystem under test, mounted read-write at MOUNT_POINT, checked before and after.

    One mount serves consecutive tests. A test that finds it gone, or that follows one which failed
    or left files in its root, gets a fresh mkfs and mount: one test's damage is not another's
    failure.
    """
    filesystem = Filesystem(guest, context, scratch)
    failures = request.session.testsfailed
    suspect = failures > request.config.stash.get(_FAILURES_WHEN_MADE, 0)
    suspect |= request.config.stash.get(_SPOILED, False)
    if suspect or not filesystem.is_mounted():
        filesystem.umount_all()
        module.ensure_loaded()
        filesystem.mkfs(scratch.main)
        filesystem.mount(scratch.main)
        request.config.stash[_FAILURES_WHEN_MADE] = failures
    yield filesystem
    request.config.stash[_SPOILED] = filesystem.spoiled
    filesystem.assert_mounted()


@pytest.fixture
def workdir(request: pytest.FixtureRequest, mounted: Filesystem, subject: Subject) -> str:
    """Path of a directory of this test's own on the mounted filesystem; the test makes it.

    Where the subject lacks mkdir it is the root of the filesystem.
    """
    if "mkdir" in subject.filesystem.lacked_operations:
        return MOUNT_POINT
    # The function's name tells a person what the directory is; 14 bytes fit every filesystem.
    plain = request.node.function.__name__.removeprefix("test_").replace("_", "")
    return f"{MOUNT_POINT}/{plain[:10]}{zlib.crc32(request.node.name.encode()) % 10000:04d}"
