"""What surrounds the tests on a device: the gate's pass, stages, safety net, logs, last words."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import Programs
from gate_runs import MadeRun, MakeRun
from test_device_guards import FREE, HERE, description

from vexrun.categories import CATEGORIES
from vexrun.device import last_words, recheck
from vexrun.device.description import CriticalMachines, Netconsole, load_critical, load_device
from vexrun.device.facts import Facts
from vexrun.device.guards import GUARDS, RefusedError
from vexrun.device.kernel_log import DeviceConsole, DeviceKmsg, NetconsoleListener
from vexrun.device.passage import demand_same_module, demand_same_tree, show_pass
from vexrun.device.safety_net import Net, arm_script, dead_man, disarm_script
from vexrun.device.stages import STAGES, steps
from vexrun.errors import ConfigError, TargetLostError
from vexrun.gate.checklist import examine
from vexrun.gate.criteria import Gate
from vexrun.gate.seal import seal
from vexrun.guest.context import DeviceClaim
from vexrun.kernel_log import events_in_dmesg

ROOT = Path(__file__).resolve().parents[2]
RELEASE = "6.12.9-amd64"


# -- the gate's pass -------------------------------------------------------------------------------


@pytest.fixture
def make_run(home: Path, source_tree: Path) -> MakeRun:
    return lambda name: MadeRun(home / "state" / "runs" / name, source_tree)


@pytest.fixture
def sealed(make_run: MakeRun, tmp_path: Path) -> Path:
    """The seal of an open gate: two passing runs of one tree."""
    make_run("20260101T000001-demo-0001")
    run = make_run("20260101T000002-demo-0002")
    answer = examine(run.path, Gate.DEVICE)
    assert answer.open, answer.refused
    file = tmp_path / "demo.gate.json"
    seal(answer, run.path, file, None)
    return file


def test_a_seal_lets_on(sealed: Path) -> None:
    shown = show_pass(sealed, None, RELEASE)
    assert shown.problems == ()
    assert shown.run_id == "20260101T000002-demo-0002"
    assert shown.checklist is not None
    assert shown.release == RELEASE
    assert demand_same_tree(shown, "demo", shown.checklist.tree_sha256) is None
    assert demand_same_module(shown, str(shown.checklist.module_sha256), RELEASE) is None
    assert demand_same_module(shown, "another", "6.12.10-amd64") is None, "another release"


def test_without_a_seal_nobody_is_let_on() -> None:
    with pytest.raises(RefusedError, match="No seal was given"):
        show_pass(None, None, RELEASE)


def test_another_kernel_series_is_refused(sealed: Path) -> None:
    with pytest.raises(RefusedError, match="kernel series"):
        show_pass(sealed, None, "6.1.0-40-amd64")


@pytest.mark.parametrize("name", ["console.log", "results.json", "demo.ko", "events.jsonl"])
def test_one_edited_byte_of_the_evidence_shuts_it(sealed: Path, name: str, tmp_path: Path) -> None:
    run = Path(json.loads(sealed.read_text())["predicate"]["checklist"]["run_dir"])
    content = (run / name).read_bytes()
    (run / name).write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    with pytest.raises(RefusedError, match=f"'{name}' was changed"):
        show_pass(sealed, None, RELEASE)


def test_an_edited_or_old_seal_is_refused(sealed: Path) -> None:
    document = json.loads(sealed.read_text())
    document["predicate"]["checklist"]["checked_at"] = "2020-01-01T00:00:00+00:00"
    sealed.write_text(json.dumps(document, indent=2) + "\n")
    with pytest.raises(RefusedError) as caught:
        show_pass(sealed, None, RELEASE)
    assert "was edited" in caught.value.evidence
    assert "days ago" in caught.value.evidence


def test_another_tree_or_module_is_refused(sealed: Path) -> None:
    shown = show_pass(sealed, None, RELEASE)
    with pytest.raises(RefusedError, match="this tree is"):
        demand_same_tree(shown, "demo", "0" * 64)
    with pytest.raises(RefusedError, match="this is 'other'"):
        demand_same_tree(shown, "other", "0" * 64)
    with pytest.raises(RefusedError, match="was tested and sealed"):
        demand_same_module(shown, "0" * 64, RELEASE)


def test_an_override_is_kept_with_what_it_went_round(sealed: Path) -> None:
    shown = show_pass(None, "bisecting issue 12, Ada", RELEASE)
    assert shown.override == "bisecting issue 12, Ada"
    assert "No seal" in shown.problems[0]
    late = show_pass(sealed, "bisecting issue 12, Ada", RELEASE)
    assert "this tree is" in str(demand_same_tree(late, "demo", "0" * 64))


@pytest.mark.parametrize("reason", ["", "because"])
def test_an_override_needs_a_reason(reason: str) -> None:
    with pytest.raises(ConfigError, match="needs a reason"):
        show_pass(None, reason, RELEASE)


# -- stages ----------------------------------------------------------------------------------------


def test_read_only_mounts_come_before_the_first_that_writes() -> None:
    chosen = [CATEGORIES[name] for name in ("structure", "module", "mkfs", "mount", "fsops")]
    names = [step.stage.name for step in steps(chosen)]
    assert names == ["source", "load", "read-only", "read-write", "files"]
    read_only = next(step for step in steps(chosen) if step.stage.name == "read-only")
    assert [row.name for row in read_only.categories] == ["mount"]


def test_every_category_is_in_a_stage_and_no_test_in_two() -> None:
    last = {name for stage in STAGES if not stage.tests for name in stage.categories}
    assert last == set(CATEGORIES)
    steps_of_all = steps(list(CATEGORIES.values()))
    patterns = [pattern for stage in STAGES for pattern in stage.tests]
    assert len(patterns) == len(set(patterns))
    rest = next(step for step in steps_of_all if step.stage.name == "read-write")
    assert rest.selection.without == patterns
    assert [len(step.categories) for step in steps_of_all if step.categories[0].own_process] == [1]


def test_what_a_stage_names_exists() -> None:
    for stage in STAGES:
        for pattern in stage.tests:
            file, _, function = pattern.removesuffix("*").partition("::")
            text = (ROOT / "tests" / "guest" / file).read_text()
            assert f"def {function}(" in text, pattern


# -- the safety net --------------------------------------------------------------------------------

NET = Net("demo", ("demo",), 1.0, "vexrun-begin 1", Netconsole(interface="eth0", to="192.0.2.1"))


def test_the_scripts_are_shell_without_a_placeholder() -> None:
    for script in (arm_script(NET), disarm_script(), dead_man(NET)):
        assert not re.search(r"@[a-z]+@", script)
        subprocess.run(["bash", "-n"], input=script.encode(), check=True)


@contextmanager
def dead_mans_switch(tmp_path: Path, loaded: bool, nowayout: int = 0) -> Iterator[tuple[Any, Path]]:
    """The switch, with files of ours in place of the kernel's; yields it and what was done.

    It waits a fortieth of its time: one and a half seconds.
    """
    script = (
        dead_man(NET).replace("read -t 5 ", "read -t .1 ").replace("read -t 2 ", "read -t .05 ")
    )
    (tmp_path / "nowayout").write_text(f"{nowayout}\n")
    (tmp_path / "restore.sh").write_text(f"echo restored >>{tmp_path}/done\n")
    (tmp_path / "modules").write_text("demo 16384 0\n" if loaded else "other 1 0\n")
    for theirs, ours in {
        "/run/vexrun/alive": f"{tmp_path}/alive",
        "/run/vexrun/acted": f"{tmp_path}/acted",
        "/run/vexrun/restore.sh": f"{tmp_path}/restore.sh",
        "/sys/class/watchdog/watchdog0/nowayout": f"{tmp_path}/nowayout",
        "/dev/watchdog0": f"{tmp_path}/watchdog",
        "/proc/modules": f"{tmp_path}/modules",
        ">/dev/kmsg": f">>{tmp_path}/done",
        ">/proc/sysrq-trigger": f">>{tmp_path}/done",
    }.items():
        assert theirs in script
        script = script.replace(theirs, ours)
    script = re.sub(r"timeout -k 5 20 .*", ":", script)
    subprocess.run(["mkfifo", tmp_path / "alive"], check=True)
    with subprocess.Popen(["bash", "--norc", "-c", script]) as child:
        yield child, tmp_path / "done"
        child.kill()


def words(tmp_path: Path, word: str) -> None:
    (tmp_path / "alive").write_text(f"{word}\n")


def test_the_switch_does_nothing_as_long_as_it_hears_words(tmp_path: Path) -> None:
    with dead_mans_switch(tmp_path, loaded=True) as (child, done):
        for _ in range(6):
            words(tmp_path, "on")
            time.sleep(0.4)
        assert child.poll() is None
        words(tmp_path, "off")
        assert child.wait(5) == 0
    assert not done.exists()
    assert not (tmp_path / "acted").exists()
    pets = (tmp_path / "watchdog").read_text()
    assert pets.startswith("...") and pets.endswith("V"), "the watchdog is let go with a V"


def test_the_watchdog_is_fed_while_nobody_speaks(tmp_path: Path) -> None:
    """A drive bay's watchdog waits 30 s, the switch up to 300: its reset would be no crash."""
    with dead_mans_switch(tmp_path, loaded=True) as (child, done):
        time.sleep(0.6)
        fed = (tmp_path / "watchdog").read_text()
        assert child.poll() is None and not done.exists()
    assert len(fed) >= 4


def test_a_watchdog_that_cannot_be_stopped_is_left_alone(tmp_path: Path) -> None:
    """It would reset the machine a minute after the run."""
    with dead_mans_switch(tmp_path, loaded=True, nowayout=1) as (child, _):
        words(tmp_path, "off")
        assert child.wait(5) == 0
    assert not (tmp_path / "watchdog").exists()


def test_a_switch_that_is_stopped_lets_the_watchdog_go(tmp_path: Path) -> None:
    with dead_mans_switch(tmp_path, loaded=True) as (child, done):
        words(tmp_path, "on")
        time.sleep(0.2)
        child.terminate()
        assert child.wait(5) == 0
    assert (tmp_path / "watchdog").read_text().endswith("V")
    assert not done.exists()


def test_without_a_word_it_reboots_what_cannot_be_unloaded(tmp_path: Path) -> None:
    with dead_mans_switch(tmp_path, loaded=True) as (child, done):
        child.wait(15)
        said = done.read_text()
    assert "no word from vexrun" in said
    assert said.splitlines()[-2:] == ["s", "b"]
    assert not (tmp_path / "watchdog").read_text().endswith("V")
    assert (tmp_path / "acted").exists()


def test_without_a_word_it_leaves_alone_what_is_unloaded(tmp_path: Path) -> None:
    with dead_mans_switch(tmp_path, loaded=False) as (child, done):
        assert child.wait(15) == 0
        said = done.read_text()
    assert "not loaded any more" in said
    assert "b" not in said.splitlines()
    assert said.splitlines()[-1] == "restored", "nobody else puts the machine back"
    assert (tmp_path / "watchdog").read_text().endswith("V")


def test_what_is_put_up_is_put_back(tmp_path: Path) -> None:
    """The journal of a machine that kept none on its disk, and the settings."""
    theirs = {
        "/run/vexrun": "run",
        "/run/modprobe.d": "modprobe.d",
        "/run/systemd": "systemd",
        "/var/log/journal": "journal",
        "/sys/kernel/config/netconsole": "netconsole",
        "/proc/sys": "sys",
    }
    script = disarm_script()
    for path, name in theirs.items():
        assert path in script
        script = script.replace(path, f"{tmp_path}/{name}")
    for path in ("run", "modprobe.d", "systemd/journald.conf.d", "journal/1234", "sys/kernel"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "run" / "settings").write_text("kernel.panic=0\nkernel.printk=4\t4\t1\t7\n")
    (tmp_path / "journal" / ".vexrun").touch()
    (tmp_path / "systemd" / "journald.conf.d" / "zz-vexrun.conf").touch()
    stubs = 'journalctl() { echo "journalctl $*"; }; systemctl() { echo "systemctl $*"; }\n'
    done = subprocess.run(
        ["bash", "-c", stubs + script], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "journalctl --relinquish-var",
        "systemctl restart systemd-journald",
    ]
    assert (tmp_path / "sys" / "kernel" / "panic").read_text() == "0\n"
    assert (tmp_path / "sys" / "kernel" / "printk").read_text() == "4\t4\t1\t7\n"
    assert not (tmp_path / "journal").exists()
    assert not (tmp_path / "run").exists()
    (tmp_path / "journal").mkdir()
    subprocess.run(["bash", "-c", stubs + script], check=True, capture_output=True)
    assert (tmp_path / "journal").is_dir(), "one that was there before stays"


# -- logs ------------------------------------------------------------------------------------------


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[NetconsoleListener]:
    settings = Netconsole(interface="eth0", to="127.0.0.1", listen="127.0.0.1")
    found = NetconsoleListener(settings, tmp_path / "netconsole.log")
    yield found
    found.close()


def send(listener: NetconsoleListener, *packets: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for packet in packets:
            sender.sendto(packet.encode(), ("127.0.0.1", listener.port))
    time.sleep(0.05)
    listener.pump()


PANIC = "0,8,2500000,-;Kernel panic - not syncing: canary"


def test_netconsole_goes_on_where_the_stream_ended(listener: NetconsoleListener) -> None:
    send(listener, "6,7,2000000,-;seven", PANIC, "4,9,2600000,-,caller=T1;nine\n SUBSYSTEM=x")
    assert listener.after(7).splitlines() == [
        "<0>[    2.500000] Kernel panic - not syncing: canary",
        "<4>[    2.600000] nine",
    ]
    assert listener.ends_with_panic


def test_a_process_cannot_make_netconsole_end_with_a_panic(listener: NetconsoleListener) -> None:
    send(listener, "12,8,2500000,-;Kernel panic - not syncing: forged", "not a record")
    assert not listener.ends_with_panic


def test_a_record_in_pieces_is_put_together(listener: NetconsoleListener) -> None:
    send(listener, "6,7,2000000,-,ncfrag=0/9;one ", "6,7,2000000,-,ncfrag=4/9;two")
    assert listener.after(0) == "<6>[    2.000000] one two\n"


def test_console_log_begins_with_the_run(tmp_path: Path, programs: Programs) -> None:
    """What /dev/kmsg still has of the time before is nobody's of this run."""
    said = tmp_path / "run" / "said"
    said.parent.mkdir()
    said.write_text("4,1,1000000,-;WARNING: old\n5,2,2000000,-;vexrun-begin 1\n6,3,3000000,-;new\n")
    programs.add("ssh", f"cat {said}; exec sleep 60")
    log = tmp_path / "console.log"
    log.write_text("--- heading\n")

    class Shell:
        config = tmp_path / "ssh_config"

    kmsg = DeviceKmsg(Shell(), tmp_path, log, "vexrun-begin 1")  # type: ignore[arg-type]
    console = DeviceConsole(log, log.stat().st_size, ["demo"], kmsg)
    try:
        until = time.monotonic() + 10
        while "new" not in log.read_text() and time.monotonic() < until:
            console.poll()
            time.sleep(0.02)
        assert log.read_text().splitlines() == [
            "--- heading",
            "<5>[    2.000000] vexrun-begin 1",
            "<6>[    3.000000] new",
        ]
        assert kmsg.read().endswith("new\n"), "whoever reads next has it too"
        assert (kmsg.last_sequence, kmsg.last_seconds) == (3, 3.0)
    finally:
        console.close()
        kmsg.close()


class Rebooted:
    """A device that is back: what its shell answers."""

    def __init__(self, answers: dict[str, str]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def run(self, command: str, **_: Any) -> Any:
        from vexrun.process import Completed

        self.asked.append(command)
        found = [text for start, text in self.answers.items() if command.startswith(start)]
        return Completed((command,), 0 if found else 1, found[0] if found else "", "")


class Stream:
    last_sequence = 7
    last_seconds = 2.0


OOPS = "<1>[    2.400000] BUG: kernel NULL pointer dereference, address: 0000000000000028\n"


def test_pstore_tells_what_netconsole_has_not(tmp_path: Path) -> None:
    shell = Rebooted(
        {
            "find /sys/fs/pstore": "/sys/fs/pstore/dmesg-erst-2\n/sys/fs/pstore/dmesg-erst-1\n"
            "/sys/fs/pstore/old\n",
            "cat /sys/fs/pstore/dmesg-erst-1": f"Oops#1 Part1\n{OOPS}",
            "cat /sys/fs/pstore/dmesg-erst-2": "Oops#1 Part2\n<6>[    1.000000] before\n"
            "<6>[    2.300000] after\n",
            "rm": "",
        }
    )
    words = last_words.collect(
        shell,  # type: ignore[arg-type]
        boot_id="b-1",
        known_pstore=["old"],
        netconsole=None,
        kmsg=Stream(),  # type: ignore[arg-type]
        rundir=tmp_path,
        timeout_s=1,
    )
    assert words.sources == ["pstore"]
    assert words.text.splitlines() == ["<6>[    2.300000] after", OOPS.strip()]
    assert events_in_dmesg(words.text, [])[0].event_class == "oops"
    assert (tmp_path / "pstore" / "dmesg-erst-1").is_file()
    assert not any("old" in command for command in shell.asked if command.startswith("cat"))


def test_the_journal_is_read_as_the_kernel_wrote_it(tmp_path: Path) -> None:
    entry = {
        "MESSAGE": "vexrun: dead man's switch: no word from vexrun for 60 s",
        "PRIORITY": "1",
        "_SOURCE_MONOTONIC_TIMESTAMP": "2500000",
        "SYSLOG_FACILITY": "1",
    }
    shell = Rebooted({"journalctl": json.dumps(entry) + "\nno json\n"})
    words = last_words.collect(
        shell,  # type: ignore[arg-type]
        boot_id="b-1",
        known_pstore=[],
        netconsole=None,
        kmsg=Stream(),  # type: ignore[arg-type]
        rundir=tmp_path,
        timeout_s=1,
    )
    assert words.sources == ["journal"]
    assert words.by_switch
    assert words.text.startswith("<9>[    2.500000] vexrun: dead man's switch")
    assert "-b b1 " in shell.asked[-1]


# -- asked again by the tests ----------------------------------------------------------------------


WINDOW = ("vexrun-scratch0", "/dev/dm-0")


class AskedGuest:
    def __init__(self, facts: dict[str, Any]) -> None:
        self.facts = facts

    def call(self, *_: Any) -> dict[str, Any]:
        return self.facts


def claim() -> DeviceClaim:
    return DeviceClaim(
        device=description().model_dump_json(),
        critical=CriticalMachines().model_dump_json(),
        facts=Facts.model_validate(FREE).model_dump_json(),
        by_id=FREE["disk"]["by_id"],
        machine_id=HERE.machine_id,
        boot_id=HERE.boot_id,
    )


def test_a_test_that_is_refused_has_not_failed_but_lost_its_target() -> None:
    """The windows are gone, so the disk may be anybody's: nothing is written."""
    with pytest.raises(TargetLostError, match=r"does not stand on .* Nothing was written"):
        recheck.demand_again(AskedGuest(FREE), claim(), *WINDOW)  # type: ignore[arg-type]
    held = json.loads(json.dumps(FREE))
    held["disk"]["parts"][0]["holders"] = ["dm-0 (vexrun-scratch0)"]
    recheck.demand_again(AskedGuest(held), claim(), *WINDOW)  # type: ignore[arg-type]


def test_a_path_that_is_another_device_by_now_is_not_written() -> None:
    """'dm-0' is anybody's once the window is gone, and another window still stands."""
    held = json.loads(json.dumps(FREE))
    held["disk"]["parts"][0]["holders"] = ["dm-1 (vexrun-scratch1)"]
    with pytest.raises(TargetLostError, match="'/dev/dm-0' is not vexrun's window"):
        recheck.demand_again(AskedGuest(held), claim(), *WINDOW)  # type: ignore[arg-type]


# -- files and documentation -----------------------------------------------------------------------


def test_a_device_file_is_read_by_name(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VEXRUN_DEVICES_DIR", str(home / "devices"))
    with pytest.raises(ConfigError, match="no device 'shelf'") as caught:
        load_device("shelf")
    assert "vexrun device add shelf" in caught.value.hint
    (home / "devices").mkdir()
    (home / "devices" / "shelf.toml").write_text('[device]\naddress = "192.0.2.7"\n')
    with pytest.raises(ConfigError) as wrong:
        load_device("shelf")
    assert "'device.machine_id': this key is required" in wrong.value.evidence
    assert load_critical() == CriticalMachines()
    (home / "devices" / "critical.toml").write_text('addresses = ["192.0.2.9"]\n')
    assert load_critical().addresses == ["192.0.2.9"]


def test_the_documentation_names_every_guard_and_every_stage() -> None:
    text = (ROOT / "docs" / "device.md").read_text()
    cells = re.findall(r"^\| ([^|]*) \|", text, re.MULTILINE)
    named = {word for cell in cells for word in re.findall(r"`([^`]+)`", cell)}
    assert {guard.name for guard in GUARDS} <= named
    assert {stage.name for stage in STAGES} <= named


def test_the_documentation_names_every_key_of_a_device_file() -> None:
    from vexrun.device.description import Device

    text = (ROOT / "docs" / "device.md").read_text()
    for name, field in Device.model_fields.items():
        if name == "name":
            continue
        section = text.split(f"### `[{name}]`\n")[1].split("\n#")[0]
        described = {
            word
            for cell in re.findall(r"^\| ([^|]*) \|", section, re.MULTILINE)
            for word in re.findall(r"`([^`]+)`", cell)
        }
        model: Any = field.annotation
        inner = [each for each in getattr(model, "__args__", [model]) if each is not type(None)]
        assert described == set(inner[0].model_fields), name


def test_shellcheck_finds_nothing_in_the_scripts(tmp_path: Path) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    for name, script in (("arm", arm_script(NET)), ("disarm", disarm_script())):
        file = tmp_path / name
        file.write_text(script)
        argv = ["shellcheck", "-s", "bash", "-S", "error", str(file)]
        subprocess.run(argv, check=True)
