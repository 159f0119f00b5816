"""The gate: open for whole and fresh evidence, shut for everything else, with a reason each."""

from __future__ import annotations

import ast
import dataclasses
import fnmatch
import json
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from gate_runs import ASKED_FOR, RELEASE, MadeRun, MakeRun

from vexrun.categories import CATEGORIES
from vexrun.errors import ConfigError
from vexrun.gate import checks
from vexrun.gate.checklist import Checklist, examine
from vexrun.gate.checks import CHECKS
from vexrun.gate.criteria import Gate, load_criteria
from vexrun.gate.evidence import edited, read_evidence
from vexrun.gate.render import FORMATS
from vexrun.gate.seal import seal, verify
from vexrun.results.model import DeviceInfo, KernelEvent, Outcome

pytestmark = pytest.mark.usefixtures("home", "every_category_ready")
GUEST_TESTS = Path(__file__).parents[1] / "guest"


@pytest.fixture
def every_category_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that this version may not have yet."""
    ready = {name: dataclasses.replace(row, ready=True) for name, row in CATEGORIES.items()}
    monkeypatch.setattr(checks, "CATEGORIES", ready)


@pytest.fixture
def make_run(home: Path, source_tree: Path) -> MakeRun:
    return lambda name: MadeRun(home / "state" / "runs" / name, source_tree)


@pytest.fixture
def run(make_run: MakeRun) -> MadeRun:
    """A run the gate opens for, and an earlier one like it."""
    make_run("20261121T000000-demo-0001")
    return make_run("20261122T000000-demo-0002")


def shut_by(checklist: Checklist) -> dict[str, str]:
    """What was found, of the criteria that are not met."""
    assert checklist.open is (not checklist.refused)
    assert all(line.do for line in checklist.refused), "each refusal says what to do"
    return {line.id: line.found for line in checklist.refused}


def device(run: MadeRun, **given: object) -> dict[str, str]:
    return shut_by(examine(run.path, Gate.DEVICE, **given))  # type: ignore[arg-type]


# -- open ----------------------------------------------------------------------------------------


def test_the_gate_opens_for_whole_and_fresh_evidence(run: MadeRun) -> None:
    assert device(run) == {}


def test_every_line_carries_evidence(run: MadeRun) -> None:
    answer = examine(run.path, Gate.DEVICE)
    assert [line.id for line in answer.lines] == [row.id for row in load_criteria().of(Gate.DEVICE)]
    assert [line.id for line in answer.lines if len(line.found) < 10] == []
    assert "is open" in answer.sentence


def test_every_check_of_the_criteria_exists_and_is_asked_for() -> None:
    assert {row.check for row in load_criteria().criterion} == set(CHECKS)


@pytest.mark.parametrize(
    "pattern",
    [
        pattern
        for row in load_criteria().criterion
        for pattern in row.tests
        if not pattern.startswith("teardown/")
    ],
)
def test_the_tests_that_criteria_name_exist(pattern: str) -> None:
    found = [
        f"{path.parent.name}/{path.name}::{node.name}"
        for path in GUEST_TESTS.glob("*/test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    assert fnmatch.filter(found, pattern)


# -- evidence that somebody edited ---------------------------------------------------------------


def _rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def _results(run: MadeRun, change: Callable[[MadeRun], None]) -> None:
    """Edit results.json alone, and well: counts, verdict and form are right."""
    others = {path: path.read_bytes() for path in run.path.iterdir() if path.name != "results.json"}
    change(run)
    run.write()
    for path, content in others.items():
        path.write_bytes(content)


def _make_it_pass(run: MadeRun) -> None:
    """A run that failed, and whose results.json somebody made good."""
    run.test("fsops").outcome = Outcome.FAILED
    run.write()
    _results(run, lambda run: setattr(run.test("fsops"), "outcome", Outcome.PASSED))


def _make_it_and_the_last_event_pass(run: MadeRun) -> None:
    run.test("fsops").outcome = Outcome.FAILED
    run.write()
    told = run.events.read_text().splitlines()[:-1]
    run.test("fsops").outcome = Outcome.PASSED
    run.write()
    run.events.write_text("\n".join([*told, run.events.read_text().splitlines()[-1]]) + "\n")


def _forget_an_event(run: MadeRun) -> None:
    lines = run.events.read_text().splitlines()
    event = KernelEvent.model_validate({"class": "oops", "title": "BUG: gone"})
    seen = {"event": "KernelEventSeen", "at": 0, "kernel_event": event.model_dump(mode="json")}
    run.events.write_text("\n".join([json.dumps(seen), *lines]) + "\n")


OOPS = "[  9.000000] BUG: kernel NULL pointer dereference, address: 0000000000000028\n"

TAMPERED: dict[str, tuple[Callable[[MadeRun], object], str]] = {
    "a space in results.json": (
        lambda run: run.json.write_text(run.json.read_text() + " "),
        "not byte for byte",
    ),
    "counts": (lambda run: _rewrite(run.json, '"failed": 0', '"failed": 1'), "says counts"),
    "verdict of a failed test": (
        lambda run: _rewrite(run.json, '"outcome": "passed"', '"outcome": "failed"'),
        "says verdict = pass, and its tests say fail",
    ),
    "a failed test made good": (_make_it_pass, "differ in 'tests'"),
    "also in the last event": (_make_it_and_the_last_event_pass, "was 'failed' when it ended"),
    "a test taken out": (
        lambda run: _results(run, lambda run: run.results.tests.pop(0) and None),
        "differ in 'tests'",
    ),
    "another tree": (
        lambda run: _results(run, lambda r: setattr(r.results.subject, "tree_sha256", "0" * 64)),
        "differ in 'subject'",
    ),
    "another end": (
        lambda run: _results(run, lambda run: setattr(run.results, "finished_at", "2026-11-23")),
        "differ in 'finished_at'",
    ),
    "a kernel event that was told": (_forget_an_event, "tells of a kernel event: 'BUG: gone'"),
    "events removed": (lambda run: run.events.unlink(), "is missing or does not describe"),
    "events cut": (
        lambda run: run.events.write_text(run.events.read_text()[:-40]),
        "is no JSON",
    ),
    "console removed": (lambda run: run.console.unlink(), "'console.log' is missing"),
    "console cut": (
        lambda run: run.console.write_text("\n".join(run.console.read_text().split("\n")[:5])),
        "has the marks of 4 tests",
    ),
    "an oops on the console": (
        lambda run: run.console.write_text(run.console.read_text() + OOPS),
        "has a kernel event at byte",
    ),
    "module exchanged": (
        lambda run: (run.path / "demo.ko").write_bytes(run.module.replace(b"GPL", b"GPl")),
        "and the run recorded",
    ),
    "module removed": (lambda run: (run.path / "demo.ko").unlink(), "is missing or not a module"),
    "module made rubbish": (
        lambda run: (run.path / "demo.ko").write_bytes(b"x"),
        "is missing or not a module",
    ),
    "manifest exchanged": (
        lambda run: (run.path / "manifest.json").write_text(run.manifest + " "),
        "is not the image's manifest",
    ),
    "context removed": (
        lambda run: (run.path / "context.json").unlink(),
        "'context.json' is missing",
    ),
}


@pytest.mark.parametrize(("tamper", "words"), TAMPERED.values(), ids=TAMPERED)
def test_edited_evidence_shuts_the_gate(
    run: MadeRun, tamper: Callable[[MadeRun], object], words: str
) -> None:
    assert edited(read_evidence(run.path)) == []
    tamper(run)
    assert words in device(run)["intact"]


@pytest.mark.parametrize(
    "content", [None, "", "{", '{"schema_version": 99}', "[]"], ids=lambda c: repr(c)
)
def test_results_that_cannot_be_read_shut_the_gate(run: MadeRun, content: str | None) -> None:
    run.json.unlink()
    if content is not None:
        run.json.write_text(content)
    assert list(device(run)) == ["intact"]


@pytest.mark.parametrize("where", ["selected", "test"])
def test_a_category_that_does_not_exist_shuts_the_gate(run: MadeRun, where: str) -> None:
    text = run.json.read_text()
    old = '    "mount",' if where == "selected" else '"category": "mount"'
    assert old in text
    run.json.write_text(text.replace(old, old.replace("mount", "moon"), 1))
    assert "names a category 'moon'" in device(run)["intact"]


def test_a_forgery_that_the_session_saw_through_is_no_kernel_event(run: MadeRun) -> None:
    run.results.notes.append(
        "Userspace printed something like a kernel report, which the kernel did not say: "
        "'panic: forged'."
    )
    run.write()
    forged = "[    9.000000] Kernel panic - not syncing: forged\n"
    run.console.write_text(run.console.read_text() + forged)
    assert device(run) == {}


def test_an_expected_failure_may_have_been_a_failure_when_it_ended(run: MadeRun) -> None:
    run.test("ioctl").outcome = Outcome.FAILED
    run.write()
    told = run.events.read_text().splitlines()[:-1]
    run.test("ioctl").outcome = Outcome.XFAILED
    run.test("ioctl").expectation = "known"
    run.write()
    run.events.write_text("\n".join([*told, run.events.read_text().splitlines()[-1]]) + "\n")
    assert "intact" not in device(run)


def test_an_honest_failure_is_not_called_edited(run: MadeRun) -> None:
    """A crash leaves no mark; what was not run after it was never told of."""
    run.test("fsops").outcome = Outcome.CRASHED
    run.write()
    console = run.console.read_text().splitlines()[:-1]
    run.console.write_text("\n".join(console) + "\n")
    assert edited(read_evidence(run.path)) == []
    run.results.tests.append(
        run.test("errors").model_copy(update={"id": "errors/", "outcome": Outcome.FAILED})
    )
    run.write()
    lines = [line for line in run.events.read_text().splitlines() if '"id": "errors/"' not in line]
    told = [line.replace(', "errors/"', "") for line in lines if "TestsCollected" in line]
    told += [line for line in lines if "TestsCollected" not in line]
    last = run.events.read_text().splitlines()[-1]
    run.events.write_text("\n".join([*told, last]) + "\n")
    assert edited(read_evidence(run.path)) == []


def test_a_pass_that_was_never_told_of_is_no_pass(run: MadeRun) -> None:
    lines = run.events.read_text().splitlines()
    first = next(line for line in lines if "TestFinished" in line)
    run.events.write_text("\n".join(line for line in lines if line != first) + "\n")
    found = device(run)["intact"]
    assert "1 collected tests have no result" in found
    assert "never told of" in found


# -- honest evidence that is not enough ----------------------------------------------------------


def _set(path: str, value: object) -> Callable[[MadeRun], None]:
    def change(run: MadeRun) -> None:
        *parents, name = path.split(".")
        where: object = run.results
        for parent in parents:
            where = getattr(where, parent)
        setattr(where, name, value)

    return change


def _without(category: str) -> Callable[[MadeRun], None]:
    def change(run: MadeRun) -> None:
        run.results.selected_categories.remove(category)
        run.results.tests = [t for t in run.results.tests if t.category != category]

    return change


def _outcome(test: str, outcome: Outcome) -> Callable[[MadeRun], None]:
    return lambda run: setattr(run.test(test), "outcome", outcome)


def _ago(**delta: float) -> str:
    return (datetime.now(UTC) - timedelta(**delta)).isoformat(timespec="seconds")


NOT_ENOUGH: dict[str, tuple[Callable[[MadeRun], object], str, str]] = {
    "failed": (_outcome("fsops", Outcome.FAILED), "passed", "verdict is 'fail'"),
    "interrupted": (_set("complete", False), "passed", "did not come to its end"),
    "resumed": (_set("resumed_from", "x"), "passed", "from the run 'x'"),
    "on the host": (_set("target.kind", "host"), "vm", "The target was 'host'"),
    "another version": (_set("vexrun_version", "0.0.1"), "version", "made by vexrun 0.0.1"),
    "old": (_set("finished_at", _ago(days=8)), "age", "8 days ago; this gate takes 7"),
    "future": (_set("finished_at", _ago(days=-1)), "age", "in the future"),
    "no time": (_set("finished_at", "yesterday"), "age", "'yesterday'"),
    "no zone": (_set("finished_at", "2026-11-22T10:00:00"), "age", "no time zone"),
    "dirty": (_set("subject.dirty", True), "commit", "not committed (when it was tested)"),
    "not proven": (_set("module.identity_proven", False), "module", "not proven"),
    "another loaded": (
        _set("module.loaded_srcversion", "FFFF"),
        "module",
        "its srcversion differs",
    ),
    "another kernel": (
        _set("module.vermagic", "6.1.0 SMP"),
        "kernel",
        f"built for '6.1.0', and '{RELEASE}' ran",
    ),
    "no kernel": (_set("target.kernel", None), "kernel", "does not say which kernel"),
    "event": (
        _set("kernel_events", [KernelEvent.model_validate({"class": "oops", "title": "BUG: x"})]),
        "kernel-events",
        "'BUG: x'",
    ),
    "stale": (
        _set("stale_expectations", ["fsops/t.py::test_x: old"]),
        "expectations",
        "passes now: fsops/t.py::test_x",
    ),
    "debt unknown": (
        _outcome("ioctl", Outcome.XFAILED),
        "expectations",
        "no expectation covers it",
    ),
    "skipped cycles": (_outcome(ASKED_FOR[0], Outcome.SKIPPED), "load-cycles", "None of the tests"),
    "bad teardown": (_outcome("teardown", Outcome.CRASHED), "nothing-left", "crashed"),
    **{
        f"without {name}": (_without(name), "categories", f"'{name}' was not selected")
        for name, row in CATEGORIES.items()
        if not row.own_process and name not in ("unit", "own")
    },
}


@pytest.mark.parametrize(("change", "criterion", "words"), NOT_ENOUGH.values(), ids=NOT_ENOUGH)
def test_honest_evidence_that_is_not_enough(
    run: MadeRun, change: Callable[[MadeRun], object], criterion: str, words: str
) -> None:
    change(run)
    run.write()
    refused = device(run)
    assert words in refused[criterion]


@pytest.mark.parametrize("name", ["unit", "own"])
def test_a_category_that_the_subject_has_nothing_for_is_not_asked_for(
    run: MadeRun, make_run: MakeRun, name: str
) -> None:
    _without(name)(run)
    run.write()
    assert device(run) == {}


def test_a_category_in_which_all_was_skipped_did_not_run(run: MadeRun) -> None:
    for test in run.results.tests:
        if test.category == "mkfs":
            test.outcome, test.message = Outcome.SKIPPED, "no disk"
    run.write()
    assert "No test passed in the category 'mkfs': no disk" in device(run)["categories"]


def test_a_category_that_this_version_lacks_never_ran(
    run: MadeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking = dict(checks.CATEGORIES)
    lacking["stress"] = dataclasses.replace(lacking["stress"], ready=False)
    monkeypatch.setattr(checks, "CATEGORIES", lacking)
    _without("stress")(run)
    run.write()
    assert "'stress' is not in this version" in device(run)["categories"]


def test_a_run_that_passed_once_is_not_soaked(make_run: MakeRun) -> None:
    assert "asks for 2" in device(make_run("20261122T000000-demo-0003"))["soak"]


@pytest.mark.parametrize(
    "change",
    [
        _set("subject.tree_sha256", "0" * 64),
        _set("target.kernel", "6.1.9-amd64"),
        _set("target.kind", "host"),
        _set("resumed_from", "x"),
        _outcome("fsops", Outcome.FAILED),
        _without("stress"),
    ],
    ids=["tree", "kernel", "target", "resumed", "failed", "fewer categories"],
)
def test_a_run_that_is_not_alike_does_not_count_for_soaking(
    make_run: MakeRun, change: Callable[[MadeRun], object]
) -> None:
    other = make_run("20261121T000000-demo-0001")
    change(other)
    other.write()
    assert list(device(make_run("20261122T000000-demo-0002"))) == ["soak"]


def test_an_edited_run_does_not_count_for_soaking(make_run: MakeRun) -> None:
    other = make_run("20261121T000000-demo-0001")
    other.console.write_text(other.console.read_text() + OOPS)
    assert list(device(make_run("20261122T000000-demo-0002"))) == ["soak"]


# -- the world as it is now ----------------------------------------------------------------------


def test_a_changed_tree_shuts_the_gate(run: MadeRun, source_tree: Path) -> None:
    (source_tree / "demo.c").write_text("int y;\n")
    assert set(device(run)) == {"tree"}


def test_a_build_product_in_the_tree_does_not(run: MadeRun, source_tree: Path) -> None:
    (source_tree / "demo.o").write_text("x")
    assert device(run) == {}


def test_a_tree_that_is_gone_shuts_the_gate(run: MadeRun, source_tree: Path) -> None:
    source_tree.rename(source_tree.with_name("moved"))
    assert "not a directory any more" in device(run)["tree"]


def test_a_tree_that_was_moved_can_be_named(
    run: MadeRun, source_tree: Path, tmp_path: Path
) -> None:
    moved = source_tree.with_name("moved")
    source_tree.rename(moved)
    source_tree.mkdir()
    (source_tree / "vexrun.toml").write_bytes((moved / "vexrun.toml").read_bytes())
    assert "tree" in device(run)
    assert device(run, source=moved) == {}


def test_another_subject_file_shuts_the_gate(run: MadeRun, source_tree: Path) -> None:
    file = source_tree / "vexrun.toml"
    file.write_text(file.read_text() + 'lacks = ["hardlink"]\n')
    assert "in [filesystem]" in device(run)["subject"]


@pytest.mark.parametrize("kernel", ["6.12", "6.12.40+deb13-amd64", "6.12-rt"])
def test_the_same_series_behind_the_gate(run: MadeRun, kernel: str) -> None:
    assert device(run, kernel=kernel) == {}


@pytest.mark.parametrize("kernel", ["6.1", "6.1.12-amd64", "6.120.1", "5.12.9"])
def test_another_series_behind_the_gate(run: MadeRun, kernel: str) -> None:
    assert f"behind the gate runs '{kernel}'" in device(run, kernel=kernel)["kernel"]


def test_the_module_that_is_going_to_be_loaded(run: MadeRun, tmp_path: Path) -> None:
    same, other = tmp_path / "same.ko", tmp_path / "other.ko"
    same.write_bytes(run.module)
    other.write_bytes(run.module + b"\0")
    assert device(run, module=same) == {}
    assert "was tested" in device(run, module=other)["module"]
    assert "cannot be read" in device(run, module=tmp_path / "none.ko")["module"]


@pytest.mark.parametrize(("link", "opens"), [("issue 7", True), ("", False)])
def test_a_debt_needs_a_link(run: MadeRun, source_tree: Path, link: str, opens: bool) -> None:
    (source_tree / "vexrun-expectations.toml").write_text(
        f'[[expect]]\ntest = "ioctl/test_x.py::test_x"\nreason = "known"\nlink = "{link}"\n'
    )
    run.test("ioctl").outcome = Outcome.XFAILED
    good = {"id": "ioctl/test_x.py::test_y", "category": "ioctl"}
    run.results.tests.append(run.test("module").model_copy(update=good))
    run.write()
    refused = device(run)
    assert "tree" in refused, "the file is part of the tree"
    assert ("expectations" not in refused) is opens


@pytest.fixture
def in_git(source_tree: Path) -> Path:
    git = ["git", "-C", str(source_tree), "-c", "user.name=x", "-c", "user.email=x@x"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
        subprocess.run([*git, *words], check=True)
    return source_tree


def test_changes_that_are_not_committed_shut_the_gate(in_git: Path, make_run: MakeRun) -> None:
    make_run("20261121T000000-demo-0001")
    run = make_run("20261122T000000-demo-0002")
    run.results.subject.commit, run.results.subject.dirty = "a" * 40, False
    run.write()
    assert device(run) == {}
    (in_git / "notes.txt").write_text("not committed")
    assert "not committed (now)" in device(run)["commit"]


# -- production ----------------------------------------------------------------------------------

SIGNED = '[{}]\nname = "Ada"\ndate = 2026-11-22\n'


def test_production_never_opens_without_a_device_run(run: MadeRun, tmp_path: Path) -> None:
    checklist = tmp_path / "signed.toml"
    checklist.write_text("".join(map(SIGNED.format, ("backup", "monitoring", "recovery"))))
    refused = shut_by(examine(run.path, Gate.PRODUCTION, checklist=checklist))
    assert set(refused) == {"device-run", "soak", "commit"}
    assert "no run of this tree on a test device" in refused["device-run"]


def on_a_device(make_run: MakeRun, change: Callable[[MadeRun], None] = lambda _: None) -> None:
    """A run on a device as it should be, with one thing changed."""
    made = make_run("20261122T010000-demo-00de")
    made.results.target.kind = "device"
    made.results.device = DeviceInfo(
        name="shelf", machine_id="a" * 32, seal_sha256="0" * 64, gate_run="r-1"
    )
    change(made)
    made.write()


def test_a_device_run_of_the_same_tree_meets_its_criterion(run: MadeRun, make_run: MakeRun) -> None:
    on_a_device(make_run)
    assert "device-run" not in shut_by(examine(run.path, Gate.PRODUCTION))


def _device(made: MadeRun) -> DeviceInfo:
    assert made.results.device is not None
    return made.results.device


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda made: setattr(_device(made), "override", "because I say so"),
            "went round the gate",
        ),
        (lambda made: setattr(_device(made), "problems", ["No seal."]), "no seal that held"),
        (lambda made: setattr(_device(made), "seal_sha256", None), "no seal that held"),
        (lambda made: setattr(made.results.tests[-1], "outcome", Outcome.FAILED), "'fail'"),
        (lambda made: setattr(made.results, "complete", False), "'interrupted'"),
        (lambda made: made.results.selected_categories.remove("fsops"), "'fsops' was not selected"),
        (
            lambda made: setattr(made.results, "finished_at", "2020-01-01T00:00:00+00:00"),
            "days are taken",
        ),
        (lambda made: setattr(made.results.subject, "tree_sha256", "0" * 64), "There is no run"),
        (lambda made: setattr(made.results.target, "kernel", "6.1.0-1-amd64"), "There is no run"),
        (lambda made: setattr(made.results.subject, "name", "other"), "There is no run"),
    ],
)
def test_a_device_run_that_does_not_count_says_why(
    change: Callable[[MadeRun], None], words: str, run: MadeRun, make_run: MakeRun
) -> None:
    on_a_device(make_run, change)
    assert words in shut_by(examine(run.path, Gate.PRODUCTION))["device-run"]


def test_a_device_run_whose_evidence_was_edited_does_not_count(
    run: MadeRun, make_run: MakeRun
) -> None:
    on_a_device(make_run)
    console = run.path.parent / "20261122T010000-demo-00de" / "console.log"
    console.write_text("")
    assert "does not count" in shut_by(examine(run.path, Gate.PRODUCTION))["device-run"]


def test_a_run_on_a_device_opens_no_gate_to_a_device(run: MadeRun) -> None:
    run.results.target.kind = "device"
    run.write()
    assert "comes after the virtual machine" in shut_by(examine(run.path, Gate.DEVICE))["vm"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "No checklist was given"),
        ("", "'backup' is not signed off"),
        (SIGNED.format("backup"), "'monitoring' is not signed off"),
        ('[backup]\nname = " "\ndate = 2026-11-22\n', "'backup' is not signed off"),
        ('[backup]\nname = "Ada"\n', "'backup' is not signed off"),
        ("backup = 1", "'backup' is not signed off"),
        ("[", "cannot be read"),
    ],
)
def test_production_wants_names(run: MadeRun, tmp_path: Path, text: str | None, words: str) -> None:
    file = tmp_path / "signed.toml"
    if text is not None:
        file.write_text(text)
    given = file if text is not None else None
    assert words in shut_by(examine(run.path, Gate.PRODUCTION, checklist=given))["sign-off"]


# -- formats -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_has_every_line_and_escapes(run: MadeRun, name: str) -> None:
    run.results.target.kind = "<b>|moon"
    run.write()
    answer = examine(run.path, Gate.DEVICE)
    text = FORMATS[name](answer)
    if name == "json":
        assert Checklist.model_validate_json(text) == answer
    else:
        assert [line.title for line in answer.lines if line.title not in text] == []
        assert "stays shut" in text
    if name in ("html", "md"):
        assert "<b>" not in text


# -- seals ---------------------------------------------------------------------------------------


@pytest.fixture
def sealed(run: MadeRun, tmp_path: Path) -> Path:
    file = tmp_path / "seal.json"
    seal(examine(run.path, Gate.DEVICE), run.path, file, None)
    return file


def test_a_seal_holds_and_says_that_it_is_not_signed(run: MadeRun, sealed: Path) -> None:
    result = verify(sealed, None)
    assert result.problems == []
    assert "not signed" in result.notes[0]


def test_a_shut_gate_is_not_sealed(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("20261122T000000-demo-0002")
    with pytest.raises(ConfigError, match="shut cannot be sealed"):
        seal(examine(run.path, Gate.DEVICE), run.path, tmp_path / "seal.json", None)
    assert not (tmp_path / "seal.json").exists()


def test_a_seal_inside_the_evidence_is_refused(run: MadeRun) -> None:
    with pytest.raises(ConfigError, match="inside the evidence"):
        seal(examine(run.path, Gate.DEVICE), run.path, run.path / "seal.json", None)


@pytest.mark.parametrize(
    "name",
    ["results.json", "events.jsonl", "console.log", "demo.ko", "manifest.json", "context.json"],
)
@pytest.mark.parametrize("position", [0, 0.37, 0.99])
def test_one_edited_byte_of_the_evidence_breaks_the_seal(
    run: MadeRun, sealed: Path, name: str, position: float
) -> None:
    path = run.path / name
    content = bytearray(path.read_bytes())
    content[int(position * len(content))] ^= 1
    path.write_bytes(content)
    assert verify(sealed, None).problems == [f"'{name}' was changed after it was sealed."]


@pytest.mark.parametrize("position", [0.01, 0.2, 0.4, 0.6, 0.8, 0.99])
def test_one_edited_byte_of_the_seal_breaks_it(sealed: Path, position: float) -> None:
    content = bytearray(sealed.read_bytes())
    content[int(position * len(content))] ^= 1
    sealed.write_bytes(content)
    assert verify(sealed, None).problems


def test_files_that_come_and_go_break_the_seal(run: MadeRun, sealed: Path) -> None:
    run.console.unlink()
    (run.path / "more.txt").touch()
    problems = verify(sealed, None).problems
    assert problems == ["'console.log' is missing.", "'more.txt' was added."]


def test_the_evidence_may_lie_elsewhere(run: MadeRun, sealed: Path, tmp_path: Path) -> None:
    elsewhere = run.path.rename(tmp_path / "elsewhere")
    assert "is not at" in verify(sealed, None).problems[0]
    assert verify(sealed, elsewhere).problems == []


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "ada", "-f", str(path)]
    subprocess.run(argv, check=True)
    (tmp_path / "signers").write_text(f"ada {path.with_suffix('.pub').read_text()}")
    return path


def test_a_signature_says_who_sealed_it(run: MadeRun, tmp_path: Path, key: Path) -> None:
    file, signers = tmp_path / "seal.json", tmp_path / "signers"
    seal(examine(run.path, Gate.DEVICE), run.path, file, key)
    assert verify(file, None, allowed_signers=signers, identity="ada").problems == []
    assert (
        "no good signature of 'bob'"
        in (verify(file, None, allowed_signers=signers, identity="bob").problems[0])
    )
    file.write_text(file.read_text() + " ")
    problems = verify(file, None, allowed_signers=signers, identity="ada").problems
    assert any("no good signature" in problem for problem in problems)


def test_a_missing_signature_is_a_broken_seal_where_one_is_demanded(
    sealed: Path, tmp_path: Path, key: Path
) -> None:
    result = verify(sealed, None, allowed_signers=tmp_path / "signers", identity="ada")
    assert "It is not signed" in result.problems[0]
    with pytest.raises(ConfigError, match="needs --identity"):
        verify(sealed, None, allowed_signers=tmp_path / "signers")
