"""A real Vagrant: by hand with the box of `vexrun image box`, and as the backend of real runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import CHECKOUT, SUBJECTS, Run, qemus_of

from vexrun.events import ignore
from vexrun.image.box import BoxId
from vexrun.image.box_home import ensure_box
from vexrun.image.build import ensure_base
from vexrun.image.catalog import find_guest
from vexrun.layout import cache_dir
from vexrun.selftest import choose_canaries, load_canaries, run_canary
from vexrun.settings import load_settings
from vexrun.vm.vagrant_cli import vagrant_home

pytestmark = pytest.mark.vm


class ByHand:
    """`vagrant` as a person types it, with our Vagrantfile; `state` is this test's own."""

    def __init__(self, box: BoxId, state: Path) -> None:
        self.state = state
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(state),
            "VAGRANT_HOME": str(vagrant_home()),
            "VAGRANT_DOTFILE_PATH": str(state / "dot"),
            "VAGRANT_NO_PLUGINS": "1",
            "VAGRANT_CHECKPOINT_DISABLE": "1",
            "VAGRANT_NO_COLOR": "1",
            "VEXRUN_BOX": box.name,
            "VEXRUN_BOX_VERSION": box.version,
            "VEXRUN_CACHE_DIR": str(cache_dir()),
            "VEXFS_SOURCE": str(state / "source"),
        }

    def __call__(self, *words: str) -> str:
        done = subprocess.run(
            ["vagrant", *words],
            cwd=CHECKOUT / "vagrant",
            env=self.environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def status(self) -> str:
        lines = self("status", "--machine-readable").splitlines()
        (state,) = [line.split(",")[3] for line in lines if line.split(",")[2] == "state"]
        return state

    def guest(self, command: str) -> str:
        return self("ssh", "-c", command)


@pytest.fixture
def vagrant(suite: str, tmp_path: Path) -> Iterator[ByHand]:
    assert shutil.which("vagrant"), "not installed: make setup"
    settings = load_settings()
    image = ensure_base(find_guest(suite), settings.image, ignore)
    state = Path(tempfile.mkdtemp(prefix="vexrun-vagrant-"))
    (state / "source").mkdir()
    (state / "source" / "hello.c").write_text("first\n")
    by_hand = ByHand(ensure_box(image, settings, ignore), state)
    try:
        yield by_hand
    finally:
        by_hand("destroy", "-f")
        shutil.rmtree(state)


@pytest.mark.slow
def test_a_machine_by_hand(vagrant: ByHand) -> None:
    """One cycle of everything: each boot costs half a minute in an emulated guest."""
    assert vagrant.status() == "not_created"
    vagrant("up")
    assert vagrant.status() == "running"
    said = vagrant.guest("id -un; sudo id -u; cat /mnt/vexfs-src/hello.c; ls /dev/disk/by-id")
    assert said.split()[:3] == ["vagrant", "0", "first"]
    assert {"virtio-vexrun-scratch0", "virtio-vexrun-small"} <= set(said.split())
    assert "Read-only" in vagrant.guest("touch /mnt/vexfs-src/new 2>&1 || true")

    vagrant("snapshot", "save", "before")
    disk = "/dev/disk/by-id/virtio-vexrun-scratch0"
    vagrant.guest(f"sudo touch /later; sudo dd if=/etc/passwd of={disk} bs=1k count=1; sync")
    vagrant("snapshot", "restore", "before")
    said = vagrant.guest(
        "ls /later 2>&1; sudo head -c 4 /dev/vdb | grep -c root; date +%s; date -u"
    )
    assert "No such file" in said
    assert "\n0\n" in said, "the scratch disk is as it was"
    assert vagrant.guest("cat /mnt/vexfs-src/hello.c") == "first\n", "mounted again"

    (machine,) = (vagrant.state / "dot").glob("machines/*/vexrun/instance.json")
    name = json.loads(machine.read_text())["name"]
    assert len(qemus_of(name)) == 1
    vagrant("halt")
    assert vagrant.status() == "poweroff"
    assert qemus_of(name) == []
    console = machine.with_name("console.log").read_bytes()
    assert b"reboot: Power down" in console, "it shut down by itself"
    vagrant("destroy", "-f")
    assert vagrant.status() == "not_created"
    assert list(machine.parent.iterdir()) == []


@pytest.mark.slow
def test_the_backend_gives_the_same_results(vexrun_test: Callable[..., Run]) -> None:
    words = ["--subject", str(SUBJECTS / "minix.toml")]
    words += ["--only", "structure,build,module,mkfs,mount"]
    by_vagrant = vexrun_test(*words, "--backend", "vagrant")
    assert by_vagrant.status == 0, by_vagrant.stderr
    by_qemu = vexrun_test(*words)
    assert by_vagrant.results["target"]["backend"] == "vagrant"
    assert by_vagrant.results["counts"] == by_qemu.results["counts"]

    def ids(run: Run) -> list[tuple[str, str]]:
        return sorted((test["id"], test["outcome"]) for test in run.results["tests"])

    assert ids(by_vagrant) == ids(by_qemu)
    assert by_vagrant.results["module"]["sha256"] == by_qemu.results["module"]["sha256"]
    assert by_vagrant.results["module"]["identity_proven"]
    assert set(by_vagrant.results) == set(by_qemu.results), "one format"
    assert b"Linux version" in (by_vagrant.directory / "console.log").read_bytes()
    assert qemus_of(by_vagrant.results["run_id"]) == []


@pytest.mark.slow
def test_a_planted_panic_is_found_and_has_its_name(suite: str, tmp_path: Path) -> None:
    (canary,) = choose_canaries(load_canaries(), ["panic"], False)
    judged = run_canary(canary, suite, tmp_path, ["--backend", "vagrant"])
    assert judged.right, judged.problems


@pytest.mark.slow
def test_a_killed_run_leaves_no_machine_of_vagrants(suite: str, tmp_path: Path) -> None:
    """SIGKILL while `vagrant up` waits for the guest: QEMU, Vagrant and disks go too."""
    state = tmp_path / "state"
    argv = [sys.executable, "-m", "vexrun.cli", "test", "--subject", str(SUBJECTS / "minix.toml")]
    argv += ["--only", "module", "--backend", "vagrant", "--suite", suite]
    environment = {**os.environ, "VEXRUN_STATE_DIR": str(state)}
    run = subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    for line in run.stdout:
        if "vagrant up" in line:
            break
    until_there_is(lambda: qemus_of(str(state)))
    run.kill()
    run.wait()
    run.stdout.close()
    until_there_is(lambda: not qemus_of(str(state)))


def until_there_is(look: Callable[[], object]) -> None:
    until = time.monotonic() + 120
    while not look():
        assert time.monotonic() < until, "it took too long"
        time.sleep(0.2)
