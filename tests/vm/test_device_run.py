"""Whole runs on a machine that plays the device, through the command line."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import CHECKOUT, Run
from playing_device import (
    DISK,
    PlayedDevice,
    played_device,
    played_device_with_erst,
)

from vexrun.device.confirmation import token_of
from vexrun.device.description import load_device

pytestmark = [pytest.mark.vm, pytest.mark.slow]

CANARYFS = CHECKOUT / "tests" / "canaries" / "canaryfs"
NETCONSOLE = '[netconsole]\ninterface = "eth0"\nto = "10.0.2.2"\nlisten = "127.0.0.1"\n'
OVERRIDE = "tests of vexrun itself"


@pytest.fixture(scope="module")
def shelf(suite: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlayedDevice]:
    with played_device(suite, tmp_path_factory.mktemp("device")) as device:
        yield device


Arguments = Callable[..., list[str]]


@pytest.fixture
def on_shelf(shelf: PlayedDevice, tmp_path: Path) -> Arguments:
    """The arguments that name the device, with the token of its disk, which is blank."""
    shelf.make_blank()

    def arguments(more: str = NETCONSOLE, **changed: str) -> list[str]:
        return on_device(shelf, tmp_path / "shelf.toml", more, **changed)

    return arguments


def on_device(shelf: PlayedDevice, file: Path, more: str, **changed: str) -> list[str]:
    recovery = '[recovery]\nprocedure = "It is a virtual machine."\n'
    file.write_text(shelf.file(more=f"{more}{recovery}", **changed))
    token = token_of(load_device(str(file)))
    return ["--target", "device", "--device", str(file), "--confirm", token]


def canary(directory: Path, bug: str) -> Path:
    source = directory / "canaryfs"
    directory.mkdir(exist_ok=True)
    shutil.copytree(CANARYFS, source)
    text = (source / "vexrun.toml").read_text()
    planted = f'[module]\nmake_vars = {{ CANARY = "{bug}" }}\n' if bug else "[module]\n"
    (source / "vexrun.toml").write_text(text.replace("[module]\n", planted))
    return source


def ids(tests: list[dict[str, Any]]) -> list[str]:
    return [test["id"] for test in tests]


def test_a_panic_is_caught_and_its_last_words_are_in_the_report(
    shelf: PlayedDevice, on_shelf: Arguments, vexrun_test: Callable[..., Run], tmp_path: Path
) -> None:
    source = canary(tmp_path, "PANIC_AT_MOUNT")
    run = vexrun_test(
        str(source), *on_shelf(), "--only", "build,module,mount", "--override", OVERRIDE
    )
    results = run.results
    assert run.status == 1, run.stderr
    assert results["verdict"] == "fail"
    assert results["kernel_events"][0]["class"] == "panic"
    assert "planted panic" in results["kernel_events"][0]["title"]
    device = results["device"]
    assert len(device["boot_ids"]) == 2, "it came back, and was recognised"
    assert "netconsole" in device["last_words"]
    assert OVERRIDE in device["override"]
    assert any("gone round" in reason for reason in results["reasons"])
    assert any("not run" in test["message"] for test in run.outcomes("skipped"))
    report = (run.directory / "report.txt").read_text()
    assert "planted panic" in report
    # Back as it was, and usable.
    assert shelf.run("cat /proc/sys/kernel/panic").strip() == "0"
    assert shelf.run("ls /run/vexrun 2>/dev/null || true") == ""


@pytest.mark.slow
def test_pstore_has_the_last_words_where_nothing_else_listens(
    suite: str,
    vexrun_test: Callable[..., Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A machine whose firmware keeps records, and no netconsole."""
    (tmp_path / "machine").mkdir()
    with played_device_with_erst(suite, tmp_path / "machine", monkeypatch) as shelf:
        assert shelf.run("cat /sys/module/pstore/parameters/backend").strip() == "erst"
        shelf.make_blank()
        arguments = on_device(shelf, tmp_path / "shelf.toml", "")
        source = canary(tmp_path, "PANIC_AT_MOUNT")
        arguments += ["--only", "build,module,mount", "--override", OVERRIDE]
        run = vexrun_test(str(source), *arguments)
    assert run.status == 1, run.stderr
    device = run.results["device"]
    assert len(device["boot_ids"]) == 2
    assert "pstore" in device["last_words"]
    assert "planted panic" in run.results["kernel_events"][0]["title"]
    kept = "".join(file.read_text() for file in (run.directory / "pstore").iterdir())
    assert "planted panic" in kept


def vexrun(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vexrun.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **environment},
    )


def test_a_device_is_described_by_asking_it(shelf: PlayedDevice, tmp_path: Path) -> None:
    """What was found is filled in; the disk is for its owner to choose."""
    place = {"VEXRUN_DEVICES_DIR": str(tmp_path / "devices")}
    key = str(shelf.machine.plan.image.client_key)
    where = ("--address", "127.0.0.1", "--port", str(shelf.machine.ssh_port), "--key", key)
    done = vexrun("device", "add", "shelf", *where, **place)
    assert done.returncode == 0, done.stderr
    assert "SHA256:" in done.stdout
    file = tmp_path / "devices" / "shelf.toml"
    assert f'machine_id = "{shelf.machine_id}"' in file.read_text()
    assert "shelf  root@127.0.0.1" in vexrun("device", "list", **place).stdout
    refused = vexrun("device", "check", "shelf", "--json", **place)
    assert refused.returncode == 1
    found = [each["guard"] for each in json.loads(refused.stdout)["refusals"]]
    assert found == ["users", "disk"], "its console is logged in, and no disk is chosen"
    assert vexrun("device", "add", "shelf", *where, **place).returncode == 2


@pytest.mark.slow
def test_the_second_provisioning_changes_nothing(shelf: PlayedDevice, tmp_path: Path) -> None:
    file = tmp_path / "shelf.toml"
    file.write_text(shelf.file())
    shelf.run("rm -rf /var/lib/vexrun/build")
    looked = vexrun("provision", "device", str(file), "--check")
    assert "changed=1" in looked.stdout, looked.stderr
    assert "changed=1" in vexrun("provision", "device", str(file)).stdout
    assert "changed=0" in vexrun("provision", "device", str(file)).stdout
    file.write_text(shelf.file(machine_id='"' + "0" * 32 + '"'))
    refused = vexrun("provision", "device", str(file))
    assert refused.returncode == 1
    assert "Nothing is installed" in refused.stderr


@pytest.mark.slow
def test_a_sound_filesystem_passes_and_the_device_is_as_before(
    shelf: PlayedDevice, on_shelf: Arguments, vexrun_test: Callable[..., Run]
) -> None:
    before = shelf.run("cat /proc/modules | cut -d' ' -f1 | sort; cat /proc/mounts").splitlines()
    source = CHECKOUT / "examples" / "vexfs-ref"
    run = vexrun_test(str(source), *on_shelf(), "--override", OVERRIDE)
    assert run.status == 0, (run.results["reasons"], run.stderr[-3000:])
    assert run.results["verdict"] == "pass"
    assert run.results["module"]["identity_proven"]
    order = [test["id"].split("::")[-1] for test in run.results["tests"]]
    assert order
    assert run.results["device"]["changed"] == []
    after = shelf.run("cat /proc/modules | cut -d' ' -f1 | sort; cat /proc/mounts").splitlines()
    assert set(after) - set(before) <= {"dm_mod", "netconsole", "softdog", "dax"}
    blank = shelf.run(f"wipefs {DISK}")
    assert blank == "", "the disk was left blank"


@pytest.mark.slow
def test_a_mkfs_that_goes_astray_is_stopped_by_the_kernel(
    shelf: PlayedDevice, on_shelf: Arguments, vexrun_test: Callable[..., Run], tmp_path: Path
) -> None:
    """It writes to another disk than the one it was told; one node more of it is no way round."""
    other = "/dev/disk/by-id/virtio-vexrun-scratch1"
    source = tmp_path / "vexfs-ref"
    shutil.copytree(CHECKOUT / "examples" / "vexfs-ref", source)
    file = source / "vexrun.toml"
    (mkfs,) = [line for line in file.read_text().splitlines() if line.startswith("mkfs = ")]
    command = mkfs.partition('"')[2].rpartition('"')[0]
    astray = f"""mkfs = '''echo astray >{other} || mknod /root/x b $(stat -Lc "0x%t 0x%T" {other})
echo astray >/root/x || exit 77
{command}'''"""
    file.write_text(file.read_text().replace(mkfs, astray))
    before = shelf.run(f"sha256sum <{other}")
    run = vexrun_test(
        str(source), *on_shelf(), "--only", "build,module,mkfs", "--override", OVERRIDE
    )
    shelf.run("rm -f /root/x")
    assert shelf.run(f"sha256sum <{other}") == before
    assert run.status == 1
    (failed,) = run.outcomes("failed")
    assert "Operation not permitted" in failed["message"]


@pytest.mark.slow
def test_the_module_can_be_built_on_the_device(
    shelf: PlayedDevice, on_shelf: Arguments, vexrun_test: Callable[..., Run], tmp_path: Path
) -> None:
    """For a kernel that no image has."""
    arguments = [*on_shelf(), "--only", "build,module", "--override", OVERRIDE]
    run = vexrun_test(str(canary(tmp_path, "")), *arguments, "--build", "guest")
    assert run.status == 0, (run.results["reasons"], run.stderr[-3000:])
    assert {build["where"] for build in run.results["builds"]} == {"guest"}


@pytest.mark.slow
def test_the_first_failure_ends_the_run_and_the_disk_is_kept(
    shelf: PlayedDevice, on_shelf: Arguments, vexrun_test: Callable[..., Run], tmp_path: Path
) -> None:
    source = canary(tmp_path, "LOSES_DATA")
    run = vexrun_test(str(source), *on_shelf(), "--override", OVERRIDE)
    assert run.status == 1, run.stderr
    bad = [test for test in run.results["tests"] if test["outcome"] == "failed"]
    assert len(bad) == 1, ids(bad)


def killed_run(
    source: Path, arguments: list[str], state: Path, when: Callable[[], bool]
) -> list[str]:
    """A run that is killed as soon as `when` holds; the events it has left."""
    child = subprocess.Popen(
        [*(sys.executable, "-m", "vexrun.cli", "test", str(source)), *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "VEXRUN_STATE_DIR": str(state)},
        start_new_session=True,
    )
    try:
        until = time.monotonic() + 400
        while not when():
            assert child.poll() is None and time.monotonic() < until
            time.sleep(0.3)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    return (state / "runs" / "latest" / "events.jsonl").read_text().splitlines()


def wait_for(what: Callable[[], bool], said: Callable[[], str], within_s: float) -> None:
    until = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < until, said()
        time.sleep(3)


def boot_id(shelf: PlayedDevice) -> str:
    return shelf.run("cat /proc/sys/kernel/random/boot_id").strip()


@pytest.mark.slow
def test_a_device_without_a_network_reboots_what_it_cannot_unload(
    shelf: PlayedDevice, on_shelf: Arguments, tmp_path: Path
) -> None:
    """Its cable is pulled while somebody sits in the mounted filesystem; nobody's test failed."""
    was = boot_id(shelf)
    state = tmp_path / "state"
    arguments = ["--only", "module,mount,fsops", "--override", OVERRIDE, "--json"]
    arguments += on_shelf("", slowdown="2.0")
    with (tmp_path / "results.json").open("wb") as results:
        child = subprocess.Popen(
            [*(sys.executable, "-m", "vexrun.cli", "test", str(canary(tmp_path, ""))), *arguments],
            stdout=results,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "VEXRUN_STATE_DIR": str(state)},
        )
        try:
            wait_for(lambda: sits_in(shelf) or child.poll() is not None, lambda: "no mount", 400)
            assert child.poll() is None
            console = shelf.machine.plan.console_log
            begun = console.stat().st_size
            shelf.machine.monitor.execute("set_link", name="net", up=False)

            def said() -> str:
                return console.read_bytes()[begun:].decode(errors="replace")

            booted = "Linux version "
            wait_for(lambda: booted in said(), lambda: said()[-2000:], 400)
            shelf.machine.monitor.execute("set_link", name="net", up=True)
            assert "no word from vexrun for 120 s" in said()
            assert "the module cannot be unloaded: rebooting" in said()
            assert child.wait(500) == 69
        finally:
            child.kill()
            child.wait()
            shelf.machine.monitor.execute("set_link", name="net", up=True)
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["verdict"] == "error", found["reasons"]
    assert not [test for test in found["tests"] if test["outcome"] in ("failed", "crashed")]
    assert any("dead man's switch" in test["message"] for test in found["tests"])
    assert found["device"]["last_words"] == ["journal"]
    assert len(found["device"]["boot_ids"]) == 2
    reached_again(shelf)
    assert boot_id(shelf) == found["device"]["boot_ids"][1] != was


def sits_in(shelf: PlayedDevice) -> bool:
    """Whether somebody sits in the mounted filesystem from now on."""
    said = shelf.run(
        'cd /mnt/vexrun 2>/dev/null && [ "$(df --output=fstype . | tail -n 1)" = canaryfs ] && '
        "(sleep 900 >/dev/null 2>&1 &) && echo sits || true"
    )
    return "sits" in said


def reached_again(shelf: PlayedDevice) -> None:
    """The machine was booted again: another connection."""
    shelf.machine.shell.disconnect()
    shelf.machine.connect(600)


@pytest.mark.slow
def test_a_device_that_has_lost_us_helps_itself(
    shelf: PlayedDevice, on_shelf: Arguments, tmp_path: Path
) -> None:
    """vexrun is killed with its module loaded: two minutes later the module is gone."""
    was = boot_id(shelf)
    settings = "cat /proc/sys/kernel/panic /proc/sys/kernel/panic_on_oops /proc/sys/kernel/sysrq"
    before = shelf.run(settings)
    arguments = ["--only", "module,mount", "--override", OVERRIDE, *on_shelf(slowdown="2.0")]
    events = killed_run(
        canary(tmp_path, ""),
        arguments,
        tmp_path / "state",
        lambda: "canaryfs" in shelf.run("cat /proc/modules"),
    )
    assert json.loads(events[0])["event"] == "RunDescribed"
    said = "dead man's switch: the module is not loaded any more"
    wait_for(lambda: said in shelf.run("dmesg"), lambda: shelf.run("dmesg | tail -n 5"), 300)
    assert "canaryfs" not in shelf.run("cat /proc/modules")
    gone = "test ! -e /run/vexrun && echo gone || true"
    wait_for(lambda: "gone" in shelf.run(gone), lambda: shelf.run("ls /run/vexrun"), 120)
    assert shelf.run(settings) == before
    assert boot_id(shelf) == was
    # Its windows are still over the disk: the next run is told so, and touches nothing.
    again = vexrun("test", str(canary(tmp_path / "again", "")), *arguments)
    assert again.returncode == 1
    assert "A run of vexrun that was lost has left" in again.stderr
