"""The kernel log of a device: /dev/kmsg over ssh, copied to console.log, and netconsole beside it.

A device has no serial console that vexrun could read. While it lives /dev/kmsg has everything,
with sequence numbers that show gaps. What the kernel says after that stream has died comes by
netconsole, whose records have the same sequence numbers, or afterwards from pstore and journal.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from pathlib import Path

from vexrun.device.description import Netconsole
from vexrun.device.safety_net import SWITCH_WORDS
from vexrun.errors import InfrastructureError
from vexrun.results.model import KernelEvent
from vexrun.vm.console import ConsoleFollower
from vexrun.vm.kmsg import KmsgFollower
from vexrun.vm.ssh import GuestShell

#: Documentation/networking/netconsole.rst, extended: "pri,seq,usec,flags[,ncfrag=…];text".
_RECORD = re.compile(rb"(\d+),(\d+),(\d+),([^;]*);(.*)", re.DOTALL)
_BUFFER = 8 << 20
_STAMP = re.compile(r"<\d+>\[ *(\d+\.\d+)\]")
_PANIC = "Kernel panic - not syncing"


class DeviceKmsg(KmsgFollower):
    """Copies what it reads to console.log, from the line on that says `begin`."""

    def __init__(self, shell: GuestShell, directory: Path, log: Path, begin: str) -> None:
        super().__init__(shell, directory)
        self.last_sequence = -1
        self.last_seconds = 0.0
        #: Whether the dead man's switch has said that it acts.
        self.switch_acts = False
        self._log = log
        self._begin = begin
        self._begun = False
        self._unread = ""

    def pump(self) -> None:
        """Read what has come, without taking it away from who reads next."""
        text = super().read()
        if not self._begun:
            before, found, after = text.partition(self._begin)
            if not found:
                return  # of the time before the run
            self._begun = True
            text = before.rpartition("\n")[2] + found + after
        if text:
            with self._log.open("a") as stream:
                stream.write(text)
            self._unread += text
            self.switch_acts |= SWITCH_WORDS in text

    def read(self) -> str:
        self.pump()
        text, self._unread = self._unread, ""
        return text

    def _line(self, row: bytes) -> str:
        text = super()._line(row)
        if self._next is not None:
            self.last_sequence = self._next - 1
        stamp = _STAMP.match(text)
        if stamp is not None:
            self.last_seconds = float(stamp[1])
        return text


class DeviceConsole(ConsoleFollower):
    """console.log of a device: reading it reads the device first."""

    def __init__(self, log: Path, offset: int, modules: Iterable[str], kmsg: DeviceKmsg) -> None:
        self._kmsg = kmsg
        super().__init__(log, offset, modules)

    def poll(self) -> list[KernelEvent]:
        self._kmsg.pump()
        return super().poll()


class NetconsoleListener:
    """Receives a device's netconsole; `records` are {sequence number: line as dmesg prints it}."""

    def __init__(self, settings: Netconsole, log: Path) -> None:
        self._log = log
        self._parts: dict[int, bytes] = {}
        self.records: dict[int, str] = {}
        #: Whether the kernel has said that it gives up.
        self.ends_with_panic = False
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        self._socket.setblocking(False)
        try:
            self._socket.bind((settings.listen, settings.port))
        except OSError as error:
            self._socket.close()
            raise InfrastructureError(
                f"Nobody can listen for the device's netconsole at {settings.listen}, port "
                f"{settings.port}: {error.strerror}.",
                hint="Choose another 'netconsole.port', or 0.",
            ) from error

    @property
    def port(self) -> int:
        number: int = self._socket.getsockname()[1]
        return number

    def pump(self) -> None:
        """Take what has come."""
        while True:
            try:
                packet = self._socket.recv(1 << 16)
            except (BlockingIOError, ConnectionError):
                return
            with self._log.open("ab") as stream:
                stream.write(packet if packet.endswith(b"\n") else packet + b"\n")
            self._take(packet)

    def _take(self, packet: bytes) -> None:
        match = _RECORD.match(packet)
        if match is None:
            return
        priority, sequence, microseconds, flags, text = match.groups()
        number = int(sequence)
        if b"ncfrag=" in flags:  # a record in pieces, in order on one wire
            text = self._parts[number] = self._parts.get(number, b"") + text
        words = text.split(b"\n", 1)[0].decode(errors="replace")
        seconds = int(microseconds) / 1e6
        # Facility 0 is the kernel's own: anybody may write these words to /dev/kmsg.
        self.ends_with_panic |= int(priority) < 8 and words.startswith(_PANIC)
        self.records[number] = f"<{int(priority)}>[{seconds:12.6f}] {words}\n"

    def after(self, sequence: int) -> str:
        """What came with a higher sequence number, in order."""
        self.pump()
        return "".join(self.records[each] for each in sorted(self.records) if each > sequence)

    def close(self) -> None:
        self._socket.close()
