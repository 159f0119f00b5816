"""A checklist as text, Markdown, HTML and JSON. Nothing is decided here."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from vexrun.gate.checklist import Checklist, Line
from vexrun.report.printable import one_line, printable

_LIMIT = 2000
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;width:100%}td,th{border-bottom:1px solid #ccc;padding:.4rem;"
    "text-align:left;vertical-align:top}.no{color:#a00;font-weight:bold}.ok{color:#060}"
    "p.do{margin:.3rem 0 0}code{overflow-wrap:anywhere}"
)


def _clean(text: str) -> str:
    return one_line(printable(text), _LIMIT)


def _facts(checklist: Checklist) -> list[tuple[str, str]]:
    return [
        ("run", checklist.run_dir),
        ("source tree", checklist.tree_sha256 or "unknown"),
        ("module", checklist.module_sha256 or "none"),
        ("kernel series", checklist.kernel_series or "unknown"),
        ("vexrun", checklist.vexrun_version or "unknown"),
        ("criteria", checklist.criteria_sha256),
        ("checked at", checklist.checked_at),
    ]


def to_text(checklist: Checklist) -> str:
    lines = []
    for line in checklist.lines:
        lines.append(f"{_mark(line):4}{line.title}")
        lines.append(f"      {_clean(line.found)}")
        if line.do:
            lines.append(f"      → {_clean(line.do)}")
    lines.append("")
    lines += [f"{name + ':':15}{_clean(value)}" for name, value in _facts(checklist)]
    lines += ["", _clean(checklist.sentence)]
    return "\n".join(lines) + "\n"


def to_markdown(checklist: Checklist) -> str:
    def cell(text: str) -> str:
        return escape(_clean(text), quote=False).replace("|", "\\|").replace("`", "\\`")

    lines = [
        f"# Gate: {checklist.gate.value}",
        "",
        f"**{cell(checklist.sentence)}**",
        "",
        "| | criterion | what was found |",
        "|---|---|---|",
    ]
    for line in checklist.lines:
        found = cell(line.found) + (f" **{cell(line.do)}**" if line.do else "")
        lines.append(f"| {_mark(line)} | {cell(line.title)} | {found} |")
    lines += ["", "| | |", "|---|---|"]
    lines += [f"| {name} | {cell(value)} |" for name, value in _facts(checklist)]
    return "\n".join(lines) + "\n"


def to_html(checklist: Checklist) -> str:
    """One self-contained page, without a script."""
    rows = "".join(
        f'<tr><td class="{_mark(line).lower()}">{_mark(line)}</td>'
        f"<td>{escape(line.title)}</td><td>{escape(_clean(line.found))}"
        + (f'<p class="do">→ {escape(_clean(line.do))}</p>' if line.do else "")
        + "</td></tr>\n"
        for line in checklist.lines
    )
    facts = "".join(
        f"<tr><td>{name}</td><td><code>{escape(_clean(value))}</code></td></tr>\n"
        for name, value in _facts(checklist)
    )
    title = f"Gate: {checklist.gate.value}"
    sentence = escape(_clean(checklist.sentence))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
        f"<style>{_STYLE}</style></head>\n<body><h1>{title}</h1>\n<p><strong>{sentence}</strong></p>\n"
        f"<table><tr><th></th><th>criterion</th><th>what was found</th></tr>\n{rows}</table>\n"
        f"<table>{facts}</table></body></html>\n"
    )


def to_json(checklist: Checklist) -> str:
    return checklist.model_dump_json(indent=2) + "\n"


def _mark(line: Line) -> str:
    return "ok" if line.ok else "NO"


#: Named as in `vexrun gate --format`.
FORMATS: dict[str, Callable[[Checklist], str]] = {
    "txt": to_text,
    "md": to_markdown,
    "html": to_html,
    "json": to_json,
}
