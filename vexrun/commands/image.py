"""`vexrun image build|import|name|list|show|rm|save|load|box`."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from vexrun.events import Emit, Stages
from vexrun.image.archive import load_image, save_image
from vexrun.image.box import BoxId, make_box, write_box
from vexrun.image.box_home import remove_box
from vexrun.image.build import ensure_base, rebuild_beside
from vexrun.image.catalog import find_guest, find_image, list_images, remove_image
from vexrun.image.download import Checksum
from vexrun.image.files import compare_listings
from vexrun.image.importing import import_image
from vexrun.image.manifest import base_inputs
from vexrun.image.suites import DEFAULT_SUITE, find_suite
from vexrun.interrupt import interruptible
from vexrun.output import say, stdout
from vexrun.progress import display_for
from vexrun.settings import load_settings
from vexrun.workdir import sweep_work_directories, work_directory

app = typer.Typer(help="Guest images.", no_args_is_help=True)


@app.command("build")
def build(
    suite: Annotated[str, typer.Option(help="trixie, bookworm or sid.")] = DEFAULT_SUITE,
    compare: Annotated[
        bool, typer.Option("--compare", help="Build again and say what differs.")
    ] = False,
) -> None:
    """Build a suite's image, unless the cache has it."""
    chosen = find_suite(suite)
    settings = load_settings().image
    with interruptible(), display_for(stdout, console_log=lambda: None) as show:
        image = ensure_base(chosen, settings, show)
        if compare:
            _compare(suite, show)
    say(f"{image.name}: kernel {image.manifest.kernel_release}")
    say(f"manifest: {image.manifest_path}")


def _compare(suite: str, show: Emit) -> None:
    settings = load_settings().image
    image = ensure_base(find_suite(suite), settings, show)
    with work_directory(f"comparing-{image.name}-{os.getpid()}") as work:
        again = rebuild_beside(find_suite(suite), settings, work, show)
        differences = compare_listings(image.directory / "files.txt", work / "files.txt")
    packages = {
        name: (image.manifest.packages.get(name), again.packages.get(name))
        for name in image.manifest.packages.keys() | again.packages.keys()
        if image.manifest.packages.get(name) != again.packages.get(name)
    }
    say(f"packages that differ: {len(packages)}")
    for name, (old, new) in sorted(packages.items()):
        say(f"  {name}: {old} -> {new}")
    reasons = Counter(each.reason or "UNEXPLAINED" for each in differences)
    say(f"files that differ: {len(differences)}")
    for reason, count in reasons.most_common():
        say(f"  {count:5}  {reason}")
    for each in [each for each in differences if each.reason is None][:40]:
        say(f"  unexplained: {each.path} ({each.kind})")


@app.command()
def name(
    suite: Annotated[str, typer.Option(help="trixie, bookworm or sid.")] = DEFAULT_SUITE,
) -> None:
    """The name of the image that a run would use, built or not: a key for a CI cache."""
    print(base_inputs(find_suite(suite), load_settings().image).name)


@app.command("list")
def list_command(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """The images in the cache."""
    images = list_images()
    if as_json:
        print(json.dumps([image.manifest.model_dump() for image in images], indent=2))
        return
    if not images:
        say("No image yet. Run: vexrun image build")
        return
    table = Table(box=None, padding=(0, 1))
    for heading in ("name", "kernel", "packages", "made", "as"):
        table.add_column(heading, overflow="fold")
    for image in images:
        manifest = image.manifest
        table.add_row(
            image.name,
            manifest.kernel_release,
            str(len(manifest.packages)),
            manifest.created_at,
            manifest.built_as,
        )
    stdout.print(table)


@app.command()
def show(name: Annotated[str, typer.Argument(help="An image's name or its beginning.")]) -> None:
    """An image's manifest."""
    print(find_image(name).manifest.model_dump_json(indent=2))


@app.command()
def rm(name: Annotated[str, typer.Argument(help="An image's name or its beginning.")]) -> None:
    """Delete an image, the layers on it and their snapshots."""
    sweep_work_directories()
    known = {image.name: image for image in list_images()}
    for removed in remove_image(find_image(name)):
        box = remove_box(known[removed])
        say(f"removed {removed}" + (f" and its box {box.name} {box.version}" if box else ""))


@app.command("import")
def import_(
    place: Annotated[str, typer.Argument(metavar="FILE|URL", help="A cloud image of Debian.")],
    sha256: Annotated[str | None, typer.Option(help="Its checksum, from its makers.")] = None,
    sha512: Annotated[str | None, typer.Option(help="Or this one; Debian has it.")] = None,
) -> None:
    """Make a cloud image (qcow2 or raw) a guest: vexrun test --suite NAME."""
    checksum = Checksum.of_options(sha256, sha512)
    with interruptible(), display_for(stdout, console_log=lambda: None) as show:
        image = import_image(place, checksum, load_settings().image, show)
    say(f"{image.name}: kernel {image.manifest.kernel_release}")
    say(f"Use it with: vexrun test --suite {image.name}")


@app.command()
def save(
    file: Annotated[Path, typer.Argument(help="The archive to write (tar, zstd).")],
    suite: Annotated[
        str, typer.Option(help="trixie, bookworm, sid, or an imported image.")
    ] = DEFAULT_SUITE,
) -> None:
    """Pack a suite's image into one file, building it first if there is none."""
    with interruptible(), display_for(stdout, console_log=lambda: None) as show:
        image = ensure_base(find_guest(suite), load_settings().image, show)
        save_image(image, file)
    say(f"{image.name}: {file.stat().st_size / 2**20:.0f} MiB in {file}")


@app.command()
def box(
    suite: Annotated[
        str, typer.Option(help="trixie, bookworm, sid, or an imported image.")
    ] = DEFAULT_SUITE,
    output: Annotated[Path, typer.Option(help="The directory to write to.")] = Path(),
) -> None:
    """Make a Vagrant box of a suite's image, and the catalog that gives it a version."""
    settings = load_settings()
    with interruptible(), display_for(stdout, console_log=lambda: None) as show:
        image = ensure_base(find_guest(suite), settings.image, show)
        with work_directory(f"box-{image.name}-{os.getpid()}") as work:
            made = make_box(image, work, settings, Stages(show))
            file, catalog = write_box(image, made, output)
    known = BoxId.of(image)
    say(f"{known.name} {known.version}: {file.stat().st_size / 2**20:.0f} MiB in {file}")
    say(f"Add it with: vagrant box add {catalog}")


@app.command()
def load(file: Annotated[Path, typer.Argument(help="An archive of 'image save'.")]) -> None:
    """Take an image out of an archive, checked against its manifest."""
    with interruptible():
        say(load_image(file).name)
