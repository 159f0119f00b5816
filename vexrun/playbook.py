"""The one place that runs Ansible: playbooks through ansible-runner, progress as events."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ansible_runner
import yaml

from vexrun import orphans
from vexrun.errors import InfrastructureError, InterruptedRunError
from vexrun.events import Emit, Progress
from vexrun.layout import PACKAGE, data_root

#: As apt-get 2.6 and 3.0 print it without a terminal; names stand on indented lines.
_APT_LISTS = re.compile(
    r"^The following (?:NEW )?packages will be (?:installed|upgraded):\n((?: +.*\n?)+)",
    re.MULTILINE,
)


@dataclass(frozen=True)
class InventoryHost:
    """One host to run on: the inventory group it plays in and its connection variables."""

    group: str
    name: str
    variables: dict[str, Any]


@dataclass
class PlaybookResult:
    """What the play recap says, and which tasks changed something.

    `packages` are those that apt installed or upgraded; in check mode, would have.
    """

    ok: int = 0
    changed: int = 0
    skipped: int = 0
    changed_tasks: list[str] = field(default_factory=list)
    packages: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


class _Listener:
    """Collects what a play did and failed at, and passes task names on as progress."""

    def __init__(self, emit: Emit) -> None:
        self.emit = emit
        self.result = PlaybookResult()
        self.failures: list[str] = []
        self.unreachable = False

    def __call__(self, event: dict[str, Any]) -> bool:
        kind = event.get("event", "")
        data = event.get("event_data", {})
        task = data.get("task", "")
        outcome = data.get("res") or {}
        if kind == "playbook_on_task_start":
            self.emit(Progress(task))
        elif kind == "runner_on_ok" and outcome.get("changed"):
            self.result.changed_tasks.append(_task_name(data))
            self.result.packages += _packages_of_apt(str(outcome.get("stdout", "")))
        elif kind == "runner_on_failed" and not data.get("ignore_errors"):
            self.failures.append(f"{_task_name(data)}: {_failure_text(outcome)}")
        elif kind == "runner_on_unreachable":
            self.unreachable = True
            self.failures.append(f"{_task_name(data)}: {outcome.get('msg', 'unreachable')}")
        elif kind == "playbook_on_stats":
            self._take_stats(data)
        if kind == "runner_on_ok" and isinstance(outcome.get("ansible_facts"), dict):
            self.result.facts.update(outcome["ansible_facts"])
        return True  # False would make ansible-runner drop the event, and with it the stats

    def _take_stats(self, data: dict[str, Any]) -> None:
        self.result.ok = sum(data.get("ok", {}).values())
        self.result.changed = sum(data.get("changed", {}).values())
        self.result.skipped = sum(data.get("skipped", {}).values())


def _task_name(data: dict[str, Any]) -> str:
    role = data.get("role")
    task = data.get("task", "?")
    return f"{role} : {task}" if role and not str(task).startswith(f"{role} : ") else str(task)


def _packages_of_apt(output: str) -> list[str]:
    return [name for block in _APT_LISTS.findall(output) for name in block.split()]


def _failure_text(outcome: dict[str, Any]) -> str:
    parts = [str(outcome.get("msg", ""))]
    parts += [str(outcome[key])[-3000:] for key in ("stdout", "stderr") if outcome.get(key)]
    for item in outcome.get("results", []):
        if isinstance(item, dict) and item.get("failed"):
            parts.append(f"{item.get('item')}: {item.get('msg')}")
    return "\n".join(part for part in parts if part)


def run_playbook(
    playbook: str,
    hosts: list[InventoryHost],
    *,
    artifact_dir: Path,
    emit: Emit,
    extra_variables: dict[str, Any] | None = None,
    check: bool = False,
    timeout: float | None = None,
) -> PlaybookResult:
    """Run `playbooks/<playbook>` on `hosts`, keeping ansible-runner's artifacts in `artifact_dir`.

    Raises InfrastructureError naming the failed task with its output, or InterruptedRunError.
    """
    inventory = _write_inventory(artifact_dir / "inventory", hosts)
    listener = _Listener(emit)
    interrupt = signal.getsignal(signal.SIGINT)
    terminate = signal.getsignal(signal.SIGTERM)
    try:
        runner = ansible_runner.run(
            private_data_dir=str(artifact_dir),
            project_dir=str(data_root() / "playbooks"),
            playbook=playbook,
            inventory=str(inventory),
            ident=Path(playbook).stem,
            envvars=_ansible_environment(artifact_dir),
            extravars=extra_variables or {},
            cmdline="--check --diff" if check else None,
            suppress_env_files=True,
            quiet=True,
            event_handler=listener,
            timeout=int(timeout) if timeout else None,
        )
    finally:
        # ansible-runner installs handlers of its own.
        signal.signal(signal.SIGINT, interrupt)
        signal.signal(signal.SIGTERM, terminate)
    _forget_environment(artifact_dir / "artifacts" / Path(playbook).stem / "command")
    if runner.status == "canceled":
        raise InterruptedRunError(f"The playbook '{playbook}' was interrupted.")
    if runner.status != "successful":
        raise InfrastructureError(
            _failure_sentence(playbook, runner, listener),
            evidence="\n".join(listener.failures) or _last_output(runner),
            hint=f"The whole output is in '{artifact_dir}'.",
        )
    return listener.result


def _failure_sentence(playbook: str, runner: Any, listener: _Listener) -> str:
    if runner.status == "timeout":
        return f"The playbook '{playbook}' did not finish in time."
    if listener.unreachable:
        return f"The playbook '{playbook}' lost its target."
    return f"The playbook '{playbook}' failed."


def _last_output(runner: Any) -> str:
    return "\n".join(runner.stdout.read().strip().splitlines()[-20:])


def _write_inventory(directory: Path, hosts: list[InventoryHost]) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    shutil.copytree(
        data_root() / "inventory" / "group_vars", directory / "group_vars", dirs_exist_ok=True
    )
    tree: dict[str, Any] = {}
    for host in hosts:
        group = tree.setdefault(host.group, {"hosts": {}})
        group["hosts"][host.name] = host.variables
    path = directory / "hosts.yml"
    path.write_text(yaml.safe_dump({"all": {"children": tree}}))
    path.chmod(0o600)
    return path


def _ansible_environment(artifact_dir: Path) -> dict[str, str]:
    root = data_root()
    return {
        # ansible-runner finds ansible-playbook on PATH or fails with rc 127.
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}:/usr/sbin:/sbin",
        "ANSIBLE_CONFIG": str(root / "ansible.cfg"),
        "ANSIBLE_HOME": str(artifact_dir / "home"),
        "ANSIBLE_ROLES_PATH": str(root / "roles"),
        "ANSIBLE_CONNECTION_PLUGINS": str(PACKAGE / "ansible_plugins" / "connection"),
        "ANSIBLE_LOCAL_TEMP": str(artifact_dir / "tmp"),
        "ANSIBLE_NOCOWS": "1",
        "LC_ALL": "C.UTF-8",
        **orphans.mark(),
    }


def _forget_environment(command_file: Path) -> None:
    """ansible-runner records the caller's whole environment, secrets included: drop it."""
    if not command_file.is_file():
        return
    recorded = json.loads(command_file.read_text())
    recorded.pop("env", None)
    command_file.write_text(json.dumps(recorded, indent=2))
