"""An image as one file, to be carried to another machine or through a CI cache.

The root filesystem holds files of many owners, which a cache that archives a directory as an
ordinary user would lose; so it is packed and unpacked with root's view of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from vexrun.errors import ConfigError, InfrastructureError
from vexrun.image import namespace
from vexrun.image.catalog import Image, images_dir, lock_path
from vexrun.image.files import list_files, paths_in
from vexrun.image.locking import exclusive, shared
from vexrun.image.manifest import MANIFEST_NAME, sha256_of
from vexrun.process import find_program
from vexrun.workdir import work_directory

_COMPRESS = "zstd -T0 -3"


def save_image(image: Image, destination: Path) -> None:
    """Write `image` to the file `destination`, which appears only when it is complete."""
    _require_zstd()
    part = destination.with_name(f"{destination.name}.{os.getpid()}.part")
    pack = ["tar", "-C", str(images_dir()), "--create", "--sparse", "--numeric-owner"]
    pack += ["--use-compress-program", _COMPRESS, "--file", str(part)]
    try:
        with shared(lock_path(image.name)), work_directory(f"saving-{os.getpid()}") as work:
            names = work / "names"
            names.write_bytes(b"\0".join(map(os.fsencode, _contents(image))))
            pack += ["--no-recursion", "--null", "--verbatim-files-from"]
            namespace.run_as_owner([*pack, "--files-from", str(names)])
        part.replace(destination)
    finally:
        part.unlink(missing_ok=True)


def _contents(image: Image) -> Iterator[str]:
    """What belongs to an image. A root filesystem that was worked in has more: mount points that
    builds left there, caches of apt."""
    yield image.name
    for path in sorted(image.directory.iterdir()):
        yield f"{image.name}/{path.name}"
        if path.name == "ssh":
            yield from (f"{image.name}/ssh/{key.name}" for key in sorted(path.iterdir()))
    yield from (f"{image.name}/rootfs/{name}" for name in paths_in(image.directory / "files.txt"))


def load_image(archive: Path) -> Image:
    """Put the image of an archive into the cache, unless it is there; every byte is checked.

    Raises ConfigError when the file is no archive of ours, is cut short or does not hold what
    its manifest says.
    """
    _require_zstd()
    if not archive.is_file():
        raise ConfigError(f"There is no image archive '{archive}'.")
    images_dir().mkdir(parents=True, exist_ok=True)
    with work_directory(f"loading-{os.getpid()}") as work:
        unpack = ["tar", "-C", str(work), "--extract", "--numeric-owner", "--preserve-permissions"]
        # An image has no device nodes: the guest's kernel makes them.
        unpack += ["--exclude=*/rootfs/dev/*", "--use-compress-program", "zstd"]
        done = namespace.run_as_owner([*unpack, "--file", str(archive.absolute())], check=False)
        if done.returncode != 0:
            raise _refusal(archive, done.tail(5))
        found = [path for path in work.iterdir() if (path / MANIFEST_NAME).is_file()]
        image = Image.open(found[0]) if len(found) == 1 else None
        if image is None:
            raise _refusal(archive, "it does not hold one whole image")
        _check(image, archive, work)
        final = images_dir() / image.name
        present = Image.open(final)
        if present is not None:  # asked without the lock, which every machine on it shares
            return present
        with exclusive(lock_path(image.name)):
            present = Image.open(final)
            if present is not None:
                return present
            namespace.remove_tree(final)
            image.directory.rename(final)
    loaded = Image.open(final)
    if loaded is None:
        raise InfrastructureError(f"The image '{final}' vanished right after it was loaded.")
    return loaded


def _check(image: Image, archive: Path, work: Path) -> None:
    manifest = image.manifest
    if manifest.name != manifest.inputs.name or manifest.name != image.directory.name:
        raise _refusal(archive, f"its manifest says '{manifest.name}', which is not its name")
    for name, promised in {**manifest.sha256, "files.txt": manifest.files_sha256}.items():
        if sha256_of(image.directory / name) != promised:
            raise _refusal(archive, f"'{name}' is not the file that its manifest names")
    list_files(image.rootfs, work / "files.txt")
    if sha256_of(work / "files.txt") != manifest.files_sha256:
        raise _refusal(archive, "its root filesystem is not the one that its manifest names")


def _refusal(archive: Path, why: str) -> ConfigError:
    return ConfigError(
        f"'{archive}' is not a complete image archive.",
        evidence=why,
        hint="Delete it, and make another with: vexrun image save FILE",
    )


def _require_zstd() -> None:
    if find_program("zstd") is None:
        raise InfrastructureError(
            "Packing and unpacking images needs the program 'zstd', which is not installed.",
            hint="Run: sudo apt-get install --no-install-recommends zstd",
        )
