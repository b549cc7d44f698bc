"""Broken answer files and ISOs: exit code 2, the line, and nothing made, long before anything boots."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli_program import Program
from tests.guests import installer

KS = "lang en_US\nkeyboard us\ntimezone UTC\nrootpw --plaintext x\nclearpart --all\nautopart\nbootloader\npoweroff\n"
KICKSTARTS = {
    "unknown command": (KS + "frobnicate now\n", 9),
    "unknown option": (KS.replace("clearpart --all", "clearpart --frob"), 5),
    "section without an end": (KS + "%packages\n@core\n", 10),
    "unknown section": (KS + "%frob\n%end\n", 9),
    "wrong value": (KS.replace("keyboard us", "firstboot --enable --disable --frob"), 2),
}
SEED = "d-i debian-installer/locale string en_US\n"
PRESEEDS = {
    "no type": (SEED + "d-i passwd/make-user\n", 2),
    "unknown type": (SEED + "d-i passwd/make-user bool false\n", 2),
    "not a boolean": (SEED + "d-i passwd/make-user boolean maybe\n", 2),
    "open continuation": (SEED + "d-i preseed/late_command string true \\\n", 2),
    "a NUL": (SEED + "d-i passwd/make-user boolean false\0\n", 2),
}
CASES = [
    *(("kickstart", "ks.cfg", name, *case) for name, case in KICKSTARTS.items()),
    *(("preseed", "preseed.cfg", name, *case) for name, case in PRESEEDS.items()),
]


def _recipe(folder: Path, iso: Path, answers: str, **more: str) -> Path:
    file = folder / "recipe.yaml"
    sha256 = f", sha256: '{more['sha256']}'" if more else ""
    file.write_text(
        f"images:\n  - name: x\n    method: install\n    iso: {{file: {iso}{sha256}}}\n"
        f"    answers: {{{answers}}}\n    machine: {{disk: 2}}\n"
    )
    return file


@pytest.mark.parametrize(
    ("kind", "file", "text", "line"), [case[:2] + case[3:] for case in CASES], ids=[c[2] for c in CASES]
)
def test_a_broken_answer_file(tmp_path: Path, kind: str, file: str, text: str, line: int) -> None:
    (tmp_path / file).write_text(text)
    recipe = _recipe(tmp_path, installer.iso(), f"{kind}: {file}" + (", release: rhel9" if kind == "kickstart" else ""))
    program = Program(tmp_path / "state")
    for words in (("recipe", "validate"), ("build", "create")):
        said = program.run(*words, str(recipe), expect=2).stderr
        assert f"{file}:{line}: " in said, said
        assert "Traceback" not in said
    assert not (tmp_path / "state").exists()


def _broken(kind: str, to: Path) -> Path:
    whole = installer.iso()
    if kind == "truncated":
        to.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    elif kind == "not an ISO":
        to.write_bytes(b"MZ" + bytes(1 << 20))
    elif kind == "no boot record":
        (to.parent / "tree").mkdir()
        (to.parent / "tree" / "file").write_text("nothing to boot\n")
        subprocess.run(["xorriso", "-as", "mkisofs", "-quiet", "-o", str(to), str(to.parent / "tree")], check=True)
    else:
        shutil.copy(whole, to)
    return to


@pytest.mark.parametrize("kind", ["truncated", "not an ISO", "no boot record", "wrong sha256"])
def test_a_broken_iso(tmp_path: Path, kind: str) -> None:
    """The fifth one, a full disk, is found while it is remastered: tests/drivers/test_iso_remaster_writing.py."""
    (tmp_path / "preseed.cfg").write_text(SEED)
    more = {"sha256": "0" * 64} if kind == "wrong sha256" else {}
    recipe = _recipe(tmp_path, _broken(kind, tmp_path / "it.iso"), "preseed: preseed.cfg", **more)
    said = Program(tmp_path / "state").run("build", "create", str(recipe), expect=2).stderr
    assert "recipe.yaml:4: images[0].iso.file: " in said, said
    assert "it.iso" in said
    assert not (tmp_path / "state" / "builds").exists()
