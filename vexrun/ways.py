"""One table over the ways to a guest: `make ways`.

Each guest that --suite can name is booted, proven (the roles again over ssh), given a module that
must pass and one with a planted bug that must be found.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from vexrun.errors import ExitCode, VexrunError
from vexrun.image.catalog import find_guest, list_images
from vexrun.image.suites import DEFAULT_SUITE
from vexrun.interrupt import interruptible
from vexrun.layout import cache_dir, data_root
from vexrun.output import say
from vexrun.selftest import choose_canaries, load_canaries, run_canary
from vexrun.subrun import run_test

#: A real module, shortly: loaded, formatted, mounted, written to.
_SUBJECT = "examples/subjects/minix.toml"
_CATEGORIES = "build,module,mkfs,mount"
#: A NULL pointer in a module's init: the kernel's word, its place, and the end of the machine.
_PLANTED = "oops-in-init"


@dataclass(frozen=True)
class Row:
    """What one guest did. `right` only if all of it was as it must be."""

    guest: str
    way: str
    kernel: str
    first_boot: str
    changed: str
    module: str
    planted: str
    right: bool


def try_guest(name: str) -> Row:
    """Run both modules in the guest that --suite calls `name`."""
    suite = find_guest(name)
    subject = str(data_root() / _SUBJECT)
    run = run_test(["--subject", subject, "--only", _CATEGORIES, "--suite", suite.name])
    (planted,) = choose_canaries(load_canaries(), [_PLANTED], False)
    with tempfile.TemporaryDirectory(prefix="vexrun-ways-") as directory:
        judged = run_canary(planted, suite.name, Path(directory))
    target = run.results.target if run.results else None
    boot_s, changed = _first_boot(target.image_key if target and target.image_key else "")
    passed = run.results is not None and run.status == ExitCode.PASS
    return Row(
        guest=suite.name,
        way="imported cloud image" if suite.image else "built here",
        kernel=(target.kernel if target else None) or "unknown",
        first_boot=f"{boot_s:.0f} s" if boot_s is not None else "unknown",
        changed="unknown" if changed is None else str(changed),
        module=f"{run.results.verdict.value}, {run.seconds:.0f} s" if run.results else run.said,
        planted=f"found, {judged.seconds:.0f} s" if judged.right else "; ".join(judged.problems),
        right=passed and judged.right and changed == 0,
    )


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


def table(rows: list[Row]) -> str:
    """Markdown, for docs/cloud-images.md."""
    lines = [
        f"| guest | way | kernel | first boot | changed by the roles | minix | {_PLANTED} |",
        "|---|---|---|--:|--:|---|---|",
    ]
    lines += [
        f"| `{row.guest}` | {row.way} | {row.kernel} | {row.first_boot} | {row.changed} "
        f"| {row.module} | {row.planted} |"
        for row in rows
    ]
    return "\n".join(lines)


def main(names: list[str]) -> int:
    """Try the named guests, or the default suite and every imported image; print the table."""
    imported = [image.name for image in list_images() if image.name == image.guest]
    rows = [try_guest(name) for name in names or [DEFAULT_SUITE, *imported]]
    print(table(rows))
    return int(ExitCode.PASS if all(row.right for row in rows) else ExitCode.FAILED)


if __name__ == "__main__":
    with interruptible():
        try:
            sys.exit(main(sys.argv[1:]))
        except VexrunError as error:
            say(f"{error.message}\n{error.evidence}\n{error.hint}")
            sys.exit(int(error.exit_code))
