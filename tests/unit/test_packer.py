"""The Packer template: what it defaults to, whom its play reaches, and what is served to whom."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Programs

from vexrun.image.manifest import image_roles

ROOT = Path(__file__).resolve().parents[2]
PACKER = ROOT / "packer"
TEMPLATE = (PACKER / "vexfs.pkr.hcl").read_text()


def run_script(
    name: str, *arguments: object, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PACKER / name, *map(str, arguments)],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def variables() -> dict[str, str]:
    """Name and default of every variable."""
    blocks = re.findall(r'^variable "(\w+)" \{\n(.*?)^\}', TEMPLATE, re.MULTILINE | re.DOTALL)
    return {name: re.findall(r"default\s*= (.*)", body)[0].strip('"') for name, body in blocks}


# -- the template ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"), [("memory", "4096"), ("cpus", "4"), ("disk_size", "20G")]
)
def test_defaults(name: str, value: str) -> None:
    assert variables()[name] == value


def test_every_variable_is_used_and_described() -> None:
    documented = (ROOT / "docs" / "packer.md").read_text()
    for name in variables():
        assert f"var.{name}" in TEMPLATE
        assert f"| `{name}` |" in documented, f"docs/packer.md does not name '{name}'"


def test_debians_packer_can_read_it() -> None:
    """1.6.6 refuses required_plugins, and dies at {{user `x`}} only when it builds."""
    text = "\n".join(line for line in TEMPLATE.splitlines() if not line.lstrip().startswith("#"))
    assert "required_plugins" not in text
    assert "{{user" not in text
    assert "required_plugins" in (PACKER / "plugins.pkr.hcl").read_text()


def need_packer() -> None:
    if shutil.which("packer") is None:
        pytest.skip("packer is not installed (make setup installs it)")


def test_packer_finds_it_valid() -> None:
    need_packer()
    done = run_script("validate.sh")
    assert done.returncode == 0, done.stdout + done.stderr


def test_packer_can_find_it_invalid() -> None:
    need_packer()
    done = run_script("validate.sh", "-var", "memory=much")
    assert done.returncode != 0
    assert "a number is required" in done.stdout + done.stderr


# -- the play -------------------------------------------------------------------------------------


def test_its_play_does_not_reach_this_machine(tmp_path: Path) -> None:
    """provision.yml has a play for this machine too, and hosts.yml names it."""
    arguments = re.search(r"extra_arguments = \[(.*?)\n    \]", TEMPLATE, re.DOTALL)
    assert arguments
    assert re.search(r'"--limit",\s+"vm"', arguments[1])
    assert 'groups        = ["vm"]' in TEMPLATE
    inventory = tmp_path / "packer-inventory"
    inventory.write_text("[vm]\nguest ansible_host=127.0.0.1 ansible_port=1\n")
    program = Path(sys.executable).parent / "ansible-playbook"
    argv = [str(program), "-i", str(inventory), "-i", str(ROOT / "inventory" / "hosts.yml")]
    argv += ["--limit", "vm", "--list-hosts", str(ROOT / "playbooks" / "provision.yml")]
    listed = subprocess.run(
        argv,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "localhost" not in listed
    assert re.findall(r"^      (\S+)$", listed, re.MULTILINE) == ["guest"]


@pytest.mark.parametrize("source", ["local", "ubuntu"])
def test_every_source_has_variables_that_the_roles_know(source: str) -> None:
    assert f'name         = "{source}"' in TEMPLATE
    chosen: dict[str, Any] = yaml.safe_load((PACKER / f"{source}.yml").read_text())
    known: set[str] = set()
    for role in image_roles():
        specs = yaml.safe_load((ROOT / "roles" / role / "meta" / "argument_specs.yml").read_text())
        known.update(specs["argument_specs"]["main"]["options"])
    assert set(chosen) <= known


# -- the scripts ----------------------------------------------------------------------------------


def test_the_seed_lets_one_key_in_as_root(tmp_path: Path) -> None:
    assert run_script("seed.sh", tmp_path).returncode == 0
    assert {path.name for path in (tmp_path / "http").iterdir()} == {"user-data", "meta-data"}
    text = (tmp_path / "http" / "user-data").read_text()
    assert text.startswith("#cloud-config\n")
    seed = yaml.safe_load(text)
    assert seed["ssh_authorized_keys"] == [(tmp_path / "key.pub").read_text().strip()]
    assert seed["disable_root"] is False
    assert seed["ssh_pwauth"] is False
    assert "password" not in text
    assert (tmp_path / "key").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("status", [0, 1])
def test_a_build_forgets_its_key_and_ends_as_packer_does(
    programs: Programs, tmp_path: Path, status: int
) -> None:
    programs.add(
        "packer", f'for a in "$@"; do [[ $a != seed=* ]] || ls "${{a#*=}}"; done; exit {status}'
    )
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    done = run_script("build.sh", "local", "-var", "cpus=2", TMPDIR=str(temporary))
    assert done.returncode == status
    assert done.stdout.split() == ["http", "key", "key.pub"]
    assert list(temporary.iterdir()) == []
    (call,) = programs.calls("packer")
    assert call.startswith("build -only qemu.local -var seed=")
    assert call.endswith(f"-var cpus=2 {PACKER / 'vexfs.pkr.hcl'}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_what_ends_a_build_ends_packer(
    programs: Programs, tmp_path: Path, number: signal.Signals
) -> None:
    """Packer is given the time to end its machine."""
    said = tmp_path / "said"
    programs.add(
        "packer",
        f"trap 'echo ending >>{said}; sleep 0.5; echo ended >>{said}; exit 1' TERM\n"
        f"echo began >{said}; while :; do sleep 0.1; done",
    )
    # Whoever runs these tests under nohup, or in the background of a script, has some ignored.
    heard = ["env", "--default-signal=HUP,INT,TERM", PACKER / "build.sh", "local"]
    with subprocess.Popen(heard, start_new_session=True) as build:
        try:
            wait_for(said.exists)
            build.send_signal(number)
            assert build.wait(120) == 1
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(build.pid, signal.SIGKILL)
    assert said.read_text().split() == ["began", "ending", "ended"]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_build_of_nothing_says_how_it_is_called(programs: Programs) -> None:
    programs.add("packer")
    done = run_script("build.sh")
    assert done.returncode != 0
    assert "usage: packer/build.sh local|ubuntu" in done.stderr
    assert programs.calls("packer") == []


def test_what_is_served_holds_no_private_key() -> None:
    assert 'http_directory       = "${var.seed}/http"' in TEMPLATE
    assert 'ssh_private_key_file = "${var.seed}/key"' in TEMPLATE


def test_the_machine_listens_on_loopback_only() -> None:
    assert "hostfwd=tcp:127.0.0.1:{{ .SSHHostPort }}-:22" in TEMPLATE
    assert 'http_bind_address    = "127.0.0.1"' in TEMPLATE
