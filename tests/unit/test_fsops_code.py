"""The guest code of fsops, run here on a directory: sound, and with the bugs of bad ones."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

GUEST = Path(__file__).parents[1] / "guest"
MODULES = (
    *("access_in_guest", "directories_in_guest", "names_in_guest", "metadata_in_guest"),
    *("content_in_guest", "processes_in_guest", "space_in_guest"),
)


class GuestCode:
    """Runs one scenario and its second look, as `survives` does, without a remount."""

    def __init__(self, root: Path) -> None:
        self.root = str(root / "work")
        self.modules = {name: __import__(name) for name in (*MODULES, "tree_in_guest")}

    def module(self, name: str) -> ModuleType:
        return self.modules[f"{name}_in_guest"]

    def __call__(self, where: str, scenario: str, *arguments: Any, also: str = "") -> Any:
        code, tree = self.module(where), self.module("tree")
        try:
            made = getattr(code, scenario)(self.root, *arguments)
        except tree.Refused as error:
            pytest.skip(f"the filesystem here: {error}")
        note, told = made if isinstance(made, tuple) else (made, None)
        if also:
            getattr(code, also)(self.root, told)
        tree.verify(self.root, note, cleanup=True)
        assert not Path(self.root).exists()
        return told


@pytest.fixture
def guest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[GuestCode]:
    before = set(sys.modules)
    for directory in (GUEST, GUEST / "fsops"):
        monkeypatch.syspath_prepend(str(directory))
    yield GuestCode(tmp_path)
    for name in set(sys.modules) - before:
        if name.endswith("_in_guest"):
            del sys.modules[name]


SCENARIOS = [
    pytest.param(("access", "direct", []), "", id="direct"),
    pytest.param(("content", "in_pieces", 400), "", id="pieces"),
    pytest.param(("processes", "each_at_its_own", [], 0.2), "", id="at-its-own"),
    pytest.param(("processes", "each_at_its_own", ["hardlink"], 0.1), "", id="without-links"),
    pytest.param(("directories", "many_directories", 300), "", id="subdirectories"),
    pytest.param(("directories", "up_to_its_limit", 300), "", id="limit"),
    pytest.param(("metadata", "finely_timed"), "check_fine_times", id="finely-timed"),
    pytest.param(("access", "vectored"), "", id="vectored"),
    pytest.param(("access", "copied_by_the_kernel"), "", id="copied"),
    pytest.param(("access", "sought", []), "check_holes", id="sought"),
    pytest.param(("access", "sought", ["sparse"]), "check_holes", id="sought-no-holes"),
    pytest.param(("access", "preallocated", []), "", id="preallocated"),
    pytest.param(("access", "logged", 3, 10, []), "check_log", id="logged"),
    pytest.param(("directories", "found_again_by_position", 60), "", id="positions"),
    pytest.param(("directories", "long_names", 60, []), "", id="long-names"),
    pytest.param(("names", "exchanged", []), "", id="exchanged"),
    pytest.param(("names", "named_later"), "", id="named-later"),
    pytest.param(("names", "foreign_names"), "", id="foreign-names"),
    pytest.param(("metadata", "made_with_modes", True), "check_modes", id="modes"),
    pytest.param(("metadata", "timed"), "check_times", id="times"),
    pytest.param(("metadata", "attributed_richly", True), "check_rich", id="attributes"),
]


@pytest.mark.parametrize(("call", "also"), SCENARIOS)
def test_sound_filesystem_passes(guest: GuestCode, call: tuple[Any, ...], also: str) -> None:
    guest(*call, also=also)


def _forgets(real: Callable[..., int], which: int) -> Callable[..., int]:
    """Says that it did its work, and did not, for the call of that number."""
    calls = [0]

    def instead(*arguments: Any) -> int:
        calls[0] += 1
        if calls[0] != which:
            return real(*arguments)
        return sum(len(each) for each in arguments[1]) if isinstance(arguments[1], list) else 100

    return instead


def _seek(lie: Callable[[int, int], int | None]) -> Callable[[int, int, int], int]:
    real = os.lseek

    def lseek(fd: int, offset: int, whence: int) -> int:
        said = lie(offset, whence)
        return real(fd, offset, whence) if said is None else said

    return lseek


def test_direct_write_that_is_lost(guest: GuestCode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwritev", _forgets(os.pwritev, 1))
    with pytest.raises(AssertionError, match="mixed, written directly: wrong from byte 819"):
        guest("access", "direct", [])


def test_vectored_write_of_its_first_buffer(
    guest: GuestCode, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwritev

    def first_only(fd: int, buffers: list[bytes], offset: int) -> int:
        real(fd, buffers[:1], offset)
        return sum(map(len, buffers))

    monkeypatch.setattr(os, "pwritev", first_only)
    with pytest.raises(AssertionError, match="readv of"):
        guest("access", "vectored")


def test_copy_that_is_none(guest: GuestCode, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(_source: int, target: int, count: int, _from: int, to: int) -> int:
        os.ftruncate(target, to + count)
        return count

    monkeypatch.setattr(os, "copy_file_range", nothing)
    with pytest.raises(AssertionError, match="copy1: wrong from byte 0"):
        guest("access", "copied_by_the_kernel")


def test_data_in_what_is_called_a_hole(guest: GuestCode, monkeypatch: pytest.MonkeyPatch) -> None:
    lie = _seek(lambda offset, whence: 300_000 if (offset, whence) == (0, os.SEEK_DATA) else None)
    monkeypatch.setattr(os, "lseek", lie)
    with pytest.raises(AssertionError, match="SEEK_DATA"):
        guest("access", "sought", [])


@pytest.mark.parametrize(
    ("mode", "said"), [(0, "grown: the size"), (3, "punched: wrong"), (16, "zeroed: wrong")]
)
def test_fallocate_that_does_nothing(
    guest: GuestCode, monkeypatch: pytest.MonkeyPatch, mode: int, said: str
) -> None:
    code = guest.module("access")
    real = code._fallocate

    def lazy(fd: int, asked: int, offset: int, length: int) -> None:
        if asked != mode:
            real(fd, asked, offset, length)

    monkeypatch.setattr(code, "_fallocate", lazy)
    with pytest.raises(AssertionError, match=said):
        guest("access", "preallocated", [])


def test_appended_record_that_another_one_covers(
    guest: GuestCode, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = guest.module("access")

    def at_the_end_of_before(fd: int, data: bytes) -> None:
        if data.startswith(b"<01:0003>"):
            return
        os.write(fd, data)

    monkeypatch.setattr(code, "write_all", at_the_end_of_before)
    with pytest.raises(AssertionError, match="1 records are not in it whole"):
        guest("access", "logged", 3, 10, [])


def test_listing_that_begins_anew(guest: GuestCode, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.lseek
    monkeypatch.setattr(os, "lseek", lambda fd, _, whence: real(fd, 0, whence))
    with pytest.raises(AssertionError, match="that goes on behind number 1"):
        guest("directories", "found_again_by_position", 30)


def test_directory_that_cannot_go_back_is_a_skip(
    guest: GuestCode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Linux says since 6.0 where a directory has no .llseek."""

    def refuse(*_: int) -> int:
        raise OSError(29, "Illegal seek")

    monkeypatch.setattr(os, "lseek", refuse)
    for scenario in ("found_again_by_position", "reread_from_positions"):
        with pytest.raises(pytest.skip.Exception, match="going back in a listing"):
            guest("directories", scenario, 10)


@pytest.mark.parametrize("flag", [2, 4], ids=["exchange", "whiteout"])
def test_rename_that_ignores_its_flags(
    guest: GuestCode, monkeypatch: pytest.MonkeyPatch, flag: int
) -> None:
    def renamed(_call: str, old: str, new: str, flags: int) -> None:
        if flags != flag:
            raise OSError(22, "Invalid argument")
        Path(old).rename(new)

    monkeypatch.setattr(guest.module("names"), "_at_twice", renamed)
    with pytest.raises((AssertionError, FileNotFoundError, NotADirectoryError, IsADirectoryError)):
        guest("names", "exchanged", [])


def test_rename_that_refuses_its_flags(guest: GuestCode, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(guest.module("names"), "_at_twice", refuse)
    guest("names", "exchanged", [])


def test_mode_that_is_not_the_one_asked_for(
    guest: GuestCode, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open
    monkeypatch.setattr(os, "open", lambda path, flags, _mode=0: real(path, flags, 0o600))
    with pytest.raises(AssertionError, match="has 0600"):
        guest("metadata", "made_with_modes", True)


def test_attribute_that_is_not_replaced(guest: GuestCode, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.setxattr

    def once(path: str, name: str, value: bytes, flags: int = 0) -> None:
        if name not in os.listxattr(path):
            real(path, name, value, flags)
        elif flags:
            raise OSError(17, "File exists")

    monkeypatch.setattr(os, "setxattr", once)
    with pytest.raises(AssertionError, match="it was set to"):
        guest("metadata", "attributed_richly", True)


class _Entry:
    """A directory entry whose d_type says that it is a regular file."""

    def is_dir(self, *, follow_symlinks: bool) -> bool:
        return False

    def is_symlink(self) -> bool:
        return False

    def is_file(self, *, follow_symlinks: bool) -> bool:
        return True


def test_type_in_a_listing_is_the_files(guest: GuestCode, tmp_path: Path) -> None:
    check = guest.module("tree")._check_listed_type
    (tmp_path / "file").write_bytes(b"")
    check(_Entry(), "file", (tmp_path / "file").lstat())
    with pytest.raises(AssertionError, match="'sub' is not a directory, and its mode says drwx"):
        check(_Entry(), "sub", tmp_path.lstat())


@pytest.mark.parametrize(
    ("offset", "length", "left"),
    [
        (0, 100, []),
        (0, 40, [("a", 40, 60)]),
        (60, 100, [("a", 0, 60)]),
        (30, 20, [("a", 0, 30), ("a", 50, 50)]),
        (100, 10, [("a", 0, 100)]),
    ],
)
def test_content_that_was_zeroed(
    guest: GuestCode, offset: int, length: int, left: list[tuple[str, int, int]]
) -> None:
    content = guest.module("tree").Content(100, [("a", 0, 100)])
    content.zero(offset, length)
    assert content.writes == left
    assert content.size == 100


def test_operation_without_a_method_is_named(guest: GuestCode) -> None:
    offers = guest.module("tree").offers
    said = r'ENODEV.*add "mmap" to filesystem\.lacks'
    with pytest.raises(AssertionError, match=said), offers("mmap", "a shared mapping", 19):
        raise OSError(19, "No such device")


def _later(name: str, changed: Callable[[int], int]) -> Callable[[str], Any]:
    """os.lstat with one of its times as the disk would have it after a remount."""
    real = os.lstat

    def lstat(path: str) -> Any:
        status = real(path)
        values = {each: getattr(status, each) for each in dir(status) if each.startswith("st_")}
        return SimpleNamespace(**{**values, name: changed(values[name])})

    return lstat


@pytest.mark.parametrize(
    ("changed", "right"),
    [
        (lambda ns: ns // 10**9 * 10**9, True),  # whole seconds
        (lambda ns: ns // 10**7 * 10**7, True),  # exfat's hundredths
        (lambda ns: ns // 10**9 * 10**9 + 111_222_333, False),  # of another time
        (lambda ns: ns + 10**9, False),
    ],
)
def test_nanoseconds_of_another_time(
    guest: GuestCode,
    monkeypatch: pytest.MonkeyPatch,
    changed: Callable[[int], int],
    right: bool,
) -> None:
    code = guest.module("metadata")
    _, wanted = code.finely_timed(guest.root)
    monkeypatch.setattr(os, "lstat", _later("st_mtime_ns", changed))
    if right:
        code.check_fine_times(guest.root, wanted)
        return
    with pytest.raises(AssertionError, match="had the modification time"):
        code.check_fine_times(guest.root, wanted)


def test_directory_that_takes_a_name_and_does_not_list_it(
    guest: GuestCode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory of 128 files that lists 127 (found by an outsider)."""
    real, opened = os.open, [0]

    def limited(path: str, flags: int, *mode: int) -> int:
        if flags & os.O_CREAT:
            opened[0] += 1
            if opened[0] > 128:
                raise OSError(28, "No space left on device")
        return real(path, flags, *mode)

    monkeypatch.setattr(os, "open", limited)
    tree = guest.module("tree")
    note = guest.module("directories").up_to_its_limit(guest.root, 300)
    assert len(note["names"]) == 128
    Path(guest.root, "f0127").unlink()
    with pytest.raises(AssertionError, match="f0127"):
        tree.verify(guest.root, note)


def test_replaced_directories_that_keep_their_blocks(
    guest: GuestCode, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = guest.module("space")
    taken = [0]

    def renamed(old: str, new: str) -> None:
        taken[0] += 4096
        Path(old).rmdir()

    def free(_: str) -> dict[str, int]:
        return {"free": 10**8 - taken[0], "files": 0, "ffree": 0, "block": 4096}

    monkeypatch.setattr(os, "rename", renamed)
    monkeypatch.setattr(code, "free_space", free)
    monkeypatch.setattr(code, "returned_space", lambda path, *_: free(path))
    rounds = code.cycle_of_replaced_directories(guest.root, 4, 12)
    assert rounds[0]["free"] - rounds[-1]["free"] == 36 * 4096


def test_a_filesystem_that_replaces_no_directory_is_a_skip(
    guest: GuestCode, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: str) -> None:
        raise OSError(39, "Directory not empty")

    monkeypatch.setattr(os, "rename", refuse)
    code = guest.module("space")
    with pytest.raises(guest.module("tree").Refused, match="over an empty one"):
        code.cycle_of_replaced_directories(guest.root, 4, 12)


@pytest.mark.parametrize(("now", "right"), [(66_536, True), (65_534, True), (1000, False)])
def test_owner_that_is_cut_to_16_bits(
    guest: GuestCode, monkeypatch: pytest.MonkeyPatch, now: int, right: bool
) -> None:
    status = SimpleNamespace(st_uid=now, st_gid=65_578)
    monkeypatch.setattr(os, "lstat", lambda _: status)
    code = guest.module("metadata")
    if right:
        assert code.large_ids(guest.root) == (now, 65_578)
        return
    with pytest.raises(AssertionError, match="given to the id 66536 and belongs to 1000"):
        code.large_ids(guest.root)
