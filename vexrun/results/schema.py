"""The JSON Schema of results.json, as published in docs/results-format.md."""

from __future__ import annotations

from typing import Any

from vexrun.results.model import RunResults


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of one results.json, by the names used in the file."""
    return RunResults.model_json_schema(by_alias=True, mode="serialization")
