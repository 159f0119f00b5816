"""What a target watches its kernel over: two logs, a shell, a beat. They end together."""

from __future__ import annotations

from pathlib import Path
from typing import Generic, TypeVar

from vexrun.errors import TargetLostError
from vexrun.target.hang import STUCK_S, StuckWatch, look_command
from vexrun.target.kernel_watch import KernelWatch
from vexrun.vm.console import ConsoleFollower
from vexrun.vm.heartbeat import Heartbeat
from vexrun.vm.kmsg import KmsgFollower
from vexrun.vm.ssh import GuestShell
from vexrun.vm.standing_shell import StandingShell

#: How often a test that takes long is looked at, and from when on.
LOOK_EVERY_S = 15.0
#: How long a kernel may take to print what SysRq asks for.
SYSRQ_PATIENCE_S = 20.0
#: What of the console belongs to one question.
_MOST_SAID = 200_000

AnyConsole = TypeVar("AnyConsole", bound=ConsoleFollower)
AnyKmsg = TypeVar("AnyKmsg", bound=KmsgFollower)


class Channels(Generic[AnyConsole, AnyKmsg]):
    """Each is None before it is opened and after the end. `module` is the subject's in sysfs."""

    def __init__(self, module: str) -> None:
        self._module = module
        self.console: AnyConsole | None = None
        self.kmsg: AnyKmsg | None = None
        self.standing: StandingShell | None = None
        self.watch: KernelWatch | None = None
        self.heartbeat: Heartbeat | None = None
        self.stuck = StuckWatch()
        self._looked = 0.0

    def begin_watch(self, shell: GuestShell, slowdown: float) -> None:
        """From now on the kernel is judged; both logs are open."""
        assert self.console is not None and self.kmsg is not None, "both logs are open"
        self.standing = StandingShell(shell)
        self.watch = KernelWatch(self.standing, self.console, self.kmsg, [self._module], slowdown)
        self.watch.begin()
        self.heartbeat = Heartbeat(shell)

    def end(self) -> None:
        for each in (self.heartbeat, self.standing, self.kmsg, self.console):
            if each is not None:
                each.close()
        self.heartbeat = self.standing = self.kmsg = self.console = self.watch = None

    def save_dmesg(self, directory: Path) -> None:
        """Add what the kernel's buffer has said to the run's dmesg.log."""
        if self.watch is not None:
            with (directory / "dmesg.log").open("a") as log:
                log.write(self.watch.dmesg)

    def beats(self) -> bool:
        """Whether processes there were seen to run a moment ago."""
        beat = self.heartbeat
        return beat is not None and not beat.broken and beat.silent_for() < LOOK_EVERY_S

    def looks(self, begun: float, now: float) -> bool:
        """Whether it is time to look at the test that began at `begun` again."""
        if now - begun < 2 * LOOK_EVERY_S or now - self._looked < LOOK_EVERY_S:
            return False
        self._looked = now
        return True

    def stuck_task(self, now: float, limit_s: float) -> str:
        """The name of what has not moved for too long, '' without."""
        return self.stuck.look(self.tasks(), now, max(STUCK_S, limit_s / 2))

    def tasks(self) -> str:
        """What StuckWatch and waiting_in look at; '' when it is not said in time."""
        if self.standing is None:
            return ""
        try:
            return self.standing.run(look_command(self._module), timeout_s=LOOK_EVERY_S).stdout
        except TargetLostError:
            return ""  # the heartbeat will tell

    def said_since(self, start: int, log: Path) -> str:
        """The console from a position on."""
        if self.console is not None:
            self.console.poll()
        with log.open("rb") as stream:
            stream.seek(start)
            return stream.read(_MOST_SAID).decode(errors="replace")
