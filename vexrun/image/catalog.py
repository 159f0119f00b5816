"""The images in the cache: open, list, remove."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from vexrun.errors import ConfigError
from vexrun.image import namespace
from vexrun.image.download import forget_download
from vexrun.image.locking import exclusive_at_once
from vexrun.image.manifest import MANIFEST_NAME, Manifest
from vexrun.image.suites import SUITES, Suite, find_suite
from vexrun.layout import cache_dir


def images_dir() -> Path:
    return cache_dir() / "images"


def lock_path(name: str) -> Path:
    return cache_dir() / "locks" / f"{name}.lock"


@dataclass(frozen=True)
class Image:
    """A complete image in the cache."""

    directory: Path
    manifest: Manifest

    @classmethod
    def open(cls, directory: Path) -> Image | None:
        """The image in `directory`, or None when there is no complete one."""
        try:
            manifest = Manifest.model_validate(json.loads((directory / MANIFEST_NAME).read_text()))
        except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError, ValidationError):
            return None
        image = cls(directory, manifest)
        needed = (image.disk, image.kernel, image.initrd, image.rootfs, image.client_key)
        return image if all(path.exists() for path in needed) else None

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def suite(self) -> str:
        return self.manifest.inputs.suite

    @property
    def guest(self) -> str:
        """What --suite calls it: the suite, or the imported image that it is or lies on."""
        inputs = self.manifest.inputs
        base = inputs.model_copy(update={"base_key": None})
        return (
            f"{inputs.suite}-imported-{inputs.base_key or base.key}"
            if inputs.imported
            else inputs.suite
        )

    @property
    def rootfs(self) -> Path:
        return self.directory / "rootfs"

    @property
    def disk(self) -> Path:
        return self.directory / "root.qcow2"

    @property
    def kernel(self) -> Path:
        return self.directory / "vmlinuz"

    @property
    def initrd(self) -> Path:
        return self.directory / "initrd.img"

    @property
    def client_key(self) -> Path:
        return self.directory / "ssh" / "client"

    @property
    def host_public_key(self) -> str:
        return (self.directory / "ssh" / "host.pub").read_text().strip()

    @property
    def manifest_path(self) -> Path:
        return self.directory / MANIFEST_NAME


def list_images() -> list[Image]:
    """Every complete image, by name."""
    if not images_dir().is_dir():
        return []
    opened = (Image.open(path) for path in sorted(images_dir().iterdir()))
    return [image for image in opened if image is not None]


def find_image(name: str) -> Image:
    """The image called `name`, or the only one whose name starts so; ConfigError otherwise."""
    matches = [image for image in list_images() if image.name.startswith(name)]
    exact = [image for image in matches if image.name == name]
    if len(exact or matches) == 1:
        return (exact or matches)[0]
    known = ", ".join(image.name for image in (matches or list_images())) or "none"
    problem = "more than one image" if matches else "no image"
    raise ConfigError(
        f"There is {problem} whose name starts with '{name}'.",
        evidence=f"images: {known}",
        hint="Run: vexrun image list",
    )


def find_guest(name: str) -> Suite:
    """The suite of this name, or the imported image whose name it is or begins."""
    matches = [
        image
        for image in list_images()
        if "-imported" in name and image.name.startswith(name) and image.name == image.guest
    ]
    if len(matches) != 1:
        return find_suite(name)
    codename = matches[0].suite
    return Suite(matches[0].name, SUITES[codename].kernel_series, image=matches[0].name)


def remove_image(image: Image) -> list[str]:
    """Delete an image, the layers on it and their snapshots. Returns the names removed.

    Raises ConfigError while a machine is using it.
    """
    doomed = [image] + [
        other for other in list_images() if other.manifest.inputs.base_key == image.manifest.key
    ]
    with ExitStack() as locks:
        for each in doomed:
            # All of them first, and held: a machine that starts now must not lose half its image.
            if not locks.enter_context(exclusive_at_once(lock_path(each.name))):
                raise ConfigError(
                    f"The image '{each.name}' is in use by a machine or a build.",
                    hint="Run 'vexrun vm down' or wait for the run to end, then try again.",
                )
        for each in doomed:
            # The manifest goes first: a deletion cut short must not leave an image to be used.
            each.manifest_path.unlink()
            # An image built again under the same key must be proven again.
            (cache_dir() / "proofs" / f"{each.manifest.key}.json").unlink(missing_ok=True)
            for snapshot in (cache_dir() / "snapshots").glob(f"{each.name}-*"):
                namespace.remove_tree(snapshot)
            namespace.remove_tree(each.directory)
        if image.manifest.inputs.imported and image.name == image.guest:
            forget_download(image.manifest.inputs.imported.partition(":")[2])
    return [each.name for each in doomed]
