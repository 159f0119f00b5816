"""What cannot work says so with the right errno."""

from __future__ import annotations

import path_errors_in_guest as guest_code
import pytest
from vexrun.guest.filesystem import Filesystem
from vexrun.guest.payload import GuestPython
from vexrun.subject import Subject

_CASES = guest_code.error_cases("")
_ABOUT_DIRECTORIES = {name for name in _CASES if name.endswith("-directory")}


@pytest.mark.needs_operations("write", "create", "unlink")
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            name,
            marks=pytest.mark.needs_operations("mkdir") if name in _ABOUT_DIRECTORIES else [],
        )
        for name in _CASES
    ],
)
def test_errno(
    in_guest: GuestPython, mounted: Filesystem, workdir: str, subject: Subject, case: str
) -> None:
    with_directory = "mkdir" not in subject.filesystem.lacked_operations
    in_guest(guest_code.error_of, workdir, case, with_directory)
