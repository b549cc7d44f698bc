"""A problem of an answer file with its line, and the commands added to answer files."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from imageflow.errors import BadInput
from imageflow.iso import Additions


@dataclass(frozen=True, slots=True)
class AnswerProblem:
    """One problem of an answer file."""

    line: int  # from 1; 0: the file as a whole
    message: str
    hint: str = ""
    remark: bool = False  # the installer warns of it at most: the build goes on

    def shown(self, name: str) -> str:
        """As a line for people; `name` is the file's."""
        return f"{name}:{self.line or 1}: {self.message}" + (f" ({self.hint})" if self.hint else "")


def remark(line: int, message: str, hint: str = "") -> AnswerProblem:
    """A problem that does not stop the installer."""
    return AnswerProblem(line, message, hint, remark=True)


def cleaned(additions: Additions) -> Additions:
    """The additions, if safe between quotes of all the languages; otherwise raises BadInput."""
    for what, text in (("key", additions.authorized_key), ("marker", additions.marker), ("console", additions.console)):
        if not re.fullmatch(r"[\w @+=:,./()~-]+", text.strip(), re.ASCII):
            raise BadInput(
                f"the {what} for the installed system contains characters that an answer file can't represent"
            )
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
    """Shell commands that authorize root's key in a system mounted at `root`; each fails on an error."""
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
    """The last shell command: reports that everything before it succeeded."""
    hold = f"; sleep {additions.hold}" if additions.hold else ""
    return f"sync; echo '{additions.marker}'; echo '{additions.marker}' > {tty(additions)}{hold}"
