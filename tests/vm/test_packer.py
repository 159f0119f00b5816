"""packer/vexfs.pkr.hcl with a real Packer: what it builds starts by itself, and is tested in."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import cloud_image
import pytest
import yaml
from conftest import SUBJECTS, vexrun

from vexrun.image.manifest import image_roles
from vexrun.layout import data_root

pytestmark = [
    pytest.mark.vm,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="the cloud image is built as root"),
    pytest.mark.skipif(shutil.which("packer") is None, reason="there is no packer"),
]

#: Not in the cloud image, so that a role has something to install in the booted machine.
LEFT_TO_THE_ROLES = "bc"
BUILD_TIMEOUT_S = 3600
BOOT_TIMEOUT_S = 600


def packages_of_the_roles() -> set[str]:
    """Installed natively beforehand: under emulation it would take a quarter of an hour."""
    found: set[str] = set()
    for role in image_roles():
        defaults = yaml.safe_load((data_root() / "roles" / role / "defaults/main.yml").read_text())
        found.update(defaults.get(f"{role}_packages", []))
    return found


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packer's result: a directory with the image and its checksum."""
    directory = tmp_path_factory.mktemp("packer")
    packages = packages_of_the_roles()
    packages.remove(LEFT_TO_THE_ROLES)
    image = directory / "cloud.qcow2"
    digest = cloud_image.build(
        image,
        kernel="linux-image-amd64",
        packages=sorted(packages | {"linux-headers-amd64"}),
        root_mib=3500,
    )
    output = directory / "output"
    variables = {
        "image": image,
        "checksum": f"sha256:{digest}",
        "accelerator": "tcg",
        "memory": 2048,
        "cpus": 2,
        "source_dir": data_root() / "examples" / "vexfs-ref",
        "output": output,
    }
    arguments = [f"-var={name}={value}" for name, value in variables.items()]
    done = subprocess.run(
        [data_root() / "packer" / "build.sh", "local", "-color=false", *arguments],
        cwd=directory,  # packer_cache of the first run
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=BUILD_TIMEOUT_S,
        check=False,
    )
    (directory / "packer.log").write_text(done.stdout)
    console = Path(f"{output}.console.log")
    said = console.read_text(errors="replace")[-3000:] if console.exists() else ""
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n--- console\n{said}"
    image.unlink()
    shutil.rmtree(directory / "packer_cache", ignore_errors=True)
    return output


def test_the_roles_ran_and_the_source_was_shared(built: Path) -> None:
    said = (built.parent / "packer.log").read_text()
    assert "Install the C toolchain" in said
    assert "failed=0" in said
    assert "unreachable=0" in said
    assert "The source tree was shared: " in said
    assert "/mnt/vexfs-src/vexrun.toml" in said


def test_the_disk_has_grown(built: Path) -> None:
    info = subprocess.check_output(
        ["qemu-img", "info", "--output=json", built / "vexfs-local.qcow2"], text=True
    )
    assert json.loads(info)["virtual-size"] == 20 * 2**30


@contextlib.contextmanager
def started(image: Path, console: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The image by its own boot loader, on a copy that is thrown away."""
    argv = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", "1024"]
    argv += ["-display", "none", "-serial", f"file:{console}", "-snapshot", "-no-reboot"]
    argv += ["-nic", "user,model=virtio-net-pci", "-drive", f"file={image},if=virtio"]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


def test_it_starts_by_its_own_loader(built: Path, tmp_path: Path) -> None:
    console = tmp_path / "console.log"
    console.touch()  # QEMU opens it when it is ready
    deadline = time.monotonic() + BOOT_TIMEOUT_S
    with started(built / "vexfs-local.qcow2", console) as process:
        while "root@vexrun:~#" not in (said := console.read_text(errors="replace")):
            assert process.poll() is None, said[-3000:]
            assert time.monotonic() < deadline, said[-3000:]
            time.sleep(1)
    failed = [line for line in said.splitlines() if "Failed to mount" in line]
    assert all("/mnt/vexfs-src" in line for line in failed), "only the share is not there"


@pytest.fixture(scope="module")
def imported(built: Path) -> Iterator[str]:
    digest = (built / "vexfs-local.sha256").read_text().split()[0]
    said = vexrun("image", "import", str(built / "vexfs-local.qcow2"), "--sha256", digest)
    name = next(word.rstrip(":") for word in said.split() if word.startswith("trixie-imported-"))
    assert "generic kernel takes its place" not in said, "it has 9p, so it is kept"
    yield name
    vexrun("image", "rm", name)


def test_minix_passes_in_it(imported: str) -> None:
    """And without changed=0 of the roles in the booted guest there would be no run."""
    minix = str(SUBJECTS / "minix.toml")
    only = ("--only", "module,mount")
    results = json.loads(vexrun("test", "--subject", minix, "--suite", imported, *only, "--json"))
    assert results["verdict"] == "pass"
    assert results["target"]["suite"] == imported
