"""Why the kernel refused a module, in one sentence.

insmod itself only says `Invalid module format` or `Unknown symbol in module`; the reason is one
line in the kernel log (kernel/module/main.c, version.c, signing.c of 6.1 to 6.18).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from vexrun.kernel_log.lines import LineReader


@dataclass(frozen=True)
class Refusal:
    """One way the module loader says no. `title` and `sentence` may use the regex's groups."""

    name: str
    pattern: str
    title: str
    sentence: str


_MODULE = r"(?:module )?(?P<module>[\w-]{1,64}): "

REFUSALS: tuple[Refusal, ...] = (
    Refusal(
        "version_magic",
        _MODULE + r"version magic '(?P<built>[^']*)' should be '(?P<wanted>[^']*)'",
        "{module}: version magic of another kernel",
        "Module '{module}' was built for kernel '{built}', but this kernel is '{wanted}': "
        "rebuild it against the headers of the running kernel.",
    ),
    Refusal(
        "unknown_symbol",
        _MODULE + r"Unknown symbol (?P<symbol>\S+) \(err (?P<errno>-?\d+)\)",
        "{module}: unknown symbol {symbol}",
        "Module '{module}' needs the symbol '{symbol}', which the running kernel and its loaded "
        "modules do not offer (error {errno}).",
    ),
    Refusal(
        "symbol_version",
        _MODULE + r"disagrees about version of symbol (?P<symbol>\S+)",
        "{module}: disagrees about version of symbol {symbol}",
        "Module '{module}' was built against another version of the symbol '{symbol}' than the "
        "running kernel has (modversions): rebuild it against this kernel's headers.",
    ),
    Refusal(  # since Linux 6.4; older kernels notice by the symbol version of module_layout
        "module_struct",
        _MODULE + r"(?P<what>\.gnu\.linkonce\.this_module .*)",
        "{module}: built for another kernel",
        "Module '{module}' was built against headers of another kernel version or configuration "
        "('{what}'): rebuild it against the headers of the running kernel.",
    ),
    Refusal(
        "key_rejected",
        r"Loading of (?P<what>(?:unsigned )?module.*|module with .*) is rejected",
        "module signature rejected",
        "The kernel enforces module signatures and refused the module: "
        "'Loading of {what} is rejected'.",
    ),
    Refusal(
        "lockdown",
        r"Lockdown: (?P<task>[^:]{1,32}): (?P<what>unsigned module loading) is restricted",
        "lockdown refused an unsigned module",
        "The kernel is locked down and refuses unsigned modules.",
    ),
    Refusal(
        "key_rejected_errno",
        r"(?:" + _MODULE + r")?.{0,80}Key was rejected",
        "module signature rejected",
        "The kernel refused the module's signature (key was rejected by service).",
    ),
    Refusal(
        "invalid_format",
        r"(?:" + _MODULE + r")?.{0,80}Invalid module format",
        "invalid module format",
        "The kernel refused the module's format: it is no module for this kernel.",
    ),
    Refusal(
        "damaged_elf",
        r"(?P<what>Invalid ELF .*|ELF header .*|Module len \d+ truncated.*"
        r"|Section \d+ .*(?:overflow|too large|lies outside).*)",
        "damaged module file",
        "The module file is damaged or truncated: '{what}'.",
    ),
    Refusal(
        "duplicate_symbol",
        _MODULE + r"exports duplicate symbol (?P<symbol>\S+) \(owned by (?P<owner>[\w-]+)\)",
        "{module}: exports duplicate symbol {symbol}",
        "Module '{module}' exports '{symbol}', which '{owner}' exports already: the same code "
        "is built in, or loaded under another name.",
    ),
    Refusal(
        "bad_parameter",
        r"(?P<module>[\w-]{1,64}): `(?P<value>[^`']{0,256})' invalid for parameter "
        r"`(?P<parameter>[^']{1,64})'",
        "{module}: invalid parameter {parameter}",
        "Module '{module}' does not accept '{value}' for its parameter '{parameter}'.",
    ),
    Refusal(
        "btf",
        r"failed to validate module \[(?P<module>[\w-]{1,64})\] BTF: (?P<errno>-?\d+)",
        "{module}: BTF does not fit this kernel",
        "The BTF type data of module '{module}' does not fit this kernel (error {errno}): "
        "it was built for another build of it.",
    ),
    Refusal(
        "proprietary",
        _MODULE + r"module using GPL-only symbols uses symbols? (?P<symbol>\S+) .*proprietary",
        "{module}: uses symbols of a proprietary module",
        "Module '{module}' mixes GPL-only symbols with those of a proprietary module.",
    ),
)

#: How insmod (kmod, busybox) words these errors, whoever returned them (tools/insmod.c of kmod).
_INSMOD_WORDS = {
    "EINVAL": "Invalid parameters",
    "ENOENT": "Unknown symbol in module",
    "ESRCH": "Module has wrong symbol version",
    "ENOEXEC": "Invalid module format",
}


def explain_insmod(said: str) -> str | None:
    """What insmod's words are worth where the kernel gave no reason; None where they are plain.

    The module loader prints a line for each of these errors of its own, so one without a line
    comes from the module's init.
    """
    for errno, words in _INSMOD_WORDS.items():
        if said.rstrip().endswith(words):
            return (
                f"the kernel gave no reason, so this is most likely what init returned: -{errno}, "
                f"which insmod always words '{words}'"
            )
    return None


_COMPILED = tuple((refusal, re.compile(refusal.pattern)) for refusal in REFUSALS)


def explain_refusal(log: str | bytes, module: str | None = None) -> str | None:
    """One sentence for a failed insmod, from the kernel lines printed meanwhile.

    `log` is console or `dmesg -r` text; of several reasons the last one counts. With `module`,
    lines that name another module are ignored, and lines that name this one beat those that
    name none. None if the kernel gave no reason.
    """
    data = log.encode("utf-8", "replace") if isinstance(log, str) else log
    wanted = module.replace("-", "_") if module else None
    sentence: str | None = None
    by_name = False
    for line in LineReader().feed(data + b"\n"):
        if not line.from_kernel:
            continue
        for refusal, pattern in _COMPILED:
            match = pattern.match(line.text)
            if match is None:
                continue
            groups = {name: value or "?" for name, value in match.groupdict().items()}
            named = match.groupdict().get("module")
            ours = wanted is not None and named is not None and named.replace("-", "_") == wanted
            if ours or wanted is None or (named is None and not by_name):
                sentence = refusal.sentence.format(**groups)
                by_name = ours
            break
    return sentence
