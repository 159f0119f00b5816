"""What is different on a device after a run, a clause each."""

from __future__ import annotations

from vexrun.device.facts import Facts
from vexrun.kernel_log import decode_taint
from vexrun.kernel_log.taint import LOADED_MODULE

#: What the safety net itself brings along and the kernel does not let go of, or not at once.
_OURS = {"configfs", "dm_flakey", "dm_mod", "netconsole", "softdog"}


def differences(before: Facts, after: Facts) -> list[str]:
    """Modules, mounts, swap, settings, taint, boots; nothing that changes by itself."""
    found = []
    if before.boot_id != after.boot_id:
        found.append(f"it was booted again (boot id '{after.boot_id}')")
    found += _sets("module", set(before.modules) - _OURS, set(after.modules) - _OURS)
    mounts = [{f"{m.source} on {m.point} ({m.type})" for m in f.mounts} for f in (before, after)]
    found += _sets("mount", *mounts)
    found += _sets("swap space", set(before.swaps), set(after.swaps))
    found += [
        f"'{name}' was '{value}' and is '{after.settings.get(name)}'"
        for name, value in before.settings.items()
        if value.split() != after.settings.get(name, "").split()
    ]
    found += [
        f"the kernel has noted '{taint.name}'"
        for taint in decode_taint(after.taint & ~before.taint & ~LOADED_MODULE)
    ]
    return found


def _sets(what: str, before: set[str], after: set[str]) -> list[str]:
    gone = [f"the {what} '{each}' is gone" for each in sorted(before - after)]
    return gone + [f"there is a {what} '{each}' more" for each in sorted(after - before)]
