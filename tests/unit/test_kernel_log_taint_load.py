"""Taint masks and refused modules."""

from __future__ import annotations

from pathlib import Path

import pytest

from vexrun.kernel_log import (
    decode_taint,
    explain_insmod,
    explain_refusal,
    taint_delta,
    taint_notes,
)
from vexrun.kernel_log.classes import SIGNATURES, classify
from vexrun.results.model import KernelEvent

LOGS = Path(__file__).parent.parent / "data" / "logs" / "captured"


def event(event_class: str) -> KernelEvent:
    return KernelEvent(event_class=event_class, title="x")


def test_decode_names_letters() -> None:
    assert [taint.letter for taint in decode_taint(12288 + 512 + 1)] == ["P", "W", "O", "E"]
    assert [taint.letter for taint in decode_taint(1 << 40)] == ["?"]
    assert decode_taint(0) == []


def test_loading_an_unsigned_module_is_no_event() -> None:
    assert taint_delta(0, 12288) == []
    assert taint_notes(0, 12288) == []


@pytest.mark.parametrize(
    ("mask", "letter"), [(16, "M"), (32, "B"), (128, "D"), (512, "W"), (16384, "L")]
)
def test_a_failure_bit_without_a_line_is_silent(mask: int, letter: str) -> None:
    (found,) = taint_delta(0, 12288 | mask)
    assert found.event_class == "silent"
    assert found.title == f"taint {letter} set without a line"
    assert found.source == "taint"


@pytest.mark.parametrize(
    ("mask", "event_class"),
    [
        (512, "warning"),
        (512, "atomic"),
        (512, "memory"),
        (128, "oops"),
        (128, "panic"),
        (128, "unload"),
        (16384, "hang"),
        (32, "sanitizer"),
    ],
)
def test_a_fitting_event_explains_a_bit(mask: int, event_class: str) -> None:
    assert taint_delta(12288, 12288 | mask, events=[event(event_class)]) == []


def test_an_event_of_another_kind_does_not() -> None:
    assert len(taint_delta(0, 128, events=[event("warning"), event("load")])) == 1


def test_a_bit_from_before_is_no_news() -> None:
    assert taint_delta(512, 512 | 12288) == []


def test_a_proprietary_licence_is_a_note() -> None:
    assert taint_delta(0, 12289) == []
    (note,) = taint_notes(0, 12289)
    assert "'P' (proprietary module)" in note


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "minix: version magic '6.1.0 SMP' should be '6.12.1 SMP '",
            "built for kernel '6.1.0 SMP'",
        ),
        ("minix: Unknown symbol crc32c_le (err -2)", "'crc32c_le'"),
        ("minix: disagrees about version of symbol module_layout", "'module_layout'"),
        ("Loading of unsigned module is rejected", "signatures"),
        ("Loading of module with unavailable key is rejected", "unavailable key"),
        ("Lockdown: insmod: unsigned module loading is restricted; see man", "locked down"),
        ("Invalid ELF section header overflow", "damaged or truncated"),
        ("minix: exports duplicate symbol a_b (owned by kernel)", "'kernel' exports already"),
        ("minix: `x' invalid for parameter `debug'", "parameter 'debug'"),
        ("failed to validate module [minix] BTF: -22", "BTF"),
    ],
)
def test_a_refusal_is_explained_in_a_sentence(line: str, words: str) -> None:
    sentence = explain_refusal(f"[    1.000000] other: fine\n[    2.000000] {line}\n", "minix")
    assert sentence is not None
    assert words in sentence
    assert sentence.endswith(".")
    assert explain_refusal(line) is None, "a line without timestamp is not the kernel's"


def test_another_modules_refusal_is_not_ours() -> None:
    log = "[    2.000000] nouveau: Unknown symbol foo (err -2)\n"
    assert explain_refusal(log, "minix") is None
    assert explain_refusal(log) is not None


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_captured_refusals(kernel: str) -> None:
    log = (LOGS / f"all_load-{kernel}.log").read_bytes()
    for module, words in (
        ("missing_symbol", "'vexrun_symbol_that_nobody_exports'"),
        ("harmless", "headers"),
    ):
        assert words in (explain_refusal(log, module) or "")


def test_signature_names_are_unique_and_continuations_exist() -> None:
    names = [signature.name for signature in SIGNATURES]
    assert len(names) == len(set(names))
    for signature in SIGNATURES:
        assert signature.continues <= set(names), signature.name


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("Oops: Oops: 0002 [#1] PREEMPT SMP NOPTI", "oops"),
        ("Oops: stack guard page: 0000 [#1] PREEMPT SMP", "trap"),
        ("usercopy: Kernel memory overwrite attempt detected to SLUB object", "usercopy"),
        ("sysctl duplicate entry: /fs/minix//debug", "duplicate_sysctl"),
        ("debugfs: Directory 'minix' with parent '/' already present!", "duplicate_debugfs"),
        ("proc_dir_entry 'fs/minix' already registered", "duplicate_proc"),
        ("kmem_cache of name 'minix_inode' already exists", "duplicate_cache"),
        ("kobject: kobject_add_internal failed for m with -EEXIST, don't try", "duplicate_kobject"),
        ("ODEBUG: free active (active state 0) object: 00 object type: timer_list", "odebug"),
        ("memcpy: detected field-spanning write (size 8) of single field", "field_spanning"),
        ("detected buffer overflow in strcpy", "fortify"),
        ("rcu: INFO: rcu_preempt detected expedited stalls on CPUs/tasks: { 1-.... }", "rcu_stall"),
        ("rcu: INFO: rcu_preempt self-detected stall on CPU", "rcu_stall"),
        ("INFO: rcu_tasks detected stalls on tasks:", "rcu_stall"),
        ("INFO: task kworker/u8:1:33 blocked for more than 120 seconds.", "hung_task"),
        ("unreferenced object 0xffff888003a0b000 (size 64):", "kmemleak"),
        ("mkdir: page allocation failure: order:9, mode:0xcc0(GFP_KERNEL)", "page_allocation"),
        ("BUG: Bad page map in process mkdir  pte:00 pmd:00", "bad_page"),
        ("WARNING: SOFTIRQ-safe -> SOFTIRQ-unsafe lock order detected", "lockdep"),
        ("WARNING: mkdir/431 still has locks held!", "locks_still_held"),
        ("BUG: spinlock bad magic on CPU#0, swapper/0/1", "spinlock"),
        ("WARNING: at minix_mkdir+0x10/0x20 [minix]", "warning_unlocated"),
    ],
)
def test_signatures_without_a_log_of_their_own(line: str, name: str) -> None:
    found = classify(line)
    assert found is not None
    assert found[0].name == name


@pytest.mark.parametrize(
    ("said", "errno"),
    [
        ("insmod: ERROR: could not insert module /m/demo.ko: Invalid parameters\n", "-EINVAL"),
        ("insmod: can't insert 'demo.ko': Unknown symbol in module", "-ENOENT"),
        ("insmod: ERROR: could not insert module demo.ko: Invalid module format", "-ENOEXEC"),
    ],
)
def test_what_insmod_makes_of_an_errno_is_not_believed(said: str, errno: str) -> None:
    told = explain_insmod(said)
    assert told is not None
    assert f"init returned: {errno}" in told


def test_what_insmod_says_plainly_needs_no_words_of_ours() -> None:
    assert explain_insmod("insmod: ERROR: could not insert module a.ko: Input/output error") is None
