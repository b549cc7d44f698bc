"""Boot entries of isolinux and GRUB: reads the vendor's configurations and writes the one that installs."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

_NOISE = re.compile(r"quiet|splash(=.*)?|rhgb|vga=.*|console=.*|rd\.live\.check|priority=low|theme=.*")
_UNWANTED = re.compile(
    r"rescue|memtest|memory|speech|speakup|expert|upgrade|firmware|harddisk|local|chain|nomodeset|basic graphics"
    r"|troubleshoot|hwe|mediacheck|check(ing)? (the )?(installation )?med|oem",
    re.IGNORECASE,
)
_LIVE = re.compile(r"(?:^|\s)(?:root=live:|rd\.live\.image|boot=(?:live|casper))")
_INSTALLS = re.compile(r"(?:^|\s)inst\.(?:stage2|repo)=")
# kernel arguments that name answers, or where to look for them: of Anaconda, Debian's installer, subiquity and YaST
_ANSWERS = re.compile(
    r"(?:inst\.)?ks(?:=.*|device=.*|strict|\..*)?|(?:inst\.)?kssend(?:mac|sn)"
    r"|(?:\w+[:?])?(?:preseed/(?:file|url|include|include_command|run)(?:/checksum)?|preseed-md5|file|url)\??=.*"
    r"|auto(?:=.*)?|auto-install/.*|(?:\w+[:?])?preseed/(?:early|late)_command\??=.*|classes=.*"
    r"|autoinstall|subiquity\.autoinstallpath=.*|ds=.*|cloud-config-url=.*"
    r"|(?i:autoyast2?)=.*|inst\.(?:auto|script)=.*|info=.*"
)
_GRUB_LINUX = ("linux", "linuxefi", "linux16")
_GRUB_INITRD = ("initrd", "initrdefi", "initrd16")
_PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./~^\\-]+")
_MOST_INCLUDES = 30


@dataclass(frozen=True, slots=True)
class BootEntry:
    """An entry of a boot menu."""

    title: str
    kernel: str  # absolute paths on the medium
    initrds: tuple[str, ...]
    arguments: str  # as in the configuration, without initrd=
    default: bool
    loader: str  # isolinux, grub
    verb: str = "linux"  # GRUB's command

    @property
    def unwanted(self) -> bool:
        """Whether it is not for an ordinary installation."""
        return bool(_UNWANTED.search(self.title) or re.search(r"rescue|memtest", f"{self.kernel} {self.arguments}"))

    @property
    def live(self) -> bool:
        """Whether it starts a live system instead of an installer."""
        return bool(_LIVE.search(self.arguments)) and not _INSTALLS.search(self.arguments)

    @property
    def graphical(self) -> bool:
        """Whether it is Debian's graphical installer, which has another initrd."""
        return any("/gtk/" in initrd for initrd in self.initrds)


def isolinux_entries(path: str, text: str, read: Callable[[str], str | None]) -> list[BootEntry]:
    """Entries of an isolinux or syslinux configuration at `path`; `read` returns the text of included files."""
    folder = posixpath.dirname(path)
    default, ontimeout, menu_default = "", "", -1
    global_append = ""
    raw: list[dict[str, str]] = []
    for line in _included(text, folder, read, [_MOST_INCLUDES]):
        word, _, rest = line.strip().partition(" ") if "\t" not in line else _split(line)
        word, rest = word.lower(), rest.strip()
        if word == "label":
            raw.append({"label": rest, "title": rest})
        elif word == "default" and rest:
            default = rest
        elif word == "ontimeout":
            ontimeout = rest
        elif word == "menu" and rest.lower() == "default" and raw:
            menu_default = len(raw) - 1
        elif word == "menu" and rest.lower().startswith("label ") and raw:
            raw[-1]["title"] += " " + rest[6:].replace("^", "")
        elif word == "append":
            if raw:
                raw[-1]["append"] = rest
            else:
                global_append = rest
        elif word in ("kernel", "linux", "initrd") and raw:
            raw[-1]["kernel" if word == "linux" else word] = rest
    found = []
    for number, entry in enumerate(raw):
        words = entry.get("append", global_append).split()
        initrds = entry.get("initrd", "")
        for word in words:
            if word.startswith("initrd="):
                initrds = word[7:]
        if not entry.get("kernel") or entry["kernel"].lower().endswith((".c32", ".bin", ".0", ".bss")) or not initrds:
            continue
        wanted = ontimeout or default
        found.append(
            BootEntry(
                entry["title"],
                _absolute(folder, entry["kernel"].split()[0]),
                tuple(_absolute(folder, name) for name in initrds.split(",")),
                " ".join(word for word in words if not word.startswith("initrd=") and word != "-"),
                number == menu_default if menu_default >= 0 else entry["label"].lower() == wanted.lower(),
                "isolinux",
            )
        )
    return found


def grub_entries(text: str) -> list[BootEntry]:
    """Entries of a GRUB configuration, submenus included."""
    match = re.search(r"^\s*set\s+default=[\"']?(\w+)", text, re.MULTILINE)
    default = match[1] if match else "0"
    found: list[BootEntry] = []
    number = -1
    title: str | None = None
    kernel, arguments, verb = "", "", "linux"
    initrds: tuple[str, ...] = ()
    depth = opened = 0
    for line in text.replace("\\\n", " ").splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            continue
        head = re.match(r"menuentry\s+(?:--?\S+\s+)*(\"[^\"]*\"|'[^']*'|\S+)", stripped)
        if head:
            title, opened = head[1].strip("\"'"), depth
            kernel, arguments, verb, initrds = "", "", "linux", ()
            number += opened == 0
            rest = stripped[stripped.rfind("{") + 1 :] if "{" in stripped else ""
        else:
            rest = stripped
        for command in re.split(r";(?=\s|$)|\s}", rest) if title is not None else ():
            words = command.split()
            if len(words) > 1 and words[0] in _GRUB_LINUX:
                verb, kernel, arguments = words[0], _grub_path(words[1]), " ".join(words[2:])
            elif len(words) > 1 and words[0] in _GRUB_INITRD:
                initrds = tuple(_grub_path(word) for word in words[1:] if not word.startswith("-"))
        bare = re.sub(r"\"[^\"]*\"|'[^']*'|\$\{[^}]*\}", "", stripped)
        depth += bare.count("{") - bare.count("}")
        if title is not None and depth <= opened and "}" in bare:
            if kernel and initrds:
                first = opened == 0 and (str(number) == default or title == default)
                found.append(BootEntry(title, kernel, initrds, arguments, first, "grub", verb))
            title = None
    return found


def choose(entries: Sequence[BootEntry]) -> BootEntry | None:
    """The entry to install with: the vendor's default, or the closest one that installs in text mode."""
    ranked = sorted(entries, key=lambda entry: (entry.unwanted, entry.live, entry.graphical, not entry.default))
    return ranked[0] if ranked else None


def unattended(entry: BootEntry, initrds: Sequence[str], ours: Sequence[str], console: str, divided: bool) -> BootEntry:
    """The entry with our initrds and arguments, for a serial console; without the vendor's own answers.

    `divided`: this installer passes the arguments after '---' on to the installed system.
    """
    words = [word for word in entry.arguments.split() if not names_answers(word)]
    mark = next((mark for mark in ("---", "--") if mark in words), None)
    place = words.index(mark) if mark else len(words)
    before = [word for word in words[:place] if not _NOISE.fullmatch(word) and word not in ours]
    after = [word for word in words[place + 1 :] if not _NOISE.fullmatch(word)]
    quoted = [grub_word(word) for word in ours] if entry.loader == "grub" else list(ours)
    arguments = [*before, *quoted]
    if mark or divided:
        arguments += [mark or "---", f"console={console}", *after]
    else:
        arguments.append(f"console={console}")
    return replace(entry, initrds=(*entry.initrds, *initrds), arguments=" ".join(arguments), default=True)


def names_answers(word: str) -> bool:
    """Whether a kernel argument names an answer file, or where to look for one."""
    return _ANSWERS.fullmatch(word.strip("\"'")) is not None


def as_isolinux(entry: BootEntry, console: str) -> bytes:
    """A configuration that boots this entry at once."""
    speed = console.partition(",")[2].rstrip("noe8") or "115200"
    port = console.partition(",")[0].removeprefix("ttyS")
    lines = [
        "# written by imageflow: one entry, booted at once",
        *([f"serial {port} {speed}"] if port.isdigit() else []),
        "default imageflow",
        "prompt 0",
        "timeout 1",
        "label imageflow",
        f"  kernel {entry.kernel}",
        f"  append initrd={','.join(entry.initrds)} {entry.arguments}",
    ]
    return ("\n".join(lines) + "\n").encode()


def as_grub(entry: BootEntry, console: str, landmark: str) -> bytes:
    """A configuration that boots this entry at once from the volume that has the file `landmark`."""
    speed = re.match(r"\d+", console.partition(",")[2] or "115200")
    port = console.partition(",")[0].removeprefix("ttyS")
    lines = ["# written by imageflow: one entry, booted at once"]
    if port.isdigit():
        lines += [
            f"if serial --unit={port} --speed={speed[0] if speed else 115200}; then",
            "  terminal_output console serial",
            "fi",
        ]
    lines += [
        search(landmark),
        "set default=0",
        "set timeout=0",
        "menuentry 'imageflow' {",
        f"  {entry.verb} {grub_word(entry.kernel)} {entry.arguments}",
        f"  {entry.verb.replace('linux', 'initrd')} {' '.join(grub_word(initrd) for initrd in entry.initrds)}",
        "}",
    ]
    return ("\n".join(lines) + "\n").encode()


def search(landmark: str) -> str:
    """GRUB's command that makes the volume with this file its root."""
    return f"search --no-floppy --set=root --file {landmark}"


def grub_word(word: str) -> str:
    """Quote a word for GRUB's script language."""
    if _PLAIN.fullmatch(word) and "\\" not in word:
        return word
    return "'" + word.replace("'", "'\\''") + "'"


def _included(text: str, folder: str, read: Callable[[str], str | None], left: list[int]) -> Iterator[str]:
    for line in text.splitlines():
        words = line.split()
        at = 1 if len(words) > 1 and words[0].lower() == "include" else 0
        if len(words) > 2 and words[0].lower() == "menu" and words[1].lower() == "include":
            at = 2
        if not at:
            yield line
        elif left[0] > 0:
            left[0] -= 1
            more = read(_absolute(folder, words[at]))
            if more is not None:
                yield from _included(more, folder, read, left)


def _absolute(folder: str, path: str) -> str:
    return posixpath.normpath(posixpath.join(folder or "/", path))


def _grub_path(word: str) -> str:
    word = re.sub(r"^\(\$?\{?\w*\}?\)", "", word.strip("\"'"))
    return posixpath.normpath(word) if word.startswith("/") else word


def _split(line: str) -> tuple[str, str, str]:
    words = line.split(None, 1)
    return words[0] if words else "", " ", words[1] if len(words) > 1 else ""


def borrowed(entry: BootEntry, loader: str) -> BootEntry:
    """Another loader's entry, adapted to this loader."""
    return replace(entry, loader=loader, verb="linux")
