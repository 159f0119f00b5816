"""Read the TOML files people write; every error is a sentence that names file, key and fix."""

from __future__ import annotations

import difflib
import tomllib
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from vexrun.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """The content of a TOML file, which is UTF-8 whatever the locale says.

    Raises ConfigError that calls the file `what`, and FileNotFoundError: whether a file must be
    there is known to the caller.
    """
    try:
        with path.open("rb") as stream:
            return tomllib.load(stream)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(f"The {what} '{path}' cannot be read: {error.strerror}.") from error
    except ValueError as error:  # also a number of too many digits, or not UTF-8
        raise ConfigError(f"The {what} '{path}' is not valid TOML: {error}.") from error


def validate(raw: dict[str, Any], model: type[Model], subject: str, hint: str = "") -> Model:
    """`raw` as a `model`; `subject` begins the sentence of the ConfigError when it is none."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(
            f"{subject} not valid.", evidence=describe_errors(error, model), hint=hint
        ) from error


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


def demand_known(wanted: Iterable[str], known: Sequence[str], what: str, hint: str) -> None:
    """Raises ConfigError for the first name that is none of the `known` ones."""
    for name in wanted:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            meant = f" Did you mean '{close[0]}'?" if close else ""
            raise ConfigError(f"There is no {what} '{name}'.{meant}", hint=hint)


def demand_unique(names: Sequence[str], table: str) -> None:
    """Raises ConfigError where two rows of the `table` have one name."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"{table} has two rows called '{twice[0]}'.")
