"""What the guest's half of the ioctl tests makes of answers; the module is made up here."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

GUEST = Path(__file__).parents[1] / "guest"
EFAULT, ENOTTY, SUCCESS = "EFAULT", "ENOTTY", ""
ADD = 0x40187601  # _IOW('v', 1, 24 bytes)
SET = 0x40047602  # _IOW('v', 2, int), which many pass as the argument itself


@pytest.fixture
def ioctl(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for directory in (GUEST, GUEST / "ioctl"):
        monkeypatch.syspath_prepend(str(directory))
    import ioctl_in_guest

    yield ioctl_in_guest
    for name in ("ioctl_in_guest", "tree_in_guest"):
        sys.modules.pop(name, None)


@pytest.fixture
def called(ioctl: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """`called(number, answer)`: call_declared with a module that answers so."""

    def call(number: int, answer: Callable[[int, int], str]) -> Any:
        monkeypatch.setattr(ioctl.Arguments, "call", lambda _, __, each, at: answer(each, at))
        return ioctl.call_declared(str(tmp_path), 0, number, 30.0)

    return call


def _sound(number: int, address: int) -> str:
    if number not in (ADD, SET):
        return ENOTTY
    readable = 0x1000 < address < 1 << 47
    return SUCCESS if readable else EFAULT


@pytest.mark.parametrize("number", [ADD, SET])
def test_sound_module_passes(called: Callable[..., Any], number: int) -> None:
    def answer(each: int, address: int) -> str:
        return SUCCESS if each == SET else _sound(each, address)

    (calls, answers), stuck = called(number, answer)
    assert not stuck
    assert calls > 100
    assert set(answers.values()) == ({SUCCESS} if number == SET else {SUCCESS, EFAULT})


def test_every_number_of_its_own_type(called: Callable[..., Any]) -> None:
    def answer(number: int, address: int) -> str:
        return _sound(number, address) if number == ADD else SUCCESS

    with pytest.raises(AssertionError, match="type 0x76 that were tried and that nobody defined"):
        called(ADD, answer)


def test_structure_from_nowhere(called: Callable[..., Any]) -> None:
    def answer(number: int, _: int) -> str:
        return SUCCESS if number == ADD else ENOTTY

    with pytest.raises(AssertionError, match=r"moves 24 bytes.*copy_from_user"):
        called(ADD, answer)


def test_unknown_numbers_are_of_the_type_and_neither_declared_nor_generic(ioctl: Any) -> None:
    found = ioctl.unknown_of_type(0x80086601)  # FS_IOC_GETFLAGS, type 'f'
    assert {number >> 8 & 0xFF for number in found} == {0x66}
    assert not set(found) & set(ioctl.NOT_GARBAGE)
    assert len(found) == 16
