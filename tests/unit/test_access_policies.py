"""The policy: each rule seen allowed and refused for each role, the operator's file, the committed sample."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from imageflow import config as configuration
from imageflow.access import ROLES, Caller, implied
from imageflow.access.policies import RULES, Policy
from imageflow.errors import ConfigError

ROOT = Path(__file__).parents[2]
LEAST = {
    "reader": """builds:list builds:get images:list images:get images:download recipes:list recipes:get requests:list
        requests:get catalog:list rebuilds:list publications:list""",
    "member": "builds:create builds:resume builds:abort builds:cancel builds:console requests:put requests:delete",
    "manager": "recipes:add recipes:remove rebuilds:release rebuilds:drop publications:retry",
    "admin": "outbox:list outbox:replay layers:list resources:list resources:reap conductors:list",
}
MATRIX = [(rule, least) for least, rules in LEAST.items() for rule in rules.split()]


def caller(role: str, project: str = "web") -> Caller:
    return Caller(project, "someone", implied([role] if role else []), "req-1")


def policy(folder: Path, rules: str | bytes | None = None, file: str = "rules.yaml") -> Policy:
    if rules is not None:
        (folder / file).write_bytes(rules if isinstance(rules, bytes) else rules.encode())
    (folder / "a.conf").write_text(f"[oslo_policy]\npolicy_file = {folder / file}\n" if rules is not None else "")
    return Policy(configuration.load([str(folder / "a.conf")], str(folder)))


@pytest.fixture(scope="module")
def defaults(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    return policy(tmp_path_factory.mktemp("policy"))


def test_the_matrix_has_every_rule() -> None:
    assert {f"imageflow:{rule}" for rule, _ in MATRIX} == {rule.name for rule in RULES}


@pytest.mark.parametrize(("rule", "least"), MATRIX)
@pytest.mark.parametrize("role", ["", *ROLES])
def test_each_role_may_what_it_may(defaults: Policy, rule: str, least: str, role: str) -> None:
    may = bool(role) and ROLES.index(role) >= ROLES.index(least)
    assert defaults.allows(caller(role), rule, "web") is may
    assert defaults.allows(caller(role), rule, "another") is (role == "admin")


def test_admin_need_not_imply_manager(defaults: Policy) -> None:
    """Keystone before 2023.2 has no manager."""
    admin = Caller("web", "u", frozenset({"admin", "member", "reader"}), "r")
    assert all(defaults.allows(admin, rule, "web") for rule, _ in MATRIX)


def test_roles_of_others_give_nothing(defaults: Policy) -> None:
    stranger = Caller("web", "u", frozenset({"load-balancer_admin", "Administrator"}), "r")
    assert not any(defaults.allows(stranger, rule, "web") for rule, _ in MATRIX)


def test_a_rule_that_does_not_exist_is_a_bug_and_not_a_no(defaults: Policy) -> None:
    with pytest.raises(LookupError):
        defaults.allows(caller("admin"), "builds:lst", "web")


def test_the_operators_file_is_in_force(tmp_path: Path) -> None:
    found = policy(tmp_path, '"imageflow:builds:create": "role:builder"\n"imageflow:builds:list": "!"\n')
    assert not found.allows(caller("member"), "builds:create", "web")
    assert found.allows(Caller("web", "u", frozenset({"builder"}), "r"), "builds:create", "web")
    assert not found.allows(caller("admin"), "builds:list", "web")
    assert found.allows(caller("reader"), "builds:get", "web")


def test_the_default_file_stands_beside_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / ".imageflow"
    home.mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    (home / "policy.yaml").write_text('"imageflow:builds:list": "!"')
    assert not policy(tmp_path).allows(caller("admin"), "builds:list", "web")


def test_the_example_of_the_documentation_can_be_copied(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "doc/api.md").read_text(), re.DOTALL)
    found = policy(tmp_path, example)
    assert found.allows(caller("member"), "recipes:add", "web")
    assert not found.allows(caller("admin"), "builds:console", "web")


@pytest.mark.parametrize(
    ("rules", "why"),
    [
        ("a: [", "is not YAML"),
        (b"\xff\xfe\xff", "is not YAML"),
        ("- a", "not a mapping"),
        ("1: '@'", "not a mapping"),
        ('"imageflow:builds:list": 3', "not a mapping"),
        ('"imageflow:builds:list": ["role:a"]', "not a mapping"),
        ('"imageflow:builds:lst": "@"', "there is no rule imageflow:builds:lst"),
        ('"imageflow:builds:list": "role:reader and"', "is no rule"),
        ('"imageflow:builds:list": "rule:nobody"', "imageflow:builds:list"),
        ('"imageflow:builds:list": "rule:imageflow:builds:list"', "imageflow:builds:list"),
        ('"imageflow:builds:list": "http://127.0.0.1/"', "another server"),
    ],
)
def test_a_mistake_in_the_file_stops_the_start(tmp_path: Path, rules: str | bytes, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        policy(tmp_path, rules)
    assert caught.value.hint


def test_a_file_that_cant_be_read_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "b.conf").write_text(f"[oslo_policy]\npolicy_file = {tmp_path}/missing.yaml\n")
    with pytest.raises(ConfigError, match="there is no file"):
        Policy(configuration.load([str(tmp_path / "b.conf")], str(tmp_path)))
    (tmp_path / "missing.yaml").mkdir()
    with pytest.raises(ConfigError, match=r"missing\.yaml"):
        Policy(configuration.load([str(tmp_path / "b.conf")], str(tmp_path)))


def test_sections_of_libraries_are_no_typing_errors(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "a.conf"
    file.write_text(
        "[keystone_authtoken]\nauth_url = http://k\n[oslo_policy]\nenforce_scope = true\n[nothing]\na = b\n"
    )
    configuration.load([str(file)], str(tmp_path))
    assert [record.getMessage().partition(" (")[0] for record in caplog.records] == [
        "configuration: there is no option [nothing] a"
    ]


def test_the_sample_is_what_the_rules_say(tmp_path: Path) -> None:
    generator = Path(sys.executable).with_name("oslopolicy-sample-generator")
    subprocess.run([generator, "--namespace", "imageflow", "--output-file", tmp_path / "p"], check=True, timeout=60)
    assert (tmp_path / "p").read_text() == (ROOT / "etc/policy.yaml.sample").read_text(), "run: make sample"
