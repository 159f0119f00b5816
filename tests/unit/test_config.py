"""What `vexrun test` may be asked: categories, targets, sources; checked before anything runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vexrun.categories import CATEGORIES, Category, select_categories
from vexrun.config import Backend, RunConfig, TargetKind, make_config
from vexrun.errors import ConfigError, ExitCode
from vexrun.kbuild import BuildPlace
from vexrun.vm.accel import AccelChoice

pytestmark = pytest.mark.usefixtures("home")

NEED_NO_GUEST = ["structure", "build", "static"]
READY = [name for name, row in CATEGORIES.items() if row.ready]


def selected(only: list[str], skip: list[str]) -> list[str]:
    return [category.name for category in select_categories(only, skip)]


# -- categories ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("only", "skip", "expected"),
    [
        ([], [], READY),
        (["fsops", "build"], [], ["build", "fsops"]),
        ([], [name for name in READY if name not in ("build", "fsops")], ["build", "fsops"]),
        (["mount", "fsops"], ["mount"], ["fsops"]),
        (["mount", "mount"], [], ["mount"]),
        ([], ["structure"], READY[1:]),
    ],
)
def test_selection_keeps_the_order_of_the_table(
    only: list[str], skip: list[str], expected: list[str]
) -> None:
    assert selected(only, skip) == expected


@pytest.mark.parametrize(("only", "skip"), [(["mout"], []), ([], ["mout"])])
def test_an_unknown_category_is_a_usage_error_with_a_guess(
    only: list[str], skip: list[str]
) -> None:
    with pytest.raises(ConfigError, match=r"no category 'mout'\. Did you mean 'mount'") as caught:
        select_categories(only, skip)
    assert caught.value.exit_code is ExitCode.USAGE
    assert "fsops" in caught.value.hint


@pytest.mark.parametrize("only", [["mount"], READY])
def test_an_empty_selection_is_a_usage_error_not_a_pass(only: list[str]) -> None:
    with pytest.raises(ConfigError, match="selection of categories is empty") as caught:
        select_categories(only, only)
    assert caught.value.exit_code is ExitCode.USAGE
    assert "--skip " + ",".join(only) in caught.value.evidence


def test_a_category_of_a_later_version_is_refused_rather_than_run_empty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(CATEGORIES, "fuzz", Category("fuzz", "crashes nothing", ready=False))
    with pytest.raises(ConfigError, match="'fuzz' is not part of this version"):
        select_categories(["fuzz"], [])
    assert "fuzz" not in selected([], [])


@pytest.mark.parametrize("name", READY)
def test_a_category_that_runs_has_tests(name: str) -> None:
    tests = Path(__file__).parents[1] / "guest" / name
    assert list(tests.glob("test_*.py")), f"no test exists below {tests}"
    assert CATEGORIES[name].timeout_s > 0


# -- the whole request ---------------------------------------------------------------------------

Request = Callable[..., RunConfig]


@pytest.fixture
def request_for(source_tree: Path) -> Request:
    """`make_config` with everything ordinary but what a test says."""

    def make(**changed: Any) -> RunConfig:
        ordinary: dict[str, Any] = {
            "source": source_tree,
            "subject_file": None,
            "only": [],
            "skip": [],
            "target": TargetKind.VM,
            "backend": Backend.QEMU,
            "accel": AccelChoice.AUTO,
            "build": BuildPlace.AUTO,
            "keep": False,
            "command": ["vexrun", "test"],
        }
        return make_config(**{**ordinary, **changed})

    return make


def test_an_ordinary_request(request_for: Request, source_tree: Path) -> None:
    config = request_for()
    assert config.source == source_tree
    assert config.subject_file == source_tree / "vexrun.toml"
    assert config.suite.name == "trixie"
    assert config.needs_guest
    assert config.selects("fsops")
    assert not config.selects("unit"), "the subject declares nothing that it could run"
    assert any("'unit' was not run" in note for note in config.notes)


def test_the_source_is_where_the_subject_file_is(
    request_for: Request, source_tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(source_tree.parent)
    config = request_for(source=None, subject_file=Path("source/vexrun.toml"))
    assert config.source == source_tree
    monkeypatch.chdir(source_tree)
    assert request_for(source=None).source == source_tree


def test_a_source_package_needs_no_source(request_for: Request, source_tree: Path) -> None:
    file = source_tree / "vexrun.toml"
    file.write_text(
        file.read_text().replace('"demo"', '"demo"\nsource = {apt = "linux-source-6.12"}', 1)
    )
    assert request_for(source=None, subject_file=file).source is None
    assert request_for().source == source_tree, "a source that is given is the one that is tested"


@pytest.mark.parametrize("name", ["Kbuild", "missing"])
def test_a_source_that_is_no_directory_is_refused(
    request_for: Request, source_tree: Path, name: str
) -> None:
    with pytest.raises(ConfigError, match=f"'{source_tree / name}' is not a directory"):
        request_for(source=source_tree / name)


def test_an_unknown_suite_lists_the_known_ones(request_for: Request) -> None:
    with pytest.raises(ConfigError, match="no suite 'woody'") as caught:
        request_for(suite="woody")
    assert "trixie, bookworm, sid" in caught.value.hint


# -- targets -------------------------------------------------------------------------------------


def test_on_the_host_only_what_needs_no_kernel_runs(request_for: Request) -> None:
    config = request_for(target=TargetKind.HOST)
    assert [category.name for category in config.categories] == NEED_NO_GUEST
    assert not config.needs_guest


@pytest.mark.parametrize("name", [name for name in READY if CATEGORIES[name].needs_guest])
def test_the_host_refuses_by_name_what_would_load_or_format(
    request_for: Request, name: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        request_for(target=TargetKind.HOST, only=["build", name])
    assert f"'{name}'" in caught.value.message
    assert "never loaded here" in caught.value.message
    assert f"--only {name} --target vm" in caught.value.hint


def test_the_host_refuses_a_selection_with_nothing_left(request_for: Request) -> None:
    with pytest.raises(ConfigError, match="None of the selected categories"):
        request_for(target=TargetKind.HOST, skip=[*NEED_NO_GUEST, "unit"])


def test_vagrant_holds_virtual_machines_and_nothing_else(request_for: Request) -> None:
    assert request_for(backend=Backend.VAGRANT).backend is Backend.VAGRANT
    with pytest.raises(ConfigError, match="'--backend vagrant' is for virtual machines"):
        request_for(backend=Backend.VAGRANT, target=TargetKind.HOST)


def test_a_device_has_to_be_named(request_for: Request) -> None:
    with pytest.raises(ConfigError, match="needs both '--target device' and '--device NAME'"):
        request_for(target=TargetKind.DEVICE)


def test_expectations_beside_the_subject_file_are_read(
    request_for: Request, source_tree: Path
) -> None:
    (source_tree / "vexrun-expectations.toml").write_text(
        '[[expect]]\ntest = "fsops/t.py::test_x"\nreason = "issue 7"\n'
    )
    assert [each.reason for each in request_for().expectations] == ["issue 7"]


@pytest.mark.parametrize("mode", [0o000, 0o111, 0o444], ids=["nothing", "unlisted", "unsearched"])
def test_a_source_that_may_not_be_read_is_the_users_to_correct(
    request_for: Request, ordinary_user: Path, mode: int
) -> None:
    tree = ordinary_user / "tree"
    tree.mkdir(mode=mode)
    with pytest.raises(ConfigError, match="cannot be read: Permission denied") as caught:
        request_for(source=tree)
    assert f"'{tree}'" in caught.value.message
    assert caught.value.exit_code is ExitCode.USAGE
