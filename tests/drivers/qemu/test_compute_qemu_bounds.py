"""What a guest makes QEMU write beside its disks has a bound."""

from __future__ import annotations

import dataclasses
import time

import pytest

from tests.drivers.compute_site import NAME, QemuSite, until
from tests.drivers.machine import need

pytestmark = pytest.mark.machine(seconds=15)

MOST = 0.1  # MiB


def test_a_guest_that_writes_to_its_console_for_ever(place: QemuSite) -> None:
    need("qemu-system-x86_64")
    place.config = dataclasses.replace(place.config, builds=dataclasses.replace(place.config.builds, max_console=MOST))
    place.compute = place.open()  # type: ignore[assignment]
    place.ensure(seed=place.seed())
    console = place.config.machines_dir / NAME / "console.log"
    with place.inside() as shell:
        shell("(while true; do echo nothing that anybody wants to read > /dev/ttyS0; done) > /dev/null 2>&1 &")
        until(lambda: console.stat().st_size > MOST * 2**20)
        place.compute.renew()
        size = console.stat().st_size
        assert place.compute.console(NAME).endswith(b"longer than [builds] max_console]\r\n")
        time.sleep(1.0)  # it goes on writing
        assert console.stat().st_size == size
        place.compute.renew()
        assert console.stat().st_size == size, "said once"
        assert shell("echo still here") == "still here"


def test_what_qemu_says_is_shortened_and_goes_on(place: QemuSite) -> None:
    need("qemu-system-x86_64")
    place.ensure(seed=place.seed())
    output = place.config.machines_dir / NAME / "qemu.log"
    with output.open("ab") as file:
        file.write(b"a warning\n" * 300_000 + b"the last one\n")
    place.compute.renew()
    assert output.stat().st_size == 64 << 10
    assert output.read_bytes().endswith(b"the last one\n")
