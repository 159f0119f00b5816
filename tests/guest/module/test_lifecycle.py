"""The module loads, is what was built, counts its users, and leaves nothing behind."""

from __future__ import annotations

import shlex

import module_in_guest as guest_code
import pytest
from vexrun.guest.context import RunContext
from vexrun.guest.filesystem import Filesystem
from vexrun.guest.fixtures import Guest
from vexrun.guest.kernel_module import KernelModule
from vexrun.guest.payload import GuestPython
from vexrun.guest.scratch import Scratch
from vexrun.subject import Subject

from tree_in_guest import verify


@pytest.fixture
def unloaded(filesystem: Filesystem, module: KernelModule) -> KernelModule:
    """The module, not loaded; `filesystem` has unmounted what was mounted."""
    module.unload()
    return module


def registered(guest: Guest, kind: str) -> list[str]:
    """The lines of /proc/filesystems that name this type."""
    lines = (guest.read("/proc/filesystems") or "").splitlines()
    return [line for line in lines if line.split()[-1:] == [kind]]


def types(guest: Guest) -> set[str]:
    """The filesystem types the kernel knows."""
    lines = (guest.read("/proc/filesystems") or "").splitlines()
    return {line.split()[-1] for line in lines if line.split()}


def test_load_and_identity(unloaded: KernelModule, guest: Guest, context: RunContext) -> None:
    """What is loaded is the built file, an out-of-tree module, and alive."""
    unloaded.load()
    directory = f"/sys/module/{unloaded.name}"
    assert guest.read(f"{directory}/initstate") == "live\n"
    taint = (guest.read(f"{directory}/taint") or "").strip()
    assert "O" in taint, (
        f"the loaded module has the taint flags '{taint}' without 'O' (out of tree): it looks "
        "like the kernel's own copy"
    )
    assert context.module is not None
    assert context.module.name == unloaded.name, (
        f"the module file calls itself '{context.module.name}', the subject file says "
        f"module.name = '{unloaded.name}'"
    )


def test_filesystem_type_comes_and_goes(
    unloaded: KernelModule, guest: Guest, filesystem: Filesystem
) -> None:
    kind = filesystem.type
    assert not registered(guest, kind), (
        f"'{kind}' is in /proc/filesystems before the module is loaded: something else in this "
        "kernel answers for it"
    )
    before = types(guest)
    unloaded.load()
    lines = registered(guest, kind)
    came = ", ".join(f"'{each}'" for each in sorted(types(guest) - before)) or "nothing"
    assert lines, (
        f"the module is loaded, but '{kind}' is not in /proc/filesystems; {came} came with it "
        "(filesystem.type of the subject file is the type that the module registers)"
    )
    nodev = lines[0].split()[0] == "nodev"
    assert nodev != filesystem.is_block, (
        f"/proc/filesystems says '{' '.join(lines[0].split())}', the subject file says "
        f"filesystem.backing = '{filesystem.declared.backing}'"
    )
    unloaded.unload()
    assert not registered(guest, kind), f"'{kind}' is in /proc/filesystems after rmmod"


def test_parameters(filesystem: Filesystem, module: KernelModule, in_guest: GuestPython) -> None:
    """Declared parameters have their value; all that are shown can be read."""
    directory = f"/sys/module/{module.name}/parameters"
    shown = in_guest(guest_code.parameters, directory)
    for key, value in filesystem.context.subject.module.params.items():
        if key not in shown:
            continue  # declared with permission 0: not visible, and insmod accepted it
        wanted = {True: "Y", False: "N"}.get(value, str(value)) if value in (True, False) else value
        assert shown[key].strip() in (str(wanted), str(value)), (
            f"the parameter '{key}' was set to '{value}' and reads '{shown[key].strip()}'"
        )


def test_second_load_is_refused(filesystem: Filesystem, module: KernelModule, guest: Guest) -> None:
    assert module.context.module is not None
    status, out, err = guest.run(f"insmod {shlex.quote(module.context.module.path)}")
    assert status != 0, "loading the module a second time was accepted"
    assert "File exists" in out + err, (
        f"loading it a second time must say EEXIST, it says: {(err or out).strip()}"
    )
    module.prove_identity()
    lines = registered(guest, filesystem.type)
    assert len(lines) == 1, (
        f"after a second load was refused, '{filesystem.type}' is {len(lines)} times in "
        "/proc/filesystems"
    )


def test_references_follow_mounts(
    filesystem: Filesystem, module: KernelModule, scratch: Scratch, in_guest: GuestPython
) -> None:
    assert module.references() == 0, "nothing is mounted, but the module is in use"
    filesystem.mkfs(scratch.main)
    filesystem.mount(scratch.main)
    assert module.references() > 0, (
        "the filesystem is mounted, but the module's reference count is 0: is "
        "file_system_type.owner set to THIS_MODULE?"
    )
    filesystem.umount()
    count = in_guest(guest_code.references_after, module.name, 2.0)
    assert count == 0, f"2 s after umount the module's reference count is {count}"


@pytest.mark.needs_operations("write", "create")
def test_rmmod_while_mounted_is_refused(
    filesystem: Filesystem,
    module: KernelModule,
    scratch: Scratch,
    guest: Guest,
    in_guest: GuestPython,
) -> None:
    """And the mount goes on to work."""
    filesystem.mkfs(scratch.main)
    filesystem.mount(scratch.main)
    note = in_guest(guest_code.one_file, filesystem.path)
    status, _, _ = guest.run(f"rmmod {module.name}")
    assert status != 0, "rmmod of a module with a mounted filesystem said it worked"
    assert module.is_loaded(), "rmmod was refused, but the module is gone"
    filesystem.assert_mounted()
    in_guest(verify, filesystem.path, note, cleanup=False)
    filesystem.umount()
    module.unload()


@pytest.mark.parametrize("use", ["loaded", "mounted"])
def test_nothing_is_left_behind(
    unloaded: KernelModule,
    filesystem: Filesystem,
    scratch: Scratch,
    guest: Guest,
    in_guest: GuestPython,
    subject: Subject,
    use: str,
) -> None:
    """Slab caches, threads, /proc, /sys and /dev are after rmmod as they were before insmod."""
    for needed in subject.module.needs:
        guest.check(f"modprobe {shlex.quote(needed)}")
    before = in_guest(guest_code.traces)
    unloaded.load()
    if use == "mounted":
        filesystem.mkfs(scratch.main)
        filesystem.mount(scratch.main)
        if not {"write", "create"} & subject.filesystem.lacked_operations:
            in_guest(guest_code.one_file, filesystem.path)
        filesystem.umount()
    unloaded.unload()
    left = in_guest(guest_code.left_behind, before, 2.0)
    if "/sys/module" in left:
        # The kernel loaded helpers on demand (character sets, checksums): theirs stay.
        left = {area: names for area, names in left.items() if _is_ours(area, names, unloaded)}
    shown = "; ".join(f"{area}: {', '.join(names)}" for area, names in left.items())
    assert not left, f"after rmmod there is left behind: {shown}"


def _is_ours(area: str, names: list[str], module: KernelModule) -> bool:
    kind = module.context.subject.filesystem.type
    return any(word in name for name in names for word in (module.name, kind))


def test_load_and_unload_ten_times(
    unloaded: KernelModule, filesystem: Filesystem, in_guest: GuestPython
) -> None:
    unloaded.load()  # with its proof
    unloaded.unload()
    assert unloaded.context.module is not None
    unloaded.provide_needs()
    in_guest(
        guest_code.load_cycles,
        unloaded.context.module.path,
        unloaded.parameters(),
        unloaded.name,
        filesystem.type,
        10,
    )
    unloaded.load()


@pytest.mark.needs_operations("write", "create", "persistence")
def test_content_survives_a_reload(
    filesystem: Filesystem, module: KernelModule, scratch: Scratch, in_guest: GuestPython
) -> None:
    filesystem.mkfs(scratch.main)
    filesystem.mount(scratch.main)
    note = in_guest(guest_code.one_file, filesystem.path)
    filesystem.umount()
    module.unload()
    module.load()
    filesystem.mount(scratch.main)
    in_guest(verify, filesystem.path, note)
    filesystem.umount()
