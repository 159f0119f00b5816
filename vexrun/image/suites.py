"""The Debian suites images are made of. A new suite is one more row."""

from __future__ import annotations

from dataclasses import dataclass

from vexrun.errors import ConfigError


@dataclass(frozen=True)
class Suite:
    """`kernel_series` is what the suite's linux-source package is named after; sid moves.

    An imported image stands where a suite does, under its own name; `image` is that name.
    """

    name: str
    kernel_series: str | None
    image: str | None = None


SUITES = {
    suite.name: suite
    for suite in (
        Suite("trixie", "6.12"),
        Suite("bookworm", "6.1"),
        Suite("sid", None),
    )
}
DEFAULT_SUITE = "trixie"


def find_suite(name: str) -> Suite:
    if name not in SUITES:
        raise ConfigError(
            f"There is no suite '{name}'.",
            hint=f"Known suites: {', '.join(SUITES)}. An imported image is named as in "
            "'vexrun image list'.",
        )
    return SUITES[name]
