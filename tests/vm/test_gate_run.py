"""The way of a module from the virtual machine to a device and on, with evidence of real runs.

Whole runs of every category: twenty minutes on two cores without KVM. With VEXRUN_TEST_GATE_DIR
the runs are kept there and counted the next time; with VEXRUN_TEST_SOAK=10 there are as many as
production asks for, and its gate opens.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import CHECKOUT, Run
from playing_device import played_device

from vexrun.device.confirmation import token_of
from vexrun.device.description import load_device

pytestmark = [pytest.mark.vm, pytest.mark.slow]

SOAK = int(os.environ.get("VEXRUN_TEST_SOAK", "2"))
FOR_PRODUCTION = 10
CHECKLIST = "".join(
    f'[{item}]\nname = "Ada Lovelace"\ndate = 2026-11-22\n'
    for item in ("backup", "monitoring", "recovery")
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the source is and the runs go."""
    kept = os.environ.get("VEXRUN_TEST_GATE_DIR")
    directory = Path(kept) if kept else tmp_path
    monkeypatch.setenv("VEXRUN_STATE_DIR", str(directory / "state"))
    return directory


@pytest.fixture
def source(place: Path) -> Path:
    """vexfs-ref as a repository of its own, for production wants a commit."""
    tree = place / "vexfs-ref"
    if not tree.exists():
        shutil.copytree(CHECKOUT / "examples" / "vexfs-ref", tree)
        who = ["-c", "user.name=Ada Lovelace", "-c", "user.email=ada@example.org"]
        for arguments in (["init", "-q"], ["add", "."], [*who, "commit", "-q", "-m", "vexfs-ref"]):
            subprocess.run(["git", "-C", tree, *arguments], check=True)
    return tree


def vexrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vexrun.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def asked(run: str, gate: str, *arguments: str) -> tuple[int, list[str], dict[str, Any]]:
    """Exit status of the gate, the lines that are not met, and the whole answer."""
    done = vexrun("gate", run, "--for", gate, "--json", *arguments)
    assert done.stdout, done.stderr
    answer = json.loads(done.stdout)
    return done.returncode, [line["id"] for line in answer["lines"] if not line["ok"]], answer


@contextmanager
def one_byte_changed(file: Path) -> Iterator[None]:
    whole = file.read_bytes()
    middle = len(whole) // 2
    file.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    yield
    file.write_bytes(whole)


def passing_runs(place: Path) -> list[str]:
    """Runs in the virtual machine so far, oldest first."""
    found = []
    for file in sorted((place / "state" / "runs").glob("2*/results.json")):  # not `latest`
        results = json.loads(file.read_text())
        if results["target"]["kind"] == "vm" and results["verdict"] == "pass":
            found.append(results["run_id"])
    return found


def test_from_the_virtual_machine_to_a_device_and_on(
    place: Path, source: Path, vexrun_test: Callable[..., Run], suite: str, tmp_path: Path
) -> None:
    while len(passing_runs(place)) < SOAK:
        run = vexrun_test(str(source))
        assert run.status == 0, (run.results["reasons"], run.stderr[-2000:])
        if len(passing_runs(place)) == 1:
            assert asked(run.results["run_id"], "device")[:2] == (1, ["soak"]), "once is not enough"
    latest = passing_runs(place)[-1]
    directory = place / "state" / "runs" / latest

    # It opens, is sealed, and every byte counts.
    seal = tmp_path / "vexfs-ref.gate.json"
    status, missing, answer = asked(latest, "device", "--seal", str(seal))
    assert (status, missing) == (0, []), answer
    verified = vexrun("gate", "verify", str(seal))
    assert verified.returncode == 0, verified.stdout
    assert "The seal holds." in verified.stdout

    with played_device(suite, tmp_path) as shelf:
        shelf.make_blank()
        file = tmp_path / "shelf.toml"
        file.write_text(shelf.file())
        token = token_of(load_device(str(file)))
        on_shelf = ["--target", "device", "--device", str(file), "--confirm", token]
        on_shelf += ["--seal", str(seal)]
        for name in ("console.log", "results.json", "vexfs_ref.ko", "junit.xml"):
            with one_byte_changed(directory / name):
                broken = vexrun("gate", "verify", str(seal))
                assert broken.returncode == 1
                assert f"'{name}' was changed after it was sealed." in broken.stdout
                if name in ("results.json", "vexfs_ref.ko"):
                    assert asked(latest, "device")[:2] == (1, ["intact"])
        with one_byte_changed(directory / "console.log"):
            refused = vexrun("test", str(source), *on_shelf)
            assert refused.returncode == 1
            assert "gate to the device is shut" in refused.stderr

        device_run = vexrun_test(str(source), *on_shelf)
    assert device_run.status == 0, (device_run.results["reasons"], device_run.stderr[-2000:])
    device = device_run.results["device"]
    assert device["gate_run"] == latest
    assert device["problems"] == [] and device["override"] is None
    assert device_run.results["module"]["sha256"] == answer["module_sha256"]

    # On to production: what is missing is named, and nothing else is.
    soaks = [] if len(passing_runs(place)) >= FOR_PRODUCTION else ["soak"]
    assert asked(latest, "production")[1] == [*soaks, "sign-off"]
    checklist = tmp_path / "checklist.toml"
    checklist.write_text(CHECKLIST)
    status, missing, answer = asked(latest, "production", "--checklist", str(checklist))
    assert missing == soaks
    assert status == (1 if soaks else 0)
    line = next(line for line in answer["lines"] if line["id"] == "device-run")
    assert device_run.results["run_id"] in line["found"]
