"""Files and trees that are put into a machine, over a real sshd: whole, with mode and owner, or not at all."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from imageflow.errors import CommandFailed, Refused
from imageflow.guest.connect import SshConnection
from imageflow.host.control import Control


def test_files_arrive_whole_with_mode_and_owner(connection: SshConnection, control: Control, tmp_path: Path) -> None:
    data = os.urandom(300_000)
    (tmp_path / "local").write_bytes(data)
    connection.put(tmp_path / "local", "/opt/new/a b'c", mode="4711", owner="daemon", control=control)
    assert connection.run("cd /opt/new; stat -c '%a %U:%G %s' \"a b'c\"; ls -A", control=control) == (
        "4711 daemon:daemon 300000\na b'c"
    )
    said = connection.run('sha256sum < "/opt/new/a b\'c"', control=control)
    assert said.split()[0] == hashlib.sha256(data).hexdigest()
    connection.put(b"", "/opt/new/a b'c", control=control)
    assert connection.run("stat -c '%a %U:%G %s' \"/opt/new/a b'c\"", control=control) == "644 root:root 0"


def test_a_file_is_not_put_into_a_directory_and_never_in_half(
    root: SshConnection, control: Control, tmp_path: Path
) -> None:
    with pytest.raises(CommandFailed, match="is a directory"):
        root.put(b"x", "/etc", control=control)
    root.put(b"before", "/opt/kept", control=control)
    growing = tmp_path / "growing"
    growing.write_bytes(b"123")

    class Lying(type(growing)):  # type: ignore[misc]
        def stat(self, **_: object) -> os.stat_result:
            return os.stat_result((0, 0, 0, 0, 0, 0, 5, 0, 0, 0))

    with pytest.raises(CommandFailed, match="did not arrive whole"):
        root.put(Lying(growing), "/opt/kept", control=control)
    assert root.run("cat /opt/kept; ls -A /opt | grep imageflow || :", control=control) == "before"


def test_a_local_file_that_can_not_be_read(root: SshConnection, control: Control, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="directory"):
        root.put(tmp_path, "/opt/x", control=control)
    assert root.run("ls -A /opt | grep -c '^x$' || :", control=control) == "0"


def test_a_tree_arrives_as_it_is(connection: SshConnection, control: Control, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "deep/empty").mkdir(parents=True)
    (tree / "deep" / ("n" * 200)).write_text("long")
    (tree / "run").write_text("#!/bin/sh\n")
    (tree / "run").chmod(0o750)
    (tree / "again").hardlink_to(tree / "run")
    (tree / "link").symlink_to("run")
    connection.run("mkdir -p /opt/tree; echo old > /opt/tree/old", control=control)
    connection.put_tree(tree, "/opt/tree/", control=control)
    said = connection.run(
        "cd /opt/tree; find . | sort; stat -c '%a %U' run again; readlink link; cat deep/n*", control=control
    )
    assert said.split("\n") == [
        ".", "./again", "./deep", "./deep/empty", "./deep/" + "n" * 200, "./link", "./run",
        "750 root", "750 root", "run", "long",
    ]  # fmt: skip


def test_a_tree_with_something_that_can_not_be_copied_leaves_what_was_there(
    root: SshConnection, control: Control, tmp_path: Path
) -> None:
    root.run("rm -rf /opt/t; mkdir -p /opt/t; echo old > /opt/t/old", control=control)
    (tmp_path / "t").mkdir()
    (tmp_path / "t/a").write_bytes(os.urandom(100_000))
    os.mkfifo(tmp_path / "t/z")
    with pytest.raises(Refused, match="neither a file"):
        root.put_tree(tmp_path / "t", "/opt/t", control=control)
    assert root.run("ls -A /opt/t; ls -A /opt | grep put || :", control=control) == "old"
