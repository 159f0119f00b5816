"""What a run makes natively besides the build under test, and when.

The variants, the second build, the static checks and the unit suites need no machine, and the
tests in a machine do not need them: where such tests follow, all of it is made beside them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from vexrun.background import Background
from vexrun.events import Stages
from vexrun.kbuild import BuildOutcome
from vexrun.results.model import Check


@dataclass
class FurtherBuilds:
    """Every variant, and the main build a second time; nothing where no build is judged."""

    variants: list[BuildOutcome] = field(default_factory=list)
    again: BuildOutcome | None = None


#: A category, and what makes its checks.
Checking = tuple[str, Callable[[], list[Check]]]


class NativeWork:
    """The further builds and the checks of one run, within one `with` block.

    `builds_beside` and `checks_beside` say whether they go on in the background; what does not is
    done when the block is entered. After `settle` everything is there and nothing goes on.
    """

    def __init__(
        self,
        stages: Stages,
        build: Callable[[], FurtherBuilds],
        checking: Sequence[Checking],
        *,
        builds_beside: bool,
        checks_beside: bool,
    ) -> None:
        self.builds = FurtherBuilds()
        #: What is there so far.
        self.checks: list[Check] = []
        #: Whether the checks go on while other things are done.
        self.beside = checks_beside
        self._stages = stages
        self._checking = checking
        self._building = Background(build, beside=builds_beside)
        self._in_background = (
            Background(self._check_quietly, beside=True) if checks_beside else None
        )
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._building)
            if self._in_background is not None:
                stack.enter_context(self._in_background)
            else:
                self._check_now()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, traceback)

    def settle(self) -> None:
        """Wait for what goes on in the background, and tell how long it took."""
        if self._in_background is not None:
            for category, seconds, checks in self._in_background.result():
                self._stages.went_beside(category, seconds)
                self.checks += checks
        self.builds = self._building.result()
        if self.builds.again is not None:
            self._stages.went_beside("build again", self._building.duration_s)

    def _check_now(self) -> None:
        for category, make in self._checking:
            with self._stages.stage(category, "natively"):
                self.checks += make()

    def _check_quietly(self) -> list[tuple[str, float, list[Check]]]:
        """As `_check_now`; the screen belongs to what is told in front."""
        made = []
        for category, make in self._checking:
            begun = time.monotonic()
            checks = make()
            made.append((category, time.monotonic() - begun, checks))
        return made
