"""The subject file, `vexrun.toml`: what is under test. Documented in docs/subject-file.md."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from vexrun.errors import ConfigError
from vexrun.tree import what_cannot_be_read_is_named
from vexrun.validation import read_toml, validate

SUBJECT_FILE_NAME = "vexrun.toml"


class Backing(StrEnum):
    """What a mount of the filesystem is made on."""

    BLOCK = "block"
    NODEV = "nodev"


#: Operations a subject may declare that it lacks; tests that need one are skipped by name.
KNOWN_OPERATIONS: dict[str, str] = {
    "symlink": "symbolic links",
    "hardlink": "hard links",
    "rename": "rename and replace",
    "mkdir": "directories below the root",
    "write": "writing at all (a read-only filesystem)",
    "create": "creating files",
    "unlink": "removing files",
    "truncate": "changing a file's size",
    "sparse": "holes in files",
    "append": "O_APPEND writes",
    "mmap": "memory mapping",
    "fsync": "fsync",
    "chmod": "permission bits that persist",
    "chown": "owners that persist",
    "timestamps": "modification times that persist",
    "mknod": "fifos and device nodes",
    "xattr": "extended attributes",
    "statfs": "free-space accounting",
    "remount": "mount -o remount",
    "readonly": "read-only mounts",
    "persistence": "content that survives umount (nodev filesystems)",
    "longnames": "file names of 200 bytes or more",
    "casesensitive": "names that differ only in case",
    "largefile": "files of 6 MiB and more",
    "inodes": "unique inode numbers",
    "manyfiles": "900 files in one directory",
    "mountedcheck": "a mkfs that refuses a mounted device",
}

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*\Z")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+\Z")
_MODULE = re.compile(r"[A-Za-z0-9_-]+\Z")
_MAKE_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_PLACEHOLDER = re.compile(r"(?<!\$)\{([a-z_]+)\}")


def _plain_name(value: str) -> str:
    if not _NAME.match(value):
        raise ValueError(
            "only letters, digits and . _ + - are allowed, starting with a letter or digit"
        )
    return value


def _relative_path(value: str) -> str:
    path = PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError("must be a path inside the source tree: relative, without '..'")
    return value


def _package_name(value: str) -> str:
    if not _PACKAGE.match(value):
        raise ValueError("is not a Debian package name")
    return value


def _module_name(value: str) -> str:
    if not _MODULE.match(value):
        raise ValueError("is not a kernel module name")
    return value


def _scalar(value: object) -> object:
    if not isinstance(value, str | int | bool):
        raise ValueError("must be a string, a whole number, true or false")  # noqa: TRY004
    return value


PlainName = Annotated[str, AfterValidator(_plain_name)]
RelativePath = Annotated[str, AfterValidator(_relative_path)]
PackageName = Annotated[str, AfterValidator(_package_name)]
ModuleName = Annotated[str, AfterValidator(_module_name)]
#: Values as they stand on a make or insmod command line.
Scalar = Annotated[str | int | bool, BeforeValidator(_scalar)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AptSource(_Section):
    """The source tree comes from a Debian source package such as linux-source-6.12.

    `{series}` in `apt` stands for the kernel series of the guest, for example 6.12.
    """

    apt: str
    subdir: RelativePath = "."

    @field_validator("apt")
    @classmethod
    def _apt_is_a_package(cls, value: str) -> str:
        _package_name(value.replace("{series}", "0"))
        return value


class SubjectSection(_Section):
    name: PlainName
    packages: list[PackageName] = Field(default_factory=list)
    source: AptSource | None = None


def _check_make_vars(value: dict[str, Scalar]) -> dict[str, Scalar]:
    for key in value:
        if not _MAKE_VARIABLE.match(key):
            raise ValueError(f"'{key}' is not the name of a make variable")
    return value


MakeVars = Annotated[dict[str, Scalar], AfterValidator(_check_make_vars)]


class ModuleSection(_Section):
    dir: RelativePath = "."
    prepare: str = ""
    make_vars: MakeVars = Field(default_factory=dict)
    ko: RelativePath
    name: ModuleName = ""
    needs: list[ModuleName] = Field(default_factory=list)
    params: dict[str, Scalar] = Field(default_factory=dict)

    @field_validator("ko")
    @classmethod
    def _ko_is_a_module(cls, value: str) -> str:
        if not value.endswith(".ko"):
            raise ValueError("must be the built module, a path that ends in .ko")
        return value

    @model_validator(mode="before")
    @classmethod
    def _default_name(cls, data: object) -> object:
        if isinstance(data, dict) and "name" not in data and isinstance(data.get("ko"), str):
            return {**data, "name": PurePosixPath(data["ko"]).stem}
        return data

    @property
    def sysfs_name(self) -> str:
        """The name below /sys/module, where dashes become underscores."""
        return self.name.replace("-", "_")


class Variant(_Section):
    name: PlainName
    make_vars: MakeVars = Field(default_factory=dict)
    ko: RelativePath | None = None


class FilesystemSection(_Section):
    type: str = Field(min_length=1)
    backing: Backing = Backing.BLOCK
    options: list[str] = Field(default_factory=list)
    size_mib: int = Field(default=64, ge=1, le=4096, strict=True)
    mkfs: str | None = None
    fsck: str | None = None
    source: str = Field(default="none", min_length=1)
    prepare: str | None = None
    lacks: list[str] = Field(default_factory=list)

    @field_validator("type")
    @classmethod
    def _type_is_plain(cls, value: str) -> str:
        return _plain_name(value)

    @field_validator("mkfs", "fsck")
    @classmethod
    def _names_the_device(cls, value: str | None) -> str | None:
        if value is not None:
            _known_placeholders(value, {"tools", "device"})
            if "{device}" not in value and value.strip() not in ("true", ""):
                raise ValueError("must contain {device}, the disk it works on")
        return value

    @model_validator(mode="after")
    def _block_needs_mkfs(self) -> Self:
        if self.backing is Backing.BLOCK and not self.mkfs:
            raise ValueError(
                "a filesystem with backing = 'block' needs 'mkfs', the command that formats "
                '{device}; write mkfs = "true" if it formats itself at mount'
            )
        return self

    @model_validator(mode="after")
    def _nodev_stands_on_something_else(self) -> Self:
        if self.backing is Backing.BLOCK and (self.source != "none" or self.prepare is not None):
            raise ValueError(
                "'source' and 'prepare' are for backing = 'nodev'; a filesystem on a disk is "
                "mounted from the disk, and 'mkfs' prepares it"
            )
        if self.prepare is not None:
            _known_placeholders(self.prepare, {"tools"})
        return self

    @property
    def lacked_operations(self) -> set[str]:
        lacked = {canonical_operation(name) for name in self.lacks}
        if self.backing is Backing.NODEV:
            lacked.add("persistence")
        return lacked


class Tool(_Section):
    name: PlainName
    build: str

    @field_validator("build")
    @classmethod
    def _names_the_output(cls, value: str) -> str:
        _known_placeholders(value, {"out", "tools"})
        if "{out}" not in value:
            raise ValueError("must contain {out}, the path of the program to make")
        return value


class Crate(_Section):
    dir: RelativePath
    bin: PlainName


def _command_on_a_mount(value: str) -> str:
    _known_placeholders(value, {"tools", "mount", "device"})
    return value


MountCommand = Annotated[str, AfterValidator(_command_on_a_mount)]


def _regular_expression(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"is not a regular expression: {error}") from error
    return value


def _counting_expression(value: str) -> str:
    _regular_expression(value)
    if re.compile(value).groups != 1:
        raise ValueError("needs exactly one group (...): the number of tests that ran")
    return value


Pattern = Annotated[str, AfterValidator(_regular_expression)]


class CliSection(_Section):
    """`expect` must be found in what the probe prints; an exit status alone proves little."""

    probe: MountCommand
    expect: Pattern | None = None


class IoctlSection(_Section):
    """Requests the module answers; they are called with garbage as arguments.

    `on` names what they are called on: the root directory of the mount, a file in it, or a
    device node below /dev.
    """

    on: str = "root"
    requests: dict[PlainName, Annotated[int, Field(ge=0, lt=1 << 32, strict=True)]] = Field(
        default_factory=dict
    )

    @field_validator("on")
    @classmethod
    def _on_something(cls, value: str) -> str:
        if value not in ("root", "file") and not re.fullmatch(r"/dev/[A-Za-z0-9/_.+-]+", value):
            raise ValueError("must be 'root', 'file' or a path below /dev")
        return value


class UnitSuite(_Section):
    """A command that runs the subject's own unit tests, where the module is built.

    `executed` is a regular expression with one group, the number of tests that ran; all its
    matches in the output are added up, and a suite that ran none has failed.
    """

    name: PlainName
    run: str
    executed: Annotated[str, AfterValidator(_counting_expression)] = r"(\d+) passed"

    @field_validator("run")
    @classmethod
    def _placeholders(cls, value: str) -> str:
        _known_placeholders(value, {"tools"})
        return value


class Script(_Section):
    """An existing script, run in the target as a test of its own.

    It has passed when it ends with 0, prints `success`, and the kernel stays quiet. With
    `executed` it must also have run a test, as in a unit suite.
    """

    name: PlainName
    run: str
    success: Pattern
    executed: Annotated[str, AfterValidator(_counting_expression)] | None = None
    mounted: bool = True

    @field_validator("run")
    @classmethod
    def _placeholders(cls, value: str) -> str:
        _known_placeholders(value, {"tools", "mount", "device", "source"})
        return value


class Strictness(StrEnum):
    """What a remark of a checker is: listed in the report, or a failure."""

    NOTE = "note"
    ERROR = "error"


class StaticSection(_Section):
    """What remarks of each checker mean."""

    sparse: Strictness = Strictness.NOTE
    w1: Strictness = Strictness.NOTE
    checkpatch: Strictness = Strictness.NOTE
    clippy: Strictness = Strictness.ERROR
    fmt: Strictness = Strictness.ERROR


class StructureSection(_Section):
    required: list[RelativePath] = Field(default_factory=list)


class BenchSection(_Section):
    vectors: MountCommand | None = None


class Subject(_Section):
    """A whole subject file."""

    subject: SubjectSection
    module: ModuleSection
    variants: list[Variant] = Field(default_factory=list)
    filesystem: FilesystemSection
    tools: list[Tool] = Field(default_factory=list)
    crates: list[Crate] = Field(default_factory=list)
    cli: CliSection | None = None
    ioctl: IoctlSection = Field(default_factory=IoctlSection)
    unit: list[UnitSuite] = Field(default_factory=list)
    scripts: list[Script] = Field(default_factory=list)
    structure: StructureSection = Field(default_factory=StructureSection)
    static: StaticSection = Field(default_factory=StaticSection)
    bench: BenchSection | None = None

    @property
    def name(self) -> str:
        return self.subject.name

    @property
    def names_to_block(self) -> list[str]:
        """What modprobe must not load: the kernel's own copy, by its name or for the type.

        mount(2) of a type that nobody has registered asks for the module `fs-TYPE`.
        """
        name = self.module.name
        names = {name, name.replace("-", "_"), name.replace("_", "-"), f"fs-{self.filesystem.type}"}
        return sorted(names)

    @property
    def tool_names(self) -> set[str]:
        return {tool.name for tool in self.tools} | {crate.bin for crate in self.crates}

    @model_validator(mode="after")
    def _commands_use_declared_tools(self) -> Self:
        commands = {
            "filesystem.mkfs": self.filesystem.mkfs,
            "filesystem.fsck": self.filesystem.fsck,
            "filesystem.prepare": self.filesystem.prepare,
            "cli.probe": self.cli.probe if self.cli else None,
            "bench.vectors": self.bench.vectors if self.bench else None,
            **{f"unit.{suite.name}.run": suite.run for suite in self.unit},
            **{f"scripts.{script.name}.run": script.run for script in self.scripts},
        }
        for key, command in commands.items():
            for used in re.findall(r"\{tools\}/([A-Za-z0-9._+-]+)", command or ""):
                if used not in self.tool_names:
                    declared = ", ".join(sorted(self.tool_names)) or "none"
                    raise ValueError(
                        f"'{key}' uses '{{tools}}/{used}', but no [[tools]] or [[crates]] entry "
                        f"makes '{used}' (declared: {declared})"
                    )
        if "module" in self.tool_names:
            raise ValueError("no tool or crate may be called 'module': that is the module's step")
        for key, several in (("unit", self.unit), ("scripts", self.scripts)):
            used_names = [each.name for each in several]
            if len(set(used_names)) != len(used_names):
                raise ValueError(f"[[{key}]] need names of their own")
        names = [variant.name for variant in self.variants]
        if {"default", "tools"} & set(names) or len(set(names)) != len(names):
            raise ValueError(
                "[[variants]] need names of their own, and 'default' is the main build"
            )
        return self

    def unknown_lacks(self) -> list[str]:
        """Entries of filesystem.lacks that name no operation any test knows."""
        return [
            name
            for name in self.filesystem.lacks
            if canonical_operation(name) not in KNOWN_OPERATIONS
        ]


def canonical_operation(name: str) -> str:
    """'Hard-Links' and 'hardlink' are the same operation."""
    plain = re.sub(r"[^a-z]", "", name.lower())
    aliases = {
        "symlinks": "symlink",
        "hardlinks": "hardlink",
        "link": "hardlink",
        "dirs": "mkdir",
        "directories": "mkdir",
        "subdirectories": "mkdir",
        "holes": "sparse",
        "sparsefiles": "sparse",
        "xattrs": "xattr",
        "permissions": "chmod",
        "ownership": "chown",
        "mtime": "timestamps",
        "times": "timestamps",
        "fifo": "mknod",
        "ro": "readonly",
        "uniqueinodes": "inodes",
        "delete": "unlink",
        "largefiles": "largefile",
        "longname": "longnames",
    }
    return aliases.get(plain, plain)


def _known_placeholders(command: str, known: set[str]) -> None:
    for name in _PLACEHOLDER.findall(command):
        if name not in known:
            allowed = ", ".join(f"{{{item}}}" for item in sorted(known))
            raise ValueError(f"has the unknown placeholder '{{{name}}}' (known: {allowed})")


def load_subject(path: Path) -> Subject:
    """Read and validate a subject file.

    Raises ConfigError naming the file, the key and the fix.
    """
    try:
        raw = read_toml(path, "subject file")
    except FileNotFoundError as error:
        raise ConfigError(
            f"There is no subject file '{path}'.",
            hint="Write one (docs/subject-file.md has a template) or name it with --subject FILE.",
        ) from error
    return validate(
        raw,
        Subject,
        f"The subject file '{path}' is",
        hint="Every key is described in docs/subject-file.md.",
    )


@what_cannot_be_read_is_named()
def check_against_tree(subject: Subject, root: Path, subject_file: Path) -> None:
    """Raise ConfigError when the subject file names directories the tree does not have."""

    def missing(key: str, value: str) -> ConfigError:
        return ConfigError(
            f"The subject file '{subject_file}' says {key} = \"{value}\", but '{root / value}' "
            "is not a directory.",
            hint=f"Correct '{key}' in '{subject_file}', or give the right SOURCE directory.",
        )

    if not root.is_dir():
        raise ConfigError(f"The source tree '{root}' is not a directory.")
    if not (root / subject.module.dir).is_dir():
        raise missing("module.dir", subject.module.dir)
    for index, crate in enumerate(subject.crates):
        if not (root / crate.dir).is_dir():
            raise missing(f"crates.{index}.dir", crate.dir)
    directory = root / subject.module.dir
    if not any((directory / name).is_file() for name in ("Kbuild", "Makefile")):
        raise ConfigError(
            f"There is no Kbuild or Makefile in '{directory}', where module.dir of "
            f"'{subject_file}' says the module is built.",
            hint="Point module.dir at the directory with the Kbuild file.",
        )
