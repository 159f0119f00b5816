"""The source tree: what the subject file promises is there, and nothing that was built."""

from __future__ import annotations

from pathlib import Path

import pytest
from vexrun.guest.context import RunContext
from vexrun.guest.fixtures import run_context
from vexrun.licence import GPL_COMPATIBLE, declared_licences
from vexrun.tree import build_products


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "required" in metafunc.fixturenames:
        subject = run_context(metafunc.config).subject
        metafunc.parametrize("required", subject.structure.required or ["none"])


def _module_directory(context: RunContext) -> Path:
    return context.source / context.subject.module.dir


def test_source_is_there(context: RunContext) -> None:
    assert context.source.is_dir(), f"the source tree '{context.source}' is not a directory"
    assert any(context.source.iterdir()), f"the source tree '{context.source}' is empty"


def test_required_file_is_there(context: RunContext, required: str) -> None:
    if not context.subject.structure.required:
        pytest.skip("the subject file requires no files (structure.required)")
    assert (context.source / required).exists(), (
        f"structure.required names '{required}', which is not in '{context.source}'"
    )


def test_module_directory_has_a_makefile(context: RunContext) -> None:
    directory = _module_directory(context)
    assert directory.is_dir(), f"module.dir names '{directory}', which is not a directory"
    found = [name for name in ("Kbuild", "Makefile") if (directory / name).is_file()]
    assert found, f"there is neither a Kbuild nor a Makefile in '{directory}' (module.dir)"


def test_no_build_products_lie_around(context: RunContext) -> None:
    products = build_products(context.source)
    shown = ", ".join(map(str, products[:10]))
    assert not products, (
        f"{len(products)} build products lie in the source tree: {shown}; "
        "run 'make clean', or let git ignore them"
    )


def test_module_names_a_licence_the_kernel_knows(context: RunContext) -> None:
    # The sources of a module may lie outside of the directory of its Kbuild.
    licences = declared_licences(_module_directory(context)) or declared_licences(context.source)
    assert licences, (
        f"no MODULE_LICENSE() and no 'license:' of a Rust module! below '{context.source}': "
        "modpost refuses a module without one"
    )
    listed = ", ".join(f"'{licence}' in {path.name}" for path, licence in licences.items())
    # '': a macro that only the build can resolve; the build category looks at what came of it.
    assert {"", *GPL_COMPATIBLE}.intersection(licences.values()), (
        f"the licence is {listed}; the kernel regards that as proprietary: it taints, and every "
        f"EXPORT_SYMBOL_GPL is out of reach. It accepts: {', '.join(GPL_COMPATIBLE)}"
    )
