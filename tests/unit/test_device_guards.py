"""Guards judge captured facts: a device that is free, and each single thing that is against it."""

from __future__ import annotations

import copy
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeSubject
from pydantic import ValidationError

from vexrun.device.confirmation import confirm, token_of
from vexrun.device.description import CriticalMachines, Device
from vexrun.device.differences import differences
from vexrun.device.facts import Facts
from vexrun.device.guards import (
    GUARDS,
    Here,
    Phase,
    Question,
    RefusedError,
    demand,
    examine,
    refusals,
)
from vexrun.errors import ExitCode

#: Read on a virtual machine that plays the device, its disk 'vexrun-scratch0' free.
FREE: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "data" / "device" / "free.json").read_text()
)
HERE = Here("f" * 32, "11111111-2222-3333-4444-555555555555")


def made(path: str, value: Any) -> dict[str, Any]:
    """The free device with one thing changed; `path` is dotted, a number is an index."""
    facts = copy.deepcopy(FREE)
    at: Any = facts
    *parents, last = path.split(".")
    for key in parents:
        at = at[int(key)] if key.isdigit() else at[key]
    at[last] = value
    return facts


def description(**changed: Any) -> Device:
    machine = {
        "address": "192.0.2.7",
        "machine_id": FREE["machine_id"],
        "host_key": "ssh-ed25519 AAAA",
    }
    disk = {"by_id": FREE["disk"]["by_id"], "serial": FREE["disk"]["serial"], "max_gib": 1}
    sections = {"device": machine, "disk": disk, "allow": {"users": ["root"]}}
    for path, value in changed.items():
        section, _, key = path.partition("__")
        sections.setdefault(section, {})[key] = value
    return Device.model_validate({"name": "shelf", **sections})


def question(facts: dict[str, Any] | None = None, **changed: Any) -> Question:
    fields = {
        "device": description(),
        "critical": CriticalMachines(),
        "facts": Facts.model_validate(facts or FREE),
        "here": HERE,
        **changed,
    }
    return Question(**fields)


def refused(asked: Question) -> list[str]:
    return [each.guard for each in refusals(asked)]


def signature(kind: str, uuid: str = "", usage: str = "filesystem") -> dict[str, Any]:
    return {"type": kind, "uuid": uuid, "label": "", "usage": usage, "offset": 1080}


def test_a_free_device_is_let_on(make_subject: MakeSubject) -> None:
    assert refused(question(subject=make_subject())) == []


def test_every_guard_is_asked_and_has_a_name_of_its_own() -> None:
    answers = examine(question())
    assert [guard for guard, _ in answers] == list(GUARDS)
    assert len({guard.name for guard in GUARDS}) == len(GUARDS) >= 25


PART = "disk.parts.0."
LEFT_MOUNTED = {
    "dev": "8:1",
    "root": "/",
    "point": "/mnt/vexrun",
    "type": "ext4",
    "source": "/dev/sda1",
}
#: What is changed, and the one guard that must speak, with a word it must say.
AGAINST = [
    ("problems", ["the signatures of '/dev/vdb' cannot be read"], "answers", "cannot be read"),
    ("machine_id", "0" * 32, "machine-id", "0" * 32),
    ("boot_id", HERE.boot_id, "this-machine", HERE.boot_id),
    ("graphical", ["the program 'Xorg' runs"], "desktop", "Xorg"),
    (
        "logged_in",
        [{"user": "ada", "terminal": "pts/0", "program": "bash"}],
        "users",
        "'ada' on pts/0",
    ),
    ("uid", 1000, "root", "uid 1000"),
    ("systemd", False, "systemd", "systemd"),
    ("modules_disabled", True, "modules", "switched off"),
    ("signed_modules_only", True, "modules", "signed"),
    ("lockdown", "integrity", "modules", "integrity"),
    ("taint", 1 << 7, "kernel", "oops"),
    ("taint", 1 << 9, "kernel", "warning"),
    ("taint", 1 << 14, "kernel", "soft lockup"),
    (
        "mounts",
        [
            {
                "dev": "8:1",
                "root": "/",
                "point": "/mnt/vexrun",
                "type": "ext4",
                "source": "/dev/sda1",
            }
        ],
        "places",
        "/mnt/vexrun",
    ),
    ("free_mib", 3, "room", "3 MiB"),
    ("disk.there", False, "disk-there", "There is no disk"),
    ("disk.is_link", False, "disk-there", "There is no disk"),
    ("disk.is_block", False, "disk-there", "no block device"),
    ("disk.virtual", True, "disk-kind", "device-mapper"),
    ("disk.serial", "another", "serial", "'another'"),
    ("disk.serial", "", "serial", "(none)"),
    ("disk.size", 2 << 30, "size", "2.0 GiB"),
    ("disk.size", 100 << 20, "space", "100 MiB"),
    ("disk.read_only", True, "writable", "read-only"),
    ("disk.carries_system", True, "system", "carries the system"),
    (PART + "mounts", ["/srv"], "mounted", "/srv"),
    (PART + "swap", True, "swap", "swap"),
    (PART + "configured", ["/etc/fstab names it as 'UUID=1'"], "configured", "/etc/fstab"),
    (PART + "holders", ["dm-3 (vg-data)"], "holders", "vg-data"),
    (PART + "holders", ["dm-3 (vexrun-scratch0)"], "holders", "vexrun-scratch0"),
    (PART + "holders", ["loop0 (a loop device)"], "holders", "loop0"),
    (PART + "open_by", ["'qemu-system-x86' (process 7)"], "open", "qemu-system-x86"),
    (PART + "busy", True, "busy", "exclusively"),
    (PART + "signatures", [signature("LVM2_member", "a", "raid")], "member", "LVM"),
    (PART + "signatures", [signature("linux_raid_member", "a", "raid")], "member", "RAID"),
    (PART + "signatures", [signature("zfs_member")], "member", "ZFS"),
    (PART + "signatures", [signature("new_member", usage="raid")], "member", "new_member"),
    (PART + "signatures", [signature("ext4", "abc-1")], "signature", 'released = "abc-1"'),
    (PART + "signatures", [signature("minix")], "signature", 'released = "minix@0x438"'),
    (PART + "signatures", [signature("crypto_LUKS", "b", "crypto")], "signature", "LUKS"),
    (PART + "signatures", [signature("gpt", "c", "")], "signature", "partition table"),
    (
        PART + "signatures",
        [signature("unknown data", "data-0123456789ab", "")],
        "signature",
        'released = "data-0123456789ab"',
    ),
]


@pytest.mark.parametrize(
    ("path", "value", "guard", "word"), AGAINST, ids=[f"{p}={v}"[:60] for p, v, _, _ in AGAINST]
)
def test_one_thing_against_it_is_one_refusal(
    path: str, value: Any, guard: str, word: str, make_subject: MakeSubject
) -> None:
    asked = question(made(path, value), subject=make_subject())
    (refusal,) = refusals(asked)
    assert refusal.guard == guard
    assert word in f"{refusal.found} {refusal.do}"
    assert refusal.found.endswith(".")


def test_this_very_machine_is_refused_though_its_file_says_so() -> None:
    """A device file that somebody wrote about the machine vexrun runs on."""
    facts = made("machine_id", HERE.machine_id)
    asked = question(facts, device=description(device__machine_id=HERE.machine_id))
    assert refused(asked) == ["this-machine"]


@pytest.mark.parametrize(
    ("critical", "changed"),
    [
        (CriticalMachines(machine_ids=[FREE["machine_id"]]), {}),
        (CriticalMachines(addresses=["192.0.2.7"]), {}),
        # The same machine under another of its names.
        (CriticalMachines(addresses=["10.0.2.15"]), {"device__address": "shelf.example.org"}),
        (CriticalMachines(addresses=[FREE["hostname"]]), {}),
        (
            CriticalMachines(addresses=["Shelf.Example.ORG"]),
            {"device__address": "shelf.example.org"},
        ),
        (CriticalMachines(), {"device__groups": ["device", "critical"]}),
        (CriticalMachines(), {"device__groups": ["critical"]}),
    ],
)
def test_a_machine_that_matters_is_no_device(
    critical: CriticalMachines, changed: dict[str, Any]
) -> None:
    asked = question(critical=critical, device=description(**changed))
    assert refused(asked) == ["critical"]


def test_what_uses_the_subject_already_is_a_refusal(make_subject: MakeSubject) -> None:
    subject = make_subject()
    mount = {"dev": "8:1", "root": "/", "point": "/data", "type": "demo", "source": "/dev/sda1"}
    for path, value in (("mounts", [mount]), ("modules", ["demo"]), ("filesystems", ["demo"])):
        assert refused(question(made(path, value), subject=subject)) == ["subject"]


def test_releases_let_on_what_they_name_and_nothing_else() -> None:
    facts = made(PART + "signatures", [signature("ext4", "abc-1")])
    assert refused(question(facts, device=description(disk__released="abc-1"))) == []
    assert refused(question(facts, device=description(disk__released="abc-2"))) == [
        "signature",
        "release",
    ]
    assert refused(question(device=description(disk__released="abc-1"))) == ["release"]
    member = made(PART + "signatures", [signature("LVM2_member", "lvm-1", "raid")])
    assert refused(question(member, device=description(disk__released="lvm-1"))) == ["member"]
    people = made("logged_in", [{"user": "ada", "terminal": "pts/0", "program": "bash"}])
    assert refused(question(people, device=description(allow__users=["ada"]))) == []
    desktop = made("graphical", ["the program 'Xorg' runs"])
    assert refused(question(desktop, device=description(allow__graphical=True))) == []


def test_a_partition_lives_within_a_partition_table() -> None:
    around = {**FREE["disk"]["parts"][0], "name": "vdb", "whole": True}
    around["signatures"] = [signature("gpt", "c", "partition-table")]
    facts = made("disk.parts", [{**FREE["disk"]["parts"][0], "name": "vdb1"}, around])
    facts["disk"]["partition_of"] = "vdb"
    assert refused(question(facts)) == []
    around["signatures"] = [signature("LVM2_member", "a", "raid")]
    assert refused(question(facts)) == ["member"]
    around.update(signatures=[], holders=["md0"])
    assert refused(question(facts)) == ["holders"]


def test_while_a_run_goes_on_only_its_own_windows_use_the_disk() -> None:
    claimed = Facts.model_validate(FREE)

    def running(facts: dict[str, Any]) -> list[str]:
        return refused(question(facts, phase=Phase.RUNNING, claimed=claimed))

    held = made(PART + "holders", ["dm-0 (vexrun-scratch0)", "dm-1 (vexrun-faulty)"])
    held["disk"]["parts"][0]["busy"] = True
    held["disk"]["parts"][0]["signatures"] = [signature("minix")]
    assert running(held) == []
    assert running(FREE) == ["busy"], "the windows are gone"
    other = copy.deepcopy(held)
    other["disk"]["parts"][0]["holders"].append("dm-9 (vg-data)")
    assert running(other) == ["holders"]
    for path, value, guard in (
        ("boot_id", "another", "boot"),
        ("disk.serial", "another", "serial"),
        ("disk.dev", "9:9", "same-disk"),
        ("disk.size", 64 << 20, "same-disk"),
    ):
        changed = copy.deepcopy(held)
        *parents, last = path.split(".")
        (changed[parents[0]] if parents else changed)[last] = value
        assert guard in running(changed)


def test_when_a_run_clears_up_nothing_uses_the_disk() -> None:
    claimed = Facts.model_validate(FREE)
    mine = made(PART + "signatures", [signature("minix")])
    assert refused(question(mine, phase=Phase.CLEARING, claimed=claimed)) == []
    held = made(PART + "holders", ["dm-0 (vexrun-scratch0)"])
    assert refused(question(held, phase=Phase.CLEARING, claimed=claimed)) == ["holders"]
    mounted = made(PART + "mounts", ["/mnt/vexrun"])
    assert refused(question(mounted, phase=Phase.CLEARING, claimed=claimed)) == ["mounted"]


def test_a_refusal_names_every_reason_and_ends_with_1() -> None:
    facts = made("uid", 1000)
    facts["disk"]["serial"] = "another"
    with pytest.raises(RefusedError, match="for 2 reasons") as caught:
        demand(question(facts))
    assert "[root]" in caught.value.evidence and "[serial]" in caught.value.evidence
    assert caught.value.exit_code is ExitCode.FAILED


# -- the confirmation ------------------------------------------------------------------------------


def test_the_serial_is_typed_at_a_terminal() -> None:
    device = description()
    assert device.disk is not None
    asked: list[str] = []

    def answer(text: str) -> str:
        asked.append(text)
        assert device.disk is not None
        return f" {device.disk.serial}\n"

    assert confirm(device, None, ask=answer, at_a_terminal=True) == "typed"
    assert device.disk.by_id in asked[0] and "lost" in asked[0]


@pytest.mark.parametrize("said", ["", "y", "yes", "vexrun-scratch1"])
def test_nothing_but_the_serial_confirms(said: str) -> None:
    with pytest.raises(RefusedError, match="not the serial"):
        confirm(description(), None, ask=lambda _: said, at_a_terminal=True)


def test_without_a_terminal_a_token_is_asked_for() -> None:
    with pytest.raises(RefusedError, match="no terminal"):
        confirm(description(), None, ask=lambda _: "x", at_a_terminal=False)
    assert confirm(description(), token_of(description()), at_a_terminal=False) == "token"
    with pytest.raises(RefusedError, match="not that of the disk"):
        confirm(description(), "0" * 20, at_a_terminal=False)


@pytest.mark.parametrize(
    "changed",
    [
        {"device__machine_id": "1" * 32},
        {"disk__serial": "another"},
        {"disk__by_id": "/dev/disk/by-id/another"},
    ],
)
def test_another_machine_or_disk_has_another_token(changed: dict[str, Any]) -> None:
    assert token_of(description(**changed)) != token_of(description())


# -- before and after ------------------------------------------------------------------------------


def test_what_is_different_afterwards_is_told() -> None:
    before = Facts.model_validate(FREE)
    assert differences(before, before) == []
    after = made("taint", 12288 | 1 << 9)
    after["modules"] = [*FREE["modules"], "demo", "dm_mod"]
    after["settings"]["kernel.panic"] = "10"
    after["boot_id"] = "another"
    told = "\n".join(differences(before, Facts.model_validate(after)))
    for word in ("'demo' more", "'kernel.panic'", "booted again", "warning"):
        assert word in told
    assert "dm_mod" not in told


# -- the device file -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "key", "value", "word"),
    [
        ("disk", "by_id", "/dev/sdb", "/dev/disk/by-id/"),
        ("disk", "by_id", "/dev/disk/by-id/../sdb", "/dev/disk/by-id/"),
        ("disk", "serial", "", "at least 1"),
        ("disk", "max_gib", 0, "greater than 0"),
        ("device", "machine_id", "xyz", "32 hexadecimal"),
        ("device", "host_key", "AAAA", "public ssh host key"),
        ("device", "address", "-oProxyCommand=x", "host name or an IP"),
        ("device", "groups", ["shelf"], "group 'device'"),
        ("device", "adress", "x", "adress"),
        ("allow", "categories", ["fsopps"], "is no category"),
        ("allow", "categories", [], "at least 1"),
        ("netconsole", "interface", "eth0; reboot", "network interface"),
    ],
)
def test_a_wrong_value_is_named(section: str, key: str, value: Any, word: str) -> None:
    with pytest.raises(ValidationError, match=word):
        description(**{f"{section}__{key}": value})


def test_what_is_proposed_is_a_device_file_without_a_disk(tmp_path: Path) -> None:
    from vexrun.device.proposal import render

    text = render(description().device, Facts.model_validate(FREE))
    document = tomllib.loads(text)
    assert Device.model_validate({"name": "shelf", **document}).disk is None
    for disk in FREE["disks"]:
        assert disk["virtual"] or f'# by_id = "{disk["by_id"]}"' in text
