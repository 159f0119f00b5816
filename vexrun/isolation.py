"""How far apart tests are kept: when a machine is thrown away for a clean one."""

from __future__ import annotations

from enum import StrEnum


class Isolation(StrEnum):
    """What one machine, fresh from the snapshot, is used for.

    GROUP: a category, and the next one too if nothing went wrong. What breaks ends the category.
    TEST: one test, each parameter of it counted. What breaks ends that test only.
    NONE: the whole run. It is never replaced: what a test did to the kernel stays for the next
    one, and when the machine can be used no more, what is left is not run.
    """

    GROUP = "group"
    TEST = "test"
    NONE = "none"
