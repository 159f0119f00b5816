"""Build a guest image: mmdebstrap, our roles at native speed, then a disk without loop devices.

Everything happens in a directory of its own that is renamed into the cache when complete, so a
half-built image can never be used.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from vexrun.errors import ConfigError, InfrastructureError
from vexrun.events import Emit, Note, Progress, Stages
from vexrun.image import namespace
from vexrun.image.catalog import Image, images_dir, lock_path
from vexrun.image.files import list_files
from vexrun.image.locking import exclusive
from vexrun.image.manifest import (
    MANIFEST_NAME,
    ImageInputs,
    Manifest,
    base_inputs,
    layer_inputs,
    roles_sha256,
    sha256_of,
)
from vexrun.image.suites import Suite
from vexrun.layout import cache_dir
from vexrun.playbook import InventoryHost, run_playbook
from vexrun.process import find_program, run
from vexrun.settings import ImageSettings
from vexrun.workdir import outside_directory, work_directory

_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_NEEDED_PROGRAMS = {
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "qemu-img": "qemu-utils",
    "ssh-keygen": "openssh-client",
    "unshare": "util-linux",
    "tar": "tar",
}
#: A base image with its root filesystem and disk takes about 5 GiB while it is made.
BUILD_SPACE_GIB = 8
_LAYER_SPACE_GIB = 4
#: apt of a package that the suite has not got, or knows only by name (one that was removed).
_NO_SUCH_PACKAGE = ("Unable to locate package", "has no installation candidate")
#: Fixed so that equal contents make equal disks.
_FILESYSTEM_UUID = "76657872-756e-4000-8000-726f6f740000"


#: Fills a work directory with `rootfs/` and `ssh/`.
Make = Callable[[Path, Stages], None]


def ensure_base(suite: Suite, settings: ImageSettings, emit: Emit) -> Image:
    """The suite's image: from the cache, or built now."""
    if suite.image is not None:
        return _imported(suite.image)
    inputs = base_inputs(suite, settings)
    return ensure_image(
        inputs, emit, lambda work, stages: _make_base(work, inputs, settings, stages)
    )


def _imported(name: str) -> Image:
    """An imported image, as long as it holds what today's roles promise."""
    image = Image.open(images_dir() / name)
    if image is None:
        raise ConfigError(f"There is no imported image '{name}'.", hint="Run: vexrun image list")
    inputs = image.manifest.inputs
    if inputs.roles_sha256 != roles_sha256():
        algorithm, _, digest = (inputs.imported or "").partition(":")
        raise ConfigError(
            f"The image '{name}' was imported with other roles than these.",
            hint=f"Import it again: vexrun image import FILE --{algorithm} {digest}",
        )
    return image


def ensure_layer(base: Image, packages: list[str], settings: ImageSettings, emit: Emit) -> Image:
    """`base` with a subject's Debian packages: `base` itself when it has them all."""
    missing = [package for package in packages if package not in base.manifest.packages]
    if not missing:
        return base
    inputs = layer_inputs(base.manifest, packages)
    return ensure_image(
        inputs, emit, lambda work, stages: _make_layer(work, base, packages, settings, stages)
    )


def rebuild_beside(suite: Suite, settings: ImageSettings, work: Path, emit: Emit) -> Manifest:
    """Build the suite's image once more into `work`, for comparison with the cached one."""
    inputs = base_inputs(suite, settings)
    return _build(
        work, inputs, lambda path, stages: _make_base(path, inputs, settings, stages), emit
    )


def build_bare(suite: Suite, settings: ImageSettings, work: Path, emit: Emit) -> Image:
    """An image that only boots and answers to ssh, in `work`; never cached.

    The packages that the other roles will want lie in its apt archive already, so that
    provisioning it measures the machine and not the network.
    """
    inputs = base_inputs(suite, settings)

    def make(path: Path, stages: Stages) -> None:
        _make_base(path, inputs, settings, stages, playbook="image_bare.yml")
        with deb_archive(inputs.suite) as archive:
            packages = map(str, archive.glob("*.deb"))
            directory = path / "rootfs" / "var" / "cache" / "apt" / "archives"
            namespace.run_as_owner(["cp", "-t", str(directory), *packages])

    work.mkdir(parents=True)
    _build(work, inputs, make, emit)
    image = Image.open(work)
    assert image is not None, "what was just built can be opened"
    return image


def ensure_image(inputs: ImageInputs, emit: Emit, make: Make) -> Image:
    """The image of these inputs: from the cache, or made now from what `make` unpacks."""
    final = images_dir() / inputs.name
    found = Image.open(final)
    if found is not None:
        return found

    def tell() -> None:
        emit(Note(f"Another vexrun is building the image '{inputs.name}'; waiting for it."))

    with exclusive(lock_path(inputs.name), on_wait=tell):
        found = Image.open(final)
        if found is not None:
            return found
        preflight(_LAYER_SPACE_GIB if inputs.base_key else BUILD_SPACE_GIB)
        namespace.remove_tree(final)
        with work_directory(f"{inputs.name}-{os.getpid()}") as work:
            _build(work, inputs, make, emit)
            work.rename(final)
    built = Image.open(final)
    if built is None:
        raise InfrastructureError(f"The image '{final}' vanished right after it was built.")
    return built


def preflight(needed: int) -> None:
    """Raise InfrastructureError unless programs, namespaces and `needed` GiB of disk are there."""
    missing = [package for name, package in _NEEDED_PROGRAMS.items() if not find_program(name)]
    if missing:
        raise InfrastructureError(
            f"Building an image needs programs that are not installed: {', '.join(missing)}.",
            hint=f"Run: sudo apt-get install --no-install-recommends {' '.join(sorted(missing))}",
        )
    namespace.require_namespaces()
    images_dir().mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(images_dir()).free / 2**30
    if free < needed:
        raise InfrastructureError(
            f"Building an image needs {needed} GiB of free disk, and '{images_dir()}' has "
            f"{free:.1f} GiB.",
            hint="Free some space, run 'vexrun image rm NAME' for an old image, or set "
            "VEXRUN_CACHE_DIR to a larger disk.",
        )


def _build(work: Path, inputs: ImageInputs, make: Make, emit: Emit) -> Manifest:
    stages = Stages(emit)
    make(work, stages)
    rootfs = work / "rootfs"
    release = _kernel_release(rootfs)
    with stages.stage("image disk", "ext4 and qcow2"):
        _take_kernel(rootfs, release, work)
        list_files(rootfs, work / "files.txt")
        _make_disk(rootfs, work, inputs.disk_gib)
    manifest = Manifest(
        name=inputs.name,
        key=inputs.key,
        inputs=inputs,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        built_as="user" if namespace.is_rootless() else "root",
        kernel_release=release,
        packages=_installed_packages(rootfs),
        sha256={name: sha256_of(work / name) for name in ("root.qcow2", "vmlinuz", "initrd.img")},
        files_sha256=sha256_of(work / "files.txt"),
        durations=stages.durations,
    )
    text = json.dumps(manifest.model_dump(), indent=2, sort_keys=True)
    (work / MANIFEST_NAME).write_text(text + "\n")
    return manifest


def _make_base(
    work: Path,
    inputs: ImageInputs,
    settings: ImageSettings,
    stages: Stages,
    playbook: str = "image.yml",
) -> None:
    with stages.stage("image bootstrap", f"mmdebstrap {inputs.suite}"):
        _bootstrap(inputs, settings, work)
    make_keys(work / "ssh")
    apply_roles(work, inputs.suite, settings, stages, playbook)


def apply_roles(
    work: Path, suite: str, settings: ImageSettings, stages: Stages, playbook: str = "image.yml"
) -> None:
    """Make `work/rootfs` a guest of ours, known by the keys in `work/ssh`."""
    emit = stages.emit
    rootfs = work / "rootfs"
    with stages.stage("image roles", f"playbooks/{playbook}"), deb_archive(suite) as archive:
        result = run_playbook(
            playbook,
            [image_host(rootfs, archive)],
            artifact_dir=work / "ansible",
            emit=emit,
            extra_variables=_role_variables(work / "ssh", settings),
        )
        emit(Progress(f"{result.changed} tasks changed the image"))
    shutil.rmtree(work / "ansible")
    clean(rootfs)


def image_host(rootfs: Path, archive: Path | None = None) -> InventoryHost:
    """The inventory host that stands for an unpacked root filesystem."""
    binds = []
    if archive is not None:
        binds.append(namespace.Bind(archive, "/var/cache/apt/archives", writable=True))
    return InventoryHost(
        "image",
        "rootfs",
        {"vexrun_rootfs_enter": namespace.enter_argv(rootfs, binds), "ansible_host": str(rootfs)},
    )


def _bootstrap(inputs: ImageInputs, settings: ImageSettings, work: Path) -> None:
    tarball = work / "base.tar"
    argv = [
        # A killed mmdebstrap must not leave its mounts (/proc, /sys, /dev) to this machine.
        *([] if namespace.is_rootless() else ["unshare", "--mount", "--"]),
        "mmdebstrap",
        "--mode=unshare" if namespace.is_rootless() else "--mode=root",
        "--variant=minbase",
        "--format=tar",
        "--skip=cleanup/apt/lists",  # the roles install from them
        "--include=ca-certificates,python3,python3-apt",
    ]
    if _KEYRING.is_file():
        argv.append(f"--keyring={_KEYRING}")
    if settings.proxy:
        argv.append(f'--aptopt=Acquire::http {{ Proxy "{settings.proxy}"; }}')
    if settings.accept_expired:
        argv.append('--aptopt=Acquire::Check-Valid-Until "false"')
    argv += [inputs.suite, str(tarball)]
    if settings.mirror:
        argv.append(settings.mirror)
    with outside_directory(work) as temporary:  # apt downloads as a user without privileges
        environment = {"TMPDIR": str(temporary)}
        done = run(argv, check=False, log=work / "mmdebstrap.log", env=environment)
    if done.returncode != 0:
        raise InfrastructureError(
            f"mmdebstrap could not make the '{inputs.suite}' root filesystem "
            f"(mirror: {settings.mirror or 'the default of the suite'}).",
            evidence=done.tail(12),
            hint="The mirror is stale. Name another with VEXRUN_MIRROR, or accept old lists with "
            "VEXRUN_ACCEPT_EXPIRED=1 (docs/settings.md)."
            if "is expired" in done.output
            else "Check the network; VEXRUN_MIRROR and VEXRUN_PROXY set another mirror or a "
            "proxy (docs/settings.md).",
        )
    rootfs = work / "rootfs"
    rootfs.mkdir()
    unpack = ["tar", "-C", str(rootfs), "-xpf", str(tarball), "--numeric-owner"]
    namespace.run_as_owner([*unpack, "--exclude=./dev/*"])
    tarball.unlink()


def make_keys(directory: Path) -> None:
    """One client key and one host key for each image: a guest of ours is recognised by them."""
    directory.mkdir(mode=0o700)
    for name in ("client", "host"):
        run(
            [
                "ssh-keygen",
                "-q",
                "-t",
                "ed25519",
                "-N",
                "",
                "-C",
                f"vexrun-{name}",
                "-f",
                str(directory / name),
            ]
        )


def _role_variables(keys: Path, settings: ImageSettings) -> dict[str, object]:
    return {
        "guest_base_authorized_keys": [(keys / "client.pub").read_text().strip()],
        "guest_base_ssh_host_key": (keys / "host").read_text(),
        "guest_base_ssh_host_key_pub": (keys / "host.pub").read_text().strip(),
        "guest_base_extra_packages": settings.extra_packages,
        "toolchain_rust_method": settings.rust.value,
    }


@contextmanager
def deb_archive(suite: str) -> Iterator[Path]:
    """The suite's downloaded .deb files, shared between builds of one suite, one at a time."""
    directory = cache_dir() / "debs" / suite
    directory.mkdir(parents=True, exist_ok=True)
    with exclusive(cache_dir() / "debs" / f"{suite}.lock"):
        yield directory


def _make_layer(
    work: Path, base: Image, packages: list[str], settings: ImageSettings, stages: Stages
) -> None:
    rootfs = work / "rootfs"
    with stages.stage("image layer", f"adding {', '.join(packages)}"):
        rootfs.mkdir()
        namespace.run_as_owner(["cp", "-a", "--reflink=auto", f"{base.rootfs}/.", str(rootfs)])
        shutil.copytree(base.directory / "ssh", work / "ssh")
        (work / "ssh").chmod(0o700)
        with deb_archive(base.manifest.inputs.suite) as archive:
            install_packages(rootfs, packages, archive, work / "apt.log", settings)
        clean(rootfs)


def install_packages(
    rootfs: Path, packages: list[str], archive: Path, log: Path, settings: ImageSettings
) -> None:
    binds = [namespace.Bind(archive, "/var/cache/apt/archives", writable=True)]
    proxy = ["-o", f"Acquire::http::Proxy={settings.proxy}"] if settings.proxy else []
    apt = ["apt-get", "-q", *proxy, "-o", "APT::Keep-Downloaded-Packages=true"]
    # Package scripts must not start services: the processes would be the host's.
    script = (
        "printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d; "
        '"$@"; status=$?; rm -f /usr/sbin/policy-rc.d; exit $status'
    )
    install = ["sh", "-c", script, "sh", *apt, "install", "-y", "--no-install-recommends"]
    install += packages
    done = namespace.run_in_root(rootfs, install, binds=binds, check=False, log=log)
    if done.returncode != 0:
        # The lists of the image may be older than the mirror.
        update = namespace.run_in_root(rootfs, [*apt, "update"], binds=binds, check=False, log=log)
        done = namespace.run_in_root(rootfs, install, binds=binds, check=False, log=log)
        if done.returncode != 0:
            message = f"The subject's packages could not be installed: {', '.join(packages)}."
            if update.returncode == 0 and any(words in done.output for words in _NO_SUCH_PACKAGE):
                raise ConfigError(
                    message,
                    evidence=done.tail(10),
                    hint="Correct subject.packages in the subject file.",
                )
            raise InfrastructureError(
                message,
                evidence=(f"{update.tail(5)}\n" if update.returncode else "") + done.tail(10),
                hint="Check the network; VEXRUN_MIRROR and VEXRUN_PROXY set another way out.",
            )


def clean(rootfs: Path) -> None:
    """Remove what installing leaves behind and what differs from build to build for no reason."""
    namespace.run_in_root(
        rootfs,
        [
            "sh",
            "-c",
            "rm -rf /var/tmp/.ansible /var/log/apt /var/log/dpkg.log /var/log/alternatives.log "
            "/var/log/bootstrap.log /var/cache/debconf/*-old /var/lib/dpkg/*-old "
            "/etc/apt/apt.conf.d/99mmdebstrap /var/cache/ldconfig/aux-cache /var/cache/apt/*.bin; "
            "rm -rf /root/.ansible; find / -xdev -name __pycache__ -prune -exec rm -rf {} +",
        ],
    )


def _kernel_release(rootfs: Path) -> str:
    releases = sorted(path.name for path in (rootfs / "usr/lib/modules").iterdir())
    bootable = [name for name in releases if (rootfs / "boot" / f"vmlinuz-{name}").is_file()]
    if len(bootable) != 1:
        raise InfrastructureError(
            "An image must have exactly one kernel, and this one has "
            f"{', '.join(bootable) or 'none'}."
        )
    return bootable[0]


def _take_kernel(rootfs: Path, release: str, work: Path) -> None:
    for source, name in (("vmlinuz", "vmlinuz"), ("initrd.img", "initrd.img")):
        packed = rootfs / "boot" / f"{source}-{release}"
        namespace.run_as_owner(["cp", str(packed), str(work / name)])
        namespace.run_as_owner(["chmod", "644", str(work / name)])


def _make_disk(rootfs: Path, work: Path, size_gib: int) -> None:
    raw = work / "root.raw"
    make_filesystem(rootfs, raw, size_gib)
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(work / "root.qcow2")])
    raw.unlink()


def make_filesystem(rootfs: Path, raw: Path, size_gib: int) -> None:
    """The root filesystem as an ext4 image at `raw`, sparse, with the UUID guests boot from."""
    namespace.run_as_owner(
        [
            *("mke2fs", "-q", "-t", "ext4", "-L", "vexrun-root", "-U", _FILESYSTEM_UUID),
            *("-E", f"lazy_itable_init=1,hash_seed={_FILESYSTEM_UUID}", "-m", "0"),
            *("-O", "^has_journal,^resize_inode", "-d", str(rootfs), str(raw), f"{size_gib}G"),
        ]
    )


def _installed_packages(rootfs: Path) -> dict[str, str]:
    listing = namespace.run_in_root(
        rootfs, ["dpkg-query", "-W", "-f", "${binary:Package}\\t${Version}\\n"], readonly=True
    )
    rows = (line.split("\t") for line in listing.stdout.splitlines())
    return {name.split(":")[0]: package_version for name, package_version in rows}
