"""The parts around a diskimage-builder run that need none."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from imageflow.dib import blockdevice, command, configure, credentials, environment, manifest, preflight
from imageflow.dib.plan import DibPlan
from imageflow.dib.watch import DibWatch
from imageflow.errors import CommandFailed, ConfigError, InputChanged, NoSpace, Refused
from imageflow.host.control import Control
from imageflow.host.disk_files import artifact_of
from imageflow.host.workspace import Workspace

# -- the command -------------------------------------------------------------------------------------


def test_the_command_is_diskimage_builders_own_but_for_what_is_ours() -> None:
    definition = {
        "elements": ["debian-minimal", "vm"],
        "arch": "arm64",
        "types": ["qcow2"],
        "checksum": True,
        "clear": True,
        "qemu-img-options": {"compat": "0.10"},
        "image-cache": "/elsewhere",
        "packages": ["vim"],
        "skip-base": True,
        "environment": {"DIB_RELEASE": "bookworm", "A": {"secret": "S"}},
    }
    argv = command.argv_for(
        definition, name="web", folder=Path("/w/built"), outputs=["qcow2", "tgz"], elements=["a", "b"]
    )
    assert argv[0] == "bash"
    assert argv[1].endswith("/disk-image-create")
    assert argv[2:] == ["-o", "/w/built/web", "-a", "arm64", "-t", "tar,raw", "--no-tmpfs", "-p", "vim", "-n", "a", "b"]
    assert definition["types"] == ["qcow2"], "the recipe is not changed"


def test_a_ramdisk() -> None:
    argv = command.argv_for({"ramdisk": True}, name="r", folder=Path("/w"), outputs=["kernel"], elements=["e"])
    assert argv[1].endswith("/ramdisk-image-create")


@pytest.mark.parametrize(
    ("outputs", "types"),
    [
        (["qcow2"], ["raw"]),
        (["qcow2", "raw", "vhd"], ["raw"]),
        (["tar", "tgz"], ["tar"]),
        (["tar", "squashfs"], ["squashfs", "tar"]),  # diskimage-builder looks at the first only
        (["kernel"], ["raw"]),
        (["aci", "qcow2"], ["aci", "raw"]),
    ],
)
def test_types(outputs: list[str], types: list[str]) -> None:
    assert command.types_for(outputs) == types


@pytest.mark.parametrize("name", ["web.raw", "web.tar", "x.aci"])
def test_a_name_that_diskimage_builder_would_cut(name: str) -> None:
    assert not command.base_name(name).endswith((".raw", ".tar", ".aci"))
    assert command.base_name("debian-12.1") == "debian-12.1"


# -- the environment ---------------------------------------------------------------------------------


def test_what_is_shown_of_the_environment() -> None:
    given = {
        "DIB_RELEASE": "bookworm",
        "DIB_DEV_USER_PASSWORD": "abc",
        "DIB_X": "from a reference",
        "DIB_API_TOKEN": "t",
        "DIB_MIRROR": "https://me:pw@mirror/debian",
        "DIB_PYPI_MIRROR_URL": "https://a/ https://u:p%40@b/",
        "OTHER": "x",
    }
    assert environment.shown(given, {"DIB_X"}) == {
        "DIB_API_TOKEN": "******",
        "DIB_DEV_USER_PASSWORD": "******",
        "DIB_MIRROR": "https://******@mirror/debian",
        "DIB_PYPI_MIRROR_URL": "https://a/ https://******@b/",
        "DIB_RELEASE": "bookworm",
        "DIB_X": "******",
    }
    assert environment.userinfo_in(given) == ["me:pw@", "u:p%40@"]


def test_children_get_nothing_that_was_not_meant_for_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OS_DATABASE__CONNECTION", "postgresql://u:p@h/")
    monkeypatch.setenv("IMAGEFLOW_SECRET_X", "x")
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    env = environment.base(Workspace(tmp_path))
    assert env["https_proxy"] == "http://proxy:3128"
    assert not {"OS_DATABASE__CONNECTION", "IMAGEFLOW_SECRET_X"} & env.keys()


def test_mirror_credentials_are_taken_out_of_an_image(tmp_path: Path) -> None:
    outside = tmp_path / "host.list"
    outside.write_text("deb http://me:pw@mirror/debian x main")
    root = tmp_path / "root"
    (root / "etc/apt/sources.list.d").mkdir(parents=True)
    listed = root / "etc/apt/sources.list.d/default.list"
    listed.write_text("deb http://me:pw@mirror/debian bookworm main\ndeb http://own:x@private/ y main\n")
    (root / "etc/apt/sources.list").symlink_to(outside)
    assert credentials.remove_from(root, ["me:pw@"]) == [listed]
    assert listed.read_text() == "deb http://mirror/debian bookworm main\ndeb http://own:x@private/ y main\n"
    assert "me:pw" in outside.read_text()


@pytest.mark.parametrize("bad", [" ", "$x", "'", ":"])
def test_a_folder_that_diskimage_builder_cannot_work_in(bad: str, tmp_path: Path) -> None:
    from imageflow import config
    from imageflow.model import Build, BuildState

    build = Build("0123456789ab", "i", "dib", BuildState.RUNNING, "", "", "", 0.0)
    with pytest.raises(ConfigError, match="can't work below"):
        DibPlan.of(build, config.load(state_dir=f"{tmp_path}/a{bad}b"))


# -- block devices -----------------------------------------------------------------------------------

CONFIG = """
- local_loop: {name: image0}
- partitioning:
    base: image0
    label: gpt
    partitions:
      - {name: root, size: 100%, mkfs: {mount: {mount_point: /}}}
"""


def test_partitions_without_device_mapper() -> None:
    changed = yaml.safe_load(blockdevice.without_device_mapper(CONFIG) or "")
    original = yaml.safe_load(CONFIG)
    assert changed[0] == original[0]
    assert changed[1] == {"partx_partitioning": original[1]["partitioning"]}


@pytest.mark.parametrize("text", ["", "- local_loop: {name: image0}"])
def test_nothing_to_change(text: str) -> None:
    assert blockdevice.without_device_mapper(text) is None


def test_lvm_needs_device_mapper() -> None:
    with pytest.raises(Refused, match="lvm"):
        blockdevice.without_device_mapper("- lvm: {name: lvm, base: [root]}")


def test_which_configuration_is_used(tmp_path: Path) -> None:
    for name, files in {"one": ["block-device-default.yaml"], "two": ["block-device-arm64.yaml"]}.items():
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).write_text(f"- {name}")
    elements = {"one": tmp_path / "one", "two": tmp_path / "two"}
    assert blockdevice.configuration(elements, {}, "amd64") == "- one"
    assert blockdevice.configuration({"two": tmp_path / "two"}, {}, "amd64") == ""
    assert blockdevice.configuration({"two": tmp_path / "two"}, {}, "arm64") == "- two"
    own = {blockdevice.VARIABLE: f"file://{tmp_path}/two/block-device-arm64.yaml"}
    assert blockdevice.configuration(elements, own, "amd64") == "- two"
    assert blockdevice.configuration(elements, {blockdevice.VARIABLE: "- own"}, "amd64") == "- own"


@pytest.mark.parametrize("stored", ["utf-8-sig", "utf-16"])
def test_a_configuration_of_a_windows_editor(tmp_path: Path, stored: str) -> None:
    (tmp_path / "own.yaml").write_bytes("- own\r\n".encode(stored))
    own = {blockdevice.VARIABLE: f"file://{tmp_path}/own.yaml"}
    assert blockdevice.configuration({}, own, "amd64") == "- own\n"


# -- output ------------------------------------------------------------------------------------------


def watched(*lines: str) -> tuple[DibWatch, list[str], list[tuple[float, str]]]:
    log: list[str] = []
    progress: list[tuple[float, str]] = []
    watch = DibWatch(log.append, lambda done, phase: progress.append((done, phase)))
    for line in lines:
        watch(line)
    return watch, log, progress


def test_progress_goes_forward_only() -> None:
    running = "dib-run-parts Running /w/hooks"
    _, _, progress = watched(
        "Building in /w",
        *["I: Retrieving libc6"] * 5000,
        f"{running}/root.d/08-debootstrap",
        f"{running}/install.d/01-package-installs",
        f"{running}/root.d/99-late",  # a phase that is over can't come again
        f"{running}/cleanup.d/01-x",
        "Image file x created...",
        "Build completed successfully",
    )
    done = [fraction for fraction, _ in progress]
    assert done == sorted(done)
    assert 0.9 < done[-1] < 1.0
    assert [phase for _, phase in progress[-6:]] == ["root", "install", "install", "cleanup", "image", "image"]


@pytest.mark.parametrize(
    ("lines", "kind", "said", "hint"),
    [
        (["E: Failed to fetch http://m/x  Connection refused"], CommandFailed, "Failed to fetch", "mirror"),
        (["W: GPG error: http://m sid InRelease: NO_PUBKEY 1"], CommandFailed, "NO_PUBKEY", "signature"),
        (["tar: x: Cannot write: No space left on device"], NoSpace, "No space left", "tmpfs"),
        (["E: Unable to locate package nginxx"], CommandFailed, "nginxx", "name"),
        (["/x/99-y: line 3: frob: command not found"], CommandFailed, "frob", "install it"),
        (["it just broke", "Unmount /w/mnt/dev"], CommandFailed, "install.d/50-x", "it just broke"),
    ],
)
def test_why_it_failed(lines: list[str], kind: type[Exception], said: str, hint: str) -> None:
    watch, _, _ = watched("dib-run-parts Running /tmp/in_target.d/install.d/50-x", *lines)
    error = watch.failure(CommandFailed("disk-image-create ended with exit code 100"))
    assert type(error) is kind
    assert said in error.message
    assert hint in error.hint
    assert "hook install.d/50-x failed" in error.message
    assert "exit code 100" in error.message


def test_credentials_do_not_reach_the_log() -> None:
    watch, log, _ = watched("Get:1 http://me:pw@mirror/debian x", "E: Failed to fetch http://me:pw@mirror/debian")
    assert "pw" not in "".join(log) + watch.failure(CommandFailed("x")).message


# -- configure ---------------------------------------------------------------------------------------


def test_steps_run_in_their_order_and_the_first_packages_together(tmp_path: Path) -> None:
    import hashlib

    (tmp_path / "site.conf").write_text("x")
    steps = [
        {"packages": ["nginx"]},
        {"packages": ["curl"]},
        {"files": [{"source": "site.conf", "path": "/etc/a b", "mode": "4755", "owner": "www-data"}]},
        {"packages": ["vim"]},
        {"pip": ["flask==3.1.*"]},
        {"users": [{"name": "ada", "groups": ["sudo"], "authorized_keys": ["ssh-ed25519 A 'x'"], "sudo": True}]},
        {"services": {"enable": ["nginx"], "disable": []}},
    ]
    pins = {"file:site.conf": hashlib.sha256(b"x").hexdigest()}
    assert configure.write_element(tmp_path / "elements", steps, tmp_path, pins)
    element = tmp_path / "elements" / configure.NAME
    assert yaml.safe_load((element / "package-installs.yaml").read_text()) == {"nginx": None, "curl": None}
    hooks = sorted((element / "post-install.d").iterdir())
    assert [hook.name.split("-", 3)[3] for hook in hooks] == ["files", "packages", "pip", "users", "services"]
    for hook in hooks:
        assert hook.stat().st_mode & 0o777 == 0o700
        subprocess.run(["bash", "-n", hook], check=True)
    files = hooks[0].read_text()
    assert "chown www-data: '/etc/a b'\nchmod 4755 '/etc/a b'" in files

    (tmp_path / "site.conf").write_text("y")
    with pytest.raises(InputChanged, match=r"site\.conf"):
        configure.write_element(tmp_path / "again", steps, tmp_path, pins)


def test_nothing_to_configure(tmp_path: Path) -> None:
    assert not configure.write_element(tmp_path, [], tmp_path, {})
    assert list(tmp_path.iterdir()) == []


def test_a_secret_password_is_only_a_variable(tmp_path: Path) -> None:
    steps = [
        {"users": [{"name": "ada", "password": {"secret": "ada.pw"}}, {"name": "bob", "password": "$6$salt$hash"}]}
    ]
    configure.write_element(tmp_path, steps, tmp_path, {})
    [variable] = configure.passwords(steps)
    assert configure.passwords(steps) == {variable: "ada.pw"}
    [hook] = (tmp_path / configure.NAME / "post-install.d").iterdir()
    assert f'"${{{variable}}}" | set_password ada' in hook.read_text()


# -- manifests, files, space -------------------------------------------------------------------------


def test_packages_of_dpkg_and_of_rpm(tmp_path: Path) -> None:
    (tmp_path / "dib-manifests").mkdir()
    assert manifest.read_packages(tmp_path) is None
    (tmp_path / "dib-manifests/dib-manifest-dpkg-x").write_text(
        '{"packages": [\n{"package": "b","arch": "all","version": "1","status": "ii "},\n'
        '{"package": "gone","arch": "all","version": "1","status": "rc "}\n]}'
    )
    assert manifest.read_packages(tmp_path) == [{"name": "b", "version": "1", "arch": "all"}]
    (tmp_path / "dib-manifests/dib-manifest-dpkg-x").unlink()
    (tmp_path / "dib-manifests/dib-manifest-rpm-x").write_text('{"package": "a", "arch": "noarch", "version": "1-2"}\n')
    assert manifest.read_packages(tmp_path) == [{"name": "a", "version": "1-2", "arch": "noarch"}]


def test_an_artifact_is_described_by_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc" * 1_000_000)
    artifact = artifact_of(tmp_path / "x", "raw", Control())
    assert artifact.size == 3_000_000
    assert subprocess.check_output(["sha256sum", tmp_path / "x"], text=True).split()[0] == artifact.digest


def test_memory_is_taken_only_when_there_is_double() -> None:
    gib = preflight.GIB
    assert preflight.memory_for(2 * gib, 3 * gib) == 0
    assert preflight.memory_for(2 * gib, 10 * gib) == 5 * gib


def test_space_is_said_with_numbers(tmp_path: Path) -> None:
    preflight.check_space(tmp_path, 1, "why")
    with pytest.raises(NoSpace, match=r"GiB free, the build needs 1048576\.0 GiB \(why\)") as failure:
        preflight.check_space(tmp_path, 1 << 50, "why")
    assert "state_dir" in failure.value.hint
