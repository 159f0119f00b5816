"""Fetch one big file: with progress, going on after a break, and never without its checksum."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from vexrun.errors import ConfigError, InfrastructureError
from vexrun.events import Emit, Note, Progress
from vexrun.image.locking import exclusive
from vexrun.layout import cache_dir

_CHUNK = 1 << 20
_TIMEOUT_S = 60.0
#: A connection that breaks is taken up again as long as each one brought something.
_BARREN_ATTEMPTS = 3
_DIGITS = {"sha256": 64, "sha512": 128}


@dataclass(frozen=True)
class Checksum:
    """What a file must hash to. Ubuntu publishes sha256 of its images, Debian sha512."""

    algorithm: str
    digest: str

    @classmethod
    def of_options(cls, sha256: str | None, sha512: str | None) -> Checksum:
        """The one that was given; ConfigError unless exactly one was, and it is one."""
        given = {"sha256": sha256, "sha512": sha512}
        chosen = [(name, text.strip().lower()) for name, text in given.items() if text]
        if len(chosen) != 1:
            raise ConfigError(
                "An image is imported by its checksum: give --sha256 or --sha512, one of them.",
                hint="It stands beside the image, in SHA256SUMS (Ubuntu) or SHA512SUMS (Debian).",
            )
        algorithm, digest = chosen[0]
        digits = _DIGITS[algorithm]
        if not re.fullmatch(f"[0-9a-f]{{{digits}}}", digest):
            raise ConfigError(
                f"'{digest}' is not a {algorithm}: that has {digits} hexadecimal digits."
            )
        return cls(algorithm, digest)

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.digest}"

    def found_in(self, path: Path) -> str:
        """The digest that a file has."""
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, self.algorithm).hexdigest()


def is_url(place: str) -> bool:
    return re.match(r"https?://", place) is not None


def obtain(place: str, checksum: Checksum, emit: Emit) -> Path:
    """The file at a path or URL, checked. What was downloaded stays in the cache.

    Raises ConfigError when it is not there or is another file, InfrastructureError when the
    network did not bring it.
    """
    if is_url(place):
        return _download(place, checksum, emit)
    path = Path(place)
    if not path.is_file():
        raise ConfigError(
            f"There is no file '{place}'.", hint="Give the path of an image, or an http(s) URL."
        )
    _demand(path, checksum, place)
    return path


def forget_download(digest: str) -> None:
    """Delete what was downloaded by this checksum, if anything was."""
    directory = cache_dir() / "downloads"
    for suffix in ("", ".part", ".lock"):
        (directory / f"{digest}{suffix}").unlink(missing_ok=True)


def _demand(path: Path, checksum: Checksum, place: str) -> None:
    found = checksum.found_in(path)
    if found != checksum.digest:
        raise ConfigError(
            f"'{place}' is not the file with this {checksum.algorithm}: it is damaged, cut short, "
            "or another version.",
            evidence=f"expected {checksum.digest}\nfound    {found} ({path.stat().st_size} bytes)",
            hint="Take the checksum from where the image comes from, and fetch the image again.",
        )


def _download(url: str, checksum: Checksum, emit: Emit) -> Path:
    directory = cache_dir() / "downloads"
    directory.mkdir(parents=True, exist_ok=True)
    final = directory / checksum.digest

    def tell() -> None:
        emit(Note(f"Another vexrun is downloading '{url}'; waiting for it."))

    with exclusive(directory / f"{final.name}.lock", on_wait=tell):
        if final.is_file():
            return final
        part = directory / f"{final.name}.part"
        _fetch_all(url, part, emit)
        try:
            _demand(part, checksum, url)
        except ConfigError:
            part.unlink()  # going on with it would never make it right
            raise
        part.rename(final)
    return final


def _fetch_all(url: str, part: Path, emit: Emit) -> None:
    """Bring `part` to its full length, over as many connections as it takes."""
    barren = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            if _fetch_more(url, part, emit):
                return
            problem = "the connection ended early"
        except urllib.error.HTTPError as error:
            problem = f"HTTP status {error.code} {error.reason}"
            if error.code < 500:
                raise _unreachable(url, problem, part) from error
        except (OSError, http.client.HTTPException) as error:
            problem = str(error) or type(error).__name__
        after = part.stat().st_size if part.exists() else 0
        barren = 0 if after > before else barren + 1
        if barren == _BARREN_ATTEMPTS:
            raise _unreachable(url, problem, part)
        emit(Progress(f"{problem}; going on at {after / 2**20:.0f} MiB"))
        time.sleep(min(1.0, 0.2 * barren))


def _unreachable(url: str, problem: str, part: Path) -> InfrastructureError:
    have = part.stat().st_size if part.exists() else 0
    return InfrastructureError(
        f"'{url}' could not be downloaded: {problem}.",
        evidence=f"{have} bytes are there" if have else "",
        hint="Check the URL and the network (http_proxy and https_proxy are used). The same "
        "command goes on where this one ended.",
    )


def _fetch_more(url: str, part: Path, emit: Emit) -> bool:
    """One request for what is missing; whether the file has its full length now."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "vexrun"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            error.close()
            return _is_all(error.headers.get("Content-Range", ""), have, part)
        raise
    with response:
        total = _total(response, have)
        resumed = response.status == http.client.PARTIAL_CONTENT
        with part.open("ab" if resumed else "wb") as stream:
            _copy(response, stream, total, emit)
    return total is None or part.stat().st_size >= total


def _is_all(content_range: str, have: int, part: Path) -> bool:
    """Nothing lies behind what we have: all of it, or of a file that is another by now."""
    if content_range == f"bytes */{have}":
        return True
    part.unlink()
    return False


def _total(response: http.client.HTTPResponse, have: int) -> int | None:
    """The whole file's length, as this answer tells it; None when it does not."""
    if response.status == http.client.PARTIAL_CONTENT:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != have:
            raise OSError(f"the server answered bytes={have}- with another part of the file")
        return int(found[2])
    length = response.headers.get("Content-Length")
    return int(length) if length is not None else None


def _copy(response: IO[bytes], stream: IO[bytes], total: int | None, emit: Emit) -> None:
    told = 0.0
    while block := response.read(_CHUNK):
        stream.write(block)
        if time.monotonic() - told > 1:
            told = time.monotonic()
            of = f" of {total / 2**20:.0f}" if total else ""
            emit(Progress(f"{stream.tell() / 2**20:.0f}{of} MiB"))
    stream.flush()
    os.fsync(stream.fileno())
