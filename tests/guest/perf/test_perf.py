"""How fast the subject is compared with ext4 in the same machine, and what memory it takes.

A job fails when it does not run to its end on either, never because of its figures: what is slow
enough to be wrong is for people, or for `vexrun compare`, to say.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import perf_in_guest as guest_code
import pytest
from contest import KIB, MIB, Contest, keep
from vexrun.guest.context import RunContext
from vexrun.guest.filesystem import Filesystem
from vexrun.guest.fixtures import Guest, Measure
from vexrun.guest.scratch import Scratch
from vexrun.subject import Subject

REPEAT = 5
#: Starting fio takes seconds where instructions are emulated, and so many libraries are linked.
REPEAT_WHERE_SLOW = 3
SLOW = 3.0

#: fio jobs, run one after the other on one file: name, options, the side of fio's report.
JOBS = (
    ("sequential write", "rw=write bs=64k end_fsync=1", "write"),
    ("sequential read", "rw=read bs=64k", "read"),
    ("random write", "rw=randwrite bs=4k end_fsync=1 io_size=1m", "write"),
    ("random read", "rw=randread bs=4k io_size=1m", "read"),
    ("mixed read and write", "rw=randrw bs=4k rwmixread=70 io_size=1m", "read"),
    ("write with fsync", "rw=write bs=4k fsync=1 io_size=64k", "write"),
)


@pytest.fixture
def contest(guest: Guest, filesystem: Filesystem, scratch: Scratch) -> Iterator[Contest]:
    """Fresh file systems of both kinds, mounted; unmounted afterwards."""
    yield Contest(guest, filesystem, scratch)
    filesystem.umount_all()


def fio_command(root: str, size: int) -> str:
    """One fio for all jobs: starting it costs more than most of them take."""
    common = f"--filename={root}/fio.data --size={size} --ioengine=psync --fallocate=none"
    argv = ["fio --output-format=json --thread --randseed=1", common]
    for name, options, _ in JOBS:
        argv += [f"--name='{name}' --stonewall", *(f"--{option}" for option in options.split())]
    return f"{' '.join(argv)} && rm -f {root}/fio.data"


def speeds(report: dict[str, Any]) -> dict[str, float]:
    """KiB a second of each job, from fio's own report."""
    found = {}
    jobs = {job["jobname"]: job for job in report["jobs"]}
    for name, _, side in JOBS:
        job = jobs[name]
        assert job["error"] == 0, f"fio's job '{name}' ended with error {job['error']}"
        assert job[side]["io_bytes"] > 0, f"fio's job '{name}' moved no byte"
        # `bw` is 0 for a job that is over within one of fio's milliseconds.
        found[name] = job[side]["io_bytes"] / KIB / max(job[side]["runtime"], 1) * 1000
    return found


@pytest.mark.needs_operations("write", "create", "unlink", "fsync", "largefile")
def test_fio(contest: Contest, guest: Guest, context: RunContext, measure: Measure) -> None:
    """Sequential, random, mixed and fsync-heavy jobs."""
    repeat = REPEAT if context.slowdown < SLOW else REPEAT_WHERE_SLOW
    size = min(8 * MIB, contest.room()[0] // 3 // MIB * MIB)
    assert size, "there is not even a MiB to work with: raise filesystem.size_mib"
    reports = contest.in_turn(repeat, lambda root: json.loads(guest.check(fio_command(root, size))))
    keep("fio.json", reports)
    rates = {name: [speeds(report) for report in runs] for name, runs in reports.items()}
    for name, _, _ in JOBS:
        measure(
            f"fio {name}",
            "KiB/s",
            "higher",
            [rate[name] for rate in rates["subject"]],
            [rate[name] for rate in rates["ext4"]],
        )


@pytest.mark.needs_operations("write", "create", "unlink", "mkdir", "manyfiles")
def test_metadata_rates(contest: Contest, guest: Guest, measure: Measure, subject: Subject) -> None:
    """create, stat, rename and unlink of small files in one directory."""
    count = how_many(contest, 200)
    renames = "rename" not in subject.filesystem.lacked_operations
    rates = contest.in_turn(
        REPEAT, lambda root: guest.call(guest_code.metadata_rates, root, count, renames)
    )
    keep("metadata.json", rates)
    for name in rates["subject"][0]:
        measure(
            f"metadata {name}",
            "files/s",
            "higher",
            [rate[name] for rate in rates["subject"]],
            [rate[name] for rate in rates["ext4"]],
        )


@pytest.mark.needs_operations("write", "create", "unlink", "mkdir", "manyfiles")
def test_slab_of_new_files(contest: Contest, guest: Guest, measure: Measure) -> None:
    """Kernel memory (slab) that a thousand new files hold."""
    count = how_many(contest, 400)
    grown = contest.in_turn(REPEAT, lambda root: guest.call(guest_code.slab_of_files, root, count))
    keep("slab.json", grown)
    measure("slab of 1000 files", "KiB", "lower", grown["subject"], grown["ext4"])


def how_many(contest: Contest, wanted: int) -> int:
    """Files both file systems have inodes and blocks for, with a reserve."""
    size, inodes = contest.room()
    count = min(wanted, size // (16 * KIB), inodes // 2 if inodes else wanted)
    assert count >= 8, "there is no room for 8 files: raise filesystem.size_mib"
    return count


def test_vectors(
    guest: Guest, mounted: Filesystem, context: RunContext, subject: Subject, measure: Measure
) -> None:
    """The subject's own benchmark, when it declares one: JSON on stdout, every number kept."""
    if subject.bench is None or subject.bench.vectors is None:
        pytest.skip("the subject file declares no benchmark (bench.vectors)")
    command = context.command(
        subject.bench.vectors, mount=mounted.path, device=mounted.scratch.main
    )
    runs = []
    for _ in range(3):
        said = guest.check(f"( {command} ) </dev/null")
        try:
            runs.append(json.loads(said))
        except json.JSONDecodeError as error:
            raise AssertionError(f"'{command}' printed no JSON: {error}\n{said[:1000]}") from error
    keep("vectors.json", runs)
    numbers = [dict(numeric_leaves(run)) for run in runs]
    assert numbers[0], f"'{command}' printed no number"
    for name in numbers[0]:
        measure(f"vectors {name}", "", better(name), [each[name] for each in numbers], [])


def numeric_leaves(document: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a JSON document, by their dotted path."""
    if isinstance(document, dict):
        for key, value in document.items():
            yield from numeric_leaves(value, f"{path}.{key}" if path else key)
    elif isinstance(document, int | float) and not isinstance(document, bool):
        yield path, float(document)


def better(name: str) -> str:
    """Whether more of it is better, by its name: rates and recall are, times are not."""
    words = ("per_s", "per_second", "throughput", "recall", "ops", "qps", "iops", "rate")
    return "higher" if any(word in name.lower() for word in words) else "lower"
