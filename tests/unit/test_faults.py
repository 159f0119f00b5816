"""The device-mapper tables behind a failing disk, and what is sent to the kernel for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from vexrun.guest import faults_in_guest

SECTORS = 1000


@pytest.fixture
def disk(tmp_path: Path) -> str:
    path = tmp_path / "disk"
    path.write_bytes(bytes(SECTORS * 512))
    return str(path)


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[int, int, str, str]]]:
    """The tables that were loaded, instead of asking a kernel."""
    loaded: list[list[tuple[int, int, str, str]]] = []

    def command(
        number: int, flags: int = 0, table: list[tuple[int, int, str, str]] | None = None
    ) -> int:
        if table is not None:
            loaded.append(table)
        return 0

    monkeypatch.setattr(faults_in_guest, "_command", command)
    return loaded


Tables = list[list[tuple[int, int, str, str]]]


@pytest.mark.parametrize(
    ("faults", "pieces"),
    [
        pytest.param([], [(0, 1000, "linear")], id="sound"),
        pytest.param([(0, 0, "dead")], [(0, 1000, "error")], id="all-dead"),
        pytest.param([(0, 0, "unwritable")], [(0, 1000, "flakey")], id="all-unwritable"),
        pytest.param([(0, 0, "cut")], [(0, 1000, "flakey")], id="power-cut"),
        pytest.param(
            [(40, 8, "dead"), (16, 1, "dead")],
            [
                (0, 16, "linear"),
                (16, 1, "error"),
                (17, 23, "linear"),
                (40, 8, "error"),
                (48, 952, "linear"),
            ],
            id="two-places",
        ),
        pytest.param(
            [(0, 8, "dead"), (8, 8, "dead")],
            [(0, 8, "error"), (8, 8, "error"), (16, 984, "linear")],
            id="neighbours",
        ),
        pytest.param(
            [(992, 8, "dead")], [(0, 992, "linear"), (992, 8, "error")], id="the-last-place"
        ),
    ],
)
def test_faults_become_a_table_without_gaps(
    disk: str,
    tables: Tables,
    faults: list[tuple[int, int, str]],
    pieces: list[tuple[int, int, str]],
) -> None:
    faults_in_guest.set_faults(disk, faults)
    (table,) = tables
    assert [piece[:3] for piece in table] == pieces
    for start, _, target, parameters in table:
        if target == "linear":
            assert parameters == f"{disk} {start}"
        elif target == "flakey":
            feature = {"unwritable": "error_writes", "cut": "drop_writes"}[faults[0][2]]
            assert parameters == f"{disk} {start} 0 3600 1 {feature}"


def test_content_is_found_on_the_medium(disk: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vexrun.guest.disks_in_guest.flush", lambda _: None)
    medium = bytearray(3 << 20)
    for sector in (3, 2047, 2048, 6143):
        medium[sector * 512 : sector * 512 + 4] = b"<tag"
    medium[100:104] = b"<tag"  # not where a sector begins
    Path(disk).write_bytes(medium)
    assert faults_in_guest.sectors_with(disk, b"<tag") == [3, 2047, 2048, 6143]


def test_a_request_has_the_layout_of_the_kernel(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """struct dm_ioctl of 312 bytes, then each target with the distance to the next."""
    sent: list[tuple[int, bytes]] = []
    control = tmp_path / "control"
    control.write_bytes(b"")
    monkeypatch.setattr(faults_in_guest, "_CONTROL", str(control))
    monkeypatch.setattr(
        faults_in_guest.fcntl, "ioctl", lambda _, number, data: sent.append((number, bytes(data)))
    )
    faults_in_guest._command(9, 6, [(0, 8, "error", ""), (8, 92, "linear", "/dev/vdb 8")])
    ((number, data),) = sent
    assert number == 0xC138FD09
    words = [int.from_bytes(data[at : at + 4], "little") for at in range(0, 40, 4)]
    assert words[:3] == [4, 0, 0]
    assert words[3] == len(data)
    assert words[4:8] == [312, 2, 0, 6]
    assert data[48:61] == b"vexrun-faulty"
    assert data[336:341] == b"error"
    following = 312 + int.from_bytes(data[332:336], "little")
    assert int.from_bytes(data[following : following + 8], "little") == 8
    assert data[following + 24 : following + 30] == b"linear"
    assert data[following + 40 : following + 50] == b"/dev/vdb 8"
