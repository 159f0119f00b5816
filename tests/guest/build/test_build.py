"""The module and its tools build from a clean copy, twice with the same result."""

from __future__ import annotations

import re

import pytest
from vexrun.guest.context import BuiltModule, RunContext
from vexrun.guest.fixtures import run_context
from vexrun.kbuild import GUEST_BUILD_ROOT
from vexrun.licence import GPL_COMPATIBLE
from vexrun.results.model import VariantBuild

_ERROR = re.compile(r"\berror:|\bERROR:|undefined!|fatal error", re.IGNORECASE)
#: What make says of it, where nothing else does.
_OF_MAKE = re.compile(r"\*\*\* ")
#: The copy of the tree that is built: paths below it are those of the user's tree.
_BUILD_TREE = re.compile(rf"{GUEST_BUILD_ROOT}/[^/\s]+/[^/\s]+/")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    context = run_context(metafunc.config)
    if "variant" in metafunc.fixturenames:
        # The subject file names them; a variant that was never built must not go missing.
        names = ["default", *(variant.name for variant in context.subject.variants)]
        metafunc.parametrize("variant", names)
    if "tool" in metafunc.fixturenames:
        metafunc.parametrize("tool", sorted(context.subject.tool_names) or ["none"])


def _errors(log: str) -> str:
    """The first lines that look like errors, or else the end of the log."""
    lines = _BUILD_TREE.sub("", log).splitlines()
    for wanted in (_ERROR, _OF_MAKE):
        if errors := [line.strip() for line in lines if wanted.search(line)]:
            return "\n".join(errors[:6])
    return "\n".join(lines[-8:])


def _build(context: RunContext, name: str) -> VariantBuild:
    for build in context.builds:
        if build.name == name:
            return build
    pytest.fail(f"the variant '{name}' was never built")


def test_module_builds(context: RunContext, variant: str) -> None:
    build = _build(context, variant)
    assert build.ok, f"the build '{variant}' failed: {_errors(build.log)}\n$ {build.command}"
    assert build.sha256, f"the build '{variant}' said it worked, but left no module"
    print(f"{len(build.warnings)} compiler warnings")


def test_tool_builds(context: RunContext, tool: str) -> None:
    if not context.subject.tool_names:
        pytest.skip("the subject file declares no tools and no crates")
    built = {made.name: made for made in context.tools}
    assert tool in built, f"the tool '{tool}' was never built"
    assert built[tool].ok, (
        f"the tool '{tool}' does not build: {built[tool].reason}\n{_errors(built[tool].log)}"
    )


def test_second_clean_build_is_identical(context: RunContext) -> None:
    first, second = _built(context), context.rebuild
    assert second is not None, "there was no second build to compare with"
    assert second.ok, f"the second build of the same source failed:\n{_errors(second.log)}"
    assert first.sha256 == second.sha256, (
        f"two builds of the same source differ: {first.sha256} ({first.where}) and "
        f"{second.sha256} ({second.where}); look for __DATE__, __TIME__, absolute paths or "
        "files generated in another order"
    )


def _built(context: RunContext) -> VariantBuild:
    """The default build; where it failed, test_module_builds says so and why."""
    build = _build(context, "default")
    if not build.ok:
        pytest.skip("the module did not build")
    return build


def _module(context: RunContext) -> BuiltModule:
    _built(context)
    assert context.module is not None, "there is no built module"
    return context.module


def test_module_is_for_this_kernel(context: RunContext) -> None:
    vermagic = _module(context).vermagic
    assert vermagic, "the module has no vermagic, so no kernel will load it"
    assert context.kernel, "the kernel's release is not known"
    assert vermagic.split()[0] == context.kernel, (
        f"the module was built for kernel {vermagic.split()[0]}, the target runs {context.kernel}"
    )


def test_module_can_be_identified(context: RunContext) -> None:
    module = _module(context)
    assert module.srcversion or module.build_id, (
        "the module has neither srcversion nor build id, so it cannot be proven that what is "
        "loaded is what was built"
    )


def test_module_file_names_a_licence(context: RunContext) -> None:
    licence = _module(context).licence
    assert licence, "the module has no licence: it taints the kernel and gets no GPL-only symbols"
    assert licence in GPL_COMPATIBLE, (
        f"the module's licence is '{licence}': it taints the kernel and gets no GPL-only symbols"
    )
