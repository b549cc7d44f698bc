"""Wants: what means the same is equal, and what is no want is refused."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from imageflow.wants.want import Want

NAMES = st.from_regex(r"[a-z][a-z0-9+.-]{0,20}", fullmatch=True)
FILES = st.builds(
    lambda path, content: {"path": f"/srv/{path}", "content": content}, NAMES, st.text("ab\nä", max_size=9)
)
WANTS = st.fixed_dictionaries(
    {
        "os": st.just("debian"),
        "packages": st.lists(NAMES, max_size=6),
        "pip_packages": st.lists(st.sampled_from(["flask", "Flask", "flask == 3.1.*", "a_b", "a-b>=1"]), max_size=4),
        "custom_files": st.lists(FILES, max_size=4, unique_by=lambda one: one["path"]),
    }
)


@given(WANTS, st.randoms())
def test_order_and_repetition_do_not_matter(said: dict[str, Any], dice: random.Random) -> None:
    other = {key: [*value, *value[:1]] if key.endswith("packages") else value for key, value in said.items()}
    for value in other.values():
        if isinstance(value, list):
            dice.shuffle(value)
    mixed = dict(dice.sample(sorted(other.items()), len(other)))
    assert Want(**mixed).canonical() == Want(**said).canonical()


@given(WANTS)
def test_what_is_canonical_is_a_want_that_stays_as_it_is(said: dict[str, Any]) -> None:
    canonical = Want(**said).canonical()
    assert Want(**canonical).canonical() == canonical


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"pip_packages": ["Flask == 3.1.*"]}, {"pip_packages": ["flask==3.1.*"]}),
        ({"pip_packages": ["my_package[b,a]"]}, {"pip_packages": ["My.Package[a,b]"]}),
        (
            {"custom_files": [{"path": "/etc//motd", "content": "", "mode": "644", "owner": "root"}]},
            {"custom_files": [{"path": "/etc/motd", "content": ""}]},
        ),
        ({"packages": []}, {}),
    ],
)
def test_two_spellings_are_one_want(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert Want(os="debian", **one).canonical() == Want(os="debian", **other).canonical()


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ({"packages": ["nginx; reboot"]}, "not a package name"),
        ({"packages": ["-oDebug::NoLocking=1"]}, "not a package name"),
        ({"packages": ["https://evil.example/x.rpm"]}, "is a file"),
        ({"packages": ["/tmp/x.deb"]}, "is a file"),
        ({"pip_packages": ["--index-url=http://evil.example"]}, "not a requirement"),
        ({"pip_packages": ["x @ http://169.254.169.254/latest"]}, "comes from a URL"),
        ({"pip_packages": ["x @ file:///etc/shadow"]}, "comes from a URL"),
        ({"pip_packages": ["git+ssh://host/repo"]}, "not a requirement"),
        ({"custom_files": [{"path": "../etc/passwd", "content": ""}]}, "absolute path"),
        ({"custom_files": [{"path": "/srv/../etc/passwd", "content": ""}]}, "contains '..'"),
        ({"custom_files": [{"path": "/a", "content": ""}, {"path": "//a", "content": "x"}]}, "twice"),
        ({"custom_files": [{"path": "/a", "source": "/etc/shadow"}]}, "content"),
        ({"custom_files": [{"path": "/a", "content": "", "mode": "u+s"}]}, "not a file mode"),
        ({"custom_files": [{"path": "/a", "content": "x" * (1 << 20) + "x"}]}, "at most"),
        ({"config_system": "chef"}, "go together|names one of"),
        ({"shell": "reboot"}, "shell"),
        ({"os": "../debian"}, "not a usable name"),
        ({"packages": "nginx"}, "list"),
        ({"packages": ["a"] * 1001}, "1000"),
    ],
)
def test_what_is_no_want_is_refused(said: dict[str, Any], what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        Want(**{"os": "debian", **said})
