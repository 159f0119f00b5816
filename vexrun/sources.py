"""Where the subject's source comes from: a directory, or a Debian source package."""

from __future__ import annotations

import lzma
import os
import shlex
import shutil
import subprocess
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, cast

from vexrun import process
from vexrun.errors import ConfigError, InfrastructureError, VexrunError
from vexrun.events import Emit, Note, Stages
from vexrun.image.catalog import Image, lock_path
from vexrun.image.locking import exclusive
from vexrun.image.manifest import sha256_of
from vexrun.image.namespace import Bind, run_in_root
from vexrun.layout import cache_dir
from vexrun.process import Completed, run
from vexrun.subject import AptSource, Subject
from vexrun.workdir import work_directory


@dataclass(frozen=True)
class SourceTree:
    """A source tree on this machine; `origin` says where it came from, for the evidence."""

    path: Path
    origin: str


def apt_source_tree(source: AptSource, image: Image, emit: Emit) -> SourceTree:
    """Fetch a source package of the image's own suite and unpack the part that is asked for."""
    series = ".".join(image.manifest.kernel_release.split(".")[:2])
    package = source.apt.replace("{series}", series)
    store = cache_dir() / "sources" / image.suite / package
    top = PurePosixPath(source.subdir).parts[0] if source.subdir != "." else ""
    unpacked = store / (top or "all")

    def tell() -> None:
        emit(Note(f"Another vexrun is unpacking '{package}'; waiting for it."))

    with exclusive(lock_path(f"source-{image.suite}-{package}"), on_wait=tell):
        if not (unpacked / ".complete").is_file():
            with Stages(emit).stage("source", f"{package} of {image.suite}"):
                _fetch_and_unpack(package, image, store, top, unpacked, emit)
    path = unpacked / "tree" / source.subdir if source.subdir != "." else unpacked / "tree"
    if not path.is_dir():
        raise ConfigError(
            f"The package '{package}' has no directory '{source.subdir}'.",
            evidence=f"below '{top}': {_listing(path.parent)}",
            hint="Correct subject.source.subdir in the subject file.",
        )
    return SourceTree(path, f"apt:{package}={(unpacked / '.complete').read_text()}:{source.subdir}")


class _DamagedPackageError(Exception):
    """A .deb that is not what was downloaded once."""


def _fetch_and_unpack(
    package: str, image: Image, store: Path, top: str, unpacked: Path, emit: Emit
) -> None:
    """Unpack the cached .deb; one that was damaged since is thrown away and fetched once more."""
    deb = _download(package, image, store)
    try:
        _unpack(deb, top, unpacked)
        return
    except _DamagedPackageError as error:
        emit(Note(f"'{deb}' is damaged ({error}): it is removed and fetched again."))
    deb.unlink()
    deb = _download(package, image, store)
    try:
        _unpack(deb, top, unpacked)
    except _DamagedPackageError as error:
        raise InfrastructureError(
            f"The package '{package}' is damaged, freshly fetched too: {error}.",
            evidence=str(deb),
            hint=f"Check the disk and the mirror, then run: rm {shlex.quote(str(deb))}",
        ) from error


def _listing(directory: Path) -> str:
    if not directory.is_dir():
        return "nothing"
    return ", ".join(sorted(entry.name for entry in directory.iterdir())[:60])


def _download(package: str, image: Image, store: Path) -> Path:
    """The package's .deb, fetched with the image's own apt so that suite and keys are right."""
    store.mkdir(parents=True, exist_ok=True)
    present = sorted(store.glob("*.deb"))
    if present:
        return present[-1]
    fresh = ["-o", "Dir::State::lists=/srv/lists"]
    common = ["-q", "-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache="]
    script = (
        'cd /srv && { apt-get "$@" download "$PACKAGE" || '
        f'{{ apt-get "$@" {" ".join(fresh)} update && '
        f'apt-get "$@" {" ".join(fresh)} download "$PACKAGE"; }}; }}'
    )
    with work_directory(f"download-{os.getpid()}") as work:
        (work / "lists" / "partial").mkdir(parents=True)
        done = run_in_root(
            image.rootfs,
            ["env", f"PACKAGE={package}", "sh", "-c", script, "sh", *common],
            binds=[Bind(work, "/srv", writable=True)],
            readonly=True,
            check=False,
            timeout=1800,
        )
        fetched = sorted(work.glob("*.deb"))
        if done.returncode != 0 or not fetched:
            raise _not_fetched(package, image.suite, done)
        final = store / fetched[-1].name
        # apt has checked it against the archive's signature; later damage is ours to notice.
        _checksum_of(final).write_text(sha256_of(fetched[-1]))
        fetched[-1].rename(final)
    return final


def _checksum_of(deb: Path) -> Path:
    return deb.with_name(f"{deb.name}.sha256")


def _not_fetched(package: str, suite: str, done: Completed) -> VexrunError:
    message = f"The source package '{package}' could not be fetched for '{suite}'."
    if "Unable to locate package" in done.output:
        return ConfigError(
            message,
            evidence=done.tail(4),
            hint="Correct subject.source.apt in the subject file; '{series}' in it stands for "
            "the guest's kernel series.",
        )
    return InfrastructureError(
        message, evidence=done.tail(8), hint="Check the network and VEXRUN_PROXY."
    )


def _unpack(deb: Path, top: str, unpacked: Path) -> None:
    """Unpack directory `top` ('' for all) of the source tarball inside a .deb."""
    checksum = _checksum_of(deb)
    if checksum.is_file() and checksum.read_text() != sha256_of(deb):
        raise _DamagedPackageError("its sha256 is not the one it was fetched with")
    with work_directory(f"unpack-{os.getpid()}") as work:
        try:
            _extract_source(deb, top, work)
            version = run(["dpkg-deb", "-f", str(deb), "Version"]).stdout.strip()
        except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
            raise _DamagedPackageError(str(error) or type(error).__name__) from error
        (work / ".complete").write_text(version)
        shutil.rmtree(unpacked, ignore_errors=True)
        work.rename(unpacked)


def _extract_source(deb: Path, top: str, work: Path) -> None:
    errors = work / "dpkg.log"
    with (
        errors.open("wb") as stream,
        process.running(
            ["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE, stderr=stream
        ) as dpkg,
        cast(IO[bytes], dpkg.stdout) as packed,
        tarfile.open(fileobj=packed, mode="r|") as outer,
    ):
        tarball = _inner_tarball(outer)
        if tarball is None:
            raise ConfigError(f"The package '{deb.name}' holds no /usr/src/*.tar.*, so no source.")
        with tarfile.open(fileobj=tarball, mode="r|*") as inner:
            # As an attribute: Debian 12's Python 3.11.2 has no `filter` argument yet.
            inner.extraction_filter = getattr(tarfile, "tar_filter", lambda member, _path: member)
            for member in inner:
                parts = PurePosixPath(member.name).parts[1:]
                if not parts or ".." in parts or (top and parts[0] != top):
                    continue
                member.name = str(PurePosixPath(*parts))
                inner.extract(member, work / "tree")
        while packed.read(1 << 20):  # to the end: only then dpkg-deb says what it thinks of it
            pass
        if dpkg.wait() != 0:
            raise tarfile.ReadError(errors.read_text(errors="replace").strip())
    errors.unlink()


def _inner_tarball(outer: tarfile.TarFile):  # type: ignore[no-untyped-def]
    for member in outer:
        name = PurePosixPath(member.name)
        if "src" in name.parts and ".tar." in name.name and member.isfile():
            return outer.extractfile(member)
    return None


def source_of(subject: Subject, given: Path | None, image: Image, emit: Emit) -> SourceTree:
    """The tree to test: the directory given on the command line, or the subject's package."""
    if given is None and subject.subject.source is not None:
        return apt_source_tree(subject.subject.source, image, emit)
    path = (given or Path()).resolve()
    return SourceTree(path, str(path))
