"""Broken answer files are refused with the line, before anything boots."""

from __future__ import annotations

from pathlib import Path

import pytest

from imageflow.iso import Answers
from imageflow.iso.answers import AnswerProblem, check

EXAMPLES = Path(__file__).parents[2] / "etc" / "recipes"

KS = "rootpw --lock\nclearpart --all\nautopart\n"

KICKSTARTS = {
    "unknown command": (KS + "paritition /\n", "rhel9", 4, "paritition"),
    "unknown option": (KS + "timezone UTC --nope\n", "rhel9", 4, "--nope"),
    "removed command": (KS + "autostep\n", "RHEL10", 4, "autostep"),
    "bad value": ("rootpw x\nclearpart --all\n\npart / --size=big\n", "RHEL9", 4, "big"),
    "no end": (KS + "%packages\nvim\n", "f40", 5, "%end"),
    "section in a section": (KS + "%packages\nvim\n%post\ntrue\n%end\n", "f40", 6, "%packages"),
    "unknown section": (KS + "%postt\ntrue\n%end\n", "RHEL9", 4, "%postt"),
    "open quote": (KS + 'network --hostname="a\n', "RHEL9", 4, "quot"),
    "unknown release": (KS, "rhle9", 0, "rhle9"),
    "nobody can log in": ("clearpart --all\nautopart\n", "rhel9", 0, "login"),
    "no disk": ("rootpw --lock\n", None, 0, "disk"),
    "kickseed: unknown command": ("rootpw x\nkeybord us\npreseed a/b string c\n", None, 2, "keybord"),
    "kickseed: preseed of two words": ("rootpw x\npreseed a/b string c d\n", None, 2, "VALUE"),
    "kickseed: wrong type": ("rootpw x\npreseed a/b strng c\n", None, 2, "strng"),
    "kickseed: include": ("rootpw x\n%include /tmp/x\n", "kickseed", 2, "%include"),
    "kickseed: too many scripts": ("rootpw x\n" + "%post\ntrue\n" * 10, "KICKSEED", 20, "%post"),
}
PRESEEDS = {
    "three words": ("d-i time/zone\n", 1, "OWNER NAME TYPE"),
    "unknown type": ("\n# so\nd-i time/zone strng UTC\n", 3, "strng"),
    "no boolean": ("d-i clock-setup/utc boolean yes\n", 1, "yes"),
    "no value": ("d-i a/b string\nd-i clock-setup/utc boolean\n", 2, "no value"),
    "twice": ("d-i a/b string x\nd-i c/d string x\nd-i a/b string y\n", 3, "line 1"),
    "NUL": ("d-i a/b string x\nd-i a/c string \0\n", 2, "NUL"),
    "Windows": ("d-i a/b string x\r\n", 1, "Windows"),
    "goes on behind the end": ("d-i a/b string x\nd-i a/c string \\\n", 2, "continued"),
    "no question": ("d-i locale string C\n", 1, "question"),
    "open quote": ("d-i preseed/late_command string echo 'a\n", 1, "quote"),
    "a line of a continued one": ("d-i a/b string x \\\n  y\nfoo\n", 3, "foo"),
    "empty": (" \n", 0, "empty"),
}
AUTOINSTALL = "autoinstall:\n  version: 1\n  identity: {username: u, password: p, hostname: h}\n"
AUTOINSTALLS = {
    "no YAML": ("autoinstall: [\n", 2, "YAML"),
    "no key": ("version: 1\n", 1, "autoinstall"),
    "a list": ("- autoinstall\n", 1, "mapping"),
    "no version": ("autoinstall:\n  identity: {username: u, password: p}\n", 2, "version"),
    "version 2": (AUTOINSTALL.replace("version: 1", "version: 2"), 2, "2"),
    "unknown key": (AUTOINSTALL + "  storge: {}\n", 4, "storge"),
    "wrong type": (AUTOINSTALL + "  packages: vim\n", 4, "a list"),
    "twice": (AUTOINSTALL + "  locale: C\n  locale: D\n", 5, "twice"),
    "asks": (AUTOINSTALL + "  interactive-sections: [network]\n", 4, "ask"),
    "no identity": ("autoinstall:\n  version: 1\n", 2, "identity"),
}
PROFILE = (
    '<profile xmlns="http://www.suse.com/1.0/yast2ns" xmlns:config="http://www.suse.com/1.0/configns">\n%s</profile>'
)
AUTOYASTS = {
    "not closed": (PROFILE % "<general>\n", 3, "well-formed"),
    "another root": ("<?xml version='1.0'?>\n<profil/>", 2, "profil"),
    "no namespace": ("<profile/>", 1, "namespace"),
    "entities": ('<!DOCTYPE p [\n<!ENTITY a "b">]>\n' + PROFILE % "&a;", 2, "entities"),
}


def _one(found: list[AnswerProblem], line: int, words: str) -> None:
    assert found, "it was accepted"
    assert any(problem.line == line and words in problem.message + problem.hint for problem in found), found


@pytest.mark.parametrize("name", KICKSTARTS)
def test_kickstarts(name: str) -> None:
    text, release, line, words = KICKSTARTS[name]
    _one(check(Answers.KICKSTART, text, "ks.cfg", release), line, words)


@pytest.mark.parametrize("name", PRESEEDS)
def test_preseeds(name: str) -> None:
    text, line, words = PRESEEDS[name]
    _one(check(Answers.PRESEED, text, "x.preseed"), line, words)


@pytest.mark.parametrize("name", AUTOINSTALLS)
def test_autoinstalls(name: str) -> None:
    text, line, words = AUTOINSTALLS[name]
    _one(check(Answers.AUTOINSTALL, text, "user-data"), line, words)


@pytest.mark.parametrize("name", AUTOYASTS)
def test_autoyasts(name: str) -> None:
    text, line, words = AUTOYASTS[name]
    _one(check(Answers.AUTOYAST, text, "autoinst.xml"), line, words)


def test_all_errors_of_a_kickstart_are_told() -> None:
    text = KS + "nope\nupgrade\n%packages\nvim\n%end\npart / --size=big\n"
    assert [problem.line for problem in check(Answers.KICKSTART, text, "ks.cfg", "rhel9")] == [4, 5, 9]


def test_a_kickstart_reads_nothing_of_this_host(tmp_path: Path) -> None:
    (tmp_path / "other.ks").write_text("nope\n")
    text = (
        KS + f"%include {tmp_path}/other.ks\n%ksappend {tmp_path}/other.ks\n%packages\n%include {tmp_path}/no\n%end\n"
    )
    assert check(Answers.KICKSTART, text, "ks.cfg", "rhel9") == []


def test_a_near_release_is_suggested() -> None:
    (problem,) = check(Answers.KICKSTART, KS, "ks.cfg", "rhell9")
    assert "RHEL9" in problem.hint


def test_only_kickstarts_have_a_release() -> None:
    assert check(Answers.PRESEED, "d-i a/b string c\n", "x", "rhel9")


def test_good_ones_are_accepted() -> None:
    assert check(Answers.PRESEED, (EXAMPLES / "debian-12.preseed").read_text(), "debian-12.preseed") == []
    for release in ("rhel9", "RHEL10", None):
        assert check(Answers.KICKSTART, (EXAMPLES / "rocky-9.ks").read_text(), "rocky-9.ks", release) == []
    assert check(Answers.AUTOINSTALL, "#cloud-config\n" + AUTOINSTALL, "user-data") == []
    assert check(Answers.AUTOYAST, '<?xml version="1.0"?>\n<!DOCTYPE profile>\n' + PROFILE % "", "autoinst.xml") == []
