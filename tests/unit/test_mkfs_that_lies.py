"""A mkfs that ends with 0 and has written nothing is called that where the mount fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from vexrun.guest.context import RunContext
from vexrun.guest.filesystem import Filesystem
from vexrun.guest.scratch import Scratch
from vexrun.subject import Subject

DISK = "/dev/disk/by-id/virtio-vexrun-scratch0"
NAMED = "mkfs said it worked and has written nothing"


class FakeGuest:
    """A disk whose statistics move when mkfs, or a flush after it, writes; mounts say EINVAL."""

    def __init__(self, sectors: int, discarded: int = 0, late: int = 0, stat: bool = True) -> None:
        self.sectors, self.discarded, self.late = sectors, discarded, late
        self.counts = {"written": 100, "discarded": 0}
        self.stat = stat

    def run(self, command: str) -> tuple[int, str, str]:
        if "mkfs.demo" in command:
            self.counts["written"] += self.sectors
            self.counts["discarded"] += self.discarded
        return 0, "", ""

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        if function.__name__ == "flush":
            self.counts["written"] += self.late
            return None
        assert function.__name__ == "try_mount"
        return "EINVAL"

    def resolve(self, path: str) -> str:
        return {DISK: "/dev/vdb"}[path]

    def read(self, path: str) -> str | None:
        assert path == "/sys/class/block/vdb/stat"
        if not self.stat:
            return None
        written, discarded = self.counts["written"], self.counts["discarded"]
        return f"  9 0 80 3  7 0 {written} 2 0 5 6 1 0 {discarded} 0 2 1\n"

    def exists(self, path: str) -> bool:
        return True


def message_of_the_mount(
    guest: FakeGuest, mkfs: str = "mkfs.demo {device}", errno: str = "EINVAL"
) -> str:
    subject = Subject.model_validate(
        {
            "subject": {"name": "demo"},
            "module": {"ko": "demo.ko"},
            "filesystem": {"type": "demo", "backing": "block", "size_mib": 8, "mkfs": mkfs},
        }
    )
    context = RunContext.model_construct(subject=subject, source="/source", build_dir="/build")
    disks = {"vexrun-scratch0": DISK}
    filesystem = Filesystem(guest, context, Scratch(guest, disks))  # type: ignore[arg-type]
    filesystem.mkfs(DISK)
    with pytest.raises(AssertionError, match=f"fails with {errno}") as caught:
        filesystem.mount(DISK)
    return str(caught.value)


def test_one_that_wrote_nothing_is_named() -> None:
    assert NAMED in message_of_the_mount(FakeGuest(sectors=0))


@pytest.mark.parametrize(
    "guest",
    [
        FakeGuest(sectors=8),
        FakeGuest(sectors=0, discarded=64),
        FakeGuest(sectors=0, late=8),
        FakeGuest(sectors=0, stat=False),
    ],
    ids=["written", "discarded", "still in the page cache", "nobody knows"],
)
def test_one_that_wrote_something_is_not(guest: FakeGuest) -> None:
    assert NAMED not in message_of_the_mount(guest)


def test_a_filesystem_that_formats_itself_at_mount_is_not_accused() -> None:
    assert NAMED not in message_of_the_mount(FakeGuest(sectors=0), mkfs="true")


@pytest.mark.parametrize(
    ("types", "said"),
    [
        ("nodev\tsysfs\n\tdemo2\n", "has registered no type 'demo'"),
        ("\tdemo\n", "fails with ENODEV\n"),
    ],
)
def test_mount_of_a_type_that_nobody_registered(types: str, said: str) -> None:
    class NoSuchType(FakeGuest):
        def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
            return "ENODEV" if function.__name__ == "try_mount" else None

        def read(self, path: str) -> str | None:
            return types if path == "/proc/filesystems" else super().read(path)

    assert said in message_of_the_mount(NoSuchType(8), errno="ENODEV")


def test_nodev_filesystem_is_prepared_and_mounted_from_its_source() -> None:
    asked: list[Any] = []

    class Stacked(FakeGuest):
        def run(self, command: str) -> tuple[int, str, str]:
            asked.append(command)
            return (1, "no room", "") if "fails" in command else (0, "", "")

        def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
            asked.append((function.__name__, arguments[0]))
            return ""

    def filesystem(prepare: str) -> Filesystem:
        section = {"type": "demo", "backing": "nodev", "source": "/lower", "prepare": prepare}
        subject = Subject.model_validate(
            {"subject": {"name": "demo"}, "module": {"ko": "demo.ko"}, "filesystem": section}
        )
        context = RunContext.model_construct(subject=subject, source="/source")
        guest: Any = Stacked(0)
        return Filesystem(guest, context, Scratch(guest, {"vexrun-scratch0": DISK}))

    sound = filesystem("mkdir -p /lower")
    sound.mkfs(DISK)
    assert sound.try_mount(DISK) == (0, "")
    assert asked == ["( mkdir -p /lower ) </dev/null 2>&1", ("try_mount", "/lower")]
    with pytest.raises(AssertionError, match=r"filesystem\.prepare failed .* 1: no room"):
        filesystem("fails").mkfs(DISK)
