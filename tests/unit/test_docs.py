"""The documentation names what exists, its links lead somewhere, and no machine leaks into it."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tomllib
import typing
from pathlib import Path
from typing import Any

import pytest
import typer
from command_lines import parameters_of
from pydantic import BaseModel

from vexrun.cli import app
from vexrun.errors import ExitCode
from vexrun.expectations import Expectation, _File
from vexrun.settings import Settings
from vexrun.subject import KNOWN_OPERATIONS, Subject, canonical_operation

ROOT = Path(__file__).resolve().parents[2]
#: Where a variable of the environment is read or set.
VARIABLE_SOURCES = ("vexrun", "molecule", "vagrant", "tests/canaries", "Makefile")
_HOSTS = (("deb", "debian", "org"), ("pypi", "org"), ("files", "pythonhosted", "org"))
#: Put together here, so that this file does not hold them itself.
NEEDLES = [
    "/" + "work" + "/",
    *(".".join(host) for host in (*_HOSTS, ("registry", "npmjs", "org"))),
]
#: Root's own dotfiles on the machine it was made on; these two are files of the guest.
HOME_OF_ROOT = re.compile("/" + r"root/\.(?!ssh\b|ansible\b)\S*")


def tracked_files() -> list[Path]:
    """What git tracks or would track."""
    if not shutil.which("git") or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, so nothing says which files belong to the project")
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    return [ROOT / name for name in listed if name and (ROOT / name).is_file()]


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def prose(document: str) -> str:
    """A document without its code blocks, whose comments look like headings."""
    return re.sub(r"^```.*?^```", "", document, flags=re.MULTILINE | re.DOTALL)


def section(name: str, heading: str) -> str:
    """What stands between a heading and the next one of its level or above."""
    level = heading.split(" ", 1)[0]
    pattern = rf"^{re.escape(heading)}\n(.*?)(?=^#{{1,{len(level)}}} |\Z)"
    found = re.search(pattern, prose(text_of(name)), re.MULTILINE | re.DOTALL)
    assert found, f"{name} has no heading '{heading}'"
    return found[1]


def first_cells(table: str) -> set[str]:
    """The code words in the first column of the tables in a section."""
    cells = re.findall(r"^\| *`([^`]+)`[^|]*\|", table, re.MULTILINE)
    return set(cells)


def models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for each in typing.get_args(annotation) for found in models_in(each)]


def is_list(annotation: Any) -> bool:
    return typing.get_origin(annotation) is list


def tables_of(model: type[BaseModel], prefix: str = "") -> dict[str, set[str]]:
    """Every TOML table of a model, by the heading that describes it, with its keys."""
    found: dict[str, set[str]] = {}
    for name, field in model.model_fields.items():
        for nested in models_in(field.annotation):
            path = f"{prefix}{name}"
            title = f"`[[{path}]]`" if is_list(field.annotation) else f"`[{path}]`"
            found[title] = set(nested.model_fields)
            found |= tables_of(nested, f"{path}.")
    return found


SUBJECT_TABLES = tables_of(Subject)
SETTINGS_TABLES = tables_of(Settings)


@pytest.mark.parametrize("title", SUBJECT_TABLES)
def test_every_key_of_the_subject_file_is_described_and_no_other(title: str) -> None:
    assert first_cells(section("docs/subject-file.md", f"### {title}")) == SUBJECT_TABLES[title]


def toml_examples() -> list[Any]:
    """Every TOML block of the documentation that is a whole file."""
    found = []
    for name in ("README.md", "docs/subject-file.md", "docs/settings.md"):
        blocks = re.findall(r"^```toml\n(.*?)^```", text_of(name), re.MULTILINE | re.DOTALL)
        for number, block in enumerate(blocks, 1):
            document = tomllib.loads(block)
            for key, model in (("subject", Subject), ("expect", _File), ("image", Settings)):
                if key in document:
                    found.append(pytest.param(model, document, id=f"{name}-{number}"))
    return found


@pytest.mark.parametrize(("model", "document"), toml_examples())
def test_every_example_is_valid(model: type[BaseModel], document: Any) -> None:
    model.model_validate(document)


def test_every_key_of_the_expectations_file_is_described() -> None:
    described = first_cells(section("docs/subject-file.md", "## Known failures"))
    assert described == set(Expectation.model_fields)


def test_every_word_of_lacks_is_described_and_no_other() -> None:
    table = section("docs/subject-file.md", "## What a filesystem may lack")
    assert first_cells(table) == set(KNOWN_OPERATIONS)


def test_other_spellings_of_lacks_mean_what_the_table_says() -> None:
    table = section("docs/subject-file.md", "## What a filesystem may lack")
    for word, other in re.findall(r"^\| `(\w+)` \|.*\| ([^|]*) \|$", table, re.MULTILINE):
        assert {canonical_operation(each) for each in re.findall(r"`(\w+)`", other)} <= {word}


@pytest.mark.parametrize("title", SETTINGS_TABLES)
def test_every_setting_is_described_and_no_other(title: str) -> None:
    assert first_cells(section("docs/settings.md", f"### {title}")) == SETTINGS_TABLES[title]


def test_every_variable_is_described_and_no_other() -> None:
    variable = re.compile(r"\bVEXRUN_[A-Z][A-Z_]*[A-Z]\b")
    used: set[str] = set()
    whole = ("Makefile", "Vagrantfile")
    for source in VARIABLE_SOURCES:
        path = ROOT / source
        for file in [path] if path.is_file() else path.rglob("*"):
            if file.suffix in (".py", ".yml", ".sh", ".j2", ".rb") or file.name in whole:
                used |= set(variable.findall(file.read_text(encoding="utf-8")))
    assert set(variable.findall(text_of("docs/settings.md"))) == used


def test_every_command_is_in_the_readme() -> None:
    group: Any = typer.main.get_command(app)
    names = set(group.commands)
    table = section("README.md", "## Commands")
    described = set(re.findall(r"^\| `vexrun (\w+)", table, re.MULTILINE))
    assert described == names


def commands_of(document: str) -> set[str]:
    """Every command line of vexrun in a console block, and in code that is a whole command."""
    lines = re.findall(r"^\$ (vexrun .*)$", document, re.MULTILINE)
    lines += re.findall(r"`(vexrun [a-z][^`]*)`", prose(document))
    commands = (part for line in lines for part in re.split(r" && ", line.partition(" #")[0]))
    return {part.strip() for part in commands if part.strip().startswith("vexrun ")}


#: Not command lines to type: alternatives, and what stands for something else.
_ABBREVIATED = re.compile(r"\||…|\[|--repeat N|--help")


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda p: p.stem
)
def test_every_command_line_is_understood(path: Path) -> None:
    wrong = []
    for line in sorted(commands_of(path.read_text(encoding="utf-8"))):
        if _ABBREVIATED.search(line):
            continue
        words = shlex.split(line)[1:]
        until = next((n for n, each in enumerate(words) if each.startswith((">", "<"))), None)
        try:
            parameters_of(words[:until])
        except Exception as error:  # noqa: BLE001 - the parser's own, of a private class
            # In a sentence a command is named without what it takes.
            if not str(error).startswith("Missing parameter"):
                wrong.append(f"{line}: {error}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("code", ExitCode)
def test_every_exit_code_is_in_the_troubleshooting_table(code: ExitCode) -> None:
    table = section("docs/troubleshooting.md", "## Exit codes")
    assert re.search(rf"^\| {code.value} \|", table, re.MULTILINE)


def anchors(document: str) -> set[str]:
    """What GitHub makes of the headings."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", prose(document), re.MULTILINE)
    }


def test_every_relative_link_leads_somewhere() -> None:
    broken = []
    for document in [path for path in tracked_files() if path.suffix == ".md"]:
        text = document.read_text(encoding="utf-8")
        for link in re.findall(r"\]\(([^)\s]+)\)", prose(text)):
            if re.match(r"[a-z]+:", link):
                continue
            name, _, anchor = link.partition("#")
            target = document.parent / name if name else document
            if not target.exists():
                broken.append(f"{document.relative_to(ROOT)}: {link}")
            elif anchor and anchor not in anchors(target.read_text(encoding="utf-8")):
                broken.append(f"{document.relative_to(ROOT)}: {link} (no such heading)")
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "docs" / "decisions").iterdir()), ids=lambda p: p.stem
)
def test_decisions_are_short_and_have_their_three_parts(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 40
    assert [
        part for part in ("Context", "Decision", "Consequence") if f"**{part}.**" not in text
    ] == []


def test_nothing_of_this_machine_is_in_a_file() -> None:
    leaks = []
    for path in tracked_files():
        text = path.read_text(encoding="utf-8", errors="replace")
        leaks += [f"{path.relative_to(ROOT)}: {needle}" for needle in NEEDLES if needle in text]
        leaks += [f"{path.relative_to(ROOT)}: {each}" for each in HOME_OF_ROOT.findall(text)]
    assert not leaks, "\n".join(leaks)
