"""Ansible connection into an unpacked root filesystem: the image is provisioned at native speed."""

from __future__ import annotations

import os
import shlex
import subprocess
from typing import IO, Any

from ansible.errors import AnsibleConnectionFailure, AnsibleFileNotFound
from ansible.module_utils.common.text.converters import to_bytes
from ansible.plugins.connection import ConnectionBase
from ansible.utils.display import Display

DOCUMENTATION = """
name: rootfs
author: vexrun
short_description: run modules inside an unpacked root filesystem
description:
  - Runs every command behind a prefix that enters the root filesystem, normally C(unshare) plus
    C(vexrun/image/enter.sh), as root or through a user namespace.
  - Files are copied through the same prefix, because in a user namespace they belong to
    subordinate ids the calling user cannot write.
  - Every command gets a C(/tmp) and C(/run) of its own, so C(ansible_remote_tmp) must be elsewhere.
extends_documentation_fragment:
  - connection_pipelining
options:
  enter:
    description: Complete argv prefix; the command to run inside is appended.
    type: list
    elements: str
    required: true
    vars:
      - name: vexrun_rootfs_enter
"""

display = Display()


class Connection(ConnectionBase):  # type: ignore[misc]  # ansible ships no types
    """One root filesystem; there is no session, every command enters anew."""

    transport = "rootfs"
    has_pipelining = True
    default_user = "root"
    _connected: bool

    def _connect(self) -> Connection:
        if not self._connected:
            # A prefix that cannot mount would otherwise surface as a garbled module result.
            self._demand(
                self._enter("exit 0", b"", stdout=subprocess.PIPE), "enter the root filesystem"
            )
            self._connected = True
        return self

    def exec_command(
        self, cmd: str, in_data: bytes | None = None, sudoable: bool = False
    ) -> tuple[int, bytes, bytes]:
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        done = self._enter(cmd, in_data or b"", stdout=subprocess.PIPE)
        return done.returncode, done.stdout, done.stderr

    def put_file(self, in_path: str, out_path: str) -> None:
        super().put_file(in_path, out_path)
        if not os.path.exists(to_bytes(in_path)):  # noqa: PTH110  # ansible hands over str or bytes
            raise AnsibleFileNotFound(
                f"'{in_path}' is to be copied into the image but is not there."
            )
        with open(to_bytes(in_path), "rb") as source:  # noqa: PTH123
            done = self._enter(f"cat >{shlex.quote(out_path)}", source, stdout=subprocess.PIPE)
        self._demand(done, f"copy '{in_path}' to '{out_path}'")

    def fetch_file(self, in_path: str, out_path: str) -> None:
        super().fetch_file(in_path, out_path)
        with open(to_bytes(out_path), "wb") as destination:  # noqa: PTH123
            done = self._enter(f"cat {shlex.quote(in_path)}", b"", stdout=destination)
        self._demand(done, f"fetch '{in_path}' to '{out_path}'")

    def close(self) -> None:
        self._connected = False

    def _enter(
        self, script: str, stdin: bytes | IO[bytes], stdout: int | IO[bytes]
    ) -> subprocess.CompletedProcess[bytes]:
        argv = [*self.get_option("enter"), "/bin/sh", "-c", script]
        display.vvv(f"ENTER {shlex.join(argv)}", host=self._play_context.remote_addr)
        feed: dict[str, Any] = {"input": stdin} if isinstance(stdin, bytes) else {"stdin": stdin}
        try:
            done = subprocess.run(argv, **feed, stdout=stdout, stderr=subprocess.PIPE, check=False)
        except OSError as error:
            raise AnsibleConnectionFailure(
                f"The root filesystem cannot be entered, '{argv[0]}' does not start: {error}. "
                f"The command was: {shlex.join(argv)}"
            ) from error
        if done.returncode < 0:
            raise AnsibleConnectionFailure(
                f"The command in the root filesystem was killed by signal {-done.returncode}: "
                f"{shlex.join(argv)}"
            )
        return done

    def _demand(self, done: subprocess.CompletedProcess[bytes], what: str) -> None:
        if done.returncode:
            stderr = done.stderr.decode(errors="replace").strip()
            raise AnsibleConnectionFailure(
                f"Cannot {what} (exit {done.returncode}): {stderr}. "
                f"The command was: {shlex.join(done.args)}"
            )
