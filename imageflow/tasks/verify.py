"""The step that boots a throw-away copy of the finished image and checks it from inside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from imageflow import provisioners
from imageflow.compute import FORMATS, MachineState, Source
from imageflow.errors import CommandFailed, ImageflowError, NoRoom, NotSealed
from imageflow.guest import hygiene, keys, way_in
from imageflow.guest.connect import SshConnection
from imageflow.host import disk_files
from imageflow.host.workspace import THROW_AWAY
from imageflow.model import ResourceKind
from imageflow.tasks.base import Task
from imageflow.tasks.results import FileResult, SealedResult, VerifiedResult
from imageflow.tasks.workbench import LIVES, Workbench

_CONVERTED = "verify.qcow2"


class VerifyImage(Task):
    """Boot a throw-away copy of the image, check its hygiene, and run the recipe's `verify`."""

    step = "verify-image"
    title = "Verify in a throw-away boot"
    default_provides = "verified"

    def execute(
        self, bench: Workbench, secret: Callable[[str], str], outputs: list[FileResult], sealed: SealedResult
    ) -> VerifiedResult:
        bench.compute.stop(bench.name, bench.control)  # its memory is needed now
        bench = bench.of(THROW_AWAY)
        bench.delete()  # left by a dead worker or a failed attempt
        source = _bootable(bench, outputs)
        for life in range(1, LIVES + 1):
            try:
                checks = self._verify(bench, source, sealed, secret)
                break
            except NoRoom:
                raise
            except ImageflowError as error:
                bench.control.check()
                state = bench.compute.state(bench.name)
                if state is MachineState.RUNNING or life == LIVES:
                    raise
                bench.log(f"the throw-away machine is {state} ({error.message}): trying again")
                bench.delete()
        bench.delete()
        (bench.work.path / _CONVERTED).unlink(missing_ok=True)
        return {"checks": checks}

    def revert(self, bench: Workbench) -> None:
        bench.of(THROW_AWAY).delete()

    def _verify(self, bench: Workbench, source: Source, sealed: SealedResult, secret: Callable[[str], str]) -> int:
        bench.ledger.open(ResourceKind.MACHINE, bench.name)
        bench.keys.known_hosts.unlink(missing_ok=True)
        closed = sealed.get("closed", False)
        if closed:
            bench.log("the image lets no build in, as its recipe means it: this boot gets an SSH server of its own")
            way_in.remember(bench.work.ssh(bench.role), "root", ())
        bench.compute.ensure(
            bench.name,
            bench.spec(),
            build_id=bench.build.id,
            control=bench.control,
            log=bench.told,
            disk=source,
            seed=bench.seed(closed=closed),
        )
        connection = bench.connect()
        try:
            self._hygiene(bench, connection, sealed)
            return self._checks(bench, connection, secret)
        finally:
            connection.close()

    def _hygiene(self, bench: Workbench, guest: SshConnection, sealed: SealedResult) -> None:
        builder = keys.make(bench.work.ssh())
        user = bench.image.machine.user
        expected = hygiene.Expectations(
            builder.public,
            builder.host_public,
            machine_id=sealed["machine_id"],
            user=user,
            own=bench.keys.public,
            password=any(
                account["name"] == user and account.get("password")
                for step in bench.image.configure
                for account in step.get("users", ())
            ),
        )
        problems = hygiene.check(guest, expected, bench.control, bench.log)
        if problems:
            raise NotSealed("; ".join(problems), hint="see the build log, then resume or abort the build")
        bench.log("hygiene: no key of the build, and an identity of its own")

    def _checks(self, bench: Workbench, guest: SshConnection, secret: Callable[[str], str]) -> int:
        checks = bench.image.verify
        for number, check in enumerate(checks, 1):
            ((kind, value),) = ((kind, value) for kind, value in check.items() if kind != "timeout")
            bench.progress(number / (len(checks) + 1), f"check {number} of {len(checks)}")
            context = bench.context(guest, secret, lambda *_: None)
            try:
                with bench.control.at_most(check["timeout"], f"check {number} of verify"):
                    provisioners.find(kind).apply(value, context)
            except CommandFailed as error:
                raise CommandFailed(
                    f"check {number} of verify failed: {error.message}",
                    hint=f"{error.hint} | the image is not published; see it with: imageflow build ssh {bench.build.id} --verify",
                ) from error
        if checks:
            bench.log(f"verified: {len(checks)} check{'s' if len(checks) != 1 else ''} passed")
        return len(checks)


def _bootable(bench: Workbench, outputs: list[FileResult]) -> Source:
    """An output that a machine can boot from; converted from the first when there is none."""
    for entry in outputs:
        if entry["artifact"]["format"] in FORMATS:
            return Source(entry["path"], entry["artifact"]["format"])
    first, to = outputs[0], bench.work.path / _CONVERTED
    disk_files.convert(
        Path(first["path"]),
        first["artifact"]["format"],
        to,
        "qcow2",
        compressed=False,
        control=bench.control,
        log=bench.log,
    )
    return Source(str(to))
