"""The key of an image: equal inputs, equal key, wherever the checkout lies."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vexrun.image import manifest
from vexrun.image.manifest import (
    ImageInputs,
    Manifest,
    base_inputs,
    image_roles,
    layer_inputs,
    roles_sha256,
)
from vexrun.image.suites import SUITES
from vexrun.settings import ImageSettings, RustOrigin

ROOT = Path(__file__).resolve().parents[2]
TRIXIE = SUITES["trixie"]


def key(settings: ImageSettings | None = None) -> str:
    return base_inputs(TRIXIE, settings or ImageSettings()).key


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout to change."""
    root = tmp_path / "checkout"
    copy_to(root)
    monkeypatch.setattr(manifest, "data_root", lambda: root)
    monkeypatch.setattr(manifest, "PACKAGE", root / "vexrun")
    return root


def copy_to(root: Path) -> None:
    for name in ("roles", "playbooks", "inventory"):
        shutil.copytree(ROOT / name, root / name)
    ignored = shutil.ignore_patterns("__pycache__", "_data")
    shutil.copytree(ROOT / "vexrun", root / "vexrun", ignore=ignored)


# -- settings ------------------------------------------------------------------------------------


def test_equal_inputs_have_equal_keys() -> None:
    assert key() == key()
    assert base_inputs(TRIXIE, ImageSettings()).name == f"trixie-{key()}"


@pytest.mark.parametrize(
    "settings",
    [
        ImageSettings(mirror="http://m/debian"),
        ImageSettings(extra_packages=["tree"]),
        ImageSettings(disk_gib=20),
        ImageSettings(rust=RustOrigin.RUSTUP),
    ],
    ids=["mirror", "extra_packages", "disk_gib", "rust"],
)
def test_each_setting_that_makes_another_image_changes_the_key(settings: ImageSettings) -> None:
    assert key(settings) != key()


def test_another_suite_is_another_image() -> None:
    keys = {base_inputs(suite, ImageSettings()).key for suite in SUITES.values()}
    assert len(keys) == len(SUITES)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (ImageSettings(proxy="http://p"), ImageSettings()),
        (ImageSettings(extra_packages=["b", "a"]), ImageSettings(extra_packages=["a", "b"])),
    ],
    ids=["proxy", "order of packages"],
)
def test_how_it_is_fetched_is_not_what_it_is(one: ImageSettings, other: ImageSettings) -> None:
    assert key(one) == key(other)


def test_an_image_from_before_the_later_inputs_keeps_its_key() -> None:
    now = base_inputs(TRIXIE, ImageSettings())
    before = {
        key: value for key, value in now.model_dump().items() if key not in ("rust", "imported")
    }
    text = json.dumps(before, sort_keys=True)
    assert now.key == hashlib.sha256(text.encode()).hexdigest()[:16]
    assert ImageInputs.model_validate(before) == now


# -- layers --------------------------------------------------------------------------------------


@pytest.fixture
def base(make_manifest: Any) -> Manifest:
    inputs = base_inputs(TRIXIE, ImageSettings())
    return make_manifest(inputs.name, key=inputs.key, inputs=inputs)


def test_a_layer_is_known_by_its_base_and_its_packages(base: Manifest) -> None:
    layer = layer_inputs(base, ["b", "a"])
    assert layer.base_key == base.key
    assert layer.name.startswith("trixie-layer-")
    assert layer.key == layer_inputs(base, ["a", "b"]).key
    assert layer.key not in (base.key, layer_inputs(base, ["a"]).key)
    other = base.model_copy(update={"key": "another"})
    assert layer.key != layer_inputs(other, ["a", "b"]).key


# -- roles ---------------------------------------------------------------------------------------


def edit(name: str) -> Callable[[Path], object]:
    def change(root: Path) -> None:
        path = root / name
        assert path.is_file(), f"'{name}' moved: correct this test"
        path.write_text(path.read_text() + "\n# changed\n")

    return change


@pytest.mark.parametrize(
    "change",
    [
        edit("playbooks/image.yml"),
        edit("inventory/group_vars/all.yml"),
        edit("inventory/group_vars/image.yml"),
        edit("roles/guest_base/tasks/main.yml"),
        edit("roles/guest_base/defaults/main.yml"),
        edit("vexrun/image/enter.sh"),
        lambda root: (
            (root / "roles/guest_base/files").mkdir()
            or (root / "roles/guest_base/files/new").touch()
        ),
        lambda root: (root / "roles/guest_base/tasks/main.yml").rename(
            root / "roles/guest_base/tasks/other.yml"
        ),
    ],
    ids=["playbook", "all", "group", "task", "default", "enter.sh", "new file", "renamed file"],
)
def test_what_is_applied_to_the_image_is_in_its_key(
    checkout: Path, change: Callable[[Path], object]
) -> None:
    before = key()
    change(checkout)
    assert key() != before


@pytest.mark.parametrize(
    "change",
    [
        edit("roles/guest_base/README.md"),
        edit("roles/module_load/tasks/main.yml"),
        edit("inventory/group_vars/vm.yml"),
        lambda root: (
            (root / "roles/guest_base/library/__pycache__").mkdir(exist_ok=True)
            or (root / "roles/guest_base/library/__pycache__/x.cpython-311.pyc").touch()
        ),
        lambda root: os.utime(root / "roles/guest_base/tasks/main.yml", (1, 1)),
    ],
    ids=["prose", "a role of the vm", "another group", "bytecode", "time"],
)
def test_what_is_not_applied_to_the_image_is_not(
    checkout: Path, change: Callable[[Path], object]
) -> None:
    assert "module_load" not in image_roles()
    before = key()
    change(checkout)
    assert key() == before


def test_a_checkout_elsewhere_has_the_same_key(checkout: Path) -> None:
    here = roles_sha256()
    code = "from vexrun.image.manifest import roles_sha256; print(roles_sha256())"
    elsewhere = checkout.rename(checkout.with_name("another name"))
    out = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(elsewhere), *sys.path])},
        cwd=elsewhere,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    assert out == here


def test_a_wheel_has_the_key_of_its_checkout(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = key()
    data = checkout / "vexrun" / "_data"
    data.mkdir()
    for name in ("roles", "playbooks", "inventory"):
        (checkout / name).rename(data / name)
    monkeypatch.setattr(manifest, "data_root", lambda: data)
    assert key() == here
