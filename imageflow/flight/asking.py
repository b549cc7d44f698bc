"""Recognises questions on the screen of an unattended machine."""

from __future__ import annotations

import re
from collections.abc import Sequence

_QUOTED = 240  # characters
# Drawn dialogs, anywhere on the screen. A systemd message such as '[  OK  ] Started' is not a button.
_BUTTON = re.compile(
    r"<\s*(Go Back|Continue|OK|Ok|Yes|No|Cancel|Back|Next|Abort|Retry|Quit|Exit|Help|Select|Reboot|Skip)\s*>"
    r"|(?<=.)\[\s*(OK|Next|Abort|Back|Yes|No|Cancel|Retry|Accept|Done|Continue(?: in \w+ mode +>)?)\s*\]"
)
_FRAME = re.compile(r"[│┌┐└┘├┤─━┃║═]|^\s*\|.*\|\s*$|^\s*[+][-+]{8,}")
_TITLE = re.compile(r"[┤|]\s*(?P<title>[^┤├|│─]*\w[^┤├|│─]*?)\s*[├|]")
_BOOT_MENUS = (
    re.compile(r"keys to select which entry is highlighted|Use the \S+ and \S+ keys to (select|change the selection)"),
    re.compile(r"Press \[?(TAB|Tab)\]? to edit options|Press ENTER to boot or TAB to edit|Press F1 for help"),
)
# The cursor's row: questions in lines of text.
_SHELLS = (
    (
        re.compile(
            r"^(Give root password for maintenance|\(or press Control-D to continue\):|Press Enter for maintenance)"
        ),
        "an emergency shell",
    ),
    (re.compile(r"^(\(initramfs\)|dracut:/#|:/#|sh-[\d.]+#|bash-[\d.]+#|rescue:~#|~ ?#|/ ?#)"), "a rescue shell"),
    (re.compile(r"^grub( rescue)?>"), "GRUB's shell"),
    (re.compile(r"^boot: ?$"), "the boot loader's prompt"),
    (re.compile(r"^Please enter passphrase for disk|^Enter passphrase for"), "a question for a disk's passphrase"),
)
_QUESTIONS = (
    (re.compile(r"Prompt: '\?' for help"), "a question of the installer"),
    (
        re.compile(r"\[?Press (<?Enter>?|RETURN|any key) to (continue|exit|return|quit|reboot|restart)", re.I),
        "a key to be pressed",
    ),
    (
        re.compile(r"Please (make a selection|make your choice) from|\['?c'? to continue|'q' to quit"),
        "a menu of the installer",
    ),
    (
        re.compile(r"Please respond '?yes'? or '?no'?|[\[(](y/n|y/N|Y/n|yes/no|yes\|no|Yes/No)[\])]\s*[?:]?\s*$"),
        "a question",
    ),
    (re.compile(r"\w.*\?\s*$|(?i:password|passphrase|user ?name|choose an option)[^:]{0,20}:\s*$"), "a question"),
)
_LOGIN = re.compile(r"(^|\s)login: ?$")
_NOT_BOOTABLE = re.compile(
    r"^(No bootable device\.?|Boot failed: (not a bootable disk|could not read the boot disk)|Non-system disk.*"
    r"|BdsDxe: No bootable option.*|PXE-E\d.*|(FATAL: )?operating system not found\.?|No more network devices"
    r"|Shell>)"  # of UEFI, where it gets when nothing else is there
    r"( Retrying in .*)?$",
    re.I,
)


def question(rows: Sequence[str], at_cursor: str, *, installer: bool) -> str | None:
    """What a machine waits for, as a message that quotes the screen; None when it does not wait for input.

    `rows` of its screen, unchanged for a while, and the text left of the cursor. Only an `installer` is assumed
    to ask questions of its own; shells and boot menus can appear on any machine.
    """
    last = _last(rows)
    prompt = at_cursor.strip() or (last[-1] if last else "")
    for pattern, what in _SHELLS:
        if pattern.search(prompt):
            return f"{what}: {_quote([*last[-6:-1], prompt])}"
    if any(pattern.search(row) for row in rows for pattern in _BOOT_MENUS):
        return f"a boot menu: {_quote(last)}"
    if not installer:
        return None
    if any(_BUTTON.search(row) for row in rows) and sum(bool(_FRAME.search(row)) for row in rows) >= 3:
        return f"a dialog: {_dialog(rows)}"
    asked = " ".join([*last[-3:-1], prompt])  # a long one spans several rows
    for pattern, what in _QUESTIONS:
        if pattern.search(prompt) or (at_cursor.strip() and pattern.search(asked)):
            return f"{what}: {_quote([*last[-8:-1], prompt])}"
    return f"a login prompt, so this is not the installer: {prompt}" if _LOGIN.search(prompt) else None


def at_login(at_cursor: str) -> bool:
    """Whether the machine is up and shows a login prompt."""
    return bool(_LOGIN.search(at_cursor))


def nothing_to_boot(rows: Sequence[str]) -> bool:
    """Whether the firmware reports it, with no later output."""
    return any(_NOT_BOOTABLE.search(row) for row in _last(rows)[-4:])


def _last(rows: Sequence[str]) -> list[str]:
    return [text for row in rows if (text := readable(row))]


def _dialog(rows: Sequence[str]) -> str:
    """The title and the text of a drawn dialog."""
    title = next((found["title"].strip() for row in rows if (found := _TITLE.search(row)) and "├" in row), "")
    inside = [row for row in rows if _FRAME.search(row) and not (title and title in row)]
    text = [line for row in inside if (line := readable(_BUTTON.sub(" ", row)))]
    return _quote([title, *text] if title else text)


def _quote(rows: Sequence[str]) -> str:
    text = " / ".join(row for row in rows if row)
    return text if len(text) <= _QUOTED else text[: _QUOTED - 1] + "…"


_FRAMES = re.compile(r"[─-╿▀-▟◆]+|(?<!\S)[|+](?!\S)|[-_=]{5,}")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_STATUS = re.compile(r"\[[^\[\]]*\(\d\S?\w+\)[^\[\]]*\]\[[^\[\]]*\]")  # of GNU screen, in which installers run


def readable(line: str) -> str:
    """A line without the frame drawn around it."""
    return " ".join(_CONTROLS.sub(" ", _FRAMES.sub(" ", _STATUS.sub(" ", line))).split())
