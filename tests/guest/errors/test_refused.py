"""Bad arguments: each is refused with the right errno, and what is there stays as it was."""

from __future__ import annotations

import pytest
import refusals_in_guest as guest_code
from vexrun.guest.payload import GuestPython

from scenario import Scenario

pytestmark = pytest.mark.needs_operations("write", "create", "unlink")


def test_wrong_kinds_of_names(survives: Scenario) -> None:
    """ENOTDIR, EISDIR, ENOTEMPTY, EEXIST, ELOOP, EINVAL, EBADF."""
    survives(guest_code.wrong_kinds, survives.lacks)


def test_names_that_are_too_long(survives: Scenario) -> None:
    """ENAMETOOLONG from every operation; the longest name itself works with all of them."""
    survives(guest_code.too_long, survives.lacks, fsck=True)


def test_sizes_that_are_too_large(survives: Scenario) -> None:
    """EFBIG, EINVAL, and the limit a process may have."""
    survives(guest_code.too_large, survives.lacks, fsck=True)


def test_memory_that_is_not_there(survives: Scenario) -> None:
    """EFAULT in the middle of read and write."""
    survives(guest_code.bad_addresses)


@pytest.mark.needs_operations("hardlink")
def test_many_names_of_one_file(survives: Scenario) -> None:
    """300 are more than the smallest limit in use (minix: 250), and fewer than any other.

    Without fsck: that of minix (util-linux 2.41) counts the names of a file in a byte.
    """
    survives(guest_code.many_links, 300)


@pytest.mark.needs_operations("chmod")
def test_an_ordinary_user_is_kept_out(survives: Scenario, in_guest: GuestPython) -> None:
    """EACCES and EPERM, also from modes that were read back from the medium."""
    note = survives.run(guest_code.guarded, survives.lacks)
    in_guest(guest_code.forbidden, survives.workdir, survives.lacks, user="nobody")
    survives.cool()
    in_guest(guest_code.forbidden, survives.workdir, survives.lacks, user="nobody")
    survives.verify(note, cleanup=True)


@pytest.mark.needs_operations("chown", "mkdir")
def test_an_ordinary_user_is_at_home(survives: Scenario, in_guest: GuestPython) -> None:
    """In a directory of one's own everything works without being root."""
    note = survives.run(guest_code.handed_over, "nobody")
    in_guest(guest_code.at_home, survives.workdir, survives.lacks, user="nobody")
    survives.cool(fsck=True)
    in_guest(guest_code.at_home, survives.workdir, survives.lacks, user="nobody")
    survives.verify(note, cleanup=True)
