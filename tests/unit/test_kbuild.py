"""Builds as data: what is asked of build.sh, and what its answer means."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from vexrun.errors import BuildFailedError, ExitCode, InfrastructureError
from vexrun.kbuild import BuildOutcome, BuildPlace, BuildSpec, compiler_warnings, read_outcome
from vexrun.module_file import read_module_file
from vexrun.process import Completed
from vexrun.subject import Subject

MakeSubject = Callable[..., Subject]

TOOLS = """
[[tools]]
name = "mkfs.demo"
build = "cc -o {out} mkfs.c"
[[crates]]
dir = "vexctl"
bin = "vexctl"
[[variants]]
name = "c-only"
make_vars = { C_ONLY = true, LEVEL = 2 }
[[variants]]
name = "other"
ko = "other.ko"
"""
MODULE = 'dir = "kernel"\nko = "demo.ko"\nmake_vars = { LEVEL = 1, B = "two words", A = false }'


# -- what is asked -------------------------------------------------------------------------------


def options(argv: list[str], name: str) -> list[str]:
    return [argv[n + 1] for n, word in enumerate(argv) if word == name]


def test_the_main_build_makes_everything(make_subject: MakeSubject) -> None:
    spec = BuildSpec.main(make_subject(TOOLS, module=MODULE))
    argv = spec.arguments("6.12-amd64", 4)
    assert options(argv, "--source") == ["/mnt/vexfs-src"]
    assert options(argv, "--dir") == ["/var/lib/vexrun/build/demo/default"]
    assert options(argv, "--subdir") == ["kernel"]
    assert options(argv, "--ko") == ["demo.ko"]
    assert (options(argv, "--release"), options(argv, "--jobs")) == (["6.12-amd64"], ["4"])
    assert options(argv, "--make-var") == ["A=n", "B=two words", "LEVEL=1"]
    at = argv.index("--tool")
    assert argv[at : at + 3] == ["--tool", "mkfs.demo", "cc -o {out} mkfs.c"]
    at = argv.index("--crate")
    assert argv[at : at + 3] == ["--crate", "vexctl", "vexctl"]
    assert str(spec.ko_path) == "/var/lib/vexrun/build/demo/default/kernel/demo.ko"


def test_the_second_build_is_of_the_module_alone(make_subject: MakeSubject) -> None:
    """The module comes before any tool, so that tools cannot make a difference to it."""
    subject = make_subject(TOOLS, module=MODULE)
    main, again = BuildSpec.main(subject), BuildSpec.again(subject)
    without = again.arguments("6.12-amd64", 4)
    assert main.arguments("6.12-amd64", 4)[: len(without)] == without
    assert "--tool" not in without
    assert "--crate" not in without


def test_a_variant_adds_to_the_main_build_in_a_directory_of_its_own(
    make_subject: MakeSubject,
) -> None:
    first, second = BuildSpec.variants(make_subject(TOOLS, module=MODULE))
    argv = first.arguments("6.12", 1)
    assert options(argv, "--make-var") == ["A=n", "B=two words", "C_ONLY=y", "LEVEL=2"]
    assert options(argv, "--dir") == ["/var/lib/vexrun/build/demo/c-only"]
    assert "--tool" not in argv
    assert first.logs_dir != second.logs_dir
    assert options(second.arguments("6.12", 1), "--ko") == ["other.ko"]
    assert options(argv, "--ko") == ["demo.ko"]


# -- what is answered ----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def module(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A tiny ELF object with what a module says about itself."""
    directory = tmp_path_factory.mktemp("elf")
    infos = ["license=GPL", "name=demo_fs", "srcversion=ABC123", "vermagic=6.12 SMP", "depends=a,b"]
    asm = "".join(f'.asciz "{info}"\n' for info in infos)
    (directory / "m.s").write_text(
        f'.section .modinfo,"a"\n{asm}'
        '.section .note.gnu.build-id,"a",@note\n.long 4, 4, 3\n.asciz "GNU"\n'
        ".byte 0xde, 0xad, 0xbe, 0xef\n"
    )
    try:
        subprocess.run(["as", "-o", "m.ko", "m.s"], cwd=directory, check=True)
    except FileNotFoundError:
        pytest.skip("there is no assembler here")
    return (directory / "m.ko").read_bytes()


Answer = Callable[..., BuildOutcome]


@pytest.fixture
def answer(tmp_path: Path, make_subject: MakeSubject) -> Answer:
    """What build.sh printed, read back with the files it made in `work`."""
    spec = BuildSpec.main(make_subject())

    def read(
        *steps: object, returncode: int = 0, ko: bytes | None = None, log: str = ""
    ) -> BuildOutcome:
        work = tmp_path / "work"
        logs = work / "demo" / "logs-default"
        logs.mkdir(parents=True)
        (logs / "module.log").write_text(log)
        if ko is not None:
            (work / "demo" / "default").mkdir()
            (work / "demo" / "default" / "demo.ko").write_bytes(ko)
        lines = [step if isinstance(step, str) else json.dumps(step) for step in steps]
        done = Completed(("build.sh",), returncode, "\n".join(lines), "build.sh: it said\n")
        return read_outcome(spec, BuildPlace.NATIVE, done, work, 1.234)

    return read


def step(name: str, ok: bool = True, reason: str = "") -> dict[str, object]:
    return {"step": name, "ok": ok, "reason": reason, "seconds": 2}


def test_a_build_that_worked(answer: Answer, module: bytes) -> None:
    outcome = answer(step("module"), step("mkfs.demo"), ko=module, log="CC demo.o\n")
    assert outcome.module is not None
    assert outcome.module.srcversion == "ABC123"
    assert [(each.name, each.ok, each.seconds) for each in outcome.steps] == [
        ("module", True, 2.0),
        ("mkfs.demo", True, 2.0),
    ]
    record = outcome.record()
    assert (record.name, record.ok, record.where) == ("default", True, "native")
    assert record.sha256 == outcome.module.sha256
    assert record.log == "CC demo.o\n"
    assert record.command.startswith("make -C /lib/modules/$(uname -r)/build M=$PWD ")


def test_a_module_that_did_not_build_is_an_outcome(answer: Answer) -> None:
    outcome = answer(step("module", False, "make failed"), returncode=1, log="demo.c:1: error\n")
    assert outcome.module is None
    record = outcome.record()
    assert (record.ok, record.sha256) == (False, None)
    assert record.log == "make failed\ndemo.c:1: error\n"


def test_a_module_that_is_none_is_a_failed_build(answer: Answer) -> None:
    outcome = answer(step("module"), ko=b"not a module")
    assert outcome.module_step.ok is False
    assert "'demo.ko' is not an ELF file" in outcome.module_step.reason
    assert outcome.record().ok is False


def test_other_output_is_no_step(answer: Answer, module: bytes) -> None:
    outcome = answer("mount: noise", step("module"), "{", ko=module)
    assert [each.name for each in outcome.steps] == ["module"]


@pytest.mark.parametrize("returncode", [2, 127, -9])
def test_a_build_that_could_not_start_is_infrastructure(answer: Answer, returncode: int) -> None:
    with pytest.raises(InfrastructureError, match="could not start") as caught:
        answer(returncode=returncode)
    assert caught.value.evidence == "build.sh: it said"


@pytest.mark.parametrize("returncode", [0, 1])
def test_a_build_without_a_result_is_infrastructure(answer: Answer, returncode: int) -> None:
    with pytest.raises(InfrastructureError, match="ended without a result"):
        answer(step("mkfs.demo"), returncode=returncode)


# -- warnings ------------------------------------------------------------------------------------


def test_the_subjects_warnings_are_counted_and_kbuilds_remarks_are_not() -> None:
    log = """  CC [M]  demo.o
warning: the compiler differs from the one used to build the kernel
/b/demo.c:3:5: warning: unused variable 'x' [-Wunused-variable]
    3 | int x; // warning about nothing
WARNING: modpost: missing MODULE_DESCRIPTION() in demo.o
Skipping BTF generation for demo.ko due to unavailability of vmlinux
"""
    assert compiler_warnings(log) == [
        "/b/demo.c:3:5: warning: unused variable 'x' [-Wunused-variable]",
        "WARNING: modpost: missing MODULE_DESCRIPTION() in demo.o",
    ]


# -- the module file -----------------------------------------------------------------------------


def test_a_module_file_says_what_it_is(tmp_path: Path, module: bytes) -> None:
    path = tmp_path / "demo.ko"
    path.write_bytes(module)
    file = read_module_file(path)
    assert file.internal_name == "demo_fs"
    assert file.srcversion == "ABC123"
    assert file.vermagic == "6.12 SMP"
    assert file.build_id == "deadbeef"
    assert file.depends == ["a", "b"]
    assert file.modinfo["license"] == "GPL"
    assert len(file.sha256) == 64


def test_an_object_without_modinfo_is_no_module(tmp_path: Path, module: bytes) -> None:
    path = tmp_path / "demo.ko"
    path.write_bytes(module.replace(b".modinfo", b".another"))
    with pytest.raises(BuildFailedError, match=r"has no \.modinfo section") as caught:
        read_module_file(path)
    assert caught.value.exit_code is ExitCode.FAILED


@pytest.mark.parametrize("size", [0, 3, 4, 15, 40, 63, 64, 100, 200, 400])
def test_a_truncated_module_is_a_failed_build(tmp_path: Path, module: bytes, size: int) -> None:
    assert size < len(module)
    path = tmp_path / "demo.ko"
    path.write_bytes(module[:size])
    with pytest.raises(BuildFailedError, match=r"'demo\.ko' "):
        read_module_file(path)


@pytest.mark.parametrize("damaged", range(16, 64, 4))
def test_a_damaged_header_is_never_a_traceback(tmp_path: Path, module: bytes, damaged: int) -> None:
    path = tmp_path / "demo.ko"
    path.write_bytes(module[:damaged] + b"\xff" * 4 + module[damaged + 4 :])
    try:
        assert read_module_file(path).srcversion in ("ABC123", None)
    except BuildFailedError as error:
        assert "demo.ko" in error.message
