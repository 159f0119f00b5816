"""Turn pydantic's errors into sentences that name the key and the fix."""

from __future__ import annotations

import difflib
import typing
from typing import Any

from pydantic import BaseModel, ValidationError


def describe_errors(error: ValidationError, model: type[BaseModel]) -> str:
    """One line for each error: the dotted key, what is wrong, and the closest valid key."""
    return "\n".join(_describe(item, model) for item in error.errors())


def _describe(item: Any, model: type[BaseModel]) -> str:
    location = [str(part) for part in item["loc"]]
    key = ".".join(location)
    if item["type"] == "extra_forbidden":
        known = _known_keys(model, location[:-1])
        close = difflib.get_close_matches(location[-1], known, n=1)
        meant = f"; did you mean '{close[0]}'?" if close else ""
        return f"'{key}': unknown key{meant} (known keys here: {', '.join(sorted(known))})"
    if item["type"] == "missing":
        return f"'{key}': this key is required and missing"
    problem: str = item["msg"].removeprefix("Value error, ")
    given = item.get("input")
    shown = "" if isinstance(given, dict) else f" (found {given!r})"
    if not key:  # a rule about several keys, which names them
        return problem
    return f"'{key}': {problem[0].lower()}{problem[1:]}{shown}"


def _known_keys(model: type[BaseModel], path: list[str]) -> list[str]:
    current: type[BaseModel] | None = model
    for part in path:
        if part.isdigit():
            continue
        field = current.model_fields.get(part) if current else None
        current = _nested_model(field.annotation) if field else None
    if current is None:
        return []
    return [field.alias or name for name, field in current.model_fields.items()]


def _nested_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in typing.get_args(annotation):
        found = _nested_model(argument)
        if found is not None:
            return found
    return None
