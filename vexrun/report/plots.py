"""Plots of a run as inline SVG: drawn here, styled by the page, alive without a script."""

from __future__ import annotations

import math

from markupsafe import Markup, escape

from vexrun.results.model import Measurement
from vexrun.results.ratio import median

_WIDTH, _HEIGHT, _MARGIN = 240.0, 18.0, 6.0
_REFERENCE = "ext4"


def strip(measurement: Measurement) -> Markup:
    """Every sample of one figure on an axis from 0 to the largest; '' where nothing can be drawn.

    The subject's are above the axis, those of ext4 below it; a stroke is the median.
    """
    samples = [value for value in measurement.samples if _drawable(value)]
    reference = [value for value in measurement.reference if _drawable(value)]
    largest = max([*samples, *reference], default=0.0)
    if not samples or largest <= 0:
        return Markup("")
    unit = f" {measurement.unit}" if measurement.unit else ""
    parts = [
        f'<line class="axis" x1="{_MARGIN}" x2="{_WIDTH - _MARGIN}" y1="{_HEIGHT / 2}" '
        f'y2="{_HEIGHT / 2}"/>'
    ]
    rows = (
        ("own", "", samples, _HEIGHT / 2 - 4),
        ("other", _REFERENCE, reference, _HEIGHT / 2 + 4),
    )
    for kind, whose, values, y in rows:
        for value in values:
            text = f"{whose} {value:.4g}{unit}".strip()
            parts.append(
                f'<circle class="{kind}" cx="{_at(value, largest):.1f}" cy="{y}" r="2.5">'
                f"<title>{escape(text)}</title></circle>"
            )
        if values:
            x = _at(median(values), largest)
            parts.append(
                f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{y - 4}" y2="{y + 4}"/>'
            )
    title = f"{measurement.name}: {len(samples)} samples from 0 to {largest:.4g}{unit}"
    return Markup(
        f'<svg class="strip" viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role="img" '
        f'aria-label="{escape(title)}"><title>{escape(title)}</title>{"".join(parts)}</svg>'
    )


def _drawable(value: float) -> bool:
    return math.isfinite(value) and value >= 0


def _at(value: float, largest: float) -> float:
    return _MARGIN + value / largest * (_WIDTH - 2 * _MARGIN)
