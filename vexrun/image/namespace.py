"""Run commands as root of an unpacked root filesystem, with or without being root.

As root: plain mount/pid/uts/ipc namespaces. As an ordinary user: a user namespace that maps
the user's subordinate ids (package `uidmap`, /etc/subuid), so that files get right owners.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vexrun.errors import InfrastructureError
from vexrun.layout import PACKAGE
from vexrun.process import Completed, run

_ENTER = PACKAGE / "image" / "enter.sh"


@dataclass(frozen=True)
class Bind:
    """A host directory made visible inside the root filesystem."""

    source: Path
    target: str
    writable: bool = False


def is_rootless() -> bool:
    return os.geteuid() != 0


def namespace_argv() -> list[str]:
    """`unshare` prefix: after it we are root over the files of images, and mounts are ours."""
    argv = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--uts", "--ipc"]
    if is_rootless():
        argv[1:1] = ["--map-root-user", "--map-auto"]
    return argv


def enter_argv(root: Path, binds: Sequence[Bind] = (), *, readonly: bool = False) -> list[str]:
    """Prefix that runs what follows it inside `root` (see enter.sh for what is mounted)."""
    argv = [*namespace_argv(), "sh", str(_ENTER), str(root), "1" if readonly else "0"]
    argv.append(str(len(binds)))
    for bind in binds:
        argv += [str(bind.source), bind.target, "rw" if bind.writable else "ro"]
    return [*argv, "--"]


def run_in_root(
    root: Path,
    argv: Sequence[str],
    *,
    binds: Sequence[Bind] = (),
    readonly: bool = False,
    timeout: float | None = None,
    check: bool = True,
    log: Path | None = None,
) -> Completed:
    """Run one command inside `root`; see `vexrun.process.run` for errors."""
    return run(
        [*enter_argv(root, binds, readonly=readonly), *argv],
        timeout=timeout,
        check=check,
        log=log,
    )


def run_as_owner(argv: Sequence[str], *, check: bool = True, log: Path | None = None) -> Completed:
    """Run a host command with root's view of the image's files (owners, deletion)."""
    if is_rootless():
        return run([*namespace_argv(), *argv], check=check, log=log)
    return run(argv, check=check, log=log)


def remove_tree(path: Path) -> None:
    """Delete a directory that may hold files of other (subordinate) users."""
    if path.exists():
        run_as_owner(["rm", "-rf", "--one-file-system", str(path)])


def require_namespaces() -> None:
    """Raise InfrastructureError, with the fix, when this user cannot make the namespaces."""
    probe = run([*namespace_argv(), "true"], check=False)
    if probe.returncode == 0:
        return
    if not is_rootless():
        raise InfrastructureError(
            "This machine does not let root make mount namespaces.", evidence=probe.tail(5)
        )
    raise InfrastructureError(
        "This user cannot make a user namespace with subordinate ids, which image building "
        "without root needs.",
        evidence=probe.tail(5),
        hint=_namespace_hint(),
    )


def _namespace_hint() -> str:
    user = os.environ.get("USER") or str(os.geteuid())
    restricted = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
    if restricted.is_file() and restricted.read_text().strip() == "1":
        return "Run: sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0"
    return (
        f"Run: sudo apt-get install uidmap && sudo usermod --add-subuids 100000-165535 "
        f"--add-subgids 100000-165535 {user}"
    )
