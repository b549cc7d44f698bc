"""Secrets in plain text: recognized in every place, warned of, and in nothing that is stored, shown or published."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from imageflow import config, recipe
from imageflow.dib import manifest
from imageflow.errors import RecipeError
from imageflow.inputs import fingerprint
from imageflow.model import Build, BuildState
from imageflow.recipe import plain_secrets, secret_values
from imageflow.recipe.plain_secrets import has_credentials, masked, what

NAMES = [
    "DB_PASSWORD",
    "DB_PASS",
    "PGPASSWORD",
    "MYSQL_PWD",
    "ROOT_PW",
    "ROOTPW",
    "AWS_SECRET_ACCESS_KEY",
    "GITHUB_TOKEN",
    "API_KEY",
    "APIKEY",
    "SSH_KEY",
    "PRIVATE_KEY",
    "SECRET_KEY",
    "ENCRYPTION_KEY",
    "LUKS_KEY",
    "REGISTRY_AUTH",
    "REDISCLI_AUTH",
    "WIFI_PSK",
    "GPG_PASSPHRASE",
    "CREDS",
    "KEY",
    "DB_PASSWORD2",
    "dbPassword",
    "adminPass",
    "smtp-password",
    "snmp_community",
    "vault.token",
    "SSHPASS",
    "ADMINPASS",
    "GIT_CREDENTIALS",
    "SESSION_COOKIE",
    "AZURE_SAS",
    "OS_PASSWORD",
    "DIB_DEV_USER_PASSWORD",
    "CLIENT_SECRET",
    "auth_token",
]
PUBLIC_NAMES = [
    "DB_USER",
    "PWD",
    "OLDPWD",
    "MONKEY",
    "TOKEN_TTL",
    "PASSWORD_FILE",
    "SECRET_NAME",
    "TOKEN_URL",
    "PUBLIC_KEY",
    "SSH_PUBLIC_KEY",
    "GPG_KEY",
    "KEYBOARD",
    "AUTH_METHOD",
    "BYPASS",
    "COMPASS",
    "KEYRING",
    "PASSWORD_POLICY",
    "PRIMARY_KEY",
    "AUTHOR",
    "KEYMAP",
    "DIB_RELEASE",
    "KEY_ID",
    "DIB_DEV_USER_PWDLESS_SUDO",
]
FORMS = {
    "pem": "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA\n-----END RSA PRIVATE KEY-----",
    "openssh": "x -----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk=\n-----END OPENSSH PRIVATE KEY-----",
    "pgp": "-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nlQdGBF\n-----END PGP PRIVATE KEY BLOCK-----",
    "github": "curl -H 'Authorization: Bearer ghp_" + "a1B2" * 9 + "'",
    "github-fine": "github_pat_" + "11ABCDE0Y0" * 5,
    "gitlab": "glpat-" + "x9Y8" * 5,
    "aws": "AKIAIOSFODNN7EXAMPLE",
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N",
    "slack": "https://hooks.slack.com/services/T00000000/B00000000/XXXXXXXXXXXXXXXXXXXXXXXX",
    "npm": "npm_" + "a1B2" * 9,
    "url": "postgres://app:hunter22@db/x",
    "http-token": "https://0123abcd@git.example/x",
}


@pytest.mark.parametrize("name", NAMES)
def test_the_usual_names(name: str) -> None:
    assert what(name, "hunter22")
    for harmless in ("", "true", "no", "$OTHER", "${OTHER}", "{{ other }}", "/run/secrets/x", "https://x/y"):
        assert what(name, harmless) is None


@pytest.mark.parametrize("name", PUBLIC_NAMES)
def test_names_that_sound_alike(name: str) -> None:
    assert what(name, "hunter22") is None


@pytest.mark.parametrize("text", FORMS.values(), ids=list(FORMS))
def test_the_usual_forms(text: str) -> None:
    assert what("X", text) or has_credentials(text)
    assert not plain_secrets.form_of(masked(text))
    assert not has_credentials(masked(text))


@pytest.mark.parametrize(
    "url",
    [
        "ssh://git@host/x",
        "https://host/a@b",
        "https://host/?q=a:b@c",
        "https://$USER:$TOKEN@host/",
        "https://{{ user }}:{{ token }}@host/",
        "postgres://app@db/x",
        "https://user:***@host/",
        "git@host:path",
        "mailto:me@host",
    ],
)
def test_urls_without_credentials(url: str) -> None:
    assert not has_credentials(url)


# -- in recipes --------------------------------------------------------------------------------------

MACHINE = """
images:
  - name: web
    method: boot
    base: {file: disk.raw}
    configure:
      - shell:
          run: |
            echo ghp_a1B2a1B2a1B2a1B2a1B2a1B2a1B2a1B2a1B2
            curl https://u:plain-url@host/
          environment: {DB_PASSWORD: plain-hunter1, GREETING: hello, OTHER: {secret: named}}
      - ansible:
          playbook: site.yml
          variables: {db: {password: plain-hunter2, port: 80}, api_key: plain-hunter3}
      - users: [{name: ada, password: $6$saltsalt$plainhash1234567890}]
      - files: [{path: /x, content: "-----BEGIN PRIVATE KEY-----\\nplainkey\\n-----END PRIVATE KEY-----\\n"}]
    verify:
      - shell: {run: 'true', environment: {API_TOKEN: plain-hunter4}}
"""
PLAIN = ("plain-hunter1", "plain-hunter2", "plain-hunter3", "plain-hunter4")


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    (tmp_path / "disk.raw").write_bytes(b"x")
    (tmp_path / "site.yml").write_text("- hosts: all\n")
    (tmp_path / "recipe.yaml").write_text(MACHINE)
    return tmp_path / "recipe.yaml"


def test_what_is_stored_holds_references(machine: Path, tmp_path: Path) -> None:
    [image] = recipe.load(machine).images
    stored = image.canonical()
    assert not [value for value in PLAIN if value in json.dumps(stored)]
    assert stored["configure"][0]["shell"]["environment"]["GREETING"] == "hello"
    assert stored["configure"][0]["shell"]["environment"]["OTHER"] == {"secret": "named"}
    conf = config.load(state_dir=str(tmp_path))
    named = [name for name in secret_values.named_in(stored) if name != "named"]
    assert sorted(secret_values.resolve(name, conf) for name in named) == sorted(PLAIN)
    moved = tmp_path / "b"
    moved.mkdir()
    for file in ("disk.raw", "site.yml", "recipe.yaml"):
        (moved / file).write_bytes((tmp_path / file).read_bytes())
    [other] = recipe.load(moved / "recipe.yaml").images
    assert fingerprint.build_key(stored, {}) == fingerprint.build_key(other.canonical(), {})


def test_each_is_warned_of_with_its_place(machine: Path) -> None:
    [image] = recipe.load(machine).images
    said = "\n".join(map(str, image.remarks))
    for line in (
        "recipe.yaml:11: images[0].configure[0].shell.environment.DB_PASSWORD: holds a password, key or token, by its name",
        "images[0].configure[0].shell.run: holds a token of GitHub, in plain text",
        "images[0].configure[1].ansible.variables.db.password: holds",
        "images[0].configure[1].ansible.variables.api_key: holds",
        "images[0].configure[3].files[0].content: holds a private key",
        "images[0].verify[0].shell.environment.API_TOKEN: holds",
    ):
        assert line in said
    assert not [value for value in (*PLAIN, "ghp_", "plainkey") if value in said]
    assert len(image.remarks) == 6


def test_a_manifest_carries_the_recipe_without_them(machine: Path, tmp_path: Path) -> None:
    [image] = recipe.load(machine).images
    build = Build(
        id="b" * 12, image="web", method="boot", state=BuildState.RUNNING, reason="", key="", flow="", created=time.time(),
        recipe=image.canonical(), folder="", pins={},
    )  # fmt: skip
    shown = json.dumps(manifest.describe(build, tmp_path, None, {}, str))
    assert not [value for value in (*PLAIN, "ghp_", "plainkey", "plain-url", "plainhash") if value in shown]
    assert "hello" in shown
    assert "https://******@host/" in shown


def test_recipes_without_any_are_stored_as_they_were() -> None:
    image = {"name": "x", "configure": [{"shell": {"run": "true", "environment": {"A": "b", "PASSWORD_FILE": "/x"}}}]}
    assert plain_secrets.public(image) == image
    assert list(plain_secrets.of_image(image)) == []


def test_a_reason_quotes_none() -> None:
    one = {"name": "x", "configure": [{"shell": {"run": "true", "environment": {"DB_PASS": "hunter1"}}}]}
    other = {"name": "x", "configure": [{"shell": {"run": "true", "environment": {"DB_PASS": "hunter2"}}}]}
    before = Build(
        id="b" * 12, image="x", method="boot", state=BuildState.SUCCEEDED, reason="", key="", flow="", created=0.0,
        recipe=one, folder="", pins={},
    )  # fmt: skip
    assert fingerprint.why(before, other, {}) == "configure[0].shell.environment.DB_PASS changed"


URLS = {
    "base": ("base: {url: 'https://me:pw@h/d.qcow2', sha256: " + "0" * 64 + "}", "base.url", "netrc"),
    "checksums": ("base: {url: 'https://h/d.qcow2', checksums: 'https://tok@h/SUMS'}", "base.checksums", "netrc"),
    "pip": ("configure: [{pip: ['flask @ git+https://me:pw@h/flask']}]", "configure[0].pip[0]", "netrc"),
    "shell": (
        "configure: [{shell: {run: 'true', environment: {U: 'https://me:pw@h'}}}]",
        "environment.U",
        "{secret: NAME}",
    ),
    "ansible": ("configure: [{ansible: {playbook: p, variables: {u: 'x://a:b@h'}}}]", "variables.u", "{secret: NAME}"),
    "salt": ("configure: [{salt: {states: s, pillar: {u: ['x://a:b@h']}}}]", "pillar.u[0]", "{secret: NAME}"),
    "properties": ("publish: {properties: {from: 'https://me:pw@h'}}", "publish.properties.from", "netrc"),
}


@pytest.mark.parametrize(("line", "place", "hint"), URLS.values(), ids=list(URLS))
def test_credentials_in_urls_are_refused(tmp_path: Path, line: str, place: str, hint: str) -> None:
    base = "" if line.startswith("base") else "    base: {file: x}\n"
    (tmp_path / "recipe.yaml").write_text(f"images:\n  - name: web\n    method: boot\n{base}    {line}\n")
    with pytest.raises(RecipeError) as error:
        recipe.load(tmp_path / "recipe.yaml")
    [said] = [line for line in str(error.value).splitlines() if "has credentials in its URL" in line]
    assert place in said
    assert hint in said
    assert "pw@" not in said


@pytest.mark.parametrize("variable", ["DIB_DISTRIBUTION_MIRROR", "DIB_APT_SOURCES_CONF", "DIB_REPOLOCATION_x"])
def test_and_in_the_environment_of_diskimage_builder(tmp_path: Path, variable: str) -> None:
    text = f"images: [{{name: web, method: dib, dib: {{elements: [vm], environment: {{{variable}: 'deb http://me:pw@m/'}}}}}}]"
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(RecipeError, match=rf"{variable}: has credentials in its URL \(write .secret: NAME"):
        recipe.load(tmp_path / "recipe.yaml")


@pytest.mark.parametrize(
    ("kind", "step"),
    [
        ("variables", "ansible: {playbook: site.yml, variables: {x: {y: [REF]}}}"),
        ("pillar", "salt: {states: s, pillar: {x: REF}}"),
        ("variables", "files: [{path: /x, content: x, template: true, variables: {x: REF}}]"),
    ],
)
def test_no_recipe_reads_the_plain_secrets_of_another(machine: Path, kind: str, step: str) -> None:
    reference = f"{{secret: 'recipe:{machine}#web/configure/0/shell/environment/DB_PASSWORD'}}"
    (machine.parent / "s").mkdir()
    text = f"images: [{{name: spy, method: boot, base: {{file: disk.raw}}, configure: [{{{step.replace('REF', reference)}}}]}}]"
    (machine.parent / "spy.yaml").write_text(text)
    with pytest.raises(RecipeError, match=rf"{kind}\.x.*: is not a reference to a secret"):
        recipe.load(machine.parent / "spy.yaml")


def test_a_setting_is_refused_where_it_would_be_stored(machine: Path) -> None:
    with pytest.raises(RecipeError, match="a setting is stored with the build"):
        recipe.load(machine, {"configure.1.ansible.variables.api_key": "hunter5"})
