"""Starting processes: what a child gets, what its failure is told, and that none is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vexrun import process
from vexrun.errors import InfrastructureError


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def wait_until(condition: Callable[[], object], seconds: float = 10.0) -> bool:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


# -- what a child gets ---------------------------------------------------------------------------


def test_output_and_status_come_back() -> None:
    done = process.run(["sh", "-c", "echo out; echo err >&2; exit 3"], check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")
    assert done.output == "out\nerr\n"
    assert done.argv == ("sh", "-c", "echo out; echo err >&2; exit 3")


def test_output_that_is_not_utf_8_is_still_text() -> None:
    assert process.run(["printf", r"a\377b"]).stdout == "a\ufffdb"


def test_the_environment_is_small_and_explicit(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"LD_PRELOAD": "", "MAKEFLAGS": "-k", "AWS_SECRET": "x"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("https_proxy", "http://p")
    out = process.run(["env"], env={"MINE": "1"}).stdout
    environment = dict(line.split("=", 1) for line in out.splitlines())
    assert not {"LD_PRELOAD", "MAKEFLAGS", "AWS_SECRET"} & environment.keys()
    assert environment["LC_ALL"] == "C.UTF-8"
    assert environment["https_proxy"] == "http://p"
    assert environment["MINE"] == "1"
    assert "/usr/sbin" in environment["PATH"].split(":"), "mke2fs lives there"


def test_stdin_is_empty_unless_input_is_given() -> None:
    reader, writer = os.pipe()
    ours = os.dup(0)
    os.dup2(reader, 0)  # somebody who types
    try:
        assert process.run(["readlink", "/proc/self/fd/0"]).stdout == "/dev/null\n"
        assert process.run(["cat"], input_text="told\n").stdout == "told\n"
    finally:
        os.dup2(ours, 0)
        for descriptor in (ours, reader, writer):
            os.close(descriptor)


def test_the_directory_is_chosen(tmp_path: Path) -> None:
    assert process.run(["pwd"], cwd=tmp_path).stdout.strip() == str(tmp_path)


# -- failures ------------------------------------------------------------------------------------


def test_a_missing_program_is_named() -> None:
    with pytest.raises(InfrastructureError, match="'vexrun-nope' is not installed") as caught:
        process.run(["vexrun-nope", "--version"])
    assert "vexrun doctor" in caught.value.hint
    with pytest.raises(InfrastructureError, match="'vexrun-nope' is not installed"):
        process.start(["vexrun-nope"])


def test_a_failure_shows_the_command_ready_to_paste_and_the_end_of_its_output() -> None:
    with pytest.raises(InfrastructureError, match="'sh' failed with exit status 4") as caught:
        process.run(["sh", "-c", "seq 100; exit 4", "two words"])
    assert caught.value.evidence.splitlines()[0] == "$ sh -c 'seq 100; exit 4' 'two words'"
    assert caught.value.evidence.splitlines()[-1] == "100"
    assert "\n50\n" not in caught.value.evidence


def test_a_timeout_names_its_limit_and_kills() -> None:
    begun = time.monotonic()
    with pytest.raises(InfrastructureError, match="did not finish within 1 s") as caught:
        process.run(["sh", "-c", "echo $$; exec sleep 60"], timeout=0.6)
    assert time.monotonic() - begun < 20
    assert isinstance(caught.value.__cause__, subprocess.TimeoutExpired)
    pid = int(caught.value.evidence.splitlines()[-1])
    assert wait_until(lambda: not alive(pid))


def test_the_log_keeps_commands_and_output(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process.run(["echo", "one"], log=log)
    process.run(["sh", "-c", "echo two >&2; exit 1"], log=log, check=False)
    assert log.read_text() == "$ echo one\none\n$ sh -c 'echo two >&2; exit 1'\ntwo\n"


def test_the_tail_is_the_last_lines() -> None:
    assert process.run(["seq", "30"]).tail(2) == "29\n30"


# -- programs ------------------------------------------------------------------------------------


def test_programs_are_found_on_path_first_then_in_the_system_directories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert process.find_program("sh") in ("/usr/bin/sh", "/bin/sh")
    mine = tmp_path / "sh"
    mine.write_text("#!/bin/true\n")
    assert process.find_program("sh") != str(mine), "not executable"
    mine.chmod(0o755)
    assert process.find_program("sh") == str(mine)


# -- nothing is left -----------------------------------------------------------------------------


@pytest.mark.parametrize("error", [None, RuntimeError])
def test_a_running_child_is_gone_with_its_block(error: type[Exception] | None) -> None:
    try:
        with process.running(["sleep", "60"]) as child:
            assert alive(child.pid)
            if error:
                raise error
    except RuntimeError:
        pass
    assert child.returncode == -signal.SIGTERM
    assert not alive(child.pid)


def test_a_child_that_will_not_end_is_killed(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    script = f"trap '' TERM; touch {ready}; while :; do sleep 0.05; done"
    child = process.start(["bash", "-c", script])
    assert wait_until(ready.exists)
    process.stop(child, grace=0.2)
    assert child.returncode == -signal.SIGKILL


def test_stopping_a_child_that_is_gone_reaps_it() -> None:
    child = process.start(["true"])
    process.stop(child)
    process.stop(child)
    assert child.returncode in (0, -signal.SIGTERM)


PARENT = """
import sys, time
from vexrun import process
{how}
"""
HOW = {
    "start": "child = process.start(['sh', '-c', 'echo $$ >{pid}; exec sleep 60']); time.sleep(60)",
    "run": "process.run(['sh', '-c', 'echo $$ >{pid}; exec sleep 60'])",
    "outlive_us": (
        "process.start(['sh', '-c', 'echo $$ >{pid}; exec sleep 60'], outlive_us=True);"
        "time.sleep(60)"
    ),
}


@pytest.mark.parametrize(("how", "survives"), [("start", False), ("run", False), ("outlive_us", 1)])
def test_children_die_with_a_parent_that_is_killed(
    tmp_path: Path, how: str, survives: bool
) -> None:
    note = tmp_path / "pid"
    code = PARENT.format(how=HOW[how].format(pid=note))
    with subprocess.Popen([sys.executable, "-c", code]) as parent:
        assert wait_until(lambda: note.exists() and note.read_text().endswith("\n"))
        child = int(note.read_text())
        assert alive(child)
        parent.kill()
        parent.wait()
    if survives:
        time.sleep(0.2)
        assert alive(child)
        os.kill(child, signal.SIGKILL)
    assert wait_until(lambda: not alive(child), 5)


#: Shell lines that leave the pid of a sleeper in {pid}; each sleeper is no child of vexrun.
GRANDCHILDREN = {
    "background": "sleep 60 & echo $! >{pid}; wait",
    "pipe": "sleep 60 | {{ sh -c 'echo $$ >{pid}; exec sleep 60'; }}",
    "own session": "setsid sh -c 'echo $$ >{pid}; exec sleep 60'; true",
    "orphan": "(setsid sh -c 'echo $$ >{pid}; exec sleep 60' &); sleep 60; true",
    "deaf": "(trap '' TERM HUP INT; sleep 60 & echo $! >{pid}; wait); true",
    "namespaces": (
        "unshare --map-root-user --pid --fork --kill-child sh -c 'sleep 60; true' & "
        "until grep -l sleep /proc/$!/task/$!/children >/dev/null 2>&1 || "
        "pgrep -P $! >{pid}; do sleep 0.05; done; wait"
    ),
}


def pid_in(note: Path) -> int:
    assert wait_until(lambda: note.exists() and note.read_text().endswith("\n"))
    return int(note.read_text())


@pytest.mark.parametrize("how", ["run", "start"])
@pytest.mark.parametrize("kind", GRANDCHILDREN)
def test_grandchildren_die_with_a_vexrun_that_is_killed(
    tmp_path: Path, kind: str, how: str
) -> None:
    if kind == "namespaces":
        may = subprocess.run(["unshare", "--map-root-user", "--pid", "--fork", "true"], check=False)
        if may.returncode != 0:
            pytest.skip("this user may not make namespaces")
    note = tmp_path / "pid"
    script = GRANDCHILDREN[kind].format(pid=note)
    code = f"from vexrun import process\nprocess.{how}(['bash', '-c', {script!r}])\n"
    code += "import time; time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code]) as parent:
        sleeper = pid_in(note)
        assert alive(sleeper)
        parent.kill()
        parent.wait()
    assert wait_until(lambda: not alive(sleeper), 5)


def test_the_tasks_of_a_playbook_die_with_a_vexrun_that_is_killed(tmp_path: Path) -> None:
    """Ansible's workers have sessions of their own: no hangup of a terminal reaches them."""
    note = tmp_path / "pid"
    for name in ("playbooks", "inventory/group_vars", "roles"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "ansible.cfg").write_text("[defaults]\n")
    (tmp_path / "playbooks" / "sleep.yml").write_text(
        "- hosts: all\n  gather_facts: false\n  tasks:\n"
        f"    - ansible.builtin.shell: echo $$ >{note}; exec sleep 60\n"
    )
    code = (
        "from pathlib import Path\n"
        "from vexrun import playbook\n"
        f"root = Path({str(tmp_path)!r})\n"
        "playbook.data_root = lambda: root\n"
        "host = playbook.InventoryHost('vm', 'here', {'ansible_connection': 'local', "
        f"'ansible_python_interpreter': {sys.executable!r}}})\n"
        "playbook.run_playbook('sleep.yml', [host], artifact_dir=root / 'a', emit=lambda _: None)"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as parent:
        assert wait_until(note.exists, 60)
        sleeper = pid_in(note)
        parent.kill()
        parent.wait()
    assert wait_until(lambda: not alive(sleeper), 5)


def test_a_process_that_we_become_is_none_of_our_children(tmp_path: Path) -> None:
    """`vexrun vm ssh` ends in an exec: ssh must not be killed as something left behind."""
    code = (
        "import os\nfrom vexrun import process\nprocess.run(['true'])\n"
        "os.execvpe('sh', ['sh', '-c', 'sleep 1; echo lives'], process.minimal_environment())"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "lives\n"


def test_what_carries_another_mark_is_left_alone(tmp_path: Path) -> None:
    code = "from vexrun import process; process.run(['true'])"
    environment = {**os.environ, "VEXRUN_OWNER": "somebody-else"}
    with subprocess.Popen(["sleep", "60"], env=environment) as other:
        subprocess.run([sys.executable, "-c", code], check=True)
        time.sleep(0.5)
        assert other.poll() is None
        other.kill()


def test_a_test_process_hands_the_mark_of_its_vexrun_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VEXRUN_OWNER", "of-the-run")
    assert "VEXRUN_OWNER=of-the-run" in process.run(["env"]).stdout.splitlines()


def test_a_child_bound_to_a_worker_thread_is_refused() -> None:
    """It would be killed when that thread ends, not when vexrun does."""
    caught: list[BaseException] = []

    def work() -> None:
        try:
            process.start(["true"])
        except RuntimeError as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert "main thread" in str(caught[0])
