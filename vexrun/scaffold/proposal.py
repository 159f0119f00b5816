"""The subject file for a surveyed tree, with where each value comes from."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field

from vexrun.scaffold.csource import Place
from vexrun.scaffold.known_types import KNOWN_TYPES, KnownType
from vexrun.scaffold.survey import (
    FilesystemType,
    ModuleFacts,
    Program,
    Request,
    RustProgram,
    Survey,
)

TODO = "# TODO vexrun:"
#: Directories that say nothing about what is in them.
_NO_NAME = re.compile(
    r"(fs|src|source|kernel\w*|linux|module\w*|tree|main|master|trunk|tmp|repo)\Z"
)
#: Requests that do what they are for, whatever their argument is.
_LASTING = re.compile(
    r"SHUT_?DOWN|GOING_?DOWN|RESIZE|GROW|SHRINK|FORMAT|MKFS|WIPE|ERASE|FREEZE|THAW|SWAP|DEFRAG"
    r"|INJECT|ERROR|BLESS|DESTROY|RESET|TRIM|BOOT|CRASH|PANIC"
)
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_DEFAULT_MIB = 64


@dataclass(frozen=True)
class Found:
    """One thing that was found out, and how it is known."""

    what: str
    how: str


@dataclass
class Proposal:
    """The text of a subject file. `missing` are keys without which it is not valid."""

    text: str = ""
    found: list[Found] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)


def propose(survey: Survey, version: str) -> Proposal:
    """Describe the likeliest module of the tree."""
    candidates = survey.filesystems
    chosen = candidates[0] if candidates else _likeliest_module(survey)
    return _Writer(survey, chosen, candidates[1:], version).write()


def _likeliest_module(survey: Survey) -> ModuleFacts:
    return max(survey.modules, key=lambda facts: len(facts.module.sources))


@dataclass
class _Tool:
    name: str
    build: str
    place: Place


class _Writer:
    """Collects sections in the order of the file; `self.proposal` gets what is found."""

    def __init__(
        self, survey: Survey, chosen: ModuleFacts, others: list[ModuleFacts], version: str
    ) -> None:
        self.survey = survey
        self.chosen = chosen
        self.module = chosen.module
        self.others = others
        self.version = version
        self.proposal = Proposal()
        self.lines: list[str] = []
        self.type = self._choose_type()
        name = self.type.name if self.type else None
        self.known: KnownType | None = KNOWN_TYPES.get(name or "")
        self.own_type = name if name and _PLAIN.fullmatch(name) else self.module.name
        self.tools: list[_Tool] = []
        self.crates: list[RustProgram] = []

    def write(self) -> Proposal:
        mkfs, fsck = self._formatter(), self._checker()
        self._head()
        self._subject(mkfs)
        self._module()
        self._variants()
        self._filesystem(mkfs, fsck)
        self._programs()
        self._ioctl()
        self._cli()
        self._scripts(mkfs)
        self._structure()
        self.proposal.text = "\n".join(self.lines).strip() + "\n"
        return self.proposal

    # -- saying -----------------------------------------------------------------------------

    def add(self, line: str = "", why: object = "") -> None:
        text = f"{line}  # {why}" if str(why) else line
        self.lines.append("".join(each if each.isprintable() else "?" for each in text))

    def found(self, what: str, how: object) -> None:
        self.proposal.found.append(Found(what, str(how)))

    def missing(self, key: str, why: str, example: str) -> None:
        """A key without which the file cannot be used."""
        self.proposal.missing.append(f"{key}: {why}")
        self.add(f"{TODO} {why}")
        self.add(f"# {key.rpartition('.')[2]} = {example}")

    def doubt(self, key: str, why: str) -> None:
        self.proposal.doubts.append(f"{key}: {why}")
        self.add(f"{TODO} {why}")

    # -- choosing ---------------------------------------------------------------------------

    def _choose_type(self) -> FilesystemType | None:
        """Of several types of one module the one with its name, else the first with a name."""
        types = self.chosen.types
        named = [each for each in types if each.name and _PLAIN.fullmatch(each.name)]
        same = [each for each in named if each.name == self.module.name]
        return next(iter(same or named or types), None)

    def _name(self) -> str:
        """The tree's directory, unless that says nothing or holds several filesystems."""
        directory = self.survey.root.resolve().name
        shared = any(each.module.directory == self.module.directory for each in self.others)
        if shared or not _PLAIN.fullmatch(directory) or _NO_NAME.match(directory):
            return self.own_type
        return directory

    def _formatter(self) -> tuple[str, str, bool] | None:
        """mkfs: the command, where it is from, and whether its call is only the usual one."""
        if self.type is not None and self.type.needs_device is False:
            return None
        program = self._own_program("mk")
        if program is not None:
            name = self._add_tool(program, "mkfs")
            return f"{{tools}}/{name} {{device}}", str(program.source), True
        crate, word = self._crate_for("mkfs")
        if crate is not None:
            self._use(crate)
            command = f"{{tools}}/{crate.bin}{f' {word}' if word else ''} {{device}}"
            return command, str(crate.words.get("mkfs", crate.place)), True
        if self.known is not None:
            return self.known.mkfs, f"Debian package {self.known.package}", False
        return None

    def _checker(self) -> tuple[str, str, bool] | None:
        """fsck, likewise; the flag says that it may change what it checks."""
        if self.type is not None and self.type.needs_device is False:
            return None
        program = self._own_program("fsck")
        if program is not None:
            name = self._add_tool(program, "fsck")
            option = " -n" if program.takes_n else ""
            sure = program.takes_n or program.read_only
            return f"{{tools}}/{name}{option} {{device}}", str(program.source), not sure
        crate, word = self._crate_for("fsck")
        if crate is not None:
            self._use(crate)
            command = f"{{tools}}/{crate.bin}{f' {word}' if word else ''} {{device}}"
            return command, str(crate.words.get("fsck", crate.place)), True
        if self.known is not None and self.known.fsck and not self._own_program("mk"):
            return self.known.fsck, f"Debian package {self.known.package}", False
        return None

    def _own_program(self, kind: str) -> Program | None:
        """The tree's own program, by its name; the one that names the type goes first."""
        ours = "|".join(map(re.escape, {self.own_type, self.module.name}))
        made = rf"mkfs|mk\w*fs|^(mk|make|format)[._-]?(fs[._-]?)?({ours})"
        wanted = re.compile(r"fsck" if kind == "fsck" else made)
        fitting = [
            each
            for each in self.survey.programs
            if wanted.search(each.name) or wanted.search(each.source.parent.name)
        ]
        return min(
            fitting,
            key=lambda each: (
                self.own_type not in each.name,
                self.module.name not in each.name,
                each.script,  # it may only call the program
                len(each.source.parts),
                each.name,
            ),
            default=None,
        )

    def _crate_for(self, word: str) -> tuple[RustProgram | None, str]:
        usable = [each for each in self.survey.crates if not each.missing]
        for each in usable:
            if word in each.bin:
                return each, ""
        return next(((each, word) for each in usable if word in each.words), (None, ""))

    def _use(self, crate: RustProgram) -> None:
        if crate not in self.crates:
            self.crates.append(crate)

    def _add_tool(self, program: Program, kind: str) -> str:
        name = f"{kind}.{self.own_type}" if program.name in (kind, "main", "mkfs") else program.name
        if program.script:
            build = f"install -m 755 {shlex.quote(str(program.source))} {{out}}"
        elif program.target is not None:
            directory = program.source.parent
            build = (
                f"make -C {directory} {program.target} && cp {directory / program.target} {{out}}"
            )
        else:
            options = [shlex.quote(f"-I{path}") for path in dict.fromkeys(program.includes)]
            libraries = [f"-l{library}" for library in program.libraries]
            source = shlex.quote(str(program.source))
            build = " ".join(["cc", "-O2", *options, "-o", "{out}", source, *libraries])
        self.tools.append(_Tool(name, build, program.place))
        return name

    # -- sections ---------------------------------------------------------------------------

    def _head(self) -> None:
        self.add(f"# Written by vexrun {self.version} from what the files of this tree say.")
        self.add(f"# `{TODO.removeprefix('# ')}` marks what they do not say. Run next:")
        self.add("#   vexrun test --target host --only structure,build")
        self.add()
        if self.others:
            self.add("# Other modules here register a filesystem. One file describes one module:")
            self.add("# for each of them write another one, and name it with --subject FILE.")
            for facts in self.others:
                module = facts.module
                types = ", ".join(f"'{each.name or '?'}'" for each in facts.types)
                self.add(
                    f'#   dir = "{module.directory}", ko = "{module.ko}", type {types} '
                    f"({module.place})"
                )
                self.found(f"also: {module.ko}, type {types}", module.place)
            self.add()

    def _subject(self, mkfs: tuple[str, str, bool] | None) -> None:
        self.add("[subject]")
        self.add(f"name = {_text(self._name())}")
        packages = []
        if self.known is not None and mkfs is not None and mkfs[0] == self.known.mkfs:
            packages.append(self.known.package)
        if any("-luuid" in tool.build for tool in self.tools):
            packages.append("uuid-dev")
        if packages:
            self.add(f"packages = {_list(packages)}")

    def _module(self) -> None:
        module = self.module
        self.add()
        self.add("[module]")
        if str(module.directory) != ".":
            self.add(f"dir = {_text(module.directory)}", module.place.file)
        if self.survey.prepare is not None:
            command, place = self.survey.prepare
            self.add(f"prepare = {_text(command)}", f"PRE_BUILD ({place})")
            self.found(f"prepared by {command}", place)
        variables = [module.config] if module.config else []
        variables += [
            name
            for name in module.siblings
            if not re.search(r"KUNIT|TEST", name) and not self._registers(name)
        ]
        makes = dict.fromkeys(variables, "m")
        if self.known is not None:
            makes.update(dict.fromkeys(self.known.config, "y"))
        if makes:
            pairs = ", ".join(f'{name} = "{value}"' for name, value in makes.items())
            self.add(f"make_vars = {{ {pairs} }}", module.place)
        if self.known is None:
            for name, place in module.asks_for:
                self.add(f"# {name} adds parts ({place}); set it in make_vars to build them.")
        self.add(f"ko = {_text(module.ko)}", module.place)
        self.found(f"module {module.directory / module.ko}", module.place)
        for path in self.chosen.missing_sources:
            self.doubt("module", f"Kbuild names '{path}', which is not in the tree.")
        for name, place in self.chosen.needs:
            self.add(f'# needs = ["{name}"]', f"MODULE_SOFTDEP ({place}); modprobe's business")
        if self.chosen.parameters:
            self.add("# Parameters it takes; those given here are passed to insmod:")
            for each in self.chosen.parameters:
                self.add(f"# params = {{ {each.name} = … }}", f"{each.kind} ({each.place})")
            names = ", ".join(each.name for each in self.chosen.parameters)
            self.found(f"parameters {names}", self.chosen.parameters[0].place)
        if self.chosen.licence is None:
            self.doubt("module", "no MODULE_LICENSE(): modpost refuses a module without one.")
        else:
            self.found(f"licence {self.chosen.licence[0]}", self.chosen.licence[1])

    def _registers(self, config: str) -> bool:
        return any(each.module.config == config for each in self.survey.filesystems)

    def _variants(self) -> None:
        for each in self.module.switches:
            self.add()
            self.add("[[variants]]", each.place)
            self.add(f"name = {_text(_variant_name(each.variable, self.module.name))}")
            self.add(f"make_vars = {{ {each.variable} = {_text(each.value)} }}")
            if each.ko is not None:
                self.add(f"ko = {_text(each.ko)}")
            self.found(f"variant {each.variable}={each.value}", each.place)

    def _filesystem(
        self, mkfs: tuple[str, str, bool] | None, fsck: tuple[str, str, bool] | None
    ) -> None:
        self.add()
        self.add("[filesystem]")
        self._type()
        needs_device = self.type.needs_device if self.type else None
        if needs_device is False and self.type is not None:
            self.add('backing = "nodev"', self.type.why_backing)
            self.found("mounted from nothing (nodev)", self.type.why_backing)
        else:
            if needs_device is None:
                self.doubt("filesystem.backing", 'is it mounted from a disk ("block") or "nodev"?')
            elif self.type is not None:
                self.found("mounted from a disk", self.type.why_backing)
            self.add('backing = "block"', self.type.why_backing if self.type else "")
            size = self.known.size_mib if self.known else _DEFAULT_MIB
            self.add(f"size_mib = {size}")
            if self.known is not None and self.known.options:
                self.add(f"options = {_list(list(self.known.options))}", "to write at all")
            self._mkfs(mkfs)
            self._fsck(fsck)
        self._lacks()

    def _type(self) -> None:
        if self.type is None or not _PLAIN.fullmatch(self.type.name or ""):
            self.missing(
                "filesystem.type",
                "the type to mount: no register_filesystem() with a plain name was found."
                if self.type is None
                else f"the type to mount: '{self.type.identifier}' has no plain .name "
                f"({self.type.place}).",
                f'"{self.module.name}"',
            )
            return
        self.add(f"type = {_text(self.type.name)}", self.type.place)
        self.found(f"filesystem type {self.type.name}", self.type.place)
        for each in self.chosen.types:
            if each is not self.type:
                self.add(f'# it registers "{each.name}" as well ({each.place})')

    def _mkfs(self, mkfs: tuple[str, str, bool] | None) -> None:
        if mkfs is None:
            unusable = next((each for each in self.survey.crates if each.missing), None)
            reason = (
                f"; '{unusable.bin}' ({unusable.place.file}) needs crates that are not in the tree"
                if unusable
                else ""
            )
            self.missing(
                "filesystem.mkfs",
                f"what formats {{device}}? No mkfs was found{reason}. "
                '"true" only for a filesystem that a mount makes on a disk full of noise.',
                '"{tools}/mkfs {device}"',
            )
            return
        command, source, usual = mkfs
        if usual:
            made_of = ", and what the content is made of" if "write" in self.chosen.lacks else ""
            self.doubt("filesystem.mkfs", f"the call is the usual one; check its options{made_of}.")
        self.add(f"mkfs = {_text(command)}", source)
        self.found(f"mkfs: {command}", source)

    def _fsck(self, fsck: tuple[str, str, bool] | None) -> None:
        if fsck is None:
            self.add('# fsck = "…"', "none is known that changes nothing and ends with 0 if clean")
            return
        command, source, unsure = fsck
        if unsure:
            self.doubt("filesystem.fsck", "must change nothing and end with 0 only if clean.")
            self.add(f"# fsck = {_text(command)}", source)
            return
        self.add(f"fsck = {_text(command)}", source)
        self.found(f"fsck: {command}", source)

    def _lacks(self) -> None:
        lacks = dict(self.chosen.lacks)
        for word in self.known.lacks if self.known else ():
            lacks.setdefault(word, f"the format of {self.own_type}")
        if self.chosen.types and not self.chosen.operations_seen:
            self.doubt(
                "filesystem.lacks", "no inode_operations with .lookup was found to look into."
            )
        if not lacks:
            self.add("lacks = []", "no operation was seen to be missing")
            return
        self.add("lacks = [")
        for word, how in lacks.items():
            self.add(f'    "{word}",', how)
            self.found(f"lacks {word}", how)
        self.add("]")

    def _programs(self) -> None:
        for tool in self.tools:
            self.add()
            self.add("[[tools]]", tool.place)
            self.add(f"name = {_text(tool.name)}")
            self.add(f"build = {_text(tool.build)}")
            self.found(f"tool {tool.name}", tool.place)
        for crate in self.survey.crates:
            if not crate.missing:
                self._use(crate)
                continue
            self.add()
            self.doubt(
                "crates",
                f"'{crate.bin}' needs {', '.join(crate.missing[:6])}; builds have no network. "
                "Run `cargo vendor`, then uncomment:",
            )
            self.add("# [[crates]]")
            self.add(f"# dir = {_text(crate.directory)}")
            self.add(f"# bin = {_text(crate.bin)}")
        for crate in self.crates:
            self.add()
            self.add("[[crates]]", crate.place)
            self.add(f"dir = {_text(crate.directory)}")
            self.add(f"bin = {_text(crate.bin)}")
            self.found(f"Rust program {crate.bin}", crate.place)

    def _ioctl(self) -> None:
        requests, on = self.chosen.requests, self.chosen.ioctl_on
        if not requests:
            return
        self.add()
        self.add("[ioctl]")
        if on is None:
            self.doubt("ioctl.on", "what are they called on: root, file, or a node below /dev?")
        self.add(f'on = "{on[0] if on else "root"}"', on[1] if on else "")
        self.add()
        self.add("[ioctl.requests]")
        for each in requests:
            self._request(each)
        self.found(f"{len(requests)} ioctl requests", requests[0].place)

    def _request(self, each: Request) -> None:
        line = f"{each.name} = {each.number:#010x}"
        if _LASTING.search(each.name):
            self.add(f"# {line}", f"{each.place}; by its name it works with garbage, too")
        else:
            self.add(line, each.place)

    def _cli(self) -> None:
        for crate in self.crates:
            for word, section, key in (("status", "cli", "probe"), ("bench", "bench", "vectors")):
                if word in crate.words:
                    self.add()
                    self.doubt(
                        f"{section}.{key}",
                        f"'{crate.bin}' has '{word}' ({crate.words[word]}); if it takes the mount:",
                    )
                    option = " --json" if word == "bench" else ""
                    self.add(f"# [{section}]")
                    self.add(f'# {key} = "{{tools}}/{crate.bin} {word} {{mount}}{option}"')

    def _scripts(self, mkfs: tuple[str, str, bool] | None) -> None:
        """For what is only read: the comparison with what mkfs was given."""
        known = self.known
        if known is None or not known.made_of or mkfs is None or mkfs[0] != known.mkfs:
            return
        self.add()
        self.add("[[scripts]]", "no test knows what mkfs was given; this one does")
        self.add('name = "same-as-the-directory"')
        command = f"diff -r --no-dereference {known.made_of} {{mount}} && echo all the same"
        self.add(f"run = {_text(command)}")
        self.add('success = "^all the same$"')
        self.found(f"compared with {known.made_of}", "what mkfs makes it of")

    def _structure(self) -> None:
        if self.survey.required:
            self.add()
            self.add("[structure]")
            self.add(f"required = {_list(self.survey.required)}")


def _variant_name(variable: str, module: str) -> str:
    """VEXFS_C_ONLY of vexfs is `c-only`."""
    words = variable.lower().removeprefix("config_").split("_")
    prefix = re.split(r"[_-]", module.lower())
    while len(words) > 1 and prefix and words[0] == prefix[0]:
        words, prefix = words[1:], prefix[1:]
    return "-".join(word for word in words if word) or variable


def _list(words: Iterable[str]) -> str:
    return "[" + ", ".join(map(_text, words)) + "]"


def _text(value: object) -> str:
    """A TOML string: for what names hold, JSON's escapes are TOML's."""
    return json.dumps(str(value), ensure_ascii=False)
