"""The provisioners that run a tool in the machine: puppet, salt and chef, and what each is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from imageflow import provisioners
from imageflow.errors import CommandFailed, InputChanged, RecipeError, Refused
from tests.drivers.provisioners.provisioned_guest import Site


@pytest.mark.parametrize(
    ("kind", "value", "tool", "package"),
    [
        ("puppet", {"manifest": "site.pp", "modules": []}, "puppet", "puppet-agent"),
        ("salt", {"states": "salt", "apply": "web", "pillar": {}}, "salt-call", "salt-minion"),
        ("chef", {"cookbooks": "cookbooks", "run_list": ["recipe[web]"]}, "cinc-client", "cinc"),
    ],
)
def test_a_tool_that_is_not_in_the_machine(site: Site, kind: str, value: Any, tool: str, package: str) -> None:
    with pytest.raises(Refused, match=f"{tool} is not in the machine") as caught:
        site.apply(kind, value)
    assert package in caught.value.hint


def test_salt_needs_a_top_file_or_a_state(site: Site) -> None:
    with pytest.raises(RecipeError, match=r"no top\.sls in salt"):
        provisioners.find("salt").check({"states": "salt", "apply": None, "pillar": {}}, site.folder)


RECORDER = """#!/bin/sh
{ echo "$0" "$@"; cd /run/imageflow/tool; find . -type f | sort | while read -r f; do echo "$f: $(cat "$f")"; done; } > /opt/said
exit %d
"""


@pytest.mark.parametrize(
    ("kind", "program", "value", "seen"),
    [
        (
            "salt",
            "salt-call",
            {"states": "salt", "apply": "web", "pillar": {"token": {"secret": "token"}}},
            [
                "state.apply web",
                './pillar/imageflow.sls: #!json\n{"token": "s3cret-token"}',
                "./states/web/init.sls: x",
            ],
        ),
        (
            "chef",
            "chef-client",
            {"cookbooks": "cookbooks", "run_list": ["recipe[web]"]},
            ["--local-mode", './node.json: {"run_list": ["recipe[web]"]}', "./cookbooks/web/recipes/default.rb: x"],
        ),
    ],
)
def test_what_a_tool_in_the_machine_is_given(site: Site, kind: str, program: str, value: Any, seen: list[str]) -> None:
    site.write("salt/web/init.sls", "x")
    site.write("cookbooks/web/recipes/default.rb", "x")
    site.connection.put((RECORDER % 0).encode(), f"/usr/local/bin/{program}", mode="0755", control=site.control)
    site.apply(kind, value)
    said = site.sh("cat /opt/said")
    for part in seen:
        assert part in said
    assert site.sh("ls /run/imageflow") == ""
    site.connection.put((RECORDER % 3).encode(), f"/usr/local/bin/{program}", mode="0755", control=site.control)
    with pytest.raises(CommandFailed, match="exit code 3"):
        site.apply(kind, value)
    assert site.sh("ls /run/imageflow") == ""


@pytest.mark.slow
def test_puppet_really(site: Site) -> None:
    site.apply("packages", ["puppet-agent"])
    site.write("site.pp", "include tiny\nfile { '/opt/direct': content => 'direct' }\n")
    site.write("modules/tiny/manifests/init.pp", "class tiny { file { '/opt/module': content => 'module' } }\n")
    for _ in range(2):  # changed, and then not
        site.apply("puppet", {"manifest": "site.pp", "modules": ["modules/tiny"]})
    assert site.sh("cat /opt/direct /opt/module; ls /run/imageflow") == "directmodule"
    site.write("site.pp", "exec { '/bin/false': }\n")
    with pytest.raises(CommandFailed, match=r"puppet site\.pp ended with exit code 4"):
        site.apply("puppet", {"manifest": "site.pp", "modules": []})


def test_a_folder_is_copied_only_as_it_was_pinned(site: Site) -> None:
    site.write("salt/web/init.sls", "x")
    site.write("salt/other.sls", "y")
    site.connection.put((RECORDER % 0).encode(), "/usr/local/bin/salt-call", mode="0755", control=site.control)
    value = {"states": "salt", "apply": "web", "pillar": {}}
    pins = site.pins()
    changes: list[Callable[[], object]] = [
        lambda: site.write("salt/new.sls", "z"),
        lambda: (site.folder / "salt/new.sls").unlink() or (site.folder / "salt/other.sls").unlink(),
        lambda: site.write("salt/other.sls", "changed"),
    ]
    for change, message in zip(
        changes, ["new.sls is not what", "other.sls is not there", "other.sls is not"], strict=True
    ):
        change()
        with pytest.raises(InputChanged, match=message):
            site.apply("salt", value, pins)
