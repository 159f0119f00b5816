"""The table over the ways to a guest: only what was seen in all of it is right."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vexrun import ways
from vexrun.image.box import BoxId
from vexrun.image.box_home import box_directory
from vexrun.image.catalog import Image
from vexrun.image.suites import Suite
from vexrun.layout import cache_dir, data_root
from vexrun.results.model import RunResults, TargetInfo, Verdict
from vexrun.selftest import Judged, load_canaries
from vexrun.subrun import SubRun
from vexrun.target.vagrant import PROOF
from vexrun.ways import main, table, try_guest

KEY = "0123456789abcdef"


@pytest.fixture
def tried(home: Path, monkeypatch: pytest.MonkeyPatch, make_results: Any) -> dict[str, Any]:
    """A machine on which everything is as it must be; a test changes what it is about."""
    snapshot = cache_dir() / "snapshots" / f"trixie-{KEY}-0" / "snapshot.json"
    snapshot.parent.mkdir(parents=True)
    snapshot.write_text(json.dumps({"boot_s": 41.2, "provision": {"changed": 0}}))
    world: dict[str, Any] = {
        "status": 0,
        "results": make_results(),
        "problems": [],
        "snapshot": snapshot,
        "asked": [],
    }

    def run_test(arguments: list[str]) -> SubRun:
        world["asked"].append(arguments)
        status = world.get("statuses", [world["status"]] * 2)[(len(world["asked"]) - 1) % 2]
        return SubRun(world["results"], status, 97.4, "no machine")

    def run_canary(canary: Any, suite: str, directory: Path, more: list[str]) -> Judged:
        assert directory.is_dir()
        world["more"] = more
        return Judged(canary, 51.0, "", "", world["problems"])

    monkeypatch.setattr(ways, "run_test", run_test)
    monkeypatch.setattr(ways, "run_canary", run_canary)
    return world


@pytest.fixture
def make_results() -> Any:
    def make(verdict: Verdict = Verdict.PASS) -> RunResults:
        target = TargetInfo(kind="vm", kernel="6.12.9-amd64", image_key=KEY)
        return RunResults.model_construct(verdict=verdict, target=target)

    return make


def test_a_guest_in_which_all_is_right(tried: dict[str, Any]) -> None:
    row = try_guest("trixie")
    assert row.right
    assert (row.first_boot, row.changed, row.kernel) == ("41 s", "0", "6.12.9-amd64")
    assert (row.modules, row.planted) == (("pass, 97 s", "pass, 97 s"), "found, 51 s")
    minix, vexfs_ref = tried["asked"]
    assert minix[-2:] == vexfs_ref[-2:] == ["--suite", "trixie"]
    assert minix[0] == "--subject"
    assert Path(minix[1]).is_file()
    assert Path(vexfs_ref[0]).is_dir()
    assert any(canary.name == "oops-in-init" for canary in load_canaries())


def test_the_box_of_a_guest_is_another_way(
    tried: dict[str, Any], make_manifest: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    manifest = make_manifest(f"trixie-{KEY}", created_at="2026-01-02T00:03:04+00:00")
    image = Image(tmp_path, manifest)
    monkeypatch.setattr(ways, "list_images", lambda: [image])
    unproven = try_guest("vagrant:trixie")
    assert not unproven.right, "a boot of vexrun's own says nothing about the box"
    assert unproven.changed == "unknown"
    proof = box_directory(BoxId.of(image)) / PROOF
    proof.parent.mkdir(parents=True)
    proof.write_text(json.dumps({"boot_s": 50.4, "changed": 0}))
    row = try_guest("vagrant:trixie")
    assert row.right
    assert (row.guest, row.first_boot, row.changed) == ("vagrant:trixie", "50 s", "0")
    assert tried["asked"][-1][-4:] == ["--backend", "vagrant", "--suite", "trixie"]
    assert tried["more"] == ["--backend", "vagrant"]


def a_bug_not_found(world: dict[str, Any]) -> None:
    world["problems"] = ["there is no kernel event"]


def a_failing_module(world: dict[str, Any]) -> None:
    world["results"].verdict = Verdict.FAIL
    world["status"] = 1


def a_second_module_that_fails(world: dict[str, Any]) -> None:
    world["statuses"] = [0, 1]


def no_results(world: dict[str, Any]) -> None:
    world["results"], world["status"] = None, 69


def roles_that_change_something(world: dict[str, Any]) -> None:
    world["snapshot"].write_text(json.dumps({"boot_s": 41.2, "provision": {"changed": 1}}))


def no_snapshot(world: dict[str, Any]) -> None:
    world["snapshot"].unlink()


@pytest.mark.parametrize(
    "change",
    [
        a_bug_not_found,
        a_failing_module,
        a_second_module_that_fails,
        no_results,
        roles_that_change_something,
        no_snapshot,
    ],
)
def test_one_thing_that_is_not_right_fails_the_guest(
    tried: dict[str, Any], change: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    change(tried)
    assert not try_guest("trixie").right
    assert main(["trixie"]) == 1
    assert "| `trixie` | built here |" in capsys.readouterr().out


def test_the_table_is_markdown(tried: dict[str, Any]) -> None:
    lines = table([try_guest("trixie")]).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert main(["trixie"]) == 0


@pytest.mark.parametrize(
    ("mark", "way"),
    [("", "imported cloud image"), ("Packer 1.6.6, local\n", "built by Packer 1.6.6, local")],
)
def test_what_made_an_imported_image_is_read_in_it(
    tried: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mark: str, way: str
) -> None:
    (tmp_path / "etc").mkdir()
    if mark:
        (tmp_path / "etc/vexrun-packer").write_text(mark)
    suite = Suite("trixie-imported-1", "6.12", image="trixie-imported-1")
    monkeypatch.setattr(ways, "find_guest", lambda name: suite)
    monkeypatch.setattr(ways, "find_image", lambda name: SimpleNamespace(rootfs=tmp_path))
    assert try_guest(suite.name).way == way


def test_packer_leaves_the_mark_that_is_looked_for() -> None:
    finish = (data_root() / "packer" / "finish.sh").read_text()
    assert f">/{ways._PACKER_MARK}\n" in finish
