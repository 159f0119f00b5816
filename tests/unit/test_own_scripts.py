"""The runner of the subject's own scripts, as it runs in the guest."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

RunScript = Callable[[str, int], tuple[int, str, bool]]
LIMIT = 1 << 16


@pytest.fixture
def run_script(monkeypatch: pytest.MonkeyPatch) -> RunScript:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "guest" / "own")
    monkeypatch.delitem(sys.modules, "own_in_guest", raising=False)
    import own_in_guest

    run: RunScript = own_in_guest.run_script
    return run


@pytest.mark.parametrize(
    ("script", "status", "output"),
    [
        ("echo out; echo err >&2", 0, "out\nerr\n"),
        ("echo x; exit 7", 7, "x\n"),
        ("kill -TERM $$", 143, ""),
        ("no-such-program-here 2>/dev/null", 127, ""),
        ("cat", 0, ""),
        ("ls -A | wc -l; touch here; ls", 0, "0\nhere\n"),
    ],
)
def test_status_and_output_are_the_scripts(
    script: str, status: int, output: str, run_script: RunScript
) -> None:
    assert run_script(f"exec </dev/null; {script}", LIMIT) == (status, output, False)


def test_directory_is_gone_afterwards(run_script: RunScript) -> None:
    status, output, _ = run_script("mkdir a; touch a/b; pwd", LIMIT)
    assert status == 0
    assert output.startswith("/tmp/vexrun-own-")
    assert not Path(output.strip()).exists()


def test_endless_output_is_cut(run_script: RunScript) -> None:
    _, output, cut = run_script("yes", LIMIT)
    assert cut
    assert len(output) == LIMIT


def test_long_output_is_whole(run_script: RunScript) -> None:
    status, output, cut = run_script(f"head -c {LIMIT} /dev/zero | tr '\\0' x", LIMIT)
    assert (status, cut, output) == (0, False, "x" * LIMIT)


def test_what_is_left_in_the_background_is_killed_and_not_waited_for(
    run_script: RunScript,
) -> None:
    begun = time.monotonic()
    status, output, _ = run_script("sleep 60 & echo $!", LIMIT)
    assert status == 0
    assert time.monotonic() - begun < 30
    until = time.monotonic() + 10
    while _runs(output.strip()) and time.monotonic() < until:
        time.sleep(0.05)
    assert not _runs(output.strip())


def _runs(pid: str) -> bool:
    """A zombie that nobody reaps has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
