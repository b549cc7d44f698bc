"""The provisioner files in a real Debian system: files and templates, as they were when the build was planned."""

from __future__ import annotations

import pytest

from imageflow.errors import BadInput, InputChanged
from tests.drivers.provisioners.provisioned_guest import Site


def test_files_templates_modes_and_owners(any_site: Site) -> None:
    site = any_site
    site.write("site.conf", "é\n\n")
    site.write("page.j2", "{% for name in names %}{{ loop.index }}:{{ name | upper }} {% endfor %}{{ token }}\n")
    site.apply(
        "files",
        [
            {"source": "site.conf", "path": "/etc/new/site.conf", "mode": "0640", "owner": "daemon"},
            {"content": "text\n", "path": "/usr/local/bin/run", "mode": "0755", "owner": "root:adm"},
            {
                "source": "page.j2",
                "path": "/opt/page",
                "template": True,
                "variables": {"names": ["a", "b"], "token": {"secret": "token"}},
            },
        ],
    )
    look = "cd /; stat -c '%a %U:%G' etc/new/site.conf usr/local/bin/run opt/page; cat etc/new/site.conf opt/page"
    assert site.sh(look) == "640 daemon:daemon\n755 root:adm\n644 root:root\né\n\n1:A 2:B s3cret-token\n"


def test_a_file_that_changed_since_the_plan_is_not_used(site: Site) -> None:
    site.write("a", "one")
    pins = site.pins()
    site.write("a", "two")
    for template in (False, True):
        with pytest.raises(InputChanged, match="a is not what it was"):
            site.apply("files", [{"source": "a", "path": "/opt/a", "template": template}], pins)
    assert site.sh("ls /opt") == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\n{% if %}", "template bad.j2, line 2: Expected an expression"),
        ("{{ missing }}", "template bad.j2: 'missing' is undefined"),
        ("{{ ''.__class__.__mro__ }}", "template bad.j2: access to attribute '__class__'"),
        ("{{ 1 / 0 }}", "template bad.j2: ZeroDivisionError"),
        ("{% include 'site.conf' %}", "template bad.j2: "),
        ("{{ 'x' * 3000000000 }}", "template bad.j2 took more than 512 MiB of memory"),
        ("{% set n = 30000000 %}{{ 'x' * n }}", "template bad.j2 took more than 16 MiB of output"),
    ],
    ids=["syntax", "missing", "attribute", "zero", "include", "memory", "output"],
)
def test_a_template_that_can_not_be_filled_in(site: Site, text: str, message: str) -> None:
    site.write("bad.j2", text)
    with pytest.raises(BadInput) as caught:
        site.apply("files", [{"source": "bad.j2", "path": "/opt/a", "template": True}])
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("stored", ["utf-8-sig", "utf-16"])
def test_a_template_of_a_windows_editor(site: Site, stored: str) -> None:
    (site.folder / "a.j2").write_bytes("{{ a }} é\r\nb\r\n".encode(stored))
    site.apply("files", [{"source": "a.j2", "path": "/opt/a", "template": True, "variables": {"a": "x"}}])
    assert site.sh("cat /opt/a") == "x é\nb\n"


def test_a_file_that_is_no_template_keeps_its_bytes(site: Site) -> None:
    (site.folder / "a.txt").write_bytes(b"\xef\xbb\xbfa\r\n")
    site.apply("files", [{"source": "a.txt", "path": "/opt/a"}])
    assert site.sh("od -An -tx1 /opt/a | tr -d ' \\n'") == "efbbbf610d0a"
