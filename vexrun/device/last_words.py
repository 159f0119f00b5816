"""What a kernel said before it died: from netconsole, from pstore, from the journal on its disk."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from vexrun.device.kernel_log import DeviceKmsg, NetconsoleListener
from vexrun.device.safety_net import SWITCH_WORDS
from vexrun.errors import VexrunError
from vexrun.kernel_log import events_in_dmesg
from vexrun.vm.ssh import GuestShell

_STAMP = re.compile(r"^(?:<\d+>)?\[ *(\d+\.\d+)\]")
_PLACES = ("/sys/fs/pstore", "/var/lib/systemd/pstore")
_JOURNAL_LINES = 2000


@dataclass
class LastWords:
    """`text` continues console.log, and `told_by` says where it is from; `sources` have words."""

    text: str = ""
    told_by: str = ""
    sources: list[str] = field(default_factory=list)
    by_switch: bool = False


def collect(
    shell: GuestShell | None,
    *,
    boot_id: str,
    known_pstore: list[str],
    netconsole: NetconsoleListener | None,
    kmsg: DeviceKmsg,
    rundir: Path,
    timeout_s: float,
) -> LastWords:
    """Everything that survived of the boot `boot_id`; without a `shell` what is here already.

    Each source is kept whole in a file of the run; what continues the log that was read over ssh
    is the first one with a kernel event, or else the first one with words.
    """
    found: list[tuple[str, str]] = []
    if netconsole is not None:
        found.append(("netconsole", netconsole.after(kmsg.last_sequence)))
    if shell is not None:
        pstore = _pstore(shell, known_pstore, rundir / "pstore", timeout_s)
        found.append(("pstore", _younger(pstore, kmsg.last_seconds)))
        journal = _journal(shell, boot_id, timeout_s)
        if journal:
            (rundir / "journal.log").write_text(journal)
        found.append(("journal", _younger(journal, kmsg.last_seconds)))
    spoken = [(name, text) for name, text in found if text.strip()]
    words = LastWords(sources=[name for name, _ in spoken])
    words.by_switch = any(SWITCH_WORDS in text for _, text in spoken)
    telling = [each for each in spoken if events_in_dmesg(each[1], [])]
    for name, text in (telling or spoken)[:1]:
        words.text, words.told_by = text, f"what {name} has of the time after that"
    return words


def _younger(text: str, seconds: float) -> str:
    """The lines of a log that are younger than a kernel time, as whole lines."""
    kept = []
    for line in text.splitlines():
        stamp = _STAMP.match(line)
        if stamp and float(stamp[1]) > seconds:
            kept.append(line)
    return "".join(f"{line}\n" for line in kept)


def _pstore(shell: GuestShell, known: list[str], kept: Path, timeout_s: float) -> str:
    """Records that were not there before, oldest part first; kept in the run, removed there."""
    parts: list[tuple[int, str]] = []
    for place in _PLACES:
        listed = _run(shell, f"find {place} -type f 2>/dev/null", timeout_s)
        for path in listed.splitlines():
            name = path.rpartition("/")[2]
            if name in known or path.removeprefix(f"{place}/").split("/")[0] in known:
                continue
            text = _run(shell, f"cat {shlex.quote(path)}", timeout_s)
            if not text:
                continue
            kept.mkdir(exist_ok=True)
            (kept / name).write_text(text)
            _run(shell, f"rm -f {shlex.quote(path)}", timeout_s)
            number = re.search(r"Part(\d+)", text.partition("\n")[0])
            parts.append((-int(number[1]) if number else 0, text))
    return "".join(text for _, text in sorted(parts))


def _journal(shell: GuestShell, boot_id: str, timeout_s: float) -> str:
    """The kernel's lines of that boot, as `dmesg --raw` prints them."""
    said = _run(
        shell,
        f"journalctl --no-pager -q -k -b {boot_id.replace('-', '')} -n {_JOURNAL_LINES} -o json "
        "--output-fields=MESSAGE,PRIORITY,_SOURCE_MONOTONIC_TIMESTAMP,SYSLOG_FACILITY",
        timeout_s,
    )
    lines = []
    for row in said.splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            entry = json.loads(row)
            at = int(entry["_SOURCE_MONOTONIC_TIMESTAMP"]) / 1e6
            priority = int(entry.get("PRIORITY", 6)) + 8 * int(entry.get("SYSLOG_FACILITY", 0))
            first = str(entry["MESSAGE"]).split("\n", 1)[0]
            lines.append(f"<{priority}>[{at:12.6f}] {first}\n")
    return "".join(lines)


def _run(shell: GuestShell, command: str, timeout_s: float) -> str:
    """stdout, '' where the device cannot say."""
    try:
        done = shell.run(command, timeout_s=timeout_s)
    except VexrunError:
        return ""
    return done.stdout if done.returncode == 0 else ""
