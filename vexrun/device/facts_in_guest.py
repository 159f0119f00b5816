"""Reads what a device is and what its disk is used for; writes nothing. Runs on the device.

Only the standard library: it is sent as text to the device's own Python, or shipped with the
tests' code, and answers with plain data that vexrun.device.facts checks and vexrun.device.guards
judges. What cannot be read is said in `problems`, never left out.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pwd
import re
import socket
import stat
import subprocess
import sys

_BY_ID = "/dev/disk/by-id"
#: Programs of a graphical session; /proc/PID/comm has 15 characters at most.
_GRAPHICAL = re.compile(
    r"^(Xorg|X|Xwayland|gnome-shell|gnome-session.*|kwin_(x11|wayland)|plasmashell|sway|weston"
    r"|mutter.*|xfwm4|lightdm|sddm|gdm3?|gdm-.*|cinnamon|mate-session|startplasma.*|Hyprland)$"
)
#: Settings of the running kernel that a run changes, and puts back.
SETTINGS = (
    "kernel.hung_task_timeout_secs",
    "kernel.panic",
    "kernel.panic_on_oops",
    "kernel.printk",
    "kernel.printk_devkmsg",
    "kernel.softlockup_panic",
    "kernel.sysrq",
)

#: Without these nothing can be judged; the others may be missing from a kernel.
_NEEDED = (
    "/etc/machine-id",
    "/proc/cmdline",
    "/proc/filesystems",
    "/proc/modules",
    "/proc/self/mountinfo",
    "/proc/sys/kernel/random/boot_id",
    "/proc/sys/kernel/tainted",
)
#: May be missing, but what is there has to be readable.
_READ = (*_NEEDED, "/proc/swaps", "/etc/fstab", "/etc/crypttab")
#: Bytes at both ends of a disk that are looked at when nothing there has a name.
_ENDS = 2**20
#: The type of what is no zeros there, and has no signature.
UNKNOWN_DATA = "unknown data"
#: What looks at each disk that changes, and is done in a moment.
_UDEV = ("systemd-udevd", "(udev-worker)", "udevadm")
#: Where the mounts are that a system stands on.
_SYSTEM = ("/", "/boot", "/boot/efi", "/efi", "/usr", "/var", "/home")

Plain = dict  # of str to str, int, bool, None, and lists and dicts of these


def read(request: Plain) -> Plain:  # type: ignore[type-arg]
    """The facts. `request`: by_id (or None), signatures (look for them; a process a disk)."""
    problems = _unreadable()
    facts: Plain = {  # type: ignore[type-arg]
        "machine_id": _text("/etc/machine-id"),
        "boot_id": _text("/proc/sys/kernel/random/boot_id"),
        "hostname": os.uname().nodename,
        "addresses": _addresses(),
        "release": os.uname().release,
        "architecture": os.uname().machine,
        "uid": os.getuid(),
        "taint": int(_text("/proc/sys/kernel/tainted") or "0"),
        "uptime_s": float((_text("/proc/uptime") or "0").split()[0]),
        "systemd": os.path.isdir("/run/systemd/system"),
        "modules": [line.split()[0] for line in _lines("/proc/modules")],
        "modules_disabled": _text("/proc/sys/kernel/modules_disabled") == "1",
        "signed_modules_only": _text("/sys/module/module/parameters/sig_enforce") == "Y",
        "lockdown": _chosen(_text("/sys/kernel/security/lockdown")),
        "filesystems": [line.split()[-1] for line in _lines("/proc/filesystems")],
        "mounts": [_mount_of(line) for line in _lines("/proc/self/mountinfo")],
        "swaps": [line.split()[0] for line in _lines("/proc/swaps")[1:]],
        "settings": {name: _text(_sysctl(name)) for name in SETTINGS},
        "watchdogs": _listed("/sys/class/watchdog"),
        "pstore": _listed("/sys/fs/pstore") + _listed("/var/lib/systemd/pstore"),
        "memory_mib": _memory_mib(),
        "cpus": os.cpu_count() or 1,
        "free_mib": _free_mib("/var"),
        "logged_in": _logged_in(),
        "graphical": _graphical(),
        "disks": _disks(),
        "disk": None,
    }
    if request.get("by_id"):
        facts["disk"] = _disk(request["by_id"], bool(request.get("signatures")), problems)
    facts["problems"] = problems
    return facts


# -- files ---------------------------------------------------------------------------------


def _unreadable() -> list[str]:
    """Sentences about files whose content is judged and cannot be read."""
    found = []
    for path in _READ:
        try:
            with open(path, "rb") as file:
                file.read()
        except OSError as error:
            if path in _NEEDED or error.errno != errno.ENOENT:
                found.append(f"'{path}' cannot be read: {error.strerror}")
    return found


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def _lines(path: str) -> list[str]:
    return _text(path).splitlines()


def _listed(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []


def _sysctl(name: str) -> str:
    return "/proc/sys/" + name.replace(".", "/")


def _chosen(text: str) -> str:
    """`none [integrity] confidentiality`: the one in brackets."""
    found = re.search(r"\[(\w+)\]", text)
    return found[1] if found else ""


def _memory_mib() -> int:
    found = re.search(r"MemTotal:\s+(\d+)", _text("/proc/meminfo"))
    return int(found[1]) // 1024 if found else 0


def _free_mib(path: str) -> int:
    try:
        room = os.statvfs(path)
    except OSError:
        return 0
    return room.f_bavail * room.f_frsize // 2**20


def _mount_of(line: str) -> Plain:  # type: ignore[type-arg]
    """A row of /proc/self/mountinfo (proc(5))."""
    before, _, after = line.partition(" - ")
    fields, rest = before.split(), after.split()
    return {
        "dev": fields[2],
        "root": _unescape(fields[3]),
        "point": _unescape(fields[4]),
        "type": rest[0],
        "source": _unescape(rest[1]) if len(rest) > 1 else "",
    }


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


# -- network -------------------------------------------------------------------------------


def _addresses() -> list[str]:
    """Its own addresses, without those of the loopback."""
    found = set()
    last = ""
    for line in _lines("/proc/net/fib_trie"):
        if leaf := re.search(r"\|-- ([0-9.]+)$", line):
            last = leaf[1]
        elif "/32 host LOCAL" in line and not last.startswith("127."):
            found.add(last)
    for line in _lines("/proc/net/if_inet6"):
        digits, *_, interface = line.split()
        if interface != "lo":
            found.add(socket.inet_ntop(socket.AF_INET6, bytes.fromhex(digits)))
    return sorted(found)


# -- people --------------------------------------------------------------------------------


def _logged_in() -> list[Plain]:  # type: ignore[type-arg]
    """Users at a terminal: leaders of a session that has one, but no login prompt."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        status = _text(f"/proc/{pid}/stat")
        comm, _, rest = status.partition("(")[2].rpartition(")")
        fields = rest.split()
        if len(fields) < 5 or fields[4] == "0" or fields[3] != pid or comm in ("agetty", "login"):
            continue
        try:
            uid = os.stat(f"/proc/{pid}").st_uid
            name = pwd.getpwuid(uid).pw_name
        except (OSError, KeyError):
            continue
        found.append({"user": name, "terminal": _terminal(int(fields[4])), "program": comm})
    return found


def _terminal(number: int) -> str:
    major, minor = number >> 8 & 0xFFF, number & 0xFF | number >> 12 & 0xFFF00
    if major == 4:
        return f"tty{minor}" if minor < 64 else f"ttyS{minor - 64}"
    return f"pts/{minor}" if 136 <= major <= 143 else f"terminal {major}:{minor}"


def _graphical() -> list[str]:
    """What says that somebody has a desktop here."""
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        comm = _text(f"/proc/{pid}/comm")
        if _GRAPHICAL.match(comm):
            found.add(f"the program '{comm}' runs")
    for name in _listed("/run/systemd/sessions"):
        said = dict(line.partition("=")[::2] for line in _lines(f"/run/systemd/sessions/{name}"))
        if said.get("TYPE") in ("x11", "wayland", "mir"):
            found.add(f"'{said.get('USER', '?')}' has a session of type {said['TYPE']}")
    return sorted(found)


# -- disks ---------------------------------------------------------------------------------


def _disks() -> list[Plain]:  # type: ignore[type-arg]
    """Every name of a disk or a partition, for people who fill in a description."""
    found = []
    for name in _listed(_BY_ID):
        kernel = os.path.basename(os.path.realpath(f"{_BY_ID}/{name}"))
        if os.path.isdir(f"/sys/class/block/{kernel}"):
            found.append(
                {
                    "by_id": f"{_BY_ID}/{name}",
                    "name": kernel,
                    "size": _size(kernel),
                    "serial": _serial(kernel),
                    "virtual": _is_virtual(kernel),
                }
            )
    return found


def _disk(by_id: str, signatures: bool, problems: list[str]) -> Plain:  # type: ignore[type-arg]
    path = os.path.realpath(by_id)
    name = os.path.basename(path)
    facts: Plain = {  # type: ignore[type-arg]
        "by_id": by_id,
        "there": os.path.lexists(by_id),
        "is_link": os.path.islink(by_id),
        "path": path,
        "name": name,
        "is_block": _is_block(path),
        "dev": "",
        "size": 0,
        "serial": "",
        "virtual": False,
        "read_only": False,
        "partition_of": None,
        "carries_system": False,
        "parts": [],
    }
    if not facts["is_block"] or not os.path.isdir(f"/sys/class/block/{name}"):
        return facts
    parent = _parent(name)
    facts["dev"] = _text(f"/sys/class/block/{name}/dev")
    facts["size"] = _size(name)
    facts["serial"] = _serial(name)
    facts["virtual"] = _is_virtual(name)
    facts["read_only"] = _text(f"/sys/class/block/{name}/ro") == "1"
    facts["partition_of"] = parent
    facts["carries_system"] = _carries_system(parent or name)
    if parent:
        problems += _unknown_ground()
    wanted = _configured()
    names = [name, *_partitions(name)]
    facts["parts"] = [_part(each, wanted, signatures, problems) for each in names]
    if parent:
        facts["parts"].append(
            {**_part(parent, {}, signatures, problems), "busy": False, "whole": True}
        )
    return facts


def _part(name: str, wanted: dict[str, list[str]], signatures: bool, problems: list[str]) -> Plain:  # type: ignore[type-arg]
    """One block device, and everything that uses it or may want to."""
    dev = _text(f"/sys/class/block/{name}/dev")
    path = f"/dev/{name}"
    mounts = {
        _unescape(line.split()[4])
        for line in _mounts_of_all()
        if line.split()[2] == dev or _source_is(line, path)
    }
    swaps = {os.path.realpath(line.split()[0]) for line in _lines("/proc/swaps")[1:]}
    carried = _signatures(path, problems) if signatures else []
    names = [path, *(f"UUID={row['uuid']}" for row in carried)]
    names += [f"LABEL={row['label']}" for row in carried if row["label"]]
    return {
        "name": name,
        "path": path,
        "dev": dev,
        "whole": False,
        "mounts": sorted(mounts),
        "swap": path in swaps,
        "holders": [_holder(each) for each in _listed(f"/sys/class/block/{name}/holders")]
        + _loops_over(path),
        "open_by": _open_by(path, dev),
        "configured": sorted({each for name in names for each in wanted.get(name, [])}),
        "busy": _is_busy(path, problems),
        "signatures": carried,
    }


def _mounts_of_all() -> set[str]:
    """Rows of mountinfo of every process, read once for each namespace and root that there is."""
    found = set()
    seen = set()
    for pid in ["self", *filter(str.isdigit, os.listdir("/proc"))]:
        try:
            view = (os.readlink(f"/proc/{pid}/ns/mnt"), os.readlink(f"/proc/{pid}/root"))
        except OSError:
            view = None  # gone, or on its way: what it still says counts
        if view not in seen:
            lines = _lines(f"/proc/{pid}/mountinfo")
            found.update(lines)
            if lines and view is not None:
                seen.add(view)
    return found


def _source_is(line: str, path: str) -> bool:
    """btrfs and others mount with a device number of their own."""
    source = line.partition(" - ")[2].split()
    return len(source) > 1 and source[1].startswith("/dev/") and os.path.realpath(source[1]) == path


def _holder(name: str) -> str:
    """`dm-3 (vg-data)`: the kernel's name, and the one that people gave it."""
    given = _text(f"/sys/class/block/{name}/dm/name")
    return f"{name} ({given})" if given else name


def _loops_over(path: str) -> list[str]:
    """Loop devices on top, which the kernel does not count as holders."""
    return [
        f"{name} (a loop device)"
        for name in _listed("/sys/class/block")
        if name.startswith("loop")
        and os.path.realpath(_text(f"/sys/class/block/{name}/loop/backing_file") or "/") == path
    ]


def _open_by(path: str, dev: str) -> list[str]:
    """Programs that have it open, such as a virtual machine; udev's look at it is over soon."""
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        numbers = _listed(f"/proc/{pid}/fd") if pid != str(os.getpid()) else []
        if any(_leads_to(pid, number, path, dev) for number in numbers):
            comm = _text(f"/proc/{pid}/comm")
            if comm not in _UDEV:
                found.add(f"'{comm}' (process {pid})")
    return sorted(found)


def _leads_to(pid: str, number: str, path: str, dev: str) -> bool:
    """Whether a descriptor is the device, also by a node in a namespace or root of its own."""
    try:
        target = os.readlink(f"/proc/{pid}/fd/{number}")
        if target == path or "/dev/" not in target:
            return target == path
        found = os.stat(f"/proc/{pid}/fd/{number}")
    except OSError:
        return False
    numbers = f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
    return stat.S_ISBLK(found.st_mode) and numbers == dev


def _is_busy(path: str, problems: list[str]) -> bool:
    """Whether the kernel refuses to open it exclusively: mounted, swap or held, whoever did it."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_EXCL))
    except OSError as error:
        if error.errno != errno.EBUSY:
            problems.append(f"'{path}' cannot be opened: {error.strerror}")
        return error.errno == errno.EBUSY
    return False


def _is_block(path: str) -> bool:
    try:
        return stat.S_ISBLK(os.stat(path).st_mode)
    except OSError:
        return False


def _is_virtual(name: str) -> bool:
    """A loop device, device-mapper, md: made of something else, so no disk and no partition."""
    return "/devices/virtual/" in os.path.realpath(f"/sys/class/block/{name}")


def _size(name: str) -> int:
    return int(_text(f"/sys/class/block/{name}/size") or "0") * 512


def _parent(name: str) -> str | None:
    """The disk of a partition, None of a whole disk."""
    if not os.path.exists(f"/sys/class/block/{name}/partition"):
        return None
    return os.path.basename(os.path.dirname(os.path.realpath(f"/sys/class/block/{name}")))


def _partitions(name: str) -> list[str]:
    directory = f"/sys/class/block/{name}"
    return [each for each in _listed(directory) if os.path.exists(f"{directory}/{each}/partition")]


def _serial(name: str) -> str:
    """As the drive says it: virtio and NVMe in sysfs, the rest in udev's database."""
    disk = _parent(name) or name
    for path in (f"/sys/class/block/{disk}/serial", f"/sys/class/block/{disk}/device/serial"):
        if said := _text(path):
            return said
    entries = _lines("/run/udev/data/b" + _text(f"/sys/class/block/{disk}/dev"))
    for key in ("E:ID_SERIAL_SHORT=", "E:ID_SERIAL="):
        for entry in entries:
            if entry.startswith(key):
                return entry[len(key) :].strip()
    return ""


def _carries_system(disk: str) -> bool:
    """Whether a mount that the system stands on comes from this disk, also through dm or md."""
    return any(disk in _disks_below(name) for _, names in _ground() for name in names)


def _unknown_ground() -> list[str]:
    """Where the system may stand on any disk; a whole disk in use is seen in other ways."""
    return [
        f"which disk carries '{point}' cannot be told, so it may be the one with that partition"
        for point, names in _ground()
        if not names
    ]


def _ground() -> list[tuple[str, list[str]]]:
    """Mount points that the system stands on, and the block devices below each."""
    found = []
    for line in _lines("/proc/self/mountinfo"):
        mount = _mount_of(line)
        if mount["point"] in _SYSTEM:
            found.append((mount["point"], _devices_of(mount)))
    return found


def _devices_of(mount: Plain) -> list[str]:  # type: ignore[type-arg]
    """Kernel names; btrfs has several, and a device number of its own."""
    name = os.path.basename(os.path.realpath(f"/sys/dev/block/{mount['dev']}"))
    if os.path.isdir(f"/sys/class/block/{name}"):
        return [name]
    name = os.path.basename(os.path.realpath(mount["source"]))
    if not mount["source"].startswith("/dev/") or not os.path.isdir(f"/sys/class/block/{name}"):
        return []
    for uuid in _listed("/sys/fs/btrfs"):
        together = _listed(f"/sys/fs/btrfs/{uuid}/devices")
        if name in together:
            return together
    return [name]


def _disks_below(name: str) -> set[str]:
    slaves = _listed(f"/sys/class/block/{name}/slaves")
    if not slaves:
        return {_parent(name) or name}
    return set().union(*(_disks_below(each) for each in slaves))


# -- who may want it at the next boot --------------------------------------------------------


def _configured() -> dict[str, list[str]]:
    """What names a device: fstab, crypttab, units of systemd, the kernel's arguments.

    Keys are paths of devices, and UUIDs and labels as they stand there: udev's link may lead to
    another device with the same, or be gone.
    """
    found: dict[str, list[str]] = {}

    def note(spec: str, where: str) -> None:
        said = f"{where} names it as '{spec}'"
        kind, equals, value = spec.partition("=")
        if equals and kind.upper() in ("UUID", "LABEL"):
            found.setdefault(f"{kind.upper()}={_unquoted(value)}", []).append(said)
        if path := _resolved(spec):
            found.setdefault(path, []).append(said)

    for line in _lines("/etc/fstab"):
        fields = line.split()
        if fields and not fields[0].startswith("#"):
            note(_unescape(fields[0]), "/etc/fstab")
    for line in _lines("/etc/crypttab"):
        fields = line.split()
        if len(fields) > 1 and not fields[0].startswith("#"):
            note(fields[1], "/etc/crypttab")
    for directory in ("/etc/systemd/system", "/run/systemd/system"):
        for unit in _listed(directory):
            if unit.endswith((".mount", ".swap")):
                for line in _lines(f"{directory}/{unit}"):
                    if line.startswith("What="):
                        note(line[5:].strip(), f"the unit '{unit}'")
    for word in _text("/proc/cmdline").split():
        key, _, value = word.partition("=")
        if key in ("root", "resume"):
            note(value, f"the kernel argument {key}")
    return found


def _resolved(spec: str) -> str:
    """The device that UUID=…, LABEL=…, PARTUUID=… or a path names; '' for none."""
    kind, equals, value = spec.partition("=")
    kinds = {"UUID": "uuid", "LABEL": "label", "PARTUUID": "partuuid", "PARTLABEL": "partlabel"}
    if equals and kind.upper() in kinds:
        value = _unquoted(value)
        escaped = "".join(
            c if c.isalnum() or c in "#+-.:=@_" or ord(c) > 127 else f"\\x{ord(c):02x}"
            for c in value
        )
        spec = f"/dev/disk/by-{kinds[kind.upper()]}/{escaped}"
    return os.path.realpath(spec) if spec.startswith("/") and os.path.exists(spec) else ""


def _unquoted(value: str) -> str:
    return value.strip('"')


# -- what it carries -------------------------------------------------------------------------


def _signatures(path: str, problems: list[str]) -> list[Plain]:  # type: ignore[type-arg]
    """Every signature that libblkid knows. Without --all the program only lists."""
    try:
        done = subprocess.run(
            ["wipefs", "--json", "--output", "UUID,LABEL,TYPE,OFFSET,USAGE", path],
            capture_output=True,
            check=False,
            timeout=120,
            env={"PATH": "/usr/sbin:/sbin:/usr/bin:/bin", "LC_ALL": "C"},
        )
        if done.returncode != 0:
            raise ValueError(done.stderr.decode(errors="replace").strip() or "no answer")
        said = json.loads(done.stdout or b"{}")
        found = [
            {
                "type": row.get("type") or "?",
                "uuid": row.get("uuid") or "",
                "label": row.get("label") or "",
                "usage": row.get("usage") or "",
                "offset": int(str(row.get("offset") or "0"), 0),
            }
            for row in said.get("signatures", [])
        ]
        return found or _nameless(path)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        problems.append(f"the signatures of '{path}' cannot be read: {error}")
        return []


def _nameless(path: str) -> list[Plain]:  # type: ignore[type-arg]
    """What nobody can put a name to is no empty disk: plain dm-crypt, a filesystem under test."""
    digest = hashlib.sha256()
    first = None
    with open(path, "rb", buffering=0) as disk:
        size = disk.seek(0, os.SEEK_END)
        for offset in sorted({0, max(0, size - _ENDS)}):
            disk.seek(offset)
            content = disk.read(_ENDS)
            digest.update(content)
            if first is None and content.strip(b"\0"):
                first = offset + len(content) - len(content.lstrip(b"\0"))
    if first is None:
        return []
    uuid = f"data-{digest.hexdigest()[:12]}"
    return [{"type": UNKNOWN_DATA, "uuid": uuid, "label": "", "usage": "", "offset": first}]


if __name__ == "__main__":
    print(json.dumps(read(json.loads(sys.argv[1]))))
