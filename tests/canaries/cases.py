"""The canaries: what is planted, and what vexrun must say about it. One more is one more row."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Canary:
    """`bug` is a CANARY_ name of canaryfs.c, '' for the sound twin.

    `outcome` is what at least one test must have become; `event_class` and `title` are of the
    first kernel event, '' when the log must stay clean. `blamed` is the beginning of the id of
    the test that must be blamed.
    """

    bug: str
    verdict: str
    exit_code: int
    only: str = "module,mount"
    outcome: str = ""
    event_class: str = ""
    title: str = ""
    blamed: str = ""
    says: str = ""
    smoke: bool = False  # part of every `make test`; the others run in `make canaries`


CANARIES = (
    Canary("", "pass", 0, only="structure,build,module,mount,fsops", smoke=True),
    Canary(
        "DOES_NOT_COMPILE",
        "fail",
        1,
        only="build,module",
        outcome="failed",
        says="undeclared_identifier",
        smoke=True,
    ),
    Canary("MISSING_SYMBOL", "fail", 1, outcome="failed", only="build,module", says="undefined"),
    Canary("WRONG_VERMAGIC", "fail", 1, outcome="failed", says="version magic"),
    Canary("INIT_FAILS", "fail", 1, outcome="failed", says="nput/output error"),
    Canary("MOUNT_REFUSED", "fail", 1, outcome="failed", blamed="module/", says="mount failed"),
    Canary(
        "PANIC_AT_MOUNT",
        "fail",
        1,
        outcome="crashed",
        event_class="panic",
        title="planted panic",
        smoke=True,
    ),
    Canary("OOPS_AT_MOUNT", "fail", 1, outcome="crashed", event_class="oops", title="canaryfs"),
    Canary("OOPS_AT_LOAD", "fail", 1, outcome="crashed", event_class="oops", title="canaryfs"),
    Canary("BUG_AT_MOUNT", "fail", 1, outcome="crashed", event_class="oops", title="canaryfs"),
    Canary("WARN_AT_MOUNT", "fail", 1, outcome="crashed", event_class="warning", title="canaryfs"),
    Canary(
        "WARN_AT_CREATE",
        "fail",
        1,
        only="fsops",
        outcome="crashed",
        event_class="warning",
        title="canaryfs",
    ),
    Canary(
        "OOPS_AT_CREATE",
        "fail",
        1,
        only="fsops",
        outcome="crashed",
        event_class="oops",
        title="canaryfs",
    ),
    Canary("HANG_AT_MOUNT", "fail", 1, only="mount", outcome="hung|crashed", says="canaryfs"),
    Canary("REBOOT_AT_MOUNT", "fail", 1, outcome="crashed", event_class="silent", title="reset"),
    Canary(
        "POWER_OFF_AT_MOUNT",
        "fail",
        1,
        outcome="crashed",
        event_class="silent",
        title="powered itself off",
    ),
    Canary("USE_AFTER_FREE", "fail", 1, outcome="crashed", event_class="memory|sanitizer"),
    Canary("BUSY_INODES", "fail", 1, outcome="crashed", event_class="unload|oops|panic"),
    Canary("NEVER_UNLOADS", "fail", 1, only="module", outcome="failed", says="in use", smoke=True),
    Canary("LEAVES_PROC_ENTRY", "fail", 1, only="module", outcome="failed", says="/proc"),
    Canary("LOSES_DATA", "fail", 1, only="fsops", outcome="failed", says="zeros", smoke=True),
    Canary("SAME_INODE_NUMBERS", "fail", 1, only="fsops", outcome="failed", says="inode"),
)
