"""Reading results back: every file that is not the results of a run is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vexrun.errors import ConfigError, ExitCode
from vexrun.results.model import Verdict
from vexrun.results.readers import load_results

GOOD = Path(__file__).parents[1] / "data" / "results" / "crash.json"


def document(**changes: Any) -> bytes:
    return json.dumps(json.loads(GOOD.read_text(encoding="utf-8")) | changes).encode()


def test_a_run_directory_and_its_file_read_the_same(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_bytes(GOOD.read_bytes())
    assert load_results(tmp_path) == load_results(tmp_path / "results.json") == load_results(GOOD)
    assert load_results(str(tmp_path)).verdict is Verdict.FAIL


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        pytest.param(b"", "is empty", id="empty"),
        pytest.param(b"\n\n", "is empty", id="blank"),
        pytest.param(b"<html>", "is not JSON", id="html"),
        pytest.param(b"\x7fELF\xff\xfe", "is not UTF-8", id="binary"),
        pytest.param(b'{"a": 1,, }', "is not JSON", id="broken"),
        pytest.param(b"[]", "no 'schema_version'", id="list"),
        pytest.param(b"{}", "no 'schema_version'", id="other-json"),
        pytest.param(document(schema_version=99), "schema 99; this vexrun reads", id="newer"),
        pytest.param(document(schema_version=0), "schema 0; this vexrun reads", id="older"),
        pytest.param(document(schema_version="1"), "schema '1'; this", id="version-text"),
        pytest.param(document(schema_version=True), "schema True; this", id="version-bool"),
        pytest.param(document(verdict="fine"), "does not follow", id="unknown-verdict"),
        pytest.param(document(surprise=1), "does not follow", id="unknown-key"),
    ],
)
def test_what_is_not_a_result_is_refused(content: bytes, sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_results(tmp_path)
    assert str(file) in caught.value.message
    assert sentence in caught.value.message
    assert "`" in caught.value.hint  # a command to paste
    assert caught.value.exit_code is ExitCode.USAGE


@pytest.mark.parametrize("share", [0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.999])
def test_a_truncated_file_is_called_truncated(share: float, tmp_path: Path) -> None:
    content = GOOD.read_bytes().rstrip()
    file = tmp_path / "results.json"
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ConfigError, match="is truncated"):
        load_results(file)


def test_every_cut_is_refused(tmp_path: Path) -> None:
    content = b'{"schema_version": 1, "complete": true, "n": [1.5, null, "a\\u00e9b"]}'
    file = tmp_path / "results.json"
    for length in range(len(content)):
        file.write_bytes(content[:length])
        with pytest.raises(ConfigError, match=r"truncated|empty"):
            load_results(file)


def test_the_wrong_fields_are_named(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    file.write_bytes(document(verdict="fine", surprise=1))
    with pytest.raises(ConfigError, match=r"2 field\(s\)") as caught:
        load_results(file)
    assert "verdict: " in caught.value.evidence
    assert "surprise: " in caught.value.evidence


def test_a_newer_schema_names_who_wrote_it(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    file.write_bytes(document(schema_version=2, vexrun_version="9.9"))
    with pytest.raises(ConfigError) as caught:
        load_results(file)
    assert "vexrun 9.9" in caught.value.evidence
    assert "upgrade" in caught.value.hint


def test_a_missing_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="There is no run at") as caught:
        load_results(tmp_path / "20261121-000000-0000")
    assert "`vexrun test`" in caught.value.hint


def test_a_directory_without_results_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "console.log").touch()
    with pytest.raises(ConfigError, match=r"has no 'results\.json'") as caught:
        load_results(tmp_path)
    assert "console.log" in caught.value.evidence


def test_a_link_to_a_removed_run_is_called_that(tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to("20261121-000000-0000")
    with pytest.raises(ConfigError, match="is a link to '20261121-000000-0000', which does not"):
        load_results(tmp_path / "latest")
