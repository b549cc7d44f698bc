"""The step that boots a throw-away copy of the finished image and looks at it from inside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from imageflow import finishing, provisioners
from imageflow.compute import FORMATS, MachineState, Source
from imageflow.errors import CommandFailed, ImageflowError, NotSealed
from imageflow.guest import hygiene, keys
from imageflow.guest.connect import Connection
from imageflow.model import Json, ResourceKind
from imageflow.tasks.base import Task
from imageflow.tasks.workbench import LIVES, Workbench
from imageflow.workspace import THROW_AWAY

_CONVERTED = "verify.qcow2"


class VerifyImage(Task):
    """Boot a copy of the image that is thrown away, check its hygiene, and run the recipe's `verify`."""

    step = "verify-image"
    title = "Verify in a throw-away boot"
    default_provides = "verified"  # {"checks": how many of the recipe's passed}

    def execute(self, bench: Workbench, secret: Callable[[str], str], outputs: Any, sealed: Json) -> Json:
        bench.compute.stop(bench.name, bench.control)  # its memory is needed now
        bench = bench.of(THROW_AWAY)
        bench.delete()  # of a worker that died, or of an attempt that failed
        source = _bootable(bench, outputs)
        for life in range(1, LIVES + 1):
            try:
                checks = self._verify(bench, source, sealed, secret)
                break
            except ImageflowError as error:
                bench.control.check()
                state = bench.compute.state(bench.name)
                if state is MachineState.RUNNING or life == LIVES:
                    raise
                bench.log(f"the throw-away machine is {state} ({error.message}): once more")
                bench.delete()
        bench.delete()
        (bench.work.path / _CONVERTED).unlink(missing_ok=True)
        return {"checks": checks}

    def revert(self, bench: Workbench) -> None:
        bench.of(THROW_AWAY).delete()

    def _verify(self, bench: Workbench, source: Source, sealed: Json, secret: Callable[[str], str]) -> int:
        bench.ledger.open(ResourceKind.MACHINE, bench.name)
        bench.keys.known_hosts.unlink(missing_ok=True)
        bench.compute.ensure(
            bench.name,
            bench.spec(),
            build_id=bench.build.id,
            control=bench.control,
            log=bench.told,
            disk=source,
            seed=bench.seed(),
        )
        connection = bench.connect()
        try:
            self._hygiene(bench, connection, sealed)
            return self._checks(bench, connection, secret)
        finally:
            connection.close()

    def _hygiene(self, bench: Workbench, guest: Connection, sealed: Json) -> None:
        builder = keys.make(bench.work.ssh())
        user = bench.image.machine["user"]
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
        bench.log("hygiene: no key of the build, an identity of its own")

    def _checks(self, bench: Workbench, guest: Connection, secret: Callable[[str], str]) -> int:
        checks = bench.build.recipe["verify"]
        for number, check in enumerate(checks, 1):
            ((kind, value),) = ((kind, value) for kind, value in check.items() if kind != "timeout")
            bench.progress(number / (len(checks) + 1), f"check {number} of {len(checks)}")
            context = provisioners.Context(
                guest=guest,
                access=bench.access(),
                folder=Path(bench.build.folder),
                pins=bench.build.pins,
                work=bench.scratch(),
                control=bench.control,
                log=bench.log,
                progress=lambda *_: None,
                secret=secret,
            )
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


def _bootable(bench: Workbench, outputs: Any) -> Source:
    """One of the outputs that a machine can start from; made of the first, when none of them is."""
    for entry in outputs:
        if entry["artifact"]["format"] in FORMATS:
            return Source(entry["path"], entry["artifact"]["format"])
    first, to = outputs[0], bench.work.path / _CONVERTED
    finishing.convert(
        Path(first["path"]),
        first["artifact"]["format"],
        to,
        "qcow2",
        compressed=False,
        control=bench.control,
        log=bench.log,
    )
    return Source(str(to))
