"""What holds for every role and playbook without running them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir() if path.is_dir())
#: Roles that change a machine's identity, mount our share, or build and load a module.
NEVER_ON_HOST = {"guest_base", "source_mount", "module_build", "module_load", "scratch_disk"}
#: Facts that name the host's kernel or service manager inside a root filesystem.
LYING_FACTS = re.compile(
    r"ansible_facts\b|ansible_kernel\b|ansible_is_chroot\b|ansible_service_mgr\b"
)


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def defaults(role: str) -> dict[str, Any]:
    return dict(load(ROOT / "roles" / role / "defaults" / "main.yml"))


def options(role: str) -> dict[str, Any]:
    spec = load(ROOT / "roles" / role / "meta" / "argument_specs.yml")
    return dict(spec["argument_specs"]["main"]["options"])


def plays(playbook: str) -> dict[str, list[str]]:
    """Inventory pattern to role names, in order."""
    return {
        play["hosts"]: [entry["role"] for entry in play["roles"]]
        for play in load(ROOT / "playbooks" / f"{playbook}.yml")
    }


@pytest.mark.parametrize("role", ROLES)
def test_every_default_is_in_the_argument_spec_and_the_other_way_round(role: str) -> None:
    assert set(options(role)) == set(defaults(role))


@pytest.mark.parametrize("role", ROLES)
def test_readme_names_every_variable(role: str) -> None:
    readme = (ROOT / "roles" / role / "README.md").read_text()
    assert [name for name in defaults(role) if f"`{name}`" not in readme] == []


@pytest.mark.parametrize("role", ROLES)
def test_every_variable_begins_with_the_role(role: str) -> None:
    assert [name for name in defaults(role) if not name.startswith(f"{role}_")] == []


@pytest.mark.parametrize("role", ROLES)
def test_every_variable_is_used(role: str) -> None:
    used = "".join(
        path.read_text()
        for path in (ROOT / "roles" / role).rglob("*")
        if path.is_file() and path.name not in ("README.md", "argument_specs.yml")
    )
    # Once in the defaults, once more where it matters.
    assert [n for n in defaults(role) if len(re.findall(rf"\b{n}\b", used)) < 2] == []


@pytest.mark.parametrize("role", ROLES)
def test_roles_ask_our_group_and_no_facts(role: str) -> None:
    for path in (ROOT / "roles" / role).rglob("*.yml"):
        assert not LYING_FACTS.search(path.read_text()), path


@pytest.mark.parametrize(
    "playbook", sorted((ROOT / "playbooks").glob("*.yml")), ids=lambda p: p.stem
)
def test_playbooks_gather_no_facts(playbook: Path) -> None:
    assert [play["name"] for play in load(playbook) if play.get("gather_facts") is not False] == []


def test_a_vm_is_provisioned_with_exactly_the_roles_of_the_image() -> None:
    assert plays("provision")["vm"] == plays("image")["image"]


def test_this_machine_never_gets_a_guest_or_module_role() -> None:
    for playbook in (ROOT / "playbooks").glob("*.yml"):
        for hosts, roles in plays(playbook.stem).items():
            if {"host", "all", "localhost"} & set(hosts.split(":")):
                assert not NEVER_ON_HOST & set(roles), playbook


def test_a_device_keeps_its_identity() -> None:
    assert "guest_base" not in plays("provision")["device"]


def test_modules_may_be_loaded_only_in_a_vm() -> None:
    allowed = {
        path.stem: load(path).get("vexrun_module_load_allowed")
        for path in (ROOT / "inventory" / "group_vars").glob("*.yml")
    }
    assert allowed == {"all": False, "vm": True, "device": False, "image": None, "host": None}


def test_the_host_key_is_never_shown() -> None:
    assert options("guest_base")["guest_base_ssh_host_key"]["no_log"] is True
