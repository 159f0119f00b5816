"""Build the subject inside a running guest, by the role module_build."""

from __future__ import annotations

import shlex
import time
from pathlib import Path, PurePosixPath

from vexrun.events import Emit
from vexrun.kbuild import (
    GUEST_BUILD_ROOT,
    BuildOutcome,
    BuildPlace,
    BuildSpec,
    read_outcome,
)
from vexrun.playbook import run_playbook
from vexrun.process import Completed
from vexrun.target.base import Target


class GuestBuilder:
    """Same interface as NativeBuilder; what was built is copied to `work` on this machine."""

    place = BuildPlace.GUEST

    def __init__(self, target: Target, work: Path, artifact_dir: Path, emit: Emit) -> None:
        self.target = target
        self.work = work
        self.artifact_dir = artifact_dir
        self.emit = emit

    def build(self, spec: BuildSpec) -> BuildOutcome:
        """Run the role; a subject that does not build is an outcome, not an exception."""
        self.work.mkdir(parents=True, exist_ok=True)
        release = self.target.kernel_release
        begun = time.monotonic()
        result = run_playbook(
            "build.yml",
            [self.target.inventory()],
            artifact_dir=self.artifact_dir,
            emit=self.emit,
            extra_variables={
                "module_build_arguments": spec.arguments(release, 0),
                # The outcome of the subject's build is ours to judge, not the play's.
                "module_build_fail": False,
            },
        )
        ran = result.facts["module_build_run"]
        done = Completed(tuple(spec.arguments(release, 0)), ran["rc"], ran["stdout"], ran["stderr"])
        for directory in (spec.logs_dir, spec.tools_dir):
            self._fetch(directory)
        made = self.target.shell.run(
            f"find {shlex.quote(str(spec.directory))} -name '*.ko'", check=True
        ).stdout
        for path in made.splitlines():
            self._fetch(PurePosixPath(path))
        return read_outcome(spec, BuildPlace.GUEST, done, self.work, time.monotonic() - begun)

    def _fetch(self, inside: PurePosixPath) -> None:
        """Copy a file or directory below the guest's build root, when it is there."""
        relative = inside.relative_to(GUEST_BUILD_ROOT)
        self.target.shell.fetch_tree(str(GUEST_BUILD_ROOT), str(relative), self.work)
