"""Nothing is loaded, formatted or mounted on the machine vexrun runs on, and no code path can.

Four arguments, from the outside in: a request for it is refused (test_config.py); the roles for
this machine hold no such task; the code names such programs only where a guest or a namespace of
our own runs them; and processes are started in so few places that this can be read.
"""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from vexrun.errors import InfrastructureError
from vexrun.image.namespace import Bind, enter_argv, namespace_argv, require_namespaces
from vexrun.process import run

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "vexrun"

#: Programs that change what the running kernel holds, or what a disk holds.
PROGRAMS = (
    r"(?:insmod|modprobe|rmmod|mount|umount|mkfs(?:\.\w+)?|mke2fs|mkswap|swapon|swapoff|losetup"
    r"|kexec|wipefs|blkdiscard)"
)
#: Such a name where a shell, or an argv, would take it for a command.
COMMAND = re.compile(
    rf"(?:^|[;&|(`{{\n]|\b(?:then|do|else|exec|sudo|nohup)\s|--\s)\s*(?:/\S*/)?({PROGRAMS})"
    r"(?=$|[\s;&|)])"
)

GUEST = "sent to the guest over its own connection"
WORDS = "words: a category, a key of the subject file, a message"
#: Where such names may stand, and why none of them starts a program here.
NAMED_IN = {
    "categories.py": WORDS,
    "subject.py": WORDS,
    "bench_detection.py:_latency_s": WORDS,
    "watch.py": WORDS,
    "scaffold/": "written into a subject file, whose commands only a guest runs",
    "doctor.py": "looked for on PATH, never started",
    "image/build.py:": "the table of programs that must be installed",
    "image/build.py:make_filesystem": "makes the image's disk: a regular file of ours, see below",
    "guest/faults.py:open": GUEST,
    "guest/filesystem.py:mkfs": WORDS,
    "guest/filesystem.py:mount": WORDS,
    "guest/filesystem.py:umount_once": WORDS,
    "guest/kernel_module.py:load": GUEST,
    "guest/kernel_module.py:_provide": GUEST,
    "guest/kernel_module.py:unload": GUEST,
    "guest/mounting_in_guest.py:umount": WORDS,
    "device/description.py": WORDS,
    "gate/checks.py": WORDS,
    "device/differences.py": WORDS,
    "device/stages.py": WORDS,
    "device/facts_in_guest.py:_signatures": "on the device; without --all it only lists",
    "device/safety_net.py": "a script for the device, through the stdin of a shell there",
    "target/device.py:_take_disk": GUEST,
    "target/device.py:_remove_own_modules": GUEST,
    "target/leaving.py:umount_and_unload": GUEST,
    "vm/machine.py:set_clock_and_mount_source": GUEST,
    "vm/snapshot.py:_boot_and_save": GUEST,
    "vm/snapshot.py:quiesce": GUEST,
    "target/vagrant.py:_boot": GUEST,
    "vm/type_names.py:reserving_initrd": "a line of the guest's initrd",
}

#: Where processes are started or the kernel is called, beside vexrun/process.py.
DOORS = {
    "process.py": "the door: setpriv, an explicit environment",
    "orphans.py": "a watcher of ours, which only kills",
    "commands/machine.py": "becomes ssh, into a guest",
    "ansible_plugins/connection/rootfs.py": "Ansible, into a root filesystem: enter.sh before all",
    "device/facts_in_guest.py": "runs on the device; called by nobody here",
    "guest/agent.py": "runs in the guest",
    "guest/mounting_in_guest.py": "runs in the guest",
    "guest/faults_in_guest.py": "runs in the guest",
}
STARTS = re.compile(
    r"^(?:subprocess\.(?:run|Popen|call|check_call|check_output|getoutput|getstatusoutput)"
    r"|os\.(?:system|popen|fork|forkpty|exec\w+|spawn\w+|posix_spawnp?)"
    r"|pty\.(?:spawn|fork)|asyncio\.create_subprocess_\w+|ctypes\.(?:CDLL|PyDLL|cdll\..*))$"
)


def _modules() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if "_data" not in path.parts]


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def _docstrings(tree: ast.AST) -> set[ast.AST]:
    holders = (ast.Module, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {
        node.body[0].value
        for node in ast.walk(tree)
        if isinstance(node, holders) and node.body and isinstance(node.body[0], ast.Expr)
    }


def _with_function(tree: ast.AST, function: str = "") -> Iterator[tuple[ast.AST, str]]:
    """Every node, and the name of the innermost function around it."""
    for child in ast.iter_child_nodes(tree):
        inside = function
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            inside = child.name
        yield child, inside
        yield from _with_function(child, inside)


def commands_in(source: ast.Module) -> list[tuple[str, str]]:
    """(function, program) of every string that names such a program as a command."""
    ignored = _docstrings(source)
    return [
        (function, program)
        for node, function in _with_function(source)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in ignored
        for program in COMMAND.findall(node.value)
    ]


def _row(name: str, function: str) -> str | None:
    for key in (f"{name}:{function}", name):
        if key in NAMED_IN:
            return key
    return next((key for key in NAMED_IN if key.endswith("/") and name.startswith(key)), None)


# -- the code names them only where something else runs them --------------------------------------


def test_the_scan_finds_what_it_is_for() -> None:
    planted = (
        'def f(d):\n    "insmod in a docstring is prose"\n    run(["mkfs.ext4", d])\n'
        '    run(["sh", "-c", f"sync; mount {d} /mnt"])\n'
        '    run(["setpriv", "--", "/sbin/insmod"])\n'
        '    say("the mount point")\n'
    )
    assert [program for _, program in commands_in(ast.parse(planted))] == [
        "mkfs.ext4",
        "mount",
        "insmod",
    ]


def test_every_place_that_names_such_a_program_is_known() -> None:
    unknown = [
        f"{_name(path)}:{function} names '{program}'"
        for path in _modules()
        for function, program in commands_in(_tree(path))
        if _row(_name(path), function) is None
    ]
    assert unknown == [], "say in NAMED_IN who runs it"


def test_no_known_place_is_a_thing_of_the_past() -> None:
    used = {
        _row(_name(path), function)
        for path in _modules()
        for function, _ in commands_in(_tree(path))
    }
    assert set(NAMED_IN) - used == set()


def test_a_module_that_starts_processes_here_sends_guests_their_commands_by_a_shell() -> None:
    """A command for the guest is no argument of the functions that start a process here."""
    here = {"run", "start", "running", "process.run", "process.start", "process.running"}
    wrong = []
    for path in _modules():
        if NAMED_IN.get(_row(_name(path), "") or "") == WORDS:
            continue
        for node, function in _with_function(_tree(path)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in here:
                words = [each for each in ast.walk(node) if isinstance(each, ast.Constant)]
                wrong += [
                    f"{_name(path)}:{function}"
                    for each in words
                    if isinstance(each.value, str) and COMMAND.search(each.value)
                ]
    assert wrong == []


def test_mke2fs_makes_a_regular_file_of_ours() -> None:
    """The one such program that runs here formats what was opened as a new file just before."""
    make_disk = next(
        node
        for node, _ in _with_function(_tree(PACKAGE / "image" / "build.py"))
        if isinstance(node, ast.FunctionDef) and node.name == "make_filesystem"
    )
    text = ast.unparse(make_disk)
    assert "/dev/" not in text
    assert re.search(r"'mke2fs'.*str\((raw|disk|image|path)\)", text, re.DOTALL), text


def test_processes_are_started_in_few_places() -> None:
    found = {
        _name(path)
        for path in _modules()
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.Call) and STARTS.match(ast.unparse(node.func))
    }
    assert found - set(DOORS) == set(), "go through vexrun/process.py"


def test_code_for_the_guest_is_called_by_nobody_here() -> None:
    """What is in *_in_guest.py is handed over as a function; calling it would run it here."""
    wrong = []
    places = [*_modules(), *sorted((ROOT / "tests" / "guest").rglob("*.py"))]
    for path in places:
        if path.name.endswith("_in_guest.py"):
            continue
        tree = _tree(path)
        names: set[str] = set()
        modules: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                if (node.module or "").endswith("_in_guest"):
                    names |= {
                        alias.asname or alias.name
                        for alias in node.names
                        if alias.name[:1].islower()
                    }
                modules |= {
                    alias.asname or alias.name
                    for alias in node.names
                    if alias.name.endswith("_in_guest")
                }
            elif isinstance(node, ast.Import):
                modules |= {
                    alias.asname or alias.name
                    for alias in node.names
                    if alias.name.endswith("_in_guest")
                }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called in names or called.partition(".")[0] in modules:
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} calls {called}")
    touching = re.compile(r"mount|umount|mkfs|open_faulty|write|fill|overwrite", re.IGNORECASE)
    assert [line for line in wrong if touching.search(line.rpartition(" ")[2])] == []


# -- mounts of an image's root filesystem exist in a namespace of their own -----------------------


def test_the_script_that_mounts_is_entered_through_a_mount_namespace_only() -> None:
    for readonly in (True, False):
        argv = enter_argv(Path("/r"), [Bind(Path("/s"), "/t")], readonly=readonly)
        before = argv[: argv.index("sh")]
        assert before[0] == "unshare"
        assert {"--mount", "--pid"} <= set(before)
        assert "--propagation" not in before, "private is unshare's default"
    users = [_name(path) for path in _modules() if "enter.sh" in path.read_text(encoding="utf-8")]
    assert {name for name in users if f'"{"enter.sh"}"' in (PACKAGE / name).read_text()} <= {
        "image/namespace.py",
        "image/manifest.py",
    }


def test_a_mount_in_our_namespaces_is_not_there_outside(tmp_path: Path) -> None:
    try:
        require_namespaces()
    except InfrastructureError as error:
        pytest.skip(f"no namespaces here: {error.message}")
    before = Path("/proc/self/mountinfo").read_text()
    script = 'mount -t tmpfs vexrun-probe "$1" && echo inside >"$1/file" && cat "$1/file"'
    done = run([*namespace_argv(), "sh", "-c", script, "sh", str(tmp_path)])
    assert done.stdout == "inside\n"
    assert list(tmp_path.iterdir()) == []
    assert Path("/proc/self/mountinfo").read_text() == before
    assert "vexrun-probe" not in before


# -- the roles for this machine --------------------------------------------------------------------

#: Roles that build, load, mount or touch a disk, or make a machine another one.
NEVER = {"module_build", "module_load", "scratch_disk", "source_mount", "guest_base"}
MODULES_OF_ANSIBLE = re.compile(
    r"^(ansible\.(builtin|posix)\.|community\.general\.)?"
    r"(modprobe|mount|filesystem|parted|lvol|lvg|kernel_blacklist|reboot|sysctl)$"
)


def _yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _tasks(items: Any) -> Iterator[dict[str, Any]]:
    for task in items or []:
        yield task
        for part in ("block", "rescue", "always"):
            yield from _tasks(task.get(part))


def _keys_of(task: dict[str, Any], word: str) -> Any:
    return next((value for key, value in task.items() if key.rpartition(".")[2] == word), None)


def _roles_of(play: dict[str, Any]) -> set[str]:
    named = {each["role"] if isinstance(each, dict) else each for each in play.get("roles", [])}
    for part in ("pre_tasks", "tasks", "post_tasks", "handlers"):
        named |= _roles_in_tasks(play.get(part))
    return named


def _roles_in_tasks(items: Any) -> set[str]:
    named = set()
    for task in _tasks(items):
        for word in ("import_role", "include_role"):
            asked = _keys_of(task, word)
            if asked is not None:
                named.add(asked["name"])
    return named


def _with_dependencies(names: set[str]) -> set[str]:
    seen: set[str] = set()
    waiting = set(names)
    while waiting:
        name = waiting.pop()
        seen.add(name)
        role = ROOT / "roles" / name
        assert role.is_dir(), f"a role that is not ours: '{name}'"
        more = {
            each["role"] if isinstance(each, dict) else each
            for each in (_yaml(role / "meta" / "main.yml") or {}).get("dependencies", [])
        }
        for file in _task_files(name):
            more |= _roles_in_tasks(_yaml(file))
        waiting |= more - seen
    return seen


def _task_files(role: str) -> list[Path]:
    return sorted((ROOT / "roles" / role).glob("tasks/*.yml")) + sorted(
        (ROOT / "roles" / role).glob("handlers/*.yml")
    )


def _plays_on_this_machine() -> list[tuple[Path, dict[str, Any]]]:
    found = []
    for path in sorted((ROOT / "playbooks").glob("*.yml")):
        for play in _yaml(path):
            if "hosts" not in play:
                pytest.fail(f"{path.name} imports a playbook, which this test does not follow")
            hosts = set(re.split(r"[:,]", play["hosts"]))
            if hosts & {"host", "all", "localhost", "127.0.0.1", "*"}:
                found.append((path, play))
    return found


HOST_ROLES = sorted(
    set().union(*(_with_dependencies(_roles_of(play)) for _, play in _plays_on_this_machine()))
)


def test_this_machine_is_provisioned_by_roles() -> None:
    assert {"toolchain_c", "hypervisor"} <= set(HOST_ROLES)
    names = [path.name for path, _ in _plays_on_this_machine()]
    assert "provision.yml" in names


@pytest.mark.parametrize("role", HOST_ROLES)
def test_a_role_for_this_machine_builds_and_loads_nothing(role: str) -> None:
    assert role not in NEVER


def _host_tasks() -> list[tuple[str, dict[str, Any]]]:
    found = [
        (f"roles/{role}/{file.name}", task)
        for role in HOST_ROLES
        for file in _task_files(role)
        for task in _tasks(_yaml(file))
    ]
    for path, play in _plays_on_this_machine():
        for part in ("pre_tasks", "tasks", "post_tasks", "handlers"):
            found += [(path.name, task) for task in _tasks(play.get(part))]
    return found


@pytest.mark.parametrize(
    ("place", "task"), _host_tasks(), ids=[f"{p}:{t.get('name')}" for p, t in _host_tasks()]
)
def test_a_task_for_this_machine_touches_no_module_and_no_disk(
    place: str, task: dict[str, Any]
) -> None:
    assert not [key for key in task if MODULES_OF_ANSIBLE.match(key)], place
    for word in ("command", "shell", "raw", "script"):
        said = _keys_of(task, word)
        if said is not None:
            variables = task.get("vars", {})
            text = yaml.safe_dump([said, variables], width=10_000)
            assert not re.search(rf"(?<![\w./-]){PROGRAMS}(?![\w-])", text), place
            assert "/dev/sd" not in text
            assert "/dev/disk" not in text


def test_no_variable_lets_a_module_be_loaded_here() -> None:
    variables = ROOT / "inventory" / "group_vars"
    assert _yaml(variables / "all.yml")["vexrun_module_load_allowed"] is False
    assert "vexrun_module_load_allowed" not in _yaml(variables / "host.yml")
    preflight = (ROOT / "roles" / "module_load" / "tasks" / "preflight.yml").read_text()
    assert "'host'" in preflight, "the role itself refuses the group"


# -- what is started for this machine, with programs that would notice -----------------------------

NOTICED = ("insmod", "modprobe", "rmmod", "mount", "umount", "mkfs", "mkfs.ext4", "mke2fs")


@pytest.mark.parametrize("name", ["module", "mkfs", "mount"])
@pytest.mark.parametrize("more", [[], ["--build", "guest", "--accel", "kvm", "--keep"]])
def test_no_flag_makes_a_request_for_this_machine_load_or_format(
    name: str, more: list[str], source_tree: Path, programs: Any, home: Path
) -> None:
    for noticed in NOTICED:
        programs.add(noticed)
    done = run(
        [
            *(sys.executable, "-m", "vexrun.cli", "test", str(source_tree)),
            *("--target", "host", "--only", name, *more),
        ],
        cwd=ROOT,
        env={key: value for key, value in os.environ.items() if key.startswith("VEXRUN_")},
        check=False,
    )
    assert done.returncode == 2
    assert f"'{name}'" in done.stderr
    assert "never loaded here" in done.stderr
    assert [noticed for noticed in NOTICED if programs.calls(noticed)] == []


# -- a device is another machine -----------------------------------------------------------------


def test_the_code_for_devices_reaches_no_module_program_of_this_machine() -> None:
    """What a device is told goes through ssh; nothing in vexrun/device starts anything else here,
    but bash, which feeds the words of the sign of life to ssh."""
    paths = [*(PACKAGE / "device").glob("*.py"), PACKAGE / "target" / "device.py"]
    nodes = [
        node
        for path in paths
        if not path.name.endswith("_in_guest.py")
        for node in ast.walk(_tree(path))
    ]
    doors = {"run", "process.run", "process.start", "process.running"}
    started = [
        ast.unparse(node.args[0])
        for node in nodes
        if isinstance(node, ast.Call) and ast.unparse(node.func) in doors
    ]
    named = [
        ast.unparse(node.value)
        for node in nodes
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "argv"
    ]
    assert started and named
    for argv in [*named, *(each for each in started if each != "argv")]:
        assert re.match(r"\['ssh(-keyscan|-keygen)?'|\['bash', '-c', f'\{words\} \| exec", argv), (
            argv
        )


def test_this_machine_is_refused_as_a_device_by_either_of_its_names() -> None:
    """Guards of their own: no file, no release and no override has a say in them."""
    text = (PACKAGE / "device" / "guards.py").read_text()
    guard = text[text.index("def _not_this_machine") : text.index("def _same_boot")]
    assert "machine_id" in guard and "boot_id" in guard
    for word in ("allow", "released", "override", "running", "begun"):
        assert word not in guard
