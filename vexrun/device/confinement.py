"""On a device no command of a test opens any block device but the windows: the kernel refuses it.

mkfs, fsck and the command line of a subject run as root there, and what they are told to write on
is not what they must write on. A scope of systemd gives them a device cgroup (`DevicePolicy` of
systemd.resource-control(5)), which also holds for what they start, and for device nodes of their
own. The module is out of its reach: it is the kernel.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from vexrun.device.facts import DiskFacts
from vexrun.errors import InfrastructureError

if TYPE_CHECKING:
    from vexrun.vm.ssh import GuestShell

#: How many devices of their own tests may have at once, such as the one with failing media.
_SPARE = 3

#: Prints the block devices that can be opened.
_TRIAL = """
import os
for name in sorted(os.listdir("/sys/class/block")):
    try:
        os.close(os.open("/dev/" + name.replace("!", "/"), os.O_RDONLY | os.O_NONBLOCK))
    except PermissionError:
        continue
    except OSError as error:
        print(name, error.strerror)
    else:
        print(name)
"""


def confined(windows: Iterable[str], disk: DiskFacts, spare: Sequence[str]) -> str:
    """What goes before a command. `spare` are `major:minor` of devices that tests may make.

    The disk itself may be looked at: tests ask its guards again.
    """
    # Nodes may be made, on the filesystem under test for example, and not be opened.
    allowed = ["char-* rwm", "block-* m"]
    allowed += [f"{path} rw" for path in windows]
    allowed += [f"/dev/block/{dev} rw" for dev in spare]
    allowed += [f"{part.path} r" for part in disk.parts]
    words = ["systemd-run", "--quiet", "--scope", "--collect", "--property=DevicePolicy=closed"]
    words += [f"--property=DeviceAllow={each}" for each in allowed]
    return shlex.join(words)


def spare_numbers(used: str) -> list[str]:
    """The numbers that the device mapper gives out next; `used` has one `major:minor` a line."""
    pairs = [line.split(":") for line in used.split()]
    taken = {int(minor) for _, minor in pairs}
    free = (number for number in range(len(taken) + _SPARE) if number not in taken)
    return [f"{pairs[0][0]}:{number}" for _, number in zip(range(_SPARE), free, strict=False)]


def demand_confinement(shell: GuestShell, prefix: str, may: set[str], timeout_s: float) -> None:
    """Try it out: raises InfrastructureError when another block device can be opened than `may`.

    Without cgroups that know devices systemd leaves it out and says nothing.
    """
    done = shell.run(
        f"{prefix} python3 -I -S -c {shlex.quote(_TRIAL)}", timeout_s=timeout_s, check=True
    )
    opened = [line for line in done.stdout.splitlines() if line.split()[0] not in may]
    if opened:
        raise InfrastructureError(
            "Commands of tests cannot be kept from the other disks of the device, so nothing is "
            f"run there: '{opened[0]}' could be opened.",
            evidence=f"could be opened: {json.dumps(opened)}",
            hint="It needs a kernel with CONFIG_CGROUP_BPF and systemd 240 or later.",
        )
