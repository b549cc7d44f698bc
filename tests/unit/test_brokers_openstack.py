"""What OpenStack's services say, as events: pure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imageflow.errors import BadInput
from imageflow.listeners import openstack
from imageflow.model import Event
from tests.samples.field_variants import variants

DAY = 86400.0
NOW = 1795392000.0  # 2026-11-23
SAMPLES = Path(__file__).parents[1] / "integration" / "notifications"
ACTIVE = {"id": "i1", "name": "debian-base", "status": "active", "checksum": "c1", "created_at": "2026-11-22T15:11:44Z"}


def events_of(event_type: Any = "image.activate", payload: Any = ACTIVE, **more: Any) -> list[Event]:
    message = {
        "publisher_id": "image.host1",
        "event_type": event_type,
        "priority": "INFO",
        "message_id": "m1",
        "timestamp": "2026-11-22 15:12:00.5",
        "payload": payload,
    } | more
    return openstack.events_of(message, now=NOW, remembered=30 * DAY)


def only(*args: Any, **kwargs: Any) -> Event:
    [event] = events_of(*args, **kwargs)
    return event


def test_activation() -> None:
    event = only()
    assert (event.source, event.id, event.type, event.subject) == (
        "glance",
        "image:i1:c1",
        "glance.image.activate",
        "debian-base",
    )
    assert event.time == 1795360320.5
    assert event.data == ACTIVE


def test_a_burst_of_updates_is_one_activation() -> None:
    ids = [event.id for _ in range(5) for event in events_of("image.update") if event.type == "glance.image.activate"]
    assert set(ids) == {only().id}


def test_each_change_of_a_property_is_an_update_of_its_own() -> None:
    content, update = events_of("image.update", ACTIVE | {"properties": {"release": "stable"}}, message_id="m2")
    assert content.id == only().id  # which the inbox has already
    assert (update.type, update.id, update.data["properties"]) == ("glance.image.update", "m2", {"release": "stable"})


def test_new_content_is_another_activation() -> None:
    assert only(payload=ACTIVE | {"checksum": "c2"}).id != only().id


def test_content_without_a_checksum() -> None:
    content, _ = events_of("image.update", ACTIVE | {"checksum": None})  # registered by its location
    assert (content.type, content.id) == ("glance.image.activate", "image:i1:")


def test_a_property_of_an_old_image_activates_nothing() -> None:
    """The inbox may have forgotten that image's activation: it would not be recognised."""
    event = only("image.update", ACTIVE | {"created_at": "2026-01-01T00:00:00Z"})
    assert event.type == "glance.image.update"


@pytest.mark.parametrize("status", ["queued", "saving", "uploading", "importing"])
def test_an_upload_that_goes_on_is_no_event(status: str) -> None:
    assert events_of("image.update", ACTIVE | {"status": status}) == []


def test_deactivation_is_an_update() -> None:
    assert only("image.update", ACTIVE | {"status": "deactivated"}).type == "glance.image.update"


def test_our_own_publication_says_so() -> None:
    assert only(payload=ACTIVE | {"properties": {"imageflow:build_id": "b1"}}).data["properties"] == {
        "imageflow:build_id": "b1"
    }


def test_an_error_is_not_taken_for_what_did_not_happen() -> None:
    event = only("image.upload", "Not enough space", priority="ERROR")
    assert (event.type, event.data) == ("glance.image.upload.error", {"message": "Not enough space"})
    event = only("compute_task.build_instances", {"reason": {}}, priority="error", publisher_id="conductor.h")
    assert event.type == "nova.compute_task.build_instances.error"
    assert only("instance.create.error", {}, priority="ERROR", publisher_id="nova-compute:h").type.count("error") == 1


@pytest.mark.parametrize(
    ("publisher", "service"),
    [
        ("image.host", "glance"),
        ("nova-compute:host", "nova"),
        ("compute.host.example.org", "nova"),
        ("network.h", "neutron"),
        ("identity.h", "keystone"),
        ("volume.h@lvm", "cinder"),
        ("magnum.h", "magnum"),
        ("octavia_wsgi.h", "octavia_wsgi"),
        ("designate-central.h", "designate"),
    ],
)
def test_services(publisher: str, service: str) -> None:
    assert openstack.service_of(publisher) == service
    assert only("thing.done", {}, publisher_id=publisher).type == f"{service}.thing.done"


def test_the_samples() -> None:
    read = {
        event.type
        for file in SAMPLES.glob("*.json")
        for message in json.loads(file.read_text())
        for event in openstack.events_of(message | {"timestamp": "2026-11-22 16:00:00"}, now=NOW, remembered=30 * DAY)
    }
    assert read == {
        "glance.image.create",
        "glance.image.prepare",
        "glance.image.upload",
        "glance.image.activate",
        "glance.image.update",
        "glance.image.delete",
        "nova.instance.snapshot.end",
        "nova.compute.instance.snapshot.end",
    }


def test_versioned_objects_are_unpacked_to_the_bottom() -> None:
    def wrapped(data: Any, version: str = "1.8") -> dict[str, Any]:
        return {"nova_object.name": "P", "nova_object.version": version, "nova_object.data": data}

    whole = wrapped({"display_name": "vm", "flavor": wrapped({"name": "m1"}), "ips": [wrapped({"version": 4})]})
    event = only("instance.delete.end", whole, publisher_id="nova-compute:h")
    assert event.data == {"display_name": "vm", "flavor": {"name": "m1"}, "ips": [{"version": 4}]}
    for bad in ("2.0", None, 1):
        with pytest.raises(BadInput, match=r"reads 1\.x"):
            events_of("instance.delete.end", wrapped({"x": wrapped({}, bad)}), publisher_id="nova-compute:h")


SECRETS = {
    "auth_token": "s3cret",
    "adminPass": "s3cret",
    "admin_pass": "s3cret",
    "user_data": "s3cret",
    "accessToken": "s3cret",
    "token": {"id": "s3cret"},
    "credentials": ["s3cret"],
    "private_key": "s3cret",
    "os-password": "s3cret",
    "service_catalog": ["s3cret"],
    "injected_files": ["s3cret"],
    "context": {"x": "s3cret"},
}


def test_secrets_are_left_out() -> None:
    harmless = {
        "key_name": "k",
        "request_id": "r",
        "bypass": 1,
        "compass": 2,
        "properties": {"imageflow:build_id": "b"},
    }
    event = only("x.y", {"deep": [SECRETS | harmless]}, publisher_id="nova-api:h")
    assert event.data == {"deep": [harmless]}
    values = only("x.y", {"url": "swift+https://u:s3cret@h/c", "text": "it is gAAAA" + "b" * 80}, publisher_id="a.b")
    assert values.data == {"url": "swift+https://***@h/c", "text": "it is ***"}


@given(st.binary(), st.sampled_from(["auth_token", "Password", "user_data", "gAAAA"]), st.binary())
def test_bytes_are_cut_before_a_secret(before: bytes, key: str, after: bytes) -> None:
    kept = openstack.without_secrets(before + f'"{key}": "'.encode() + b"s3cret!" + after)
    assert b"s3cret!" not in kept.removeprefix(before)
    assert openstack.without_secrets(b"[1, 2]") == b"[1, 2]"


@pytest.mark.parametrize(
    "wrong",
    [
        {"publisher_id": None},
        {"publisher_id": ""},
        {"publisher_id": 5},
        {"publisher_id": "../x"},
        {"event_type": None},
        {"event_type": ""},
        {"event_type": ["x"]},
        {"event_type": "a b"},
        {"event_type": "x" * 300},
        {"payload": None},
        {"payload": []},
        {"payload": {"name": "without an id"}},
        {"payload": {"id": 5}},
    ],
)
def test_what_is_no_notification(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        events_of(**wrong)


def test_without_a_message_id_the_content_names_it() -> None:
    first, again, other = (only("image.delete", {"id": name}, message_id=None).id for name in ("i1", "i1", "i2"))
    assert first == again != other


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(
    ["publisher_id", "event_type", "priority", "payload", "message_id", "timestamp", "nova_object.data"]
)


@given(st.dictionaries(NAMES, JSON))
def test_anything(message: dict[str, Any]) -> None:
    base = {"publisher_id": "image.h", "event_type": "image.update", "payload": ACTIVE}
    for whole in (message, base | message):
        is_read_or_refused(whole)


@pytest.mark.parametrize("name", ["glance-upload", "glance-delete", "nova-snapshot"])
def test_one_thing_wrong(name: str) -> None:
    for message in json.loads((SAMPLES / f"{name}.json").read_text()):
        for variant in variants(message):
            if isinstance(variant, dict):
                is_read_or_refused(variant)


def is_read_or_refused(message: dict[str, Any]) -> None:
    try:
        found = openstack.events_of(message, now=NOW, remembered=DAY)
    except BadInput:
        return
    for event in found:
        assert event.id
        assert event.type.startswith(event.source + ".")
        assert event.subject != ""


def test_a_newer_version_of_a_payload_that_is_known() -> None:
    """As Nova 29 sends it: unknown fields are kept, and ask for nothing."""
    payload = {
        "nova_object.name": "InstanceUpdatePayload",
        "nova_object.version": "2.9",
        "nova_object.data": {"uuid": "u", "display_name": "vm", "field_of_tomorrow": 1},
    }
    message = {
        "publisher_id": "nova-compute:host",
        "event_type": "instance.update",
        "priority": "INFO",
        "payload": payload,
    }
    [event] = openstack.events_of(message | {"message_id": "1"}, now=NOW, remembered=30 * DAY)
    assert event.data == {"uuid": "u", "display_name": "vm", "field_of_tomorrow": 1}
