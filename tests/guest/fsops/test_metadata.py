"""Permission bits, owners, times, special files and attributes: kept where they are offered."""

from __future__ import annotations

from collections.abc import Callable

import metadata_in_guest as guest_code
import pytest

from scenario import Scenario

pytestmark = pytest.mark.needs_operations("write", "create")


@pytest.mark.needs_operations("chmod")
def test_permission_bits(survives: Scenario) -> None:
    survives(guest_code.moded, "mkdir" not in survives.lacks, also=guest_code.check_modes)


@pytest.mark.needs_operations("chmod")
def test_permission_bits_at_creation(survives: Scenario) -> None:
    survives(guest_code.made_with_modes, "mkdir" not in survives.lacks, also=guest_code.check_modes)


@pytest.mark.needs_operations("chown", "chmod", "mkdir")
def test_owners_of_what_a_user_makes(survives: Scenario) -> None:
    """Whoever made it, and the group of a setgid directory; also after a remount."""
    note = survives.run(guest_code.open_to, "nobody")
    maker = survives.in_guest(guest_code.make_things, survives.workdir, user="nobody")
    note, wanted = survives.run(guest_code.made_by, note, maker)
    survives.cool(fsck=True)
    survives.in_guest(guest_code.check_makers, survives.workdir, wanted)
    survives.verify(note, cleanup=True)


@pytest.mark.needs_operations("chown")
def test_owners(survives: Scenario) -> None:
    survives(guest_code.owned, also=guest_code.check_owners)


@pytest.mark.needs_operations("chown", "persistence")
def test_owners_beyond_16_bits(survives: Scenario, note: Callable[[str], None]) -> None:
    made = survives.run(guest_code.owned_by_large_ids)
    survives.cool()
    now = survives.in_guest(guest_code.large_ids, survives.workdir)
    if 65_534 in now:
        note("Owners beyond 65535 become nobody (65534): the format has 16 bits for them.")
    survives.verify(made, cleanup=True)


@pytest.mark.needs_operations("timestamps")
def test_modification_times(survives: Scenario) -> None:
    survives(guest_code.timed, also=guest_code.check_times)


@pytest.mark.needs_operations("timestamps")
def test_modification_times_to_the_nanosecond(survives: Scenario) -> None:
    survives(guest_code.finely_timed, also=guest_code.check_fine_times)


@pytest.mark.needs_operations("timestamps", "persistence")
def test_far_modification_times(survives: Scenario, note: Callable[[str], None]) -> None:
    """A format that has no room for them says so by s_time_min and s_time_max; else a note."""
    made, shown = survives.run(guest_code.timed_far_away)
    survives.cool()
    now = survives.in_guest(guest_code.times_now, survives.workdir, list(shown))
    for name, was in shown.items():
        if now[name] // 2 != was // 2:  # some count in twos
            note(
                f"A modification time of {was} s since 1970 is {now[name]} s after a remount: "
                "does the superblock say which times can be kept (s_time_min, s_time_max)?"
            )
    survives.verify(made, cleanup=True)


@pytest.mark.needs_operations("timestamps", "mkdir", "unlink")
def test_modification_times_of_directories(survives: Scenario, note: Callable[[str], None]) -> None:
    """POSIX has every change of the names move it on; where it stays, nothing is lost: a note."""
    (left,) = survives.telling(guest_code.timed_directory)
    for what in left:
        note(f"{what.capitalize()} leaves the modification time of the directory as it was.")


@pytest.mark.needs_operations("mknod")
@pytest.mark.parametrize("kind", ["fifo", "char", "block"])
def test_special_files(survives: Scenario, kind: str) -> None:
    survives(guest_code.noded, [kind], also=guest_code.check_nodes)


@pytest.mark.needs_operations("xattr")
def test_extended_attributes(survives: Scenario) -> None:
    survives(guest_code.attributed, also=guest_code.check_attributes)


@pytest.mark.needs_operations("xattr")
def test_extended_attributes_of_many_sizes(survives: Scenario) -> None:
    survives(
        guest_code.attributed_richly, "mkdir" not in survives.lacks, also=guest_code.check_rich
    )
