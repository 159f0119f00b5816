"""The command line: every way to be wrong has its exit code and is told in sentences."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from vexrun import cli

PASS, FAILED, USAGE, INFRASTRUCTURE = 0, 1, 2, 69


@dataclass(frozen=True)
class Ended:
    """How one vexrun ended."""

    code: int
    stdout: str
    stderr: str

    def told(self, *words: str) -> None:
        """It said this, in sentences."""
        assert "Traceback" not in self.stderr
        for word in words:
            assert word in self.stderr, self.stderr


Vexrun = Callable[..., Ended]


@pytest.fixture
def vexrun(
    home: Path,
    source_tree: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Vexrun:
    """The console entry point, started in the source tree; in this process, because it is fast."""
    monkeypatch.chdir(source_tree)
    # Typer wraps its messages at the terminal's width.
    monkeypatch.setenv("COLUMNS", "300")

    def run(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["vexrun", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        code = ended.value.code
        return Ended(code if isinstance(code, int) else 0, said.out, said.err)

    return run


def left(home: Path) -> list[str]:
    """What a run left in the state directory."""
    runs = home / "state" / "runs"
    return [path.name for path in runs.iterdir()] if runs.is_dir() else []


# -- what was asked is wrong ---------------------------------------------------------------------


def test_no_subject_file(vexrun: Vexrun, source_tree: Path, home: Path) -> None:
    (source_tree / "vexrun.toml").unlink()
    ended = vexrun("test")
    assert ended.code == USAGE
    ended.told("There is no subject file 'vexrun.toml'.", "--subject FILE")
    assert left(home) == []


def test_a_wrong_key(vexrun: Vexrun, source_tree: Path, home: Path) -> None:
    file = source_tree / "vexrun.toml"
    file.write_text(file.read_text().replace("mkfs =", "mkfsx ="))
    ended = vexrun("test", str(source_tree))
    assert ended.code == USAGE
    ended.told(f"'{file}' is not valid", "'filesystem.mkfsx'", "did you mean 'mkfs'?")
    ended.told("docs/subject-file.md")
    assert left(home) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "mout"], ["no category 'mout'. Did you mean 'mount'?"]),
        (["--skip", "nonsense"], ["no category 'nonsense'."]),
        (["--only", "mount", "--skip", "mount"], ["selection of categories is empty"]),
        (["--only", "mount,fsops", "--skip", "fsops,mount"], ["selection of categories is empty"]),
        (["--only", ""], ["--only was given without a category.", "--only mount,fsops"]),
        (["--skip", " , "], ["--skip was given without a category."]),
        (["--suite", "woody"], ["no suite 'woody'.", "trixie, bookworm, sid"]),
        (["--target", "host", "--only", "mount"], ["'mount'", "never loaded here"]),
        (["--target", "device"], ["needs both '--target device' and '--device NAME'"]),
        (["--device", "shelf", "--target", "device"], ["no device 'shelf'", "vexrun device add"]),
        (["--seal", "x"], ["--seal is for a run on a device"]),
        (["--override", "x y"], ["--override is for a run on a device"]),
        (["--backend", "vagrant", "--target", "host"], ["is for virtual machines"]),
        (["--target", "moon"], ["Invalid value for '--target'"]),
        (["--accel", "xen"], ["Invalid value for '--accel'"]),
        (["--frobnicate"], ["No such option"]),
        (["/nonexistent"], ["'/nonexistent' is not a directory."]),
        (["--subject", "/nonexistent/s.toml"], ["no subject file '/nonexistent/s.toml'"]),
    ],
)
def test_a_wrong_request(
    vexrun: Vexrun, home: Path, arguments: list[str], words: list[str]
) -> None:
    ended = vexrun("test", *arguments)
    assert ended.code == USAGE
    ended.told(*words)
    assert ended.stdout == ""
    assert left(home) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["report"], ["There is no run yet.", "Run: vexrun test SOURCE"]),
        (["report", "20260101"], ["There is no run called '20260101'.", "runs: none"]),
        (["vm", "ssh"], ["No machine is up.", "Run: vexrun vm up"]),
        (["vm", "ssh", "--name", "x"], ["There is no machine 'x'."]),
        (["vm", "console"], ["No machine is up."]),
        (["vm", "down"], ["No machine is up."]),
        (["vm", "up", "/nonexistent"], ["'/nonexistent' is not a directory."]),
        (["vm", "up", "--suite", "woody"], ["no suite 'woody'."]),
        (["image", "show", "trixie"], ["There is no image whose name starts with 'trixie'."]),
        (["image", "rm", "trixie"], ["There is no image", "Run: vexrun image list"]),
        (["image", "build", "--suite", "woody"], ["no suite 'woody'."]),
        (["gate", "--for", "device"], ["There is no run yet.", "Run: vexrun test SOURCE"]),
        (["gate", "x", "--for", "moon"], ["Invalid value for '--for'"]),
        (["gate", "x"], ["Missing option '--for'"]),
        (["gate", "--for", "device", "--sign-key", "k"], ["--seal is not given"]),
        (["gate", "--for", "device", "--format", "pdf"], ["no format 'pdf'", "md"]),
        (["gate", "verify", "/nonexistent"], ["'/nonexistent' cannot be read"]),
        (["provision", "device"], ["Missing argument"]),
        (["provision", "device", "shelf"], ["no device 'shelf'", "vexrun device add shelf"]),
        (["device", "check", "shelf"], ["no device 'shelf'", "vexrun device add shelf"]),
        (["device", "add", "shelf"], ["Missing option '--address'"]),
        (["tset"], ["No such command 'tset'"]),
    ],
    ids=" ".join,
)
def test_other_commands_that_cannot_be_done(
    vexrun: Vexrun, arguments: list[str], words: list[str]
) -> None:
    ended = vexrun(*arguments)
    assert ended.code == USAGE
    ended.told(*words)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["vm", "status"], "No machine is up. Run: vexrun vm up\n"),
        (["vm", "down", "--all"], ""),
        (["image", "list"], "No image yet. Run: vexrun image build\n"),
        (["vm", "status", "--json"], "[]\n"),
        (["image", "list", "--json"], "[]\n"),
    ],
    ids=" ".join,
)
def test_nothing_there_is_no_mistake_to_a_list(
    vexrun: Vexrun, arguments: list[str], says: str
) -> None:
    ended = vexrun(*arguments)
    assert (ended.code, ended.stdout) == (PASS, says)


def test_wrong_settings_name_their_file(vexrun: Vexrun, home: Path) -> None:
    (home / "config.toml").write_text("[machine]\nmemory = 1\n")
    for command in (["test"], ["image", "build"]):
        ended = vexrun(*command)
        assert ended.code == USAGE
        ended.told(f"'{home / 'config.toml'}'", "'machine.memory'", "memory_mib")


# -- the machine is not up to it -----------------------------------------------------------------


@pytest.fixture
def bare_machine(no_namespaces: Any) -> Any:
    """A machine with a shell and hardly anything else."""
    no_namespaces.link("setpriv", "bash", "sh", "rm", "git")
    return no_namespaces


@pytest.mark.parametrize(
    "command", [["test"], ["image", "build"], ["vm", "up"], ["provision", "vm"]], ids=" ".join
)
def test_without_mmdebstrap_and_qemu(
    vexrun: Vexrun, bare_machine: Any, home: Path, command: list[str]
) -> None:
    bare_machine.nothing_else()
    ended = vexrun(*command)
    assert ended.code == INFRASTRUCTURE
    said = ended.stdout + ended.stderr
    assert "programs that are not installed" in said
    assert "mmdebstrap" in said
    assert "qemu-utils" in said
    assert "sudo apt-get install" in said
    assert "Traceback" not in said
    assert not list((home / "cache").glob("images/*"))


def test_a_run_that_could_not_begin_is_still_reported(
    vexrun: Vexrun, bare_machine: Any, home: Path
) -> None:
    bare_machine.nothing_else()
    assert vexrun("test").code == INFRASTRUCTURE
    results = json.loads((home / "state/runs/latest/results.json").read_text())
    assert results["verdict"] == "error"
    assert results["exit_code"] == INFRASTRUCTURE
    assert "mmdebstrap" in results["error"]
    for name in ("junit.xml", "report.html", "report.md", "report.txt"):
        assert (home / "state/runs/latest" / name).stat().st_size > 0
    ended = vexrun("report")
    assert ended.code == PASS
    assert "mmdebstrap" in ended.stdout
    assert json.loads(vexrun("report", "--format", "json").stdout) == results
    ended = vexrun("report", "--format", "pdf")
    assert ended.code == USAGE
    ended.told("no report format 'pdf'", "html")


def test_json_is_one_document_on_stdout(vexrun: Vexrun, bare_machine: Any) -> None:
    bare_machine.nothing_else()
    ended = vexrun("test", "--json")
    assert ended.code == INFRASTRUCTURE
    assert json.loads(ended.stdout)["verdict"] == "error"


def test_an_unreachable_mirror(
    vexrun: Vexrun, bare_machine: Any, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mke2fs", "qemu-img", "ssh-keygen", "tar"):
        bare_machine.add(name)
    bare_machine.add("mmdebstrap", "echo 'E: Failed to fetch InRelease' >&2; exit 25")
    monkeypatch.setenv("VEXRUN_MIRROR", "http://mirror.invalid/debian")
    usage = types.SimpleNamespace(free=2**40)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    ended = vexrun("image", "build")
    assert ended.code == INFRASTRUCTURE
    ended.told("http://mirror.invalid/debian", "Failed to fetch InRelease", "VEXRUN_MIRROR")
    assert not list((home / "cache" / "images").iterdir())


def test_a_state_directory_that_cannot_be_made(vexrun: Vexrun, home: Path) -> None:
    (home / "state").write_text("a file is in the way")
    ended = vexrun("test")
    assert ended.code == INFRASTRUCTURE
    ended.told("cannot be made", "VEXRUN_STATE_DIR")


def test_a_cache_directory_that_cannot_be_made(vexrun: Vexrun, home: Path) -> None:
    (home / "cache").write_text("a file is in the way")
    ended = vexrun("image", "build")
    assert ended.code == INFRASTRUCTURE
    ended.told("The operating system refused: ", str(home / "cache"))


def test_doctor_names_what_is_missing_and_the_fix(vexrun: Vexrun, bare_machine: Any) -> None:
    bare_machine.nothing_else()
    ended = vexrun("doctor", "--json")
    assert ended.code == INFRASTRUCTURE
    findings = {finding["name"]: finding for finding in json.loads(ended.stdout)}
    assert findings["mmdebstrap"]["ok"] is False
    assert findings["mmdebstrap"]["fix"].endswith("--no-install-recommends mmdebstrap")
    assert findings["setpriv"]["ok"] is True
    assert findings["KVM"]["needed"] is False


# -- results -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [(None, "has no 'results.json'"), ("", "is empty"), ('{"run_id": "x', "is truncated")],
    ids=["none", "empty", "cut"],
)
def test_a_run_without_results_to_trust(
    vexrun: Vexrun, tmp_path: Path, text: str | None, words: str
) -> None:
    (tmp_path / "run").mkdir()
    if text is not None:
        (tmp_path / "run" / "results.json").write_text(text)
    ended = vexrun("report", str(tmp_path / "run"))
    assert ended.code == USAGE
    ended.told(words)


# -- the real thing ------------------------------------------------------------------------------


def test_errors_are_sentences_without_markup(vexrun: Vexrun) -> None:
    ended = vexrun("test", "--subject", "[bold]no[/bold].toml")
    assert "There is no subject file '[bold]no[/bold].toml'." in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["--version"], PASS), (["test", "--only", "mout"], USAGE)],
)
def test_started_as_a_program(
    home: Path, source_tree: Path, arguments: list[str], code: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vexrun.cli", *arguments],
        cwd=source_tree,
        env={**os.environ, "PYTHONWARNINGS": "error"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.startswith("vexrun ") if code == PASS else "'mount'" in done.stderr
