"""What is made up for when Glance's notification was missed is the event that it would have been."""

from __future__ import annotations

import time
from typing import Any

from imageflow.events import triggers
from imageflow.listeners import openstack
from imageflow.model import Event, Trigger
from imageflow.openstack.image import GlanceImage
from imageflow.rebuilds import behind
from tests.integration.broker_site import sample

SHOWN: dict[str, Any] = {  # by Glance's API
    "id": "b2173dd3-7ad6-4362-baa6-a68bce3565cb",
    "name": "debian-base",
    "status": "active",
    "visibility": "private",
    "owner": "cad75dc6266e4718bbc986eeaf5e7f57",
    "checksum": "494c78bbfe50040b25c92fc79384e843",
    "os_hash_algo": "sha512",
    "os_hash_value": "ab" * 64,
    "os_hidden": False,
    "created_at": "2026-11-22T15:11:44Z",
    "updated_at": "2026-11-22T15:11:45Z",
    "min_disk": 0,
    "min_ram": 0,
    "protected": False,
    "size": 14186432,
    "virtual_size": None,
    "disk_format": "qcow2",
    "container_format": "bare",
    "tags": ["daily"],
    "os_distro": "debian",
    "self": "/v2/images/b2173dd3-7ad6-4362-baa6-a68bce3565cb",
    "file": "/v2/images/b2173dd3-7ad6-4362-baa6-a68bce3565cb/file",
    "schema": "/v2/schemas/image",
}


def made_up() -> Event:
    return behind.activation(GlanceImage(SHOWN["id"], SHOWN["name"], SHOWN["status"], SHOWN))


def told() -> Event:
    """What Glance says about that image."""
    keys = ("id", "name", "status", "visibility", "owner", "checksum", "created_at", "updated_at", "size", "tags")
    payload = {key: SHOWN[key] for key in keys} | {"properties": {"os_distro": "debian"}}
    message = {"publisher_id": "image.h", "event_type": "image.activate", "priority": "INFO", "payload": payload}
    [event] = openstack.events_of(message | {"message_id": "1"}, now=time.time(), remembered=1e9)
    return event


def test_it_has_the_identity_of_the_notification() -> None:
    mine, theirs = made_up(), told()
    assert (mine.source, mine.id, mine.type, mine.subject) == (theirs.source, theirs.id, theirs.type, theirs.subject)
    assert mine.time == time.mktime(time.strptime("2026-11-22T15:11:45", "%Y-%m-%dT%H:%M:%S")) - time.timezone


def test_the_same_conditions_hold() -> None:
    assert {key: made_up().data[key] for key in told().data} == told().data
    where = {"name": "debian-base", "properties.os_distro": "debian", "tags": "daily"}
    rule = Trigger("web", 0, "event", "glance.image.activate", where, {})
    assert triggers.explain(rule, made_up()) == triggers.explain(rule, told()) is not None


def test_it_says_what_a_real_notification_says() -> None:
    """Every field of a recorded one is there, and none is made of a link."""
    [recorded] = [one for one in sample("glance-upload") if one["event_type"] == "image.activate"]
    assert set(recorded["payload"]) == set(made_up().data)
    assert made_up().data["properties"] == {"os_distro": "debian"}
