"""What stops an installer is an error; what it only warns of, or reads over, is a remark."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from imageflow.errors import Exceeded
from imageflow.iso import Additions, Answers
from imageflow.iso.answers import check, compose, grammar, read
from tests.unit.test_answers_broken import AUTOINSTALL, KS, PROFILE

ADDITIONS = Additions("ssh-ed25519 AAAA imageflow", "imageflow: installed 0")
ERROR, REMARK, NOTHING = "error", "remark", ""

PRESEEDS = {
    "twice": ("d-i a/b string x\nd-i a/b string y\n", 2, REMARK),
    "twice, by another owner": ("d-i a/b string x\nfoo a/b string y\n", 2, REMARK),
    "no slash": ("d-i keymap select us\n", 1, REMARK),
    "unknown type": ("d-i a/b bool true\n", 1, REMARK),
    "no boolean": ("d-i a/b boolean yes\n", 1, REMARK),
    "no value": ("d-i a/b select\n", 1, REMARK),
    "fetched later": ("d-i preseed/url string http://h/x.cfg\n", 1, REMARK),
    "fetched by a command": ("d-i preseed/include_command string echo x\n", 1, REMARK),
    "included from the initrd": ("d-i preseed/include string more.cfg\n", 1, REMARK),
    "included before there is a network": ("d-i preseed/include string http://h/x.cfg\n", 1, ERROR),
    "run before there is a CD": ("d-i preseed/run string /cdrom/x.sh\n", 1, ERROR),
    "no type": ("d-i a/b\n", 1, ERROR),
    "open quote": ("d-i preseed/late_command string echo 'a\n", 1, ERROR),
    "continued at the end": ("d-i a/b string c \\\n# end\n", 1, ERROR),
    "seen": ("d-i a/b string x\nd-i a/b seen false\n", 0, NOTHING),
    "empty string": ("d-i mirror/http/proxy string\n", 0, NOTHING),
    "a comment in a continued line": ("d-i a/b string c \\\n# why\n  d\n", 0, NOTHING),
    "an indented comment": ("  # why not\nd-i a/b string c\n", 0, NOTHING),
    "tabs": ("d-i\ta/b\tstring\tc\n", 0, NOTHING),
}
AUTOINSTALLS = {
    "unknown key": (AUTOINSTALL + "  foo: {}\n", 4, REMARK),
    "twice": (AUTOINSTALL + "  locale: C\n  locale: D\n", 5, REMARK),
    "an unknown key below": (AUTOINSTALL + "  ssh:\n    authorized_keys: []\n", 5, REMARK),
    "without autoinstall:": ("version: 1\nidentity: {username: u, password: p, hostname: h}\n", 1, REMARK),
    "beside autoinstall:": (AUTOINSTALL + "late-commands: []\n", 4, REMARK),
    "a colon in a command": (AUTOINSTALL + "  late-commands:\n    - sed -i 's/color: blue/red/' /x\n", 5, ERROR),
    "a number in a command": (AUTOINSTALL + "  early-commands: [[chmod, 600, x]]\n", 4, ERROR),
    "no command at all": (AUTOINSTALL + "  error-commands:\n", 4, ERROR),
    "no hostname": ("autoinstall:\n  version: 1\n  identity: {username: u, password: p}\n", 3, ERROR),
    "another key in identity": (AUTOINSTALL.replace("h}", "h, uid: 1}"), 3, ERROR),
    "quoted boolean": (AUTOINSTALL + "  ssh: {install-server: 'yes'}\n", 4, ERROR),
    "keys as text": (AUTOINSTALL + "  ssh:\n    authorized-keys: ssh-ed25519 AAAA\n", 5, ERROR),
    "snaps as names": (AUTOINSTALL + "  snaps: [lxd]\n", 4, ERROR),
    "no such updates": (AUTOINSTALL + "  updates: none\n", 4, ERROR),
    "no layout": (AUTOINSTALL + "  keyboard: {variant: dvorak}\n", 4, ERROR),
    "another layout key": (AUTOINSTALL + "  keyboard: {layout: us, model: pc105}\n", 4, ERROR),
    "network version 1": (AUTOINSTALL + "  network: {version: 1}\n", 4, ERROR),
    "network in network": (AUTOINSTALL + "  network: {network: {version: 1}}\n", 4, ERROR),
    "a mapping as package": (AUTOINSTALL + "  packages:\n    - vim\n    - nginx: 1\n", 6, ERROR),
    "a number as source": (AUTOINSTALL + "  source: {id: 5}\n", 4, ERROR),
    "quoted codecs": (AUTOINSTALL + "  codecs: {install: 'true'}\n", 4, ERROR),
    "quoted geoip": (AUTOINSTALL + "  apt:\n    geoip: 'no'\n", 5, ERROR),
    "another mirror": (AUTOINSTALL + "  apt: {mirror-selection: {primary: [fastest]}}\n", 4, ERROR),
    "no kernel": (AUTOINSTALL + "  kernel: {}\n", 4, ERROR),
    "no time zone": (AUTOINSTALL + "  timezone: Europe/Berln\n", 4, ERROR),
    "reporting without type": (AUTOINSTALL + "  reporting: {central: {level: INFO}}\n", 4, ERROR),
    "a merged mapping": ("x-all: &all {locale: C}\n" + AUTOINSTALL + "  <<: *all\n", 0, NOTHING),
    "a shutdown that ours replaces": (AUTOINSTALL + "  shutdown: halt\n", 0, NOTHING),
    "everything": (
        AUTOINSTALL
        + "  late-commands: [\"sed 's/a: b/c/' x\", [chmod, '600', x]]\n  snaps: [{name: lxd, classic: true}]\n"
        "  network: {version: 2, ethernets: {e: {dhcp4: true}}}\n  timezone: Europe/Berlin\n  oem: {install: auto}\n"
        "  apt: {mirror-selection: {primary: [country-mirror, {uri: 'http://h/'}]}, fallback: offline-install}\n"
        "  proxy:\n  updates: all\n  kernel: {flavor: hwe}\n  ssh: {install-server: yes, authorized-keys: []}\n",
        0,
        NOTHING,
    ),
}
AUTOYASTS = {
    "two types": (PROFILE % "<general><x t='list' config:type='list'/></general>\n", 2, ERROR),
    "no boolean": (PROFILE % "<general>\n<x t='boolean'>yes</x></general>\n", 3, ERROR),
    "no number": (PROFILE % "<general>\n<x config:type='integer'>big</x></general>\n", 3, ERROR),
    "no type of YaST's": (PROFILE % "<x t='bool'>true</x>\n", 2, ERROR),
    "text and elements": (PROFILE % "<x>a<y>b</y></x>\n", 2, ERROR),
    "a question": (PROFILE % "<general><ask-list t='list'>\n<ask t='map'><question>?</question></ask></ask-list></general>", 3, ERROR),
    "a question with a time": (
        PROFILE % "<general><ask-list t='list'><ask><timeout t='integer'>9</timeout></ask></ask-list></general>",
        0,
        NOTHING,
    ),
    "a script from elsewhere": (
        PROFILE % "<scripts><x t='list'><script>\n<location>http://h/x.sh</location></script></x></scripts>",
        3,
        REMARK,
    ),
    "no namespace": ("<profile><general/></profile>", 1, REMARK),
    "types of both notations": (PROFILE % "<x t='boolean'> true </x><y config:type='symbol'>a</y>", 0, NOTHING),
    "an empty string in CDATA": (PROFILE % "<x><![CDATA[]]></x>", 0, NOTHING),
}  # fmt: skip
KICKSTARTS = {
    "a clone's name": (KS, "rocky8", 0, NOTHING),
    "another": (KS, "CentOS Stream 9", 0, NOTHING),
    "a Fedora": (KS, "fedora40", 0, NOTHING),
    "what only the old one has": ("install\n" + KS, "centos7", 0, NOTHING),
    "what the new one removed": ("install\n" + KS, "rhel9", 1, ERROR),
    "what the old one has, unsaid": ("install\n" + KS, None, 1, REMARK),
    "no %end in RHEL 6": ("rootpw x\nclearpart --all\nautopart\n%packages\n@core\n", "centos6", 4, REMARK),
    "no %end": (KS + "%packages\n@core\n", None, 5, ERROR),
    "no %end in the middle": (KS + "%packages\n@core\n%post\ntrue\n%end\n", "alma9", 6, ERROR),
    "deprecated": (KS + "authconfig --enableshadow\n", "rhel8", 0, REMARK),
    "an include": (KS + "%include http://h/more.ks\n", "rhel9", 4, REMARK),
    "an include that is made": (KS + "%include /tmp/more.ks\n", "rhel9", 0, NOTHING),
    "wrong for all": (KS + "frobnicate\n", None, 4, ERROR),
}
KICKSEED = {
    "unknown command": ("rootpw x\nautopart\n", 2, REMARK),
    "unknown section": ("rootpw x\n%addon a\nb\n%end\n", 2, REMARK),
    "wrong type": ("rootpw x\npreseed a/b strng c\n", 2, REMARK),
    "two words as value": ("rootpw x\npreseed a/b string c d\n", 2, REMARK),
    "no boolean": ("rootpw x\npreseed a/b boolean maybe\n", 2, REMARK),
    "open quote": ("rootpw x\npreseed a/b string 'c\n", 2, ERROR),
    "an include": ("rootpw x\n%include /tmp/x\n", 2, ERROR),
    "an include that is made": ("rootpw x\n%include /tmp/x\n%pre\necho > /tmp/x\n", 0, NOTHING),
    "no login": ("lang C\n", 0, ERROR),
}


def _expect(kind: Answers, text: str, line: int, what: str, release: str | None = None) -> None:
    found = check(kind, text, "answers", release)
    if what == NOTHING:
        assert found == []
        return
    assert {problem.line for problem in found if problem.remark is (what == REMARK)} == {line}, found
    if what == REMARK:
        assert all(problem.remark for problem in found), found
        compose(kind, text, ADDITIONS, release)


@pytest.mark.parametrize("name", PRESEEDS)
def test_preseeds(name: str) -> None:
    _expect(Answers.PRESEED, *PRESEEDS[name])


@pytest.mark.parametrize("name", AUTOINSTALLS)
def test_autoinstalls(name: str) -> None:
    _expect(Answers.AUTOINSTALL, *AUTOINSTALLS[name])


@pytest.mark.parametrize("name", AUTOYASTS)
def test_autoyasts(name: str) -> None:
    _expect(Answers.AUTOYAST, *AUTOYASTS[name])


@pytest.mark.parametrize("name", KICKSTARTS)
def test_kickstarts(name: str) -> None:
    text, release, line, what = KICKSTARTS[name]
    _expect(Answers.KICKSTART, text, line, what, release)


@pytest.mark.parametrize("name", KICKSEED)
def test_kickseeds(name: str) -> None:
    _expect(Answers.KICKSTART, *KICKSEED[name], "kickseed")


def test_the_version_that_anaconda_wrote_is_tried_first() -> None:
    """All of these take it: the file says which of them it is of."""
    for version, used in (("RHEL7", "RHEL7"), ("F28", "F28"), ("DEVEL", "RHEL8")):
        found = check(Answers.KICKSTART, f"#version={version}\ninstall\n{KS}", "ks.cfg")
        assert any(f"it is checked as for {used}" in problem.message for problem in found), found


def test_a_command_that_became_a_mapping_is_told_as_one() -> None:
    text = AUTOINSTALL + "  late-commands:\n    - sed -i 's/a: b/c/' /x\n"
    (problem,) = check(Answers.AUTOINSTALL, text, "user-data")
    assert "became a mapping" in problem.message and "between quotes" in problem.hint


@pytest.mark.parametrize(
    ("release", "hint"),
    [("rhel99", "RHEL"), ("rhell9", "RHEL9"), ("slackware", f"such as {grammar.newest('RHEL')}, rocky9")],
)
def test_an_unknown_release_is_told_with_a_known_one(release: str, hint: str) -> None:
    (problem,) = check(Answers.KICKSTART, KS, "ks.cfg", release)
    assert not problem.remark and hint in problem.hint


def test_a_profile_in_another_encoding() -> None:
    text = '<?xml version="1.0" encoding="ISO-8859-1"?>\n' + PROFILE % "<x>grüße</x>"
    found = read(Answers.AUTOYAST, text.encode("latin-1")).text
    assert check(Answers.AUTOYAST, found, "autoinst.xml") == []
    assert "grüße" in compose(Answers.AUTOYAST, found, ADDITIONS).decode()


def test_pykickstart_stays_in_its_own_program() -> None:
    code = (
        "import sys\nfrom imageflow.iso import Answers\nfrom imageflow.iso.answers import check\n"
        "found = check(Answers.KICKSTART, 'rootpw x\\nno-such-word\\n', 'ks.cfg', 'rhel9')\n"
        "assert [one.line for one in found if not one.remark][0] == 2, found\n"
        "assert not [name for name in sys.modules if name.startswith('pykickstart')]\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_pykickstart_a_remark_says_that_nothing_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar, "available", lambda: False)
    grammar.releases.cache_clear()
    try:
        for release in (None, "rhel9", "no-such-release"):
            [found, *_questions] = check(Answers.KICKSTART, "no-such-word\n", "ks.cfg", release)
            assert found.remark and "not checked" in found.message and "imageflow[kickstart]" in found.hint
    finally:
        grammar.releases.cache_clear()


def test_a_kickstart_that_takes_too_much_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar, "_LONGEST", 1.5)
    with pytest.raises(Exceeded, match="the check of the kickstart took too much"):
        check(Answers.KICKSTART, "user --name=a\n" * 60_000, "ks.cfg", "rhel9")


def test_a_long_script_is_read_at_once() -> None:
    text = PROFILE % ("<source>" + "x\n" * 400_000 + "</source>\n")
    before = time.process_time()
    assert check(Answers.AUTOYAST, text, "autoinst.xml") == []
    assert time.process_time() - before < 2


def test_elements_without_end() -> None:
    text = PROFILE % ("<a>" * 100_000 + "</a>" * 100_000)
    (problem,) = check(Answers.AUTOYAST, text, "autoinst.xml")
    assert "nested deeper" in problem.message and problem.line == 2


@pytest.mark.parametrize("stored", ["utf-8-sig", "utf-16"])
def test_a_kickstart_of_a_windows_editor(stored: str) -> None:
    found = read(Answers.KICKSTART, KS.replace("\n", "\r\n").encode(stored)).text
    assert found == KS
