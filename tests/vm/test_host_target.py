"""`--target host` for real, with programs that would notice, and a subject that tries its worst.

No machine is started here; what is built is built natively, in the image's root filesystem.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from vexrun.events import ignore
from vexrun.image.build import ensure_base
from vexrun.image.suites import find_suite
from vexrun.settings import load_settings

NOTICED = (
    *("insmod", "modprobe", "rmmod", "mount", "umount", "losetup", "swapon", "kexec"),
    *("mkfs", "mkfs.ext4", "mkfs.xfs", "mke2fs", "mkswap", "wipefs", "blkdiscard"),
)
#: Notes the mount namespace it is called in, and goes on only where that is not this machine's.
NOTICE = """#!/bin/sh
here=$(readlink /proc/self/ns/mnt)
echo "{name} $here $*" >>{log}
if [ "$here" = "{ours}" ]; then
    echo "{name} was called on the host" >&2
    exit 97
fi
exec {real} "$@"
"""
MODULE = """
#include <linux/module.h>
static int __init demo_init(void) { return 0; }
static void __exit demo_exit(void) { }
module_init(demo_init);
module_exit(demo_exit);
MODULE_LICENSE("GPL");
MODULE_AUTHOR("vexrun");
MODULE_DESCRIPTION("builds, and tries what a build must not");
"""
#: Each attempt would do no lasting harm if it came through: -n of mke2fs writes nothing, the
#: sysctl keeps its value, the module is of another kernel and does nothing.
ATTEMPTS = """
attempt() {
    name=$1
    shift
    if said=$("$@" 2>&1); then
        echo "SUCCEEDED $name"
        came_through=1
    else
        echo "refused $name: $(echo "$said" | tail -n 1)"
    fi
}
came_through=0
module=$PWD/demo.ko
[ -e "$module" ] || exit 1
cd "$(mktemp -d)"
: >file
attempt insmod /sbin/insmod "$module"
attempt modprobe /sbin/modprobe dummy
attempt rmmod /sbin/rmmod loop
attempt mount mount -t tmpfs none /mnt
attempt remount mount -o remount,rw /
attempt umount umount /proc
attempt losetup losetup --find --show ./file
attempt mknod mknod disk b 254 0
for disk in DISKS; do
    attempt "mkfs of $disk" /sbin/mke2fs -n -F -q "/dev/$disk"
done
attempt sysctl sh -c 'read -r v </proc/sys/kernel/panic; echo "$v" >/proc/sys/kernel/panic'
attempt "write to the source" touch /mnt/vexfs-src/trace
attempt "write to the image" touch /usr/trace
grep -E '^(CapEff|CapBnd|CapPrm|NoNewPrivs):' /proc/self/status
exit $came_through
"""
#: CAP_SYS_MODULE, _SYS_RAWIO, _SYS_ADMIN, _SYS_BOOT, _MKNOD, _MAC_ADMIN, _BPF, as capability.h
#: numbers them.
DANGEROUS = (16, 17, 21, 22, 27, 33, 39)
SUBJECT = """
[subject]
name = "demo"
[module]
ko = "demo.ko"
[filesystem]
type = "demo"
backing = "nodev"
[[tools]]
name = "attempts"
build = "sh attempts.sh && printf '#!/bin/sh\\n' >{out} && chmod +x {out}"
"""


@pytest.fixture
def notices(suite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs first on PATH that note each call; returns the file with the notes.

    The image is there before: making one calls mke2fs, on a file.
    """
    ensure_base(find_suite(suite), load_settings().image, ignore)
    log, directory = tmp_path / "noticed", tmp_path / "bin"
    directory.mkdir()
    ours = str(Path("/proc/self/ns/mnt").readlink())
    for name in NOTICED:
        real = shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin") or "/nonexistent"
        path = directory / name
        path.write_text(NOTICE.format(name=name, log=log, ours=ours, real=real))
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    log.touch()
    return log


@pytest.fixture
def hostile_source(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    source.mkdir()
    disks = sorted(path.name for path in Path("/sys/block").iterdir()) or ["sda"]
    (source / "Kbuild").write_text("obj-m += demo.o\n")
    (source / "demo.c").write_text(MODULE)
    (source / "attempts.sh").write_text(ATTEMPTS.replace("DISKS", " ".join([*disks, "sda"])))
    (source / "vexrun.toml").write_text(SUBJECT)
    return source


def state_of_this_machine() -> tuple[str, str, str]:
    """What a build that came through would have changed."""
    loaded = Path("/proc/modules")  # a kernel may have been built without modules
    lines = loaded.read_text().splitlines() if loaded.exists() else []
    modules = sorted(line.split()[0] for line in lines)
    loops = sorted(path.name for path in Path("/sys/block").iterdir())
    mounts = sorted(
        line.split(" - ")[0].split()[4]
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
    )
    return " ".join(modules), " ".join(loops), " ".join(mounts)


def test_a_build_that_tries_its_worst_is_refused_everything(
    vexrun_test: Callable[..., object], hostile_source: Path, notices: Path
) -> None:
    before = state_of_this_machine()
    run = vexrun_test(
        str(hostile_source), "--target", "host", "--only", "structure,build", "--build", "native"
    )
    context = json.loads((run.directory / "context.json").read_text())
    (tool,) = context["tools"]
    said = tool["log"].splitlines()
    refused = [line for line in said if line.startswith("refused ")]
    assert [line for line in said if line.startswith("SUCCEEDED")] == []
    assert len(refused) >= 12, tool["log"]
    assert tool["ok"], tool["log"]
    # A kernel without modules has no such system call, and refuses in another word.
    known = "not permitted" if Path("/proc/modules").exists() else "not (permitted|implemented)"
    assert any(re.search(f"insmod: .*({known})", line) for line in refused), refused
    status = dict(line.split(":\t") for line in said if ":\t" in line)
    assert status["NoNewPrivs"] == "1"
    for name in ("CapEff", "CapPrm", "CapBnd"):
        assert [bit for bit in DANGEROUS if int(status[name], 16) >> bit & 1] == [], name
    assert run.status == 0, run.results["reasons"]
    assert state_of_this_machine() == before
    ours = str(Path("/proc/self/ns/mnt").readlink())
    assert [line for line in notices.read_text().splitlines() if line.split()[1] == ours] == []


def test_all_of_the_host_target_calls_nothing_of_the_kind(
    vexrun_test: Callable[..., object], notices: Path
) -> None:
    """Every category of this target; the calls there are were made in a namespace of ours."""
    before = state_of_this_machine()
    subject = Path(__file__).parents[1] / "canaries" / "canaryfs"
    run = vexrun_test(str(subject), "--target", "host")
    assert run.results["target"]["kind"] == "host"
    assert run.results["tests"], run.stderr
    assert state_of_this_machine() == before
    noted = [line.split()[:2] for line in notices.read_text().splitlines()]
    ours = str(Path("/proc/self/ns/mnt").readlink())
    assert [program for program, namespace in noted if namespace == ours] == []
    assert {program for program, _ in noted} <= {"mount"}, "enter.sh mounts, and nothing else"
    assert noted, "the programs that notice were on PATH"
