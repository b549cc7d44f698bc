"""The provisioner shell in a real Debian system: where scripts stop, and what they see."""

from __future__ import annotations

import pytest

from imageflow.errors import CommandFailed
from tests.drivers.provisioners.provisioned_guest import Site


def test_shell_stops_at_the_first_error_and_sees_its_environment(any_site: Site) -> None:
    site = any_site
    site.apply(
        "shell", {"run": 'echo "$A $TOKEN" > /opt/out\n', "environment": {"A": "ä b", "TOKEN": {"secret": "token"}}}
    )
    assert site.sh("cat /opt/out") == "ä b s3cret-token\n"
    with pytest.raises(CommandFailed, match="shell false ended with exit code 1"):
        site.apply("shell", {"run": "false\ntouch /opt/never"})
    with pytest.raises(CommandFailed):
        site.apply("shell", {"run": "echo $UNSET"})
    assert site.sh("ls /opt/never 2>/dev/null") == ""


def test_a_script_with_an_interpreter_and_one_from_a_file(any_site: Site) -> None:
    site = any_site
    site.write(
        "a.py",
        "#!/usr/bin/env python3\nimport os, sys\nopen('/opt/py', 'w').write(os.environ['TOKEN'] + str(sys.argv[1:]))\n",
    )
    site.apply("shell", {"source": "a.py", "environment": {"TOKEN": {"secret": "token"}}})
    assert site.sh("cat /opt/py") == "s3cret-token[]"
    site.apply("shell", {"run": "#! /bin/bash -u\n[[ $- == *u* ]] && echo bash > /opt/bash; false; exit 0"})
    assert site.sh("cat /opt/bash; ls -A /run/imageflow") == "bash\n"
    with pytest.raises(CommandFailed, match="exit code 127"):
        site.apply("shell", {"run": "#!/no/such/thing\n"})
    with pytest.raises(CommandFailed, match="exit code 9"):
        site.apply("shell", {"run": "#!/bin/sh\nexit 9\n"})


STORED = {
    "Windows": lambda text: text.replace("\n", "\r\n").encode(),
    "Windows with BOM": lambda text: text.replace("\n", "\r\n").encode("utf-8-sig"),
    "UTF-16": lambda text: text.encode("utf-16"),
}


@pytest.mark.parametrize("name", STORED)
def test_a_script_of_a_windows_editor(site: Site, name: str) -> None:
    (site.folder / "a.sh").write_bytes(STORED[name]("set -e\ncase x in\nx) echo shell > /opt/sh ;;\nesac\n"))
    (site.folder / "a.bash").write_bytes(STORED[name]("#!/bin/bash\nset -e\n[[ x == x ]]\necho bash > /opt/bash\n"))
    site.apply("shell", {"source": "a.sh"})
    site.apply("shell", {"source": "a.bash"})
    assert site.sh("cat /opt/sh /opt/bash") == "shell\nbash\n"


def test_a_program_is_left_as_it_is(site: Site) -> None:
    """A self-extracting script: what follows its text is no text."""
    archive = b"\x00\xff\r\n\x01\r\n"
    script = b'#!/bin/sh\ntail -c 7 "$0" > /opt/archive\nexit 0\n'
    (site.folder / "a.run").write_bytes(script + archive)
    site.apply("shell", {"source": "a.run"})
    assert site.sh("od -An -tx1 /opt/archive | tr -d ' \\n'") == archive.hex()
