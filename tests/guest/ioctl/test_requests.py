"""Requests nobody means: unknown numbers, garbage arguments, users without rights."""

from __future__ import annotations

import os

import ioctl_in_guest as guest_code
import pytest
from scene import Scene
from vexrun.guest.context import RunContext
from vexrun.guest.filesystem import Filesystem
from vexrun.guest.fixtures import run_context
from vexrun.guest.payload import GuestPython
from vexrun.subject import IoctlSection, Subject
from vexrun.vm.ssh import GuestTimeoutError

#: Random request numbers a test calls, each with four arguments.
RANDOM_NUMBERS = 300
#: For all calls of a test, at KVM speed; one takes microseconds.
PATIENCE_S = 10.0

READ, WRITE = os.O_RDONLY, os.O_RDWR
OPENED = [
    pytest.param("root", READ, "root", id="directory"),
    pytest.param("file", READ, "root", id="file-read-only"),
    pytest.param(
        "file",
        WRITE,
        "root",
        id="file-read-write",
        marks=pytest.mark.needs_operations("write", "create", "unlink"),
    ),
    pytest.param("root", READ, "nobody", id="directory-as-nobody"),
    pytest.param("file", READ, "nobody", id="file-as-nobody"),
]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One case for each declared request."""
    if "request_name" not in metafunc.fixturenames:
        return
    names = [pytest.param(name, id=name) for name in _declared(metafunc.config).requests]
    none = pytest.mark.skip("the subject file declares no request ([ioctl] requests)")
    metafunc.parametrize("request_name", names or [pytest.param("", id="none", marks=none)])


def _declared(config: pytest.Config) -> IoctlSection:
    return run_context(config).subject.ioctl


@pytest.fixture
def scene(in_guest: GuestPython, mounted: Filesystem, workdir: str, subject: Subject) -> Scene:
    return Scene(in_guest, mounted, workdir, subject)


def returned(answer: tuple[object, str], seconds: float) -> object:
    """What the calls returned; one that never came back is a hang."""
    result, stuck = answer
    if stuck:
        raise GuestTimeoutError(f"this ioctl did not return within {seconds:.0f} s: {stuck}")
    return result


@pytest.mark.parametrize(("what", "flags", "user"), OPENED)
def test_unknown_requests_are_refused(
    scene: Scene,
    in_guest: GuestPython,
    context: RunContext,
    what: str,
    flags: int,
    user: str,
) -> None:
    """Random numbers with bad pointers: an error each, and nothing is changed by it."""
    declared = context.subject.ioctl.requests
    types = sorted({guest_code.type_of(number) for number in declared.values()})
    path, seconds = scene.path(what), PATIENCE_S * context.slowdown
    call, count = guest_code.call_unknown, RANDOM_NUMBERS
    calls = returned(in_guest(call, path, flags, count, types, seconds, user=user), seconds)
    assert calls == count * guest_code.EACH, f"{calls} calls were made, not {count} by 4"
    scene.proven(f"after {calls} refused requests")


@pytest.mark.parametrize("user", ["root", "nobody"])
def test_declared_request_with_garbage(
    scene: Scene, in_guest: GuestPython, context: RunContext, request_name: str, user: str
) -> None:
    """Bad pointers, wrong sizes, huge counts: refused, or harmless.

    Where root succeeds on a file that is open for writing, that file may be different
    afterwards. Nothing else may, and nothing at all for somebody who can only read.
    """
    declared = context.subject.ioctl
    number, on = declared.requests[request_name], declared.on
    if number in guest_code.NOT_GARBAGE:
        pytest.skip(f"never called with garbage: {guest_code.NOT_GARBAGE[number]}")
    path, seconds = scene.path(on), PATIENCE_S * context.slowdown
    writes = user == "root" and on != "root" and (on != "file" or scene.writable)
    flags = WRITE if writes else READ
    if user == "nobody" and not in_guest(guest_code.may_open, path, flags, user=user):
        scene.clean()
        pytest.skip(f"'nobody' may not open {path}")
    returned(in_guest(guest_code.call_declared, path, flags, number, seconds, user=user), seconds)
    why = f"after '{request_name}' was called with garbage by {user}"
    scene.proven(why, file_may_differ=writes and on == "file")


@pytest.mark.needs_operations("write", "create", "unlink")
def test_freeze_and_thaw(scene: Scene, in_guest: GuestPython, context: RunContext) -> None:
    """What a snapshot of a running machine's disk relies on: FIFREEZE stops writers."""
    if not in_guest(guest_code.frozen, scene.mounted.path, 5.0 * context.slowdown):
        scene.clean()
        pytest.skip("the filesystem cannot be frozen (FIFREEZE says EOPNOTSUPP)")
    scene.proven("after a freeze and a thaw")
