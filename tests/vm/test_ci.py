"""The steps of the CI files for users, with the real commands: image, host tests, VM tests."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from workflow_steps import ROOT, WORKFLOW, Runner, load

pytestmark = [pytest.mark.vm, pytest.mark.slow]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the archive of the image lies between jobs, as a CI cache would bring it."""
    return tmp_path_factory.mktemp("runner")


#: As the workflow gives them, in minutes.
HOST_BUDGET, VM_BUDGET = "2", "10"


def results_of(runner: Runner, name: str, budget: str) -> dict[str, object]:
    told = rf"_The tests took \d+ min \d+ s of a budget of {budget} min"
    assert re.search(told, runner.summary), runner.said
    found: dict[str, object] = json.loads((runner.temporary / name / "results.json").read_text())
    return found


def test_the_budgets_are_the_workflows() -> None:
    jobs = load(WORKFLOW)["jobs"]
    steps = {name: job["steps"][-1]["with"].get("budget-minutes") for name, job in jobs.items()}
    assert steps == {"image": None, "host": int(HOST_BUDGET), "vm": int(VM_BUDGET)}


def test_the_three_jobs(machine: Path, suite: str) -> None:
    image = Runner(machine)
    image.action(what="image", suite=suite)
    assert not image.failed, image.said[-1]
    archive = machine / "vexrun-image" / f"{suite}.tar.zst"
    assert archive.stat().st_size > 100 * 2**20
    assert [name for name, _ in image.uses] == ["actions/cache/restore@v5", "actions/cache/save@v5"]

    host = Runner(machine)
    source = str(ROOT / "examples" / "vexfs-ref")
    budget = {"budget-minutes": HOST_BUDGET}
    outputs = host.action(what="host", suite=suite, source=source, **budget)
    assert not host.failed, host.said[-1]
    assert outputs["exit-code"] == "0"
    assert "actions/cache/save@v5" not in [name for name, _ in host.uses], "it came from the cache"
    assert results_of(host, f"vexrun-host-{suite}", HOST_BUDGET)["verdict"] == "pass"

    vm = Runner(machine)
    subject = str(ROOT / "examples" / "subjects" / "minix.toml")
    budget = {"budget-minutes": VM_BUDGET}
    outputs = vm.action(
        what="vm", suite=suite, subject=subject, only="build,module,mount", **budget
    )
    assert not vm.failed, vm.said[-1]
    assert outputs["exit-code"] == "0"
    assert results_of(vm, f"vexrun-vm-{suite}", VM_BUDGET)["verdict"] == "pass"
    assert (machine / f"vexrun-vm-{suite}" / "junit.xml").is_file()
