"""The reports of a run, as a person or a CI system reads them."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from vexrun.errors import ExitCode, InfrastructureError
from vexrun.report import FORMATS, plots, summary, write_reports
from vexrun.report import formats as formats_module
from vexrun.report.html import to_html
from vexrun.report.json import to_json
from vexrun.report.junit import to_junit
from vexrun.report.markdown import SIZE_LIMIT, to_markdown
from vexrun.report.printable import printable
from vexrun.report.terminal import render_results
from vexrun.report.text import LOG_WIDTH, WIDTH, to_text
from vexrun.results.model import (
    FrameAddress,
    KernelEvent,
    Measurement,
    Outcome,
    RunResults,
    StackFrame,
    SubjectInfo,
    TargetInfo,
    TestResult,
    VariantBuild,
    Verdict,
)
from vexrun.results.readers import load_results
from vexrun.results.schema import json_schema

DATA = Path(__file__).parents[1] / "data" / "results"
FIXTURES = sorted(path.stem for path in DATA.glob("*.json"))
NOT_GOOD = [name for name in FIXTURES if name != "pass"]
#: Every way to render, terminal included.
RENDERINGS = [*FORMATS, "terminal"]

EVIL = (
    "<script>alert(1)</script> ]]> & </pre></details> \x00\x1b[31mred\x1b[0m\x07 \udc80\ud800 "
    "| `tick` ```fence``` @maintainer #7 [bold]markup[/bold] {{ jinja }} \u202egnp.exe "
    "\ufffe\r\nnext"
)


def load(name: str) -> RunResults:
    return load_results(DATA / f"{name}.json")


def terminal(results: RunResults, width: int = 100, colour: bool = False) -> str:
    stream = StringIO()
    console = Console(
        file=stream, width=width, force_terminal=colour, color_system="standard" if colour else None
    )
    render_results(results, console)
    return stream.getvalue()


def render(results: RunResults, how: str) -> str:
    if how == "terminal":
        return terminal(results)
    return FORMATS[how].render(results, "")


def small(**changes: object) -> RunResults:
    return RunResults.model_validate(
        {
            "run_id": "r1",
            "subject": SubjectInfo(name="minix", source="/src/minix"),
            "target": TargetInfo(kind="vm"),
            **changes,
        }
    )


def one_test(text: str, outcome: Outcome = Outcome.FAILED) -> RunResults:
    """A run with one bad test in which every string is `text`."""
    frame = StackFrame(
        function=text,
        module=text,
        offset=text,
        address=FrameAddress.GUESS,
        file=text,
        line=3,
        source_from=2,
        source=[text, text],
    )
    event = KernelEvent(
        event_class=text,
        title=text,
        module_frame=text,
        source_line=text,
        key=text,
        excerpt=[text],
        test=text,
        frames=[frame],
    )
    test = TestResult(
        id=text,
        category=text,
        outcome=outcome,
        message=text,
        details=text,
        expectation=text,
        kernel_events=[event],
    )
    build = VariantBuild(
        name=text, ok=False, where="native", duration_s=1, command=text, log=text, warnings=[text]
    )
    return small(
        run_dir=text,
        started_at=text,
        command=[text, text],
        verdict="fail",
        exit_code=1,
        reasons=[text],
        error=text,
        selected_categories=[text],
        subject=SubjectInfo(name=text, source=text, commit=text, tree_sha256=text),
        builds=[build],
        durations={text: 1.0},
        tests=[test],
        kernel_events=[event],
        stale_expectations=[text],
        notes=[text],
    )


# ---------------------------------------------------------------- every format


def test_the_expected_conditions_have_fixtures() -> None:
    wanted = {"pass", "fail", "crash", "hang", "infrastructure-error", "interrupted", "empty"}
    assert wanted | {"incomplete"} == set(FIXTURES)


@pytest.mark.parametrize("how", RENDERINGS)
@pytest.mark.parametrize("name", FIXTURES)
def test_every_report_states_the_verdict_and_every_problem(name: str, how: str) -> None:
    results = load(name)
    report = render(results, how)
    assert results.verdict.value in report.lower()
    assert results.subject.name in report
    for test in results.tests:
        if test.outcome in (Outcome.FAILED, Outcome.CRASHED, Outcome.HUNG):
            assert test.id.rpartition("::")[2] in report
    for event in results.kernel_events:
        # A terminal may break a title over two lines.
        assert "".join(event.title.split()) in "".join(report.split())


@pytest.mark.parametrize("how", RENDERINGS)
@pytest.mark.parametrize("name", ["incomplete", "interrupted", "infrastructure-error"])
def test_an_incomplete_run_is_marked_as_such(name: str, how: str) -> None:
    report = render(load(name), how)
    if how == "json":
        assert json.loads(report)["complete"] is False
    else:
        assert "incomplete" in report


@pytest.mark.parametrize("how", RENDERINGS)
@pytest.mark.parametrize("name", FIXTURES)
def test_the_same_results_give_the_same_report(name: str, how: str) -> None:
    assert render(load(name), how) == render(load(name), how)


@pytest.mark.parametrize("how", RENDERINGS)
def test_hostile_text_renders_as_utf8_without_terminal_control(how: str) -> None:
    report = render(one_test(EVIL), how)
    report.encode("utf-8")
    assert "\x1b" not in report
    assert "\x00" not in report
    if how != "json":
        assert "\u202e" not in report
        assert "\\x80" in report  # the undecodable byte stays visible


@pytest.mark.parametrize("how", RENDERINGS)
def test_a_message_of_a_megabyte_renders(how: str) -> None:
    results = one_test("x" * 1_000_000)
    assert "xxx" in render(results, how)


@pytest.mark.parametrize("how", RENDERINGS)
def test_hundreds_of_failures_are_all_accounted_for(how: str) -> None:
    tests = [
        TestResult(
            id=f"fsops/test_many.py::test_file[{n}]",
            category="fsops",
            outcome=Outcome.FAILED,
            message=f"file {n} is gone",
            details="\n".join(f"line {line}" for line in range(200)),
        )
        for n in range(500)
    ]
    results = small(verdict="fail", exit_code=1, tests=tests, selected_categories=["fsops"])
    report = render(results, how)
    assert "500" in report or how == "json"
    if how in ("json", "junit", "html", "txt"):
        assert all(f"test_file[{n}]" in report for n in range(500))


@pytest.mark.parametrize("how", RENDERINGS)
def test_a_run_that_knows_nothing_renders(how: str) -> None:
    report = render(small(), how)
    assert "minix" in report


# ---------------------------------------------------------------- never green unless it passed


def not_quite_pass() -> list[RunResults]:
    """Claims of success that are none."""
    incomplete, contradictory = load("pass"), load("pass")
    incomplete.complete = False
    contradictory.exit_code = 1
    return [incomplete, contradictory]


ALL_NOT_GOOD = [*(load(name) for name in NOT_GOOD), *not_quite_pass()]
ALL_NOT_GOOD_IDS = [*NOT_GOOD, "pass-but-incomplete", "pass-but-exit-code-1"]


@pytest.mark.parametrize("results", ALL_NOT_GOOD, ids=ALL_NOT_GOOD_IDS)
def test_nothing_is_green_unless_the_run_passed(results: RunResults) -> None:
    page = to_html(results)
    assert "#1a7440" not in page
    assert "#6fd195" not in page
    assert "tone-good" not in re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    assert not re.search(r"\x1b\[[\d;]*32", terminal(results, colour=True))
    assert "✅" not in to_markdown(results)
    assert not to_text(results).startswith("PASS")
    root = ET.fromstring(to_junit(results))
    assert int(root.get("failures", 0)) + int(root.get("errors", 0)) > 0


def test_a_pass_is_green() -> None:
    results = load("pass")
    assert "#1a7440" in to_html(results)
    assert "32m" in terminal(results, colour=True)
    assert "✅ PASS" in to_markdown(results)
    assert to_text(results).startswith("PASS")
    assert ET.fromstring(to_junit(results)).get("failures") == "0"


def test_a_category_in_which_nothing_ran_stands_out() -> None:
    results = load("interrupted")
    assert re.search(r"^  fsops .*<- nothing ran$", to_text(results), flags=re.MULTILINE)


def test_a_categorys_time_has_the_work_outside_the_guest_in_it() -> None:
    results = load("pass")
    results.selected_categories = ["build", "static", "mount"]
    results.durations = {"build": 10.0, "build again": 50.0, "static": 30.0, "tests: build": 9.0}
    results.tests = [
        TestResult(id=f"{name}/a", category=name, outcome=Outcome.PASSED, duration_s=2.0)
        for name in results.selected_categories
    ]
    rows = summary.category_rows(results)
    assert [row.duration_s for row in rows] == [62.0, 32.0, 2.0]
    assert summary.total_row(results).duration_s == 96.0


# ---------------------------------------------------------------- junit


@pytest.mark.parametrize("name", FIXTURES)
def test_junit_counts_agree_with_its_elements(name: str) -> None:
    results = load(name)
    root = ET.fromstring(to_junit(results))
    cases = root.findall(".//testcase")
    assert len(cases) == len(results.tests) + 1 == int(root.get("tests", -1))
    for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        assert int(root.get(attribute, -1)) == len(root.findall(f".//{tag}"))
        for suite in root:
            assert int(suite.get(attribute, -1)) == len(suite.findall(f"testcase/{tag}"))
    assert [suite.get("name") for suite in root] == ["vexrun", *results.selected_categories]


@pytest.mark.parametrize(
    ("outcome", "tag"),
    [
        (Outcome.PASSED, None),
        (Outcome.FAILED, "failure"),
        (Outcome.CRASHED, "failure"),
        (Outcome.HUNG, "failure"),
        (Outcome.ERROR, "error"),
        (Outcome.SKIPPED, "skipped"),
        (Outcome.XFAILED, "skipped"),
    ],
)
def test_junit_maps_each_outcome(outcome: Outcome, tag: str | None) -> None:
    test = TestResult(id="mount/test_a.py::test_b[c]", category="mount", outcome=outcome)
    test.message = "because of this"
    case = ET.fromstring(to_junit(small(tests=[test]))).find("testsuite[@name='mount']/testcase")
    assert case is not None
    assert (case.get("classname"), case.get("name")) == ("mount.test_a", "test_b[c]")
    assert [child.tag for child in case] == ([tag] if tag else [])
    if tag:
        assert case[0].get("type") == outcome.value
        assert "because of this" in case[0].get("message", "")


def test_junit_carries_the_evidence_as_properties() -> None:
    root = ET.fromstring(to_junit(load("crash")))
    for suite in root:
        found = {p.get("name"): p.get("value") for p in suite.findall("properties/property")}
        assert found["verdict"] == "fail"
        assert found["kernel"] == "6.12.57+deb13-amd64"
        assert found["target"] == "vm/qemu/tcg"
        assert len(found["module_sha256"] or "") == 64


def test_junit_shows_a_kernel_event_outside_any_test() -> None:
    verdict = ET.fromstring(to_junit(load("crash"))).find("testsuite[@name='vexrun']/testcase")
    assert verdict is not None
    assert "generic_shutdown_super" in (verdict[0].text or "")


@settings(max_examples=150, deadline=None)
@given(
    st.text(alphabet=st.characters())
    | st.binary().map(lambda b: b.decode(errors="surrogateescape"))
)
def test_junit_is_xml_whatever_a_guest_prints(text: str) -> None:
    document = to_junit(one_test(text)).encode("utf-8")
    assert ET.fromstring(document).find(".//failure") is not None


# ---------------------------------------------------------------- source lines


def decoded(source_lines: int = 13, test: str | None = "mount/test_a.py::test_b") -> RunResults:
    """A crash whose frames were decoded: one inlined, one plain, a header's, one not known."""

    def frame(function: str, line: int | None, **more: object) -> StackFrame:
        first = None if line is None or not source_lines else line - source_lines // 2
        return StackFrame.model_validate(
            {
                "function": function,
                "module": "simplefs",
                "offset": "0x1f/0xa0",
                "address": "return",
                "file": "fs/super.c" if line else None,
                "line": line,
                "source_from": first,
                "source": [f"text of {first + n}" for n in range(source_lines)] if first else [],
                **more,
            }
        )

    event = KernelEvent(
        event_class="oops",
        title="NULL pointer dereference in simplefs_fill",
        module_frame="simplefs_fill+0x1f/0xa0 [simplefs]",
        source_line="fs/super.c:212",
        excerpt=["[    1.000000] BUG: kernel NULL pointer dereference"],
        test=test,
        frames=[
            frame("list_add", 77, inlined=True, file="/usr/src/list.h", source=[]),
            frame("read_root", 212, inlined=True),
            frame("simplefs_fill", 300),
            frame("stale", 400, address="guess"),
            frame("unknown_function", None),
        ],
    )
    bad = TestResult(
        id="mount/test_a.py::test_b",
        category="mount",
        outcome=Outcome.CRASHED,
        message="the kernel oopsed",
    )
    return small(
        verdict="fail",
        exit_code=1,
        complete=True,
        selected_categories=["mount"],
        tests=[bad],
        kernel_events=[event],
    )


@pytest.mark.parametrize("test", ["mount/test_a.py::test_b", None], ids=["in-test", "outside"])
@pytest.mark.parametrize("how", RENDERINGS)
def test_every_report_names_the_source_line_and_shows_the_source(how: str, test: str) -> None:
    report = render(decoded(test=test), how)
    assert "fs/super.c:212" in report
    assert "text of 212" in report
    assert "read_root" in report
    assert "unknown_function" in report


@pytest.mark.parametrize("how", ["txt", "md", "junit", "terminal"])
def test_the_line_is_marked_and_no_other(how: str) -> None:
    report = render(decoded(), how).replace("&gt;", ">")
    marked = [line for line in report.splitlines() if re.search(r"> +\d+  text of", line)]
    assert marked
    assert all("212  text of 212" in line for line in marked)


@pytest.mark.parametrize("how", RENDERINGS)
def test_the_trace_says_what_is_inlined_what_a_guess_and_what_not_known(how: str) -> None:
    report = " ".join(render(decoded(), how).split())
    if how == "json":
        assert report.count('"address": "guess"') == 1
    elif how == "html":
        assert "<b>fs/super.c:400</b> stale+0x1f/0xa0 (left on the stack, perhaps" in report
        assert "<b>fs/super.c:212</b> read_root (inlined)" in report
        assert "line not known unknown_function+0x1f/0xa0" in report
    else:
        assert "fs/super.c:400 stale+0x1f/0xa0 (left on the stack, perhaps" in report
        assert "fs/super.c:212 read_root (inlined)" in report
        assert "line not known unknown_function+0x1f/0xa0" in report


def test_junit_has_the_line_in_its_message_once() -> None:
    results = decoded()
    failure = ET.fromstring(to_junit(results)).find(".//failure[@type='crashed']")
    assert failure is not None
    assert failure.get("message") == "the kernel oopsed at fs/super.c:212"
    results.tests[0].message = "oops at fs/super.c:212"
    failure = ET.fromstring(to_junit(results)).find(".//failure[@type='crashed']")
    assert failure is not None
    assert failure.get("message") == "oops at fs/super.c:212"


def test_html_shows_thirteen_lines_of_the_first_frame_and_folds_the_others() -> None:
    page = to_html(decoded())
    problem, _, _ = page.partition('<section class="events">')
    frames = re.findall(r'<details class="frame"( open)?>.*?</details>', problem, re.DOTALL)
    assert frames == ["", " open", "", ""]
    (shown,) = re.findall(r'<details class="frame" open>(.*?)</details>', problem, re.DOTALL)
    assert re.findall(r"<i>(\d+)</i>", shown) == [str(n) for n in range(206, 219)]
    assert re.findall(r'class="marked"><i>(\d+)</i>(.*)', shown) == [("212", "text of 212")]
    assert "The source of this file was not kept" in problem


@pytest.mark.parametrize("how", RENDERINGS)
def test_an_event_without_frames_has_its_line_only(how: str) -> None:
    results = decoded()
    results.kernel_events[0].frames = []
    report = render(results, how)
    assert "fs/super.c:212" in report
    assert "line not known" not in report
    assert '<details class="frame"' not in report


# ---------------------------------------------------------------- json


@pytest.mark.parametrize("name", FIXTURES)
def test_json_reads_back_as_the_same_results(name: str, tmp_path: Path) -> None:
    results = load(name)
    file = tmp_path / "results.json"
    file.write_text(to_json(results), encoding="utf-8")
    assert load_results(file) == results


@pytest.mark.parametrize("name", FIXTURES)
def test_json_follows_the_published_schema(name: str) -> None:
    jsonschema.validate(json.loads(to_json(load(name))), json_schema())


def test_json_names_the_class_of_an_event_and_keeps_the_order_of_the_model() -> None:
    document = json.loads(to_json(load("crash")))
    assert list(document) == list(RunResults.model_fields)
    assert document["kernel_events"][0]["class"] == "oops"
    assert document["tests"][20]["kernel_events"][0]["class"] == "oops"
    assert "event_class" not in to_json(load("crash"))


# ---------------------------------------------------------------- text


@pytest.mark.parametrize("name", FIXTURES)
def test_text_fits_a_terminal(name: str) -> None:
    for line in to_text(load(name)).splitlines():
        if line.startswith("    | "):
            assert len(line) <= LOG_WIDTH
        elif not line.startswith(("    vexrun ", "    tail ")):  # commands stay in one piece
            assert len(line) <= WIDTH, line


def test_text_begins_with_verdict_and_reasons() -> None:
    lines = to_text(load("crash")).splitlines()
    assert lines[0].startswith("FAIL: simplefs, 20 passed, 1 crashed")
    assert lines[2].startswith("- The kernel oopsed in 'simplefs_fill_super'")


def test_text_gives_the_console_from_the_event_on() -> None:
    assert "tail -c +48214 " in to_text(load("crash"))


def test_text_says_once_what_a_crash_did_to_the_rest() -> None:
    report = to_text(load("crash"))
    assert report.count("not run: the kernel of the target broke") == 1
    assert report.count("test_space_returns_after_delete") == 1


def test_text_keeps_both_ends_of_a_long_traceback() -> None:
    details = "\n".join(f"frame {n}" for n in range(1000))
    test = TestResult(id="a/b.py::c", category="a", outcome=Outcome.FAILED, details=details)
    report = to_text(small(tests=[test]))
    assert "frame 0\n" in report
    assert "frame 999\n" in report
    assert "960 lines left out" in report


def test_a_command_with_odd_names_can_be_pasted() -> None:
    subject = SubjectInfo(name="x", source="/src/my fs; reboot", subject_file="it's.toml")
    test = TestResult(id="a/b.py::c", category="a", outcome=Outcome.FAILED)
    results = small(verdict="fail", subject=subject, tests=[test], selected_categories=["a"])
    assert "vexrun test '/src/my fs; reboot' --subject 'it'\"'\"'s.toml'" in to_text(results)


def test_a_module_that_does_not_build_shows_its_log() -> None:
    build = VariantBuild(
        name="default", ok=False, where="native", duration_s=2, log="inode.c:7: error: no"
    )
    results = small(verdict="fail", exit_code=1, builds=[build])
    for how in ("txt", "md", "html", "terminal"):
        assert "inode.c:7: error: no" in render(results, how)


def test_another_loaded_module_is_shown_as_bad_evidence() -> None:
    results = load("pass")
    results.verdict = Verdict.FAIL
    results.module.loaded_srcversion = "DEADBEEF"
    results.module.identity_proven = False
    report = to_text(results)
    assert re.search(r"! loaded +srcversion DEADBEEF \(NOT the built file\)", report)
    assert "NOT proven" in report


# ---------------------------------------------------------------- markdown


def test_markdown_fits_a_comment_and_closes_what_it_opens() -> None:
    tests = [
        TestResult(id=f"a/b.py::c[{n}]", category="a", outcome=Outcome.FAILED, details="y\n" * 9000)
        for n in range(3000)
    ]
    report = to_markdown(small(tests=tests))
    assert len(report) <= SIZE_LIMIT + 100
    assert report.count("<details") == report.count("</details>")
    assert "Cut here" in report


def test_markdown_keeps_guest_text_inside_its_code_block() -> None:
    report = to_markdown(one_test("````\n</details>\n# @maintainer ````"))
    fences = [line for line in report.splitlines() if re.fullmatch(r"`{3,}(text)?", line)]
    assert "`````text" in fences
    assert fences.count("`````text") == fences.count("`````")


# ---------------------------------------------------------------- html


class Page(HTMLParser):
    """What a browser would fetch or run, and whether the tags are balanced."""

    VOID = frozenset({"meta", "link", "br"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.urls: list[str] = []
        self.handlers: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "action", "data"):
                self.urls.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)
            if name == "id":
                self.ids.append(value or "")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("name", FIXTURES)
def test_html_is_one_self_contained_page(name: str) -> None:
    source = to_html(load(name), console_tail="[ 1.0] see https://example.org/ for help\n")
    page = Page(source)
    assert source.startswith("<!doctype html>")
    assert not {"script", "img", "iframe", "object", "embed"} & set(page.tags)
    assert not page.handlers
    assert all(url.startswith("#") or url == "data:," for url in page.urls)
    assert "url(" not in source
    assert "@import" not in source
    assert "default-src 'none'" in source
    assert len(page.ids) == len(set(page.ids))
    assert {url[1:] for url in page.urls if url.startswith("#")} <= set(page.ids)


def test_html_escapes_what_a_guest_printed() -> None:
    source = to_html(one_test(EVIL), console_tail=EVIL)
    page = Page(source)
    assert "script" not in page.tags
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in source
    assert "{{ jinja }}" in page.text


def test_html_shows_the_end_of_the_console() -> None:
    assert "systemd[1]: Startup finished" in to_html(
        load("crash"), console_tail="[ 9.1] systemd[1]: Startup finished\r\n"
    )
    assert "End of console.log" not in to_html(load("crash"))


def test_html_unfolds_the_problems() -> None:
    source = to_html(load("crash"))
    assert re.search(r'<details class="problem bad" id="test-\d+" open>', source)


# ---------------------------------------------------------------- terminal


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("name", FIXTURES)
def test_the_terminal_does_not_overflow(name: str, width: int) -> None:
    for line in terminal(load(name), width).splitlines():
        command = line.startswith(("  vexrun", "  tail", "Report: ", "See this", "Run ", "Read "))
        assert command or len(line.rstrip()) <= width


def test_guest_text_is_not_rich_markup() -> None:
    assert "[bold]markup[/bold]" in terminal(one_test("[bold]markup[/bold]"))


# ---------------------------------------------------------------- cleaning


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("a\x1b[1;31mb\x1b[0m", "ab"),
        ("\x1b]0;title\x07x", "x"),
        ("10%\r20%\r\n30%", "10%\n20%\n30%"),
        ("nul\x00 bell\x07 csi\x9b", "nul bell csi"),
        (b"caf\xe9".decode(errors="surrogateescape"), "caf\\xe9"),
        ("tab\tstays, é too", "tab\tstays, é too"),
    ],
)
def test_text_is_made_printable(raw: str, shown: str) -> None:
    assert printable(raw) == shown


# ---------------------------------------------------------------- writing the files


def test_all_formats_are_written_and_nothing_else(tmp_path: Path) -> None:
    written = write_reports(load("crash"), tmp_path, console_tail="end of console")
    names = ["results.json", "junit.xml", "report.txt", "report.md", "report.html"]
    assert [path.name for path in written.values()] == names
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    assert "end of console" in written["html"].read_text(encoding="utf-8")


def test_reports_are_replaced_in_one_step(tmp_path: Path) -> None:
    write_reports(load("incomplete"), tmp_path)
    with (tmp_path / "results.json").open(encoding="utf-8") as reader:
        write_reports(load("pass"), tmp_path)
        assert json.load(reader)["verdict"] == "error"  # who had it open sees a whole file
    assert load_results(tmp_path).verdict is Verdict.PASS


def test_a_format_that_fails_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(results: RunResults, console_tail: str) -> str:
        raise KeyError("typo")

    broken_format = formats_module.Format("junit.xml", broken, "application/xml")
    monkeypatch.setitem(FORMATS, "junit", broken_format)
    with pytest.raises(InfrastructureError, match=r"Could not write 'junit\.xml'") as caught:
        write_reports(load("fail"), tmp_path)
    assert caught.value.exit_code is ExitCode.INFRASTRUCTURE
    assert "KeyError: 'typo'" in caught.value.evidence
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "report.html",
        "report.md",
        "report.txt",
        "results.json",
    ]


def test_a_file_that_cannot_be_replaced_is_reported_and_leaves_nothing_behind(
    tmp_path: Path,
) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(InfrastructureError, match=r"'report\.html'") as caught:
        write_reports(load("fail"), tmp_path)
    assert "df -h" in caught.value.hint
    assert not list(tmp_path.glob(".*"))
    assert load_results(tmp_path).verdict is Verdict.FAIL


def test_a_missing_directory_is_reported(tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError, match=r"results\.json"):
        write_reports(load("pass"), tmp_path / "gone")


# -- measurements --------------------------------------------------------------------------------


def measured() -> RunResults:
    return small(
        measurements=[
            {
                "name": "fio random read",
                "unit": "KiB/s",
                "better": "higher",
                "samples": [50, 100],
                "reference": [100, 200],
            },
            {"name": "vectors p50_ms", "unit": "", "better": "lower", "samples": [7.5]},
        ]
    )


@pytest.mark.parametrize("how", ["txt", "md", "html", "terminal"])
def test_a_ratio_is_shown_and_says_to_what(how: str) -> None:
    shown = render(measured(), how)
    assert "fio random read" in shown
    assert "0.50 (0.50 to 0.50)" in shown
    assert "ext4" in shown


@pytest.mark.parametrize("how", ["txt", "md", "html"])
def test_a_figure_without_counterpart_is_shown_alone(how: str) -> None:
    shown = render(measured(), how)
    assert "vectors p50_ms" in shown
    assert "7.5" in shown


def test_samples_are_plotted_and_each_says_its_value() -> None:
    shown = render(measured(), "html")
    (first, second) = re.findall(r'<svg class="strip".*?</svg>', shown)
    # From 0 to 200: 50 and 100 of our own, 100 and 200 of ext4.
    assert re.findall(r'<circle class="(\w+)" cx="([\d.]+)"', first) == [
        ("own", "63.0"),
        ("own", "120.0"),
        ("other", "120.0"),
        ("other", "234.0"),
    ]
    assert "<title>50 KiB/s</title>" in first
    assert "<title>ext4 200 KiB/s</title>" in first
    assert re.findall(r"<title>([^<]*)</title>", second)[-1] == "7.5"


@pytest.mark.parametrize("samples", [[], [0, 0], [float("nan")], [-1]])
def test_what_cannot_be_drawn_is_left_out(samples: list[float]) -> None:
    figure = Measurement(name="odd", unit="", better="lower", samples=samples)
    assert plots.strip(figure) == ""


def test_names_in_a_plot_are_escaped() -> None:
    figure = Measurement(name="<b>", unit="<i>", better="lower", samples=[1])
    assert "<b>" not in plots.strip(figure)
    assert "<i>" not in plots.strip(figure)
