"""Ansible module for Molecule's create, cleanup and destroy; runs on this machine only."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

try:
    from rich.console import Console

    from vexrun.errors import ConfigError, InfrastructureError, InterruptedRunError, VexrunError
    from vexrun.events import Emit, Stages
    from vexrun.image.box import BoxId
    from vexrun.image.box_home import ensure_box
    from vexrun.image.build import ensure_base, ensure_layer
    from vexrun.image.locking import is_locked
    from vexrun.image.suites import find_suite
    from vexrun.interrupt import interruptible
    from vexrun.kbuild import BuildSpec
    from vexrun.kernel_log import KernelLogParser
    from vexrun.layout import state_dir
    from vexrun.progress import PlainDisplay
    from vexrun.results.model import KernelEvent
    from vexrun.settings import load_settings
    from vexrun.sources import source_of
    from vexrun.subject import Backing, Subject, check_against_tree, load_subject
    from vexrun.vm.accel import AccelChoice, choose_accelerator
    from vexrun.vm.detached import start_detached
    from vexrun.vm.disks import ScratchPlan
    from vexrun.vm.machine import Machine, MachinePlan, machines_dir, sweep_dead_machines
    from vexrun.vm.registry import end_named
    from vexrun.vm.snapshot import ensure_snapshot
    from vexrun.vm.ssh import GuestShell
    from vexrun.vm.type_names import names_to_reserve
    from vexrun.vm.vagrant_machine import VagrantMachine, end_vagrant_machine
except ImportError as error:
    MISSING_IMPORT: ImportError | None = error
else:
    MISSING_IMPORT = None

DOCUMENTATION = r"""
module: vexrun_vm
short_description: Start and end vexrun's virtual machines for a Molecule scenario
description:
  - Calls the Python code that C(vexrun test) and C(vexrun vm up) use, with the same cached image
    and RAM snapshot; what is missing in the cache is built.
  - Everything it must remember is in O(directory). A machine's name is written there before its
    QEMU starts, so O(state=absent) finds it whatever happened in between.
options:
  state:
    description:
      - V(present) starts the machine of O(instance) unless it is up. Molecule's instance config,
        an ssh_config with the pinned host key, and an inventory file with the variables that the
        roles need for O(subject) are written to O(directory).
      - V(collected) keeps the kernel log, the module, and the test results beside the console log,
        in a directory that survives. It never fails because of a guest that does not answer.
      - V(absent) ends every machine recorded in O(directory).
    type: str
    choices: [present, collected, absent]
    default: present
  directory:
    description: Molecule's ephemeral directory.
    type: path
    required: true
  checkout:
    description: The project's directory. A directory claimed by another checkout is not touched.
    type: path
    required: true
  scenario:
    description: Name of the scenario; names the directory that survives.
    type: str
    required: true
  instance:
    description: Name of the machine in the inventory. Required for O(state=present).
    type: str
  suite:
    description: Debian suite of the image.
    type: str
    default: trixie
  start:
    description: V(snapshot) restores the RAM snapshot (about 2 s), V(cold) boots the image.
    type: str
    choices: [snapshot, cold]
    default: snapshot
  backend:
    description:
      - What starts the machine. V(vagrant) has Vagrant boot the image's box, which is made when
        there is none; O(start) must be V(cold) then.
    type: str
    choices: [qemu, vagrant]
    default: qemu
  accel:
    description: Accelerator.
    type: str
    choices: [auto, kvm, tcg]
    default: auto
  subject:
    description: Subject file, relative to O(checkout). Required for O(state=present).
    type: path
  source:
    description:
      - The subject's source tree, shared read-only with the machine.
      - Default is what the subject file says, or else the directory it is in.
    type: path
author: [vexrun]
"""

EXAMPLES = r"""
- name: Start a machine
  vexrun_vm:
    directory: "{{ molecule_ephemeral_directory }}"
    checkout: "{{ lookup('ansible.builtin.env', 'MOLECULE_PROJECT_DIRECTORY') }}"
    scenario: default
    instance: vm
    subject: examples/subjects/minix.toml
"""

RETURN = r"""
machine:
  description: With V(present), the machine's record, as C(vexrun vm status --json) shows it.
  type: dict
  returned: success
variables:
  description: With V(present), what was written to the inventory for the instance.
  type: dict
  returned: success
kept:
  description: The directory that survives.
  type: str
  returned: always
kernel_events:
  description: With V(collected), the titles of what the kernel complained about on the console.
  type: list
  elements: str
  returned: success
missing:
  description: With V(collected), what could not be kept, and why.
  type: list
  elements: str
  returned: success
"""

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    "state": {"choices": ["present", "collected", "absent"], "default": "present"},
    "directory": {"type": "path", "required": True},
    "checkout": {"type": "path", "required": True},
    "scenario": {"required": True},
    "instance": {},
    "suite": {"default": "trixie"},
    "start": {"choices": ["snapshot", "cold"], "default": "snapshot"},
    "backend": {"choices": ["qemu", "vagrant"], "default": "qemu"},
    "accel": {"choices": ["auto", "kvm", "tcg"], "default": "auto"},
    "subject": {"type": "path"},
    "source": {"type": "path"},
}

#: The disk that role scratch_disk formats for the subject.
SCRATCH_SERIAL = "vexrun-scratch0"
#: A guest that has crashed may not answer at all; cleanup has to go on.
COLLECT_TIMEOUT_S = 90.0
PANICKED_TIMEOUT_S = 5.0


class Scenario:
    """What one scenario of one checkout has running, on disk in Molecule's ephemeral directory."""

    def __init__(self, directory: Path, checkout: Path, name: str) -> None:
        self.directory = directory
        self.checkout = checkout.resolve()
        self.name = name
        path_hash = hashlib.sha256(str(self.checkout).encode()).hexdigest()[:6]
        self.kept = state_dir() / "molecule" / f"{self.checkout.name}-{path_hash}" / name
        self._file = directory / "vexrun_machines.json"

    def load(self) -> list[dict[str, Any]]:
        """The recorded machines. Raises InfrastructureError when another checkout is here."""
        try:
            noted = json.loads(self._file.read_text())
        except FileNotFoundError:
            return []
        if noted["checkout"] != str(self.checkout):
            raise InfrastructureError(
                f"'{self.directory}' is in use by another checkout, '{noted['checkout']}'.",
                hint="Molecule names this directory after the checkout's last path component. "
                'Run: ANSIBLE_HOME="$PWD/.ansible" molecule test   (docs/molecule.md)',
            )
        machines: list[dict[str, Any]] = noted["machines"]
        return machines

    def save(self, machines: list[dict[str, Any]]) -> None:
        """Record `machines`, and write what Molecule, ssh and Ansible need to reach them."""
        if not machines:
            for path in self._derived():
                path.unlink(missing_ok=True)
            self._file.unlink(missing_ok=True)
            return
        _replace(self._file, {"checkout": str(self.checkout), "machines": machines})
        up = [machine for machine in machines if "ssh_config" in machine]
        inventory, instance_config, ssh_config = self._derived()
        hosts = {machine["instance"]: machine["variables"] for machine in up}
        inventory.parent.mkdir(exist_ok=True)
        _replace(inventory, {"all": {"hosts": hosts}})
        _replace(instance_config, [_instance_row(machine) for machine in up])
        ssh_config.write_text("".join(_ssh_section(machine) for machine in up))

    def _derived(self) -> tuple[Path, Path, Path]:
        # JSON is YAML; every file in inventory/ is read by Ansible.
        return (
            self.directory / "inventory" / "vexrun.yml",
            self.directory / "instance_config.yml",
            self.directory / "ssh_config",
        )


def _replace(path: Path, content: object) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.rename(path)


def _instance_row(machine: dict[str, Any]) -> dict[str, Any]:
    return {
        "instance": machine["instance"],
        "address": machine["instance"],  # a Host of our ssh_config
        "user": "root",
        "port": machine["ssh_port"],
        "identity_file": machine["identity_file"],
    }


def _ssh_section(machine: dict[str, Any]) -> str:
    """The machine's own ssh_config under the instance's name, with a connection all share.

    The first value of an option counts, so these two win over what the machine's file says.
    """
    _, _, options = machine["ssh_options"].partition("\n")
    shared = "  ControlMaster auto\n  ControlPersist 120\n"
    return f"Host {machine['instance']}\n{shared}{options}"


def is_up(machine: dict[str, Any]) -> bool:
    return bool(machine.get("name")) and is_locked(machines_dir() / machine["name"] / "lock")


# -- present ------------------------------------------------------------------------------------


def present(scenario: Scenario, params: dict[str, Any]) -> dict[str, Any]:
    """Start the instance's machine, or return the one that is up."""
    machines = scenario.load()
    recorded = [machine for machine in machines if machine["instance"] == params["instance"]]
    for machine in recorded:
        if is_up(machine) and "ssh_config" in machine:
            return _describe(scenario, machine, changed=False)
        end_named(machine["name"])
    kept = scenario.kept / params["instance"]
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True)
    entry: dict[str, Any] = {"instance": params["instance"], "token": secrets.token_hex(4)}
    entry["name"] = ""
    scenario.save([machine for machine in machines if machine not in recorded] + [entry])
    with (kept / "create.log").open("w") as log, PlainDisplay(Console(file=log, width=120)) as show:
        started = _start(scenario, params, kept, entry, show)
    _update(scenario, entry, started)
    return _describe(scenario, started, changed=True)


def _start(
    scenario: Scenario, params: dict[str, Any], kept: Path, entry: dict[str, Any], emit: Emit
) -> dict[str, Any]:
    subject_file = scenario.checkout / params["subject"]
    subject = load_subject(subject_file)
    settings = load_settings()
    sweep_dead_machines()
    base = ensure_base(find_suite(params["suite"]), settings.image, emit)
    image = ensure_layer(base, list(subject.subject.packages), settings.image, emit)
    given = Path(params["source"]) if params["source"] else None
    if given is None and subject.subject.source is None:
        given = subject_file.parent
    source = source_of(subject, given, image, emit).path
    check_against_tree(subject, source, subject_file)
    accelerator = choose_accelerator(
        AccelChoice(params["accel"]), image.kernel, image.manifest.sha256["vmlinuz"]
    )
    cold = params["start"] == "cold"
    demand_cold_start(params)
    reserved = names_to_reserve(subject.filesystem.type)
    if cold and reserved:
        raise ConfigError(
            f"A cold boot cannot keep the type name '{reserved[0]}' free for '{subject.name}'.",
            hint="Start from the snapshot: VEXRUN_MOLECULE_START=snapshot",
        )
    snapshot = None
    if not cold:
        snapshot = ensure_snapshot(image, accelerator, settings.machine, emit, reserved)
    console_log = kept / "console.log"
    if snapshot is not None:
        shutil.copyfile(snapshot.boot_console, console_log)
        with console_log.open("a") as log:
            log.write("\n--- vexrun: machine restored from its snapshot\n")
    plan = MachinePlan(
        image=image,
        accelerator=accelerator,
        memory_mib=settings.machine.memory_mib,
        cpus=settings.machine.cpus,
        source_dir=source,
        console_log=console_log,
        scratch=ScratchPlan(subject.filesystem.size_mib),
        disk=snapshot.disk if snapshot else image.disk,
        state=snapshot.state if snapshot else None,
    )
    make = Machine
    if params["backend"] == "vagrant":
        box = ensure_box(image, settings, emit)
        entry["box"] = [box.name, box.version]  # so that Vagrant can be asked to destroy it

        def make(plan: MachinePlan, console_log: Any) -> Machine:
            return VagrantMachine(plan, box, console_log)

    with Stages(emit).stage("start machine", params["start"]):
        record = start_detached(
            plan,
            announce=lambda name: _update(scenario, entry, {**entry, "name": name}),
            make=make,
        )
    release = image.manifest.kernel_release
    return {
        **entry,
        **record,
        "started": params["start"],
        "identity_file": str(image.client_key),
        "ssh_options": Path(str(record["ssh_config"])).read_text(),
        "ko": str(BuildSpec.main(subject).ko_path),
        "variables": role_variables(subject, release, subject_file),
    }


def demand_cold_start(params: dict[str, Any]) -> None:
    """Vagrant boots boxes; it knows nothing of our snapshot. ConfigError names the fix."""
    if params["backend"] == "vagrant" and params["start"] != "cold":
        raise ConfigError(
            "Vagrant boots its box: there is no snapshot of vexrun's to start it from.",
            hint="Give the platform 'vexrun_start: cold', and unset VEXRUN_MOLECULE_START.",
        )


def _update(scenario: Scenario, entry: dict[str, Any], new: dict[str, Any]) -> None:
    """Replace our entry; when `molecule destroy` has removed it meanwhile, undo and stop."""
    machines = scenario.load()
    tokens = [machine.get("token") for machine in machines]
    if entry["token"] not in tokens:
        end_named(new["name"])
        raise InterruptedRunError("The scenario was destroyed while its machine was starting.")
    machines[tokens.index(entry["token"])] = new
    scenario.save(machines)


def role_variables(subject: Subject, release: str, subject_file: Path) -> dict[str, Any]:
    """What the roles must know to build, load and format this subject, and the tests to check."""
    spec = BuildSpec.main(subject)
    filesystem = subject.filesystem
    on_disk = filesystem.backing is Backing.BLOCK
    mkfs = (filesystem.mkfs or "") if on_disk else ""
    return {
        "module_build_name": subject.name,
        "module_build_arguments": spec.arguments(release, 0),
        "module_load_name": subject.module.sysfs_name,
        "module_load_ko": str(spec.ko_path),
        "module_load_needs": list(subject.module.needs),
        "module_load_params": dict(subject.module.params),
        "module_load_fstype": filesystem.type,
        "scratch_disk_serials": [SCRATCH_SERIAL] if on_disk else [],
        "scratch_disk_mkfs_command": mkfs.replace("{tools}", str(spec.tools_dir)),
        "molecule_subject_file": str(subject_file),
        "molecule_subject_type": filesystem.type,
        "molecule_subject_options": list(filesystem.options),
    }


def _describe(scenario: Scenario, machine: dict[str, Any], *, changed: bool) -> dict[str, Any]:
    return {
        "changed": changed,
        "machine": machine,
        "variables": machine["variables"],
        "kept": str(scenario.kept),
        "msg": f"'{machine['instance']}' is {machine['name']} ({machine['image']}, "
        f"{machine['accel']}, {machine['started']}); console: {machine['console_log']}",
    }


# -- collected ----------------------------------------------------------------------------------


def collected(scenario: Scenario) -> dict[str, Any]:
    """Copy what is worth keeping out of the guests; a silent guest is noted, not an error."""
    missing: list[str] = []
    kernel_said: list[str] = []
    machines = scenario.load()
    for machine in machines:
        kept = scenario.kept / machine["instance"]
        kept.mkdir(parents=True, exist_ok=True)
        if not is_up(machine) or "ssh_config" not in machine:
            missing.append(f"{machine['instance']}: the machine is not up")
            continue
        events = kernel_events(Path(machine["console_log"]), machine["variables"])
        kernel_said += [event.title for event in events]
        panicked = any(event.event_class == "panic" for event in events)
        timeout_s = PANICKED_TIMEOUT_S if panicked else COLLECT_TIMEOUT_S
        shell = GuestShell(Path(machine["ssh_config"]))
        try:
            log = shell.run("dmesg -r", timeout_s=timeout_s, check=True)
            (kept / "dmesg.log").write_text(log.stdout)
            ko = Path(machine["ko"])
            if not shell.fetch_tree(str(ko.parent), ko.name, kept):
                missing.append(f"{machine['instance']}: '{ko}' was not built")
        except VexrunError as error:
            missing.append(f"{machine['instance']}: {error.message}")
    if machines:
        for name in ("junit.xml", "changes.jsonl"):
            if (scenario.directory / name).is_file():
                shutil.copyfile(scenario.directory / name, scenario.kept / name)
    said = f"Console, kernel log and module are in '{scenario.kept}'."
    if kernel_said:
        said += f" The kernel reported: {'; '.join(kernel_said)}."
    if missing:
        said += f" Missing: {'; '.join(missing)}."
    return {
        "changed": bool(machines),
        "missing": missing,
        "kernel_events": kernel_said,
        "kept": str(scenario.kept),
        "msg": said if machines else "There is no machine to collect from.",
    }


def kernel_events(console_log: Path, variables: dict[str, Any]) -> list[KernelEvent]:
    """What the kernel complained about on the console, its boot included."""
    parser = KernelLogParser([variables["module_load_name"]])
    data = console_log.read_bytes() if console_log.is_file() else b""
    return [*parser.feed(data), *parser.finish()]


# -- absent -------------------------------------------------------------------------------------


def absent(scenario: Scenario) -> dict[str, Any]:
    """End every recorded machine, however far it got."""
    machines = scenario.load()
    # First forget, so that a create that is still on its way notices and gives up.
    names = [machine["name"] for machine in machines if machine["name"]]
    if machines:
        _replace(
            scenario.directory / "vexrun_machines.json",
            {"checkout": str(scenario.checkout), "machines": []},
        )
    for machine in machines:
        if machine["name"] and "box" in machine:
            _vagrant_destroy(machine)
    ended = [name for name in names if end_named(name)]
    scenario.save([])
    for name in ("junit.xml", "changes.jsonl"):
        (scenario.directory / name).unlink(missing_ok=True)
    return {"changed": bool(machines), "ended": ended, "kept": str(scenario.kept)}


def _vagrant_destroy(machine: dict[str, Any]) -> None:
    """Vagrant's own end of it. A QEMU that this leaves is ended by its name all the same."""
    try:
        end_vagrant_machine(machines_dir() / machine["name"], BoxId(*machine["box"]))
    except InfrastructureError:
        end_named(machine["name"])
        raise


def main() -> None:
    module = AnsibleModule(
        argument_spec=ARGUMENT_SPEC,
        required_if=[("state", "present", ["instance", "subject"])],
    )
    if MISSING_IMPORT is not None:
        module.fail_json(
            msg=f"vexrun cannot be imported ({MISSING_IMPORT}); run Molecule from the environment "
            "it is installed in: make setup, then . .venv/bin/activate"
        )
    # Making an image runs Ansible again, which must not inherit Molecule's settings.
    for variable in [name for name in os.environ if name.startswith("ANSIBLE_")]:
        del os.environ[variable]
    given = module.params
    scenario = Scenario(Path(given["directory"]), Path(given["checkout"]), given["scenario"])
    try:
        with interruptible():
            if given["state"] == "present":
                result = present(scenario, given)
            elif given["state"] == "collected":
                result = collected(scenario)
            else:
                result = absent(scenario)
    except VexrunError as error:
        parts = [error.message, error.evidence, error.hint]
        said = "\n".join(part for part in parts if part)
        module.fail_json(msg=said, kept=str(scenario.kept))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
