"""Filesystems of the suite's own kernel source, from source to verdict."""

from __future__ import annotations

import hashlib
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable

import pytest
from conftest import SUBJECTS, Run

from vexrun.categories import CATEGORIES

pytestmark = pytest.mark.vm

CORE = ["structure", "build", "module", "mkfs", "mount", "fsops"]
#: What is selected when nothing is asked for; these subjects have no unit suite and no own tests.
DEFAULT = [row.name for row in CATEGORIES.values() if row.name not in ("unit", "own")]


@pytest.mark.parametrize(
    ("name", "categories"),
    [
        ("minix", DEFAULT),
        ("ext2", CORE),
        pytest.param("exfat", CORE, marks=pytest.mark.slow),
        pytest.param("ext2", DEFAULT, marks=pytest.mark.slow),
        pytest.param("exfat", DEFAULT, marks=pytest.mark.slow),
    ],
    ids=["minix", "ext2-core", "exfat-core", "ext2", "exfat"],
)
def test_good_filesystem_passes_everywhere(
    name: str, categories: list[str], vexrun_test: Callable[..., Run]
) -> None:
    only = [] if categories is DEFAULT else ["--only", ",".join(categories)]
    run = vexrun_test("--subject", str(SUBJECTS / f"{name}.toml"), *only)
    results = run.results
    bad = [
        (t["id"], t["outcome"], t["message"])
        for t in results["tests"]
        if t["outcome"] not in ("passed", "skipped")
    ]

    assert (run.status, results["verdict"]) == (0, "pass"), (results["reasons"], bad)
    assert results["selected_categories"] == categories
    passed = {test["category"] for test in run.outcomes("passed")}
    assert passed == {*categories, "teardown"}
    assert all(test["message"] for test in run.outcomes("skipped"))
    assert results["kernel_events"] == []

    module = results["module"]
    kept = run.directory / module["file"]
    assert hashlib.sha256(kept.read_bytes()).hexdigest() == module["sha256"]
    assert module["identity_proven"]
    assert module["loaded_srcversion"] == module["srcversion"] != ""
    assert module["loaded_build_id"] == module["build_id"]
    assert results["subject"]["tree_sha256"] == results["subject"]["tree_sha256_after"]

    for file in (
        "console.log",
        "dmesg.log",
        "events.jsonl",
        "report.html",
        "report.md",
        "report.txt",
        "manifest.json",
    ):
        assert (run.directory / file).stat().st_size > 0, file
    assert b"Linux version" in (run.directory / "console.log").read_bytes()
    suites = ElementTree.parse(run.directory / "junit.xml").getroot()
    assert int(suites.get("failures", "-1")) == int(suites.get("errors", "-1")) == 0


def test_guest_build_is_bit_identical_to_the_native_one(vexrun_test: Callable[..., Run]) -> None:
    subject = ["--subject", str(SUBJECTS / "minix.toml"), "--only", "module"]
    native = vexrun_test(*subject, "--build", "native")
    guest = vexrun_test(*subject, "--build", "guest")

    assert native.results["builds"][0]["where"] == "native", native.results["reasons"]
    assert guest.results["builds"][0]["where"] == "guest", guest.results["reasons"]
    assert native.status == guest.status == 0, guest.results["reasons"]
    assert native.results["module"]["sha256"] == guest.results["module"]["sha256"]
    assert guest.results["module"]["identity_proven"]
