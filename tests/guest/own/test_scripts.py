"""The subject's own scripts, run in the target as root.

An exit status alone proves nothing: a script has passed when it ended with 0, printed what it
says on success, and nothing that says failure or that no test ran. What the kernel said is the
session's to judge.
"""

from __future__ import annotations

import own_in_guest as guest_code
import pytest
from vexrun.categories import CATEGORIES
from vexrun.guest.context import RunContext
from vexrun.guest.filesystem import Filesystem
from vexrun.guest.fixtures import run_context
from vexrun.guest.payload import GuestPython
from vexrun.kbuild import GUEST_SOURCE_DIR
from vexrun.suite_output import plain_lines, script_complaint

#: More than any report needs; what prints for ever is ended here.
_LIMIT = 1 << 20


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "script" in metafunc.fixturenames:
        scripts = run_context(metafunc.config).subject.scripts
        metafunc.parametrize("script", [script.name for script in scripts] or ["none"])


def test_script(request: pytest.FixtureRequest, context: RunContext, script: str) -> None:
    if not context.subject.scripts:
        missing = CATEGORIES["own"].missing(context.subject, context.source)
        assert not missing, f"the category 'own' was asked for, and {missing}"
        pytest.skip("the subject file declares no [[scripts]]")
    declared = next(each for each in context.subject.scripts if each.name == script)
    # Both have the module loaded; only one has the filesystem mounted, now and afterwards.
    fixture = "mounted" if declared.mounted else "filesystem"
    filesystem: Filesystem = request.getfixturevalue(fixture)
    in_guest: GuestPython = request.getfixturevalue("in_guest")
    scratch = filesystem.scratch
    command = context.command(
        declared.run,
        mount=filesystem.path,
        device=scratch.for_writing(scratch.main) if filesystem.is_block else "none",
        source=str(GUEST_SOURCE_DIR),
    )
    status, output, cut = in_guest(guest_code.run_script, command, _LIMIT)
    lines = plain_lines(output)
    end = "\n".join(lines[-15:])
    assert not cut, f"'{command}' printed more than {_LIMIT >> 20} MiB and was ended"
    assert status == 0, f"'{command}' ended with exit status {status}:\n{end}"
    complaint = script_complaint(output, declared.success, declared.executed)
    assert not complaint, f"'{command}' ended with 0, and {complaint}:\n{end}"
    if not declared.mounted:
        filesystem.umount_all()
