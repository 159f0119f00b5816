"""The subject's kernel module as tests see it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vexrun.guest.context import BuiltModule, RunContext
from vexrun.guest.protocol import SessionLink
from vexrun.kernel_log import explain_insmod, explain_refusal

if TYPE_CHECKING:
    from vexrun.guest.fixtures import Guest


@dataclass(frozen=True)
class Identity:
    """What the running kernel says about the loaded module; hex strings, None when absent."""

    srcversion: str | None
    build_id: str | None


class KernelModule:
    """Loads and unloads the built file, and proves that what is loaded is that file."""

    def __init__(self, guest: Guest, context: RunContext, link: SessionLink | None) -> None:
        self.guest = guest
        self.context = context
        self.link = link
        self.name = context.subject.module.sysfs_name

    def is_loaded(self) -> bool:
        """Whether a module of this name, or built-in code of this name, is in the kernel."""
        return self.guest.exists(f"/sys/module/{self.name}")

    def load(self) -> None:
        """modprobe what it needs, insmod the built file with its parameters, prove identity."""
        built = self.context.module
        assert built is not None, "there is no built module to load"
        self.provide_needs()
        command = shlex.join(["insmod", built.path, *self.parameters().split()])
        status, out, err = self.guest.run(command)
        if status != 0:
            log = self.guest.run("dmesg | tail -n 40")[1]
            said = (err or out).strip()
            reason = explain_refusal(log, self.name) or explain_insmod(said)
            raise AssertionError(
                f"the kernel refused the module: {reason or said}\n# {command}\n{said}"
            )
        assert self.is_loaded(), f"insmod said it worked, but /sys/module/{self.name} is not there"
        self.prove_identity()

    def provide_needs(self) -> None:
        """Load what the module needs, but not the module itself."""
        built = self.context.module
        assert built is not None, "there is no built module"
        # insmod resolves nothing by itself: what modpost found comes on top of what is declared.
        for needed in dict.fromkeys([*self.context.subject.module.needs, *built.depends]):
            self._provide(needed)

    def _provide(self, name: str) -> None:
        """Load a module that the one under test needs: this build's own, else the kernel's."""
        sibling = self._sibling(name)
        if sibling is None:
            self.guest.check(f"modprobe {shlex.quote(name)}")
            return
        directory = f"/sys/module/{_sysfs(name)}"
        if not self.guest.exists(directory):
            for needed in sibling.depends:
                self._provide(needed)
            self.guest.check(shlex.join(["insmod", sibling.path]))
        _assert_same(_sysfs(name), sibling, self._identity_of(_sysfs(name)))

    def _sibling(self, name: str) -> BuiltModule | None:
        """The module of this name that the same build made, if it made one."""
        wanted = _sysfs(name)
        return next(
            (each for each in self.context.siblings if _sysfs(each.name or "") == wanted), None
        )

    def parameters(self) -> str:
        """The declared parameters as insmod and finit_module(2) take them."""
        declared = self.context.subject.module.params
        return " ".join(f"{key}={_parameter(value)}" for key, value in declared.items())

    def ensure_loaded(self) -> None:
        """Load it unless it is loaded; in both cases prove that it is the built file."""
        if self.is_loaded():
            self.prove_identity()
        else:
            self.load()

    def unload(self) -> None:
        """rmmod, and make sure it is gone."""
        status, out, err = self.guest.run(f"rmmod {self.name}")
        assert status == 0, (
            f"rmmod failed with exit status {status}: {(err or out).strip()} "
            f"(references: {self.references()})"
        )
        assert not self.is_loaded(), f"rmmod said it worked, but /sys/module/{self.name} is there"
        for sibling in reversed(self.context.siblings):
            name = _sysfs(sibling.name or "")
            if self.guest.exists(f"/sys/module/{name}"):
                self.guest.check(f"rmmod {name}")

    def references(self) -> int:
        """The module's reference count."""
        text = self.guest.read(f"/sys/module/{self.name}/refcnt")
        assert text is not None, f"there is no /sys/module/{self.name}/refcnt"
        return int(text)

    def identity(self) -> Identity:
        """srcversion and build id of what is loaded, read from /sys/module."""
        return self._identity_of(self.name)

    def _identity_of(self, name: str) -> Identity:
        directory = f"/sys/module/{name}"
        srcversion = self.guest.read(f"{directory}/srcversion") or ""
        note = self.guest.read_bytes(f"{directory}/notes/.note.gnu.build-id") or b""
        # An ELF note: three 4-byte words, the name 'GNU\0', then the id.
        return Identity(srcversion.strip() or None, note[16:].hex() or None)

    def prove_identity(self) -> None:
        """Fail unless the loaded module is the built file and not, say, the in-kernel copy."""
        built = self.context.module
        assert built is not None, "there is no built module to compare with"
        loaded = self.identity()
        if self.link is not None:
            self.link.tell("module_loaded", srcversion=loaded.srcversion, build_id=loaded.build_id)
        _assert_same(self.name, built, loaded)
        for needed in built.depends:
            sibling = self._sibling(needed)
            if sibling is not None:
                _assert_same(_sysfs(needed), sibling, self._identity_of(_sysfs(needed)))


def _sysfs(name: str) -> str:
    return name.replace("-", "_")


def _assert_same(name: str, built: BuiltModule, loaded: Identity) -> None:
    assert loaded.srcversion or loaded.build_id, (
        f"the loaded module '{name}' has neither srcversion nor build id, "
        "so it cannot be proven to be the built file"
    )
    for what, ours, theirs in (
        ("srcversion", built.srcversion, loaded.srcversion),
        ("build id", built.build_id, loaded.build_id),
    ):
        if ours or theirs:
            assert ours == theirs, (
                f"the loaded module '{name}' is not the built file: its {what} is "
                f"{theirs}, the file's is {ours}"
            )


def _parameter(value: str | int | bool) -> str:
    if isinstance(value, bool):
        return "Y" if value else "N"
    return str(value)
