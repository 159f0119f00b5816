"""An ordinary user whose machine keeps namespaces from him is told why, and what to do."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vexrun import doctor
from vexrun.errors import ExitCode, InfrastructureError
from vexrun.image import namespace
from vexrun.image.catalog import Image
from vexrun.image.namespace import remove_tree, require_namespaces
from vexrun.kbuild import BuildSpec, NativeBuilder

PROBE = Path(namespace.__file__).with_name("probe.sh")
#: What util-linux 2.39 of Ubuntu 24.04 says: the namespace is there, and it may do nothing.
RESTRICTED = "mount: /tmp: permission denied."


class Machine:
    """What an ordinary user finds on a machine; nothing of the real one is asked."""

    def __init__(self, root: Path, programs: Any) -> None:
        self.programs = programs
        self.sysctls = root / "sys"
        self.subordinate = (root / "subuid", root / "subgid")
        self.ids(f"{namespace._user()}:100000:65536\n")
        programs.add("newuidmap")
        self.namespaces_say(RESTRICTED)

    def ids(self, text: str) -> None:
        for file in self.subordinate:
            file.write_text(text)

    def sysctl(self, name: str, value: str) -> None:
        path = self.sysctls / name.replace(".", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")

    def namespaces_say(self, text: str) -> None:
        self.programs.add("unshare", f"echo {text!r} >&2; exit 1")


@pytest.fixture
def machine(tmp_path: Path, programs: Any, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path, programs)
    monkeypatch.setattr(namespace, "is_rootless", lambda: True)
    monkeypatch.setattr(namespace, "_SYSCTLS", made.sysctls)
    monkeypatch.setattr(namespace, "_SUBORDINATE_IDS", made.subordinate)
    return made


def refused() -> InfrastructureError:
    with pytest.raises(InfrastructureError, match="cannot use user namespaces") as caught:
        require_namespaces()
    assert caught.value.exit_code is ExitCode.INFRASTRUCTURE
    return caught.value


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
        ("kernel.unprivileged_userns_clone", "0", "1"),
        ("user.max_user_namespaces", "0", "15000"),
    ],
)
def test_a_setting_that_forbids_namespaces_is_named_with_its_fix(
    machine: Machine, name: str, value: str, wanted: str
) -> None:
    machine.sysctl(name, value)
    error = refused()
    assert RESTRICTED in error.evidence
    assert f"{name} is {value}" in error.evidence
    assert error.hint.startswith(f"Run: echo {name}={wanted} | sudo tee -a /etc/sysctl.d/")
    assert error.hint.endswith("sudo sysctl --system")


@pytest.mark.parametrize(
    ("name", "value"),
    [("kernel.apparmor_restrict_unprivileged_userns", "0"), ("user.max_user_namespaces", "95000")],
)
def test_a_setting_that_forbids_nothing_is_not_blamed(
    machine: Machine, name: str, value: str
) -> None:
    machine.sysctl(name, value)
    error = refused()
    assert name not in error.evidence + error.hint
    assert "as root" in error.hint


@pytest.mark.parametrize(
    ("others", "span"),
    [("", "100000-165535"), ("someone:100000:65536\nu:165536:65536\n", "231072-296607")],
    ids=["nobody has one", "others have some"],
)
def test_a_user_without_subordinate_ids_gets_a_range_that_is_free(
    machine: Machine, others: str, span: str
) -> None:
    machine.ids(others)
    error = refused()
    assert "/etc/subuid" in error.evidence
    user = namespace._user()
    assert error.hint == f"Run: sudo usermod --add-subuids {span} --add-subgids {span} {user}"


def test_an_account_may_be_named_by_its_number(machine: Machine) -> None:
    machine.ids(f"{os.geteuid()}:100000:65536\n")
    assert "subuid" not in refused().hint


def test_everything_that_stands_in_the_way_is_told_at_once(machine: Machine) -> None:
    machine.ids("")
    machine.sysctl("kernel.apparmor_restrict_unprivileged_userns", "1")
    commands = refused().hint.removeprefix("Run: ").split(" && ")
    assert [command.split()[0] for command in commands] == ["sudo", "echo", "sudo"]


def test_an_old_unshare_is_named(machine: Machine) -> None:
    """Ubuntu 22.04 has util-linux 2.37."""
    machine.namespaces_say("unshare: unrecognized option '--map-auto'")
    with pytest.raises(InfrastructureError, match="'unshare' is too old") as caught:
        require_namespaces()
    assert "util-linux 2.38" in caught.value.evidence
    assert "as root" in caught.value.hint


def test_without_newuidmap_its_package_is_named(machine: Machine) -> None:
    machine.programs.link("setpriv", "bash")
    (machine.programs.directory / "newuidmap").unlink()
    machine.programs.nothing_else()
    assert refused().hint.endswith("--no-install-recommends uidmap")


# -- who needs them ------------------------------------------------------------------------------


@pytest.fixture
def restricted(machine: Machine) -> Machine:
    machine.sysctl("kernel.apparmor_restrict_unprivileged_userns", "1")
    return machine


def build(tmp_path: Path, make_manifest: Any, make_subject: Any) -> None:
    image = Image(tmp_path / "image", make_manifest())
    builder = NativeBuilder(image, tmp_path, tmp_path / "work", 1)
    builder.build(BuildSpec.main(make_subject()))


def remove(tmp_path: Path, _manifest: Any, _subject: Any) -> None:
    (tmp_path / "tree").mkdir()
    remove_tree(tmp_path / "tree")


@pytest.mark.parametrize("work", [build, remove])
def test_whatever_needs_a_namespace_tells_the_reason(
    restricted: Machine,
    tmp_path: Path,
    make_manifest: Any,
    make_subject: Any,
    work: Callable[[Path, Any, Any], None],
) -> None:
    with pytest.raises(InfrastructureError, match="cannot use user namespaces") as caught:
        work(tmp_path, make_manifest, make_subject)
    assert "apparmor_restrict_unprivileged_userns=0" in caught.value.hint


def test_the_doctor_tells_it(restricted: Machine) -> None:
    finding = doctor._namespaces()
    assert not finding.ok
    assert "apparmor_restrict_unprivileged_userns is 1" in finding.text
    assert finding.fix.startswith("echo kernel.apparmor_restrict_unprivileged_userns=0 | sudo tee")


# -- the probe -----------------------------------------------------------------------------------


def test_the_probe_touches_nothing_outside_of_a_namespace() -> None:
    before = Path("/proc/self/mounts").read_text()
    done = subprocess.run(["sh", PROBE], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "not in a pid namespace" in done.stderr
    assert Path("/proc/self/mounts").read_text() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, who may make namespaces")
def test_the_probe_works_where_namespaces_do_and_leaves_nothing() -> None:
    before = Path("/proc/self/mounts").read_text()
    require_namespaces()
    assert Path("/proc/self/mounts").read_text() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to take capabilities away")
def test_a_namespace_without_capabilities_fails_the_probe() -> None:
    """As on Ubuntu 24.04: `unshare` works, and what it starts may not mount."""
    taken = ["setpriv", "--bounding-set=-sys_admin", "sh", str(PROBE)]
    done = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", *taken],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "permission denied" in done.stderr
