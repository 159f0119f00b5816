"""Planted bugs, each through the whole of `vexrun test`: what must be said about every one."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cases import CANARIES, Canary

HERE = Path(__file__).parent

pytestmark = pytest.mark.vm


def parameters() -> list[Any]:
    return [
        pytest.param(
            canary,
            id=canary.bug.lower() or "sound-twin",
            marks=[pytest.mark.smoke] if canary.smoke else [],
        )
        for canary in CANARIES
    ]


def run_vexrun(source: Path, only: str, suite: str) -> tuple[int, dict[str, Any]]:
    """Exit status and results.json of a run, as a user's CI would get them."""
    done = subprocess.run(
        [sys.executable, "-m", "vexrun.cli", "test", str(source), "--only", only]
        + ["--suite", suite, "--json"],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    return done.returncode, json.loads(done.stdout)


def plant(canary: Canary, directory: Path) -> Path:
    """A copy of canaryfs whose subject file asks for the bug."""
    source = directory / "canaryfs"
    shutil.copytree(HERE / "canaryfs", source)
    file = source / "vexrun.toml"
    file.write_text(
        file.read_text().replace(
            "[module]\n", f'[module]\nmake_vars = {{ CANARY = "{canary.bug}" }}\n'
        )
    )
    return source


@pytest.mark.parametrize("canary", parameters())
def test_canary_is_called_what_it_is(canary: Canary, tmp_path: Path, suite: str) -> None:
    status, results = run_vexrun(plant(canary, tmp_path), canary.only, suite)
    bad = [test for test in results["tests"] if test["outcome"] not in ("passed", "skipped")]
    told = json.dumps([results["reasons"], bad], indent=1)

    assert results["verdict"] == canary.verdict, told
    assert status == canary.exit_code == results["exit_code"], told
    assert results["complete"] is True
    if canary.outcome:
        assert any(re.fullmatch(canary.outcome, test["outcome"]) for test in bad), told
    else:
        assert not bad, told
    if canary.blamed:
        assert bad[0]["id"].startswith(canary.blamed), told
    if canary.says:
        assert canary.says in told
    events = results["kernel_events"]
    if canary.event_class:
        assert events, told
        assert re.fullmatch(canary.event_class, events[0]["class"]), told
        assert canary.title in f"{events[0]['title']} {events[0]['module_frame']}", told
    elif not canary.outcome or "hung" not in canary.outcome:
        assert not events, told
    assert (Path(results["run_dir"]) / "report.html").is_file()


def test_forged_kernel_messages_are_not_believed(tmp_path: Path, suite: str) -> None:
    """Userspace prints a panic on the console and into the kernel log: a sound module passes."""
    source = plant(CANARIES[0], tmp_path)
    file = source / "vexrun.toml"
    forged = "Kernel panic - not syncing: forged"
    file.write_text(
        file.read_text()
        .replace('backing = "nodev"', 'backing = "block"\nmkfs = "{tools}/forge {device}"')
        .replace('lacks = ["statfs"]', 'lacks = ["statfs", "persistence", "mountedcheck"]')
        + '\n[[tools]]\nname = "forge"\nbuild = "cp forge.sh {out} && chmod 755 {out}"\n'
    )
    (source / "forge.sh").write_text(
        "#!/bin/sh\n"
        f"echo '<0>{forged}' >/dev/kmsg\n"
        f"echo '[   99.123456] {forged}' >/dev/ttyS0\n"
        "echo 'BUG: unable to handle page fault' >/dev/ttyS0\n"
    )
    status, results = run_vexrun(source, "fsops", suite)
    assert (status, results["verdict"]) == (0, "pass"), results["reasons"]
    assert results["kernel_events"] == []
