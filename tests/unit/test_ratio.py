"""The ratio of two series that were measured in turn."""

from __future__ import annotations

import math

import pytest

from vexrun.results.model import Measurement
from vexrun.results.ratio import ratio_to_reference


def measured(samples: list[float], reference: list[float]) -> Measurement:
    return Measurement(
        name="x", unit="KiB/s", better="higher", samples=samples, reference=reference
    )


def test_a_steady_ratio_has_no_spread() -> None:
    found = ratio_to_reference(measured([50, 100, 25], [100, 200, 50]))
    assert found is not None
    assert (found.center, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))


def test_the_interval_is_that_of_a_t_test_on_the_logarithms() -> None:
    found = ratio_to_reference(measured([1, 2, 4], [1, 1, 1]))
    assert found is not None
    # log2: mean 1, standard deviation 1, t(2) = 4.303, n = 3
    reach = 4.303 / math.sqrt(3)
    assert math.log2(found.center) == pytest.approx(1)
    assert math.log2(found.low) == pytest.approx(1 - reach)
    assert math.log2(found.high) == pytest.approx(1 + reach)


def test_one_pair_has_a_ratio_and_no_interval() -> None:
    assert str(ratio_to_reference(measured([3], [4]))) == "0.75"


@pytest.mark.parametrize(
    ("samples", "reference"), [([1.0], []), ([], []), ([0.0, 1.0], [1.0, 1.0]), ([1.0], [-1.0])]
)
def test_without_a_counterpart_there_is_no_ratio(
    samples: list[float], reference: list[float]
) -> None:
    assert ratio_to_reference(measured(samples, reference)) is None
