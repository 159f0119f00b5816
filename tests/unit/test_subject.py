"""The subject file, as its author meets it: what is accepted, and what a mistake is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from vexrun.errors import ConfigError
from vexrun.subject import (
    Backing,
    FilesystemSection,
    Subject,
    canonical_operation,
    check_against_tree,
    load_subject,
)

ROOT = Path(__file__).resolve().parents[2]
MakeSubject = Callable[..., Subject]
SubjectText = Callable[..., str]

#: Every key there is.
FULL = """
[subject]
name = "simplefs"
packages = ["exfatprogs", "g++-12"]
source = { apt = "linux-source-{series}", subdir = "fs/exfat" }
[module]
dir = "kernel"
make_vars = { CONFIG_EXFAT_FS = "m", DEBUG = true, LEVEL = 3 }
ko = "sub/simple-fs.ko"
name = "simple-fs"
needs = ["libcrc32c"]
params = { trace = 1, mode = "fast" }
[[variants]]
name = "c-only"
make_vars = { VEXFS_C_ONLY = "1" }
ko = "conly.ko"
[filesystem]
type = "simplefs"
backing = "block"
options = ["readwrite"]
size_mib = 128
mkfs = "{tools}/mkfs.simplefs {device}"
fsck = "{tools}/fsck.simplefs {device}"
lacks = ["symlink", "Hard-Links"]
[[tools]]
name = "mkfs.simplefs"
build = "cc -O2 -o {out} mkfs.c"
[[tools]]
name = "fsck.simplefs"
build = "cp fsck.sh {out} && echo ${HOME}"
[[crates]]
dir = "vexctl"
bin = "vexctl"
[cli]
probe = "{tools}/vexctl status {mount}"
[structure]
required = ["mkfs.c", "Kbuild"]
[bench]
vectors = "{tools}/vexctl bench {mount} --json"
"""


def refused(tmp_path: Path, text: str | bytes) -> ConfigError:
    """The error for a subject file of this text; it names the file and where to read on."""
    path = tmp_path / "wrong.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ConfigError) as caught:
        load_subject(path)
    assert f"'{path}'" in caught.value.message
    return caught.value


# -- what is accepted ----------------------------------------------------------------------------


def test_every_key_arrives(tmp_path: Path) -> None:
    path = tmp_path / "vexrun.toml"
    path.write_text(FULL)
    subject = load_subject(path)
    assert subject.name == "simplefs"
    assert subject.subject.packages == ["exfatprogs", "g++-12"]
    assert subject.subject.source is not None
    assert subject.subject.source.apt == "linux-source-{series}"
    assert subject.subject.source.subdir == "fs/exfat"
    module = subject.module
    assert (module.dir, module.ko, module.name) == ("kernel", "sub/simple-fs.ko", "simple-fs")
    assert module.make_vars == {"CONFIG_EXFAT_FS": "m", "DEBUG": True, "LEVEL": 3}
    assert module.make_vars["DEBUG"] is True
    assert module.needs == ["libcrc32c"]
    assert module.params == {"trace": 1, "mode": "fast"}
    assert [v.model_dump() for v in subject.variants] == [
        {"name": "c-only", "make_vars": {"VEXFS_C_ONLY": "1"}, "ko": "conly.ko"}
    ]
    filesystem = subject.filesystem
    assert (filesystem.type, filesystem.backing) == ("simplefs", Backing.BLOCK)
    assert (filesystem.options, filesystem.size_mib) == (["readwrite"], 128)
    assert filesystem.mkfs == "{tools}/mkfs.simplefs {device}"
    assert filesystem.fsck == "{tools}/fsck.simplefs {device}"
    assert subject.tool_names == {"mkfs.simplefs", "fsck.simplefs", "vexctl"}
    assert subject.cli is not None
    assert subject.cli.probe == "{tools}/vexctl status {mount}"
    assert subject.structure.required == ["mkfs.c", "Kbuild"]
    assert subject.bench is not None
    assert subject.bench.vectors == "{tools}/vexctl bench {mount} --json"


def test_what_is_left_out_has_a_default(make_subject: MakeSubject) -> None:
    subject = make_subject()
    assert subject.subject.packages == []
    assert subject.subject.source is None
    assert subject.module.dir == "."
    assert subject.module.name == "demo", "named after the file"
    assert subject.filesystem.backing is Backing.BLOCK
    assert subject.filesystem.size_mib == 64
    assert subject.filesystem.lacked_operations == set()
    assert (subject.cli, subject.bench) == (None, None)


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in (ROOT / "examples" / "subjects").glob("*.toml"))
)
def test_the_shipped_subjects_are_valid(name: str) -> None:
    subject = load_subject(ROOT / "examples" / "subjects" / f"{name}.toml")
    assert subject.name == name
    assert subject.unknown_lacks() == []


def test_the_module_has_underscores_in_sysfs(make_subject: MakeSubject) -> None:
    assert make_subject(module='ko = "a/my-fs.ko"').module.sysfs_name == "my_fs"


@pytest.mark.parametrize(
    ("spelled", "meant"),
    [
        ("Hard-Links", "hardlink"),
        ("hardlink", "hardlink"),
        ("sub directories", "mkdir"),
        ("sparse_files", "sparse"),
        ("RO", "readonly"),
        ("unique inodes", "inodes"),
        ("teleport", "teleport"),
    ],
)
def test_operations_are_recognised_however_they_are_spelled(spelled: str, meant: str) -> None:
    assert canonical_operation(spelled) == meant


def test_a_lacked_operation_that_no_test_knows_is_named(make_subject: MakeSubject) -> None:
    lacks = 'type = "demo"\nmkfs = "true"\nlacks = ["symlinks", "teleport"]'
    assert make_subject(filesystem=lacks).unknown_lacks() == ["teleport"]


def test_a_filesystem_without_a_device_keeps_nothing(make_subject: MakeSubject) -> None:
    subject = make_subject(filesystem='type = "demo"\nbacking = "nodev"\nlacks = ["links", "mmap"]')
    assert subject.filesystem.mkfs is None
    assert {"persistence", "mmap"} <= subject.filesystem.lacked_operations


def test_shell_variables_are_no_placeholders(make_subject: MakeSubject) -> None:
    tool = '[[tools]]\nname = "t"\nbuild = "cp a {out}; echo ${HOME} {}"'
    assert "${HOME}" in make_subject(tool).tools[0].build


# -- what is refused: unknown keys ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("sections", "more", "key", "meant"),
    [
        ({"subject": 'name = "d"\npakages = []'}, "", "subject.pakages", "packages"),
        ({"module": 'ko = "d.ko"\nmake_var = {}'}, "", "module.make_var", "make_vars"),
        ({"filesystem": 'type = "d"\nmkfs = "true"\nsize = 3'}, "", "filesystem.size", "size_mib"),
        ({}, '[[tools]]\nname = "t"\nbuild = "{out}"\nbuidl = ""', "tools.0.buidl", "build"),
        ({}, '[[variants]]\nname = "v"\nmakevars = {}', "variants.0.makevars", "make_vars"),
        ({}, '[[crates]]\ndir = "c"\nbin = "c"\nbins = ""', "crates.0.bins", "bin"),
        ({"cli": 'probe = "x"\nprob = "x"'}, "", "cli.prob", "probe"),
        ({"structure": 'require = ["x"]'}, "", "structure.require", "required"),
        ({"bench": 'vector = "x"'}, "", "bench.vector", "vectors"),
        ({"filesystems": ""}, "", "filesystems", "filesystem"),
        (
            {"subject": 'name = "d"\nsource = { apt = "linux", sub_dir = "." }'},
            "",
            "subject.source.sub_dir",
            "subdir",
        ),
    ],
)
def test_an_unknown_key_is_named_with_what_was_meant(
    tmp_path: Path,
    subject_text: SubjectText,
    sections: dict[str, str],
    more: str,
    key: str,
    meant: str,
) -> None:
    error = refused(tmp_path, subject_text(more, **sections))
    assert f"'{key}': unknown key; did you mean '{meant}'?" in error.evidence
    assert "docs/subject-file.md" in error.hint


def test_an_unknown_key_like_no_other_lists_the_known_ones(
    tmp_path: Path, subject_text: SubjectText
) -> None:
    error = refused(tmp_path, subject_text(structure="zzz = 1"))
    assert error.evidence == "'structure.zzz': unknown key (known keys here: required)"


def test_every_mistake_is_told_at_once(tmp_path: Path, subject_text: SubjectText) -> None:
    text = subject_text(subject="nme = 1", module='ko = "demo.so"', filesystem='type = ""')
    lines = refused(tmp_path, text).evidence.splitlines()
    for key in ("subject.name", "subject.nme", "module.ko", "filesystem.type"):
        assert any(line.startswith(f"'{key}': ") for line in lines), (key, lines)


# -- what is refused: missing keys and wrong values ----------------------------------------------


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"subject": None}, "subject"),
        ({"subject": ""}, "subject.name"),
        ({"module": None}, "module"),
        ({"module": 'dir = "."'}, "module.ko"),
        ({"filesystem": None}, "filesystem"),
        ({"filesystem": 'mkfs = "true"'}, "filesystem.type"),
        ({"cli": ""}, "cli.probe"),
    ],
)
def test_a_missing_key_is_named(
    tmp_path: Path, subject_text: SubjectText, changed: dict[str, Any], key: str
) -> None:
    evidence = refused(tmp_path, subject_text(**changed)).evidence
    assert f"'{key}': this key is required and missing" in evidence


def test_an_empty_file_misses_the_three_sections(tmp_path: Path) -> None:
    evidence = refused(tmp_path, "").evidence
    assert [line.split(":")[0] for line in evidence.splitlines()] == [
        "'subject'",
        "'module'",
        "'filesystem'",
    ]


FILESYSTEM = 'type = "d"\nmkfs = "true"\n'


@pytest.mark.parametrize(
    ("changed", "key", "words"),
    [
        ({"subject": "name = 3"}, "subject.name", "valid string (found 3)"),
        ({"subject": 'name = "../x"'}, "subject.name", "starting with a letter or digit"),
        ({"subject": 'name = "a b"'}, "subject.name", "(found 'a b')"),
        ({"subject": 'name = "d"\npackages = "gcc"'}, "subject.packages", "valid list"),
        ({"subject": 'name = "d"\npackages = ["Gcc"]'}, "subject.packages.0", "Debian package"),
        ({"subject": 'name = "d"\npackages = ["-y"]'}, "subject.packages.0", "Debian package"),
        ({"subject": 'name = "d"\nsource = {}'}, "subject.source.apt", "required and missing"),
        ({"subject": 'name = "d"\nsource = { apt = "A b" }'}, "subject.source.apt", "package name"),
        ({"module": "ko = []"}, "module.ko", "valid string"),
        ({"module": 'ko = "demo.o"'}, "module.ko", "ends in .ko (found 'demo.o')"),
        ({"module": 'ko = "/lib/demo.ko"'}, "module.ko", "inside the source tree"),
        ({"module": 'ko = "../demo.ko"'}, "module.ko", "without '..'"),
        ({"module": 'ko = "d.ko"\ndir = "/"'}, "module.dir", "inside the source tree"),
        ({"module": 'ko = "d.ko"\ndir = "a/../.."'}, "module.dir", "without '..'"),
        ({"module": 'ko = "d.ko"\nname = "a.b"'}, "module.name", "kernel module name"),
        ({"module": 'ko = "d.ko"\nneeds = ["a;b"]'}, "module.needs.0", "kernel module name"),
        ({"module": 'ko = "d.ko"\nmake_vars = { "A-B" = 1 }'}, "module.make_vars", "'A-B'"),
        ({"module": 'ko = "d.ko"\nmake_vars = { A = [] }'}, "module.make_vars.A", "true or false"),
        ({"module": 'ko = "d.ko"\nparams = { a = 1.5 }'}, "module.params.a", "(found 1.5)"),
        ({"filesystem": 'type = "a/b"\nmkfs = "true"'}, "filesystem.type", "(found 'a/b')"),
        ({"filesystem": FILESYSTEM + 'backing = "tape"'}, "filesystem.backing", "'block' or"),
        ({"filesystem": FILESYSTEM + "size_mib = 0"}, "filesystem.size_mib", "(found 0)"),
        ({"filesystem": FILESYSTEM + "size_mib = 5000"}, "filesystem.size_mib", "4096"),
        ({"filesystem": FILESYSTEM + 'size_mib = "64"'}, "filesystem.size_mib", "valid integer"),
        ({"filesystem": FILESYSTEM + "size_mib = true"}, "filesystem.size_mib", "(found True)"),
        ({"filesystem": FILESYSTEM + 'lacks = "symlink"'}, "filesystem.lacks", "valid list"),
        ({"structure": 'required = ["/etc/x"]'}, "structure.required.0", "relative"),
        (
            {"subject": 'name = "d"', "filesystem": "1 = 1\n" + FILESYSTEM},
            "filesystem.1",
            "unknown",
        ),
    ],
)
def test_a_wrong_value_is_named_with_its_key(
    tmp_path: Path, subject_text: SubjectText, changed: dict[str, str], key: str, words: str
) -> None:
    lines = refused(tmp_path, subject_text(**changed)).evidence.splitlines()
    about = [line for line in lines if line.startswith(f"'{key}': ")]
    assert len(about) == 1, lines
    assert words in about[0]


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ('[[tools]]\nname = "a/b"\nbuild = "{out}"', "tools.0.name"),
        ('[[crates]]\ndir = "/c"\nbin = "c"', "crates.0.dir"),
        ('[[crates]]\ndir = "c"\nbin = "../c"', "crates.0.bin"),
        ('[[variants]]\nname = "v"\nko = "/v.ko"', "variants.0.ko"),
        ('[[variants]]\nname = "a/b"', "variants.0.name"),
    ],
)
def test_paths_and_names_in_tables_stay_inside(
    tmp_path: Path, subject_text: SubjectText, more: str, key: str
) -> None:
    assert f"'{key}': " in refused(tmp_path, subject_text(more)).evidence


# -- what is refused: commands -------------------------------------------------------------------


@pytest.mark.parametrize("mkfs", ["", 'mkfs = ""'])
def test_a_block_filesystem_needs_mkfs(
    tmp_path: Path, subject_text: SubjectText, mkfs: str
) -> None:
    error = refused(tmp_path, subject_text(filesystem=f'type = "d"\n{mkfs}'))
    assert "'filesystem'" in error.evidence
    assert "needs 'mkfs', the command that formats {device}" in error.evidence


@pytest.mark.parametrize(
    ("changed", "more", "words"),
    [
        ({"filesystem": 'type = "d"\nmkfs = "mkfs.d /dev/vdb"'}, "", "must contain {device}"),
        ({"filesystem": FILESYSTEM + 'fsck = "fsck.d"'}, "", "must contain {device}"),
        (
            {"filesystem": 'type = "d"\nmkfs = "{tool}/m {device}"'},
            "",
            "unknown placeholder '{tool}' (known: {device}, {tools})",
        ),
        ({}, '[[tools]]\nname = "t"\nbuild = "cc -o t t.c"', "must contain {out}"),
        ({}, '[[tools]]\nname = "t"\nbuild = "cc -o {output} t.c"', "placeholder '{output}'"),
        ({"cli": 'probe = "vexctl {mnt}"'}, "", "unknown placeholder '{mnt}'"),
        ({"bench": 'vectors = "b {mountpoint}"'}, "", "(known: {device}, {mount}, {tools})"),
    ],
)
def test_a_command_uses_the_placeholders_that_exist(
    tmp_path: Path, subject_text: SubjectText, changed: dict[str, str], more: str, words: str
) -> None:
    assert words in refused(tmp_path, subject_text(more, **changed)).evidence


@pytest.mark.parametrize(
    ("key", "changed"),
    [
        ("filesystem.mkfs", {"filesystem": 'type = "d"\nmkfs = "{tools}/mk {device}"'}),
        ("filesystem.fsck", {"filesystem": FILESYSTEM + 'fsck = "{tools}/mk {device}"'}),
        ("cli.probe", {"cli": 'probe = "{tools}/mk"'}),
        ("bench.vectors", {"bench": 'vectors = "{tools}/mk"'}),
    ],
)
def test_a_tool_that_nothing_builds_is_named(
    tmp_path: Path, subject_text: SubjectText, key: str, changed: dict[str, str]
) -> None:
    other = '[[tools]]\nname = "mk2"\nbuild = "{out}"'
    assert refused(tmp_path, subject_text(other, **changed)).evidence == (
        f"'{key}' uses '{{tools}}/mk', but no [[tools]] or [[crates]] entry makes 'mk' "
        "(declared: mk2)"
    )


@pytest.mark.parametrize("names", [("default",), ("a", "a")])
def test_variants_have_names_of_their_own(
    tmp_path: Path, subject_text: SubjectText, names: tuple[str, ...]
) -> None:
    more = "\n".join(f'[[variants]]\nname = "{name}"' for name in names)
    assert "names of their own" in refused(tmp_path, subject_text(more)).evidence


# -- what is refused: the file itself ------------------------------------------------------------


def test_no_subject_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="There is no subject file") as caught:
        load_subject(tmp_path / "vexrun.toml")
    assert "--subject FILE" in caught.value.hint


def test_a_directory_is_no_subject_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_subject(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("[subject\n", id="syntax"),
        pytest.param("a = 1\na = 2\n", id="twice"),
        pytest.param(b"\xff\xfe", id="not-utf-8"),
        pytest.param("a = " + "9" * 5000, id="endless-number"),
    ],
)
def test_what_is_not_toml_is_called_so(tmp_path: Path, text: str | bytes) -> None:
    assert "is not valid TOML: " in refused(tmp_path, text).message


# -- the tree it describes -----------------------------------------------------------------------


def test_a_tree_that_fits_is_accepted(make_subject: MakeSubject, source_tree: Path) -> None:
    check_against_tree(make_subject(), source_tree, source_tree / "vexrun.toml")


@pytest.mark.parametrize(
    ("changed", "more", "words"),
    [
        ({"module": 'ko = "d.ko"\ndir = "kernel"'}, "", 'module.dir = "kernel"'),
        ({}, '[[crates]]\ndir = "vexctl"\nbin = "v"', 'crates.0.dir = "vexctl"'),
        ({"module": 'ko = "d.ko"\ndir = "empty"'}, "", "no Kbuild or Makefile"),
    ],
)
def test_a_tree_without_what_is_promised_is_refused(
    make_subject: MakeSubject, source_tree: Path, changed: dict[str, str], more: str, words: str
) -> None:
    (source_tree / "empty").mkdir()
    with pytest.raises(ConfigError) as caught:
        check_against_tree(make_subject(more, **changed), source_tree, Path("my.toml"))
    assert words in caught.value.message
    assert "'my.toml'" in caught.value.message
    assert caught.value.hint


def test_a_source_that_is_a_file_is_refused(make_subject: MakeSubject, source_tree: Path) -> None:
    with pytest.raises(ConfigError, match="is not a directory"):
        check_against_tree(make_subject(), source_tree / "Kbuild", Path("my.toml"))


# -- whatever it holds ---------------------------------------------------------------------------

KEYS = [
    *("subject", "name", "packages", "source", "apt", "subdir", "module", "dir", "make_vars", "ko"),
    *(
        "needs",
        "params",
        "variants",
        "filesystem",
        "type",
        "backing",
        "options",
        "size_mib",
        "mkfs",
    ),
    *("fsck", "lacks", "tools", "build", "crates", "bin", "cli", "probe", "structure", "required"),
    *("bench", "vectors", "0", "x"),
]
WORDS = st.sampled_from(["block", "demo.ko", "{tools}/x {device}", "{out}", "..", "/", "", "true"])
values = st.recursive(
    st.booleans() | st.integers() | st.floats() | WORDS | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    ),
    max_leaves=12,
)


def as_toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {as_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False)


def loads_or_is_refused(path: Path, text: str) -> None:
    path.write_bytes(text.encode(errors="surrogatepass"))
    try:
        subject = load_subject(path)
    except ConfigError as error:
        assert str(path) in error.message
    else:
        assert subject.name


@hypothesis_settings(max_examples=60, deadline=None)
@given(table=st.dictionaries(st.sampled_from(KEYS), values, max_size=6))
def test_no_table_of_known_keys_ends_in_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, table: dict[str, Any]
) -> None:
    lines = [f"{json.dumps(key)} = {as_toml(value)}" for key, value in table.items()]
    loads_or_is_refused(tmp_path_factory.getbasetemp() / "table.toml", "\n".join(lines))


@hypothesis_settings(max_examples=60, deadline=None)
@given(text=st.text())
def test_no_text_ends_in_a_traceback(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    loads_or_is_refused(tmp_path_factory.getbasetemp() / "text.toml", text)


def test_kernels_own_copy_is_blocked_by_name_and_by_type() -> None:
    """mount -t minix asks for 'fs-minix' where the subject's module has registered another type."""
    subject = Subject.model_validate(
        {
            "subject": {"name": "demo"},
            "module": {"ko": "my-minix.ko"},
            "filesystem": {"type": "minix", "backing": "nodev"},
        }
    )
    assert subject.names_to_block == ["fs-minix", "my-minix", "my_minix"]


STACKED = {"type": "demolay", "backing": "nodev", "source": "/var/tmp/lower"}


def test_nodev_filesystem_may_stand_on_another_directory() -> None:
    section = FilesystemSection.model_validate({**STACKED, "prepare": "mkdir -p /var/tmp/lower"})
    assert section.source == "/var/tmp/lower"
    assert FilesystemSection.model_validate({**STACKED, "source": "none"}).prepare is None


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"backing": "block", "mkfs": "true"}, "are for backing = 'nodev'"),
        ({"backing": "block", "mkfs": "true", "source": "none", "prepare": "true"}, "are for"),
        ({"prepare": "mkfs {device}"}, "unknown placeholder '{device}'"),
        ({"source": ""}, "at least 1 character"),
    ],
)
def test_what_a_filesystem_cannot_stand_on(changed: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        FilesystemSection.model_validate({**STACKED, **changed})
