"""What a source tree is, as far as its files say: modules, filesystem types, tools, crates."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vexrun.errors import ConfigError
from vexrun.scaffold.csource import CFile, Constants, Initialiser, Place
from vexrun.scaffold.makefile import UNSET_CONFIG, Makefile, Switch
from vexrun.tree import source_files

#: Directories whose modules are rarely the one to test.
_ASIDE = re.compile(
    r"(^|/)(tests?|testing|examples?|samples?|archive[ds]?|old|backup|legacy|attic|deprecated"
    r"|vendor|third[_-]party|docs?|patches)(/|$)",
    re.IGNORECASE,
)
_FILE_LIMIT = 20_000


@dataclass(frozen=True)
class BuildSwitch:
    """A variable that builds otherwise; `ko` where that makes another file, relative to `dir`."""

    variable: str
    value: str
    ko: Path | None
    place: Place


@dataclass(frozen=True)
class Module:
    """A module that Kbuild makes. `ko` is relative to `directory`, where the build starts."""

    name: str
    directory: Path
    ko: Path
    sources: tuple[Path, ...]
    config: str | None
    place: Place
    switches: tuple[BuildSwitch, ...]
    asks_for: tuple[tuple[str, Place], ...] = ()  # CONFIG_ variables that add parts
    siblings: tuple[str, ...] = ()  # CONFIG_ variables of the other modules of this Kbuild


@dataclass(frozen=True)
class FilesystemType:
    """A registered `struct file_system_type`; `needs_device` is None where nothing tells."""

    name: str | None
    identifier: str
    needs_device: bool | None
    why_backing: str
    place: Place


@dataclass(frozen=True)
class Parameter:
    name: str
    kind: str
    place: Place


@dataclass(frozen=True)
class Request:
    name: str
    number: int
    place: Place


@dataclass(frozen=True)
class Program:
    """A userspace program, such as mkfs; `target` is the make target that builds it."""

    name: str
    source: Path
    target: str | None
    place: Place
    includes: tuple[Path, ...] = ()  # directories of headers that are not beside it
    libraries: tuple[str, ...] = ()
    read_only: bool = False  # nothing in it opens for writing
    takes_n: bool = False  # the option -n, by which fsck programs change nothing
    script: bool = False  # there is nothing to build: it has an interpreter


@dataclass(frozen=True)
class RustProgram:
    """`missing` are crates it needs that do not come with the tree."""

    directory: Path
    bin: str
    missing: tuple[str, ...]
    words: dict[str, Place]
    place: Place


@dataclass
class ModuleFacts:
    """What the sources of one module say."""

    module: Module
    types: list[FilesystemType] = field(default_factory=list)
    licence: tuple[str, Place] | None = None
    parameters: list[Parameter] = field(default_factory=list)
    needs: list[tuple[str, Place]] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    ioctl_on: tuple[str, Place] | None = None
    lacks: dict[str, str] = field(default_factory=dict)  # word: how it shows
    operations_seen: bool = False  # an inode_operations of directories was there to look into
    missing_sources: list[Path] = field(default_factory=list)


@dataclass
class Survey:
    root: Path
    modules: list[ModuleFacts]
    programs: list[Program]
    crates: list[RustProgram]
    required: list[str]
    prepare: tuple[str, Place] | None = None  # PRE_BUILD of a dkms.conf

    @property
    def filesystems(self) -> list[ModuleFacts]:
        """The modules that register a filesystem, the likeliest first."""
        found = [facts for facts in self.modules if facts.types]
        return sorted(found, key=self._rank)

    def _rank(self, facts: ModuleFacts) -> tuple[object, ...]:
        module = facts.module
        path = str(module.directory / module.ko)
        names = {each.name for each in facts.types}
        return (
            bool(_ASIDE.search(path)),
            bool(facts.missing_sources),
            all(each.name is None for each in facts.types),
            module.name != self.root.resolve().name,
            # fs/fat makes vfat.ko and msdos.ko: the one with more names is the one in use.
            {"vfat": 0, "msdos": 2}.get(module.name, 1),
            module.name not in names,
            len(module.directory.parts),
            -len(module.sources),
            path,
        )


def survey_tree(root: Path) -> Survey:
    """Look at everything. Raises ConfigError when there is no module to be seen."""
    files = list(source_files(root))
    if len(files) > _FILE_LIMIT:
        raise ConfigError(
            f"'{root}' has {len(files)} files: that is more than one module's source tree.",
            hint="Name the directory with the module's Kbuild or Makefile, such as fs/minix.",
        )
    modules = _modules(root, files)
    if not modules:
        raise ConfigError(
            f"No Kbuild or Makefile in '{root}' builds a kernel module (obj-m or obj-$(CONFIG_…)).",
            evidence=_make_files_seen(files),
            hint="Name the directory of the module's source tree: vexrun init SOURCE",
        )
    read = {path: CFile.read(root, path) for path in files if path.suffix in (".c", ".h")}
    sources = {path: file for path, file in read.items() if file is not None}
    facts = [_facts(root, module, sources) for module in modules]
    kernel_side = {path for each in modules for path in each.sources}
    return Survey(
        root=root,
        modules=facts,
        programs=[*_programs(root, files, sources, kernel_side), *_scripts(root, files)],
        crates=list(_crates(root, files)),
        required=[
            name for name in ("Kbuild", "Makefile", "LICENSE", "COPYING") if Path(name) in files
        ],
        prepare=_pre_build(root / "dkms.conf") if Path("dkms.conf") in files else None,
    )


def _pre_build(path: Path) -> tuple[str, Place] | None:
    """What DKMS runs at the top of the tree before make, unless it asks DKMS' own variables."""
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        found = re.match(r"""\s*PRE_BUILD=(["']?)([^"'$`]+)\1\s*(#.*)?$""", line)
        if found:
            return f"./{found[2].strip().removeprefix('./')}", Place(Path(path.name), number)
    return None


def _make_files_seen(files: Iterable[Path]) -> str:
    seen = [str(path) for path in files if path.name in ("Kbuild", "Makefile")][:10]
    return f"looked at: {', '.join(seen)}" if seen else "There is no Kbuild or Makefile at all."


# -- modules -------------------------------------------------------------------------------------


def _modules(root: Path, files: list[Path]) -> list[Module]:
    """Of every Kbuild that no other one descends into, and of those below it."""
    chosen: dict[Path, Path] = {}
    for path in files:
        if path.name in ("Kbuild", "Makefile") and (
            path.parent not in chosen or path.name == "Kbuild"  # Kbuild goes before Makefile
        ):
            chosen[path.parent] = path
    parsed = {where: Makefile.read(root, path) for where, path in chosen.items()}
    below = {child for made in parsed.values() for child in _descends(made)}
    modules: list[Module] = []
    for where, made in sorted(parsed.items()):
        if where not in below:
            modules += _of_makefile(root, where, made, parsed, set())
    return modules


def _descends(made: Makefile) -> set[Path]:
    return {
        Path(os.path.normpath(made.directory / word))
        for key in made.variables
        if _is_objects(key)
        for word in made.words(key)
        if word.endswith("/")
    }


def _is_objects(key: str) -> bool:
    return key in ("obj-m", "obj-y") or key.startswith(f"obj-{UNSET_CONFIG}")


def _of_makefile(
    root: Path, start: Path, made: Makefile, parsed: dict[Path, Makefile], seen: set[Path]
) -> Iterator[Module]:
    seen.add(made.directory)
    for key in [key for key in made.variables if _is_objects(key)]:
        config = key.partition(UNSET_CONFIG)[2] or None
        for word in made.words(key):
            if word.endswith(".o") and key != "obj-y":
                yield _module(root, start, made, word, key, config)
            elif word.endswith("/"):
                child = parsed.get(Path(os.path.normpath(made.directory / word)))
                if child is not None and child.directory not in seen:
                    yield from _of_makefile(root, start, child, parsed, seen)


def _module(
    root: Path, start: Path, made: Makefile, word: str, key: str, config: str | None
) -> Module:
    stem = word.removesuffix(".o")
    objects = [
        each
        for name in dict.fromkeys((stem, Path(stem).name))
        for variable in made.variables
        if re.fullmatch(rf"{re.escape(name)}-(objs|y|m|{UNSET_CONFIG}\w+)", variable)
        for each in made.words(variable)
    ]
    sources = [
        Path(os.path.normpath(made.directory / each.removesuffix(".o"))).with_name(
            Path(each).name.removesuffix(".o") + _suffix(root / made.directory, each)
        )
        for each in objects or [word]
        if each.endswith(".o")
    ]
    return Module(
        name=Path(stem).name,
        directory=start,
        ko=(made.directory / f"{stem}.ko").relative_to(start),
        sources=tuple(dict.fromkeys(sources)),
        config=config,
        place=made.places[key],
        switches=tuple(
            _build_switch(root, start, made, stem, each) for each in made.switches.values()
        ),
        asks_for=tuple(
            (match[1], made.places[variable])
            for variable in made.variables
            if (match := re.fullmatch(rf"{re.escape(stem)}-{UNSET_CONFIG}(\w+)", variable))
        ),
        siblings=tuple(
            other.partition(UNSET_CONFIG)[2]
            for other in made.variables
            if UNSET_CONFIG in other and _is_objects(other) and other != key
        ),
    )


def _build_switch(root: Path, start: Path, made: Makefile, stem: str, each: Switch) -> BuildSwitch:
    """What the same file makes when the variable is set."""
    again = Makefile.read(root, made.path, {each.variable: each.value})
    objects = {
        word.removesuffix(".o")
        for key in again.variables
        if _is_objects(key) and key != "obj-y"
        for word in again.words(key)
        if word.endswith(".o")
    }
    ko = None
    if stem not in objects and len(objects) == 1:
        ko = (made.directory / f"{min(objects)}.ko").relative_to(start)
    return BuildSwitch(each.variable, each.value, ko, each.place)


def _suffix(directory: Path, name: str) -> str:
    stem = name.removesuffix(".o")
    return next((s for s in (".c", ".rs", ".S") if (directory / f"{stem}{s}").is_file()), ".c")


# -- what a module's sources say -----------------------------------------------------------------

_REGISTERED = re.compile(r"(?<!un)register_filesystem\s*\(\s*&?\s*(\w+)\s*\)")
_DEFINITION = re.compile(r"^[ \t]*#[ \t]*define(?:.*\\\n)*.*$", re.MULTILINE)
_MOUNT_WITH_DEVICE = re.compile(r"\b(get_tree_bdev\w*|mount_bdev)\b")
_MOUNT_WITHOUT = re.compile(
    r"\b(get_tree_nodev|get_tree_single\w*|get_tree_keyed|mount_nodev|mount_single|kill_anon_super"
    r"|kill_litter_super)\b"
)


def _facts(root: Path, module: Module, files: dict[Path, CFile]) -> ModuleFacts:
    own = [files[path] for path in module.sources if path in files]
    headers = [file for path, file in files.items() if path.suffix == ".h"]
    constants = Constants([*own, *headers])
    facts = ModuleFacts(module)
    facts.missing_sources = [path for path in module.sources if not (root / path).is_file()]
    for file in own:
        for match, place in file.finditer(_REGISTERED):
            if any(each.identifier == match[1] for each in facts.types):
                continue
            facts.types.append(_filesystem_type(match[1], place, own, constants))
        for match, place in file.finditer(r"\bMODULE_LICENSE\s*\(\s*\"([^\"]*)\""):
            facts.licence = facts.licence or (match[1], place)
        for match, place in file.finditer(
            r"\bmodule_param(?:_named)?\s*\(\s*(\w+)\s*,(?:\s*[\w.\[\]>-]+\s*,)??\s*(\w+)\s*,[^,()]*\)"
        ):
            facts.parameters.append(Parameter(match[1], match[2], place))
        for match, place in file.finditer(r"\bMODULE_SOFTDEP\s*\(\s*\"pre:\s*([^\":]*)\""):
            facts.needs += [(name, place) for name in match[1].split()]
    facts.requests = list(_requests(own, constants))
    facts.ioctl_on = _ioctl_on(own, constants)
    if facts.types:
        facts.lacks = _lacked(own)
        if (limit := _file_limit(own, constants)) is not None:
            facts.lacks["largefile"] = limit
        facts.operations_seen = any(
            "lookup" in each.fields
            for file in own
            for each in file.initialisers("inode_operations")
        )
    return facts


def _filesystem_type(
    identifier: str, registered: Place, own: list[CFile], constants: Constants
) -> FilesystemType:
    for file in own:
        for each in file.initialisers("file_system_type"):
            if each.name == identifier:
                name = constants.text(each.fields.get("name", ""))
                needs_device, why = _backing(each, file, own)
                return FilesystemType(name, identifier, needs_device, why, each.place)
    return FilesystemType(None, identifier, None, "", registered)


def _backing(each: Initialiser, file: CFile, own: list[CFile]) -> tuple[bool | None, str]:
    """Whether a mount needs a disk, and which words of the source say so."""
    if "FS_REQUIRES_DEV" in each.fields.get("fs_flags", ""):
        return True, "FS_REQUIRES_DEV"
    said = each.fields.get("kill_sb", "")
    entry = each.fields.get("mount") or each.fields.get("init_fs_context", "")
    body = file.function_body(entry) if entry else None
    bodies = [said, body or "", "\n".join(other.code for other in own)]
    for text in bodies:
        device, none = _MOUNT_WITH_DEVICE.search(text), _MOUNT_WITHOUT.search(text)
        if device is not None and none is None:
            return True, device[1]
        if none is not None and device is None:
            return False, none[1]
    return (None, "") if _MOUNT_WITH_DEVICE.search(bodies[-1]) else (False, "no FS_REQUIRES_DEV")


def _requests(own: list[CFile], constants: Constants) -> Iterator[Request]:
    """Numbers the tree defines and the module's sources use."""
    used = {
        word
        for file in own
        if file.path.suffix == ".c"
        for word in re.findall(r"\b[A-Z][A-Z0-9_]{3,}\b", _DEFINITION.sub("", file.code))
    }
    for name in sorted(used & constants.macros.keys()):
        macro = constants.macros[name]
        if not re.match(r"\(*\s*_IO[RW]{0,2}\s*\(", macro.body):
            continue
        number = constants.number(macro.body)
        if number is not None:
            yield Request(name, number, macro.place)


def _ioctl_on(own: list[CFile], constants: Constants) -> tuple[str, Place] | None:
    """What ioctls are called on: a device node, a directory or a file."""
    answering = [
        (each, file)
        for file in own
        for each in file.initialisers("file_operations")
        if "unlocked_ioctl" in each.fields
    ]
    for file in own:
        for device in file.initialisers("miscdevice"):
            name = constants.text(device.fields.get("name", ""))
            operations = device.fields.get("fops", "").lstrip("& ")
            if name and any(each.name == operations for each, _ in answering):
                return f"/dev/{name}", device.place
    for each, _ in answering:
        if "iterate_shared" in each.fields or "iterate" in each.fields:
            return "root", each.place
    return ("file", answering[0][0].place) if answering else None


# -- what is not offered -------------------------------------------------------------------------

_DIRECTORY_OPERATIONS = {
    "create": "create",
    "link": "hardlink",
    "unlink": "unlink",
    "symlink": "symlink",
    "mkdir": "mkdir",
    "rename": "rename",
    "mknod": "mknod",
}
#: What answers and tells nothing: no block is free, none is used.
_EMPTY = {"simple_statfs", "NULL"}


def _lacked(own: list[CFile]) -> dict[str, str]:
    """Operations that no table of the module has; only where such a table was found at all."""
    lacked: dict[str, str] = {}

    def missing_in(
        kind: str, belongs: Callable[[Initialiser], bool], words: dict[str, str]
    ) -> None:
        tables = [each for file in own for each in file.initialisers(kind) if belongs(each)]
        for operation, word in words.items():
            given = {each.fields[operation] for each in tables if operation in each.fields}
            if tables and given <= _EMPTY:
                places = ", ".join(f"{each.name} ({each.place})" for each in tables[:2])
                only = f"only {min(given)}" if given else f"no .{operation}"
                lacked[word] = f"{only} in {places}"

    missing_in("inode_operations", lambda each: "lookup" in each.fields, _DIRECTORY_OPERATIONS)
    regular = ("read_iter", "read")
    missing_in(
        "file_operations",
        lambda each: (
            any(name in each.fields for name in regular)
            and "iterate" not in each.fields
            and "iterate_shared" not in each.fields
        ),
        {"fsync": "fsync", "mmap": "mmap"},
    )
    missing_in("super_operations", lambda _: True, {"statfs": "statfs"})
    if "create" in lacked and (how := _never_writes(own)):
        # That says it all of what would be written; links that are there are read all the same.
        for word in (*_DIRECTORY_OPERATIONS.values(), "fsync"):
            lacked.pop(word, None)
        lacked["write"] = how
    return lacked


#: Tests of large files write up to there, and expect it to work.
_LARGE_FILES_END = 201 << 20


def _file_limit(own: list[CFile], constants: Constants) -> str | None:
    """How it shows that files cannot be as large as tests of large files make them."""
    for file in own:
        for match, place in file.finditer(r"\bs_maxbytes\s*=\s*([^;=]+);"):
            expression = re.sub(
                r"\(\s*(?:loff_t|u64|__u64|(?:unsigned )?long long)\s*\)", "", match[1]
            )
            limit = constants.number(expression)
            if limit is not None and 0 < limit <= _LARGE_FILES_END:
                return f"s_maxbytes is {limit} ({place})"
    return None


def _never_writes(own: list[CFile]) -> str:
    """How it shows that regular files are only read, '' where they may be written."""
    tables = [each for file in own for each in file.initialisers("file_operations")]
    if any({"write", "write_iter"} & each.fields.keys() for each in tables):
        return ""
    for each in tables:
        if {"read", "read_iter"} & each.fields.keys() and "iterate_shared" not in each.fields:
            return f"no .write_iter in {each.name} ({each.place})"
    for file in own:
        for _, place in file.finditer(r"\bgeneric_ro_fops\b"):
            return f"generic_ro_fops ({place})"
    return ""


# -- userspace -----------------------------------------------------------------------------------


def _programs(
    root: Path, files: list[Path], sources: dict[Path, CFile], kernel_side: set[Path]
) -> Iterator[Program]:
    """mkfs and fsck programs: C files with a name that may be one's, and a `main`."""
    make_files = {
        path.parent: Makefile.read(root, path, {"KERNELRELEASE": ""})
        for path in files
        if path.name == "Makefile"
    }
    for path, file in sorted(sources.items()):
        wanted = _PROGRAM_NAME.search(path.stem) or path.parent.name in ("mkfs", "fsck")
        if path in kernel_side or path.suffix != ".c" or not wanted:
            continue
        main = re.search(r"^(?:static\s+)?(?:int|void)?\s*main\s*\(", file.code, re.MULTILINE)
        if main is None or _ASIDE.search(str(path)):
            continue
        made = make_files.get(path.parent)
        target = next(
            (
                name
                for name in (path.stem, path.stem.replace("_", "."))
                if made and name in made.targets
            ),
            None,
        )
        place = made.targets[target] if made and target else file.place(main.start())
        options = "".join(re.findall(r"\bgetopt\w*\s*\([^;\"]*\"([^\"]*)\"", file.code))
        yield Program(
            name=path.stem,
            source=path,
            target=target,
            place=place,
            includes=tuple(_include_directories(file, files)),
            libraries=tuple(lib for header, lib in _LIBRARIES.items() if header in file.code),
            read_only=not re.search(
                r"\bO_(RDWR|WRONLY)\b|\"[rwa]b?\+?b?\"(?<!\"rb\")(?<!\"r\")", file.code
            ),
            takes_n="n" in options,
        )


#: `mkledger.c` is one's only of a filesystem of that name: whoever knows its type decides.
_PROGRAM_NAME = re.compile(r"mkfs|fsck|mk\w*fs|^(mk|make|format)")


def _scripts(root: Path, files: list[Path]) -> Iterator[Program]:
    """mkfs and fsck programs that are scripts: `mkfs.demo.py`, with an interpreter."""
    for path in files:
        if path.suffix not in ("", ".py", ".sh", ".pl") and not path.name.startswith("mkfs."):
            continue
        if not _PROGRAM_NAME.match(path.name) or _ASIDE.search(str(path)):
            continue
        with (root / path).open("rb") as stream:
            if stream.read(2) != b"#!":
                continue
        stem = path.stem if path.suffix in (".py", ".sh", ".pl") else path.name
        yield Program(stem, path, None, Place(path, 1), script=True)


_LIBRARIES = {"<uuid/uuid.h>": "uuid", "<math.h>": "m", "<zlib.h>": "z", "<pthread.h>": "pthread"}


def _include_directories(file: CFile, files: list[Path]) -> Iterator[Path]:
    """Where the headers are that a file includes by name and has not beside it."""
    for match, _ in file.finditer(r'#[ \t]*include[ \t]+"([^"]+)"'):
        if Path(os.path.normpath(file.path.parent / match[1])) in files:
            continue
        found = [
            path
            for path in files
            if path.parts[-len(Path(match[1]).parts) :] == Path(match[1]).parts
        ]
        if len(found) == 1:
            yield Path(*found[0].parts[: -len(Path(match[1]).parts)])


def _crates(root: Path, files: list[Path]) -> Iterator[RustProgram]:
    for path in files:
        if path.name != "Cargo.toml" or "vendor" in path.parts:
            continue
        try:
            manifest = tomllib.loads((root / path).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        package = manifest.get("package")
        if not isinstance(package, dict) or not isinstance(package.get("name"), str):
            continue
        here = root / path.parent
        bins = [
            each["name"] for each in manifest.get("bin", []) if isinstance(each.get("name"), str)
        ]
        if not bins and (here / "src" / "main.rs").is_file():
            bins = [package["name"]]
        for name in bins:
            yield RustProgram(
                directory=path.parent,
                bin=name,
                missing=_crates_from_elsewhere(manifest, root, path.parent),
                words=_words(root, path.parent, files),
                place=Place(path, 1),
            )


def _crates_from_elsewhere(manifest: dict[str, object], root: Path, crate: Path) -> tuple[str, ...]:
    """Dependencies that a build without network cannot get."""
    for directory in (root / crate, root):
        if (directory / ".cargo" / "config.toml").is_file() or (directory / "vendor").is_dir():
            return ()
    found = []
    for table in ("dependencies", "build-dependencies"):
        listed = manifest.get(table)
        for name, wanted in (listed if isinstance(listed, dict) else {}).items():
            if not (isinstance(wanted, dict) and ("path" in wanted or wanted.get("optional"))):
                found.append(name)
    return tuple(found)


def _words(root: Path, crate: Path, files: list[Path]) -> dict[str, Place]:
    """Subcommands that a program's sources name in a string."""
    found: dict[str, Place] = {}
    for path in files:
        if path.suffix != ".rs" or not path.is_relative_to(crate / "src"):
            continue
        text = (root / path).read_text(encoding="utf-8", errors="replace")
        for match in re.finditer(
            r'"(mkfs|fsck|status|bench)"|^\s*(Mkfs|Fsck|Status|Bench)\b', text, re.M
        ):
            word = (match[1] or match[2]).lower()
            found.setdefault(word, Place(path, text.count("\n", 0, match.start()) + 1))
    return found
