"""Taking the subject out of a running kernel again, and looking at what it left behind."""

from __future__ import annotations

from collections.abc import Sequence

from vexrun.errors import TargetLostError
from vexrun.guest.context import MOUNT_POINT, SECOND_MOUNT_POINT
from vexrun.vm.ssh import GuestShell, GuestTimeoutError

#: What must not be there when the subject is gone: tasks in D state that stay there, and a root
#: filesystem without a free block. The pause also lets work that runs late come up.
_LEFT_BEHIND = r"""
blocked() { grep -ls '^State:[[:space:]]*D' "$@"; }
before=$(blocked /proc/[0-9]*/status); sleep 5; status=0
for file in $(test -z "$before" || blocked $before); do
    echo "a task is blocked (D state): $(head -1 $file)"; cat ${file%status}stack; status=1
done
if [ "$(stat -f -c %a /)" = 0 ]; then echo "the guest's root filesystem is full"; status=1; fi
exit $status"""


def umount_and_unload(
    shell: GuestShell, name: str, siblings: Sequence[str], timeout_s: float
) -> tuple[str, str]:
    """Leave the kernel without the module `name`: `passed`, `failed`, `hung` or `lost`, and why."""
    others = " ".join(reversed(siblings))
    command = (
        f"cd /; for path in {MOUNT_POINT} {SECOND_MOUNT_POINT}; do "
        'while grep -q " $path " /proc/self/mounts; do umount $path || exit 1; done; done; '
        f"if [ -d /sys/module/{name} ]; then rmmod {name} || exit 1; fi; "
        f"for each in {others}; do "
        "if [ -d /sys/module/$each ]; then rmmod $each || exit 1; fi; "
        f"done; sync; {_LEFT_BEHIND}"
    )
    try:
        done = shell.run(command, timeout_s=timeout_s)
    except GuestTimeoutError as error:
        return "hung", error.message
    except TargetLostError as error:
        return "lost", error.message
    if done.returncode != 0:
        return "failed", f"the machine is not as it was before: {done.tail(12)}"
    return "passed", ""
