"""Broken answer files and ISOs: exit code 2, the line, and nothing made, long before anything boots."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.drivers.fetch import web
from tests.drivers.iso.remastered_iso import plain
from tests.guests import installer
from tests.small.program import Program

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
    "included before there is a network": (SEED + "d-i preseed/include string http://h/more.cfg\n", 2),
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
    """The fifth one, a full disk, is found while it is remastered: tests/drivers/iso/test_iso_remaster_writing.py."""
    (tmp_path / "preseed.cfg").write_text(SEED)
    more = {"sha256": "0" * 64} if kind == "wrong sha256" else {}
    recipe = _recipe(tmp_path, _broken(kind, tmp_path / "it.iso"), "preseed: preseed.cfg", **more)
    said = Program(tmp_path / "state").run("build", "create", str(recipe), expect=2).stderr
    assert "recipe.yaml:4: images[0].iso.file: " in said, said
    assert "it.iso" in said
    assert not (tmp_path / "state" / "builds").exists()


REMARKED = {
    "unknown type": ("preseed", SEED + "d-i passwd/make-user bool false\n", 2),
    "not a boolean": ("preseed", SEED + "d-i passwd/make-user boolean maybe\n", 2),
    "twice": ("preseed", SEED + SEED, 2),
    "included": ("kickstart", KS + "%include http://h/more.ks\n", 9),
}


@pytest.mark.parametrize("name", REMARKED)
def test_what_an_installer_only_warns_of(tmp_path: Path, name: str) -> None:
    kind, text, line = REMARKED[name]
    (tmp_path / "answers").write_text(text)
    recipe = _recipe(tmp_path, installer.iso(), f"{kind}: answers")
    program = Program(tmp_path / "state")
    if kind == "kickstart":  # the ISO of these tests is Debian's
        recipe.write_text(
            recipe.read_text().replace(f"file: {installer.iso()}", f"url: 'http://h/x.iso', sha256: {'a' * 64}")
        )
    assert f"remark: {tmp_path}/answers:{line}: " in program.run("recipe", "validate", str(recipe)).stdout
    (row,) = program.json("recipe", "validate", str(recipe))
    assert [remark.startswith(f"{tmp_path}/answers:{line}: ") for remark in row["remarks"]] == [True]
    if kind == "preseed":
        (row,) = program.json("recipe", "plan", str(recipe))
        assert [remark.startswith(f"{tmp_path}/answers:{line}: ") for remark in row["remarks"]] == [True]
        assert f"remark  {tmp_path}/answers:{line}: " in program.run("recipe", "plan", str(recipe)).stdout


def test_arguments_that_name_other_answers(tmp_path: Path) -> None:
    (tmp_path / "answers").write_text(SEED)
    recipe = _recipe(tmp_path, installer.iso(), "preseed: answers, arguments: 'fb=false url=http://h/x.cfg'")
    (row,) = Program(tmp_path / "state").json("recipe", "validate", str(recipe))
    assert row["remarks"] == ["answers.arguments: url=http://h/x.cfg names other answers beside answers"]


def test_many_remarks_do_not_flood(tmp_path: Path) -> None:
    (tmp_path / "answers").write_text(SEED * 200)
    (row,) = Program(tmp_path / "state").json(
        "recipe", "validate", str(_recipe(tmp_path, installer.iso(), "preseed: answers"))
    )
    assert len(row["remarks"]) == 31 and row["remarks"][-1] == "… and 169 more remarks"


@pytest.mark.parametrize("stored", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("kind", ["kickstart", "preseed"])
def test_answers_of_a_windows_editor(tmp_path: Path, kind: str, stored: str) -> None:
    text = KS if kind == "kickstart" else SEED
    (tmp_path / "answers").write_bytes(text.replace("\n", "\r\n").encode(stored))
    recipe = _recipe(tmp_path, installer.iso(), f"{kind}: answers")
    recipe.write_text(
        recipe.read_text().replace(f"file: {installer.iso()}", f"url: 'http://h/x.iso', sha256: {'a' * 64}")
    )
    said = Program(tmp_path / "state").run("recipe", "validate", str(recipe)).stdout
    assert "has Windows line ends" in said, said
    assert ("is UTF-16" in said) is (stored == "utf-16")


def test_scripts_and_templates_of_a_windows_editor(tmp_path: Path) -> None:
    (tmp_path / "setup.sh").write_bytes(b"set -e\r\ntrue\r\n")
    (tmp_path / "site.conf").write_bytes("a {{ b }}\n".encode("utf-16"))
    (tmp_path / "base.qcow2").write_bytes(b"")
    (tmp_path / "recipe.yaml").write_text(
        "images:\n  - name: x\n    method: boot\n    base: {file: base.qcow2}\n    machine: {disk: 2}\n    configure:\n"
        "      - shell: {source: setup.sh}\n"
        "      - files: [{source: site.conf, path: /etc/site, template: true, variables: {b: c}}]\n"
    )
    said = Program(tmp_path / "state").run("recipe", "validate", str(tmp_path / "recipe.yaml")).stdout
    assert f"remark: {tmp_path}/setup.sh: has Windows line ends" in said, said
    assert f"remark: {tmp_path}/site.conf: is UTF-16" in said


@pytest.mark.parametrize(
    ("tree", "arguments", "told"),
    [
        ({}, "root=live:CDLABEL=LIVE rd.live.image", "this is a live medium (root=live:CDLABEL=LIVE)"),
        ({".discinfo": "1700000000.1\nRocky Linux 9.4\naarch64\n"}, "inst.stage2=hd:LABEL=PLAIN", "is for aarch64"),
        ({".discinfo": "1700000000.1\nRocky Linux 8.9\nx86_64\n"}, "inst.stage2=hd:LABEL=PLAIN", "ks.cfg:1: "),
    ],
    ids=["live", "another processor", "another release"],
)
def test_an_iso_that_does_not_fit(tmp_path: Path, tree: dict[str, str], arguments: str, told: str) -> None:
    """A kickstart that is right for RHEL 9 alone, and ISOs that are none of RHEL 9's for this machine."""
    (tmp_path / "ks.cfg").write_text("rootpw --allow-ssh --lock\nclearpart --all\nautopart\n")
    entry = f"default i\nlabel i\n kernel /images/pxeboot/k\n append initrd=/images/pxeboot/i {arguments}\n"
    files = {"images/pxeboot/k": "k", "images/pxeboot/i": "i", "isolinux/isolinux.cfg": entry, **tree}
    iso = plain(tmp_path, tree=files, without=("install.amd",)).iso
    recipe = _recipe(tmp_path, iso, "kickstart: ks.cfg, release: rhel9")
    said = Program(tmp_path / "state").run("recipe", "validate", str(recipe), expect=2).stderr
    assert told in said, said


def test_a_downloaded_iso_is_compared_when_it_is_here(tmp_path: Path) -> None:
    """Right for RHEL 10 alone, as the recipe says; what comes is another release: nothing boots."""
    text = "rootpw --lock\nclearpart --all\nautopart\nrdp --username=a --password=b\n%include http://h/x\n"
    (tmp_path / "ks.cfg").write_text(text)
    entry = (
        "default i\nlabel i\n kernel /images/pxeboot/k\n append initrd=/images/pxeboot/i inst.stage2=hd:LABEL=PLAIN\n"
    )
    files = {"images/pxeboot/k": "k", "images/pxeboot/i": "i", "isolinux/isolinux.cfg": entry}
    files[".discinfo"] = "1700000000.1\nRocky Linux 9.4\nx86_64\n"
    iso = plain(tmp_path, tree=files, without=("install.amd",)).iso.read_bytes()
    program = Program(tmp_path / "state")
    with web.serving(web.Site(iso)) as site:
        sha256 = hashlib.sha256(iso).hexdigest()
        recipe = _recipe(tmp_path, Path("v.iso"), "kickstart: ks.cfg, release: rocky10", sha256=sha256)
        recipe.write_text(recipe.read_text().replace("file: v.iso", f"url: '{site.url}'"))
        assert "ks.cfg:5: %include" in program.run("recipe", "validate", str(recipe)).stdout
        said = program.run("build", "create", str(recipe), "--wait", expect=None)
    assert said.returncode == 3, said.stderr
    assert "do not fit the ISO (Rocky Linux 9.4): ks.cfg:4: Unknown command: rdp" in said.stdout + said.stderr
    log = program.run("build", "log").stdout
    assert "remark: ks.cfg:1: release: rocky10, but this ISO is Rocky Linux 9.4: it is checked for that" in log
    assert "remark: ks.cfg:5: %include http://h/x" in log
    (build,) = program.json("build", "list")
    program.run("build", "abort", build["id"], "--wait")
