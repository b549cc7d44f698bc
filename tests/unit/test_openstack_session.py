"""How a cloud is found: real files of openstacksdk, and a Keystone that says little."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from imageflow.config.clouds import OpenStackConfig
from imageflow.errors import ConfigError, Unavailable
from imageflow.openstack import Cloud

_CLOUDS = """
clouds:
  site:
    auth: {{auth_url: "http://127.0.0.1:{port}/v3", username: u, project_name: p, user_domain_id: d, project_domain_id: d}}
  other:
    auth: {{auth_url: "http://127.0.0.1:{port}/v3"}}
"""
_SECURE = "clouds: {site: {auth: {password: from-secure-yaml}}}"


@pytest.fixture(autouse=True)
def _nothing_in_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("OS_CLOUD", "OS_AUTH_URL", "OS_AUTH_TYPE", "OS_CLIENT_CONFIG_FILE", "OS_CLIENT_SECURE_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.chdir(tmp_path)


class Keystone(ThreadingHTTPServer):
    """Gives out tokens, after so many answers that it can't."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.trouble = 0
        self.passwords: list[str] = []


class _Answers(BaseHTTPRequestHandler):
    server: Keystone

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.passwords.append(asked["auth"]["identity"]["password"]["user"]["password"])
        self.server.trouble -= 1
        token = {
            "token": {"expires_at": "2999-01-01T00:00:00.000000Z", "project": {"id": "p1"}, "methods": ["password"]}
        }
        away = self.server.trouble >= 0
        body = json.dumps({"error": {"message": "later", "code": 503}} if away else token).encode()
        self.send_response(503 if away else 201)
        for name, value in (
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("X-Subject-Token", "t"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def keystone() -> Iterator[Keystone]:
    server = Keystone()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def configured(folder: Path, cloud: str | None = "site", port: int = 9, patience: float = 0.0) -> OpenStackConfig:
    file = folder / "clouds.yaml"
    file.write_text(_CLOUDS.format(port=port))
    (folder / "secure.yaml").write_text(_SECURE)
    return OpenStackConfig(cloud, None, file, 10.0, patience)


def test_a_cloud_that_there_is_not_says_what_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=f"no cloud 'sight' in {tmp_path}/clouds.yaml") as raised:
        _ = Cloud(configured(tmp_path, "sight")).session
    assert "other, site" in raised.value.hint
    monkeypatch.setenv("OS_CLOUD", "elsewhere")
    with pytest.raises(ConfigError, match="no cloud 'elsewhere' in"):
        _ = Cloud(configured(tmp_path, None)).session


def test_a_file_that_there_is_not_is_named(tmp_path: Path) -> None:
    missing = OpenStackConfig("site", None, tmp_path / "clouds.yml", 10.0, 0.0)
    with pytest.raises(ConfigError, match=f"there is no file {tmp_path}/clouds.yml") as raised:
        _ = Cloud(missing).session
    assert "clouds_yaml" in raised.value.hint


def test_without_any_cloud_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OS_CONDUCTOR__MAX_BUILDS", "4")  # ours: openstacksdk takes it for a cloud's
    with pytest.raises(ConfigError, match="no cloud is configured") as raised:
        _ = Cloud(configured(tmp_path, None)).session
    assert "[openstack] cloud" in raised.value.hint


def test_the_configured_region_wins(tmp_path: Path) -> None:
    config = configured(tmp_path)
    file = tmp_path / "clouds.yaml"
    one = file.read_text().replace("  other:", "    region_name: RegionOne\n  other:")
    file.write_text(one)
    assert Cloud(config)._where("image")["region_name"] == "RegionOne"
    assert Cloud(replace(config, region="RegionTwo"))._where("image")["region_name"] == "RegionTwo"
    file.write_text(one.replace("region_name: RegionOne", "regions: [RegionOne, RegionThree]"))
    assert Cloud(replace(config, region="RegionThree"))._where("image")["region_name"] == "RegionThree"
    with pytest.raises(ConfigError, match="RegionTwo is not a valid region"):
        _ = Cloud(replace(config, region="RegionTwo", timeout=11.0)).session


def test_secrets_may_be_in_a_file_beside(tmp_path: Path, keystone: Keystone) -> None:
    assert Cloud(configured(tmp_path, port=keystone.server_port)).project == "p1"
    assert keystone.passwords == ["from-secure-yaml"]


def test_a_keystone_that_is_away_for_a_moment_is_asked_again(tmp_path: Path, keystone: Keystone) -> None:
    keystone.trouble = 1
    cloud = Cloud(configured(tmp_path, port=keystone.server_port, patience=30.0))
    assert cloud.project == "p1"
    assert len(keystone.passwords) == 2


def test_patience_with_it_ends(tmp_path: Path, keystone: Keystone) -> None:
    keystone.trouble = 10
    with pytest.raises(Unavailable, match="log in"):
        _ = Cloud(configured(tmp_path, port=keystone.server_port)).project
