"""Stacks on a real heat whose images are built by a real `imageflow serve`, and kept in the cloud's Glance."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cloud import heat_site
from tests.cloud.cloud import Cloud
from tests.cloud.heat_site import HeatSite
from tests.cloud.provision import NETWORK
from tests.cloud.stacks import RefusedTemplate, Stacks, template
from tests.small.program import ROOT

pytestmark = [pytest.mark.cloud, pytest.mark.sliced(of=3), pytest.mark.timeout(900)]
MOTD = {"path": "/etc/motd", "content": "hello"}
PAGE = {"path": "/srv/index.html", "content": "a page", "mode": "0644", "owner": "root:root"}
SERVE = {"path": "/etc/rc.local", "content": "#!/bin/sh\nbusybox httpd -p 80 -h /srv\n", "mode": "0755"}
SERVER = {
    "type": "OS::Nova::Server",
    "properties": {
        "image": {"get_resource": "web"},
        "flavor": "m1.micro",
        "networks": [{"network": NETWORK}],
        "user_data_format": "RAW",
    },
}


@pytest.fixture(scope="module")
def running(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HeatSite]:
    with heat_site.running(cloud, tmp_path_factory.mktemp("heat")) as site:
        yield site


@pytest.fixture
def site(running: HeatSite) -> Iterator[HeatSite]:
    """Afterwards no stack is left, and no request of one."""
    yield running
    for stack in running.stacks.names():
        running.stacks.delete(stack)
    assert running.requests() == {}


def image(*files: dict[str, str], **more: str) -> dict[str, Any]:
    return {"os": "tiny", "custom_files": list(files), **more}


def built(site: HeatSite) -> list[str]:
    return [build["id"] for build in site.builds()]


def test_a_server_boots_from_what_is_built_once(site: HeatSite) -> None:
    stacks, before = site.stacks, len(built(site))
    stacks.create("one", template(image(SERVE, PAGE), server=SERVER))
    stacks.await_status("one", "CREATE_COMPLETE", 300)
    first = stacks.outputs("one")
    assert first["image"] == first["image_id"] == first["show"]["image_id"]
    assert (first["state"], first["digest"], first["build_id"]) == ("ready", first["show"]["digest"], built(site)[0])
    assert site.glance.images.get(first["image"]).status == "active"
    assert site.image_of_server("one") == first["image"] and site.await_page("one") == "a page"
    request = site.request_of("one")
    assert request["user"] == {
        "kind": "heat",
        "stack": "one",
        "stack_id": stacks.find("one")["id"],  # type: ignore[index]
        "resource": "web",
    }

    # the same, in another order, without what is the default
    stacks.create("two", template(image({**PAGE, "owner": "root"}, SERVE)))
    stacks.await_status("two", "CREATE_COMPLETE", 30)
    assert stacks.outputs("two")["image"] == first["image"]
    assert len(built(site)) == before + 1

    stacks.update("one", template(image(SERVE, {**PAGE, "content": "another"}), server=SERVER))
    stacks.await_status("one", "UPDATE_COMPLETE", 300)
    second = stacks.outputs("one")
    assert second["image"] not in (first["image"], None) and site.image_of_server("one") == second["image"]
    assert site.await_page("one") == "another"
    assert len(built(site)) == before + 2
    # the old one is what stack two has
    assert [r["image_id"] for r in site.requests().values() if r["user"]["stack"] == "two"] == [first["image"]]
    refused = site.program.run("image", "delete", first["digest"], expect=None)
    assert refused.returncode != 0 and "request" in refused.stderr, refused.stderr

    stacks.delete("one")
    for id in (first["image"], second["image"]):
        assert site.glance.images.get(id).status == "active"
    stacks.delete("two")
    assert site.requests() == {}
    assert site.glance.images.get(first["image"]).status == "active"


def test_production_takes_what_was_tested_and_builds_nothing(site: HeatSite) -> None:
    with site.member_elsewhere() as session:
        production = Stacks(session)
        wanted = template(image(MOTD, build="never"))
        production.create("shop", wanted)
        failed = production.await_status("shop", "CREATE_FAILED", 30)
        assert "the image is missing" in failed["stack_status_reason"], failed["stack_status_reason"]
        before = built(site)

        site.stacks.create("test", template(image(MOTD)))
        site.stacks.await_status("test", "CREATE_COMPLETE", 300)
        assert len(built(site)) == len(before) + 1
        production.update("shop")
        production.await_status("shop", "UPDATE_COMPLETE", 60)
        tested, taken = site.stacks.outputs("test"), production.outputs("shop")
        assert (taken["image"], taken["digest"]) == (tested["image"], tested["digest"])
        assert len(built(site)) == len(before) + 1
        production.delete("shop")


def test_a_paused_build_fails_the_stack_until_it_is_resumed(site: HeatSite) -> None:
    stacks, before = site.stacks, len(built(site))
    stacks.create("stack", template(image(config_system="shell", recipe="by-hand")))
    why = stacks.await_status("stack", "CREATE_FAILED", 180)["stack_status_reason"]
    build = built(site)[0]
    assert f"build {build} is paused" in why and f"imageflow build resume {build}" in why, why
    assert "openstack stack update --existing stack" in why, why

    site.on_machine(build, "touch /srv/by-hand")
    site.resume(build)
    site.await_build(build, "succeeded")
    id = stacks.resource("stack")["physical_resource_id"]
    stacks.update("stack")
    stacks.await_status("stack", "UPDATE_COMPLETE", 30)
    assert stacks.resource("stack")["physical_resource_id"] == id
    assert stacks.outputs("stack")["build_id"] == build and len(built(site)) == before + 1


def test_neither_a_rollback_nor_a_delete_waits_for_a_build(site: HeatSite) -> None:
    stacks = site.stacks
    stacks.create("stack", template(image(MOTD)))
    stacks.await_status("stack", "CREATE_COMPLETE", 300)
    tested = stacks.outputs("stack")["image"]
    slow = template(image({**MOTD, "content": "rolled back"}, config_system="shell", recipe="slow"))
    stacks.update("stack", slow)
    build = site.await_that(
        lambda: next((r["build_id"] for r in site.requests().values() if r["state"] == "building"), "")
    )
    stacks.act("stack", "cancel_update")
    stacks.await_status("stack", "ROLLBACK_COMPLETE", 60)
    assert site.build(build)["state"] in ("queued", "running")
    assert stacks.outputs("stack")["image"] == tested and len(site.requests()) == 1

    stacks.create("other", slow)
    site.request_of("other")
    stacks.delete("other")
    assert site.build(build)["state"] in ("queued", "running") and len(site.requests()) == 1
    site.await_build(build, "succeeded")


def test_heat_is_killed_and_the_token_expires_while_it_waits(site: HeatSite) -> None:
    stacks, before = site.stacks, len(built(site))
    wanted = template(image({**MOTD, "content": "killed"}, config_system="shell", recipe="slow"))
    stacks.create("stack", wanted)
    build = site.request_of("stack")["build_id"]
    site.cloud.stop("heat-engine", signal.SIGKILL)
    site.cloud.start("heat-engine")
    assert stacks.find("stack")["stack_status"] == "CREATE_IN_PROGRESS"  # type: ignore[index]
    with site.cloud.token_life(15):
        Stacks(site.cloud.session("member")).update("stack")
        site.await_build(build, "succeeded")
        site.await_that(lambda: Stacks(site.cloud.session("member")).status("stack") == "UPDATE_COMPLETE")
    assert built(site)[0] == build and len(built(site)) == before + 1


def test_a_check_that_fails_because_imageflow_is_away_replaces_nothing(site: HeatSite) -> None:
    stacks = site.stacks
    stacks.create("stack", template(image(MOTD)))
    stacks.await_status("stack", "CREATE_COMPLETE", 300)
    id = stacks.resource("stack")["physical_resource_id"]
    stacks.act("stack", "check")
    stacks.await_status("stack", "CHECK_COMPLETE", 30)
    site.end()
    try:
        stacks.act("stack", "check")
        stacks.await_status("stack", "CHECK_FAILED", 60)
    finally:
        site.serve()
    stacks.update("stack")
    stacks.await_status("stack", "UPDATE_COMPLETE", 30)
    assert stacks.resource("stack")["physical_resource_id"] == id and list(site.requests()) == [id]


def test_an_abandoned_stack_is_adopted_with_its_request(site: HeatSite) -> None:
    stacks = site.stacks
    stacks.create("old", template(image(MOTD)))
    stacks.await_status("old", "CREATE_COMPLETE", 300)
    held, tested = site.requests(), stacks.outputs("old")["image"]
    data = stacks.abandon("old")
    assert list(site.requests()) == list(held)
    stacks.create("new", template(image(MOTD)), adopt_stack_data=json.dumps(data))
    stacks.await_status("new", "ADOPT_COMPLETE", 30)
    assert stacks.outputs("new")["image"] == tested and list(site.requests()) == list(held)


@pytest.mark.parametrize("file", sorted((ROOT / "etc/heat").glob("*.yaml")), ids=lambda file: file.stem)
def test_heat_takes_the_templates_that_we_give(site: HeatSite, file: Path) -> None:
    text = file.read_text()
    given = {"flavor": "m1.micro", "network": NETWORK} if "flavor" in text else {}
    site.stacks.preview(text, **given)
    with pytest.raises(RefusedTemplate, match="nginx --now"):
        site.stacks.preview(text.replace("[nginx]", "[nginx --now]").replace('"nginx"', '"nginx --now"'), **given)


@pytest.mark.parametrize(
    ("properties", "said"),
    [
        ({"os": "amiga"}, "imageflow's catalog has: debian, tiny"),
        ({"image": "nowhere"}, "nowhere"),
        ({}, "exactly one of them must be given"),
        ({"os": "tiny", "packages": ["nginx"]}, "takes no packages"),
        ({"os": "tiny", "config_system": "shell"}, "go together"),
        ({"os": "tiny", "config_system": "shell", "recipe": "unheard-of"}, "has no recipe 'unheard-of'"),
        ({"os": "tiny", "custom_files": [{"path": "etc/motd", "content": ""}]}, "does not match"),
        ({"os": "tiny", "custom_files": [MOTD, MOTD]}, "/etc/motd"),
        ({"os": "tiny", "build": "always"}, "always"),
    ],
)
def test_a_template_is_refused_before_anything_is_made(site: HeatSite, properties: dict[str, Any], said: str) -> None:
    before = built(site)
    with pytest.raises(RefusedTemplate) as refused:
        site.stacks.create("stack", template(properties))
    assert said in str(refused.value)
    assert site.stacks.names() == [] and site.requests() == {} and built(site) == before
