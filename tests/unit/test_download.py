"""Downloads over a real HTTP server on loopback: breaks, resumption, lies and wrong checksums."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from vexrun.errors import ConfigError, InfrastructureError
from vexrun.events import Event, Progress, ignore
from vexrun.image.download import Checksum, obtain
from vexrun.layout import cache_dir

CONTENT = os.urandom(3_000_000)
RIGHT = Checksum("sha256", hashlib.sha256(CONTENT).hexdigest())


class Server:
    """Serves CONTENT as told, and remembers what was asked for."""

    def __init__(self) -> None:
        self.content = CONTENT
        self.ranges = True
        self.break_after: list[int] = []  # bytes of each coming answer before it is cut
        self.status = 0  # an error instead of an answer
        self.tell_length = True
        self.lie_about_range = False
        self.asked: list[str | None] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *_: Any) -> None:
                """No lines on stderr."""

        self.httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.httpd.serve_forever, args=(0.02,))
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.httpd.server_port}/image.qcow2"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        wanted = handler.headers.get("Range")
        self.asked.append(wanted)
        if self.status:
            handler.send_error(self.status)
            return
        begin = 0
        if wanted and self.ranges:
            begin = int(wanted.removeprefix("bytes=").rstrip("-"))
            if begin >= len(self.content):
                handler.send_response(416)
                handler.send_header("Content-Range", f"bytes */{len(self.content)}")
                handler.end_headers()
                return
            handler.send_response(206)
            told = 0 if self.lie_about_range else begin
            handler.send_header(
                "Content-Range", f"bytes {told}-{len(self.content) - 1}/{len(self.content)}"
            )
        else:
            handler.send_response(200)
        body = self.content[begin:]
        if self.tell_length:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if self.break_after:
            body = body[: self.break_after.pop(0)]
        handler.wfile.write(body)


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    try:
        yield made
    finally:
        made.httpd.shutdown()
        made.thread.join()
        made.httpd.server_close()


@pytest.fixture(autouse=True)
def no_proxy(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def downloads() -> list[str]:
    return sorted(path.name for path in (cache_dir() / "downloads").iterdir())


def test_a_file_is_fetched_once_and_kept(server: Server) -> None:
    path = obtain(server.url, RIGHT, ignore)
    assert path.read_bytes() == CONTENT
    assert obtain(server.url, RIGHT, ignore) == path
    assert server.asked == [None]


def test_a_broken_connection_is_taken_up_where_it_ended(server: Server) -> None:
    server.break_after = [1_000_000, 500_000]
    said: list[Event] = []
    path = obtain(server.url, RIGHT, said.append)
    assert path.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000000-", "bytes=1500000-"]
    texts = [each.text for each in said if isinstance(each, Progress)]
    assert any("going on at 1 MiB" in text for text in texts)


def test_a_later_command_goes_on_where_the_earlier_ended(server: Server) -> None:
    server.break_after = [700_000, 0, 0, 0]
    with pytest.raises(InfrastructureError) as failed:
        obtain(server.url, RIGHT, ignore)
    assert "could not be downloaded: the connection ended early" in failed.value.message
    assert "700000 bytes are there" in failed.value.evidence
    server.asked.clear()
    assert obtain(server.url, RIGHT, ignore).read_bytes() == CONTENT
    assert server.asked == ["bytes=700000-"]


def test_a_server_without_ranges_sends_it_all_again(server: Server) -> None:
    server.ranges = False
    server.break_after = [1_000_000]
    assert obtain(server.url, RIGHT, ignore).read_bytes() == CONTENT


def test_a_part_that_is_whole_needs_no_more(server: Server) -> None:
    directory = cache_dir() / "downloads"
    directory.mkdir(parents=True)
    (directory / f"{RIGHT.digest}.part").write_bytes(CONTENT)
    assert obtain(server.url, RIGHT, ignore).read_bytes() == CONTENT


def test_a_part_of_a_longer_file_is_thrown_away(server: Server) -> None:
    directory = cache_dir() / "downloads"
    directory.mkdir(parents=True)
    (directory / f"{RIGHT.digest}.part").write_bytes(CONTENT + b"more")
    assert obtain(server.url, RIGHT, ignore).read_bytes() == CONTENT
    assert server.asked[-1] is None


def test_another_part_than_asked_for_is_not_taken(server: Server) -> None:
    server.break_after = [1_000_000]
    server.lie_about_range = True
    with pytest.raises(InfrastructureError, match="another part of the file"):
        obtain(server.url, RIGHT, ignore)


@pytest.mark.parametrize("tell_length", [True, False])
def test_a_wrong_checksum_is_refused_and_nothing_is_kept(server: Server, tell_length: bool) -> None:
    """Without a length in the answer, a file cut short is known by its checksum alone."""
    server.tell_length = tell_length
    server.content = CONTENT[:-1] if not tell_length else CONTENT[:-1] + b"x"
    with pytest.raises(ConfigError) as refused:
        obtain(server.url, RIGHT, ignore)
    assert "is not the file with this sha256" in refused.value.message
    assert RIGHT.digest in refused.value.evidence
    assert downloads() == [f"{RIGHT.digest}.lock"]


@pytest.mark.parametrize(("status", "asked"), [(404, 1), (403, 1), (503, 3)])
def test_a_refusal_of_the_server_is_told(server: Server, status: int, asked: int) -> None:
    server.status = status
    with pytest.raises(InfrastructureError, match=f"HTTP status {status}"):
        obtain(server.url, RIGHT, ignore)
    assert len(server.asked) == asked


def test_nobody_answers() -> None:
    with pytest.raises(InfrastructureError, match="could not be downloaded"):
        obtain("http://127.0.0.1:1/image", RIGHT, ignore)


def test_debians_sums_are_sha512(server: Server) -> None:
    checksum = Checksum("sha512", hashlib.sha512(CONTENT).hexdigest())
    assert obtain(server.url, checksum, ignore).read_bytes() == CONTENT


# -- files of this machine, and what was typed ---------------------------------------------------


def test_a_file_is_checked_where_it_is(tmp_path: Path) -> None:
    file = tmp_path / "image.qcow2"
    file.write_bytes(CONTENT)
    assert obtain(str(file), RIGHT, ignore) == file
    file.write_bytes(CONTENT[:-1])
    with pytest.raises(ConfigError, match="cut short"):
        obtain(str(file), RIGHT, ignore)
    assert file.exists(), "it is somebody's own"


def test_no_file() -> None:
    with pytest.raises(ConfigError, match="no file 'nothing'"):
        obtain("nothing", RIGHT, ignore)


@pytest.mark.parametrize(
    ("sha256", "sha512", "why"),
    [
        (None, None, "give --sha256 or --sha512"),
        ("0" * 64, "0" * 128, "give --sha256 or --sha512"),
        ("0" * 63, None, "64 hexadecimal digits"),
        (None, "g" * 128, "128 hexadecimal digits"),
    ],
)
def test_a_checksum_must_be_one(sha256: str | None, sha512: str | None, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        Checksum.of_options(sha256, sha512)


def test_a_checksum_may_be_written_in_capitals() -> None:
    assert Checksum.of_options("AB" * 32, None) == Checksum("sha256", "ab" * 32)
