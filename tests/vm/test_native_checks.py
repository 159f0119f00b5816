"""Static checks and unit suites on a real crate and a real module: no machine is started."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import CHECKOUT, SUBJECTS, Run

CANARYFS = CHECKOUT / "tests" / "canaries" / "canaryfs"

MAIN = 'fn main() {\n    println!("{}", 6 * 7);\n}\n'
TEST = """
#[cfg(test)]
mod tests {
    #[test]
    fn adds() {
        assert_eq!(1 + 1, %s);
    }
}
"""
#: A crate's main.rs, by the crate's name.
CRATES = {
    "good": MAIN + TEST % 2,
    "empty": MAIN,
    "failing": MAIN + TEST % 3,
    "unformatted": MAIN.replace("    ", "") + TEST % 2,
    "lints": MAIN.replace("println", "let _unit = println") + TEST % 2,
    "uncompilable": MAIN.replace("6 * 7", "answer") + TEST % 2,
}
SUITES = {
    "good": "echo '3 passed, 0 failed'",
    "zero": "true",
    "liar": "echo '2 passed'; echo 'test_rename FAILED'",
    "masked": "sh -c 'echo 1 passed; exit 3' | cat; exit ${PIPESTATUS[0]}",
    "endless": "yes '1 passed'",
    "escapes": "echo '1 passed'; touch /etc/escaped vexrun.toml && touch ../../../../../escaped",
}


def tree(directory: Path, crates: list[str], suites: list[str], more: str = "") -> Path:
    """canaryfs with crates and unit suites."""
    shutil.copytree(CANARYFS, directory)
    file = directory / "vexrun.toml"
    text = file.read_text() + more
    for crate in crates:
        (directory / crate / "src").mkdir(parents=True)
        (directory / crate / "Cargo.toml").write_text(
            f'[package]\nname = "{crate}"\nversion = "0.1.0"\nedition = "2021"\n'
        )
        (directory / crate / "src" / "main.rs").write_text(CRATES[crate])
        text += f'\n[[crates]]\ndir = "{crate}"\nbin = "{crate}"\n'
    for suite in suites:
        text += f'\n[[unit]]\nname = "{suite}"\nrun = """{SUITES[suite]}"""\n'
    file.write_text(text)
    return directory


def outcomes(run: Run) -> dict[str, str]:
    return {
        test["id"].partition("::")[2]: test["outcome"]
        for test in run.results["tests"]
        if test["category"] in ("static", "unit")
    }


def checks(run: Run) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in run.results["checks"]}


@pytest.mark.parametrize(
    "name",
    ["minix", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ext2", "exfat"))],
)
def test_good_filesystems_pass(name: str, vexrun_test: Callable[..., Run]) -> None:
    run = vexrun_test(
        *("--subject", str(SUBJECTS / f"{name}.toml"), "--target", "host"),
        *("--only", "structure,build,static"),
    )
    assert (run.status, run.results["verdict"]) == (0, "pass"), run.results["reasons"]
    assert not run.outcomes("failed")
    made = checks(run)
    assert {"vermagic", "symbols", "versions", "sparse", "w1", "checkpatch"} <= set(made)
    assert all(check["ok"] for check in made.values())
    assert not made["sparse"]["skipped"]
    assert (run.directory / "checks" / "sparse.log").stat().st_size > 0
    assert "unit" not in run.results["selected_categories"]


def test_good_crate_and_suite_pass_and_are_counted(
    tmp_path: Path, vexrun_test: Callable[..., Run]
) -> None:
    run = vexrun_test(str(tree(tmp_path / "tree", ["good"], ["good"])), "--target", "host")
    assert (run.status, run.results["verdict"]) == (0, "pass"), run.results["reasons"]
    assert run.results["selected_categories"] == ["structure", "build", "static", "unit"]
    made = checks(run)
    assert made["cargo test good"]["executed"] == 1
    assert made["suite good"]["executed"] == 3


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory, vexrun_test: Callable[..., Run]) -> Run:
    """One run over everything that is wrong."""
    crates = [name for name in CRATES if name != "good"]
    suites = [name for name in SUITES if name != "good"]
    source = tree(tmp_path_factory.mktemp("bad") / "tree", crates, suites)
    run = vexrun_test(str(source), "--target", "host", "--only", "static,unit")
    assert (run.status, run.results["verdict"]) == (1, "fail"), run.results["error"]
    assert run.results["subject"]["tree_sha256"] == run.results["subject"]["tree_sha256_after"]
    assert not list(source.glob("*/target"))
    return run


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("test_crate[clippy lints]", "lints/src/main.rs:2"),
        ("test_crate[fmt unformatted]", "unformatted/src/main.rs:"),
        ("test_crate[check uncompilable]", "uncompilable/src/main.rs:2"),
        ("test_suite[cargo test empty]", "no test ran"),
        ("test_suite[cargo test failing]", "tests::adds failed"),
        ("test_suite[cargo test uncompilable]", "could not compile"),
        ("test_suite[suite zero]", "no test ran"),
        ("test_suite[suite liar]", "test_rename FAILED"),
        ("test_suite[suite masked]", "exit status 3"),
        ("test_suite[suite endless]", "more than 4 MiB"),
        ("test_suite[suite escapes]", "Read-only file system"),
    ],
)
def test_bad_one_fails_and_says_why(name: str, says: str, bad: Run) -> None:
    found = {test["id"].partition("::")[2]: test for test in bad.results["tests"]}
    assert found[name]["outcome"] == "failed"
    assert says in found[name]["message"] + found[name]["details"]


def test_what_is_good_beside_the_bad_passes(bad: Run) -> None:
    found = outcomes(bad)
    for name in ("fmt lints", "check empty", "clippy unformatted", "clippy failing", "fmt failing"):
        assert found[f"test_crate[{name}]"] == "passed", name
    assert found["test_kernel_will_take_the_module[symbols]"] == "passed"


@pytest.mark.parametrize(
    ("bug", "check", "says"),
    [
        ("MISSING_SYMBOL", "symbols", "canaryfs_symbol_nobody_exports"),
        ("WRONG_VERMAGIC", "vermagic", "the kernel refuses it"),
    ],
)
def test_module_the_kernel_would_refuse_is_known_before_a_boot(
    bug: str, check: str, says: str, tmp_path: Path, vexrun_test: Callable[..., Run]
) -> None:
    source = tree(tmp_path / "tree", [], [])
    file = source / "vexrun.toml"
    variables = f'make_vars = {{ CANARY = "{bug}", KBUILD_MODPOST_WARN = "1" }}'
    file.write_text(file.read_text().replace("[module]\n", f"[module]\n{variables}\n"))
    run = vexrun_test(str(source), "--target", "host", "--only", "static")
    assert (run.status, run.results["verdict"]) == (1, "fail"), run.results
    assert run.results["build_failure"] is None
    made = checks(run)[check]
    assert not made["ok"]
    assert says in made["reason"], made


def test_unit_that_was_asked_for_and_is_not_there_fails(
    tmp_path: Path, vexrun_test: Callable[..., Run]
) -> None:
    run = vexrun_test(str(tree(tmp_path / "tree", [], [])), "--target", "host", "--only", "unit")
    assert run.status == 1
    (test,) = run.outcomes("failed")
    assert "neither [[crates]] nor [[unit]]" in test["message"]
