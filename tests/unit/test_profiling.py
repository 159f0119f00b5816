"""Samples of perf: read, folded, drawn."""

from __future__ import annotations

import re
from pathlib import Path

from vexrun.profiling import SAMPLES, Stacks, fold, of_module, read_perf_script, unfold
from vexrun.report.flame import flame_graph
from vexrun.report.html import to_html
from vexrun.results.readers import load_results

RESULTS = Path(__file__).resolve().parents[1] / "data" / "results"

SCRIPT = """\
python3
\tffffffffc0a01234 minix_new_block ([minix])
\tffffffff8123abcd vfs_write+0x10 ([kernel.kallsyms])
\t    7f00deadbeef __write (/usr/lib/x86_64-linux-gnu/libc.so.6)

swapper
\tffffffff81200000 pv_native_safe_halt ([kernel.kallsyms])

python3
\tffffffff8123abcd vfs_write+0x20 ([kernel.kallsyms])
\t               0 [unknown] ([unknown])

"""


def test_samples_are_read_outermost_first() -> None:
    stacks, idle = read_perf_script(SCRIPT)
    assert idle == 1
    assert stacks == {
        ("python3", "__write (libc.so.6)", "vfs_write", "minix_new_block [minix]"): 1,
        ("python3", "[unknown] ([unknown])", "vfs_write"): 1,
    }


def test_no_sample_is_no_stack() -> None:
    assert read_perf_script("") == (Stacks(), 0)


def test_frames_of_a_module_are_told_apart() -> None:
    assert of_module("f [vexfs_ref]", "vexfs-ref")
    assert not of_module("f [vexfs_ref2]", "vexfs_ref")
    assert not of_module("f (vexfs_ref)", "vexfs_ref")


def test_folded_stacks_are_read_back() -> None:
    stacks = Stacks({("a", "b c", "d;e"): 3, ("a",): 1})
    text = fold(stacks)
    assert text == "a 1\na;b c;d:e 3\n"
    assert unfold(text.splitlines()) == {("a",): 1, ("a", "b c", "d:e"): 3}


def test_boxes_are_as_wide_as_their_samples() -> None:
    graph = str(flame_graph(Stacks({("p", "f [demo]"): 3, ("p", "g"): 1}), "demo"))
    widths = {
        title.partition(":")[0]: float(width)
        for title, width in re.findall(r"<title>(.*?)</title><rect [^>]*width=\"([\d.]+)\"", graph)
    }
    assert widths == {"all": 1199.5, "p": 1199.5, "f [demo]": 899.5, "g": 299.5}
    assert 'class="own"' in graph
    assert "3 of 4 samples, 75.0 %" in graph


def test_names_are_escaped_and_slivers_left_out() -> None:
    graph = str(flame_graph(Stacks({("p", "<script>"): 5000, ("p", "rare"): 1}), "demo"))
    assert "<script>" not in graph
    assert "rare" not in graph


def test_nothing_sampled_is_no_graph() -> None:
    assert flame_graph(Stacks(), "demo") == ""


def test_the_page_has_the_graph_of_a_profiled_run(tmp_path: Path) -> None:
    results = load_results(RESULTS / "pass.json")
    results.run_dir = str(tmp_path)
    assert '<svg class="flame"' not in to_html(results)
    (tmp_path / SAMPLES).parent.mkdir()
    (tmp_path / SAMPLES).write_text("p;f [demo] 3\n")
    assert '<svg class="flame"' in to_html(results)
