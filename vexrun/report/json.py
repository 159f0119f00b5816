"""results.json: the results themselves, for machines. Schema in docs/results-format.md."""

from __future__ import annotations

import json
from typing import Any

from vexrun.report.printable import encodable
from vexrun.results.model import RunResults


def to_json(results: RunResults) -> str:
    """One JSON document, keys in the order of the model, ending in a newline.

    Strings keep their control characters (JSON escapes them). Only bytes that were not
    UTF-8 become `\\xNN` text: a lone surrogate is refused by strict parsers.
    """
    document = _encodable(results.model_dump(mode="python", by_alias=True))
    return json.dumps(document, ensure_ascii=False, allow_nan=False, indent=2) + "\n"


def _encodable(value: Any) -> Any:
    match value:
        case str():
            return encodable(value)
        case list():
            return [_encodable(item) for item in value]
        case dict():
            return {_encodable(key): _encodable(item) for key, item in value.items()}
    return value
