"""The flight recorder, on consoles of real machines and on what those print that get no further."""

from __future__ import annotations

import gzip
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imageflow.flight import Cause, Limits, Trouble
from imageflow.flight.record import Record, screenshots
from imageflow.flight.screen import COLUMNS, ROWS, Screen
from imageflow.flight.watch import Watch
from tests.examples import examples

CONSOLES = Path(__file__).parent / "consoles"
LIMITS = Limits(stall=300, dialog=45, boots=3)


def console(name: str) -> bytes:
    """What a real machine printed."""
    return gzip.decompress((CONSOLES / f"{name}.gz").read_bytes())


def pieces(data: bytes, largest: int = 300, seed: int = 1) -> Iterator[bytes]:
    chance = random.Random(seed)
    at = 0
    while at < len(data):
        size = chance.randint(1, largest)
        yield data[at : at + size]
        at += size


def silence(watch: Watch, after: float, seconds: float, step: float = 1.0) -> tuple[float, Trouble] | None:
    """Nothing more comes; -> (after how many seconds, what is found)."""
    for number in range(int(seconds / step) + 1):
        if trouble := watch.see(b"", None, after + number * step):
            return number * step, trouble
    return None


def seen(text: str | bytes, *, installer: bool = True) -> Watch:
    """A watch that goes on living, and then sees this at 0 s."""
    watch = Watch(LIMITS, installer=installer)
    watch.see(b"[    0.000000] Linux version 6.1.0\r\n", 0, -1)
    assert watch.see(text.encode() if isinstance(text, str) else text, 0, 0) is None
    return watch


@pytest.mark.parametrize("name", ["debian-preseed", "debian-kickstart"])
@pytest.mark.parametrize("largest", [5, 100, 100_000])
def test_a_real_installation_raises_no_alarm(name: str, largest: int) -> None:
    watch = Watch(LIMITS, installer=True)
    phases: list[str] = []
    fractions = []
    for number, piece in enumerate(pieces(console(name), largest)):
        assert watch.see(piece, number, number * 10.0) is None  # slow, but it moves
        fractions.append(watch.fraction)
        if not phases or phases[-1] != watch.phase:
            phases.append(watch.phase)
    if largest <= 100:
        expected = ["kernel", "first process", "installer starts", "network", "base system", "power off"]
        assert [p for p in phases if p] == expected
    assert fractions == sorted(fractions)
    assert watch.phase == "power off"
    assert watch.fraction == 0.99
    assert watch.said("MARKER-1")
    assert not watch.said("MARKER-")
    assert "reboot: Power down" in watch.last_lines(1)[0]


def test_a_real_boot_waits_at_its_login_prompt_for_ever() -> None:
    watch = Watch(LIMITS, installer=False)
    for number, piece in enumerate(pieces(console("debian-boot"))):
        assert watch.see(piece, None, float(number)) is None
    assert watch.phase == "login prompt"
    assert silence(watch, 1000, 5000) is None


def test_an_installer_that_boots_the_disk_instead() -> None:
    watch = Watch(LIMITS, installer=True)
    watch.see(console("debian-boot"), None, 0)
    found = silence(watch, 0, 100)
    assert found is not None
    assert (found[0], found[1].cause) == (45, Cause.DIALOG)
    assert "kickstarted login:" in found[1].message


def test_the_clock_of_a_status_line_is_no_progress() -> None:
    """d-i on a serial console runs in GNU screen, which draws its status line again every minute."""
    data = console("debian-preseed")
    redraw = data[data.index(b"\x1b[H\x1b[7m\x1b[m\x1b[32m", data.index(b"Installing the base")) :]
    redraw = redraw[: redraw.index(b"]", redraw.index(b"21:43")) + 1]
    watch = Watch(LIMITS, installer=True)
    watch.see(data[: data.index(b"10%", data.index(b"Installing the base")) + 3], 5, 0)
    troubles = []
    for minute in range(1, 7):
        clock = redraw.replace(b"21:43", b"21:%02d" % (43 + minute)) + b"\x1b[24;10H"
        troubles.append(watch.see(clock, 5, minute * 60.0))
    assert troubles[:4] == [None] * 4
    assert troubles[4] is not None and troubles[4].cause is Cause.STALL
    assert "300 s" in troubles[4].message
    assert troubles[4].message.endswith("Installing the base system ... 1%... 10%")


def test_writes_to_the_disk_are_progress_for_a_stall_and_not_for_a_dialog() -> None:
    watch = seen("Unpacking linux-image (6.1.0) ...\r\n")
    for second in range(0, 2000, 20):
        assert watch.see(b"", second, second) is None
    assert silence(watch, 2000, 300) is not None
    watch = seen("Install the system? [y/N]: ")
    found = [watch.see(b"", second, float(second)) for second in range(0, 60, 5)]
    assert found[8] is None
    assert found[9] is not None and found[9].cause is Cause.DIALOG


NEWT = (
    "\x1b[?25l\x1b[H\x1b[2J\x1b[37m\x1b[44m\x1b[7;5H\x1b[30m\x1b[47m┌────────────────┤ [!!] Partition disks ├───────────────┐"
    "\x1b[8;5H│                                                      │\x1b[9;5H│ No root file system is defined.                      │"
    "\x1b[10;5H│                                                      │\x1b[11;5H│     \x1b[37m\x1b[41m<Go Back>\x1b[30m\x1b[47m              <Continue>              │"
    "\x1b[12;5H└──────────────────────────────────────────────────────┘\x1b[24;1H<Tab> moves; <Space> selects; <Enter> activates buttons"
)
VT100 = "\x1b(0" + NEWT.translate(str.maketrans("─│┌┐└┘┤├", "qxlkmjut")).replace(
    "┤", "u"
)  # no UTF-8, but VT100's own frames


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        (NEWT, "a dialog: [!!] Partition disks / No root file system is defined."),
        ("[!!] Configure the keyboard\r\n\r\n  1: American English\r\n  2: Albanian\r\nPrompt: '?' for help> ", "Configure the keyboard"),
        ("Do you want to proceed?\r\n[Press enter to continue] ", "Do you want to proceed?"),
        ("Problem in the kickstart\r\n 1) [x] Language\r\n 5) [!] Installation Destination\r\nPlease make a selection from the above ['b' to begin installation, 'q' to quit,\r\n'r' to refresh]: ", "[!] Installation Destination"),
        ("Continue with autoinstall? (yes|no)", "autoinstall"),
        ("An unknown error has occured. What do you want to do now?\r\n1) Report Bug\r\n2) Debug\r\n3) Quit\r\n\r\nPlease make a selection from the above: ", "Report Bug"),
        ("You are in emergency mode. After logging in\r\nGive root password for maintenance\r\n(or press Control-D to continue): ", "an emergency shell"),
        ("ALERT!  UUID=4711 does not exist.  Dropping to a shell!\r\n\r\nBusyBox v1.35.0\r\n\r\n(initramfs) ", "UUID=4711 does not exist"),
        ("error: no such device: 4711.\r\nEntering rescue mode...\r\ngrub rescue> ", "no such device: 4711"),
        ("ISOLINUX 6.04 20191223\r\nboot: ", "the boot loader's prompt"),
        ("\x1b[2J\x1b[1;1HGNU GRUB  version 2.06\x1b[3;1H*Install\x1b[20;1HUse the ▲ and ▼ keys to select which entry is highlighted.", "a boot menu"),
        ("dracut-initqueue[412]: Warning: dracut-initqueue timeout\r\nGenerating \"/run/initramfs/rdsosreport.txt\"\r\n\r\ndracut:/# ", "rdsosreport"),
        ("┌─────────────────────────────────────┐\r\n│ Error                               │\r\n│ The profile cannot be processed.    │\r\n│             [ OK ]                  │\r\n└─────────────────────────────────────┘", "The profile cannot be processed."),
    ],
)  # fmt: skip
def test_what_waits_for_somebody(text: str, quoted: str) -> None:
    found = silence(seen(text), 0, 100)
    assert found is not None
    assert found[0] == 45
    assert found[1].cause is Cause.DIALOG
    assert quoted in found[1].message, found[1].message
    assert "\x1b" not in found[1].message and "\n" not in found[1].message


@pytest.mark.parametrize(
    ("name", "quoted"),
    [
        (
            "debian-newt-dialog",
            "a dialog: [!!] Select a language / Choose the language to be used for the installation",
        ),
        ("debian-text-dialog", "a question of the installer: Select a language / Choose the language"),
    ],
)
def test_real_dialogs(name: str, quoted: str) -> None:
    watch = Watch(LIMITS, installer=True)
    for number, piece in enumerate(pieces(console(name))):
        assert watch.see(piece, 0, float(number)) is None
    found = silence(watch, 10_000, 100)
    assert found is not None and found[1].cause is Cause.DIALOG
    assert quoted in found[1].message, found[1].message


def test_a_dialog_that_is_drawn_again_and_again_waits_all_the_same() -> None:
    watch = seen(NEWT)
    found = [watch.see(NEWT.encode(), 0, float(second)) for second in range(0, 60, 5)]
    assert [f.cause if f else None for f in found] == [None] * 9 + [Cause.DIALOG] * 3


def test_a_progress_bar_is_no_dialog() -> None:
    bar = "\x1b[H\x1b[2J\x1b[5;5H┌──────┤ Installing the base system ├──────┐\x1b[6;5H│  %3d%%  │\x1b[7;5H│ Unpacking… │\x1b[8;5H└────┘"
    watch = seen(bar % 1)
    for percent in range(2, 100):
        assert watch.see((bar % percent).encode(), 0, percent * 40.0) is None
    assert watch.phase == "base system"
    found = silence(watch, 4000, 400)
    assert found is not None and found[1].cause is Cause.STALL
    assert "Unpacking" in found[1].message


@pytest.mark.parametrize(
    "text",
    [
        "Unpacking kernel-panic-tools (1.0) over (0.9) ...\r\n",
        "[    1.0] Kernel command line: console=ttyS0 panic=-1 auto=true\r\n",
        "         Starting OpenBSD Secure Shell server...\r\n[  OK  ] Started ssh.service - OpenBSD Secure Shell server.\r\n",
        "[  OK  ] Finished Continue booting\r\n[  OK  ] Reached target Multi-User\r\n[  OK  ] Reached target Graphical\r\n",
        "Selecting previously unselected package login:amd64.\r\n",
        "Press <Enter> to continue was answered\r\nInstalling bash (3/100)\r\n",
        "Please press Enter to activate this console.\r\n",
        "No bootable device was looked for, going on\r\nLinux version 6.1\r\n",
    ],
)
def test_no_false_alarm(text: str) -> None:
    found = silence(seen(text), 0, 400)
    assert found is not None
    assert found[1].cause is Cause.STALL


def test_questions_on_a_system_that_just_boots_are_not_the_builds() -> None:
    assert silence(seen("Really go on? (y/n)", installer=False), 0, 200) is None
    found = silence(seen("(initramfs) ", installer=False), 0, 200)
    assert found is not None and found[1].cause is Cause.DIALOG


def test_a_panic_is_told_at_once_with_its_reason() -> None:
    watch = seen("")
    assert (
        watch.see(b"[    2.1] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)", 0, 1)
        is None
    )
    trouble = watch.see(b"\r\n[    2.1] CPU: 0 PID: 1\r\n", 0, 2)
    assert trouble is not None
    assert trouble.cause is Cause.PANIC
    assert trouble.message == "the kernel panicked: VFS: Unable to mount root fs on unknown-block(0,0)"


BOOT = b"SeaBIOS (version 1.16.2)\r\n[    0.000000] Linux version 6.1.0 (x)\r\n[    1.0] reboot: Restarting system\r\n"


def test_a_boot_loop() -> None:
    watch = Watch(LIMITS, installer=False)
    found = [watch.see(BOOT, None, float(turn)) for turn in range(3)]
    assert [f.cause if f else None for f in found] == [None, None, Cause.BOOT_LOOP]


def test_what_a_machine_got_over_before_is_no_trouble() -> None:
    """Another worker takes over a machine that was booted often, and panicked once."""
    watch = Watch(LIMITS, installer=False)
    past = BOOT * 5 + b"[    1.0] Kernel panic - not syncing: long ago\r\n" + BOOT
    assert watch.see(past, None, 0) is None
    assert watch.see(BOOT, None, 1) is None
    assert watch.see(BOOT, None, 2) is not None
    ends_with_it = Watch(LIMITS, installer=False).see(
        BOOT + b"[ 1.0] Kernel panic - not syncing: just now\r\n", None, 0
    )
    assert ends_with_it is not None and ends_with_it.cause is Cause.PANIC


@pytest.mark.parametrize(
    "text",
    [
        "SeaBIOS (version 1.16.2)\r\nBooting from Hard Disk...\r\nBoot failed: not a bootable disk\r\n\r\nNo bootable device.\r\n",
        "BdsDxe: failed to load Boot0001\r\nBdsDxe: No bootable option or device was found.\r\nBdsDxe: Press any key to enter the Boot Manager Menu.\r\n",
    ],
)
def test_the_firmware_says_that_there_is_nothing_to_boot(text: str) -> None:
    found = silence(seen(text), 0, 100)
    assert found is not None
    assert (found[0], found[1].cause) == (5, Cause.NO_BOOT)


def test_a_disk_that_was_booted_and_is_not_heard_of() -> None:
    """A BIOS speaks on the screen only; so does a system without a serial console, but that writes to its disk."""
    found = silence(Watch(LIMITS, installer=False), 0, 300)
    assert found is not None
    assert (found[0], found[1].cause) == (180, Cause.NO_BOOT)
    writes, silent = Watch(LIMITS, installer=False), Watch(LIMITS, installer=True)
    assert [writes.see(b"", second // 100, float(second)) for second in range(0, 2000, 10)] == [None] * 200
    found = silence(silent, 0, 400)
    assert found is not None
    assert (found[0], found[1].cause) == (300, Cause.STALL)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("imageflow: installed 12ab", True),
        ("... 90%imageflow: installed 12ab  ", True),
        ("\x1b[32mimageflow: installed 12ab\x1b[0m", True),
        ("+ echo 'imageflow: installed 12ab'", False),
        ("d-i preseed/late_command string echo 'imageflow: installed 12ab' > /dev/ttyS0", False),
    ],
)
def test_the_marker_is_what_was_said_not_the_command_that_would_say_it(line: str, said: bool) -> None:
    watch = seen(f"before\r\n{line}\r\nafter\r\n")
    assert watch.said("imageflow: installed 12ab") is said


def test_a_marker_stays_said_when_much_comes_after() -> None:
    watch = seen("MARKER\r\n" + "line\r\n" * 4000)
    assert watch.said("MARKER")


def test_phases_of_anaconda() -> None:
    watch = Watch(LIMITS, installer=True)
    told = []
    for line in (
        "Starting installer, one moment...",
        "anaconda 40.22.3.13-1.el10 for Rocky Linux 10 started.",
        "Creating xfs on /dev/vda1",
        "Installing glibc.x86_64 (3/300)",
        "Installing bash.x86_64 (150/300)",
        "Configuring kernel-core.x86_64 (299/300)",
        "Installing boot loader",
        "Running post-installation scripts",
    ):
        watch.see(f"{line}\r\n".encode(), None, 0)
        told.append((watch.phase, round(watch.fraction, 2)))
    assert told[3] == ("install glibc (3 of 300)", 0.35)
    assert told[4] == ("install bash (150 of 300)", 0.55)
    assert [name for name, _ in told[5:]] == ["configure (299 of 300)", "boot loader on disk", "post-installation"]
    assert [f for _, f in told] == sorted(f for _, f in told)


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=30), st.from_regex(rb"\x1b[\[(\])PX78cDEMk#]?[?<]?[0-9;:]{0,12}[@-~]?", fullmatch=True)
        ),
        max_size=60,
    )
)
@examples(3)
def test_no_console_can_break_it(parts: list[bytes]) -> None:
    screen = Screen()
    watch = Watch(LIMITS, installer=True)
    for number, part in enumerate(parts):
        screen.feed(part)
        watch.see(part, number, number * 30.0)
        assert len(screen.rows()) == ROWS
        assert all(len(row) <= COLUMNS for row in screen.rows())
        watch.last_lines(20)


def test_the_screen_is_the_same_however_it_came() -> None:
    data = console("debian-preseed") + NEWT.encode()
    whole, bits = Screen(), Screen()
    whole.feed(data)
    for piece in pieces(data, 7):
        bits.feed(piece)
    assert whole.rows() == bits.rows()
    assert whole.rows()[6].strip().startswith("┌") and "┤ [!!] Partition disks ├" in whole.rows()[6]


def test_a_record_keeps_the_newest_pictures(tmp_path: Path) -> None:
    record = Record(tmp_path / "r", "b-main")
    for number in range(60):
        record.screenshot(lambda: b"picture %d" % (number // 2))  # noqa: B023
    record.end(lambda: None)
    kept = screenshots(tmp_path / "r", "b-main")
    assert len(kept) == 30  # none twice
    assert kept == sorted(kept)
    for number in range(100, 160):
        record.screenshot(lambda: b"picture %d" % number)  # noqa: B023
    record.end(lambda: b"the last")
    kept = screenshots(tmp_path / "r", "b-main")
    assert len(kept) == 50
    assert kept[-1].read_bytes() == b"the last"


def test_a_record_of_a_console_that_several_workers_write(tmp_path: Path) -> None:
    first, second = Record(tmp_path, "b-main"), Record(tmp_path, "b-main")
    first.console(b"one\ntwo\n", 0)
    second.console(b"one\ntwo\nthree\n", 0)
    first.console(b"three\n", 8)
    assert (tmp_path / "b-main.console.log").read_bytes() == b"one\ntwo\nthree\n"


def test_a_record_of_a_second_machine(tmp_path: Path) -> None:
    Record(tmp_path, "b-main").console(b"the first machine, and what it said at length\n", 0)
    Record(tmp_path, "b-main").console(b"the second\n", 0)
    assert (tmp_path / "b-main.console.log").read_bytes() == b"the second\n"
    assert (tmp_path / "b-main.before.log").read_bytes().startswith(b"the first")


def test_a_record_that_cannot_be_written_fails_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    record = Record(tmp_path / "file" / "r", "b-main")
    record.console(b"x", 0)
    record.end(lambda: b"x")
    assert screenshots(tmp_path / "file" / "r") == []
