"""What the plugin makes of a test that ends early."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from vexrun.guest import own_tests, plugin
from vexrun.guest.payload import IN_THE_GUEST, GuestCodeError
from vexrun.layout import data_root
from vexrun.subject import Subject

MakeSubject = Callable[..., Subject]

#: As tests on a filesystem with files of at most 64 KiB reported it.
TOO_LARGE = GuestCodeError(
    "OSError: [Errno 27] File too large\n\nin the guest:\nTraceback …", "OSError"
)
IN_PROCESSES = GuestCodeError(
    "process 0: OSError: [Errno 27] File too large; process 1: OSError: [Errno 27] File too large",
    "AssertionError",
)


#: As test_rename reported it of a filesystem with names of at most 8 bytes.
TOO_LONG = GuestCodeError(
    "OSError: [Errno 36] File name too long: '/mnt/vexrun/longer-name'\n\nin the guest:\n…",
    "OSError",
)


class Item(SimpleNamespace):
    """As much of a pytest.Item as the hook looks at."""


@pytest.fixture
def end(monkeypatch: pytest.MonkeyPatch, make_subject: MakeSubject) -> Callable[..., Item]:
    """Let a test end with an exception; what comes out of the hook is raised."""

    def run(error: BaseException, lacks: list[str], identifier: str = "fsops/t.py::t") -> Any:
        subject = make_subject(filesystem=f'type = "a"\nmkfs = "true"\nlacks = {lacks}')
        monkeypatch.setattr(
            "vexrun.guest.fixtures.run_context", lambda _config: SimpleNamespace(subject=subject)
        )
        monkeypatch.setattr(own_tests, "identifier", lambda _item: identifier)
        item = Item(config=None, funcargs={"mounted": SimpleNamespace(spoiled=False)})
        hook = plugin.pytest_runtest_call(item)  # type: ignore[arg-type]
        next(hook)
        try:
            hook.throw(error)
        except BaseException as raised:  # noqa: BLE001 - a skip is one
            item.raised = raised
        return item

    return run


LIMITS = [(TOO_LARGE, "largefile"), (IN_PROCESSES, "largefile"), (TOO_LONG, "longnames")]


@pytest.mark.parametrize(("error", "word"), LIMITS)
def test_limit_is_a_skip_where_it_is_declared(
    end: Callable[..., Item], error: GuestCodeError, word: str
) -> None:
    item = end(error, [word])
    assert isinstance(item.raised, pytest.skip.Exception)
    assert word in str(item.raised)


@pytest.mark.parametrize(("error", "word"), LIMITS)
def test_limit_is_a_failure_that_names_the_word_otherwise(
    end: Callable[..., Item], error: GuestCodeError, word: str
) -> None:
    item = end(error, ["sparse"])
    assert isinstance(item.raised, GuestCodeError)
    assert f"'{word}' belongs into filesystem.lacks" in str(item.raised)
    assert item.raised.kind == error.kind


#: As test_names_that_differ_in_case said it of a filesystem without unlink.
REFUSED = GuestCodeError(
    "unlink is refused with EPERM; if the filesystem does not offer it on purpose, add "
    '"unlink" to filesystem.lacks\n\nin the guest:\nTraceback …',
    "AssertionError",
)


def test_refused_operation_is_a_skip_where_it_is_lacking(end: Callable[..., Item]) -> None:
    item = end(REFUSED, ["unlink"])
    assert isinstance(item.raised, pytest.skip.Exception)
    assert "lacks: unlink (it says: unlink is refused with EPERM" in str(item.raised)


def test_refused_operation_is_a_failure_otherwise(end: Callable[..., Item]) -> None:
    assert end(REFUSED, ["largefile", "mkdir"]).raised is REFUSED


@pytest.mark.parametrize(
    "error",
    [
        GuestCodeError("OSError: [Errno 28] No space left on device", "OSError"),
        GuestCodeError("a: the content differs\n\nin the guest:\n[Errno 27]", "AssertionError"),
    ],
)
def test_other_failures_stay_what_they_are(end: Callable[..., Item], error: GuestCodeError) -> None:
    assert end(error, ["largefile"]).raised is error


def test_own_tests_of_a_subject_are_taken_at_their_word(end: Callable[..., Item]) -> None:
    assert end(TOO_LARGE, ["largefile"], "own/vexrun-tests/t.py::t").raised is TOO_LARGE


@pytest.mark.parametrize(("lacks", "spoiled"), [(["mkdir"], True), ([], False)])
def test_a_skipped_test_spoils_a_root_that_all_tests_share(
    end: Callable[..., Item], lacks: list[str], spoiled: bool
) -> None:
    item = end(pytest.skip.Exception("no xattr"), lacks)
    assert isinstance(item.raised, pytest.skip.Exception)
    assert item.funcargs["mounted"].spoiled is spoiled


def failure(text: str, traceback: str = "") -> tuple[str, str]:
    with pytest.raises(AssertionError) as caught:
        raise GuestCodeError(text)
    call: Any = SimpleNamespace(excinfo=caught)
    return plugin._failure(call, traceback)


SHORT = """\
{place}:49: in test_module_builds
    assert build.ok, f"the build '{{variant}}' failed"
E   AssertionError: the build 'default' failed: super.c:11:7: error: expected ';'
E   assert False
E    +  where False = VariantBuild(name='default', ok=False, where='native', log='make: Ente...').ok
"""


def test_a_failure_is_said_once_and_without_the_insides_of_vexrun() -> None:
    """A module that did not compile filled three screens, mostly with a dumped RunContext."""
    place = data_root() / "tests/guest/build/test_build.py"
    sentence = "the build 'default' failed: super.c:11:7: error: expected ';'"
    compared = "assert False\n +  where False = VariantBuild(name='default').ok"
    message, details = failure(f"{sentence}\n{compared}", SHORT.format(place=place))
    assert message == sentence
    assert details == (
        "tests/guest/build/test_build.py:49: in test_module_builds\n"
        "    assert build.ok, f\"the build '{variant}' failed\""
    )


def test_what_was_compared_is_kept_where_it_says_something() -> None:
    assert failure("they differ\nassert 3 == 4") == ("they differ", "assert 3 == 4")
    assert failure("assert 3 == 4\n +  where 3 = f()") == ("assert 3 == 4\n +  where 3 = f()", "")


def test_the_guests_traceback_is_a_detail() -> None:
    there = '  File "x_in_guest.py", line 3, in f'
    message, details = failure(f"s4097: wrong from byte 1 on{IN_THE_GUEST}{there}", "E  s4097")
    assert message == "s4097: wrong from byte 1 on"
    assert details == f"in the guest:\n{there}"
