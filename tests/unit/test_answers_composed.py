"""What is added to an answer file: run for real by a shell, and accepted by its own grammar again."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from imageflow.errors import BadInput
from imageflow.iso import Additions, Answers
from imageflow.iso.answers import check, compose
from tests.unit.test_answers_broken import AUTOINSTALL, EXAMPLES, KS, PROFILE

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ2Zr8Vyv1y5kHsCYW6nA4y+/= imageflow 0123"
MARKER = "imageflow: installed 0123456789ab"
ADDITIONS = Additions(KEY, MARKER)


def _values(preseed: str) -> dict[str, str]:
    lines = [line.split(None, 3) for line in preseed.splitlines() if line and not line.startswith("#")]
    names = [line[1] for line in lines]
    assert len(names) == len(set(names)), "an answer is there twice"
    return {line[1]: (*line, "")[3] for line in lines}


def _run(script: str, tmp_path: Path, *, server: bool = True) -> tuple[str, Path]:
    """Run installer commands with / and /target and the console below tmp_path; -> (console, root's keys)."""
    root = tmp_path / "system"
    (root / "usr/sbin").mkdir(parents=True)
    if server:
        (root / "usr/sbin/sshd").write_text("")
        (root / "usr/sbin/sshd").chmod(0o755)
    console = tmp_path / "console"
    console.touch()
    script = script.replace("/dev/ttyS0", str(console)).replace("/target", str(root))
    script = re.sub(r"(?<![\w.])/(root/\.ssh|usr/sbin|usr/bin/sshd)", rf"{root}/\1", script)
    subprocess.run(["sh", "-c", script], capture_output=True)
    return console.read_text(), root / "root/.ssh/authorized_keys"


@pytest.mark.parametrize(
    ("command", "done"),
    [
        ("", True),
        ("true", True),
        ("false", False),
        ("echo a; echo b;", True),
        ("true # so", True),
        ("true # so\\nfalse", False),
        ("exit 0", True),
        ("exit 3", False),
        ("true; \\\n  false", False),
    ],
)
def test_preseed_marks_only_a_success_of_the_own_command(command: str, done: bool, tmp_path: Path) -> None:
    text = "d-i a/b string c\n" + (f"d-i preseed/late_command string {command}\n" if command else "")
    values = _values(compose(Answers.PRESEED, text, ADDITIONS).decode())
    console, keys = _run(values["preseed/late_command"].replace("\\n", "\n"), tmp_path)
    assert (MARKER in console) is done
    assert keys.exists() is done


def test_preseed_keeps_the_rest_and_powers_off() -> None:
    text = "d-i a/b string c\nd-i debian-installer/exit/halt boolean true\nd-i debian-installer/add-kernel-opts string x=1\n"
    values = _values(compose(Answers.PRESEED, text, ADDITIONS).decode())
    assert values["a/b"] == "c"
    assert "debian-installer/exit/halt" not in values
    assert values["debian-installer/exit/poweroff"] == "true"
    assert values["cdrom-detect/eject"] == "false"
    assert values["debian-installer/add-kernel-opts"] == "x=1 console=ttyS0,115200"


def test_no_ssh_server_is_no_success(tmp_path: Path) -> None:
    values = _values(compose(Answers.PRESEED, "d-i a/b string c\n", ADDITIONS).decode())
    console, _ = _run(values["preseed/late_command"], tmp_path, server=False)
    assert MARKER not in console
    assert "no SSH server" in console


def test_kickstart_of_anaconda() -> None:
    text = KS + "reboot --eject\n%packages\n%end\n%post --nochroot\nreboot\n%end\n%post --erroronfail\ntrue\n%end\n"
    composed = compose(Answers.KICKSTART, text, ADDITIONS).decode()
    assert check(Answers.KICKSTART, composed, "ks.cfg", "rhel9") == []
    lines = composed.splitlines()
    assert lines.count("poweroff") == 1
    assert "reboot --eject" not in lines
    assert lines[lines.index("%post --erroronfail --nochroot") + 1] == "reboot"  # a script's own
    assert composed.count("--erroronfail") == 3
    assert MARKER in lines[-2]


@pytest.mark.parametrize("fails", [False, True])
def test_kickstart_of_debian(fails: bool, tmp_path: Path) -> None:
    script = "false" if fails else "true"
    text = f"rootpw x\npreseed a/b string c\nhalt\n%packages\nopenssh-server\n%post\n{script}\n"
    composed = compose(Answers.KICKSTART, text, ADDITIONS).decode()
    assert check(Answers.KICKSTART, composed, "ks.cfg") == []
    assert "%end" not in composed
    assert "poweroff" in composed.splitlines()
    assert "halt" not in composed.splitlines()
    _, theirs, ours = composed.split("%post\n")
    subprocess.run(["sh", "-c", theirs.replace("/tmp/imageflow-failed", str(tmp_path / "failed"))], check=False)
    console, keys = _run(ours.replace("/tmp/imageflow-failed", str(tmp_path / "failed")), tmp_path)
    assert (MARKER in console) is not fails
    assert keys.exists() is not fails
    if not fails:
        assert keys.read_text() == KEY + "\n"
        assert keys.stat().st_mode & 0o777 == 0o600


def test_autoinstall() -> None:
    text = "#cloud-config\n" + AUTOINSTALL + "  shutdown: reboot\n  late-commands: [a, [b, c]]\n"
    composed = compose(Answers.AUTOINSTALL, text, ADDITIONS).decode()
    assert composed.startswith("#cloud-config\n")
    assert check(Answers.AUTOINSTALL, composed, "user-data") == []
    answers = yaml.safe_load(composed)["autoinstall"]
    assert answers["shutdown"] == "poweroff"
    assert answers["late-commands"][:2] == ["a", ["b", "c"]]
    assert MARKER in answers["late-commands"][-1]
    assert not any(MARKER in command for command in answers["late-commands"][:-1])


def test_autoyast() -> None:
    space = "{http://www.suse.com/1.0/yast2ns}"
    text = PROFILE % "<general><mode><halt config:type='boolean'>false</halt></mode></general>\n"
    composed = compose(Answers.AUTOYAST, text, ADDITIONS).decode()
    assert check(Answers.AUTOYAST, composed, "autoinst.xml") == []
    root = ElementTree.fromstring(composed)
    assert [e.text for e in root.iter(f"{space}halt")] == ["true"]
    (source,) = root.iter(f"{space}source")
    assert source.text is not None and source.text.splitlines()[-1].count(MARKER) == 2
    assert "config:type" in composed


BOTH = (
    "<general><mode><confirm {0}='boolean'>true</confirm></mode></general>"
    "<scripts><chroot-scripts {0}='list'><script><source>true</source></script></chroot-scripts></scripts>"
)


@pytest.mark.parametrize("notation", ["config:type", "t", "type"])
def test_autoyast_says_a_type_once(notation: str) -> None:
    """YaST refuses an element that has two of them, whichever way they are written."""
    space = "{http://www.suse.com/1.0/yast2ns}"
    composed = compose(Answers.AUTOYAST, PROFILE % BOTH.format(notation), ADDITIONS).decode()
    assert check(Answers.AUTOYAST, composed, "autoinst.xml") == []
    root = ElementTree.fromstring(composed)
    written = {"config:type": "{http://www.suse.com/1.0/configns}type"}.get(notation, notation)
    assert {key for element in root.iter() for key in element.attrib} == {written}
    for name in ("halt", "confirm", "final_halt", "final_reboot", "chrooted"):
        assert [element.get(written) for element in root.iter(space + name)] == ["boolean"]
    assert [element.get(written) for element in root.iter(space + "chroot-scripts")] == ["list"]
    assert len(list(root.iter(space + "script"))) == 2


def test_autoyast_gets_its_namespace() -> None:
    composed = compose(Answers.AUTOYAST, "<profile><general><mode/></general></profile>", ADDITIONS).decode()
    assert check(Answers.AUTOYAST, composed, "autoinst.xml") == []
    root = ElementTree.fromstring(composed)
    assert all(element.tag.startswith("{http://www.suse.com/1.0/yast2ns}") for element in root.iter())
    assert len(list(root.iter("{http://www.suse.com/1.0/yast2ns}mode"))) == 1


def test_autoyast_reads_the_last_of_two() -> None:
    space = "{http://www.suse.com/1.0/yast2ns}"
    text = PROFILE % "<general><mode/></general><general><mode><halt t='boolean'>false</halt></mode></general>"
    first, last = ElementTree.fromstring(compose(Answers.AUTOYAST, text, ADDITIONS)).findall(f"{space}general")
    assert first.find(f"{space}mode/{space}halt") is None
    assert last.findtext(f"{space}mode/{space}halt") == "true"


def test_autoyast_gets_the_prefix_of_its_types() -> None:
    text = "<profile xmlns='http://www.suse.com/1.0/yast2ns'><x config:type='list'/></profile>"
    (problem,) = check(Answers.AUTOYAST, text, "autoinst.xml")
    assert problem.remark and "config" in problem.message
    composed = compose(Answers.AUTOYAST, text, ADDITIONS).decode()
    assert check(Answers.AUTOYAST, composed, "autoinst.xml") == []
    x = ElementTree.fromstring(composed).find("{http://www.suse.com/1.0/yast2ns}x")
    assert x is not None and x.get("{http://www.suse.com/1.0/configns}type") == "list"


def test_a_seen_flag_is_no_value() -> None:
    text = "d-i preseed/late_command string touch /target/x\nd-i preseed/late_command seen true\n"
    lines = compose(Answers.PRESEED, text, ADDITIONS).decode().splitlines()
    assert "d-i preseed/late_command seen true" not in lines
    (late,) = [line for line in lines if "preseed/late_command" in line]
    assert "touch /target/x" in late and "( true" not in late


def test_a_comment_does_not_end_a_continued_line() -> None:
    text = "d-i a/b string c \\\n# why\n\n  d\n"
    assert _values(compose(Answers.PRESEED, text, ADDITIONS).decode())["a/b"] == "c d"


@pytest.mark.parametrize("fails", [False, True])
def test_kickstart_that_is_declared_as_debians(fails: bool, tmp_path: Path) -> None:
    """With %end in it, as some write it for both: the release decides, not the look of the file."""
    text = f"rootpw x\n%post\n{'false' if fails else 'true'}\n%end\n"
    composed = compose(Answers.KICKSTART, text, ADDITIONS, "kickseed").decode()
    assert "--erroronfail" not in composed
    _, theirs, ours = composed.split("%post\n")
    theirs = theirs.replace("%end", "").replace("/tmp/imageflow-failed", str(tmp_path / "failed"))
    subprocess.run(["sh", "-c", theirs], check=False)
    console, _ = _run(ours.replace("/tmp/imageflow-failed", str(tmp_path / "failed")), tmp_path)
    assert (MARKER in console) is not fails


def test_commands_behind_a_section_stay_commands() -> None:
    """Kickseed knows no %end, and takes what follows a section for a part of it."""
    text = "%packages\nopenssh-server\n%end\nrootpw x\n%addon a\nb\n%end\n%post\ntrue\n%end\nlang C\n"
    composed = compose(Answers.KICKSTART, text, ADDITIONS, "debian12").decode()
    lines = composed.splitlines()
    assert lines[:5] == ["poweroff", "rootpw x", "lang C", "%packages", "openssh-server"]
    assert "%end" not in lines and "%addon a" not in lines and "b" not in lines


def test_a_kickstart_without_its_end_is_not_debians() -> None:
    text = KS + "%packages\n@core\n%end\n"
    assert "%post --erroronfail" in compose(Answers.KICKSTART, text, ADDITIONS, "rocky9").decode()


def test_autoinstall_without_its_key() -> None:
    text = "version: 1\nidentity: {username: u, password: p, hostname: h}\n"
    answers = yaml.safe_load(compose(Answers.AUTOINSTALL, text, ADDITIONS))["autoinstall"]
    assert answers["version"] == 1 and MARKER in answers["late-commands"][-1]


def test_autoinstall_that_is_a_template_stays_one() -> None:
    text = "## template: jinja\n#cloud-config\n" + AUTOINSTALL.replace(
        "hostname: h", "hostname: '{{ v1.local_hostname }}'"
    )
    composed = compose(Answers.AUTOINSTALL, text, ADDITIONS).decode()
    assert composed.startswith("## template: jinja\n#cloud-config\n")
    assert "{{ v1.local_hostname }}" in composed


@pytest.mark.parametrize("bad", ["a'b", "a\nb", "$(b)", "`b`", "a\\b", "a;b"])
def test_what_a_shell_would_run_is_no_key(bad: str) -> None:
    with pytest.raises(BadInput):
        compose(Answers.PRESEED, "d-i a/b string c\n", Additions(bad, MARKER))


def test_examples_compose() -> None:
    text = compose(Answers.KICKSTART, (EXAMPLES / "rocky-9.ks").read_text(), ADDITIONS).decode()
    assert check(Answers.KICKSTART, text, "rocky-9.ks", "rhel9") == []
    text = compose(Answers.PRESEED, (EXAMPLES / "debian-12.preseed").read_text(), ADDITIONS).decode()
    assert check(Answers.PRESEED, text, "debian-12.preseed") == []
