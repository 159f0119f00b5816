"""Reading results.json back: a file somebody may have cut, edited or made with another version."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vexrun.errors import ConfigError
from vexrun.results.model import SCHEMA_VERSION, RunResults

FILENAME = "results.json"
_RERUN = "Make a new run with `vexrun test`, or name the directory of another one."


def load_results(path_or_dir: Path | str) -> RunResults:
    """The results in a file, or in the `results.json` of a run directory.

    Raises ConfigError, naming the file and the next command, when there are none to trust.
    """
    path = _results_file(Path(path_or_dir))
    document = _document(path)
    _check_version(path, document)
    try:
        return RunResults.model_validate(document)
    except ValidationError as error:
        places = [
            f"{'.'.join(str(part) for part in detail['loc']) or 'document'}: {detail['msg']}"
            for detail in error.errors(include_url=False, include_input=False)
        ]
        raise ConfigError(
            f"'{path}' does not follow results schema {SCHEMA_VERSION}: "
            f"{len(places)} field(s) are missing, unknown or wrong.",
            evidence="\n".join(places[:10]),
            hint=f"It was not written by this vexrun, or was edited. {_RERUN}",
        ) from error


def _results_file(path: Path) -> Path:
    if path.is_symlink() and not path.exists():
        raise ConfigError(
            f"'{path}' is a link to '{path.readlink()}', which does not exist.", hint=_RERUN
        )
    if not path.exists():
        raise ConfigError(f"There is no run at '{path}'.", hint=_RERUN)
    if not path.is_dir():
        return path
    if not (path / FILENAME).exists():
        found = sorted(entry.name for entry in path.iterdir())[:12]
        raise ConfigError(
            f"The directory '{path}' has no '{FILENAME}'.",
            evidence=f"It holds: {', '.join(found)}" if found else "It is empty.",
            hint=f"A run that was killed leaves none; it may still run. {_RERUN}",
        )
    return path / FILENAME


def _document(path: Path) -> Any:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"Could not read '{path}': {error.strerror}.", hint=f"Look with `ls -l '{path}'`."
        ) from error
    if not raw.strip():
        raise ConfigError(f"'{path}' is empty.", hint=_RERUN)
    try:
        return json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"'{path}' is not JSON: byte {error.start} is not UTF-8.", hint=_RERUN
        ) from error
    except json.JSONDecodeError as error:
        if _is_cut(error):
            raise ConfigError(
                f"'{path}' is truncated: it ends in the middle of a value "
                f"(line {error.doc.count(chr(10)) + 1}, {len(raw)} bytes).",
                hint=f"The disk may have been full: `df -h '{path.parent}'`. {_RERUN}",
            ) from error
        raise ConfigError(
            f"'{path}' is not JSON: {error.msg} at line {error.lineno}, column {error.colno}.",
            evidence=error.doc.split("\n")[error.lineno - 1][:200],
            hint=f"Name a run directory or its '{FILENAME}'. {_RERUN}",
        ) from error


def _is_cut(error: json.JSONDecodeError) -> bool:
    """Whether an object or array began properly and the file just stopped."""
    begun = error.doc.lstrip()[:1] in ("{", "[")
    # What is left of a cut `true`, `-1.5` or `\u00e9`: one short word without structure.
    stub = re.fullmatch(r'[-+.\\\w"]{0,12}', error.doc[error.pos :].strip())
    return begun and (stub is not None or error.msg.startswith("Unterminated string"))


def _check_version(path: Path, document: Any) -> None:
    if not isinstance(document, dict) or "schema_version" not in document:
        raise ConfigError(
            f"'{path}' is JSON, but not the results of a run: it has no 'schema_version'.",
            hint=f"Name a run directory or its '{FILENAME}'. {_RERUN}",
        )
    version = document["schema_version"]
    if type(version) is int and version == SCHEMA_VERSION:
        return
    newer = type(version) is int and version > SCHEMA_VERSION
    raise ConfigError(
        f"'{path}' has results schema {version!r}; this vexrun reads schema {SCHEMA_VERSION}.",
        evidence=f"It was written by vexrun {document.get('vexrun_version') or '(unknown)'}.",
        hint=(
            "Read it with the vexrun that wrote it, or upgrade: `pip install --upgrade vexrun`."
            if newer
            else _RERUN
        ),
    )
