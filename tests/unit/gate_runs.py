"""Directories of runs that never were: consistent in every file, so that a test can break one."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from vexrun import __version__, tree
from vexrun.categories import CATEGORIES
from vexrun.events import RunDescribed, TestFinished, TestsCollected
from vexrun.guest.context import BuiltModule, RunContext
from vexrun.image.manifest import ImageInputs, Manifest
from vexrun.report.json import to_json
from vexrun.results.model import (
    ModuleInfo,
    Outcome,
    RunResults,
    SubjectInfo,
    TargetInfo,
    TestResult,
    VariantBuild,
)
from vexrun.subject import load_subject
from vexrun.verdict import judge

RELEASE = "6.12.9-amd64"
SRCVERSION = "0123456789ABCDEF0123456"
#: Named in vexrun/gate/criteria.toml.
ASKED_FOR = [
    "module/test_lifecycle.py::test_load_and_unload_ten_times",
    "module/test_lifecycle.py::test_nothing_is_left_behind[loaded]",
    "fsops/test_content.py::test_file_is_read_back[empty]",
    "errors/test_read_only.py::test_every_change_is_refused_after_a_remount",
    "stress/test_cycles.py::test_loading_leaves_no_memory_behind",
]
TEARDOWN = "teardown/umount_and_unload"


def kernel_module(**modinfo: str) -> bytes:
    """The smallest ELF file with a .modinfo section."""
    content = b"".join(f"{key}={value}\0".encode() for key, value in modinfo.items())
    names = b"\0.modinfo\0.shstrtab\0"
    after = 64 + len(content) + len(names)
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, after, 0, 64, 0, 0, 64, 3, 2)

    def section(name: int, kind: int, offset: int, size: int) -> bytes:
        return struct.pack("<IIQQQQIIQQ", name, kind, 0, 0, offset, size, 0, 0, 1, 0)

    table = section(0, 0, 0, 0) + section(1, 1, 64, len(content))
    return header + content + names + table + section(10, 3, 64 + len(content), len(names))


class MadeRun:
    """A run's directory. Change `results` or `tests`, then `write`; or edit the files after it."""

    def __init__(self, directory: Path, source: Path) -> None:
        self.path = directory
        directory.mkdir(parents=True)
        state = tree.measure(source)
        self.module = kernel_module(
            license="GPL",
            name="demo",
            srcversion=SRCVERSION,
            vermagic=f"{RELEASE} SMP preempt mod_unload modversions ",
        )
        self.manifest = Manifest(
            name="trixie-0",
            key="0",
            inputs=ImageInputs(suite="trixie", disk_gib=12, roles_sha256=""),
            created_at="",
            built_as="root",
            kernel_release=RELEASE,
            packages={},
            sha256={},
            files_sha256="",
        ).model_dump_json()
        sha256 = hashlib.sha256(self.module).hexdigest()
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self.results = RunResults(
            vexrun_version=__version__,
            run_id=directory.name,
            run_dir=str(directory),
            started_at=now,
            finished_at=now,
            complete=True,
            selected_categories=[*CATEGORIES],
            subject=SubjectInfo(
                name="demo",
                source=str(source),
                tree_sha256=state.sha256,
                tree_sha256_after=state.sha256,
                subject_file=str(source / "vexrun.toml"),
            ),
            module=ModuleInfo(
                file="demo.ko",
                sha256=sha256,
                srcversion=SRCVERSION,
                vermagic=f"{RELEASE} SMP preempt mod_unload modversions ",
                loaded_srcversion=SRCVERSION,
                identity_proven=True,
            ),
            builds=[
                VariantBuild(name="default", ok=True, where="native", duration_s=1, sha256=sha256)
            ],
            target=TargetInfo(
                kind="vm",
                backend="qemu",
                accel="tcg",
                kernel=RELEASE,
                suite="trixie",
                image_key="0",
                image_manifest_sha256=hashlib.sha256(self.manifest.encode()).hexdigest(),
            ),
        )
        some = [f"{name}/test_x.py::test_x" for name in CATEGORIES]
        for identifier in [*some, *ASKED_FOR, TEARDOWN]:
            self.results.tests.append(
                TestResult(id=identifier, category=identifier.split("/")[0], outcome=Outcome.PASSED)
            )
        self.context = RunContext(
            subject=load_subject(source / "vexrun.toml"),
            source=source,
            module=BuiltModule(
                path="/m.ko",
                name="demo",
                sha256=sha256,
                srcversion=SRCVERSION,
                build_id=None,
                vermagic=None,
                licence="GPL",
            ),
        )
        self.write()

    @property
    def json(self) -> Path:
        return self.path / "results.json"

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def console(self) -> Path:
        return self.path / "console.log"

    def test(self, beginning: str) -> TestResult:
        return next(test for test in self.results.tests if test.id.startswith(beginning))

    def write(self) -> None:
        """Every file as a run with these results would have left it."""
        judge(self.results, interrupted=not self.results.complete)
        self.json.write_text(to_json(self.results))
        ids = [test.id for test in self.results.tests]
        collected = [identifier for identifier in ids if identifier != TEARDOWN]
        events = [TestsCollected(collected), *map(TestFinished, self.results.tests)]
        lines = [json.dumps(event.record()) for event in [*events, RunDescribed(self.results)]]
        self.events.write_text("\n".join(lines) + "\n")
        marks = (f"[{n:5}.000000] vexrun-mark abcd1234 {n:05d}" for n in range(len(ids) + 1))
        self.console.write_text("\n".join(marks) + "\n")
        (self.path / "demo.ko").write_bytes(self.module)
        (self.path / "manifest.json").write_text(self.manifest)
        (self.path / "context.json").write_text(self.context.model_dump_json(indent=2))


MakeRun = Callable[[str], MadeRun]
