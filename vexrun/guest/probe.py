"""What a program says when it failed, whatever its exit status is."""

from __future__ import annotations

import re

_FAILURE = re.compile(
    r"^\W*(?:FAIL(?:ED|URE)?\b(?!\s*[:=]\s*0\b)|FATAL:|ERROR:|error: )|\bpanicked at\b|"
    r"^Traceback \(most recent call last\)|\bSegmentation fault\b|\bcore dumped\b|"
    r"\b[Ii]nappropriate ioctl for device\b",
    re.MULTILINE,
)


def complaint_in(said: str) -> str | None:
    """The first line of an output that says that something failed, None when there is none."""
    found = _FAILURE.search(said)
    if found is None:
        return None
    # \W* may begin on an earlier, empty line.
    start = said.rfind("\n", 0, found.end()) + 1
    return said[start:].split("\n", 1)[0].strip()
