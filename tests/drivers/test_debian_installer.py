"""The genuine Debian installer of the tests installs a Debian that boots, from a preseed and from a kickstart."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import pytest

from tests.guests import ANSWERS, debian_installer, machine, media, ssh

pytestmark = [pytest.mark.machine(seconds=150), pytest.mark.sliced(group="long builds")]


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("kind", ["preseed.cfg", "ks.cfg"])
def test_installs_what_boots(tmp_path: Path, kind: str) -> None:
    public = ssh.key_pair(tmp_path / "client")
    script = f"mkdir -p /root/.ssh; echo '{public}' > /root/.ssh/authorized_keys; echo MARKER-1 > /dev/ttyS0"
    text = (ANSWERS / kind).read_text().rstrip()
    answers = {"preseed.cfg": b"# nothing\n"}
    answers[kind] = (
        text + f'; in-target sh -c "{script}"\n' if kind == "preseed.cfg" else text + f"\n{script}\n"
    ).encode()
    initrd = tmp_path / "initrd"
    shutil.copy(debian_installer.parts() / "initrd.gz", initrd)
    with initrd.open("ab") as out:
        out.write(gzip.compress(media.newc(answers)))
    line = " ".join(debian_installer.arguments(kind))
    extra = ("-kernel", str(debian_installer.parts() / "kernel"), "-initrd", str(initrd), "-append", line)
    place = tmp_path / "m"
    with machine.running(place, cdrom=debian_installer.iso(), size="3G", memory=1024, extra=extra) as it:
        console = it.off(900)
    (tmp_path / f"console-{kind}").write_bytes(console)
    assert b"MARKER-1" in console, console[-4000:].decode(errors="replace")
    with machine.running(place, memory=1024) as it:
        with ssh.login(it, tmp_path / "client", None, 300) as shell:
            assert ssh.output(shell, "cat /etc/installed-by") == kind.replace("ks.cfg", "kickstart").removesuffix(
                ".cfg"
            )
            assert ssh.output(shell, "hostname") == ("kickstarted" if kind == "ks.cfg" else "preseeded")
            assert ssh.output(shell, "cat /proc/1/comm; id -u").split() == ["systemd", "0"]
            ssh.output(shell, "systemctl poweroff --no-block")
        (tmp_path / f"console-boot-{kind}").write_bytes(it.off(120))
