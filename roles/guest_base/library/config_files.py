"""Put many small files and links in place in one round trip.

`copy` costs one module run per file, 4 to 5 s each in an emulated guest: with the 25 files of
guest_base that is two minutes against six seconds.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: config_files
author: vexrun
short_description: put many small files and symbolic links in place at once
description:
  - Writes each file only if its content, owner root, or mode differ. Supports check and diff mode.
options:
  entries:
    description: The files and links, in order. Missing parent directories are made with mode 0755.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Absolute path.
        type: path
        required: true
      content:
        description: What the file holds, to the byte.
        type: str
      secret:
        description: Same as O(entries[].content), but never shown in output or diff.
        type: str
      link:
        description: The path is a symbolic link to this.
        type: str
      absent:
        description: The path must not exist, whatever else is given. Directories are refused.
        type: bool
        default: false
      mode:
        description: Octal mode of the file.
        type: str
        default: "0644"
      dir_mode:
        description: Octal mode of the parent directory; left alone when not given.
        type: str
  masked_units:
    description: systemd units to mask, installed yet or not.
    type: list
    elements: str
    default: []
"""

EXAMPLES = """
- name: Two files and a masked unit
  config_files:
    entries:
      - {path: /etc/hostname, content: "guest\\n"}
      - {path: /root/.ssh/authorized_keys, content: "{{ keys }}", mode: "0600", dir_mode: "0700"}
    masked_units: [fstrim.timer]
"""

RETURN = """
paths:
  description: The paths that were changed, or would be in check mode.
  returned: always
  type: list
"""

KINDS = ("content", "secret", "link")


def current(path):
    """('file', bytes, mode, uid, gid), ('link', target) or ('absent',)."""
    try:
        info = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return ("absent",)
    if stat.S_ISLNK(info.st_mode):
        return ("link", str(path.readlink()))
    if stat.S_ISREG(info.st_mode):
        return ("file", path.read_bytes(), stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid)
    return ("other",)


def wanted(entry):
    if entry["absent"]:
        return ("absent",)
    if entry["link"] is not None:
        return ("link", entry["link"])
    text = entry["content"] if entry["content"] is not None else entry["secret"]
    return ("file", text.encode(), int(entry["mode"], 8), 0, 0)


def mask(unit):
    """What `systemctl mask` does, but before the package is there and without a running systemd."""
    return {
        "path": f"/etc/systemd/system/{unit}",
        "content": None,
        "secret": None,
        "link": "/dev/null",
        "absent": False,
        "dir_mode": None,
    }


def write(path, want):
    """Replace in one rename: a reader sees the old file or the new one."""
    if want[0] == "absent":
        path.unlink()
        return
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    temporary = path.parent / f".vexrun-{os.getpid()}"
    try:
        if want[0] == "link":
            temporary.symlink_to(want[1])
        else:
            # Private from its first byte: it may hold the host key.
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as out:
                out.write(want[1])
                os.fchmod(out.fileno(), want[2])
                os.fchown(out.fileno(), want[3], want[4])
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def shown(state, secret):
    """The side of a diff."""
    if state[0] == "file":
        return "(not shown)\n" if secret else state[1].decode(errors="replace")
    return f"link to {state[1]}\n" if state[0] == "link" else ""


def main():
    entry_spec = {
        "path": {"type": "path", "required": True},
        "content": {"type": "str"},
        "secret": {"type": "str", "no_log": True},
        "link": {"type": "str"},
        "absent": {"type": "bool", "default": False},
        "mode": {"type": "str", "default": "0644"},
        "dir_mode": {"type": "str"},
    }
    module = AnsibleModule(
        argument_spec={
            "entries": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": entry_spec,
            },
            "masked_units": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    changed, diffs = [], []
    for entry in module.params["entries"] + [mask(unit) for unit in module.params["masked_units"]]:
        path = Path(entry["path"])
        given = [kind for kind in KINDS if entry[kind] is not None]
        if not path.is_absolute() or not (entry["absent"] or len(given) == 1):
            module.fail_json(
                msg=f"'{path}' needs an absolute path and 'absent' or exactly one of "
                f"{', '.join(KINDS)}; it has {', '.join(given) or 'none'}."
            )
        try:
            have, want = current(path), wanted(entry)
            if have[0] == "other":
                module.fail_json(msg=f"'{path}' is neither a file nor a link; move it away.")
            if have != want:
                secret = entry["secret"] is not None
                before, after = shown(have, secret), shown(want, secret)
                changed.append(str(path))
                diffs.append(
                    {
                        "before_header": str(path),
                        "after_header": str(path),
                        "before": before,
                        "after": after,
                    }
                )
                if not module.check_mode:
                    write(path, want)
            if entry["dir_mode"] is not None and path.parent.is_dir():
                mode = int(entry["dir_mode"], 8)
                if stat.S_IMODE(path.parent.stat().st_mode) != mode:
                    changed.append(str(path.parent))
                    if not module.check_mode:
                        path.parent.chmod(mode)
        except OSError as error:
            module.fail_json(msg=f"'{path}' cannot be put in place: {error}", paths=changed)
    module.exit_json(changed=bool(changed), paths=changed, diff=diffs)


if __name__ == "__main__":
    main()
