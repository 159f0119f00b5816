"""The Debian suites images are made of. A new suite is one more row."""

from __future__ import annotations

from dataclasses import dataclass

from vexrun.errors import ConfigError


@dataclass(frozen=True)
class Suite:
    """`kernel_series` is what the suite's linux-source package is named after; sid moves."""

    name: str
    kernel_series: str | None


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
            f"There is no suite '{name}'.", hint=f"Known suites: {', '.join(SUITES)}."
        )
    return SUITES[name]
