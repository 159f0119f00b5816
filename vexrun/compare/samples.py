"""Two samples of one measurement: are they different, by how much, and are there enough?

Nothing is assumed about how the values are distributed: times under emulation are skewed, and
have outliers. So ranks are compared (Mann and Whitney's U), exactly for small samples and with
tied values, and the size of the effect is Cliff's delta.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence

#: The least number of samples on each side, however few measurements are compared.
LEAST_SAMPLES = 5
#: The chance of one false alarm in a whole comparison.
ALPHA = 0.05
#: Above so many values the normal approximation is as good, and cheaper.
_EXACT_UP_TO = 60
_MAGNITUDES = ((0.147, "negligible"), (0.33, "small"), (0.474, "medium"))


def mann_whitney(a: Sequence[float], b: Sequence[float]) -> float:
    """The two-sided p-value: how often a random split of all values differs as much."""
    ranks = _doubled_ranks([*a, *b])
    observed = sum(ranks[: len(a)])
    if len(ranks) <= _EXACT_UP_TO:
        return _exact(ranks, len(a), observed)
    return _approximate(ranks, len(a), observed)


def _doubled_ranks(values: list[float]) -> list[int]:
    """Ranks from 1, times two, so that the mean rank of tied values is whole."""
    order = sorted(range(len(values)), key=lambda index: values[index])
    ranks = [0] * len(values)
    begun = 0
    while begun < len(order):
        end = begun
        while end < len(order) and values[order[end]] == values[order[begun]]:
            end += 1
        for index in order[begun:end]:
            ranks[index] = begun + 1 + end
        begun = end
    return ranks


def _exact(ranks: list[int], size: int, observed: int) -> float:
    """Counts every choice of `size` ranks by its sum."""
    ways: list[Counter[int]] = [Counter() for _ in range(size + 1)]
    ways[0][0] = 1
    for number, rank in enumerate(ranks, 1):
        for chosen in range(min(number, size), 0, -1):
            for total, count in ways[chosen - 1].items():
                ways[chosen][total + rank] += count
    everything = math.comb(len(ranks), size)
    below = sum(count for total, count in ways[size].items() if total <= observed)
    above = sum(count for total, count in ways[size].items() if total >= observed)
    return min(1.0, 2 * min(below, above) / everything)


def _approximate(ranks: list[int], size: int, observed: int) -> float:
    count, other = len(ranks), len(ranks) - size
    ties = sum(each**3 - each for each in Counter(ranks).values())
    variance = size * other / 12 * (count + 1 - ties / (count * (count - 1)))
    if variance == 0:
        return 1.0
    distance = abs(observed / 2 - size * (count + 1) / 2)
    score = max(distance - 0.5, 0.0) / math.sqrt(variance)
    return math.erfc(score / math.sqrt(2))


def cliffs_delta(a: Sequence[float], b: Sequence[float]) -> float:
    """How much more often a value of `b` is above one of `a` than below it: -1 to 1."""
    above = sum(y > x for x in a for y in b)
    below = sum(y < x for x in a for y in b)
    return (above - below) / (len(a) * len(b))


def magnitude(delta: float) -> str:
    """The usual words for Cliff's delta (Romano and others, 2006)."""
    return next((word for limit, word in _MAGNITUDES if abs(delta) < limit), "large")


def samples_needed(tests: int) -> int:
    """The least size of both sides with which one of `tests` measurements can be significant.

    Even when every value of one side is above every one of the other, p is not below
    2 / C(2n, n), and the strictest level of Holm's procedure is ALPHA / tests.
    """
    size = LEAST_SAMPLES
    while 2 / math.comb(2 * size, size) > ALPHA / max(tests, 1):
        size += 1
    return size


def significant(p_values: Sequence[float]) -> list[bool]:
    """Holm's procedure: which of them, with at most ALPHA for a false one among all."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    found = [False] * len(p_values)
    for place, index in enumerate(order):
        if p_values[index] > ALPHA / (len(p_values) - place):
            break
        found[index] = True
    return found


def change(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Of the medians: 0.1 is 10 % more."""
    before = statistics.median(a)
    return statistics.median(b) / before - 1 if before else None
