"""From a vendor's ISO to an installed system: remastered with composed answers, installed, marked, logged into."""

from __future__ import annotations

from pathlib import Path

import pytest

from imageflow.host.control import Control
from imageflow.iso import Additions, Answers
from imageflow.iso.answers import check, compose
from imageflow.iso.remaster import remaster
from tests.guests import ANSWERS, installer, machine, ssh

pytestmark = [pytest.mark.machine(seconds=40), pytest.mark.sliced(group="long builds")]

MARKER = "imageflow: installed 0123456789ab"


def remastered(to: Path, kind: Answers, text: str, public: str) -> Path:
    assert check(kind, text, "answers") == []
    remaster(installer.iso(), to, kind, compose(kind, text, Additions(public.strip(), MARKER)), control=Control())
    return to


@pytest.mark.parametrize(("name", "uefi"), [("preseed.cfg", False), ("ks.cfg", True)])
def test_installs_and_lets_in(name: str, uefi: bool, tmp_path: Path) -> None:
    kind = Answers.PRESEED if name == "preseed.cfg" else Answers.KICKSTART
    public = ssh.key_pair(tmp_path / "client")
    iso = remastered(tmp_path / "it.iso", kind, (ANSWERS / name).read_text(), public)
    with machine.running(tmp_path / "m", cdrom=iso, uefi=uefi) as it:
        console = it.off(120)
    assert MARKER.encode() in console, console[-3000:].decode(errors="replace")
    with machine.running(tmp_path / "m", uefi=uefi) as it, ssh.login(it, tmp_path / "client", None) as shell:
        assert ssh.output(shell, "cat /etc/installed-by") in ("preseed", "kickstart")


@pytest.mark.parametrize("name", ["preseed.cfg", "ks.cfg"])
def test_a_failing_command_is_not_marked(name: str, tmp_path: Path) -> None:
    kind = Answers.PRESEED if name == "preseed.cfg" else Answers.KICKSTART
    text = (ANSWERS / name).read_text()
    text = text.rstrip() + "; false\n" if kind is Answers.PRESEED else text + "\n%post\nfalse\n"
    iso = remastered(tmp_path / "it.iso", kind, text, ssh.key_pair(tmp_path / "client"))
    with machine.running(tmp_path / "m", cdrom=iso) as it:
        console = it.off(120)
    assert MARKER.encode() not in console
    assert b"Installing the base system" in console
