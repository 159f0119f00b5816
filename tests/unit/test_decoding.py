"""Frames of kernel events to source lines, on a real relocatable file with real DWARF."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vexrun.decoding import (
    CONTEXT_LINES,
    MAX_SNIPPETS,
    SIBLINGS,
    FindLines,
    Line,
    Lines,
    SubjectSource,
    addr2line_script,
    decode_events,
    decode_run,
    read_addr2line,
)
from vexrun.errors import InfrastructureError
from vexrun.kernel_log import KernelLogParser
from vexrun.module_symbols import ModuleSymbols, Place, UndecodableError
from vexrun.results.model import (
    FrameAddress,
    KernelEvent,
    ModuleInfo,
    Outcome,
    RunResults,
    StackFrame,
    SubjectInfo,
    TargetInfo,
    TestResult,
)

MODULES = Path(__file__).parents[1] / "data" / "modules"
KO = MODULES / "frames.ko"
BUILT_AT = PurePosixPath("/var/lib/vexrun/build/frames/default")
VERSIONS = ["2.40", "2.44"]


def events(log: bytes | None = None) -> list[KernelEvent]:
    parser = KernelLogParser(["frames"])
    data = (MODULES / "frames.log").read_bytes() if log is None else log
    return [*parser.feed(data), *parser.finish()]


def recorded(version: str) -> FindLines:
    """What that addr2line really answered."""
    output = (MODULES / f"addr2line-{version}.txt").read_text()
    return lambda places: read_addr2line(output, places)


def nothing(places: Collection[Place]) -> Lines:
    return {}


@pytest.fixture
def source(tmp_path: Path) -> SubjectSource:
    tree = tmp_path / "tree"
    shutil.copytree(MODULES / "source", tree)
    return SubjectSource(tree, BUILT_AT)


def trap(frame: str) -> bytes:
    return (
        b"[   10.000001] BUG: kernel NULL pointer dereference, address: 0000000000000000\n"
        b"[   10.000002] RIP: 0010:%s\n[   10.000003] ---[ end trace 0 ]---\n" % frame.encode()
    )


def text_of(frame: StackFrame) -> str:
    assert frame.line is not None
    assert frame.source_from is not None
    return frame.source[frame.line - frame.source_from].strip()


# ---------------------------------------------------------------- the whole


@pytest.mark.parametrize("version", VERSIONS)
def test_every_frame_is_decoded_to_the_line_it_stands_on(
    version: str, source: SubjectSource
) -> None:
    first, second = found = events()
    notes = decode_events(found, [KO], source, recorded(version))
    assert [(f.function, f.inlined, f.file, f.line) for f in first.frames] == [
        ("innermost", True, "one.c", 29),
        ("middle", True, "one.c", 34),
        ("frames_mount", False, "one.c", 39),
        ("helper", False, "one.c", 19),  # 0x20 bytes long
        ("helper", False, "two.c", 9),  # 0x30 bytes long
        ("twin", False, None, None),
        ("frames_mount", False, "one.c", 42),
        ("frames_shared", True, "shared.h", 7),
        ("frames_mount", False, "one.c", 40),
        ("frames_dies", False, "one.c", 53),  # the call is its last instruction
        ("frames_umount", False, "two.c", 23),  # the last function of .text
        ("frames_cold", False, "one.c", 47),
        ("frames_init", False, "one.c", 58),
    ]
    assert [text_of(frame) for frame in first.frames if frame.line] == [
        "*frames_nowhere = value; /* faults here */",
        "innermost(value + 1); /* inlined here */",
        "middle(value); /* and here */",
        "return observe(value) + 1;",
        "int second = observe(first);",
        "return helper(value) + twin(value);",
        "observe(value * 5); /* a header of the subject */",
        "frames_shared(value);",
        "die();",
        "return helper(value) + twin(value);",
        "return observe(value) - 3;",
        "return observe(7) + 7;",
    ]
    assert first.source_line == "one.c:29"
    # The store is in a header of somebody else: the subject's line is the one that called it.
    assert second.source_line == "one.c:41"
    assert second.frames[0].file == "/var/lib/vexrun/build/include/outside.h"
    assert second.frames[0].source == []
    assert notes == [
        "1 frame of the kernel's call traces could not be decoded to source lines: "
        "'frames.ko' has 2 functions 'twin' of the same size."
    ]


def test_frames_say_what_their_address_is() -> None:
    first, second = events()
    assert [(frame.function, frame.address.value) for frame in first.frames[:3]] == [
        ("frames_mount", "instruction"),
        ("helper", "return"),
        ("helper", "guess"),
    ]
    assert [frame.function for frame in first.frames].count("frames_init") == 1
    assert not any(frame.function.startswith("__pfx_") for frame in first.frames)
    assert [frame.offset for frame in second.frames] == ["0x19/0x60"]


@pytest.mark.parametrize(
    ("line", "address"),
    [
        (b"WARNING: CPU: 0 PID: 1 at /x/a.c:1 f+0x9/0x20 [frames]", FrameAddress.INSTRUCTION),
        (b"BUG: KFENCE: use-after-free read in f+0x9/0x20 [frames]", FrameAddress.INSTRUCTION),
        (b"BUG: KASAN: slab-out-of-bounds in f+0x9/0x20 [frames]", FrameAddress.RETURN),
    ],
)
def test_the_first_line_of_a_report_has_a_frame_too(line: bytes, address: FrameAddress) -> None:
    (event,) = events(b"[    1.000000] " + line + b"\n[    1.000001] RIP: 0010:g+0x1/0x2\n")
    assert [(frame.function, frame.address) for frame in event.frames] == [("f", address)]


def test_a_guess_that_is_confirmed_later_is_no_guess() -> None:
    log = trap("frames_mount+0x12/0x60 [frames]").replace(
        b"[   10.000003]",
        b"[   10.000003]  ? helper+0x9/0x20 [frames]\n[   10.000003]  helper+0x9/0x20 [frames]\n"
        b"[   10.000003]",
    )
    (event,) = events(log)
    assert [frame.address.value for frame in event.frames] == ["instruction", "return"]


def test_an_endless_recursion_keeps_few_frames() -> None:
    lines = b"".join(b"[   10.000003]  f%d+0x9/0x20 [frames]\n" % n for n in range(3000))
    log = trap("frames_mount+0x12/0x60 [frames]").replace(b"[   10.000003] ---", lines + b"---")
    (event,) = events(log)
    assert len(event.frames) == 32


def test_an_event_in_both_lists_is_decoded_once(source: SubjectSource) -> None:
    found = events()
    decode_events([*found, *found], [KO], source, recorded("2.44"))
    assert len(found[0].frames) == 13


def test_without_frames_addr2line_is_not_asked(source: SubjectSource) -> None:
    def refuse(places: Collection[Place]) -> Lines:
        raise AssertionError("asked for nothing")

    silent = KernelEvent(event_class="silent", title="guest rebooted")
    assert decode_events([silent], [KO], source, refuse) == []
    assert silent.source_line is None


# ---------------------------------------------------------------- what cannot be decoded


@pytest.mark.parametrize(
    ("ko", "frame", "reason"),
    [
        ("stripped.ko", "frames_mount+0x12/0x60", "has no DWARF (.debug_line): its build strips"),
        ("frames.ko", "frames_mount+0x12/0x70", "'frames_mount' of 'frames.ko' is not 0x70 bytes"),
        ("frames.ko", "frames_umount+0x12/0x20", "'frames_umount' of 'frames.ko' is not 0x20"),
        ("frames.ko", "missing+0x12/0x60", "'frames.ko' has no function 'missing'"),
        ("frames.log", "frames_mount+0x12/0x60", "no readable .ko of the module 'frames'"),
        ("absent.ko", "frames_mount+0x12/0x60", "no readable .ko of the module 'frames'"),
        ("frames.ko", "frames_mount+0x12/0x60", "knows no line for 'frames_mount+0x12/0x60 [fra"),
    ],
)
def test_a_gap_is_a_note_and_the_event_stays(
    ko: str, frame: str, reason: str, source: SubjectSource
) -> None:
    (event,) = events(trap(f"{frame} [frames]"))
    before = event.model_copy(deep=True)
    (note,) = decode_events([event], [MODULES / ko], source, nothing)
    assert reason in note
    assert event == before


def test_a_file_without_symbols_says_so(tmp_path: Path) -> None:
    data = bytearray(KO.read_bytes())
    data = data.replace(b".symtab\0", b".gone12\0")
    (tmp_path / "frames.ko").write_bytes(data)
    with pytest.raises(UndecodableError, match="no symbol table: it was stripped"):
        ModuleSymbols(tmp_path / "frames.ko")


@pytest.mark.parametrize(
    "output",
    ["", "addr2line: oops\n", "0x0000000000000001\nf\na.c:1\n"],
    ids=["nothing", "error", "another-address"],
)
def test_an_answer_to_another_question_is_refused(output: str) -> None:
    with pytest.raises(InfrastructureError, match="was asked about 1"):
        read_addr2line(output, [Place(KO, ".text", 0x52)])


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("/b/a.c:12", Line("f", "/b/a.c", 12)),
        ("/b/a.c:12 (discriminator 3)", Line("f", "/b/a.c", 12)),
        ("/b/odd:name.c:7", Line("f", "/b/odd:name.c", 7)),
    ],
)
def test_locations_of_addr2line(location: str, expected: Line) -> None:
    place = Place(KO, ".text", 0x52)
    assert read_addr2line(f"0x0000000000000052\nf\n{location}\n", [place]) == {place: [expected]}


@pytest.mark.parametrize("location", ["??:0", "??:?", "/b/a.c:?", "/b/a.c:0", ""])
def test_a_location_that_is_not_known_is_none(location: str) -> None:
    place = Place(KO, ".text", 0x52)
    assert read_addr2line(f"0x0000000000000052\n??\n{location}\n", [place]) == {}


@given(st.text(alphabet="0x52fa.c:?\n ()12345678"))
def test_any_output_is_read_or_refused(output: str) -> None:
    try:
        read_addr2line(output, [Place(KO, ".text", 0x52)])
    except InfrastructureError as error:
        assert "was asked about 1" in error.message


def test_all_addresses_of_a_section_are_asked_at_once_and_quoted() -> None:
    directory = Path("/runs/r 1")
    places = [
        Place(directory / "siblings" / "$(x).ko", ".init.text", 7),
        Place(directory / "a.ko", ".text", 0x52),
        Place(directory / "a.ko", ".text", 0x8),
    ]
    assert addr2line_script(places, directory, PurePosixPath("/srv")).splitlines() == [
        "set -e",
        "addr2line -a -f -i -C -j .text -e /srv/a.ko 0x8 0x52",
        "addr2line -a -f -i -C -j .init.text -e '/srv/siblings/$(x).ko' 0x7",
    ]


# ---------------------------------------------------------------- a run


def crashed_run(**module: object) -> RunResults:
    """The results of a run of `frames.ko` whose kernel said what is in frames.log."""
    found = events()
    test = TestResult(
        id="mount/a.py::b", category="mount", outcome=Outcome.CRASHED, kernel_events=found[:1]
    )
    return RunResults(
        run_id="r",
        subject=SubjectInfo(name="frames", source="/s"),
        target=TargetInfo(kind="vm"),
        module=ModuleInfo(**{"file": "frames.ko", **module}),
        tests=[test],
        kernel_events=found[1:],
    )


def test_events_of_tests_and_of_the_run_are_decoded(source: SubjectSource) -> None:
    results = crashed_run(loaded_srcversion="A", identity_proven=True)
    (note,) = decode_run(results, MODULES, source, recorded("2.44"))
    assert "functions 'twin'" in note
    assert results.tests[0].kernel_events[0].source_line == "one.c:29"
    assert results.kernel_events[0].source_line == "one.c:41"


def test_a_frame_in_a_sibling_is_decoded(tmp_path: Path, source: SubjectSource) -> None:
    (tmp_path / SIBLINGS).mkdir()
    shutil.copy(KO, tmp_path / SIBLINGS / "frames.ko")
    shutil.copy(MODULES / "stripped.ko", tmp_path / "stripped.ko")
    results = crashed_run(file="absent.ko")
    decode_run(results, tmp_path, source, recorded("2.44"))
    assert results.kernel_events[0].source_line == "one.c:41"


HANG = """\
[  299.716543] sysrq: Show Blocked State\r
[  299.717119] task:mount           state:D stack:0     pid:501   tgid:501   ppid:500\r
[  299.723450] Call Trace:\r
[  299.723641]  <TASK>\r
[  299.723731]  __schedule+0x505/0xbf0\r
[  299.723960]  ? __pfx_frames_mount+0x10/0x10 [frames]\r
[  299.724263]  frames_mount+0x12/0x60 [frames]\r
[  299.724423]  other_fill_super+0xe/0x10 [other]\r
"""


def test_the_stacks_of_a_hang_get_their_lines(source: SubjectSource) -> None:
    def find(places: Collection[Place]) -> Lines:
        assert [place.address for place in places] == [0x51]  # behind the call
        return {place: [Line("frames_mount", str(BUILT_AT / "one.c"), 39)] for place in places}

    results = crashed_run()
    results.kernel_events = []
    results.tests[0].kernel_events = []
    results.tests[0].outcome = Outcome.HUNG
    results.tests[0].details = HANG
    assert decode_run(results, MODULES, source, find) == []
    assert results.tests[0].details == (
        HANG + "\nSource lines of the stacks above:\none.c:39  frames_mount\n"
    )


def test_another_module_than_the_built_one_is_not_decoded(source: SubjectSource) -> None:
    results = crashed_run(loaded_srcversion="B", identity_proven=False)
    (note,) = decode_run(results, MODULES, source, recorded("2.44"))
    assert "not proven to be the built file" in note
    assert results.kernel_events[0].source_line is None


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (InfrastructureError("addr2line failed.", evidence="no such file"), "no such file"),
        (RecursionError("deep"), "RecursionError: deep"),
    ],
    ids=["expected", "defect"],
)
def test_a_failure_is_a_note_and_the_run_stays(
    failure: Exception, said: str, source: SubjectSource
) -> None:
    def fail(places: Collection[Place]) -> Lines:
        raise failure

    results = crashed_run()
    before = results.model_copy(deep=True)
    (note,) = decode_run(results, MODULES, source, fail)
    assert note.startswith("The kernel's call traces were not decoded to source lines: ")
    assert said in note
    assert results == before


def test_a_run_without_a_module_has_nothing_to_decode(source: SubjectSource) -> None:
    results = crashed_run(file=None)
    assert decode_run(results, MODULES, source, nothing) == []


# ---------------------------------------------------------------- the subject's source


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("/var/lib/vexrun/build/frames/default/one.c", "one.c"),
        ("/var/lib/vexrun/build/frames/default/sub/../one.c", "one.c"),
        ("/var/lib/vexrun/build/frames/default/made/by/the.build.c", "made/by/the.build.c"),
        ("one.c", "one.c"),
        ("fs/inode.c", None),  # relative, and none of the subject's: the kernel's own
        ("/var/lib/vexrun/build/frames/default/../other/one.c", None),
        ("/usr/src/linux-headers-6.12/include/linux/list.h", None),
        ("../../../../etc/passwd", None),
    ],
)
def test_names_of_the_dwarf_become_paths_in_the_tree(
    file: str, expected: str | None, source: SubjectSource
) -> None:
    assert source.relative(file) == expected


def test_a_module_in_a_subdirectory_names_files_from_there(tmp_path: Path) -> None:
    (tmp_path / "fs").mkdir()
    (tmp_path / "fs" / "super.c").write_text("int x;\n")
    source = SubjectSource(tmp_path, BUILT_AT, "fs")
    assert source.relative("super.c") == "fs/super.c"
    assert source.relative(f"{BUILT_AT}/fs/super.c") == "fs/super.c"


@pytest.mark.parametrize(("line", "first", "count"), [(1, 1, 7), (9, 3, 13), (20, 14, 8)])
def test_context_stops_at_the_ends_of_the_file(
    line: int, first: int, count: int, tmp_path: Path
) -> None:
    (tmp_path / "a.c").write_text("".join(f"line {n}\n" for n in range(1, 21)))
    around = SubjectSource(tmp_path, BUILT_AT).around("a.c", line)
    assert around is not None
    assert (around[0], len(around[1])) == (first, count)
    assert around[1][line - around[0]] == f"line {line}"
    assert CONTEXT_LINES == 6


@pytest.mark.parametrize("line", [0, 22, 10**9])
def test_a_line_that_the_file_has_not_gives_no_source(line: int, tmp_path: Path) -> None:
    (tmp_path / "a.c").write_text("".join(f"line {n}\n" for n in range(1, 21)))
    assert SubjectSource(tmp_path, BUILT_AT).around("a.c", line) is None


def test_nothing_outside_of_the_tree_is_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret.c"
    secret.write_text("secret\n")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "link.c").symlink_to(secret)
    (tree / "loop.c").symlink_to(tree / "loop.c")
    source = SubjectSource(tree, BUILT_AT)
    for name in ("link.c", "loop.c", "../secret.c", "absent.c", "."):
        assert source.around(name, 1) is None


def test_bytes_that_are_not_utf8_and_endless_lines_are_kept_readable(tmp_path: Path) -> None:
    (tmp_path / "a.c").write_bytes(b"\xff\tx\r\n" + b"y" * 100_000 + b"\n")
    around = SubjectSource(tmp_path, BUILT_AT).around("a.c", 1)
    assert around is not None
    assert around[1][0] == "\ufffd       x"
    assert len(around[1][1]) == 240


def test_source_is_kept_a_bounded_number_of_times(source: SubjectSource) -> None:
    found = [event for _ in range(2 * MAX_SNIPPETS // 13) for event in events()]
    decode_events(found, [KO], source, recorded("2.44"))
    kept = sum(bool(frame.source) for event in found for frame in event.frames)
    assert kept == MAX_SNIPPETS
    assert found[-1].source_line == "one.c:41"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (f"kernel BUG at {BUILT_AT}/one.c:29!", "one.c:29"),
        ("kernel BUG at fs/inode.c:29!", None),
        (f"rust_kernel: panicked at {BUILT_AT}/one.c:29:5:", "one.c:29"),
        ("rust_kernel: panicked at one.c:29:5:", "one.c:29"),
        ("rust_kernel: panicked at rust/kernel/sync.rs:29:5:", None),
        ("rust_kernel: panicked at /elsewhere/one.c:29:5:", None),
    ],
)
def test_a_line_that_the_kernel_printed_counts_when_it_is_the_subjects(
    said: str, expected: str | None, source: SubjectSource
) -> None:
    (event,) = events(f"[    1.000000] {said}\n".encode())
    decode_events([event], [], source, nothing)
    assert event.source_line == expected
