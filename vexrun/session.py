"""One `vexrun test`, from the request to the written report."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from traceback import format_exception

from vexrun import __version__, tree
from vexrun.categories import Category
from vexrun.checks import NativeChecks, checkpatch_scripts, notes_on
from vexrun.config import RunConfig, TargetKind
from vexrun.decoding import SIBLINGS, SubjectSource, addr2line_of, decode_run
from vexrun.device.admission import Admitted
from vexrun.device.passage import demand_same_module, demand_same_tree
from vexrun.device.staged import StagedTestRun
from vexrun.errors import ConfigError, InterruptedRunError, VexrunError
from vexrun.events import Emit, Event, Note, RunDescribed, Stages
from vexrun.expectations import apply_expectations, is_expected
from vexrun.guest.context import BuiltModule, BuiltTool, RunContext
from vexrun.image.build import ensure_base, ensure_layer
from vexrun.image.catalog import Image, lock_path
from vexrun.image.locking import shared
from vexrun.image.manifest import sha256_of
from vexrun.interrupt import interruptible, uninterruptible
from vexrun.kbuild import (
    GUEST_BUILD_ROOT,
    GUEST_SOURCE_DIR,
    MAIN_VARIANT,
    BuildOutcome,
    BuildPlace,
    BuildSpec,
    NativeBuilder,
)
from vexrun.memory_image.keeping import MemoryImages
from vexrun.module_file import ModuleFile
from vexrun.native_work import Checking, FurtherBuilds, NativeWork
from vexrun.report import write_reports
from vexrun.results.model import (
    ModuleInfo,
    RunResults,
    SubjectInfo,
    TargetInfo,
    TestResult,
)
from vexrun.rundir import RunDir
from vexrun.sources import SourceTree, source_of
from vexrun.subject import check_against_tree
from vexrun.target.base import Target
from vexrun.target.device import DevicePlan, DeviceTarget
from vexrun.target.guest_build import GuestBuilder
from vexrun.target.machines import machine_of
from vexrun.testrun import TestRun, not_run
from vexrun.verdict import judge
from vexrun.vm.accel import choose_accelerator
from vexrun.workdir import work_directory


def run_session(config: RunConfig, draw: Emit) -> RunResults:
    """Test the subject as asked; the results are complete and written, whatever happened.

    Raises VexrunError only for what was wrong before there was a run to report on.
    """
    rundir = RunDir.create(config.subject.name)
    session = Session(config, rundir, draw)
    interrupted = False
    try:
        with interruptible():
            session.run()
    except InterruptedRunError as error:
        interrupted = True
        session.results.notes.append(error.message)
    except ConfigError:
        with uninterruptible():
            session.abandon()
        raise
    except VexrunError as error:
        session.record_error(error)
    except Exception as error:  # noqa: BLE001 - the findings so far must be written, whatever broke
        session.record_unexpected(error)
    with uninterruptible():
        try:
            session.close()
        finally:
            session.finish(interrupted=interrupted)
    return session.results


MakeBuilder = Callable[[str], NativeBuilder | GuestBuilder]


class Session:
    """The state of one run. `run` reads as the story; each step is a method."""

    def __init__(self, config: RunConfig, rundir: RunDir, draw: Emit) -> None:
        self.config = config
        self.rundir = rundir
        self.draw = draw
        self.stages = Stages(self.emit)
        self.target: Target | None = None
        self.tests: TestRun | None = None
        self.source: SourceTree | None = None
        self.image: Image | None = None
        self._place = BuildPlace.NATIVE
        #: Whether all that is made natively is in the results.
        self.settled = False
        self.results = RunResults(
            run_id=rundir.run_id,
            run_dir=str(rundir.path),
            vexrun_version=__version__,
            started_at=_now(),
            command=config.command,
            selected_categories=[category.name for category in config.categories],
            subject=SubjectInfo(
                name=config.subject.name,
                source=str(config.source or config.subject.subject.source),
                subject_file=str(config.subject_file),
            ),
            target=TargetInfo(kind=config.target.value, suite=config.suite.name),
            isolation=config.isolation.value,
            device=config.admitted.info() if config.admitted else None,
        )

    def emit(self, event: Event) -> None:
        """Every event goes to events.jsonl first, then to the screen."""
        self.rundir.record(event)
        self.draw(event)

    # -- the story --------------------------------------------------------------------------

    def run(self) -> None:
        self.emit(RunDescribed(self.results))
        image = self.get_image()
        source = self.get_source(image)
        self.demand_sealed_tree()
        self.emit(RunDescribed(self.results))
        # Nobody removes the image under a build or a machine that uses it.
        with shared(lock_path(image.name)), work_directory(self.rundir.run_id) as work:
            place = self._place = self.choose_build_place(image)
            if place is BuildPlace.GUEST:
                self.start_target(image, source)
            builder = self.builders(image, source, work, place)
            main = self.build(builder)
            self.demand_sealed_module(main)
            with self.native_work(image, source, work, main, builder) as further:
                self.results.checks = further.checks
                runnable = self.runnable_categories(main)
                if any(category.needs_guest for category in runnable):
                    if self.target is None:
                        self.start_target(image, source)
                    self.install(main)
                context = self.describe_main(main, source)
                runnable = self.leave_out_finished(runnable)
                self.emit(RunDescribed(self.results))
                if not further.beside:
                    self.settle(further, main, context)
                self.run_tests(context, runnable, lambda: self.settle(further, main, context))
                self.settle(further, main, context)

    def get_image(self) -> Image:
        """The suite's image with the subject's packages, from the cache or built now."""
        with self.stages.stage("image", self.config.suite.name):
            base = ensure_base(self.config.suite, self.config.settings.image, self.emit)
            packages = list(self.config.subject.subject.packages)
            image = ensure_layer(base, packages, self.config.settings.image, self.emit)
        self.image = image
        target = self.results.target
        target.kernel = image.manifest.kernel_release
        target.image_key = image.manifest.key
        target.image_sha256 = image.manifest.sha256["root.qcow2"]
        target.image_manifest_sha256 = sha256_of(image.manifest_path)
        shutil.copy2(image.manifest_path, self.rundir.path / "manifest.json")
        return image

    def get_source(self, image: Image) -> Path:
        """The tree under test, measured: what is tested is what is reported."""
        config = self.config
        self.source = source_of(config.subject, config.source, image, self.emit)
        path = self.source.path
        check_against_tree(config.subject, path, config.subject_file)
        with self.stages.stage("measure source", str(path)):
            self._state_before = tree.measure(path)
            git = tree.git_state(path)
        info = self.results.subject
        info.source = self.source.origin
        info.tree_sha256 = self._state_before.sha256
        info.commit, info.dirty = git.commit, git.dirty
        for text in config.notes:
            self.note(text)
        for name in config.subject.unknown_lacks():
            self.note(
                f"filesystem.lacks names '{name}', which no test knows: it has no effect "
                "(docs/subject-file.md lists the names)."
            )
        return path

    def choose_build_place(self, image: Image) -> BuildPlace:
        """`auto` builds in the guest only where KVM makes that fast."""
        config = self.config
        if config.admitted is not None:
            return self.choose_build_place_of_device(config.admitted, image)
        if config.target is TargetKind.HOST:
            if config.build is BuildPlace.GUEST:
                raise ConfigError("--build guest needs a guest, and the target 'host' has none.")
            return BuildPlace.NATIVE
        self._accelerator = choose_accelerator(
            config.accel, image.kernel, image.manifest.sha256["vmlinuz"]
        )
        if config.needs_guest or config.build is BuildPlace.GUEST:
            name, reason = self._accelerator.name, self._accelerator.reason
            self.emit(Note(f"Accelerator: {name} ({reason})."))
        if config.build is not BuildPlace.AUTO:
            return config.build
        fast = self._accelerator.name == "kvm" and config.needs_guest
        return BuildPlace.GUEST if fast else BuildPlace.NATIVE

    def choose_build_place_of_device(self, admitted: Admitted, image: Image) -> BuildPlace:
        """`auto` builds on the device only where the image has another kernel."""
        release, ours = admitted.facts.release, image.manifest.kernel_release
        self.results.target.kernel = release
        same = release == ours
        if self.config.build is BuildPlace.NATIVE and not same:
            raise ConfigError(
                f"The device runs '{release}' and the image has '{ours}': a native build would be "
                "for another kernel.",
                hint="Use --build guest, which builds on the device, or another --suite.",
            )
        if "static" in [row.name for row in self.config.categories] and not same:
            raise ConfigError(
                f"The category 'static' looks at the image's kernel '{ours}', and the device runs "
                f"'{release}'.",
                hint="Leave it out: --skip static",
            )
        if self.config.build is not BuildPlace.AUTO:
            return self.config.build
        return BuildPlace.NATIVE if same else BuildPlace.GUEST

    def demand_sealed_tree(self) -> None:
        """On a device: this is the tree that was sealed at the gate."""
        admitted, subject = self.config.admitted, self.results.subject
        if admitted is None or self.results.device is None:
            return
        shown = admitted.shown
        problem = demand_same_tree(shown, subject.name, subject.tree_sha256)
        if problem:
            self.results.device.problems.append(problem)
        if shown.override:
            said = " ".join(self.results.device.problems) or "It would have been open."
            self.note(f"THE GATE WAS GONE ROUND: '{shown.override}'. It said: {said}")

    def demand_sealed_module(self, main: BuildOutcome) -> None:
        """On a device: for the kernel that was tested on, this is the module that was tested."""
        admitted, module = self.config.admitted, main.module
        if admitted is None or self.results.device is None or module is None:
            return
        problem = demand_same_module(admitted.shown, module.sha256, admitted.facts.release)
        if problem:
            self.results.device.problems.append(problem)

    def open_device(self, admitted: Admitted, source: Path) -> None:
        """The device, with its guards asked again and its safety net up."""
        assert self.results.device is not None, "set with the request"
        plan = DevicePlan(
            device=admitted.request.device,
            critical=admitted.request.critical,
            subject=self.config.subject,
            rundir=self.rundir.path,
            suite=self.config.suite.name,
            info=self.results.device,
            note=self.note,
        )
        device = DeviceTarget(plan)
        self.target = device
        with self.stages.stage("open device", plan.device.name):
            device.connect()
            device.open()
            if self._place is BuildPlace.GUEST or self.config.selects("own"):
                device.send_source(source, GUEST_SOURCE_DIR)
        before = self.results.target
        self.results.target = device.info().model_copy(
            update={
                name: getattr(before, name)
                for name in ("image_sha256", "image_key", "image_manifest_sha256")
            }
        )

    def start_target(self, image: Image, source: Path) -> None:
        """A machine from the snapshot, which is made first if there is none; or the device."""
        config = self.config
        if config.admitted is not None:
            self.open_device(config.admitted, source)
            return
        self.target = machine_of(
            config,
            image,
            self._accelerator,
            source,
            self.rundir.console_log,
            self.stages,
            self.emit,
        )
        with self.stages.stage("start machine", self.target.starts_by):
            self.target.open()
        info = self.target.info()
        info.image_manifest_sha256 = self.results.target.image_manifest_sha256
        self.results.target = info

    def builders(self, image: Image, source: Path, work: Path, place: BuildPlace) -> MakeBuilder:
        """Makes a builder whose output goes to a directory of its own."""
        jobs = os.cpu_count() or 1
        artifacts = self.rundir.path / "ansible"

        def make(directory: str) -> NativeBuilder | GuestBuilder:
            if place is BuildPlace.NATIVE:
                return NativeBuilder(image, source, work / directory, jobs)
            assert self.target is not None, "a guest build needs a started target"
            return GuestBuilder(self.target, work / directory, artifacts, self.emit)

        return make

    def build(self, builder: MakeBuilder) -> BuildOutcome:
        """The build that is loaded and tested."""
        made = builder("build")
        with self.stages.stage("build", made.place.value):
            return made.build(BuildSpec.main(self.config.subject))

    def further_builds(self, builder: MakeBuilder) -> FurtherBuilds:
        """When builds are to be judged: every variant, and the main build a second time."""
        subject = self.config.subject
        if not self.config.selects("build"):
            return FurtherBuilds()
        variants = [
            builder(f"variant-{spec.variant}").build(spec) for spec in BuildSpec.variants(subject)
        ]
        return FurtherBuilds(variants, builder("again").build(BuildSpec.again(subject)))

    def native_work(
        self, image: Image, source: Path, work: Path, main: BuildOutcome, builder: MakeBuilder
    ) -> NativeWork:
        """All that is made natively besides `main`; beside the tests, where they are waited for.

        Where the checks may end the run, and on a device, they come first.
        """
        config, emit = self.config, self.emit
        looks = config.selects("static")
        scripts = checkpatch_scripts(image, config.subject, emit) if looks else ""
        checks = NativeChecks(
            image=image,
            subject=config.subject,
            source=source,
            built=main,
            work=work / "checks",
            logs=self.rundir.path / "checks",
            scripts=scripts,
        )
        wanted = [
            (category, make)
            for category, make in (("static", checks.static), ("unit", checks.unit))
            if config.selects(category)
        ]
        waited_for = config.needs_guest and all(step.ok for step in main.steps)
        beside = waited_for and not config.fail_fast and config.admitted is None
        if beside and (going_on := self._going_on(wanted)):
            emit(Note(f"Beside the tests, and judged last: {', '.join(going_on)}."))
        if beside and looks:
            for check in checks.linkage():
                if not check.ok:
                    emit(Note(f"{check.name}: {check.reason} The kernel is asked all the same."))
        return NativeWork(
            self.stages,
            lambda: self.further_builds(builder),
            wanted,
            # One guest builds one thing at a time; a native build leaves it free to start.
            builds_beside=self._place is BuildPlace.NATIVE,
            checks_beside=beside,
        )

    def _going_on(self, wanted: Sequence[Checking]) -> list[str]:
        """What is made natively beside the tests, in words."""
        builds = ["further builds"] if self.config.selects("build") else []
        return builds + [category for category, _ in wanted]

    def settle(self, work: NativeWork, main: BuildOutcome, context: RunContext) -> None:
        """Wait for the native work, and put what it found where results and tests look."""
        if self.settled:
            return
        work.settle()
        self.settled = True
        builds, results = work.builds, self.results
        context.checks = results.checks = work.checks
        context.builds = results.builds = [each.record() for each in [main, *builds.variants]]
        context.rebuild = builds.again.record() if builds.again else None
        for text in notes_on(results.checks):
            self.note(text)
        self.emit(RunDescribed(results))

    def describe_main(self, main: BuildOutcome, source: Path) -> RunContext:
        """Put the build into the results, keep the module file, tell the tests about both."""
        self.results.builds = [main.record()]
        spec = BuildSpec.main(self.config.subject)
        built = None
        if main.module is not None:
            file = main.module
            kept = self.rundir.path / file.path.name
            shutil.copy2(file.path, kept)
            self.results.module = ModuleInfo(
                file=kept.name,
                sha256=file.sha256,
                srcversion=file.srcversion,
                build_id=file.build_id,
                vermagic=file.vermagic,
            )
            built = _built_module(file, spec.ko_path)
            for sibling in main.siblings.values():  # their frames are decoded when the run ends
                (self.rundir.path / SIBLINGS).mkdir(exist_ok=True)
                shutil.copy2(sibling.path, self.rundir.path / SIBLINGS / sibling.path.name)
        slowdown = self.target.slowdown if self.target else 1.0
        on_device = self.config.admitted is not None
        if self.target is None and self.config.needs_guest and not on_device:
            slowdown = self._accelerator.slowdown
        return RunContext(
            subject=self.config.subject,
            source=source,
            kernel=self.results.target.kernel,
            builds=self.results.builds,
            tools=[
                BuiltTool(name=step.name, ok=step.ok, reason=step.reason, log=step.log[-4000:])
                for step in main.steps
                if step.name != "module"
            ],
            module=built,
            siblings=[_built_module(file, path) for path, file in main.siblings.items()],
            target_tools=str(spec.tools_dir),
            timeouts_s={row.name: row.timeout_s * slowdown for row in self.config.categories},
            slowdown=slowdown,
            profile=self.config.profile,
        )

    def runnable_categories(self, main: BuildOutcome) -> list[Category]:
        """Without a module (or a declared tool) there is nothing to load and nothing to test."""
        broken = [step for step in main.steps if not step.ok]
        if not broken:
            return self._without_guest_after_a_finding()
        runnable = [row for row in self.config.categories if not row.needs_guest]
        stopped = [row for row in self.config.categories if row.needs_guest]
        what = "the module" if broken[0].name == "module" else f"the tool '{broken[0].name}'"
        reason = f"not run: {what} did not build ({broken[0].reason})"
        self.results.tests += not_run(stopped, reason)
        self.results.build_failure = (
            f"{what[0].upper()}{what[1:]} did not build: {broken[0].reason}."
        )
        return runnable

    def _without_guest_after_a_finding(self) -> list[Category]:
        """With --fail-fast no machine is started when a check has already failed."""
        failed = [check for check in self.results.checks if not (check.ok or check.skipped)]
        if not self.config.fail_fast or not failed or self.config.expectations:
            return self.config.categories
        stopped = [row for row in self.config.categories if row.needs_guest]
        reason = f"not run: --fail-fast, and the check '{failed[0].name}' failed"
        self.results.tests += not_run(stopped, reason)
        return [row for row in self.config.categories if not row.needs_guest]

    def leave_out_finished(self, categories: list[Category]) -> list[Category]:
        """Of a resumed run, only what the earlier one did not finish; its results are taken over.

        Raises ConfigError when the two runs are not about the same thing.
        """
        earlier = self.config.earlier
        if earlier is None:
            return categories
        earlier.refuse_another_subject(self.results)
        taken = earlier.tests()
        self.results.resumed_from = earlier.results.run_id
        self.results.tests += taken
        self.results.kernel_events += [event for test in taken for event in test.kernel_events]
        self.note(
            f"Resumed: {len(taken)} results of the run '{earlier.results.run_id}' were taken over "
            f"({', '.join(sorted(earlier.finished)) or 'no category was finished'})."
        )
        return [row for row in categories if row.name not in earlier.finished]

    def install(self, main: BuildOutcome) -> None:
        """Put the module and the tools where the guest would have built them."""
        assert self.target is not None, "there is a target to install into"
        spec = BuildSpec.main(self.config.subject)
        outside = main.tools_dir.parent.parent
        files = [path.relative_to(GUEST_BUILD_ROOT) for path in (spec.ko_path, *main.siblings)]
        if self.config.subject.tool_names:
            files.append(spec.tools_dir.relative_to(GUEST_BUILD_ROOT))
        self.target.siblings = [
            (file.internal_name or "").replace("-", "_") for file in main.siblings.values()
        ]
        target, relative = self.target, [Path(str(file)) for file in files]

        def put_there() -> None:
            target.install(outside, relative, GUEST_BUILD_ROOT)

        target.on_start = put_there
        if main.where is BuildPlace.NATIVE:
            with self.stages.stage("install", f"{MAIN_VARIANT} build into the guest"):
                put_there()

    def run_tests(
        self, context: RunContext, categories: list[Category], settle: Callable[[], None]
    ) -> None:
        """`settle` waits for what is made natively beside the tests, if it still is.

        Tests that look at that come last then.
        """
        if self.target is not None:
            slowdown = self.target.slowdown
            context.slowdown = slowdown
            context.timeouts_s = {row.name: row.timeout_s * slowdown for row in categories}
        make = TestRun if self.config.admitted is None else StagedTestRun
        self.tests = make(
            context,
            self.target,
            self.rundir.path,
            self.emit,
            self.stages,
            self.stops_at,
            self.config.isolation,
            self.memory_images(),
            settle,
        )
        if self.settled:
            self.tests.run(categories)
            return
        self.tests.run([row for row in categories if row.needs_guest])
        settle()
        self.tests.run_apart([row for row in categories if not row.needs_guest])

    def stops_at(self, result: TestResult) -> bool:
        """With --fail-fast, and on a device, whether a test that ended so is the last one."""
        config = self.config
        bad = result.is_bad and not is_expected(result, config.expectations)
        return bad and (config.fail_fast or config.admitted is not None)

    def memory_images(self) -> MemoryImages | None:
        """None with --no-core, and without a virtual machine that could die."""
        if self.config.admitted is not None:
            return None
        if self.target is None or self.image is None or not self.config.core:
            return None
        return MemoryImages(self.rundir.path, self.config.settings.core, self.image.rootfs)

    # -- endings ----------------------------------------------------------------------------

    def note(self, text: str) -> None:
        self.results.notes.append(text)
        self.emit(Note(text))

    def record_error(self, error: VexrunError) -> None:
        parts = [error.message, error.evidence, error.hint]
        self.results.error = "\n".join(part for part in parts if part)

    def record_unexpected(self, error: Exception) -> None:
        """A defect of vexrun or a refusal of the operating system: named, and never a pass."""
        what = f"{type(error).__name__}: {error}"
        self.results.error = f"vexrun itself broke off: {what} (see traceback.txt)"
        with contextlib.suppress(OSError):  # the disk may be full, and that may be the error
            text = "".join(format_exception(error))
            (self.rundir.path / "traceback.txt").write_text(text)

    def abandon(self) -> None:
        """The request itself was wrong: nothing ran, so there is no run to keep."""
        self.close()
        self.rundir.discard()

    def close(self) -> None:
        """Collect what is left to collect and end the machine (unless it is to be kept)."""
        if self.target is None:
            return
        if self.config.keep:
            self.keep_machine()
        self.target.close()
        self.target = None

    def keep_machine(self) -> None:
        assert self.target is not None, "only called with a target"
        if self.target.detach():
            self.note("The machine was kept: 'vexrun vm ssh' enters it, 'vexrun vm down' ends it.")

    def finish(self, *, interrupted: bool) -> None:
        """Judge and write. The verdict is computed here, once."""
        results = self.results
        if self.tests is not None:
            found = self.tests.result
            results.tests = found.tests + results.tests
            results.kernel_events += found.kernel_events
            results.measurements += found.measurements
            results.notes += found.notes
            results.restores = found.restores
            results.memory_images += found.memory_images
            self._prove_identity(found.module_identity)
        self._decode_events()
        if self.source is not None:
            self._measure_again(self.source.path)
        order = {name: index for index, name in enumerate(results.selected_categories)}
        results.tests.sort(key=lambda test: order.get(test.category, len(order)))
        results.stale_expectations = apply_expectations(results.tests, self.config.expectations)
        results.durations = {name: round(s, 2) for name, s in self.stages.durations.items()}
        results.finished_at = _now()
        results.complete = not interrupted
        judge(results, interrupted=interrupted)
        self.rundir.record(RunDescribed(results))
        console = self.rundir.console_log
        tail = console.read_bytes()[-30_000:].decode(errors="replace") if console.exists() else ""
        try:
            write_reports(results, self.rundir.path, tail)
        finally:
            self.rundir.close()

    def _measure_again(self, path: Path) -> None:
        """The tree at the end; one that cannot be read any more is a changed one."""
        subject = self.results.subject
        if not subject.tree_sha256:
            return
        try:
            after = tree.measure(path)
        except (OSError, ConfigError) as error:
            subject.tree_sha256_after = f"unreadable: {error}"
            return
        subject.tree_sha256_after = after.sha256
        if after.fingerprint != self._state_before.fingerprint:
            self.results.notes.append(
                "Something in the source directory changed during the run (vexrun itself only "
                "ever sees it read-only)."
            )

    def _decode_events(self) -> None:
        """Source lines for the kernel's call traces, from the .ko files this run has kept."""
        if self.image is None or self.source is None:
            return
        subject, directory = self.config.subject, self.rundir.path
        built_at = BuildSpec.main(subject).directory
        source = SubjectSource(self.source.path, built_at, subject.module.dir)
        find_lines = addr2line_of(self.image.rootfs, directory)
        self.results.notes += decode_run(self.results, directory, source, find_lines)

    def _prove_identity(self, loaded: dict[str, str | None] | None) -> None:
        module = self.results.module
        if loaded is None:
            return
        module.loaded_srcversion = loaded["srcversion"]
        module.loaded_build_id = loaded["build_id"]
        pairs = (
            (module.srcversion, module.loaded_srcversion),
            (module.build_id, module.loaded_build_id),
        )
        known = [pair for pair in pairs if any(pair)]
        module.identity_proven = bool(known) and all(ours == theirs for ours, theirs in known)


def _built_module(file: ModuleFile, path: PurePosixPath) -> BuiltModule:
    return BuiltModule(
        path=str(path),
        name=file.internal_name,
        sha256=file.sha256,
        srcversion=file.srcversion,
        build_id=file.build_id,
        vermagic=file.vermagic,
        licence=file.modinfo.get("license"),
        depends=file.depends,
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
