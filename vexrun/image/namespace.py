"""Run commands as root of an unpacked root filesystem, with or without being root.

As root: plain mount/pid/uts/ipc namespaces. As an ordinary user: a user namespace that maps
the user's subordinate ids (package `uidmap`, /etc/subuid), so that files get right owners.
"""

from __future__ import annotations

import os
import pwd
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vexrun.errors import InfrastructureError
from vexrun.layout import PACKAGE
from vexrun.process import Completed, find_program, paste, run

_ENTER = PACKAGE / "image" / "enter.sh"
_PROBE = PACKAGE / "image" / "probe.sh"


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
    if not is_rootless():
        return run(argv, check=check, log=log)
    done = run([*namespace_argv(), *argv], check=False, log=log)
    if check and done.returncode != 0:
        require_namespaces()  # the usual reason, told with its fix
        raise InfrastructureError(
            f"'{argv[0]}' failed with exit status {done.returncode}.",
            evidence=f"$ {paste(done.argv)}\n{done.tail()}",
        )
    return done


def remove_tree(path: Path) -> None:
    """Delete a directory that may hold files of other (subordinate) users."""
    if path.exists():
        run_as_owner(["rm", "-rf", "--one-file-system", str(path)])


def require_namespaces() -> None:
    """Raise InfrastructureError, with evidence and fix, when this user cannot use namespaces."""
    probe = run([*namespace_argv(), "sh", str(_PROBE)], check=False)
    if probe.returncode == 0:
        return
    if not is_rootless():
        raise InfrastructureError(
            "This machine does not let root mount in namespaces of its own.",
            evidence=probe.tail(5),
            hint="In a container: run it with --privileged (CAP_SYS_ADMIN is needed).",
        )
    if "unrecognized option" in probe.output:
        raise InfrastructureError(
            "This 'unshare' is too old for images and builds of an ordinary user.",
            evidence=f"{probe.tail(2)}\n--map-auto needs util-linux 2.38 (Debian 12, Ubuntu 24.04)",
            hint="Run vexrun as root.",
        )
    found = list(_obstacles())
    raise InfrastructureError(
        "This user cannot use user namespaces, which images and native builds need.",
        evidence="\n".join([probe.tail(5), *(what for what, _ in found)]),
        hint="Run: " + " && ".join(command for _, command in found)
        if found
        else "Run vexrun as root, or on a machine that lets ordinary users make namespaces.",
    )


_SYSCTLS = Path("/proc/sys")
_SUBORDINATE_IDS = (Path("/etc/subuid"), Path("/etc/subgid"))
#: Settings that keep ordinary users from namespaces: name, value, what it does, value to set.
_FORBIDDING = (
    # Ubuntu 23.10 and newer: the namespace can be made, and gives no capability.
    ("kernel.apparmor_restrict_unprivileged_userns", "1", "give no capabilities", "0"),
    # Debian 10 and older, and hardened kernels.
    ("kernel.unprivileged_userns_clone", "0", "cannot be made", "1"),
    ("user.max_user_namespaces", "0", "cannot be made", "15000"),
)


def _obstacles() -> Iterator[tuple[str, str]]:
    """What stands in an ordinary user's way, and the command that removes it."""
    if find_program("newuidmap") is None:
        yield (
            "the program 'newuidmap' is not installed",
            "sudo apt-get install --no-install-recommends uidmap",
        )
    names = {str(os.geteuid()), _user()}
    if not all(_has_range(file, names) for file in _SUBORDINATE_IDS):
        first = max(map(_first_free_id, _SUBORDINATE_IDS))
        span = f"{first}-{first + 65535}"
        yield (
            f"'{_user()}' has no range in /etc/subuid or in /etc/subgid",
            f"sudo usermod --add-subuids {span} --add-subgids {span} {shlex.quote(_user())}",
        )
    for name, value, effect, wanted in _FORBIDDING:
        if _sysctl(name) == value:
            yield (
                f"{name} is {value}: namespaces of ordinary users {effect}",
                f"echo {name}={wanted} | sudo tee -a /etc/sysctl.d/60-vexrun.conf && "
                "sudo sysctl --system",
            )


def _sysctl(name: str) -> str | None:
    """A kernel setting, None where this kernel does not have it."""
    try:
        return (_SYSCTLS / name.replace(".", "/")).read_text().strip()
    except OSError:
        return None


def _ranges(file: Path) -> list[tuple[str, int, int]]:
    """Lines of subuid(5): user, first id, number of ids."""
    lines = file.read_text().splitlines() if file.is_file() else []
    rows = [line.split(":") for line in lines]
    return [(row[0], int(row[1]), int(row[2])) for row in rows if len(row) == 3]


def _has_range(file: Path, names: set[str]) -> bool:
    return any(user in names for user, _, _ in _ranges(file))


def _first_free_id(file: Path) -> int:
    return max([100000, *(first + count for _, first, count in _ranges(file))])


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a user without an account, as containers have them
        return str(os.geteuid())
