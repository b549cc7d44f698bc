"""What leaves: payloads, their samples in doc/, CDEvents, and configurations that can't work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from standardwebhooks import Webhook

from imageflow import config
from imageflow.announce import cdevents, load, payload
from imageflow.announce.http import HttpAnnouncer
from imageflow.config import Config
from imageflow.errors import ConfigError, Unavailable
from imageflow.events import cloudevent
from imageflow.persistence import outbox
from tests.samples.announcements import DOC, SOURCE, announcements, samples

BY_TYPE = {one.type: one for one in announcements()}


def configured(folder: Path, **options: Any) -> Config:
    (folder / "c").write_text(
        "[DEFAULT]\nhost = h1\n[announce]\n" + "".join(f"{k} = {v}\n" for k, v in options.items())
    )
    return config.load([str(folder / "c")], str(folder))


def test_the_samples_in_doc_are_what_is_sent() -> None:
    there = {path for folder in ("notification_samples", "cloudevents_samples") for path in (DOC / folder).glob("*")}
    stale = [path.name for path, text in samples().items() if not path.exists() or path.read_text() != text]
    assert not stale, "run: python -m tests.samples.announcements"
    assert there == set(samples()), "run: python -m tests.samples.announcements"


def test_every_type_has_a_sample() -> None:
    assert set(BY_TYPE) == {f"imageflow.build.{what}" for what in outbox.BUILD} | {
        f"imageflow.image.{what}" for what in outbox.IMAGE
    }


def test_the_fields_of_these_versions_are_these() -> None:
    """A field more is a new minor version, one less a new major version, of payload.VERSIONS."""
    assert payload.VERSIONS == {"BuildPayload": "1.0", "ImagePayload": "1.1"}
    fields = {name: set(one.data) for name, one in BY_TYPE.items()}
    build = "id image method state reason key forced host step error hint digest created started ended paused duration"
    image = "name digest content build key store path artifacts properties packages created why"
    for name, found in fields.items():
        assert found == set((build if name.startswith("imageflow.build.") else image).split()), name


def test_a_notification_has_the_shape_of_novas() -> None:
    one = payload.versioned(BY_TYPE["imageflow.image.publish"])
    assert set(one) == {f"imageflow_object.{part}" for part in ("name", "namespace", "version", "data")}
    assert payload.priority(BY_TYPE["imageflow.build.error"]) == "ERROR"
    assert {payload.priority(one) for name, one in BY_TYPE.items() if name != "imageflow.build.error"} == {"INFO"}


@pytest.mark.parametrize("kind", list(BY_TYPE))
def test_cloudevents_are_read_by_our_own_listeners(kind: str) -> None:
    for cloud in payload.clouds(BY_TYPE[kind], SOURCE, with_cdevents=True):
        [event] = cloudevent.read(payload.encode(cloud), "it")
        assert event.source == SOURCE
        assert event.time == BY_TYPE[kind].time
        assert isinstance(event.data, Mapping)
    [event] = cloudevent.read(payload.encode(payload.cloud(BY_TYPE[kind], SOURCE)), "it")
    assert event.subject == "web"


def test_without_cdevents_there_is_one(kind: str = "imageflow.image.publish") -> None:
    assert len(payload.clouds(BY_TYPE[kind], SOURCE, with_cdevents=False)) == 1
    assert len(payload.clouds(BY_TYPE[kind], SOURCE, with_cdevents=True)) == 3


def test_sent_again_everything_is_the_same() -> None:
    for one in BY_TYPE.values():
        twice = [[payload.encode(event) for event in payload.clouds(one, SOURCE, with_cdevents=True)] for _ in "ab"]
        assert twice[0] == twice[1]


_REFERENCE = {"type": "string", "minLength": 1, "format": "uri-reference"}
_CONTENTS: dict[str, dict[str, Any]] = {
    cdevents.STARTED: {"properties": {}},
    cdevents.FINISHED: {"properties": {"artifactId": {"type": "string", "pattern": "^pkg:"}}},
    cdevents.PACKAGED: {
        "properties": {
            "change": {
                "type": "object",
                "properties": {"id": {"type": "string", "minLength": 1}, "source": _REFERENCE},
                "required": ["id"],
                "additionalProperties": False,
            }
        },
        "required": ["change"],
    },
    cdevents.PUBLISHED: {"properties": {}},
}


def _schema(kind: str) -> dict[str, Any]:
    """What cdevents.dev's schemas for 0.4 ask for, of what we send."""
    context = {
        "version": {"const": "0.4.1"},
        "id": {"type": "string", "minLength": 1},
        "source": _REFERENCE,
        "type": {"const": kind},
        "timestamp": {"type": "string", "format": "date-time"},
    }
    subject = {
        "id": {"type": "string", "minLength": 1},
        "source": _REFERENCE,
        "type": {"const": kind.split(".")[2]},
        "content": {"type": "object", "additionalProperties": False, **_CONTENTS[kind]},
    }
    parts = {
        name: {"type": "object", "properties": part, "required": sorted(part), "additionalProperties": False}
        for name, part in (("context", context), ("subject", subject))
    }
    custom = {"customData": {"type": "object"}, "customDataContentType": {"type": "string"}}
    return {"type": "object", "properties": parts | custom, "required": sorted(parts), "additionalProperties": False}


def test_cdevents_are_as_their_schemas_ask() -> None:
    seen = []
    for one in BY_TYPE.values():
        for event in cdevents.of(one, SOURCE):
            kind = event["context"]["type"]
            jsonschema.Draft202012Validator(_schema(kind), format_checker=jsonschema.FormatChecker()).validate(event)
            seen.append(kind)
    assert set(seen) == set(_CONTENTS)
    ended = cdevents.of(BY_TYPE["imageflow.build.end"], SOURCE)[0]["subject"]
    packaged = cdevents.of(BY_TYPE["imageflow.image.publish"], SOURCE)[0]["subject"]
    assert ended["content"]["artifactId"] == packaged["id"]
    assert "artifactId" not in cdevents.of(BY_TYPE["imageflow.build.error"], SOURCE)[0]["subject"]["content"]


def test_an_artifact_of_a_strange_name_is_a_package_url() -> None:
    assert cdevents.artifact_id("a b/ü@1", "ff") == "pkg:generic/a%20b%2F%C3%BC%401@sha256%3Aff"


@pytest.mark.parametrize(
    ("target", "options", "said"),
    [
        ("http", {}, "http_url is not set"),
        ("http", {"http_url": "ftp://x/"}, "http_url"),
        ("http", {"http_url": "https://"}, "http_url"),
        ("http", {"http_url": "http://x:99999/"}, "http_url"),
        ("http", {"http_url": "http://[::1/"}, "http_url"),
        ("http", {"http_url": "https://x/", "http_secret": "whsec_!!"}, "http_secret"),
        ("http", {"http_url": "https://x/", "http_secret": "whsec_"}, "http_secret"),
        ("http", {"http_url": "https://x/", "source": "imageflow"}, "source"),
        ("http", {"http_url": "https://x/", "source": "imageflow:a"}, "source"),
        ("amqp", {}, "amqp_url is not set"),
        ("amqp", {"amqp_url": "carrier-pigeon://u:open-sesame@x"}, "amqp_url"),
        ("amqp", {"amqp_url": "amqp://u:open-sesame@x:port/"}, "amqp_url"),
        ("amqp", {"amqp_url": "amqp://x", "amqp_exchange": ""}, "amqp_exchange is not set"),
        ("notifications", {}, "transport_url is not set"),
        ("notifications", {"transport_url": "carrier-pigeon://u:open-sesame@x"}, "transport_url"),
        ("notifications", {"transport_url": "nonsense"}, "transport_url"),
        ("notifications", {"transport_url": "rabbit://u:open-sesame@x:port/"}, "transport_url"),
        ("notifications", {"transport_url": "fake://", "topic": ""}, "topic is not set"),
        ("pigeon", {}, "pigeon"),
    ],
)
def test_what_can_not_work_is_said_with_its_option(
    tmp_path: Path, target: str, options: dict[str, str], said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(target)(configured(tmp_path, **options))
    assert said in caught.value.message
    assert "announce]" in str(caught.value)
    assert "sesame" not in str(caught.value)
    assert caught.value.hint


def test_the_listeners_urls_are_the_default(tmp_path: Path) -> None:
    loaded = configured(tmp_path)
    loaded = replace(
        loaded,
        amqp=replace(loaded.amqp, url="amqp://x"),
        notifications=replace(loaded.notifications, transport_url="fake://"),
    )
    for target in ("amqp", "notifications"):
        load(target)(loaded).close()


@pytest.mark.parametrize(
    ("secret", "key"),
    [("plain words", b"plain words"), ("whsec_c2VjcmV0", b"secret"), ("whsec_c2VjcmV0cw", b"secrets")],
)
def test_a_secret_is_plain_or_of_the_standard(tmp_path: Path, secret: str, key: bytes) -> None:
    announcer = HttpAnnouncer(configured(tmp_path, http_url="https://x/", http_secret=secret))
    headers = announcer._headers("msg", b'{"a": "\\u00fc"}')
    assert Webhook(key).verify(b'{"a": "\\u00fc"}', headers) == {"a": "ü"}


def test_without_a_secret_nothing_is_signed(tmp_path: Path) -> None:
    announcer = HttpAnnouncer(configured(tmp_path, http_url="https://x/"))
    assert set(announcer._headers("msg", b"{}")) == {"Content-Type", "User-Agent"}


@pytest.mark.parametrize(
    "url", ["http://u:open-sesame@127.0.0.1:1/p?token=abracadabra", "https://u:open-sesame@no-such-host.invalid/p"]
)
def test_what_goes_wrong_is_said_without_secrets(tmp_path: Path, url: str) -> None:
    announcer = load("http")(configured(tmp_path, http_url=url))
    with pytest.raises(Unavailable) as caught:
        announcer.send(BY_TYPE["imageflow.build.start"])
    assert "does not answer" in caught.value.message
    assert "sesame" not in str(caught.value)
    assert "abracadabra" not in str(caught.value)
