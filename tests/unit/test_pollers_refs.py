"""Refs: which URLs git may get, what ls-remote prints, and the events of a change."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imageflow.events.triggers import git_source
from imageflow.fetch import git
from imageflow.listeners import refs

A, B, C = "a" * 40, "b" * 40, "c" * 40
URL = "https://git.example.org/acme/tools/infra.git"


@pytest.mark.parametrize(
    "url",
    [
        URL,
        "http://10.0.0.1:3000/acme/infra",
        "ssh://git@git.example.org:29418/acme/infra",
        "git@git.example.org:acme/infra.git",
        "git://git.example.org/infra",
        "file:///srv/git/infra.git",
        "/srv/git/infra.git",
        "https://[::1]:8443/infra.git",
    ],
)
def test_usable_urls(url: str) -> None:
    assert git.unusable(url) is None


@pytest.mark.parametrize(
    "url",
    [
        "",
        "-uhttps://x",
        "--upload-pack=touch /tmp/x",
        "ext::sh -c touch% /tmp/x",
        "ext::sh",
        "transport::address",
        "fd::3",
        "https://user:secret@git.example.org/infra",
        "https://token@git.example.org/infra",
        "ssh://git:secret@git.example.org/infra",
        "ssh://-oProxyCommand=touch/x",
        "ssh://git@-oProxyCommand=touch/x",
        "-oProxyCommand=x:path",
        "host:-x",
        "ftp://example.org/infra",
        "dict://example.org:11211/",
        "https:///infra",
        "file://host/infra",
        "relative/path",
        "origin",
        "https://git.example.org/a b",
        "https://git.example.org/a\nb",
        "https://[::1/infra",
        "https://x/" + "a" * 2000,
    ],
)
def test_urls_that_git_does_not_get(url: str) -> None:
    why = git.unusable(url)
    assert why is not None
    assert "secret" not in why and "token" not in why


@given(st.text() | st.from_regex(r"(ext|ssh|https|-|file)(::|://|:)[ -~]*"))
def test_no_url_crashes(url: str) -> None:
    if git.unusable(url) is None:
        assert not url.startswith("-") and "ext::" not in url[:5] and "\n" not in url
        refs.data(url, "refs/heads/main", None, A)


def test_what_ls_remote_prints() -> None:
    text = f"{A}\trefs/heads/main\n{B}\trefs/tags/v1\n{C}\trefs/tags/v1^{{}}\nwarning: something\n{A}\tHEAD\n"
    assert refs.parse(text) == {"refs/heads/main": A, "refs/tags/v1": B}


LINES = st.text() | st.builds(
    "{}{}{}{}".format,
    st.text("0123456789abcdef", min_size=38, max_size=42) | st.just(A),
    st.sampled_from(["\t", " ", ""]),
    st.sampled_from(["refs/", "refs/heads/", "HEAD", ""]),
    st.text(max_size=9) | st.text("\x00 \x7f\ud800^{}", max_size=4),
)


@given(st.lists(LINES).map("\n".join))
def test_no_output_crashes(text: str) -> None:
    for ref, commit in refs.parse(text).items():
        assert ref.startswith("refs/") and len(commit) in (40, 64)
        (ref + commit).encode()


@given(
    st.text()
    | st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)).map(
        json.dumps
    )
)
def test_no_observation_crashes(text: str) -> None:
    refs.Seen.of(text)


def test_first_sight_is_a_baseline_then_changes_are_events() -> None:
    patterns = ["refs/heads/*", "refs/tags/*"]
    first = {"refs/heads/main": A, "refs/heads/old": A, "refs/other/x": A}
    events, seen = refs.changes(URL, None, first, patterns, 1.0)
    assert events == []
    assert refs.Seen.of(seen.text()) == seen
    events, seen = refs.changes(URL, seen, {"refs/heads/main": B, "refs/tags/v1": C}, patterns, 2.0)
    assert [(event.type, event.subject) for event in events] == [
        ("git.push", "refs/heads/main"),
        ("git.delete", "refs/heads/old"),
        ("git.tag", "refs/tags/v1"),
    ]
    push, gone, tag = (event.data for event in events)
    assert push == {
        "repository": "infra",
        "owner": "acme/tools",
        "ref": "refs/heads/main",
        "branch": "main",
        "tag": None,
        "before": A,
        "after": B,
        "pusher": None,
        "url": URL,
    }
    assert (gone["branch"], gone["before"], gone["after"]) == ("old", A, None)
    assert (tag["tag"], tag["branch"], tag["before"], tag["after"]) == ("v1", None, None, C)
    assert all(event.source == git_source(URL) for event in events)


def test_the_source_holds_no_user() -> None:
    url = "ssh://git@git.example.org/acme/infra.git"
    _, seen = refs.changes(url, None, {"refs/heads/main": A}, ["refs/heads/main"], 1.0)
    (event,), _ = refs.changes(url, seen, {"refs/heads/main": B}, ["refs/heads/main"], 1.0)
    assert event.source == "ssh://git.example.org/acme/infra"
    assert event.data["url"] == "ssh://git.example.org/acme/infra.git"


def test_a_ref_that_nobody_looked_at_is_no_news() -> None:
    there = {"refs/heads/main": A, "refs/heads/dev": A}
    _, seen = refs.changes(URL, None, there, ["refs/heads/main"], 1.0)
    events, seen = refs.changes(URL, seen, there | {"refs/heads/main": B}, ["refs/heads/main", "refs/heads/dev"], 2.0)
    assert [event.subject for event in events] == ["refs/heads/main"]
    events, _ = refs.changes(URL, seen, there | {"refs/heads/dev": B}, ["refs/heads/dev"], 3.0)
    assert [event.subject for event in events] == ["refs/heads/dev"]


STATES = st.dictionaries(
    st.sampled_from(["refs/heads/main", "refs/heads/dev", "refs/tags/v1"]), st.sampled_from([A, B, C])
)


@given(st.lists(STATES, min_size=1, max_size=12), st.lists(st.booleans(), min_size=12, max_size=12))
def test_every_change_is_one_event_even_when_killed_before_it_is_remembered(
    states: list[dict[str, str]], killed: list[bool]
) -> None:
    """A process that dies between receive and see makes the same events again; going back and forth makes new ones."""
    patterns = ["refs/heads/*", "refs/tags/*"]
    _, seen = refs.changes(URL, None, states[0], patterns, 0.0)
    inbox: set[str] = set()
    wanted = 0
    for before, state, dies in zip(states, states[1:], killed, strict=False):
        wanted += sum(before.get(ref) != state.get(ref) for ref in before.keys() | state.keys())
        if dies:
            inbox |= {event.id for event in refs.changes(URL, seen, state, patterns, 1.0)[0]}
        events, seen = refs.changes(URL, refs.Seen.of(seen.text()), state, patterns, 2.0)
        inbox |= {event.id for event in events}
    assert len(inbox) == wanted


@pytest.mark.parametrize(
    ("ref", "whole"), [("main", "refs/heads/main"), ("refs/tags/v1", "refs/tags/v1"), ("refs/tags/v*", "refs/tags/v*")]
)
def test_refs_of_recipes(ref: str, whole: str) -> None:
    assert git.whole(ref) == whole
    assert refs.matches(whole.replace("*", "9/x"), [whole])
