#!/usr/bin/env python3
"""A Vagrant that starts what the machine description says. FAKE_VAGRANT_FAILS: at which command."""

import json
import os
import subprocess
import sys
from pathlib import Path

command = sys.argv[1] if sys.argv[1] != "snapshot" else f"snapshot {sys.argv[2]}"
state = Path(os.environ["VAGRANT_DOTFILE_PATH"])
state.mkdir(exist_ok=True)
with (state.parent.parent / "vagrant.calls").open("a") as calls:
    kept = {name: value for name, value in os.environ.items() if name.startswith("VAGRANT_")}
    calls.write(json.dumps({"command": command, "environment": kept}) + "\n")
if os.environ.get("FAKE_VAGRANT_FAILS") == command:
    print("==> default: Bringing it up...")
    print("The box you are trying to use is broken: 'no kernel in it'", file=sys.stderr)
    sys.exit(1)

description = json.loads(Path(os.environ["VEXRUN_MACHINE"]).read_text())
pid_file = state / "pid"


def end() -> None:
    if pid_file.exists():
        subprocess.run(["kill", "-KILL", pid_file.read_text()], check=False)
        pid_file.unlink()


def start() -> None:
    locks = [open(lock, "a") for lock in description["holds"]]  # noqa: SIM115, PTH123
    for lock in locks:
        subprocess.run(["flock", "--shared", str(lock.fileno())], pass_fds=[lock.fileno()])
    argv = [word.replace("@port@", "40022") for word in description["argv"]]
    control = Path(description["control"])
    control.unlink(missing_ok=True)
    started = subprocess.Popen(argv, pass_fds=[lock.fileno() for lock in locks])
    pid_file.write_text(str(started.pid))
    while not control.exists() and started.poll() is None:
        pass


if command == "up":
    start()
elif command == "snapshot restore":
    end()
    start()
elif command == "ssh-config":
    print("Host default\n  HostName 127.0.0.1\n  Port 40022")
    print(f"  User {description['ssh']['user']}\n  IdentityFile {description['ssh']['key']}")
elif command == "destroy":
    end()
