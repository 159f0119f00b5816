"""What is written into a file is what is read back, live and after a cold remount."""

from __future__ import annotations

import content_in_guest as guest_code
import pytest

from scenario import Scenario

pytestmark = pytest.mark.needs_operations("write", "create")

KIB, MIB = 1024, 1024 * 1024


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param([0, 1, 13, 511, 512, 513], id="around-a-sector"),
        pytest.param([1023, 1024, 1025, 2047, 2048, 2049, 4095, 4096, 4097], id="around-a-block"),
        pytest.param([8191, 8192, 8193, 12_288, 20_000, 65_535, 65_536, 65_537], id="more-blocks"),
    ],
)
def test_file_is_read_back(survives: Scenario, sizes: list[int]) -> None:
    survives(guest_code.files_of_sizes, sizes)


@pytest.mark.parametrize("piece", [1000, 5003])
def test_file_written_in_odd_pieces(survives: Scenario, piece: int) -> None:
    survives(guest_code.written_in_odd_pieces, piece, 50_001)


def test_overwrite_in_the_middle_leaves_the_rest(survives: Scenario) -> None:
    survives(guest_code.overwritten_in_the_middle)


@pytest.mark.needs_operations("sparse")
def test_file_written_from_its_end(survives: Scenario) -> None:
    survives(guest_code.overwritten_backwards)


@pytest.mark.needs_operations("append")
def test_append(survives: Scenario) -> None:
    survives(guest_code.appended)


@pytest.mark.needs_operations("append")
def test_append_through_two_descriptors(survives: Scenario) -> None:
    survives(guest_code.appended_by_two_descriptors)


@pytest.mark.needs_operations("truncate")
@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param([20_000, 5000, 20_000], id="into-a-block"),
        pytest.param([20_000, 4096, 30_000, 8192, 9000], id="at-a-block"),
        pytest.param([9000, 0, 9000, 1, 4096], id="to-nothing"),
        pytest.param([700_000, 300_001, 700_000, 20_000, 400_000], id="through-indirect-blocks"),
    ],
)
def test_truncate_down_and_up_reads_zeros(survives: Scenario, sizes: list[int]) -> None:
    survives(guest_code.shrunk_and_grown, sizes, fsck=True)


@pytest.mark.needs_operations("truncate")
def test_write_beyond_a_truncated_end_leaves_zeros_between(survives: Scenario) -> None:
    survives(guest_code.shrunk_then_written_beyond)


@pytest.mark.needs_operations("truncate")
def test_truncate_to_nothing_and_rewrite(survives: Scenario) -> None:
    survives(guest_code.rewritten_shorter, fsck=True)


@pytest.mark.needs_operations("truncate")
def test_growing_by_truncate_never_shows_old_media(survives: Scenario) -> None:
    survives(guest_code.grown_from_nothing)


@pytest.mark.parametrize(
    "offsets",
    [
        pytest.param([0, 10_000, 65_536], id="near"),
        pytest.param([5000, 300_000, 1_100_000], id="through-indirect-blocks"),
    ],
)
@pytest.mark.needs_operations("sparse")
def test_holes_read_as_zeros(survives: Scenario, offsets: list[int]) -> None:
    survives(guest_code.holes, offsets, fsck=True)


@pytest.mark.needs_operations("sparse")
def test_file_of_four_hundred_pieces(survives: Scenario) -> None:
    """As many extents, where there are extents: more than one block has room for."""
    survives.in_two_steps(guest_code.in_pieces, 400, then=guest_code.between_the_pieces)


@pytest.mark.needs_operations("sparse", "largefile")
@pytest.mark.parametrize(
    "offset",
    [
        pytest.param(70 * MIB, id="70MiB"),
        pytest.param(200 * MIB, id="200MiB"),
        pytest.param((1 << 31) - 2000, id="across-2GiB"),
        pytest.param((1 << 32) - 2000, id="across-4GiB"),
    ],
)
def test_write_at_a_far_offset(survives: Scenario, offset: int) -> None:
    """What wraps around at 2 or 4 GiB lands on the beginning of the file, which is looked at."""
    made, places = survives.run(guest_code.far_offset, offset)
    survives.cool()
    clean = survives.can_clean
    survives.in_guest(guest_code.check_places, survives.workdir, made, places, cleanup=clean)


@pytest.mark.needs_operations("largefile")
def test_large_file(survives: Scenario) -> None:
    survives(guest_code.large_file, 6 * MIB, fsck=True)


def test_up_to_the_largest_size(survives: Scenario) -> None:
    """Where files have a smaller largest size, all of it can be used."""
    if "largefile" not in survives.lacks:
        pytest.skip("large files are written by test_large_file")
    survives(guest_code.up_to_the_largest_size, 4 * MIB, survives.lacks, fsck=True)


def test_cold_reads_backwards_and_at_odd_offsets(survives: Scenario) -> None:
    note = survives.run(guest_code.one_mixed_file)
    survives.cool()
    survives.in_guest(guest_code.read_in_every_way, survives.workdir, note)
    survives.verify(note, cleanup=True)


@pytest.mark.needs_operations("fsync")
def test_fsync_succeeds(survives: Scenario) -> None:
    survives(guest_code.kept_through_fsync)


@pytest.mark.needs_operations("mmap")
def test_stores_through_a_mapping(survives: Scenario) -> None:
    survives(guest_code.mapped)


@pytest.mark.needs_operations("mmap", "truncate")
def test_stores_through_a_mapping_into_a_hole(survives: Scenario) -> None:
    survives(guest_code.mapped_hole)
