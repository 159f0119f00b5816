"""What a measurement says: the subject's share of ext4's figure, with a confidence interval."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from vexrun.results.model import Measurement

#: Student's t for a two-sided 95 % interval, by degrees of freedom (samples less one).
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
_T95_MANY = 1.96


@dataclass(frozen=True)
class Ratio:
    """subject / ext4; `low` and `high` bound the 95 % interval (equal to it for one pair)."""

    center: float
    low: float
    high: float
    pairs: int

    def __str__(self) -> str:
        if self.pairs < 2:
            return f"{self.center:.2f}"
        return f"{self.center:.2f} ({self.low:.2f} to {self.high:.2f})"


def ratio_to_reference(measurement: Measurement) -> Ratio | None:
    """Geometric mean of the ratios of samples taken in turn; None where it cannot be said.

    Pairs measured one right after the other share what the machine was doing at the time, so
    their ratios vary less than the ratio of the means would.
    """
    pairs = list(zip(measurement.samples, measurement.reference, strict=False))
    if not pairs or any(ours <= 0 or theirs <= 0 for ours, theirs in pairs):
        return None
    logs = [math.log(ours / theirs) for ours, theirs in pairs]
    middle = statistics.fmean(logs)
    if len(logs) < 2:
        return Ratio(math.exp(middle), math.exp(middle), math.exp(middle), len(logs))
    freedom = len(logs) - 1
    t = _T95[freedom - 1] if freedom <= len(_T95) else _T95_MANY
    reach = t * statistics.stdev(logs) / math.sqrt(len(logs))
    return Ratio(math.exp(middle), math.exp(middle - reach), math.exp(middle + reach), len(logs))


def median(samples: list[float]) -> float:
    """The middle of the samples, 0 for none."""
    return statistics.median(samples) if samples else 0.0
