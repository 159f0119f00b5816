"""A probe that says it failed has failed, and one that reports zero errors has not."""

from __future__ import annotations

import pytest

from vexrun.guest.probe import complaint_in


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("checking\nFAILED: no superblock\nbye", "FAILED: no superblock"),
        ("[FAIL] index is empty", "[FAIL] index is empty"),
        ("\n\n  FAILURE\n", "FAILURE"),
        (
            "thread 'main' panicked at src/main.rs:3:5:\nexplicit panic",
            "thread 'main' panicked at src/main.rs:3:5:",
        ),
        ("error: cannot open /mnt/x", "error: cannot open /mnt/x"),
        ("ERROR: no such request", "ERROR: no such request"),
        ("status: Inappropriate ioctl for device", "status: Inappropriate ioctl for device"),
        ("Traceback (most recent call last):\n  File", "Traceback (most recent call last):"),
        ("ok\nSegmentation fault (core dumped)", "Segmentation fault (core dumped)"),
    ],
)
def test_what_is_a_complaint(said: str, line: str) -> None:
    assert complaint_in(said) == line


@pytest.mark.parametrize(
    "said",
    [
        "",
        "clean\n",
        "0 failed, 12 passed",
        "errors: 0\nfailed: 0",
        "FAILED: 0\nPASSED: 12",
        "failures since mount: none",
        "ERRORS 0",
        "a failover index is ready",
    ],
)
def test_what_is_none(said: str) -> None:
    assert complaint_in(said) is None
