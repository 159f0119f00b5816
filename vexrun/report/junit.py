"""junit.xml: what CI systems show. One test suite a category, and one for the run.

The suite `vexrun` holds the single case `verdict`. Without it, a run whose module was never
loaded, or whose kernel broke between two tests, would be a green file.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from datetime import datetime

from vexrun.report import summary
from vexrun.report.printable import one_line, printable
from vexrun.results.model import KernelEvent, Outcome, RunResults, TestResult, Verdict

#: Which JUnit element says it; None is a plain pass.
ELEMENT = {
    Outcome.PASSED: None,
    Outcome.FAILED: "failure",
    Outcome.CRASHED: "failure",
    Outcome.HUNG: "failure",
    Outcome.ERROR: "error",
    Outcome.SKIPPED: "skipped",
    Outcome.XFAILED: "skipped",
}


def to_junit(results: RunResults) -> str:
    """A JUnit XML document; text that XML 1.0 cannot hold is cleaned first."""
    root = ET.Element("testsuites", name=printable(f"vexrun {results.subject.name}"))
    root.append(_verdict_suite(results))
    for row in summary.category_rows(results):
        suite = _suite(row.name, results)
        for test in results.tests:
            if test.category == row.name:
                suite.append(_case(test, results))
        root.append(suite)
    for suite in root:
        _count(suite)
    _total(root)
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _suite(name: str, results: RunResults) -> ET.Element:
    suite = ET.Element("testsuite", name=printable(name))
    timestamp = _timestamp(results.started_at)
    if timestamp:
        suite.set("timestamp", timestamp)
    properties = ET.SubElement(suite, "properties")
    for key, value in _properties(results).items():
        ET.SubElement(properties, "property", name=key, value=printable(value))
    return suite


def _properties(results: RunResults) -> dict[str, str]:
    target, module, subject = results.target, results.module, results.subject
    facts = {
        "verdict": results.verdict.value,
        "complete": str(results.complete).lower(),
        "exit_code": str(results.exit_code),
        "run_id": results.run_id,
        "subject": subject.name,
        "commit": subject.commit,
        "dirty": None if subject.dirty is None else str(subject.dirty).lower(),
        "tree_sha256": subject.tree_sha256,
        "module_sha256": module.sha256,
        "module_srcversion": module.srcversion,
        "module_identity_proven": str(module.identity_proven).lower(),
        "target": "/".join(p for p in (target.kind, target.backend, target.accel) if p),
        "kernel": target.kernel,
        "suite": target.suite,
        "image_sha256": target.image_sha256,
        "vexrun_version": results.vexrun_version,
    }
    return {key: value for key, value in facts.items() if value}


def _verdict_suite(results: RunResults) -> ET.Element:
    suite = _suite("vexrun", results)
    case = ET.SubElement(suite, "testcase", classname="vexrun", name="verdict", time="0.000")
    if summary.is_clean_pass(results):
        return suite
    reasons = summary.why(results)
    element = ET.SubElement(
        case,
        "failure" if results.verdict in (Verdict.FAIL, Verdict.PASS) else "error",
        type=results.verdict.value if results.complete else f"{results.verdict.value}-incomplete",
        message=one_line(f"{summary.headline(results)}: {reasons[0]}"),
    )
    events = [_event_text(event) for event in summary.kernel_events(results) if not event.test]
    element.text = printable("\n\n".join(["\n".join(reasons), *events]))
    return suite


def _case(test: TestResult, results: RunResults) -> ET.Element:
    path, _, name = test.id.partition("::")
    case = ET.Element(
        "testcase",
        classname=printable(path.removesuffix(".py").replace("/", ".")),
        name=printable(name or test.id),
        time=f"{test.duration_s:.3f}",
    )
    tag = ELEMENT[test.outcome]
    if tag is None:
        return case
    if tag == "skipped":
        reason = summary.skip_reason(test)
        prefix = "expected failure: " if test.outcome is Outcome.XFAILED else ""
        ET.SubElement(case, tag, type=test.outcome.value, message=one_line(prefix + reason))
        return case
    events = summary.events_of(test, results)
    message = test.message or (events[0].title if events else test.outcome.value)
    message = summary.with_line(message, events)
    element = ET.SubElement(case, tag, type=test.outcome.value, message=message)
    parts = [test.message, test.details, *map(_event_text, events)]
    element.text = printable("\n\n".join(part for part in parts if part))
    return case


def _event_text(event: KernelEvent) -> str:
    head = f"kernel {event.event_class}: {event.title} ({summary.where(event)})"
    trace = [f"  {frame}" for frame in summary.trace(event)]
    code = summary.code(event, context=3)
    return "\n".join([head, f"  {summary.seen_at(event)}", *trace, *code, *event.excerpt])


def _count(suite: ET.Element) -> None:
    cases = suite.findall("testcase")
    suite.set("tests", str(len(cases)))
    for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(attribute, str(sum(case.find(tag) is not None for case in cases)))
    suite.set("time", f"{sum(float(case.get('time', 0)) for case in cases):.3f}")


def _total(root: ET.Element) -> None:
    for attribute in ("tests", "failures", "errors", "skipped"):
        root.set(attribute, str(sum(int(suite.get(attribute, 0)) for suite in root)))
    root.set("time", f"{sum(float(suite.get('time', 0)) for suite in root):.3f}")


def _timestamp(rfc3339: str) -> str | None:
    """JUnit's schema knows no time zone; ours are UTC."""
    try:
        return datetime.fromisoformat(rfc3339).strftime("%Y-%m-%dT%H:%M:%S")
    except ValueError:
        return None
