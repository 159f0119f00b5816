"""The subject's own tests in a real machine: the documented example, and scripts that lie."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import CHECKOUT, Run

pytestmark = pytest.mark.vm

CANARYFS = CHECKOUT / "tests" / "canaries" / "canaryfs"
#: name: (run, success, mounted, outcome, what the message says)
SCRIPTS = {
    "good": ("sh {source}/tests/smoke.sh {mount}", "^smoke: ok$", "true", "passed", ""),
    "unmounted": (
        "grep -q canaryfs /proc/filesystems && ! mountpoint -q {mount} && touch x && echo fine",
        "^fine$",
        "false",
        "passed",
        "",
    ),
    "leaves-a-daemon": ("(sleep 1000 &) ; echo fine", "^fine$", "true", "passed", ""),
    "status": ("echo fine; exit 7", "^fine$", "true", "failed", "exit status 7"),
    "silent": ("true", "^fine$", "true", "failed", "nothing that matches"),
    "liar": ("echo FAIL: rename; echo fine", "^fine$", "true", "failed", "printed 'FAIL: rename'"),
    "endless": ("yes fine", "fine", "true", "failed", "more than 1 MiB"),
    "writes-the-source": ("touch {source}/x && echo fine", "fine", "true", "failed", "Read-only"),
    "unmounts": ("umount {mount} && echo fine", "fine", "true", "failed", "nothing is mounted"),
}


def documented_files() -> dict[str, str]:
    """The files of 'Tests of your own' in docs/writing-tests.md, by their path."""
    text = (CHECKOUT / "docs" / "writing-tests.md").read_text()
    found = re.findall(r"^`(vexrun-tests/\S+)`.*?:\n\n```python\n(.*?)^```", text, re.M | re.S)
    assert len(found) == 2
    return dict(found)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, vexrun_test: Callable[..., Run]) -> Run:
    source: Path = tmp_path_factory.mktemp("own") / "tree"
    shutil.copytree(CANARYFS, source)
    for name, text in documented_files().items():
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text(text)
    (source / "vexrun-tests" / "test_broken.py").write_text("import no_such_module\n")
    (source / "tests").mkdir()
    (source / "tests" / "smoke.sh").write_text(
        'set -e\necho hello >"$1/smoke"\ngrep -q hello "$1/smoke"\nrm "$1/smoke"\necho smoke: ok\n'
    )
    text = (source / "vexrun.toml").read_text()
    for name, (command, success, mounted, _, _) in SCRIPTS.items():
        text += f"\n[[scripts]]\nname = '{name}'\nrun = '''{command}'''\n"
        text += f"success = '{success}'\nmounted = {mounted}\n"
    (source / "vexrun.toml").write_text(text)
    return vexrun_test(str(source), "--only", "mount,own")


@pytest.mark.parametrize("script", SCRIPTS)
def test_script(script: str, run: Run) -> None:
    found = {test["id"]: test for test in run.results["tests"]}
    test = found[f"own/test_scripts.py::test_script[{script}]"]
    outcome, says = SCRIPTS[script][3:]
    assert test["outcome"] == outcome, test["message"]
    assert says in test["message"]


def test_documented_tests_pass(run: Run) -> None:
    mine = {
        test["id"].partition("test_notes.py::")[2]: test["outcome"]
        for test in run.results["tests"]
        if test["id"].startswith("own/vexrun-tests/test_notes.py")
    }
    # canaryfs keeps nothing over umount, so its content is looked at live.
    assert mine == {
        "test_name_is_kept_as_written[Readme]": "passed",
        "test_name_is_kept_as_written[read.me]": "passed",
        "test_name_is_kept_as_written[a b]": "passed",
        "test_content_is_kept[live]": "passed",
        "test_content_is_kept[remounted]": "skipped",
        "test_module_says_who_may_use_it": "passed",
    }


def test_broken_file_is_named_and_the_run_fails(run: Run) -> None:
    (test,) = [each for each in run.results["tests"] if "test_broken.py" in each["id"]]
    assert test["outcome"] == "failed"
    assert "'vexrun-tests/test_broken.py' cannot be imported" in test["message"]
    assert (run.status, run.results["verdict"]) == (1, "fail")
    assert run.results["error"] is None
    assert run.results["kernel_events"] == []
    assert run.results["subject"]["tree_sha256"] == run.results["subject"]["tree_sha256_after"]
