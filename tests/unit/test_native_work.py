"""What is made natively besides the build under test: in front, or beside the tests."""

from __future__ import annotations

import threading

import pytest

from vexrun.errors import InfrastructureError
from vexrun.events import Event, StageFinished, Stages
from vexrun.native_work import Checking, FurtherBuilds, NativeWork
from vexrun.results.model import Check


def check(name: str) -> Check:
    return Check(name=name, category="static", ok=True)


def work(
    stages: Stages, checking: list[Checking], *, beside: bool, builds: FurtherBuilds | None = None
) -> NativeWork:
    made = builds or FurtherBuilds()
    return NativeWork(stages, lambda: made, checking, builds_beside=True, checks_beside=beside)


@pytest.mark.parametrize("beside", [True, False])
def test_everything_is_there_once_it_is_settled(beside: bool) -> None:
    told: list[Event] = []
    stages = Stages(told.append)
    checking: list[Checking] = [
        ("static", lambda: [check("sparse"), check("w1")]),
        ("unit", lambda: [check("cargo")]),
    ]
    with work(stages, checking, beside=beside) as further:
        assert [each.name for each in further.checks] == (
            [] if beside else ["sparse", "w1", "cargo"]
        )
        further.settle()
        assert [each.name for each in further.checks] == ["sparse", "w1", "cargo"]
    assert list(stages.durations) == ["static", "unit"]
    assert [each.stage for each in told if isinstance(each, StageFinished)] == ["static", "unit"]


@pytest.mark.parametrize("beside", [True, False])
def test_checks_go_on_beside_the_story_where_they_may(beside: bool) -> None:
    threads: list[int] = []

    def make() -> list[Check]:
        threads.append(threading.get_ident())
        return []

    with work(Stages(lambda _: None), [("static", make)], beside=beside) as further:
        further.settle()
    assert (threads[0] != threading.get_ident()) == beside


def test_a_check_that_could_not_be_made_breaks_the_run_off() -> None:
    def make() -> list[Check]:
        raise InfrastructureError("'sparse' could not begin.")

    with (
        work(Stages(lambda _: None), [("static", make)], beside=True) as further,
        pytest.raises(InfrastructureError, match="could not begin"),
    ):
        further.settle()
