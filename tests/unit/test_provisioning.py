"""`vexrun provision host`: what it refuses, what it says, and that Ansible's Python can see apt."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from vexrun import provisioning
from vexrun.cli import app
from vexrun.errors import InfrastructureError
from vexrun.events import ignore
from vexrun.playbook import InventoryHost, PlaybookResult, _packages_of_apt

ROOT = Path(__file__).resolve().parents[2]
APT = ROOT / "tests" / "data" / "apt"

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def debian(programs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine with apt, its Python bindings and package lists, and nothing else."""
    programs.link("bash", "setpriv", "id")
    programs.nothing_else()
    for name in ("apt-get", "dpkg-query"):
        programs.add(name)
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "mirror_dists_trixie_main_binary-amd64_Packages").touch()
    monkeypatch.setattr(provisioning, "_PACKAGE_LISTS", lists)
    monkeypatch.setattr(provisioning, "_SYSTEM_PYTHON", programs.add("python3"))
    return programs


class Asked:
    """In the place of Ansible: what was asked of it."""

    def __init__(self) -> None:
        self.hosts: list[InventoryHost] = []
        self.given: dict[str, Any] = {}

    def __call__(self, playbook: str, hosts: list[InventoryHost], **given: Any) -> PlaybookResult:
        assert playbook == "provision.yml"
        self.hosts, self.given = hosts, given
        return PlaybookResult(ok=3, changed=1, changed_tasks=["a : b"], packages=["bc", "bc"])


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    asked = Asked()
    monkeypatch.setattr(provisioning, "run_playbook", asked)
    return asked


# -- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", [True, False])
def test_a_machine_without_apt_is_refused(debian: Any, asked: Asked, check: bool) -> None:
    (debian.directory / "apt-get").unlink()
    with pytest.raises(InfrastructureError, match="has no 'apt-get'"):
        provisioning.provision_host(check=check, emit=ignore)
    assert asked.hosts == []


def test_a_check_without_bindings_says_what_to_install(debian: Any, asked: Asked) -> None:
    debian.add("python3", "exit 1")
    with pytest.raises(InfrastructureError, match="'python3-apt'") as caught:
        provisioning.provision_host(check=True, emit=ignore)
    assert "sudo apt-get install" in caught.value.hint
    assert asked.hosts == []


def test_a_check_without_a_system_python_says_the_same(debian: Any, asked: Asked) -> None:
    (debian.directory / "python3").unlink()
    with pytest.raises(InfrastructureError, match="'python3-apt'"):
        provisioning.provision_host(check=True, emit=ignore)


def test_a_check_without_package_lists_says_what_to_run(
    debian: Any, asked: Asked, tmp_path: Path
) -> None:
    next((tmp_path / "lists").iterdir()).unlink()
    with pytest.raises(InfrastructureError, match="no package lists") as caught:
        provisioning.provision_host(check=True, emit=ignore)
    assert caught.value.hint == "Run: sudo apt-get update"


def test_an_ordinary_user_without_sudo_is_told_to_be_root(
    debian: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(InfrastructureError, match="no 'sudo'") as caught:
        provisioning.refuse_without_privileges()
    assert caught.value.hint.endswith("vexrun provision host")
    assert "sudo" not in caught.value.hint


def test_a_sudo_that_asks_for_a_password_is_named_with_the_command(
    debian: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    debian.add("sudo", "echo 'sudo: a password is required' >&2; exit 1")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(InfrastructureError, match="asks for a password") as caught:
        provisioning.refuse_without_privileges()
    assert (
        caught.value.hint == f"Run: sudo {Path(sys.executable).with_name('vexrun')} provision host"
    )
    assert "a password is required" in caught.value.evidence
    assert debian.calls("sudo") == ["-n true"]


def test_a_sudo_that_asks_nothing_will_do(debian: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    debian.add("sudo")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    provisioning.refuse_without_privileges()


# -- what is asked of Ansible --------------------------------------------------------------------


def test_a_check_needs_no_privileges(
    debian: Any, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    provisioning.provision_host(check=True, emit=ignore)
    assert asked.given["check"] is True
    assert asked.given["extra_variables"]["ansible_become"] is False
    assert [(host.group, host.name) for host in asked.hosts] == [("host", "localhost")]


def test_no_variable_allows_a_module_to_be_loaded(
    debian: Any, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    provisioning.provision_host(check=False, emit=ignore)
    names = {*asked.given["extra_variables"], *asked.hosts[0].variables}
    assert names == {"hypervisor_kvm_user"}


@pytest.mark.parametrize(
    ("sudo_user", "kvm", "expected"),
    [("ada", True, "ada"), ("ada", False, ""), ("root", True, ""), (None, True, "")],
)
def test_who_gets_to_use_kvm(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    sudo_user: str | None,
    kvm: bool,
    expected: str,
) -> None:
    device = tmp_path / "kvm"
    if kvm:
        device.touch()
    monkeypatch.setattr(provisioning, "_KVM", device)
    monkeypatch.setattr(provisioning.grp, "getgrnam", lambda _: None)
    monkeypatch.setattr(os, "getuid", lambda: 0)
    monkeypatch.delenv("SUDO_USER", raising=False)
    if sudo_user:
        monkeypatch.setenv("SUDO_USER", sudo_user)
    assert provisioning._kvm_user() == expected


@pytest.mark.parametrize(("check", "did"), [(True, "would install"), (False, "installed")])
def test_what_it_says(
    debian: Any, asked: Asked, monkeypatch: pytest.MonkeyPatch, check: bool, did: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    ended = CliRunner().invoke(app, ["provision", "host", *(["--check"] if check else [])])
    assert ended.exit_code == 0
    assert "ok=3 changed=1" in ended.output
    assert f"{did} (1): bc" in ended.output
    assert ("would change: a : b" in ended.output) is check


@pytest.mark.parametrize(
    ("name", "count", "some"),
    [("bookworm-2.6-install", 20, "python3-apt"), ("trixie-3.0-install", 22, "rust-clippy")],
)
def test_packages_in_what_apt_printed(name: str, count: int, some: str) -> None:
    packages = _packages_of_apt((APT / f"{name}.txt").read_text())
    assert some in packages
    assert len(packages) == count
    assert "Suggested" not in packages


def test_upgraded_packages_count_too() -> None:
    said = "The following packages will be upgraded:\n  bc gdb\n2 upgraded, 0 newly installed\n"
    assert _packages_of_apt(said) == ["bc", "gdb"]
    assert _packages_of_apt("0 upgraded, 0 newly installed") == []


# -- the inventory -------------------------------------------------------------------------------

OS_RELEASE = {
    "debian": ("ID=debian\nVERSION_ID=12\n", "linux-perf"),
    "ubuntu": ('NAME="Ubuntu"\nID=ubuntu\nID_LIKE=debian\n', "linux-tools-generic"),
    "mint": ('ID=linuxmint\nID_LIKE="ubuntu debian"\n', "linux-tools-generic"),
    "not-ubuntu": ('ID=debian\nHOME_URL="https://example.org/ubuntu"\n', "linux-perf"),
}


@pytest.fixture(scope="module")
def variables_of_host(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the inventory says for this machine, for each /etc/os-release above."""
    directory = tmp_path_factory.mktemp("inventory")
    plays = []
    for name, (text, _) in OS_RELEASE.items():
        (directory / name).write_text(text)
        line = (
            "{{ {'perf': debug_tools_packages[1], 'python': ansible_python_interpreter, "
            "'rust': toolchain_rust_method, 'connection': ansible_connection} | to_json }}"
        )
        copy = {"content": line, "dest": str(directory / f"{name}.json"), "mode": "0644"}
        plays.append(
            {
                "hosts": "host",
                "gather_facts": False,
                "vars": {"__host_os_release": str(directory / name), "ansible_become": False},
                "tasks": [{"ansible.builtin.copy": copy}],
            }
        )
    playbook = directory / "play.yml"
    playbook.write_text(json.dumps(plays))
    program = Path(sys.executable).with_name("ansible-playbook")
    subprocess.run(
        [program, "-i", ROOT / "inventory" / "hosts.yml", playbook],
        check=True,
        capture_output=True,
        cwd=directory,
        env={**os.environ, "ANSIBLE_HOME": str(directory / "home")},
    )
    return {name: json.loads((directory / f"{name}.json").read_text()) for name in OS_RELEASE}


@pytest.mark.parametrize("name", OS_RELEASE)
def test_perf_is_called_what_this_distribution_calls_it(
    variables_of_host: dict[str, dict[str, Any]], name: str
) -> None:
    said = variables_of_host[name]
    assert said["perf"] == OS_RELEASE[name][1]
    assert said["rust"] == "distro", "rustup would put links into /usr/local/bin"
    assert said["connection"] == "ansible.builtin.local"
    if Path("/usr/bin/python3").exists():
        assert said["python"] == "/usr/bin/python3", "the one that sees python3-apt"


def test_packages_of_the_host_are_those_of_the_role_but_for_perf() -> None:
    host = yaml.safe_load((ROOT / "inventory" / "group_vars" / "host.yml").read_text())
    role = yaml.safe_load((ROOT / "roles" / "debug_tools" / "defaults" / "main.yml").read_text())
    own = [name for name in host["debug_tools_packages"] if "{{" not in name]
    assert own == [name for name in role["debug_tools_packages"] if name != "linux-perf"]
