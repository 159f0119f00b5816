"""Two runs side by side: what counts as worse, and when samples allow a conclusion."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from vexrun.cli import app
from vexrun.compare import samples
from vexrun.compare.comparison import (
    Finding,
    MeasurementChange,
    compare,
    judge_measurements,
    load_side,
)
from vexrun.errors import ConfigError, ExitCode
from vexrun.report import write_reports
from vexrun.results.model import (
    KernelEvent,
    Measurement,
    ModuleInfo,
    Outcome,
    RunResults,
    SubjectInfo,
    TargetInfo,
    TestResult,
    VariantBuild,
    Verdict,
)
from vexrun.rundir import runs_dir

pytestmark = pytest.mark.usefixtures("home")

ONE, TWO = "fsops/test_a.py::test_one", "fsops/test_a.py::test_two"
MakeRun = Callable[..., str]


def measured(
    values: list[float], *, name: str = "create", reference: list[float] | None = None,
    better: str = "lower",
) -> Measurement:  # fmt: skip
    return Measurement(
        name=name, unit="ms", better=better, samples=values, reference=reference or []
    )


@pytest.fixture
def make_run() -> MakeRun:
    """A passing run of two tests, in a directory; keywords replace what it says."""
    count = 0

    def make(
        outcomes: dict[str, Outcome] | None = None,
        module: str = "m" * 64,
        size: int = 1000,
        **fields: Any,
    ) -> str:
        nonlocal count
        count += 1
        path = runs_dir() / f"20260101T{count:06}-demo-0000"
        path.mkdir(parents=True)
        (path / "demo.ko").write_bytes(b"x" * size)
        tests = {ONE: Outcome.PASSED, TWO: Outcome.PASSED} if outcomes is None else outcomes
        said: dict[str, Any] = {
            "verdict": Verdict.PASS,
            "complete": True,
            "exit_code": 0,
            "selected_categories": ["fsops"],
            "subject": SubjectInfo(name="demo", source="/s", tree_sha256="t"),
            "target": TargetInfo(kind="vm", kernel="6.12", image_sha256="i"),
            "module": ModuleInfo(file="demo.ko", sha256=module),
            "tests": [
                TestResult(id=name, category="fsops", outcome=outcome)
                for name, outcome in tests.items()
            ],
            **fields,
        }
        write_reports(RunResults(run_id=path.name, run_dir=str(path), **said), path)
        return path.name

    return make


def run_compare(a: str, b: str, *options: str) -> Any:
    return CliRunner().invoke(app, ["compare", a, b, *options], env={"COLUMNS": "200"})


def document(a: str, b: str) -> Any:
    return json.loads(run_compare(a, b, "--json").stdout)


# -- what is worse -------------------------------------------------------------------------------


def test_the_same_twice_is_no_regression(make_run: MakeRun) -> None:
    a, b = make_run(), make_run()
    ended = run_compare(a, b)
    assert ended.exit_code == ExitCode.PASS
    assert "No regression was found" in ended.output
    assert "2 tests ran on both sides" in ended.output


FAIL = {ONE: Outcome.FAILED, TWO: Outcome.PASSED}
CRASH = {ONE: Outcome.CRASHED, TWO: Outcome.PASSED}
NOT_RUN = {ONE: Outcome.ERROR, TWO: Outcome.PASSED}
SKIPPED = {ONE: Outcome.SKIPPED, TWO: Outcome.PASSED}
ALONE = {TWO: Outcome.PASSED}
BAD = KernelEvent(**{"class": "oops", "title": "BUG: something", "key": "k"})


@pytest.mark.parametrize(
    ("a", "b", "code", "words"),
    [
        ({}, {"outcomes": FAIL}, 1, [f"'{ONE}' failed (before: passed)"]),
        ({}, {"outcomes": CRASH}, 1, [f"'{ONE}' crashed"]),
        ({"outcomes": FAIL}, {"outcomes": CRASH}, 0, []),  # was bad already
        ({"outcomes": FAIL}, {}, 0, ["newly passing"]),
        ({"outcomes": ALONE}, {"outcomes": FAIL}, 1, [f"'{ONE}' failed (not run before)"]),
        ({}, {"outcomes": ALONE}, 0, ["only in A"]),
        ({}, {"outcomes": NOT_RUN}, 1, ["1 test that passed could not be run to an end"]),
        ({}, {"outcomes": SKIPPED}, 0, ["Skipped in B, but not in A: 1 test."]),
        ({}, {"kernel_events": [BAD]}, 1, ["The kernel reported something new: BUG: something"]),
        ({"kernel_events": [BAD]}, {"kernel_events": [BAD]}, 0, []),
        ({"kernel_events": [BAD]}, {}, 0, ["gone in B"]),
        ({}, {"verdict": Verdict.FAIL}, 1, ["The verdict was 'pass' and is 'fail'"]),
        ({}, {"verdict": Verdict.ERROR}, 1, ["B is void"]),
        ({}, {"verdict": Verdict.INTERRUPTED, "complete": False}, 1, ["B is void"]),
        ({"verdict": Verdict.FAIL}, {}, 0, []),
        (
            {"verdict": Verdict.FAIL},
            {"verdict": Verdict.FAIL, "build_failure": "The module did not build: x."},
            1,
            ["The module did not build: x."],
        ),
    ],
)
def test_what_counts_as_worse(
    make_run: MakeRun, a: dict[str, Any], b: dict[str, Any], code: int, words: list[str]
) -> None:
    ended = run_compare(make_run(**a), make_run(**b))
    assert ended.exit_code == code, ended.output
    for word in words:
        assert word in ended.output


def test_an_event_is_the_same_by_its_key(make_run: MakeRun) -> None:
    same = BAD.model_copy(update={"title": "BUG: something at another address"})
    assert document(make_run(kernel_events=[BAD]), make_run(kernel_events=[same]))["worse"] is False


def test_evidence_that_differs_is_shown(make_run: MakeRun) -> None:
    found = document(make_run(), make_run(module="n" * 64, size=1200))
    assert {each["what"] for each in found["evidence"]} == {"module"}
    assert found["sizes"] == [{"what": "module file", "a": "1,000 bytes", "b": "1,200 bytes"}]


def test_a_regression_with_the_same_module_says_so(make_run: MakeRun) -> None:
    a, b, other = make_run(), make_run(outcomes=FAIL), make_run(outcomes=FAIL, module="n" * 64)
    assert any("same module file" in note for note in document(a, b)["notes"])
    assert not any("same module file" in note for note in document(a, other)["notes"])


def test_warnings_are_the_same_wherever_they_moved_to(make_run: MakeRun) -> None:
    def build(*warnings: str) -> list[VariantBuild]:
        return [
            VariantBuild(
                name="default", ok=True, where="native", duration_s=1, warnings=list(warnings)
            )
        ]

    a = make_run(builds=build("a.c:10:3: warning: unused 'x'", "a.c:20:1: warning: old"))
    b = make_run(builds=build("a.c:12:3: warning: unused 'x'", "b.c:1:1: warning: new"))
    assert document(a, b)["warnings"] == {
        "new": ["default: b.c: warning: new"],
        "gone": ["default: a.c: warning: old"],
    }


# -- sides ---------------------------------------------------------------------------------------


def test_the_worst_outcome_of_a_series_counts(make_run: MakeRun) -> None:
    good, bad = make_run(), make_run(outcomes=FAIL)
    assert run_compare(good, f"{good},{bad}").exit_code == 1
    assert run_compare(f"{good},{bad}", good).exit_code == 0


@pytest.mark.parametrize("name", ["", " , ", "nope"])
def test_a_side_that_is_no_run_is_a_wrong_request(make_run: MakeRun, name: str) -> None:
    with pytest.raises(ConfigError):
        load_side(name)
    assert isinstance(run_compare(make_run(), name).exception, ConfigError)


def test_a_run_twice_would_count_its_samples_twice(make_run: MakeRun) -> None:
    run = make_run()
    with pytest.raises(ConfigError, match="twice"):
        load_side(f"{run},{runs_dir() / run}")


def test_runs_with_nothing_in_common_allow_no_conclusion(make_run: MakeRun) -> None:
    with pytest.raises(ConfigError, match="in common"):
        compare(load_side(make_run()), load_side(make_run(outcomes={"x/t.py::t": Outcome.PASSED})))


def test_directories_are_runs(make_run: MakeRun) -> None:
    a, b = make_run(), make_run()
    assert run_compare(str(runs_dir() / a), str(runs_dir() / b)).exit_code == 0


# -- measurements --------------------------------------------------------------------------------

SLOW = [20.0, 21.0, 22.0, 23.0, 24.0, 25.0]
FAST = [10.0, 11.0, 12.0, 13.0, 14.0, 15.0]


def series(make_run: MakeRun, each: Measurement) -> str:
    """A run for every sample."""
    pairs = each.reference if len(each.reference) == len(each.samples) else None
    return ",".join(
        make_run(
            measurements=[
                each.model_copy(
                    update={
                        "samples": [value],
                        "reference": [pairs[n]] if pairs else each.reference,
                    }
                )
            ]
        )
        for n, value in enumerate(each.samples)
    )


def change_of(make_run: MakeRun, a: Measurement, b: Measurement) -> Any:
    (row,) = document(series(make_run, a), series(make_run, b))["measurements"]
    return row


def test_the_samples_of_one_run_are_one_value(make_run: MakeRun) -> None:
    """They share what else the machine did then, however many they are and however far apart."""
    a, b = (make_run(measurements=[measured(each * 10)]) for each in (FAST, SLOW))
    found = document(a, b)
    assert found["measurements"][0]["finding"] == Finding.TOO_FEW.value
    assert found["measurements"][0]["a"] == [12.5]
    assert found["worse"] is False


@pytest.mark.parametrize(
    ("a", "b", "better", "finding"),
    [
        (FAST, SLOW, "lower", Finding.SLOWER),
        (SLOW, FAST, "lower", Finding.FASTER),
        (FAST, SLOW, "higher", Finding.FASTER),
        (SLOW, FAST, "higher", Finding.SLOWER),
        (FAST, FAST, "lower", Finding.SAME),
        (FAST[:4], SLOW, "lower", Finding.TOO_FEW),
        (FAST, SLOW[:4], "lower", Finding.TOO_FEW),
        ([1.0] * 6, [1.0] * 6, "lower", Finding.SAME),
    ],
)
def test_findings(
    make_run: MakeRun, a: list[float], b: list[float], better: str, finding: Finding
) -> None:
    row = change_of(make_run, measured(a, better=better), measured(b, better=better))
    assert row["finding"] == finding.value
    if finding is Finding.TOO_FEW:
        assert (row["p"], row["samples_needed"]) == (None, 5)


def test_too_few_samples_say_how_many_are_needed(make_run: MakeRun) -> None:
    a, b = (series(make_run, measured(each[:3])) for each in (FAST, SLOW))
    ended = run_compare(a, b)
    assert ended.exit_code == 0, "no conclusion is no regression"
    assert "no conclusion: 5 runs on each side are needed" in ended.output


def test_a_significant_slowdown_is_a_regression(make_run: MakeRun) -> None:
    a, b = (series(make_run, measured(each)) for each in (FAST, SLOW))
    ended = run_compare(a, b)
    assert ended.exit_code == 1
    assert "'create' is worse by 80% (p = 0.0022)" in ended.output


def test_a_significant_trifle_is_told_and_no_regression(make_run: MakeRun) -> None:
    a, b = [1000.0 + n for n in range(6)], [1010.0 + n for n in range(6)]
    found = document(series(make_run, measured(a)), series(make_run, measured(b)))
    assert found["measurements"][0]["finding"] == Finding.SLOWER.value
    assert found["worse"] is False


def test_ratios_to_the_reference_are_compared_where_there_is_one(make_run: MakeRun) -> None:
    """A machine that got slower on both filesystems did not make the subject slower."""
    row = change_of(make_run, measured(FAST, reference=FAST), measured(SLOW, reference=SLOW))
    assert row["ratio_to_reference"] is True
    assert row["finding"] == Finding.SAME.value


@pytest.mark.parametrize("reference", [[], [1.0, 2.0], [0.0] * 6])
def test_a_reference_that_does_not_fit_is_not_used(
    make_run: MakeRun, reference: list[float]
) -> None:
    row = change_of(make_run, measured(FAST, reference=FAST), measured(SLOW, reference=reference))
    assert row["ratio_to_reference"] is False


def test_another_unit_is_not_compared(make_run: MakeRun) -> None:
    other = measured(SLOW).model_copy(update={"unit": "s"})
    found = document(make_run(measurements=[measured(FAST)]), make_run(measurements=[other]))
    assert found["measurements"] == []
    assert any("another unit" in note for note in found["notes"])


def test_chance_differences_of_many_measurements_are_no_regression() -> None:
    """Twenty measurements that differ by chance alone, in sixty comparisons."""
    chance = random.Random(4711)

    def values() -> list[float]:
        return [chance.gauss(10, 2) for _ in range(8)]

    false_alarms = 0
    for _ in range(60):
        rows = [
            MeasurementChange(f"m{n}", "ms", "lower", False, values(), values()) for n in range(20)
        ]
        judge_measurements(rows)
        false_alarms += any(row.finding is not Finding.SAME for row in rows)
    assert false_alarms <= 60 * samples.ALPHA * 2


# -- statistics ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "p"),
    [
        ([1, 2, 3, 4, 5], [6, 7, 8, 9, 10], 2 / 252),
        ([1, 2, 3], [4, 5, 6], 0.1),
        ([1, 2], [3, 4], 1 / 3),
        ([1, 4], [2, 3], 1.0),
        ([5, 5, 5], [5, 5, 5], 1.0),
    ],
)
def test_mann_whitney_on_known_cases(a: list[float], b: list[float], p: float) -> None:
    assert samples.mann_whitney(a, b) == pytest.approx(p)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=2, max_size=5),
    st.lists(st.integers(0, 4), min_size=2, max_size=5),
)
def test_mann_whitney_counts_every_split(a: list[int], b: list[int]) -> None:
    """Against the definition, ties and all: the rank sums of every choice of len(a) values."""
    together = [*a, *b]
    ranks = [
        sum(x < y for x in together) + (sum(x == y for x in together) + 1) / 2 for y in together
    ]
    sums = [sum(chosen) for chosen in itertools.combinations(ranks, len(a))]
    own = sum(ranks[: len(a)])
    below, above = sum(s <= own for s in sums), sum(s >= own for s in sums)
    assert samples.mann_whitney(a, b) == pytest.approx(min(1, 2 * min(below, above) / len(sums)))


def test_the_approximation_meets_the_exact_value(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(1)
    a = [chance.gauss(10, 1) for _ in range(25)]
    b = [chance.gauss(10.6, 1) for _ in range(25)]
    exact = samples.mann_whitney(a, b)
    monkeypatch.setattr(samples, "_EXACT_UP_TO", 0)
    assert samples.mann_whitney(a, b) == pytest.approx(exact, rel=0.15)
    assert samples.mann_whitney([1.0] * 40, [1.0] * 40) == 1.0


@pytest.mark.parametrize(
    ("a", "b", "delta", "word"),
    [
        ([1, 2], [3, 4], 1.0, "large"),
        ([3, 4], [1, 2], -1.0, "large"),
        ([1, 2], [1, 2], 0.0, "negligible"),
        ([1, 2, 3, 4, 5], [1, 2, 3, 4, 9], 0.04, "negligible"),
    ],
)
def test_cliffs_delta(a: list[float], b: list[float], delta: float, word: str) -> None:
    found = samples.cliffs_delta(a, b)
    assert found == pytest.approx(delta)
    assert samples.magnitude(found) == word


@pytest.mark.parametrize(("tests", "needed"), [(0, 5), (1, 5), (6, 5), (7, 6), (23, 6), (24, 7)])
def test_samples_needed(tests: int, needed: int) -> None:
    assert samples.samples_needed(tests) == needed
    apart = samples.mann_whitney(range(needed), range(100, 100 + needed))
    assert samples.significant([apart] + [1.0] * max(tests - 1, 0))[0], "so many are enough"


@pytest.mark.parametrize(
    ("p_values", "found"),
    [
        ([], []),
        ([0.05], [True]),
        ([0.051], [False]),
        ([0.03, 0.03], [False, False]),
        ([0.025, 0.04], [True, True]),
        ([0.04, 0.02], [True, True]),
        ([0.01, 0.04, 0.04], [True, False, False]),
    ],
)
def test_holm(p_values: list[float], found: list[bool]) -> None:
    assert samples.significant(p_values) == found


def test_no_run_is_written_to(make_run: MakeRun) -> None:
    a, b = make_run(), make_run()
    before = {path: path.stat().st_mtime_ns for path in Path(runs_dir()).rglob("*")}
    run_compare(a, b)
    assert {path: path.stat().st_mtime_ns for path in Path(runs_dir()).rglob("*")} == before
