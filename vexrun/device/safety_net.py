"""What is put up on a device before a module is loaded there, and taken down afterwards.

Everything lives below /run or in the running kernel's settings: a reboot takes it all away.
"""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import dataclass

from vexrun import process
from vexrun.device.description import Netconsole
from vexrun.device.facts_in_guest import SETTINGS
from vexrun.guest.context import MOUNT_POINT, SECOND_MOUNT_POINT
from vexrun.vm.ssh import HOST_ALIAS, GuestShell

#: A device that has no word from vexrun for so long helps itself, at `slowdown` 1.
_PATIENCE_S = 60
_MAX_PATIENCE_S = 300
#: Seconds between two words.
_WORD_EVERY_S = 5

#: Settings while a run goes on; whatever breaks the kernel must end in a boot, and every line of
#: the log must come through. Documentation/admin-guide/sysctl/kernel.rst.
_WANTED = {
    "kernel.hung_task_timeout_secs": "60",
    "kernel.panic": "10",
    "kernel.panic_on_oops": "1",
    "kernel.printk": "7 4 1 7",
    "kernel.printk_devkmsg": "on",
    "kernel.softlockup_panic": "1",
    "kernel.sysrq": "1",
}
assert set(_WANTED) == set(SETTINGS), "what is changed is also compared"

_NETCONSOLE = "/sys/kernel/config/netconsole/vexrun"

#: Said by the switch in the kernel log before it acts.
SWITCH_WORDS = "dead man's switch: no word from vexrun"
#: Whose switch has acted is not to be trusted any more: nobody watches what is loaded there.
_ACTED = "/run/vexrun/acted"
_JOURNAL_NOTE = "/var/log/journal/.vexrun"

#: Bash builtins alone, so that it works where no process can be started any more. The watchdog
#: hears of this shell and not of vexrun: its own patience may be shorter than ours, and a reset of
#: its making would look like a crash.
_DEAD_MAN = r"""shopt -s execfail
exec 3<>/run/vexrun/alive
watchdog=
nowayout=
{ read -r nowayout </sys/class/watchdog/watchdog0/nowayout; } 2>/dev/null
if [ "$nowayout" = 0 ]; then { exec 9>/dev/watchdog0; } 2>/dev/null && watchdog=1; fi
pet() { if [ "$watchdog" ]; then printf %s "$1" >&9; fi; }
loaded() {
    while read -r name rest; do [ "$name" = @module@ ] && return 0; done </proc/modules
    return 1
}
say() { echo "<$1>vexrun: dead man's switch: $2" >/dev/kmsg; }
trap 'pet V; exit 0' TERM
pet .
silent=0
while [ $silent -lt @patience@ ]; do
    if read -t 2 -r -u 3 word; then
        if [ "$word" = off ]; then pet V; exit 0; fi
        silent=0
    else
        silent=$((silent + 2))
    fi
    pet .
done
: >@acted@
say 1 "no word from vexrun for @patience@ s"
timeout -k 5 20 sh -c 'umount @first@; umount @second@; rmmod @module@' </dev/null >/dev/null 2>&1 &
for second in 1 2 3 4 5 6 7 8 9 10 11 12 13; do
    read -t 2 -r -u 3 word
    pet .
    loaded || break
done
if ! loaded; then
    say 5 "the module is not loaded any more"
    pet V
    exec 9>&-
    exec timeout -k 5 120 bash --norc --noprofile /run/vexrun/restore.sh
fi
say 1 "the module cannot be unloaded: rebooting"
echo s >/proc/sysrq-trigger
read -t 5 -r -u 3 word
echo b >/proc/sysrq-trigger
"""

_ARM = r"""set -eu
mkdir -p /run/vexrun /run/modprobe.d /run/systemd/journald.conf.d
printf '%s' @block@ >/run/modprobe.d/vexrun-subject.conf
printf '%s' @restore@ >/run/vexrun/restore.sh
if [ ! -e /run/vexrun/settings ]; then
    for name in @settings@; do
        echo "$name=$(cat /proc/sys/$(echo $name | tr . /))"
    done >/run/vexrun/settings.new
    mv /run/vexrun/settings.new /run/vexrun/settings
fi
@set@
if [ ! -d /var/log/journal ]; then
    mkdir /var/log/journal
    : >@note@
fi
printf '[Journal]\nStorage=persistent\nSyncIntervalSec=1s\nRateLimitIntervalSec=0\n' \
    >/run/systemd/journald.conf.d/zz-vexrun.conf
systemctl restart systemd-journald
journalctl --flush
if [ ! -d "/var/log/journal/$(cat /etc/machine-id)" ]; then
    echo "the journal does not go to disk"
    exit 1
fi
if [ ! -e /dev/watchdog0 ]; then
    modprobe softdog soft_margin=@margin@ nowayout=0 && : >/run/vexrun/softdog ||
        echo "note: no watchdog"
elif [ "$(cat /sys/class/watchdog/watchdog0/nowayout 2>/dev/null)" != 0 ]; then
    echo "note: its watchdog could not be stopped again, so it is not used"
fi
systemctl stop vexrun-deadman 2>/dev/null || true
rm -f /run/vexrun/alive @acted@
mkfifo -m 600 /run/vexrun/alive
printf '%s' @deadman@ >/run/vexrun/deadman.sh
systemd-run --quiet --unit=vexrun-deadman --collect --property=OOMScoreAdjust=-1000 \
    /bin/bash --norc --noprofile /run/vexrun/deadman.sh
@netconsole@
echo '<5>@begin@' >/dev/kmsg
"""

_ARM_NETCONSOLE = r"""if [ ! -d /sys/module/netconsole ]; then
    modprobe netconsole
    : >/run/vexrun/netconsole
fi
if [ ! -d /sys/kernel/config/netconsole ]; then
    mount -t configfs configfs /sys/kernel/config
    : >/run/vexrun/configfs
fi
rmdir @where@ 2>/dev/null || true
mkdir @where@
echo @interface@ >@where@/dev_name
echo @to@ >@where@/remote_ip
echo @port@ >@where@/remote_port
echo @mac@ >@where@/remote_mac
echo 1 >@where@/extended
echo 1 >@where@/enabled
"""

_STOP = r"""if [ -p /run/vexrun/alive ]; then
    timeout 10 sh -c 'echo off >/run/vexrun/alive' || true
    for second in 1 2 3 4 5 6 7 8 9 10; do
        systemctl is-active --quiet vexrun-deadman || break
        sleep 1
    done
    systemctl stop vexrun-deadman 2>/dev/null
fi
"""

#: Done by vexrun at the end, and by the switch when nobody else does it.
_RESTORE = r"""if [ -d @where@ ]; then echo 0 >@where@/enabled; rmdir @where@; fi
if [ -e /run/vexrun/configfs ]; then umount /sys/kernel/config; fi
if [ -e /run/vexrun/netconsole ]; then modprobe -r netconsole; fi
if [ -e /run/vexrun/softdog ]; then modprobe -r softdog; fi
if [ -e /run/vexrun/settings ]; then
    while IFS='=' read -r name value; do
        echo "$value" >/proc/sys/$(echo $name | tr . /)
    done </run/vexrun/settings
fi
rm -f /run/modprobe.d/vexrun-subject.conf
if [ -e @note@ ]; then
    journalctl --relinquish-var
    rm -rf --one-file-system /var/log/journal
    again=1
fi
if [ -e /run/systemd/journald.conf.d/zz-vexrun.conf ]; then
    rm /run/systemd/journald.conf.d/zz-vexrun.conf
    again=1
fi
if [ "${again-}" ]; then systemctl restart systemd-journald; fi
rm -rf /run/vexrun
"""


@dataclass(frozen=True)
class Net:
    """What is put up: for which module, with which patience, sending its log to which port."""

    module: str
    names_to_block: tuple[str, ...]  # by modprobe
    slowdown: float
    begin: str
    netconsole: Netconsole | None = None
    port: int = 0

    @property
    def patience_s(self) -> int:
        return int(min(_PATIENCE_S * self.slowdown, _MAX_PATIENCE_S))


def arm_script(net: Net) -> str:
    """What puts it up; prints notes, and ends with another status than 0 when a part is missing."""
    block = "".join(
        f"install {each} /bin/false\nblacklist {each}\n" for each in sorted(net.names_to_block)
    )
    settings = "\n".join(
        f"echo {shlex.quote(value)} >/proc/sys/{name.replace('.', '/')}"
        for name, value in _WANTED.items()
    )
    return _filled(
        _ARM,
        block=shlex.quote(block),
        settings=" ".join(_WANTED),
        set=settings,
        margin=str(net.patience_s),
        restore=shlex.quote(_restore()),
        note=_JOURNAL_NOTE,
        acted=_ACTED,
        deadman=shlex.quote(dead_man(net)),
        netconsole=_netconsole(net),
        begin=net.begin,
    )


def dead_man(net: Net) -> str:
    """The switch: without a word for `patience_s` it unloads the module, or else reboots."""
    return _filled(
        _DEAD_MAN,
        module=net.module,
        patience=str(net.patience_s),
        acted=_ACTED,
        first=MOUNT_POINT,
        second=SECOND_MOUNT_POINT,
    )


def disarm_script() -> str:
    """Takes it down, whatever of it is still there."""
    return _STOP + _restore()


def _restore() -> str:
    return _filled(_RESTORE, where=_NETCONSOLE, note=_JOURNAL_NOTE)


#: Whether the switch still stands, and has done nothing: exit status 0.
STANDS = f"test ! -e {_ACTED} && systemctl is-active --quiet vexrun-deadman"


def _netconsole(net: Net) -> str:
    if net.netconsole is None:
        return ""
    return _filled(
        _ARM_NETCONSOLE,
        where=_NETCONSOLE,
        interface=net.netconsole.interface,
        to=net.netconsole.to,
        port=str(net.port),
        mac=net.netconsole.mac or "ff:ff:ff:ff:ff:ff",
    )


def _filled(template: str, **values: str) -> str:
    for key, value in values.items():
        template = template.replace(f"@{key}@", value)
    return template


class SignOfLife:
    """Sends a word to the dead man's switch every few seconds, as long as this process lives."""

    def __init__(self, shell: GuestShell) -> None:
        ssh = ["ssh", "-F", str(shell.config), HOST_ALIAS, "--", "exec cat >/run/vexrun/alive"]
        words = f"while echo on; do sleep {_WORD_EVERY_S}; done"
        self._child: subprocess.Popen[bytes] = process.start(
            ["bash", "-c", f"{words} | exec {shlex.join(ssh)}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    @property
    def broken(self) -> bool:
        """The connection that carries the words has ended, and not by us."""
        return self._child.poll() is not None

    def close(self) -> None:
        """No more words. The switch must have been taken down before, or it acts."""
        process.stop(self._child)
