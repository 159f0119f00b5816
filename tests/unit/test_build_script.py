"""roles/module_build/files/build.sh, driven for real with a fake make and a fake /lib/modules."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from vexrun.kbuild import build_script
from vexrun.tree import source_files

#: Makes what the subject's Kbuild would: the last argument but one names the directory.
MAKE = """
for word; do case $word in M=*) where=${word#M=} ;; esac; done
echo "CC [M] demo.o"; : >"$where/demo.ko"
"""


class Builder:
    """Runs build.sh on a source tree; `said` is its steps by name."""

    def __init__(self, tmp_path: Path, programs: Any) -> None:
        self.programs = programs
        self.source = tmp_path / "source"
        self.dir = tmp_path / "build" / "demo"
        self.tools = tmp_path / "tools"
        self.logs = tmp_path / "logs"
        self.said: dict[str, dict[str, Any]] = {}
        modules = tmp_path / "modules"
        (modules / "6.12-demo" / "build").mkdir(parents=True)
        (modules / "6.12-demo" / "build" / "Makefile").touch()
        self.script = tmp_path / "build.sh"
        self.script.write_text(build_script().read_text().replace("/lib/modules", str(modules)))
        self.source.mkdir()
        (self.source / "demo.c").write_text("int x;\n")

    def __call__(self, *more: str, ko: str = "demo.ko", **changed: str) -> int:
        options = {
            "source": str(self.source),
            "dir": str(self.dir),
            "ko": ko,
            "release": "6.12-demo",
            "logs": str(self.logs),
            "tools-dir": str(self.tools),
            "jobs": "1",
            **{name.replace("_", "-"): value for name, value in changed.items()},
        }
        argv = [word for name, value in options.items() for word in (f"--{name}", value)]
        done = subprocess.run(
            ["bash", str(self.script), *argv, *more],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        self.error = done.stderr
        steps = [json.loads(line) for line in done.stdout.splitlines()]
        self.said = {step["step"]: step for step in steps}
        return done.returncode

    def reason(self, step: str) -> str:
        assert self.said[step]["ok"] is False
        return str(self.said[step]["reason"])

    def log(self, step: str) -> str:
        return (self.logs / f"{step}.log").read_text()


@pytest.fixture
def build(tmp_path: Path, programs: Any) -> Builder:
    programs.add("make", MAKE)
    return Builder(tmp_path, programs)


# -- the module ----------------------------------------------------------------------------------


def test_a_module_is_built_from_a_copy(build: Builder) -> None:
    assert build() == 0, build.error
    assert build.said["module"]["ok"] is True
    assert (build.dir / "demo.ko").exists()
    assert not (build.source / "demo.ko").exists()
    assert build.log("module") == "CC [M] demo.o\n"
    (call,) = build.programs.calls("make")
    assert f" M={build.dir} " in call
    assert "CONFIG_MODULE_SRCVERSION_ALL=y" in call
    assert call.endswith(" -j1 modules")


def test_a_module_in_a_directory_is_built_there(build: Builder) -> None:
    (build.source / "kernel").mkdir()
    assert build(subdir="kernel") == 0
    assert (build.dir / "kernel" / "demo.ko").exists()
    assert build(subdir="nowhere") == 1
    assert "no directory 'nowhere'" in build.reason("module")


def test_make_variables_are_passed_as_they_are(build: Builder) -> None:
    build.programs.add("make", 'printf "<%s>" "$@"' + MAKE)
    build("--make-var", "A=two words", "--make-var", "B=$(x)")
    assert "<A=two words><B=$(x)>" in build.log("module")


def test_what_prepares_a_build_runs_first_and_at_the_top(build: Builder) -> None:
    (build.source / "kernel").mkdir()
    (build.source / "genver.sh").write_text("echo 'making version.h'; echo > kernel/version.h\n")
    assert build("--subdir", "kernel", "--prepare", "sh genver.sh") == 0
    assert (build.dir / "kernel" / "version.h").exists()
    assert build.log("module").splitlines() == ["making version.h", "CC [M] demo.o"]


def test_a_build_that_cannot_be_prepared_has_failed(build: Builder) -> None:
    assert build("--prepare", "echo no git; exit 3") == 1
    assert build.reason("module") == (
        "what prepares the build (module.prepare) ended with exit status 3"
    )
    assert build.log("module") == "no git\n"


def test_the_environment_of_a_build_is_fixed(build: Builder, monkeypatch: Any) -> None:
    monkeypatch.setenv("CFLAGS", "-O0")
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    build.programs.add("make", "env" + MAKE)
    build()
    environment = dict(line.split("=", 1) for line in build.log("module").splitlines()[:-1])
    assert "CFLAGS" not in environment
    assert environment["LC_ALL"] == "C.UTF-8"
    assert environment["SOURCE_DATE_EPOCH"] == "0"
    assert environment["KBUILD_BUILD_HOST"] == "vexrun"


def test_make_that_fails_is_a_failed_step_with_its_log(build: Builder) -> None:
    build.programs.add("make", "echo 'demo.c:1: error: no'; exit 2")
    assert build() == 1
    assert build.reason("module") == "make failed for kernel 6.12-demo"
    assert "error: no" in build.log("module")


@pytest.mark.parametrize(
    ("make", "made"),
    [("exit 0", "no module at all"), (MAKE.replace("demo.ko", "other.ko"), "other.ko")],
)
def test_make_that_succeeds_without_the_module_has_failed(
    build: Builder, make: str, made: str
) -> None:
    build.programs.add("make", make)
    assert build() == 1
    assert build.reason("module").startswith("make succeeded but did not make 'demo.ko'")
    assert made in build.reason("module")


def test_a_module_older_than_the_build_is_refused(build: Builder) -> None:
    """A Makefile that copies a module somebody once built."""
    build.programs.add("make", MAKE + 'touch -d 2020-01-01 "$where/demo.ko"')
    assert build() == 1
    assert "older than this build" in build.reason("module")


def test_a_module_in_the_source_is_not_taken_for_a_built_one(build: Builder) -> None:
    (build.source / "demo.ko").write_text("stale")
    os.utime(build.source / "demo.ko", (4e9, 4e9))  # as new as can be
    build.programs.add("make", "exit 0")
    assert build() == 1
    assert "no module at all" in build.reason("module")


def test_nothing_of_an_earlier_build_is_left(build: Builder) -> None:
    assert build() == 0
    build.programs.add("make", "exit 0")
    assert build() == 1
    assert not (build.dir / "demo.ko").exists()


def test_a_build_cleans_up_after_itself(build: Builder) -> None:
    build()
    assert sorted(path.name for path in build.dir.parent.iterdir()) == ["demo"]


# -- the copy ------------------------------------------------------------------------------------

PRODUCTS = [
    *("demo.o", "sub/demo.ko", "demo.mod", "demo.mod.c", ".demo.o.cmd", "Module.symvers"),
    *("modules.order", ".git/HEAD", ".hg/x", ".svn/x", ".tmp_versions/demo.mod"),
    *("crate/target/release/x", "sub/.module-common.o"),
]
SOURCES = ["demo.c", "sub/Makefile", "crate/Cargo.toml", "sub/target/arch.c", "demo.mod.h"]


def test_the_copy_has_the_source_and_no_build_products(build: Builder) -> None:
    for name in PRODUCTS + SOURCES:
        (build.source / name).parent.mkdir(parents=True, exist_ok=True)
        (build.source / name).write_text(name)
    (build.source / "link").symlink_to("sub")
    build.programs.add("make", "exit 0")
    build()
    copied = {
        str(path.relative_to(build.dir))
        for path in build.dir.rglob("*")
        if path.is_symlink() or path.is_file()
    }
    assert copied == {*SOURCES, "link"}
    assert copied == {str(path) for path in source_files(build.source)}, "the tree that is hashed"


def test_the_source_is_left_as_it_was(build: Builder) -> None:
    before = sorted((path.name, path.stat().st_mtime_ns) for path in build.source.rglob("*"))
    build("--tool", "t", "cp demo.c {out}; echo changed >demo.c; chmod +x {out}")
    after = sorted((path.name, path.stat().st_mtime_ns) for path in build.source.rglob("*"))
    assert after == before


# -- tools and crates ----------------------------------------------------------------------------


def test_a_tool_is_built_where_it_is_asked(build: Builder) -> None:
    tool = "printf '#!/bin/sh\\necho hello\\n' >{out} && chmod +x {out}"
    uses = "{tools}/one >{out}; chmod +x {out}"
    assert build("--tool", "one", tool, "--tool", "two", uses) == 0, build.said
    assert (build.tools / "two").read_text() == "hello\n"


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("echo 'mkfs.c: error' >&2; exit 1", "its build command failed"),
        ("true", "its build command succeeded but made no program"),
        ("echo x >{out}", "its build command succeeded but made no program"),
    ],
    ids=["fails", "makes nothing", "not executable"],
)
def test_each_step_is_told_apart(build: Builder, command: str, reason: str) -> None:
    good = "echo >{out}; chmod +x {out}"
    assert build("--tool", "mkfs", command, "--tool", "good", good) == 1
    assert build.said["module"]["ok"] is True
    assert build.reason("mkfs").startswith(reason)
    assert build.said["good"]["ok"] is True
    if "error" in command:
        assert build.log("mkfs") == "mkfs.c: error\n"


def test_a_tool_of_an_earlier_build_is_not_taken_for_a_built_one(build: Builder) -> None:
    build("--tool", "mkfs", "echo >{out}; chmod +x {out}")
    assert build("--tool", "mkfs", "true") == 1
    assert "made no program" in build.reason("mkfs")


def test_tools_are_built_although_the_module_failed(build: Builder) -> None:
    build.programs.add("make", "exit 2")
    assert build("--tool", "good", "echo >{out}; chmod +x {out}") == 1
    assert [step["ok"] for step in build.said.values()] == [False, True]


CARGO = 'echo "$*"; mkdir -p "$CARGO_TARGET_DIR/release"; : >"$CARGO_TARGET_DIR/release/vexctl"'


def test_a_crate_is_built_offline_into_a_directory_of_its_own(build: Builder) -> None:
    (build.source / "vexctl").mkdir()
    build.programs.add("cargo", CARGO)
    assert build("--crate", "vexctl", "vexctl") == 0, build.said
    assert build.log("vexctl") == "build --release --offline --bin vexctl\n"
    assert os.access(build.tools / "vexctl", os.X_OK)


@pytest.mark.parametrize(
    ("directory", "cargo", "reason"),
    [
        ("nowhere", CARGO, "there is no directory 'nowhere' in the source"),
        ("vexctl", "exit 101", "cargo build failed"),
        ("vexctl", "exit 0", "cargo build made no program 'vexctl'"),
    ],
)
def test_a_crate_that_does_not_build_says_why(
    build: Builder, directory: str, cargo: str, reason: str
) -> None:
    (build.source / "vexctl").mkdir()
    build.programs.add("cargo", cargo)
    assert build("--crate", directory, "vexctl") == 1
    assert build.reason("vexctl") == reason


def test_reasons_with_quotes_are_json(build: Builder) -> None:
    assert build(ko='a"b\\c.ko') == 1
    assert "'a\"b\\c.ko'" in build.reason("module")


# -- what cannot start ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"release": "5.0"}, "role 'kernel_headers' installs it"),
        ({"source": "/nonexistent"}, "is not there or is empty; is it mounted?"),
        ({"dir": "/proc/vexrun"}, "cannot write below '/proc/vexrun'"),
        ({"nonsense": "1"}, "unknown argument '--nonsense'"),
    ],
)
def test_what_cannot_start_says_so(build: Builder, changed: dict[str, str], words: str) -> None:
    assert build(**changed) == 2
    assert words in build.error
    assert build.said == {}


def test_a_build_without_a_module_is_only_its_tools(build: Builder) -> None:
    assert build("--tool", "t", "echo >{out}; chmod +x {out}", ko="") == 0
    assert list(build.said) == ["t"]


def test_makefile_may_ask_where_it_is(build: Builder) -> None:
    """-I$(PWD)/include: make has no such variable of its own, only what a shell exports."""
    build.programs.add("make", MAKE + 'echo "PWD is $(printenv PWD)"\n')
    (build.source / "module").mkdir()
    assert build(subdir="module") == 0
    assert f"PWD is {build.dir}/module\n" in build.log("module")


def test_makefile_may_ask_which_kernel_it_builds_for(build: Builder) -> None:
    """KDIR = /lib/modules/$(shell uname -r)/build: natively another kernel runs."""
    build.programs.add("make", MAKE + 'echo "for $(uname -r) on $(uname -s) $(uname -m)"\n')
    assert build() == 0
    ours = os.uname()
    assert f"for 6.12-demo on {ours.sysname} {ours.machine}\n" in build.log("module")
