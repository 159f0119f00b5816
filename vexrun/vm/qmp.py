"""The one place that speaks QMP: a synchronous face on qemu.qmp's asynchronous client."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from qemu.qmp import EventListener, ExecInterruptedError, ExecuteError, QMPClient, QMPError

from vexrun.errors import InfrastructureError, TargetLostError

QmpEvent = dict[str, Any]


#: Its failures reach us as exceptions; a refused connection while QEMU starts is no news.
logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)


class Monitor:
    """A QMP connection served by a thread of its own. `events` grows as QEMU reports them."""

    def __init__(self, socket_path: Path) -> None:
        self.socket_path = socket_path
        self.events: list[QmpEvent] = []
        self.on_event: Callable[[QmpEvent], None] | None = None
        self._client = QMPClient("vexrun")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="qmp", daemon=True)
        self._thread.start()
        self._listening: Future[None] | None = None

    def connect(self, deadline_s: float, alive: Callable[[], bool]) -> None:
        """Connect as soon as QEMU listens; TargetLostError when it exits before it does."""
        until = time.monotonic() + deadline_s
        while not self._try_connect():
            if not alive():
                raise TargetLostError("QEMU exited before its monitor answered.")
            if time.monotonic() > until:
                raise InfrastructureError(
                    f"QEMU's monitor did not answer within {deadline_s:.0f} s."
                )
            time.sleep(0.02)
        self._listening = asyncio.run_coroutine_threadsafe(self._listen(), self._loop)

    def _try_connect(self) -> bool:
        """One attempt, with a client of its own: one that failed may be in any state."""
        if not self.socket_path.exists():
            return False
        client = QMPClient("vexrun")
        try:
            self._await(client.connect(str(self.socket_path)), 10)
        except (QMPError, OSError):
            # qemu.qmp 0.0.6 wants to be disconnected even so, and may refuse that in turn.
            with contextlib.suppress(QMPError, OSError, EOFError, AssertionError):
                self._await(client.disconnect(), 10)
            return False
        self._client = client
        return True

    async def _listen(self) -> None:
        listener = EventListener()
        self._client.register_listener(listener)
        async for event in listener:
            self.events.append(dict(event))
            if self.on_event is not None:
                self.on_event(dict(event))

    def execute(self, command: str, timeout_s: float = 30.0, **arguments: Any) -> Any:
        """One command; underscores in argument names become dashes.

        Raises TargetLostError when QEMU is gone or mute, InfrastructureError for a refusal.
        """
        named = {key.replace("_", "-"): value for key, value in arguments.items()}
        try:
            return self._await(self._client.execute(command, named or None), timeout_s)
        except (ExecInterruptedError, TimeoutError, EOFError, ConnectionError) as error:
            raise TargetLostError(f"QEMU did not answer the QMP command '{command}'.") from error
        except ExecuteError as error:
            raise InfrastructureError(
                f"QEMU refused the QMP command '{command}': {error}.", evidence=str(named)
            ) from error

    def send_file_descriptor(self, descriptor: int, name: str) -> None:
        """Hand QEMU an open file under `name` (QMP getfd), for example to save state into."""

        async def send() -> object:
            self._client.send_fd_scm(descriptor)
            return await self._client.execute("getfd", {"fdname": name})

        self._await(send(), 10)

    def close(self) -> None:
        """Disconnect and end the thread; safe when QEMU is gone."""
        if not self._thread.is_alive():
            return
        if self._listening is not None:
            self._listening.cancel()
        # The peer being gone is the usual reason to close; nothing is lost by it.
        with contextlib.suppress(QMPError, OSError, EOFError, TimeoutError):
            self._await(self._client.disconnect(), 5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def _await(self, work: Coroutine[Any, Any, Any], timeout_s: float) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)
