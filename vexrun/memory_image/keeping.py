"""Take a dead guest's memory into the run directory, and write down what it says.

Nothing of it decides anything: the test has been judged before, and whatever goes wrong here
becomes a note.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from vexrun.errors import InfrastructureError
from vexrun.image.namespace import Bind, run_in_root
from vexrun.memory_image.description import describe
from vexrun.memory_image.kdump import BadImageError, KdumpFile, unflatten
from vexrun.results.model import MemoryImage
from vexrun.settings import CoreSettings
from vexrun.vm.machine import Machine

#: What must stay free on the disk of the run directory, for everything else the run writes.
_SPARE = 1 << 30
_POLL_S = 0.1
_DRGN_S = 120.0
_DRGN = "usr/bin/drgn"
_SCRIPT = Path(__file__).with_name("drgn_script.py")
_REPORT_LIMIT = 40_000


class MemoryImages:
    """Those of one run. `rootfs` is the image's, whose drgn reads them where symbols are."""

    def __init__(self, directory: Path, settings: CoreSettings, rootfs: Path) -> None:
        self.directory = directory
        self.settings = settings
        self.rootfs = rootfs
        self.taken: list[MemoryImage] = []

    def take(self, machine: Machine, why: str, test: str) -> MemoryImage:
        """Stop the guest, keep its memory, describe it.

        Raises InfrastructureError, OSError or BadImageError, and leaves no file then.
        """
        file = self.directory / f"core-{len(self.taken) + 1}.kdump"
        raw, text = file.with_suffix(".flat"), file.with_suffix(".txt")
        begun = time.monotonic()
        try:
            self._dump(machine, raw)
            unflatten(raw, file)
            taken = time.monotonic()
            report = self._describe(file)
            text.write_text(report)
        except BaseException:
            file.unlink(missing_ok=True)
            text.unlink(missing_ok=True)
            raise
        finally:
            raw.unlink(missing_ok=True)
        image = MemoryImage(
            file=file.name,
            test=test,
            why=why,
            size_mib=round(file.stat().st_size / 2**20, 1),
            taken_in_s=round(taken - begun, 2),
            read_in_s=round(time.monotonic() - taken, 2),
            report=report[:_REPORT_LIMIT],
        )
        self.taken.append(image)
        return image

    def _dump(self, machine: Machine, file: Path) -> None:
        kept = sum(image.size_mib for image in self.taken)
        limit = int((self.settings.limit_mib - kept) * 2**20)
        if limit <= 0:
            raise InfrastructureError(
                f"the {len(self.taken)} that were kept have {kept:.0f} MiB, of "
                f"{self.settings.limit_mib} allowed for a run (core.limit_mib)"
            )
        # Twice: as QEMU writes it, and as it is kept.
        if shutil.disk_usage(self.directory).free < 2 * limit + _SPARE:
            raise InfrastructureError(f"there is too little space in '{self.directory}'")
        monitor = machine.monitor
        monitor.execute("stop")
        monitor.execute(
            "dump-guest-memory",
            paging=False,
            protocol=f"file:{file}",
            format="kdump-zlib",
            detach=True,
        )
        until = time.monotonic() + self.settings.limit_s
        while True:
            progress = monitor.execute("query-dump")
            if progress["status"] == "completed":
                return
            if progress["status"] == "failed":
                raise InfrastructureError("QEMU could not write it")
            # QEMU cannot be told to stop; it is ended with its machine, right after this.
            if file.exists() and file.stat().st_size > limit:
                raise InfrastructureError(f"it grew beyond {limit >> 20} MiB (core.limit_mib)")
            if time.monotonic() > until:
                raise InfrastructureError(
                    f"QEMU had not written it after {self.settings.limit_s:.0f} s (core.limit_s)"
                )
            time.sleep(_POLL_S)

    def _describe(self, file: Path) -> str:
        try:
            text = describe(file)
        except BadImageError as error:
            return f"This memory image cannot be read: {error}.\n"
        release = text.split("\n", 1)[0].removeprefix("kernel ")
        return text + "\n" + self._with_symbols(file, release)

    def _with_symbols(self, file: Path, release: str) -> str:
        """What drgn says, where there are debug symbols and a drgn."""
        symbols = self._symbols(release)
        if symbols is None or not (self.rootfs / _DRGN).exists():
            what = "drgn in the image" if symbols else f"debug symbols for {release}"
            return (
                f"There is no {what}, so drgn was not asked. With the symbols (Debian: package "
                f"linux-image-{release}-dbg, or a path in core.vmlinux): "
                f"drgn -c {file.name} -s vmlinux-{release}\n"
            )
        modules = [*self.directory.glob("*.ko"), *self.directory.glob("siblings/*.ko")]
        try:
            said = ask_drgn(self.rootfs, file, symbols, modules)
        except (InfrastructureError, BadImageError) as error:
            return f"drgn could not be asked: {error}\n"
        return f"== with debug symbols, from drgn\n{said}\n"

    def _symbols(self, release: str) -> Path | None:
        debug = "usr/lib/debug/boot"
        named = [self.settings.vmlinux] if self.settings.vmlinux else []
        usual = [root / debug / f"vmlinux-{release}" for root in (self.rootfs, Path("/"))]
        return next((path for path in [*named, *usual] if path.is_file()), None)


def ask_drgn(rootfs: Path, core: Path, symbols: Path, modules: Sequence[Path]) -> str:
    """Run drgn_script.py over a memory image, without any right: a module has written there.

    Raises InfrastructureError when drgn fails.
    """
    script_dir, core_dir, symbol_dir = "/mnt", "/srv", "/media"
    argv = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--"]
    argv += [f"/{_DRGN}", "-q", "-c", f"{core_dir}/{core.name}"]
    argv += ["-s", f"{symbol_dir}/{symbols.name}"]
    for module in modules:
        argv += ["-s", f"{core_dir}/{module.relative_to(core.parent)}"]
    with KdumpFile(core) as image:
        registers = [each.hex() for each in image.registers()]
    done = run_in_root(
        rootfs,
        [*argv, f"{script_dir}/{_SCRIPT.name}", *registers],
        binds=[
            Bind(core.parent, core_dir),
            Bind(symbols.parent.resolve(), symbol_dir),
            Bind(_SCRIPT.parent, script_dir),
        ],
        readonly=True,
        timeout=_DRGN_S,
        check=False,
    )
    if done.returncode != 0:
        raise InfrastructureError(f"it ended with {done.returncode}: {done.tail(4)}")
    return done.stdout.rstrip()
