"""Messages between a test process and the session that runs it: JSON lines over two pipes.

After each message that ends a test the test process waits for an answer, so the session can read
the kernel log, and stop the rest, before anything else touches the target.
"""

from __future__ import annotations

import json
import os
from typing import Any, Final

EVENT_FD: Final = "VEXRUN_EVENT_FD"
ANSWER_FD: Final = "VEXRUN_ANSWER_FD"
CONTEXT_FILE: Final = "VEXRUN_CONTEXT"

CONTINUE: Final = "continue"
STOP: Final = "stop"


class SessionLink:
    """The test process's end."""

    def __init__(self, event_fd: int, answer_fd: int) -> None:
        self._events = os.fdopen(event_fd, "w")
        self._answers = os.fdopen(answer_fd)

    @classmethod
    def from_environment(cls) -> SessionLink | None:
        if EVENT_FD not in os.environ:
            return None
        return cls(int(os.environ[EVENT_FD]), int(os.environ[ANSWER_FD]))

    def tell(self, event: str, **fields: Any) -> None:
        self._events.write(json.dumps({"event": event, **fields}) + "\n")
        self._events.flush()

    def ask(self, event: str, **fields: Any) -> str:
        """Send, then wait for the session's answer; STOP when the session is gone."""
        self.tell(event, **fields)
        return self._answers.readline().strip() or STOP
