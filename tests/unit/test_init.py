"""`vexrun init`: what it finds in trees, what it writes, and what it leaves alone."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from vexrun.cli import app
from vexrun.errors import ConfigError
from vexrun.scaffold.csource import CFile, Constants, without_comments
from vexrun.scaffold.known_types import KNOWN_TYPES
from vexrun.scaffold.makefile import Makefile
from vexrun.scaffold.proposal import TODO, propose
from vexrun.scaffold.survey import survey_tree
from vexrun.subject import Backing, FilesystemSection, Subject, load_subject

ROOT = Path(__file__).resolve().parents[2]
TREES = ROOT / "tests" / "data" / "trees"
EXAMPLES = ROOT / "examples" / "subjects" / "vexfs"
LAYOUTS = ("vexfs-2025-05", "vexfs-2025-06", "vexfs-2025-08")

FILESYSTEM_C = """
static struct file_system_type demo_type = {
\t.name = "demo",
\t.kill_sb = kill_litter_super,
};
static int __init demo_init(void) { return register_filesystem(&demo_type); }
MODULE_LICENSE("GPL");
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A nodev filesystem of one file."""
    root = tmp_path / "demo"
    root.mkdir()
    (root / "Kbuild").write_text("obj-m += demo.o\n")
    (root / "demo.c").write_text(FILESYSTEM_C)
    return root


def init(root: Path, *options: str) -> Any:
    return CliRunner().invoke(app, ["init", str(root), *options])


def written(root: Path) -> Subject:
    """What init wrote, as `vexrun test` reads it."""
    ended = init(root)
    assert ended.exit_code == 0, ended.output
    return load_subject(root / "vexrun.toml")


@pytest.fixture
def layout(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    return Path(shutil.copytree(TREES / request.param, tmp_path / "vexfs"))


# -- the three layouts of VexFS ------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["vexfs-2025-05"], indirect=True)
def test_root_kbuild_with_a_switch_and_a_crate(layout: Path) -> None:
    subject = written(layout)
    assert (subject.name, subject.module.dir, subject.module.ko) == ("vexfs", ".", "vexfs.ko")
    assert [(each.name, each.make_vars) for each in subject.variants] == [
        ("c-only", {"VEXFS_C_ONLY": "1"})
    ]
    assert subject.filesystem.type == "vexfs", "two string literals behind a macro"
    assert subject.filesystem.backing is Backing.BLOCK
    assert subject.filesystem.mkfs == "{tools}/vexctl mkfs {device}"
    assert [(each.dir, each.bin) for each in subject.crates] == [("vexctl", "vexctl")]
    assert subject.filesystem.lacks == ["hardlink", "symlink", "mknod", "statfs"]
    # _IOWR('V', 2, struct with a hole and an array: 24 bytes); shutdown is left out by its name,
    # one that nothing uses and one whose size cannot be known are not there at all
    assert subject.ioctl.requests == {
        "VEXFS_IOC_SEARCH": 0xC0185602,
        "VEXFS_IOC_STATUS": 0x5601,
    }
    assert subject.ioctl.on == "file"
    text = (layout / "vexrun.toml").read_text()
    assert "# VEXFS_IOC_SHUTDOWN = 0x80045603" in text
    assert "paranoid" in text
    assert text.count(TODO) == 2, "mkfs' call and the probe are guesses"


@pytest.mark.parametrize("layout", ["vexfs-2025-06"], indirect=True)
def test_several_kbuilds_one_is_chosen_and_the_others_are_named(layout: Path) -> None:
    subject = written(layout)
    assert (subject.module.dir, subject.module.ko) == ("kernel/core", "vexfs_core.ko")
    assert (subject.filesystem.type, subject.filesystem.backing) == ("vexfs_core", Backing.NODEV)
    comments = [
        line for line in (layout / "vexrun.toml").read_text().splitlines() if line.startswith("#")
    ]
    assert any("kernel/search" in line and "'vexfs_search'" in line for line in comments)
    assert any("vexfs_selftest.ko" in line for line in comments), "tests are not the one to test"


@pytest.mark.parametrize("layout", ["vexfs-2025-08"], indirect=True)
def test_three_names_and_a_mkfs_in_c(layout: Path) -> None:
    subject = written(layout)
    assert (subject.module.dir, subject.module.ko) == ("kernel_module", "vexfs_deadlock_fix.ko")
    assert subject.filesystem.type == "vexfs_fixed"
    assert subject.filesystem.mkfs == "{tools}/mkfs.vexfs {device}"
    (tool,) = subject.tools
    assert tool.build == "make -C tools mkfs.vexfs && cp tools/mkfs.vexfs {out}"
    assert [each.make_vars for each in subject.variants] == [{"DEBUG": "1"}]
    assert subject.filesystem.lacks == []


LOOKED_UP = "static const struct inode_operations demo_dir = { .lookup = demo_lookup };\n"
CREATED = LOOKED_UP.replace(" }", ", .create = demo_create }")


@pytest.mark.parametrize(
    ("source", "reads_only"),
    [
        (LOOKED_UP + "void f(void) { inode->i_fop = &generic_ro_fops; }", True),
        (LOOKED_UP + "struct file_operations demo = { .read_iter = demo_read };", True),
        (LOOKED_UP + "struct file_operations demo = { .read = r, .write = w };", False),
        (LOOKED_UP + "struct file_operations d = { .iterate_shared = demo_iterate };", False),
        (CREATED + "struct file_operations demo = { .read_iter = demo_read };", False),
    ],
)
def test_a_filesystem_that_is_only_read_is_seen(tree: Path, source: str, reads_only: bool) -> None:
    (tree / "demo.c").write_text(f"{source}\n{FILESYSTEM_C}")
    assert ("write" in written(tree).filesystem.lacks) == reads_only


def test_the_sources_of_a_wildcard_are_found() -> None:
    (facts,) = survey_tree(TREES / "vexfs-2025-08").modules
    assert {path.name for path in facts.module.sources} == {"vexfs_super.c", "vexfs_dir.c"}


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.stem)
def test_the_examples_of_the_layouts_are_valid(example: Path) -> None:
    load_subject(example)


def test_there_is_an_example_for_every_layout() -> None:
    assert len(list(EXAMPLES.glob("*.toml"))) == len(LAYOUTS)


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_init_finds_is_what_the_example_says(name: str) -> None:
    """The two are written apart; they have to agree on what is built and mounted."""
    (example,) = EXAMPLES.glob(f"{name.removeprefix('vexfs-')}*.toml")
    told = load_subject(example)
    found = tomllib.loads(propose(survey_tree(TREES / name), "0").text)
    assert found["module"].get("dir", ".") == told.module.dir
    assert found["module"]["ko"] == told.module.ko
    assert found["filesystem"]["type"] == told.filesystem.type
    assert found["filesystem"]["backing"] == told.filesystem.backing.value
    assert found["filesystem"].get("mkfs") == told.filesystem.mkfs


# -- the reference subject and our canary --------------------------------------------------------


def test_the_reference_subject(tmp_path: Path) -> None:
    root = Path(shutil.copytree(ROOT / "examples" / "vexfs-ref", tmp_path / "vexfs-ref"))
    (root / "vexrun.toml").unlink()
    subject, theirs = written(root), load_subject(ROOT / "examples" / "vexfs-ref" / "vexrun.toml")
    assert subject.name == theirs.name
    assert subject.module.ko == theirs.module.ko
    assert subject.filesystem.type == theirs.filesystem.type
    assert subject.filesystem.backing is theirs.filesystem.backing
    assert {each.bin for each in subject.crates} == {each.bin for each in theirs.crates}
    requests = theirs.ioctl.requests
    assert {subject.ioctl.requests.get(name) for name in subject.ioctl.requests} >= set(
        requests.values()
    )
    names = {name for each in subject.variants for name in each.make_vars}
    assert names >= {name for each in theirs.variants for name in each.make_vars}


def test_the_canary(tmp_path: Path) -> None:
    root = Path(shutil.copytree(ROOT / "tests" / "canaries" / "canaryfs", tmp_path / "canaryfs"))
    (root / "vexrun.toml").unlink()
    subject, theirs = written(root), load_subject(ROOT / "tests/canaries/canaryfs/vexrun.toml")
    assert subject.module.ko == theirs.module.ko
    assert subject.filesystem == theirs.filesystem, "nodev, and simple_statfs says nothing"


# -- the file ------------------------------------------------------------------------------------


def test_says_how_everything_is_known_and_what_comes_next(tree: Path) -> None:
    ended = init(tree)
    assert "demo.c:2" in ended.output
    assert "Kbuild:1" in ended.output
    assert f"vexrun test {tree} --target host --only structure,build" in ended.output.replace(
        "\n", ""
    )


def test_an_existing_file_is_left_alone(tree: Path) -> None:
    (tree / "vexrun.toml").write_text("mine\n")
    ended = init(tree)
    assert ended.exit_code != 0
    assert isinstance(ended.exception, ConfigError)
    assert "--force" in ended.exception.hint
    assert (tree / "vexrun.toml").read_text() == "mine\n"


def test_a_dangling_link_is_a_file_that_is_there(tree: Path) -> None:
    (tree / "vexrun.toml").symlink_to(tree.parent / "elsewhere.toml")
    assert isinstance(init(tree).exception, ConfigError)
    assert not (tree.parent / "elsewhere.toml").exists()


def test_force_replaces_it(tree: Path) -> None:
    (tree / "vexrun.toml").write_text("mine\n")
    assert init(tree, "--force").exit_code == 0
    assert load_subject(tree / "vexrun.toml").name == "demo"


def test_nothing_else_is_left_in_the_tree(tree: Path) -> None:
    before = set(tree.iterdir())
    init(tree)
    assert set(tree.iterdir()) == before | {tree / "vexrun.toml"}


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "There is no Kbuild or Makefile at all."),
        ({"Makefile": "all:\n\techo hello\n"}, "looked at: Makefile"),
        ({"Kbuild": "obj-y += demo.o\n", "demo.c": "int x;"}, "looked at: Kbuild"),
    ],
)
def test_a_tree_without_a_module_is_refused(
    tmp_path: Path, files: dict[str, str], words: str
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    error = init(tmp_path).exception
    assert isinstance(error, ConfigError)
    assert words in error.evidence
    assert not (tmp_path / "vexrun.toml").exists()


def test_a_source_that_is_no_directory(tmp_path: Path) -> None:
    assert isinstance(init(tmp_path / "nope").exception, ConfigError)


def test_a_block_filesystem_of_unknown_kind_has_its_mkfs_marked(tree: Path) -> None:
    (tree / "demo.c").write_text(OF_A_DISK)
    ended = init(tree)
    assert ended.exit_code == 0
    assert "missing: filesystem.mkfs" in ended.output
    with pytest.raises(ConfigError, match="not valid") as caught:
        load_subject(tree / "vexrun.toml")
    assert "mkfs" in caught.value.evidence
    # filled in as it is marked, it is valid
    path = tree / "vexrun.toml"
    path.write_text(path.read_text().replace('# mkfs = "{tools}/mkfs {device}"', 'mkfs = "true"'))
    assert load_subject(path).filesystem.mkfs == "true"


OF_A_DISK = FILESYSTEM_C.replace(
    "kill_litter_super", "kill_block_super,\n.fs_flags = FS_REQUIRES_DEV"
)
SCRIPT = "#!/usr/bin/env python3\n"
PROGRAM = "int main(int argc, char **argv) { return 0; }\n"


@pytest.mark.parametrize(
    ("files", "mkfs", "build"),
    [
        ({"mkfs.demo.py": SCRIPT}, "mkfs.demo", "install -m 755 mkfs.demo.py {out}"),
        ({"tools/mkfs.demo": SCRIPT}, "mkfs.demo", "install -m 755 tools/mkfs.demo {out}"),
        ({"mkdemo.c": PROGRAM}, "mkdemo", "cc -O2 -o {out} mkdemo.c"),
        (
            {"mkfs.sh": SCRIPT, "mkfs_demo.c": PROGRAM},
            "mkfs_demo",
            "cc -O2 -o {out} mkfs_demo.c",
        ),
    ],
)
def test_a_mkfs_is_found_by_its_name(
    tree: Path, files: dict[str, str], mkfs: str, build: str
) -> None:
    (tree / "demo.c").write_text(OF_A_DISK)
    for name, text in files.items():
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_text(text)
    subject = written(tree)
    assert subject.filesystem.mkfs == f"{{tools}}/{mkfs} {{device}}"
    assert [tool.build for tool in subject.tools if tool.name == mkfs] == [build]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mkother.c", PROGRAM),
        ("make_tables.c", PROGRAM),
        ("mkfs.txt", PROGRAM),
        ("mkfs.py", PROGRAM),
        ("try-mkfs.sh", SCRIPT),
    ],
)
def test_what_is_no_mkfs_is_not_taken_for_one(tree: Path, name: str, text: str) -> None:
    """Of another name, or without a first line that names an interpreter."""
    (tree / "demo.c").write_text(OF_A_DISK)
    (tree / name).write_text(text)
    assert "missing: filesystem.mkfs" in init(tree).output


@pytest.mark.parametrize(
    ("source", "lacks"),
    [
        ("sb->s_maxbytes = 1024 * 4096;", True),
        ("#define DEMO_MAX (64 << 20)\nsb->s_maxbytes = (loff_t)DEMO_MAX;", True),
        ("sb->s_maxbytes = MAX_LFS_FILESIZE;", False),
        ("sb->s_maxbytes = 1ULL << 31;", False),
    ],
)
def test_small_largest_files_are_seen(tree: Path, source: str, lacks: bool) -> None:
    (tree / "demo.c").write_text(
        f"{CREATED}{FILESYSTEM_C}int f(struct super_block *sb)\n{{\n{source}\n}}\n"
    )
    assert ("largefile" in written(tree).filesystem.lacks) == lacks


def test_of_a_filesystem_that_is_only_read_nothing_else_is_lacking(tree: Path) -> None:
    """Its links are read like its files."""
    (tree / "demo.c").write_text(
        f"{LOOKED_UP}void f(void) {{ inode->i_fop = &generic_ro_fops; }}\n{FILESYSTEM_C}"
    )
    assert written(tree).filesystem.lacks == ["write"]


def test_a_module_that_registers_nothing_has_its_type_marked(tree: Path) -> None:
    (tree / "demo.c").write_text('MODULE_LICENSE("GPL");')
    ended = init(tree)
    assert "missing: filesystem.type" in ended.output
    assert tomllib.loads((tree / "vexrun.toml").read_text())["module"]["ko"] == "demo.ko"


@pytest.mark.parametrize("name", ["ve x", 've"x', "ve\nx", "schön"])
def test_odd_names_do_not_break_the_file(tree: Path, name: str) -> None:
    (tree / "tools").mkdir()
    (tree / "tools" / f"mkfs.{name}.c").write_text("int main(void)\n{\n}\n")
    text = FILESYSTEM_C.replace(
        "kill_litter_super", "kill_block_super,\n.fs_flags = FS_REQUIRES_DEV"
    )
    (tree / "demo.c").write_text(text)
    proposal = propose(survey_tree(tree), "0")
    tomllib.loads(proposal.text)


def test_a_crate_that_needs_the_network_is_left_out(tree: Path) -> None:
    (tree / "ctl" / "src").mkdir(parents=True)
    (tree / "ctl" / "src" / "main.rs").write_text('fn main() { "mkfs"; }')
    manifest = '[package]\nname = "ctl"\n[dependencies]\nserde = "1"\n'
    (tree / "ctl" / "Cargo.toml").write_text(manifest)
    ended = init(tree)
    assert "cargo vendor" in (tree / "vexrun.toml").read_text()
    assert "serde" in ended.output.replace("\n", "")
    assert load_subject(tree / "vexrun.toml").crates == []
    (tree / "vendor").mkdir()
    assert init(tree, "--force").exit_code == 0
    assert [each.bin for each in load_subject(tree / "vexrun.toml").crates] == ["ctl"]


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ('PRE_BUILD="genver.sh"', "./genver.sh"),
        ("PRE_BUILD=./genver.sh -v", "./genver.sh -v"),
        ('PRE_BUILD="configure ${kernelver}"', ""),
        ('POST_BUILD="sign.sh"', ""),
    ],
)
def test_what_dkms_runs_before_make_prepares_the_build(tree: Path, line: str, command: str) -> None:
    (tree / "dkms.conf").write_text(f'PACKAGE_NAME="demo"\n{line}\n')
    assert written(tree).module.prepare == command


def test_nothing_of_the_tree_is_run(tree: Path) -> None:
    mark = tree / "was-run"
    (tree / "Kbuild").write_text(
        f"X := $(shell touch {mark})\nobj-m += demo.o $(shell touch {mark})\n"
    )
    assert init(tree).exit_code == 0
    assert not mark.exists()


@pytest.mark.parametrize("name", KNOWN_TYPES)
def test_every_known_type_makes_a_valid_section(name: str) -> None:
    known = KNOWN_TYPES[name]
    section = FilesystemSection(
        type=name,
        size_mib=known.size_mib,
        mkfs=known.mkfs,
        fsck=known.fsck or None,
        lacks=list(known.lacks),
    )
    assert section.lacked_operations == set(known.lacks), "words every test knows"


# -- make files ----------------------------------------------------------------------------------


def makefile(tmp_path: Path, text: str, **given: str) -> Makefile:
    (tmp_path / "Kbuild").write_text(text)
    return Makefile.read(tmp_path, Path("Kbuild"), given)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("obj-m += a.o\nobj-m += b.o", ["a.o", "b.o"]),
        ("NAME := demo\nobj-m := $(NAME).o", ["demo.o"]),
        ("obj-m := ${NAME}.o\nNAME = late", [".o"]),
        ("obj-m = ${NAME}.o\nNAME = late", ["late.o"]),
        ("obj-m := a.o \\\n  b.o # c.o", ["a.o", "b.o"]),
        ("S := x.c y.c\nobj-m := $(S:.c=.o)", ["x.o", "y.o"]),
        ("obj-m := $(addprefix d/,a.o b.o)", ["d/a.o", "d/b.o"]),
        ("obj-m := $(patsubst %.c,%.o,$(filter-out b.c,a.c b.c))", ["a.o"]),
        ("obj-m := a.o\nifdef MORE\nobj-m += b.o\nendif", ["a.o"]),
        ("ifndef MORE\nobj-m := a.o\nelse\nobj-m := b.o\nendif", ["a.o"]),
        (
            "ifeq ($(X),1)\nobj-m:=a.o\nelse ifneq ($(X),2)\nobj-m:=b.o\nelse\nobj-m:=c.o\nendif",
            ["b.o"],
        ),
        ("ifneq ($(KERNELRELEASE),)\n\tobj-m:=a.o\nelse\nall:\n\techo obj-m:=b.o\nendif", ["a.o"]),
        ("ifdef NO\nifdef NO2\nelse\nobj-m := a.o\nendif\nendif\nobj-m += z.o", ["z.o"]),
        ("define X\nobj-m := no.o\nendef\nobj-m := a.o", ["a.o"]),
        ("obj-m := $(A) a.o\nA = $(B)\nB = $(A)", ["a.o"]),
    ],
)
def test_objects_of_a_make_file(tmp_path: Path, text: str, words: list[str]) -> None:
    assert makefile(tmp_path, text).words("obj-m") == words


@pytest.mark.parametrize(
    ("text", "switches"),
    [
        ("ifdef DEMO_DEBUG\nendif", {"DEMO_DEBUG": "1"}),
        ("ifeq ($(DEMO_RUST),y)\nendif", {"DEMO_RUST": "y"}),
        ("X := $(if $(DEMO_C_ONLY),,-DRUST)", {"DEMO_C_ONLY": "1"}),
        ("demo-$(DEMO_VECTORS) += v.o", {"DEMO_VECTORS": "y"}),
        ("DEBUG ?= 1\nifeq ($(DEBUG),1)\nendif", {"DEBUG": "0"}),
        ("DEBUG := 1\nifeq ($(DEBUG),1)\nendif", {}),
        ("ifneq ($(KERNELRELEASE),)\nendif\nifdef CONFIG_SMP\nendif\nifdef KDIR\nendif", {}),
    ],
)
def test_switches_of_a_make_file(tmp_path: Path, text: str, switches: dict[str, str]) -> None:
    found = makefile(tmp_path, text).switches
    assert {name: each.value for name, each in found.items()} == switches


def test_a_variant_that_makes_another_file_says_so(tree: Path) -> None:
    (tree / "Kbuild").write_text(
        "ifdef DEMO_SMALL\nobj-m := demo_small.o\nelse\nobj-m := demo.o\nendif\n"
    )
    (tree / "demo_small.c").write_text("int x;")
    (variant,) = written(tree).variants
    assert (variant.name, variant.ko) == ("small", "demo_small.ko")


def test_the_command_line_goes_before_the_file(tmp_path: Path) -> None:
    made = makefile(tmp_path, "A := file\nobj-m := $(A).o", A="given")
    assert made.words("obj-m") == ["given.o"]


def test_kbuild_below_kbuild_is_built_from_the_top(tmp_path: Path) -> None:
    (tmp_path / "fs").mkdir()
    (tmp_path / "Kbuild").write_text("obj-m += fs/\n")
    (tmp_path / "fs" / "Makefile").write_text("obj-$(CONFIG_DEMO) += demo.o\nobj-m += helper.o\n")
    (tmp_path / "fs" / "demo.c").write_text(FILESYSTEM_C)
    (tmp_path / "fs" / "helper.c").write_text("int x;")
    subject = written(tmp_path)
    assert (subject.module.dir, subject.module.ko) == (".", "fs/demo.ko")
    assert subject.module.make_vars == {"CONFIG_DEMO": "m"}


# -- C -------------------------------------------------------------------------------------------


def constants(text: str) -> Constants:
    return Constants([CFile(Path("demo.c"), without_comments(text))])


def test_comments_are_blank_and_lines_stay() -> None:
    text = '/* one\n two */ a; // b "c\nchar *d = "/* no */";\n#if 0\nnever\n#endif\n'
    plain = without_comments(text)
    assert plain.count("\n") == text.count("\n")
    assert '"/* no */"' in plain
    assert not any(word in plain for word in ("two", "c\n", "never"))


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("0x10", 16),
        ("010", 8),
        ("(1U << 3) | 0x1ULL", 9),
        ("'V'", 0x56),
        ("A", 5),
        ("A + sizeof(__u64)", 13),
        ("_IO('V', 1)", 0x5601),
        ("_IOR('V', 1, __u32)", 0x80045601),
        ("_IOW(A, 2, long)", 0x40080502),
        ("_IOWR('V', 3, struct s)", 0xC0285603),
        ("_IOWR('V', 3, struct packed)", 0xC0095603),
        ("_IOR('V', 4, union u[2])", 0x80105604),
        ("_IOR('V', 5, char[A])", 0x80055605),
        ("_IOR('V', 6, unsigned long long)", 0x80085606),
        ("_IOR('V', 7, struct hidden)", None),
        ("_IOR('V', 8, struct bits)", None),
        ("UNKNOWN", None),
        ("CIRCLE", None),
        ("f(1)", None),
    ],
)
def test_constants(expression: str, value: int | None) -> None:
    text = """
#define A 5
#define CIRCLE (CIRCLE + 1)
struct inner { __u8 a; __le32 b; };
struct s { __u32 a; struct inner i[2]; void __user *p; u8 tail, more; };
struct packed { __u8 a; __u64 b; } __attribute__((packed));
union u { __u64 a; __u8 b[3]; };
struct bits { __u32 a : 3; };
"""
    assert constants(text).number(expression) == value


@pytest.mark.parametrize(
    ("body", "needs_device"),
    [
        (".fs_flags = FS_REQUIRES_DEV | FS_ALLOW_IDMAP", True),
        (".kill_sb = kill_anon_super", False),
        (".kill_sb = own_kill, .mount = own_mount", True),
        (".init_fs_context = own_context", False),
        (".kill_sb = own_kill", None),
    ],
)
def test_what_a_mount_is_made_on(tree: Path, body: str, needs_device: bool | None) -> None:
    (tree / "demo.c").write_text(
        """
static struct dentry *own_mount(struct file_system_type *t, int f, const char *n, void *d)
{
\treturn mount_bdev(t, f, n, d, fill);
}
static int own_context(struct fs_context *c) { return get_tree_nodev(c, fill); }
"""
        + FILESYSTEM_C.replace(".kill_sb = kill_litter_super", body)
    )
    ((each,),) = [facts.types for facts in survey_tree(tree).filesystems]
    assert each.needs_device is needs_device


def test_the_documentation_shows_the_examples_as_they_are() -> None:
    text = (ROOT / "docs" / "subject-file.md").read_text(encoding="utf-8")
    for example in sorted(EXAMPLES.glob("*.toml")):
        assert f"```toml\n{example.read_text(encoding='utf-8').rstrip()}\n```" in text, example.name
        assert f"`{example.name}`" in text


@pytest.mark.parametrize("name", [name for name in KNOWN_TYPES if KNOWN_TYPES[name].made_of])
def test_what_is_only_read_is_compared_with_what_it_was_made_of(tree: Path, name: str) -> None:
    text = FILESYSTEM_C.replace('"demo"', f'"{name}"').replace(
        "kill_litter_super", "kill_block_super"
    )
    (tree / "demo.c").write_text(
        text.replace("\t.kill_sb", "\t.fs_flags = FS_REQUIRES_DEV,\n\t.kill_sb")
    )
    subject = written(tree)
    (script,) = subject.scripts
    made_of = KNOWN_TYPES[name].made_of
    assert made_of in script.run
    assert made_of in (subject.filesystem.mkfs or "")
    assert "write" in subject.filesystem.lacked_operations


def test_what_is_written_needs_no_comparison(tree: Path) -> None:
    assert written(tree).scripts == []
