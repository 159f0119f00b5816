"""The Molecule scenarios without a machine: their shape, their module, and whose state is whose."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from vexrun.errors import InfrastructureError, InterruptedRunError
from vexrun.molecule_plugin import keep_checkouts_apart
from vexrun.subject import load_subject
from vexrun.vm.registry import end_named

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / ".config" / "molecule" / "config.yml"
SHARED = ROOT / "molecule" / "shared"
SCENARIOS = sorted(path.parent.name for path in (ROOT / "molecule").glob("*/molecule.yml"))
PLAYBOOKS = sorted(SHARED.glob("*.yml")) + sorted((ROOT / "molecule").glob("*/converge.yml"))
SUBJECTS = sorted((ROOT / "examples" / "subjects").glob("*.toml"))


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


@pytest.fixture(scope="module")
def vexrun_vm() -> ModuleType:
    path = SHARED / "library" / "vexrun_vm.py"
    spec = importlib.util.spec_from_file_location("vexrun_vm", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.MISSING_IMPORT is None
    return module


@pytest.fixture(autouse=True)
def own_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VEXRUN_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("VEXRUN_CACHE_DIR", str(tmp_path / "cache"))


# -- the files ----------------------------------------------------------------------------------


def test_there_is_a_default_scenario() -> None:
    assert "default" in SCENARIOS


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_scenario_is_a_small_diff_of_the_base(scenario: str) -> None:
    path = ROOT / "molecule" / scenario / "molecule.yml"
    base = load(BASE)
    own = load(path)
    assert len(path.read_text().splitlines()) <= 30
    assert "platforms" in own
    repeated = {key for key in own if key in base and own[key] == base[key]}
    assert repeated == set()


def test_nothing_is_fetched() -> None:
    base = load(BASE)
    assert base["prerun"] is False
    assert base["dependency"]["enabled"] is False
    assert list((ROOT / "molecule").rglob("requirements.y*ml")) == []


@pytest.mark.parametrize("playbook", PLAYBOOKS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_playbooks_use_builtin_modules_and_ours(playbook: Path) -> None:
    plays = load(playbook)
    keywords = {"name", "loop", "loop_control", "register", "when", "tags", "vars"}
    keywords |= {"ignore_errors", "changed_when", "failed_when"}
    used = {
        key
        for play in plays
        for task in play.get("tasks", [])
        for key in task
        if key not in keywords
    }
    assert {name for name in used if not name.startswith("ansible.builtin.")} <= {"vexrun_vm"}


@pytest.mark.parametrize("name", ["create", "cleanup", "destroy"])
def test_machines_are_managed_by_the_python_molecule_runs_in(name: str) -> None:
    (play,) = load(SHARED / f"{name}.yml")
    assert play["hosts"] == "localhost"
    assert play["vars"]["ansible_python_interpreter"] == "{{ ansible_playbook_python }}"
    assert load(BASE)["ansible"]["playbooks"][name] == f"../shared/{name}.yml"


def test_a_failed_cleanup_does_not_keep_the_machine_alive() -> None:
    (play,) = load(SHARED / "cleanup.yml")
    assert play["tasks"][0]["ignore_errors"] is True


def test_host_keys_are_checked() -> None:
    base = load(BASE)
    assert base["ansible"]["cfg"]["defaults"]["host_key_checking"] is True
    assert "StrictHostKeyChecking" not in " ".join(base["driver"]["ssh_connection_options"])


# -- two checkouts ------------------------------------------------------------------------------


def test_two_checkouts_of_one_name_have_their_own_state(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    unwanted = ("ANSIBLE_HOME", "MOLECULE_EPHEMERAL_DIRECTORY")
    environment = {key: value for key, value in os.environ.items() if key not in unwanted}
    environment["HOME"] = str(home)
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    found = []
    for parent in ("one", "two"):
        checkout = tmp_path / parent / "main"
        for part in (".config/molecule", "molecule", "inventory"):
            shutil.copytree(ROOT / part, checkout / part)
        subprocess.run(["git", "init", "-q"], cwd=checkout, check=True)
        said = subprocess.run(
            ["molecule", "list"], cwd=checkout, env=environment, capture_output=True, text=True
        )
        assert said.returncode == 0, said.stdout + said.stderr
        found += list((checkout / ".ansible" / "tmp").glob("molecule.*.default"))
    assert len(found) == 2, "is the entry point 'molecule.driver' installed? Run: make setup"
    assert list((home / ".ansible").glob("tmp/molecule.*")) == []


@pytest.mark.parametrize("variable", ["ANSIBLE_HOME", "MOLECULE_EPHEMERAL_DIRECTORY"])
def test_whoever_chose_a_place_keeps_it(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANSIBLE_HOME", raising=False)
    monkeypatch.setenv(variable, "/chosen")
    keep_checkouts_apart(ROOT)
    assert os.environ.get("ANSIBLE_HOME") == ("/chosen" if variable == "ANSIBLE_HOME" else None)


def test_other_projects_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANSIBLE_HOME", raising=False)
    keep_checkouts_apart(tmp_path)
    assert "ANSIBLE_HOME" not in os.environ


def test_a_directory_of_another_checkout_is_refused(vexrun_vm: ModuleType, tmp_path: Path) -> None:
    first = vexrun_vm.Scenario(tmp_path, tmp_path / "one" / "main", "default")
    second = vexrun_vm.Scenario(tmp_path, tmp_path / "two" / "main", "default")
    first.save([{"instance": "guest", "token": "1", "name": "vexrun-00000000"}])
    for action in (vexrun_vm.collected, vexrun_vm.absent):
        with pytest.raises(InfrastructureError, match="in use by another checkout"):
            action(second)
    assert [machine["instance"] for machine in first.load()] == ["guest"]
    assert first.kept != second.kept


# -- the module ---------------------------------------------------------------------------------


def test_every_option_is_documented_as_it_is(vexrun_vm: ModuleType) -> None:
    documented = yaml.safe_load(vexrun_vm.DOCUMENTATION)["options"]
    assert set(documented) == set(vexrun_vm.ARGUMENT_SPEC)
    for name, option in vexrun_vm.ARGUMENT_SPEC.items():
        for key in ("default", "choices", "required"):
            assert documented[name].get(key) == option.get(key), (name, key)
        assert documented[name]["type"] == option.get("type", "str"), name
        assert documented[name]["description"], name


def test_examples_and_return_values_are_yaml(vexrun_vm: ModuleType) -> None:
    (example,) = yaml.safe_load(vexrun_vm.EXAMPLES)
    assert set(example["vexrun_vm"]) <= set(vexrun_vm.ARGUMENT_SPEC)
    assert all(value["description"] for value in yaml.safe_load(vexrun_vm.RETURN).values())


def role_options(role: str) -> set[str]:
    spec = load(ROOT / "roles" / role / "meta" / "argument_specs.yml")
    return set(spec["argument_specs"]["main"]["options"])


@pytest.mark.parametrize("path", SUBJECTS, ids=lambda path: path.stem)
def test_a_subject_becomes_variables_the_roles_have(vexrun_vm: ModuleType, path: Path) -> None:
    variables = vexrun_vm.role_variables(load_subject(path), "6.12.0-amd64", path)
    known = role_options("module_build") | role_options("module_load")
    known |= role_options("scratch_disk")
    unknown = {name for name in variables if not name.startswith("molecule_")} - known
    assert unknown == set()
    arguments = variables["module_build_arguments"]
    assert arguments[arguments.index("--release") + 1] == "6.12.0-amd64"
    assert "{device}" in variables["scratch_disk_mkfs_command"]


def machine(vexrun_vm: ModuleType, **more: Any) -> dict[str, Any]:
    return {
        "instance": "guest",
        "token": "1",
        "name": "vexrun-00000000",
        "ssh_port": 4022,
        "ssh_config": "/tmp/vexrun-00000000/ssh_config",
        "ssh_options": "Host vexrun-vm\n  Port 4022\n  ControlMaster no\n",
        "identity_file": "/keys/client",
        "variables": {"module_load_name": "minix"},
        "console_log": "/nowhere/console.log",
        **more,
    }


def test_a_machine_can_be_reached_by_molecule_ssh_and_ansible(
    vexrun_vm: ModuleType, tmp_path: Path
) -> None:
    scenario = vexrun_vm.Scenario(tmp_path, tmp_path, "default")
    scenario.save([machine(vexrun_vm)])
    (row,) = load(tmp_path / "instance_config.yml")
    assert (row["instance"], row["address"], row["port"]) == ("guest", "guest", 4022)
    ssh_config = tmp_path / "ssh_config"
    answer = subprocess.run(
        ["ssh", "-G", "-F", str(ssh_config), "guest"], capture_output=True, text=True, check=True
    )
    options = dict(line.split(" ", 1) for line in answer.stdout.splitlines() if " " in line)
    assert (options["port"], options["controlmaster"]) == ("4022", "auto")
    hosts = load(tmp_path / "inventory" / "vexrun.yml")["all"]["hosts"]
    assert hosts == {"guest": {"module_load_name": "minix"}}


def test_ending_leaves_nothing_and_works_twice(vexrun_vm: ModuleType, tmp_path: Path) -> None:
    scenario = vexrun_vm.Scenario(tmp_path, tmp_path, "default")
    scenario.save([machine(vexrun_vm)])
    assert vexrun_vm.absent(scenario)["changed"] is True
    assert [
        path for path in tmp_path.rglob("*") if path.is_file() and "cache" not in str(path)
    ] == []
    assert vexrun_vm.absent(scenario)["changed"] is False


def test_collecting_from_a_dead_machine_says_so(vexrun_vm: ModuleType, tmp_path: Path) -> None:
    scenario = vexrun_vm.Scenario(tmp_path, tmp_path, "default")
    scenario.save([machine(vexrun_vm)])
    (tmp_path / "junit.xml").write_text("<testsuites/>")
    result = vexrun_vm.collected(scenario)
    assert result["missing"] == ["guest: the machine is not up"]
    assert (scenario.kept / "junit.xml").is_file()


def test_a_create_that_was_destroyed_meanwhile_gives_up(
    vexrun_vm: ModuleType, tmp_path: Path
) -> None:
    scenario = vexrun_vm.Scenario(tmp_path, tmp_path, "default")
    entry = {"instance": "guest", "token": "1", "name": ""}
    scenario.save([entry])
    vexrun_vm.absent(scenario)
    with pytest.raises(InterruptedRunError, match="destroyed while"):
        vexrun_vm._update(scenario, entry, {**entry, "name": "vexrun-00000000"})
    assert not (tmp_path / "vexrun_machines.json").exists()


def test_a_half_started_machine_is_found_by_its_name() -> None:
    # sh with the argv of a QEMU; it waits in `read`, a builtin, so that no child is left.
    argv = ["qemu-system-x86_64", "-c", "read _", "-name", "vexrun-5e1f7e57,process=x"]
    with subprocess.Popen(argv, executable="/bin/sh", stdin=subprocess.PIPE) as fake:
        # exec closes the pipe that Popen waits for before the new command line can be read.
        while not Path(f"/proc/{fake.pid}/cmdline").read_bytes():
            time.sleep(0.01)
        assert end_named("vexrun-5e1f7e5") is False
        assert fake.poll() is None
        assert end_named("vexrun-5e1f7e57") is True
        assert fake.wait(5) == -15
    assert end_named("vexrun-5e1f7e57") is False


def test_the_record_is_json_a_person_can_read(vexrun_vm: ModuleType, tmp_path: Path) -> None:
    scenario = vexrun_vm.Scenario(tmp_path, tmp_path, "default")
    scenario.save([machine(vexrun_vm)])
    noted = json.loads((tmp_path / "vexrun_machines.json").read_text())
    assert noted["checkout"] == str(tmp_path.resolve())


# -- Vagrant, and other repositories ------------------------------------------------------------


def test_vagrant_needs_a_cold_start(vexrun_vm: ModuleType, tmp_path: Path) -> None:
    from vexrun.errors import ConfigError

    assert vexrun_vm.ARGUMENT_SPEC["backend"]["default"] == "qemu"
    (platform,) = load(ROOT / "molecule" / "vagrant" / "molecule.yml")["platforms"]
    assert (platform["vexrun_backend"], platform["vexrun_start"]) == ("vagrant", "cold")
    with pytest.raises(ConfigError, match="Vagrant boots its box"):
        vexrun_vm.demand_cold_start({"backend": "vagrant", "start": "snapshot"})
    vexrun_vm.demand_cold_start({"backend": "vagrant", "start": "cold"})
    vexrun_vm.demand_cold_start({"backend": "qemu", "start": "snapshot"})


def test_a_machine_of_vagrants_is_destroyed_by_vagrant(
    vexrun_vm: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(
        vexrun_vm,
        "end_vagrant_machine",
        lambda directory, box: asked.append((directory.name, box.name)),
    )
    scenario = vexrun_vm.Scenario(tmp_path / "ephemeral", tmp_path, "vagrant")
    scenario.directory.mkdir()
    rows = [
        machine(vexrun_vm, box=["vexrun/trixie", "1.2.3"]),
        machine(vexrun_vm, instance="other"),
    ]
    scenario.save(rows)
    vexrun_vm.absent(scenario)
    assert asked == [(rows[0]["name"], "vexrun/trixie")]


def test_our_driver_is_found_by_its_name() -> None:
    program = Path(sys.executable).with_name("molecule")
    said = subprocess.run([program, "drivers"], capture_output=True, text=True, cwd=ROOT)
    assert "molecule-vexrun" in said.stdout, said.stdout + said.stderr


OTHERS = """
driver:
  name: molecule-vexrun
platforms:
  - name: guest
    vexrun_subject: vexrun.toml
"""


def test_a_scenario_of_another_repository_gets_our_playbooks(tmp_path: Path) -> None:
    scenario = tmp_path / "other" / "molecule" / "default"
    scenario.mkdir(parents=True)
    (scenario / "molecule.yml").write_text(OTHERS)
    (scenario / "converge.yml").write_text("- hosts: all\n  tasks: []\n")
    script = """
import sys
from molecule.config import Config
config = Config(sys.argv[1])
books = config.provisioner.playbooks
print(config.driver.name, books.create, books.cleanup, books.destroy, books.prepare, sep="\\n")
print(*config.driver.ssh_connection_options)
"""
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "MOLECULE_PROJECT_DIRECTORY": str(tmp_path / "other"),
    }
    said = subprocess.run(
        [sys.executable, "-c", script, str(scenario / "molecule.yml")],
        cwd=tmp_path / "other",
        env=environment,
        capture_output=True,
        text=True,
    )
    assert said.returncode == 0, said.stderr
    name, create, cleanup, destroy, prepare, connection = said.stdout.splitlines()
    assert name == "molecule-vexrun"
    for path, step in ((create, "create"), (cleanup, "cleanup"), (destroy, "destroy")):
        assert Path(path) == SHARED / f"{step}.yml"
    assert prepare == "None", "what we do not bring is not ours"
    assert re.fullmatch(r"-F \S+/ssh_config", connection)
