"""What an image is made of, and the key under which it is cached."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from vexrun.image.suites import Suite
from vexrun.layout import PACKAGE, data_root
from vexrun.settings import ImageSettings, RustOrigin

#: Raise when the build procedure changes in a way its input files do not show.
RECIPE_VERSION = 1

MANIFEST_NAME = "manifest.json"


class ImageInputs(BaseModel):
    """Everything that decides what an image will be. Equal inputs have equal keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipe: int = RECIPE_VERSION
    suite: str
    architecture: str = "amd64"
    mirror: str | None = None
    extra_packages: list[str] = Field(default_factory=list)
    subject_packages: list[str] = Field(default_factory=list)
    disk_gib: int
    roles_sha256: str
    base_key: str | None = None  # layers only: the image they add packages to
    rust: RustOrigin = RustOrigin.DISTRO
    imported: str | None = None  # the checksum of the cloud image it was made from

    @property
    def key(self) -> str:
        # An input added later is left out at its default: what was built before it is the same.
        later = {"rust"} if self.rust is RustOrigin.DISTRO else set()
        if self.imported is None:
            later.add("imported")
        text = json.dumps(self.model_dump(exclude=later), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """Directory name in the cache."""
        kind = "-layer" if self.base_key else "-imported" if self.imported else ""
        return f"{self.suite}{kind}-{self.key}"


class Manifest(BaseModel):
    """manifest.json beside an image: inputs, result and hashes (hex sha256)."""

    model_config = ConfigDict(extra="forbid")

    name: str
    key: str
    inputs: ImageInputs
    created_at: str
    built_as: str  # root or user
    kernel_release: str
    packages: dict[str, str]
    sha256: dict[str, str]  # root.qcow2, vmlinuz, initrd.img
    files_sha256: str  # of files.txt, the content listing of the root filesystem
    durations: dict[str, float] = Field(default_factory=dict)


def base_inputs(suite: Suite, settings: ImageSettings) -> ImageInputs:
    """Inputs of the suite's ordinary image under these settings."""
    return ImageInputs(
        suite=suite.name,
        mirror=settings.mirror,
        extra_packages=sorted(settings.extra_packages),
        disk_gib=settings.disk_gib,
        rust=settings.rust,
        roles_sha256=roles_sha256(),
    )


def layer_inputs(base: Manifest, packages: list[str]) -> ImageInputs:
    """Inputs of `base` plus a subject's packages."""
    return base.inputs.model_copy(
        update={"subject_packages": sorted(packages), "base_key": base.key}
    )


def roles_sha256() -> str:
    """Hash of what is applied to an image: roles, playbook, group variables, connection.

    Paths and contents only, so every checkout of one commit has the same key. Prose is left out.
    """
    root = data_root()
    digest = hashlib.sha256()
    files = [root / "playbooks" / "image.yml", PACKAGE / "image" / "enter.sh"]
    files += [root / "inventory" / "group_vars" / f"{group}.yml" for group in ("all", "image")]
    for role in image_roles():
        files += [path for path in (root / "roles" / role).rglob("*") if path.is_file()]
    for path in sorted(files):
        if path.suffix in (".md", ".pyc"):
            continue
        label = path.relative_to(root if path.is_relative_to(root) else PACKAGE)
        digest.update(f"{label.as_posix().removeprefix('vexrun/')}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def image_roles() -> list[str]:
    """The roles that playbooks/image.yml applies, in order."""
    import yaml

    plays = yaml.safe_load((data_root() / "playbooks" / "image.yml").read_text())
    roles: list[str] = []
    for play in plays:
        for role in play.get("roles", []):
            roles.append(role if isinstance(role, str) else role["role"])
    return roles


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file of any size."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
