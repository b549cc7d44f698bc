"""What the driver qemu starts a machine with: no secret in its arguments, a seed, a disk of its own."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from imageflow.compute import Seed
from imageflow.compute.qemu import account, identity
from imageflow.compute.qemu import seed as seeds
from imageflow.compute.qemu.qmp import Qmp
from imageflow.errors import Refused
from tests.drivers.compute_site import BUILD, NAME, Site, site
from tests.drivers.qemu.qemu_machines import folder_of, process_of

pytestmark = pytest.mark.machine(seconds=5)


def test_what_is_secret_is_in_no_argument_and_no_environment(bare: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEFLOW_BUILD", BUILD)
    monkeypatch.setenv("IMAGEFLOW_SECRET_X", "hidden-in-the-environment")
    seed = Seed("#cloud-config\n# hidden-user-data\n", "i-1", credentials={"a": "hidden-a", "b": "hidden-b" * 3000})
    bare.ensure(seed=seed)
    process = process_of(bare)
    said = " ".join(process.cmdline()) + " ".join(f"{k}={v}" for k, v in process.environ().items())
    assert "hidden" not in said and "IMAGEFLOW_BUILD=" not in said
    assert process.environ()[identity.NAME] == NAME
    machine = folder_of(bare)
    texts = [file.read_bytes() for file in machine.path.iterdir() if file.is_file()]
    assert not any(b"hidden" in text or b"aGlkZGVu" in text for text in texts)
    status = machine.path.stat()  # its QEMU, alone in its group, may open files in it, but not look around or make any
    assert (status.st_mode & 0o777, status.st_uid) == (0o710, 0)
    assert status.st_gid == account.of_machine(bare.config.machines_dir, NAME)
    with Qmp(machine.path, machine.monitor(1)) as monitor:
        assert "seed" in {node["node-name"] for node in monitor.call("query-named-block-nodes", flat=True)}


def test_the_seed_is_a_no_cloud_volume(tmp_path: Path) -> None:
    import pycdlib

    seed = Seed("#cloud-config\n{}\n", 'i"1', hostname="höst", credentials={"x": "y\n"})
    (name,) = seeds.write(seed, tmp_path)
    assert (tmp_path / name).read_bytes() == b"io.systemd.credential.binary:x=eQo="
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}
    iso = pycdlib.PyCdlib()
    iso.open(str(tmp_path / seeds.VOLUME))
    assert iso.pvd.volume_identifier.strip() == b"cidata"
    import io

    import yaml

    read = {}
    for file in ("meta-data", "user-data"):
        out = io.BytesIO()
        iso.get_file_from_iso_fp(out, rr_path=f"/{file}")
        read[file] = out.getvalue().decode()
        joliet = io.BytesIO()
        iso.get_file_from_iso_fp(joliet, joliet_path=f"/{file}")
        assert joliet.getvalue() == out.getvalue()
    iso.close()
    assert yaml.safe_load(read["meta-data"]) == {"instance-id": 'i"1', "local-hostname": "höst"}
    assert read["user-data"] == seed.user_data
    seeds.remove(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_qemu_that_does_not_start_says_why(tmp_path: Path) -> None:
    with site("qemu", tmp_path, emulator="qemu-img") as broken, pytest.raises(Refused, match="did not start") as caught:
        broken.ensure()
    assert "qemu-img" in caught.value.hint
    with site("qemu", tmp_path, emulator="no-such-qemu") as none, pytest.raises(Refused, match="no-such-qemu"):
        none.ensure()


def test_one_disk_is_not_written_by_two(bare: Site) -> None:
    """QEMU's own lock is the last wall, should ours fail."""
    bare.ensure()
    disk = folder_of(bare).disk(0)
    writer = ["qemu-io", "-f", "qcow2", "-c", "write 0 4k", str(disk)]
    assert b"lock" in subprocess.run(writer, stderr=subprocess.PIPE, check=False).stderr
