"""docs/results-format.md is the published schema: it names every field and its example is valid."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest
from pydantic import BaseModel

from vexrun.errors import ExitCode
from vexrun.results import model
from vexrun.results.model import SCHEMA_VERSION, Outcome, RunResults, Verdict
from vexrun.results.schema import json_schema

DOC = (Path(__file__).parents[2] / "docs" / "results-format.md").read_text(encoding="utf-8")
#: The section of the document that describes each model.
SECTIONS = {
    model.RunResults: "The run",
    model.SubjectInfo: "`subject`",
    model.ModuleInfo: "`module`",
    model.VariantBuild: "`builds[]`",
    model.Check: "`checks[]`",
    model.Measurement: "`measurements[]`",
    model.TargetInfo: "`target`",
    model.RestoreCost: "`restores`",
    model.MemoryImage: "`memory_images[]`",
    model.DeviceInfo: "`device`",
    model.TestResult: "`tests[]`",
    model.KernelEvent: "`kernel_events[]`",
    model.StackFrame: "`kernel_events[].frames[]`",
}


def section(title: str) -> str:
    found = re.search(rf"^### {re.escape(title)}\n(.*?)(?=^##)", DOC, re.MULTILINE | re.DOTALL)
    assert found, f"docs/results-format.md has no section '{title}'"
    return found[1]


def example() -> object:
    found = re.search(r"```json\n(.*?)```", DOC, re.DOTALL)
    assert found
    return json.loads(found[1])


def fields() -> list[tuple[str, str]]:
    return [
        (title, field.alias or name)
        for cls, title in SECTIONS.items()
        for name, field in cls.model_fields.items()
    ]


def test_every_model_has_a_section() -> None:
    models = {
        cls
        for cls in vars(model).values()
        if isinstance(cls, type) and issubclass(cls, BaseModel) and not cls.__name__.startswith("_")
    } - {BaseModel}
    assert models == set(SECTIONS)


@pytest.mark.parametrize(("title", "field"), fields())
def test_every_field_is_described_in_its_section(title: str, field: str) -> None:
    first_cells = re.findall(r"^\|([^|]*)\|", section(title), re.MULTILINE)
    assert any(f"`{field}`" in cell for cell in first_cells)


@pytest.mark.parametrize("title", SECTIONS.values())
def test_no_field_is_described_that_does_not_exist(title: str) -> None:
    cells = re.findall(r"^\|([^|]*)\|", section(title), re.MULTILINE)
    described = {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}
    assert described == {field for where, field in fields() if where == title}


@pytest.mark.parametrize("value", [*Verdict, *Outcome])
def test_every_verdict_and_outcome_is_explained(value: str) -> None:
    assert re.search(rf"^\| `{value}` \|", DOC, re.MULTILINE)


@pytest.mark.parametrize("code", ExitCode)
def test_every_exit_code_is_explained(code: ExitCode) -> None:
    assert f"`{code.value}`" in DOC


def test_the_documented_version_is_the_current_one() -> None:
    assert f"`schema_version` is `{SCHEMA_VERSION}`" in DOC


def test_the_example_is_marked_and_valid() -> None:
    assert "This is an **example**" in DOC
    jsonschema.validate(example(), json_schema())
    assert list(RunResults.model_validate(example()).model_dump()) == list(RunResults.model_fields)


def test_the_schema_uses_the_names_of_the_file() -> None:
    schema = json_schema()
    event = schema["$defs"]["KernelEvent"]["properties"]
    assert "class" in event
    assert "event_class" not in event
    jsonschema.Draft202012Validator.check_schema(schema)
