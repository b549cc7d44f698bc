"""What is wrong with an answer file, at which line; and what goes into one on its way to the medium."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from imageflow.errors import BadInput
from imageflow.iso import Additions


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with an answer file."""

    line: int  # from 1; 0: the file as a whole
    message: str
    hint: str = ""


def cleaned(additions: Additions) -> Additions:
    """The additions, which end up between quotes of several languages; raises BadInput when they can't."""
    for what, text in (("key", additions.authorized_key), ("marker", additions.marker), ("console", additions.console)):
        if not re.fullmatch(r"[\w @+=:,./()~-]+", text.strip(), re.ASCII):
            raise BadInput(f"the {what} for the installed system has characters that an answer file can't hold")
    return replace(
        additions,
        authorized_key=additions.authorized_key.strip(),
        marker=additions.marker.strip(),
        console=additions.console.strip(),
    )


def tty(additions: Additions) -> str:
    """Path of the serial console's device."""
    return f"/dev/{additions.console.partition(',')[0]}"


def key_commands(additions: Additions, root: str = "") -> list[str]:
    """Shell commands that let root in by the key, in a system mounted at `root`; each fails when it can't."""
    ssh = f"{root}/root/.ssh"
    servers = " -o ".join(f"-x {root}{path}" for path in ("/usr/sbin/sshd", "/usr/sbin/dropbear", "/usr/bin/sshd"))
    return [
        f"mkdir -p -m 700 {ssh}",
        f"echo '{additions.authorized_key}' >> {ssh}/authorized_keys",
        f"chmod 600 {ssh}/authorized_keys",
        f"{{ test {servers} || {{ echo 'imageflow: the installed system has no SSH server, add one to the answers'"
        f" > {tty(additions)}; false; }}; }}",
    ]


def marker_command(additions: Additions) -> str:
    """The last shell command: says that all before it went well."""
    hold = f"; sleep {additions.hold}" if additions.hold else ""
    return f"sync; echo '{additions.marker}'; echo '{additions.marker}' > {tty(additions)}{hold}"
