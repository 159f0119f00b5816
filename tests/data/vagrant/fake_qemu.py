#!/usr/bin/env python3
"""A QEMU that only speaks QMP, for the tests of Vagrant. FAKE_QEMU_FAILS: what it says instead."""

import contextlib
import json
import os
import socket
import sys
import threading
from pathlib import Path

if sys.argv[1:] == ["--version"]:
    print("QEMU emulator version 0 (fake)")
    sys.exit(0)
if "FAKE_QEMU_STARTED" not in os.environ:  # under the name by which a QEMU is recognised
    os.environ["FAKE_QEMU_STARTED"] = "1"
    name = str(Path(sys.argv[0]).with_name("qemu-system-x86_64"))
    os.environ["PYTHONHOME"] = sys.base_prefix
    os.execv(sys.executable, [name, "-S", __file__, *sys.argv[1:]])
failing = os.environ.get("FAKE_QEMU_FAILS", "")
once = Path(failing.removeprefix("once:")) if failing.startswith("once:") else None
if once is not None and not once.exists():
    once.touch()
    sys.exit("qemu: -netdev user: Could not set up host forwarding rule")
if failing and once is None:
    sys.exit(failing)

monitors = [word for flag, word in zip(sys.argv, sys.argv[1:], strict=False) if flag == "-qmp"]
incoming = sys.argv[sys.argv.index("-incoming") + 1] if "-incoming" in sys.argv else None
machine = {"status": "running"}
if incoming:
    state = os.read(int(incoming.removeprefix("fd:")), 100)
    assert state == b"the state of the machine", state
    machine["status"] = "paused"
files: dict[str, int] = {}
STATUS_AFTER = {"stop": "paused", "cont": "running", "system_powerdown": "shutdown"}


def answer(command: str) -> object:
    machine["status"] = STATUS_AFTER.get(command, machine["status"])
    if command == "query-status":
        return machine
    if command == "migrate":
        os.write(files["state"], b"the state of the machine")
    return {"status": "completed"} if command == "query-migrate" else {}


def converse(link: socket.socket) -> None:
    version = {"qemu": {"major": 10, "minor": 0, "micro": 0}, "package": ""}
    say(link, {"QMP": {"version": version, "capabilities": []}})
    while True:
        data, passed, _, _ = socket.recv_fds(link, 65536, 1)
        if not data:
            return
        request = json.loads(data)
        if request["execute"] == "getfd":
            files[request["arguments"]["fdname"]] = passed[0]
        if request["execute"] != "qmp_capabilities":
            say(link, {"event": "NOISE", "timestamp": {"seconds": 1, "microseconds": 0}})
        same = {"id": request["id"]} if "id" in request else {}
        say(link, {"return": answer(request["execute"]), **same})


def say(link: socket.socket, message: object) -> None:
    link.sendall(json.dumps(message).encode() + b"\r\n")


def serve(place: str) -> None:
    path = place.removeprefix("unix:").removesuffix(",server=on,wait=off").replace(",,", ",")
    Path(path).unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    while True:
        link = server.accept()[0]
        with link, contextlib.suppress(ConnectionError):
            converse(link)


for place in monitors[1:]:
    threading.Thread(target=serve, args=(place,)).start()
serve(monitors[0])
