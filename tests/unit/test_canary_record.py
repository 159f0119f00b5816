"""What is kept of a canary that was run, and the table in docs/canaries.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vexrun.canary_record import Record, keep, load_record, table
from vexrun.errors import ConfigError
from vexrun.selftest import Canary, Judged, load_canaries

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "canaries.md"
PANIC = Canary.model_validate(
    {"name": "panic", "what": "x", "verdict": "fail", "only": ["mount"], "says": "a|b"}
)
LOUD = PANIC.model_copy(update={"name": "loud"})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "selftest.json"


def judged(row: Canary = PANIC, *problems: str, void: bool = False) -> Judged:
    return Judged(row, 12.4, "/runs/1", "fail, crashed", list(problems), void, "6.1.0-1")


def test_a_canary_that_was_run_is_in_the_table(file: Path) -> None:
    keep(judged(), "trixie", file)
    keep(judged(LOUD, "it was let go"), "sid", file)
    told = table([PANIC, LOUD], load_record(file))
    assert "| canary | expected | trixie | bookworm | sid |" in told
    assert "| `panic` | fail | ok, 12 s | not run | not run |" in told
    assert "| `loud` | fail | not run | not run | **NO**: fail, crashed |" in told
    assert re.search(
        r"- trixie \(6\.1\.0-1; \d{4}-\d\d-\d\d\): 1 of 2 were called what they are, "
        r"0 were not, 1 were not run\.",
        told,
    )
    assert "- bookworm: none of 2 was run." in told
    assert "0 of 2 were called what they are, 1 were not, 1 were not run." in told


def test_the_last_one_counts(file: Path) -> None:
    keep(judged(PANIC, "it was let go"), "trixie", file)
    keep(judged(), "trixie", file)
    assert "ok, 12 s" in table([PANIC], load_record(file))


def test_a_machine_that_broke_leaves_what_was_known(file: Path) -> None:
    keep(judged(), "trixie", file)
    keep(judged(PANIC, "no results", void=True), "trixie", file)
    assert "ok, 12 s" in table([PANIC], load_record(file))


def test_what_is_known_of_another_row_is_not_known_of_this_one(file: Path) -> None:
    keep(judged(), "trixie", file)
    changed = PANIC.model_copy(update={"title": "another"})
    assert "not run" in table([changed], load_record(file))
    assert "ok" in table([PANIC.model_copy(update={"smoke": True})], load_record(file))


def test_no_record_is_an_empty_one_and_a_bad_one_is_refused(file: Path) -> None:
    assert load_record(file) == Record()
    file.parent.mkdir()
    file.write_text("{")
    with pytest.raises(ConfigError, match="no record of canaries"):
        load_record(file)


def test_the_document_has_every_canary_as_it_is_expected_now() -> None:
    """A new or changed row wants the table made again: `vexrun selftest --table`."""
    found = re.findall(r"^\| (`[\w-]+` \| [^|]*?) \|", DOCUMENT.read_text(), re.MULTILINE)
    assert found == [f"`{row.name}` | {row.expected}" for row in load_canaries()]
