"""One table over the ways to a guest: `make ways`.

Each guest that --suite can name is booted, proven (the roles again over ssh), given two modules
that must pass and one with a planted bug that must be found.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from vexrun.errors import ExitCode, VexrunError
from vexrun.image.box import BoxId
from vexrun.image.box_home import box_directory
from vexrun.image.catalog import find_guest, find_image, list_images
from vexrun.image.suites import DEFAULT_SUITE, Suite
from vexrun.interrupt import interruptible
from vexrun.layout import cache_dir, data_root
from vexrun.output import say
from vexrun.selftest import choose_canaries, load_canaries, run_canary
from vexrun.subrun import SubRun, run_test
from vexrun.target.vagrant import PROOF

#: One of the kernel's own modules and the reference subject, what `vexrun test` is given for each.
_MODULES = {
    "minix": ("--subject", "examples/subjects/minix.toml"),
    "vexfs-ref": ("", "examples/vexfs-ref"),
}
#: Shortly: built, loaded, formatted, mounted, written to.
_CATEGORIES = "build,module,mkfs,mount"
#: A NULL pointer in a module's init: the kernel's word, its place, and the end of the machine.
_PLANTED = "oops-in-init"
#: packer/finish.sh writes it into what Packer built.
_PACKER_MARK = Path("etc/vexrun-packer")
#: Before the name of a guest: its box, booted and restored by Vagrant.
BY_VAGRANT = "vagrant:"


@dataclass(frozen=True)
class Row:
    """What one guest did. `right` only if all of it was as it must be."""

    guest: str
    way: str
    kernel: str
    first_boot: str
    changed: str
    modules: tuple[str, ...]  # as _MODULES
    planted: str
    right: bool


def try_guest(name: str) -> Row:
    """Run every module in the guest that --suite calls `name`; `vagrant:NAME` is its box."""
    by_vagrant = name.startswith(BY_VAGRANT)
    suite = find_guest(name.removeprefix(BY_VAGRANT))
    more = [*(["--backend", "vagrant"] if by_vagrant else []), "--suite", suite.name]
    runs = [_run_module(option, path, more) for option, path in _MODULES.values()]
    (planted,) = choose_canaries(load_canaries(), [_PLANTED], False)
    with tempfile.TemporaryDirectory(prefix="vexrun-ways-") as directory:
        judged = run_canary(planted, suite.name, Path(directory), more[:-2])
    target = runs[0].results.target if runs[0].results else None
    key = target.image_key if target and target.image_key else ""
    boot_s, changed = _boot_of_box(key) if by_vagrant else _first_boot(key)
    passed = all(run.results is not None and run.status == ExitCode.PASS for run in runs)
    return Row(
        guest=name if by_vagrant else suite.name,
        way=_way(suite) + (", its box by Vagrant" if by_vagrant else ""),
        kernel=(target.kernel if target else None) or "unknown",
        first_boot=f"{boot_s:.0f} s" if boot_s is not None else "unknown",
        changed="unknown" if changed is None else str(changed),
        modules=tuple(
            f"{run.results.verdict.value}, {run.seconds:.0f} s" if run.results else run.said
            for run in runs
        ),
        planted=f"found, {judged.seconds:.0f} s" if judged.right else "; ".join(judged.problems),
        right=passed and judged.right and changed == 0,
    )


def _run_module(option: str, path: str, more: list[str]) -> SubRun:
    given = [option] if option else []
    given.append(str(data_root() / path))
    return run_test([*given, "--only", _CATEGORIES, *more])


def _way(suite: Suite) -> str:
    """How the guest came here; of an imported image its own files say who made it."""
    if suite.image is None:
        return "built here"
    mark = find_image(suite.image).rootfs / _PACKER_MARK
    return f"built by {mark.read_text().strip()}" if mark.is_file() else "imported cloud image"


def _first_boot(image_key: str) -> tuple[float | None, int | None]:
    """Seconds of the boot before the newest snapshot, and what the roles changed after it."""
    found = sorted(
        (cache_dir() / "snapshots").glob(f"*-{image_key}-*/snapshot.json"),
        key=lambda path: path.stat().st_mtime,
    )
    if not image_key or not found:
        return None, None
    facts = json.loads(found[-1].read_text())
    return float(facts["boot_s"]), int(facts["provision"]["changed"])


def _boot_of_box(image_key: str) -> tuple[float | None, int | None]:
    """The same of the box that was made of this image, from the proof beside its files."""
    made = [image for image in list_images() if image.manifest.key == image_key]
    record = box_directory(BoxId.of(made[0])) / PROOF if made else None
    if record is None or not record.is_file():
        return None, None
    facts = json.loads(record.read_text())
    return float(facts["boot_s"]), int(facts["changed"])


def table(rows: list[Row]) -> str:
    """Markdown, for docs/cloud-images.md."""
    lines = [
        "| guest | way | kernel | first boot | changed by the roles "
        f"| {' | '.join(_MODULES)} | {_PLANTED} |",
        f"|---|---|---|--:|--:|{'---|' * len(_MODULES)}---|",
    ]
    lines += [
        f"| `{row.guest}` | {row.way} | {row.kernel} | {row.first_boot} | {row.changed} "
        f"| {' | '.join(row.modules)} | {row.planted} |"
        for row in rows
    ]
    return "\n".join(lines)


def main(names: list[str]) -> int:
    """Try the named guests, or the default suite, its box and every imported image."""
    imported = [image.name for image in list_images() if image.name == image.guest]
    known = [DEFAULT_SUITE, f"{BY_VAGRANT}{DEFAULT_SUITE}", *imported]
    rows = [try_guest(name) for name in names or known]
    print(table(rows))
    return int(ExitCode.PASS if all(row.right for row in rows) else ExitCode.FAILED)


if __name__ == "__main__":
    with interruptible():
        try:
            sys.exit(main(sys.argv[1:]))
        except VexrunError as error:
            say(f"{error.message}\n{error.evidence}\n{error.hint}")
            sys.exit(int(error.exit_code))
