"""A cloud image from a web server to a verdict, over a connection that breaks."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cloud_image
import pytest
from conftest import SUBJECTS

from vexrun.image.importing import CLOUD_USER
from vexrun.vm.ssh import HOST_ALIAS

pytestmark = [
    pytest.mark.vm,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="the cloud image is built as root"),
]


class Breaking(SimpleHTTPRequestHandler):
    """Serves ranges, and breaks off the first answer in its middle."""

    answers = 0

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        begin = int((self.headers.get("Range") or "bytes=0-")[6:].rstrip("-"))
        size = path.stat().st_size
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(size - begin))
        self.send_header("Content-Range", f"bytes {begin}-{size - 1}/{size}")
        self.end_headers()
        type(self).answers += 1
        left = size // 2 if type(self).answers == 1 else size - begin
        with path.open("rb") as stream:
            stream.seek(begin)
            while left and (block := stream.read(min(left, 1 << 20))):
                self.wfile.write(block)
                left -= len(block)

    def log_message(self, *_: Any) -> None:
        """No lines on stderr."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """URL and sha256 of a cloud image."""
    directory = tmp_path_factory.mktemp("cloud")
    image = directory / "cloud.qcow2"
    digest = cloud_image.build(image)
    handler = functools.partial(Breaking, directory=str(directory))
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}/cloud.qcow2", digest
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


def vexrun(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "vexrun.cli", *arguments],
        env={**os.environ, "no_proxy": "127.0.0.1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def imported(served: tuple[str, str]) -> Iterator[str]:
    """The name of the imported image; it is removed afterwards, and so is the download."""
    url, digest = served
    said = vexrun("image", "import", url, "--sha256", digest)
    name = next(word.rstrip(":") for word in said.split() if word.startswith("trixie-imported-"))
    assert "has no 9p: Debian's generic kernel takes its place" in said
    assert Breaking.answers == 2, "the second answer is the rest of the first"
    yield name
    vexrun("image", "rm", name)


def test_a_module_passes_and_the_roles_change_nothing(imported: str) -> None:
    """Without `changed=0` in the booted guest there is no snapshot, and without that no run."""
    minix = str(SUBJECTS / "minix.toml")
    only = ("--only", "module,mount")
    results = json.loads(vexrun("test", "--subject", minix, "--suite", imported, *only, "--json"))
    assert results["verdict"] == "pass"
    assert results["target"]["suite"] == imported
    assert not results["target"]["kernel"].endswith("cloud-amd64")


def test_cloud_init_has_done_its_work(imported: str) -> None:
    vexrun("vm", "up", "--suite", imported)
    machines = json.loads(vexrun("vm", "status", "--json"))
    machine = next(each for each in machines if each["image"] == imported)
    name = ("--name", machine["name"])
    try:
        assert "status: done" in vexrun("vm", "ssh", *name, "cloud-init status --wait")
        login = [
            "ssh",
            "-F",
            machine["ssh_config"],
            "-l",
            CLOUD_USER,
            HOST_ALIAS,
            "id -un; sudo -n id -u",
        ]
        done = subprocess.run(login, capture_output=True, text=True, check=True)
        assert done.stdout.split() == [CLOUD_USER, "0"]
    finally:
        vexrun("vm", "down", *name)
