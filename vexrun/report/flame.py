"""A flame graph as SVG: drawn here, alive without a script; what is long is where time went."""

from __future__ import annotations

from dataclasses import dataclass, field

from markupsafe import Markup, escape

from vexrun.profiling import Stacks, of_module

_WIDTH, _ROW, _CHARACTER = 1200.0, 17.0, 6.6
#: Boxes narrower than this many pixels are left out; their share is still in what is below them.
_NARROW = 0.6


@dataclass
class _Box:
    """One function as called from those below it, with the samples taken in and above it."""

    name: str
    samples: int = 0
    above: dict[str, _Box] = field(default_factory=dict)


def flame_graph(stacks: Stacks, module: str) -> Markup:
    """The graph, or '' where nothing was sampled. Frames of `module` stand out."""
    root = _Box("all")
    for stack, count in stacks.items():
        root.samples += count
        box = root
        for frame in stack:
            box = box.above.setdefault(frame, _Box(frame))
            box.samples += count
    if not root.samples:
        return Markup("")
    parts: list[str] = []
    height = (_draw(root, 0.0, 0, _WIDTH / root.samples, root.samples, module, parts) + 1) * _ROW
    return Markup(
        f'<svg class="flame" viewBox="0 0 {_WIDTH:.0f} {height:.0f}" role="img" '
        f'aria-label="{root.samples} samples"><g transform="translate(0 {height:.0f})">'
        f"{''.join(parts)}</g></svg>"
    )


def _draw(
    box: _Box, x: float, depth: int, scale: float, total: int, module: str, parts: list[str]
) -> int:
    """Append the box and those above it; the depth of the highest."""
    width = box.samples * scale
    if width < _NARROW:
        return depth
    kind = "own" if of_module(box.name, module) else "user" if box.name.endswith(")") else "kernel"
    if depth <= 1:
        kind = "base"
    y = -(depth + 1) * _ROW
    share = 100 * box.samples / total
    room = int((width - 4) / _CHARACTER)
    label = box.name if len(box.name) <= room else f"{box.name[: room - 1]}…"
    text = f'<text x="{x + 2:.1f}" y="{y + 12:.1f}">{escape(label)}</text>' if room >= 3 else ""
    parts.append(
        f"<g><title>{escape(box.name)}: {box.samples} of {total} samples, {share:.1f} %</title>"
        f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{max(width - 0.5, 0.3):.1f}" '
        f'height="{_ROW - 1:.1f}"/>{text}</g>'
    )
    highest = depth
    for above in sorted(box.above.values(), key=lambda each: each.name):
        highest = max(highest, _draw(above, x, depth + 1, scale, total, module, parts))
        x += above.samples * scale
    return highest
