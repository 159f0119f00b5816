"""A leak grows in every round and goes on growing; caches and noise do not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from vexrun.guest import memory_in_guest
from vexrun.guest.memory_in_guest import growth, judge

if TYPE_CHECKING:
    from vexrun.guest.memory_in_guest import Reading

EACH = 12


def readings(pages: list[int], objects: list[int] | None = None) -> list[Reading]:
    counts = objects or [500] * len(pages)
    return [
        (used, {"kmalloc-256": (count, 256)}) for used, count in zip(pages, counts, strict=True)
    ]


@pytest.mark.parametrize(
    "pages",
    [
        pytest.param([50_000, 50_000, 50_000, 50_000], id="flat"),
        pytest.param([50_000, 50_300, 50_100, 50_250], id="up-and-down"),
        pytest.param([50_000, 52_000, 52_050, 52_080], id="warming-up"),
        pytest.param([50_000, 50_040, 50_080, 50_120], id="a-page-a-time"),
        pytest.param([52_000, 51_000, 50_500, 50_400], id="shrinking"),
    ],
)
def test_what_is_no_leak(pages: list[int]) -> None:
    assert judge(readings(pages), EACH) == ""


def test_100_kib_a_time_are_a_leak_in_spite_of_noise() -> None:
    said = judge(readings([50_000, 51_290, 52_380, 53_700]), EACH)
    assert said.startswith("103 KiB of memory (1290 KiB, 1090 KiB, 1320 KiB a round)")


@pytest.mark.parametrize(
    ("objects", "leaks"),
    [
        pytest.param([500, 512, 524, 536], True, id="one-a-time"),
        pytest.param([500, 524, 541, 572], True, id="two-and-noise"),
        pytest.param([500, 540, 540, 541], False, id="once"),
        pytest.param([500, 506, 511, 518], False, id="one-in-two"),
        pytest.param([500, 520, 505, 540], False, id="up-and-down"),
    ],
)
def test_objects_of_a_slab_cache(objects: list[int], leaks: bool) -> None:
    said = judge(readings([50_000] * 4, objects), EACH)
    assert bool(said) is leaks
    if leaks:
        assert "256 bytes in the slab cache 'kmalloc-256'" in said


def test_a_cache_that_was_not_there_before_counts_from_its_first_reading() -> None:
    made = readings([50_000] * 4)
    made[-1][1]["fresh"] = (900, 64)
    assert judge(made, EACH) == ""


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What the kernel holds, in KiB, as a list of one number that a test changes."""
    held = [50_000]
    monkeypatch.setattr(memory_in_guest, "reading", lambda: (held[0], {}))
    return held


def test_what_goes_on_growing_is_a_leak(kernel: list[int]) -> None:
    def repeat() -> None:
        kernel[0] += 100

    assert growth(repeat, 3, EACH).startswith("100 KiB of memory")


def test_what_stops_growing_is_none(kernel: list[int]) -> None:
    """Areas that are given back late grow for a while: looked at again, they do not."""
    steps: Iterator[int] = iter([100] * EACH * 4)

    def repeat() -> None:
        kernel[0] += next(steps, 0)

    assert growth(repeat, 3, EACH) == ""
