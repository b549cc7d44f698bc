"""What a recipe from git may do on the host that builds it is bounded by the host's configuration."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imageflow.errors import BadInput, RecipeError, Refused
from imageflow.host.control import Control
from imageflow.rebuilds.dispatcher import Dispatcher
from imageflow.registry.git_recipes import GitRecipes
from imageflow.registry.recipes import Recipes
from imageflow.registry.trust import may_use
from tests.flows.hosted.hosted_yard import look, settle
from tests.small.forge import IMAGE, Forge
from tests.small.polled import git
from tests.small.yard import Yard

BOOT = "images: [{{name: web, method: boot, base: {{{base}}}, {more}}}]\n"


def held_to(yard: Yard, **lists: Any) -> GitRecipes:
    """The registry of a host with these lists."""
    config = yard.service.config
    return GitRecipes(replace(config, recipes=replace(config.recipes, **lists)), yard.service.database)


def registered(yard: Yard, forge: Forge, text: str, **lists: Any) -> None:
    forge.write("recipes/web.yaml", text)
    forge.push()
    held_to(yard, **lists).add("recipes/web.yaml", forge.url)


# -- files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "more", "place"),
    [
        ("file: /etc/shadow", "machine: {}", "base.file"),
        ("file: link", "machine: {}", "base.file"),
        ("url: 'file:///etc/shadow', sha256: '" + "a" * 64 + "'", "machine: {}", "base.url"),
        ("url: 'file:///etc/shado%77', sha256: '" + "a" * 64 + "'", "machine: {}", "base.url"),
        ("url: 'https://h/x', checksums: /etc/shadow", "machine: {}", "base.checksums"),
        ("file: disk", "on: [{watch: /etc/shadow}]", r"on\[0\].watch"),
        ("file: disk", "on: [{watch: 'file:///etc/shadow'}]", r"on\[0\].watch"),
        ("file: disk", "on: [{watch: link}]", r"on\[0\].watch"),
    ],
)
def test_files_of_the_host_are_not_read(yard: Yard, forge: Forge, base: str, more: str, place: str) -> None:
    forge.write("recipes/disk", "x")
    (forge.work / "recipes/link").symlink_to("/etc/shadow")
    with pytest.raises(RecipeError, match=rf"recipes/web.yaml:1: .*{place}: .* is outside the repository") as error:
        registered(yard, forge, BOOT.format(base=base, more=more))
    assert "[recipes] files" in str(error.value)
    assert yard.service.recipes.registered() == []
    registered(yard, forge, BOOT.format(base=base, more=more), files=("/etc/shadow",))


def test_files_of_the_repository_are(yard: Yard, forge: Forge) -> None:
    forge.write("shared/disk", "x")
    registered(yard, forge, BOOT.format(base="file: ../shared/disk", more="on: [{watch: ../shared}]"))


def test_a_local_recipe_is_as_free_as_its_author(yard: Yard, tmp_path: Path) -> None:
    file = tmp_path / "web.yaml"
    file.write_text(BOOT.format(base="file: /etc/hostname", more="on: [{watch: /etc}]"))
    config = yard.service.config
    held = Recipes(replace(config, recipes=replace(config.recipes, local=True)), yard.service.database)
    with pytest.raises(RecipeError, match="is outside the repository"):
        held.add(file)
    yard.service.recipes.add(file)


# -- secrets -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "secret", "entries", "expected"),
    [
        ("web", "token", (), False),
        ("web", "web.token", (), True),
        ("infra/web", "infra.token", (), True),
        ("infra/web", "web.token", (), False),
        ("infra", "infra.x.token", (), False),  # the project infra.x has that one
        ("infra.x", "infra.x.token", (), True),
        ("web", "token", ("web: token",), True),
        ("web", "other", ("web: token",), False),
        ("infra/web", "token", ("infra: token",), True),
        ("infra/web", "token", ("infra/db: token",), False),
        ("infra/web", "site-a", ("*: x", "infra/*: y site-*"), True),
    ],
)
def test_whose_a_secret_is(yard: Yard, recipe: str, secret: str, entries: tuple[str, ...], expected: bool) -> None:
    config = replace(yard.service.config, recipes=replace(yard.service.config.recipes, secrets=entries))
    assert may_use(config, recipe, secret) is expected


def test_no_recipe_reads_another_ones_secret(yard: Yard, forge: Forge) -> None:
    text = IMAGE.format(name="web", more=", environment: {MY_TOKEN: {secret: other.token}}")
    with pytest.raises(RecipeError, match=r"'web' may not use the secret 'other.token' \(name it web.NAME, or add"):
        registered(yard, forge, text)
    registered(yard, forge, text, secrets=("web: other.token",))
    registered(yard, forge, text.replace("other.token", "web.token"))


# -- elements, variables, steps, repositories ------------------------------------------------------------


def test_elements(yard: Yard, forge: Forge) -> None:
    text = IMAGE.format(name="web", more="")
    registered(yard, forge, text, elements=("tiny",))
    with pytest.raises(RecipeError, match=r"may not use the element tiny here \(\[recipes\] elements\)"):
        registered(yard, forge, text, elements=("debian*",))
    forge.write("recipes/elements/tiny/element-provides", "operating-system\n")
    with pytest.raises(RecipeError, match="may not use the element repository:tiny here"):
        registered(yard, forge, text, elements=("tiny", "*"))
    registered(yard, forge, text, elements=("repository:*",))
    registered(yard, forge, text)


def test_variables(yard: Yard, forge: Forge) -> None:
    text = IMAGE.format(name="web", more=", environment: {DIB_RELEASE: x, DIB_DEBIAN_DEBOOTSTRAP_SCRIPT: y}")
    with pytest.raises(RecipeError, match="may not set DIB_DEBIAN_DEBOOTSTRAP_SCRIPT here"):
        registered(yard, forge, text, environment=("DIB_RELEASE",))
    registered(yard, forge, text, environment=("DIB_*",))
    hosts = IMAGE.format(name="web", more=", environment: {DIB_APT_SOURCES: /etc/hostname}")
    with pytest.raises(RecipeError, match="/etc/hostname is outside the repository"):
        registered(yard, forge, hosts, elements=("tiny",))


def test_elements_of_the_host_that_a_variable_names(yard: Yard, forge: Forge, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    forge.write("recipes/elements/more/README.rst", "")
    text = IMAGE.format(name="web", more=f", environment: {{ELEMENTS_PATH: 'elements:{theirs}'}}")
    with pytest.raises(RecipeError, match=r"ELEMENTS_PATH: .*theirs is outside the repository"):
        registered(yard, forge, text)
    registered(yard, forge, text, files=(str(theirs),))


def test_steps(yard: Yard, forge: Forge) -> None:
    text = BOOT.format(base="file: disk", more="configure: [{shell: 'true'}]")
    forge.write("recipes/disk", "x")
    with pytest.raises(RecipeError, match=r"configure\[0\].shell: a recipe from git may have no step 'shell' here"):
        registered(yard, forge, text, steps=("packages",))
    registered(yard, forge, text, steps=("packages", "shell"))


def test_repositories(yard: Yard, forge: Forge) -> None:
    with pytest.raises(BadInput, match="is not one of the repositories"):
        held_to(yard, repositories=("https://git.example/acme/*",)).add("recipes", forge.url)
    held_to(yard, repositories=(f"{forge.url}*",)).add("recipes/web.yaml", forge.url)
    text = IMAGE.format(name="web", more="").replace('schedule: "0 3 * * *"', "git: 'https://other/x', ref: main")
    with pytest.raises(RecipeError, match=r"on\[0\].git: https://other/x is not one of the repositories"):
        registered(yard, forge, text, repositories=(forge.url,))


def test_a_list_that_became_shorter_holds_for_what_is_registered(yard: Yard, forge: Forge) -> None:
    yard.service.git_recipes.add("recipes/web.yaml", forge.url)
    config, service = yard.service.config, yard.service
    shorter = replace(config, recipes=replace(config.recipes, elements=("debian*",)))
    yard.dispatcher = Dispatcher(shorter, service.database, service.submitter, service.checkouts, yard.inbox)
    forge.image("web", motd="1")
    forge.push()
    look(yard, "web")
    assert settle(yard) == []
    [event] = [event for event in yard.service.events.select() if event.type == "imageflow.recipe.changed"]
    [reaction] = yard.service.events.get(event.seq)[1]
    assert (reaction.outcome, "may not use the element tiny" in str(reaction.detail)) == ("refused", True)
    with pytest.raises(Refused, match="is not one of the repositories"):
        held_to(yard, repositories=("https://x/*",)).look("web", Control())


# -- signed commits --------------------------------------------------------------------------------------


def key(folder: Path, name: str) -> Path:
    path = folder / name
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", path], check=True)
    return path


def signed_by(forge: Forge, key: Path) -> None:
    for name, value in (("gpg.format", "ssh"), ("user.signingkey", str(key)), ("commit.gpgsign", "true")):
        git("config", name, value, at=forge.work)


def test_only_signed_commits(yard: Yard, forge: Forge, tmp_path: Path) -> None:
    ours, theirs = key(tmp_path, "ours"), key(tmp_path, "theirs")
    signers = tmp_path / "allowed_signers"
    signers.write_text(f"me@example {ours.with_suffix('.pub').read_text()}")
    held = held_to(yard, signed_by=str(signers))
    with pytest.raises(Refused, match=r"is not signed by a key in .*allowed_signers"):
        held.add("recipes/web.yaml", forge.url)
    signed_by(forge, theirs)
    forge.image("web", motd="1")
    forge.push()
    with pytest.raises(Refused, match="is not signed by a key in"):
        held.add("recipes/web.yaml", forge.url)
    assert not list(yard.service.config.checkouts_dir.glob("*/*/recipes"))
    signed_by(forge, ours)
    forge.image("web", motd="2")
    forge.push()
    [done] = held.add("recipes/web.yaml", forge.url)
    assert done.verdict == "added"
    with pytest.raises(Refused, match="there is no /nowhere"):
        forge.image("web", motd="3")
        forge.push()
        held_to(yard, signed_by="/nowhere").add("recipes/web.yaml", forge.url)


def test_commits_signed_with_a_keyring(
    yard: Yard, forge: Forge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, empty = tmp_path / "gnupg", tmp_path / "empty"
    for folder in (home, empty):
        folder.mkdir(mode=0o700)
    monkeypatch.setenv("GNUPGHOME", str(home))
    made = [
        "gpg",
        "--batch",
        "--quiet",
        "--pinentry-mode",
        "loopback",
        "--passphrase",
        "",
        "--quick-gen-key",
        "me@example",
    ]
    subprocess.run([*made, "ed25519", "sign", "never"], check=True, capture_output=True)
    program = tmp_path / "gpg"
    program.write_text(
        f"#!/bin/sh\nexec gpg --homedir {home} --batch --pinentry-mode loopback --passphrase '' \"$@\"\n"
    )
    program.chmod(0o755)
    settings = {
        "gpg.format": "openpgp",
        "gpg.program": str(program),
        "user.signingkey": "me@example",
        "commit.gpgsign": "true",
    }
    for name, value in settings.items():
        git("config", name, value, at=forge.work)
    forge.image("web", motd="1")
    forge.push()
    try:
        with pytest.raises(Refused, match="is not signed by a key in"):
            held_to(yard, signed_by=str(empty)).add("recipes/web.yaml", forge.url)
        with pytest.raises(Refused, match="is not signed by a key in"):  # this user's own keyring does not count
            (tmp_path / "signers").touch()
            held_to(yard, signed_by=str(tmp_path / "signers")).add("recipes/web.yaml", forge.url)
        held_to(yard, signed_by=str(home)).add("recipes/web.yaml", forge.url)
    finally:
        subprocess.run(["gpgconf", "--kill", "all"], check=False, capture_output=True)
