"""The content digest: what counts of a listed tree, and that nothing else does."""

from __future__ import annotations

import random
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imageflow import content
from imageflow.content import Unreadable, left_out

PACKAGES = [
    {"name": "bash", "version": "5.2-1", "arch": "amd64"},
    {"name": "libc6", "version": "2.36", "arch": "amd64"},
    {"name": "libc6", "version": "2.36", "arch": "i386"},
]


@dataclass(frozen=True)
class Entry:
    """A path as find, stat, sha256sum and getcap say it."""

    path: bytes
    kind: int = stat.S_IFREG
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    size: int = 3
    device: tuple[int, int] = (0, 0)
    hash: str = "ab" * 32
    target: bytes = b"there"
    capability: bytes = b""

    def lines(self) -> list[bytes]:
        owner = f"{self.kind | self.mode:x} {self.uid} {self.gid} {self.size} {self.device[0]:x} {self.device[1]:x}"
        said = [f"p {owner} .".encode() + self.path]
        if self.kind == stat.S_IFLNK:
            said += [b"l ." + self.path + b"\n." + self.path + b" -> " + self.target]
        if self.kind == stat.S_IFREG and self.size:
            escaped = self.path.replace(b"\\", b"\\\\")
            said += [(b"\\" if escaped != self.path else b"") + self.hash.encode() + b"  ." + escaped]
        if self.capability:
            said += [b"." + self.path + b" " + self.capability]
        return said


ROOT = Entry(b"", stat.S_IFDIR, 0o755, size=4096)
NAMES = st.binary(min_size=1, max_size=6).filter(lambda name: not set(name) & set(b"/\n"))
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(lambda names: b"/" + b"/".join(names))
KINDS = st.sampled_from([stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO])
NUMBERS = st.integers(0, 1 << 20)
ENTRIES = st.builds(
    Entry,
    PATHS,
    KINDS,
    st.integers(0, 0o7777),
    NUMBERS,
    NUMBERS,
    st.integers(0, 1 << 40),
    st.tuples(NUMBERS, NUMBERS),
    st.binary(min_size=32, max_size=32).map(bytes.hex),
    st.binary(min_size=1, max_size=9).filter(lambda target: b"\n" not in target),
)
TREES = st.lists(ENTRIES, max_size=6, unique_by=lambda entry: entry.path).map(
    lambda entries: [entry for entry in entries if not left_out.leaves_out(entry.path)]
)


def listing(entries: Sequence[Entry], *more: bytes, seed: int = 0) -> bytes:
    """As the script prints them, in any order."""
    lines = [line for entry in (ROOT, *entries) for line in entry.lines()] + list(more)
    random.Random(seed).shuffle(lines)
    return b"\n".join([*lines, b"end", b""])


def digest(entries: Sequence[Entry], *more: bytes, seed: int = 0) -> str:
    return content.digest(PACKAGES, listing(entries, *more, seed=seed))


@given(TREES, st.integers())
def test_the_order_of_a_listing_is_nothing(tree: list[Entry], seed: int) -> None:
    assert digest(tree, seed=seed) == digest(tree)
    assert re.fullmatch("[0-9a-f]{64}", digest(tree))


@given(TREES, ENTRIES, st.sampled_from([*(f"{tree}/some" for tree in left_out.TREES), *left_out.PATHS]))
def test_what_is_left_out_is_nothing(tree: list[Entry], entry: Entry, place: str) -> None:
    path = (place.replace("*", "/any", 1) if place[0] == "*" else place).replace("*", "any/thing").encode()
    assert digest([*tree, replace(entry, path=path)]) == digest(tree)
    assert digest([*tree, replace(entry, path=path + b"/below")]) == digest(tree)


@given(TREES, ENTRIES.filter(lambda entry: not left_out.leaves_out(entry.path)), ENTRIES)
def test_every_change_is_another_content(tree: list[Entry], one: Entry, other: Entry) -> None:
    tree = [entry for entry in tree if entry.path != one.path]
    before = digest([*tree, one])
    assert digest(tree) != before
    for name in ("kind", "mode", "uid", "gid", "path"):
        value = getattr(other, name)
        if value != getattr(one, name) and not (name == "path" and left_out.leaves_out(value)):
            changed = replace(one, **{name: value})
            assert digest([entry for entry in tree if entry.path != changed.path] + [changed]) != before
    if one.kind == stat.S_IFREG and one.size and other.hash != one.hash:
        assert digest([*tree, replace(one, hash=other.hash)]) != before
    if one.kind == stat.S_IFLNK and other.target != one.target:
        assert digest([*tree, replace(one, target=other.target)]) != before
    if one.kind in (stat.S_IFCHR, stat.S_IFBLK) and other.device != one.device:
        assert digest([*tree, replace(one, device=other.device)]) != before
    assert digest([*tree, replace(one, capability=b"cap_net_raw=ep")]) != before


@given(TREES, st.integers(0, 1 << 40))
def test_the_size_of_what_is_no_file_is_nothing(tree: list[Entry], size: int) -> None:
    folders = [replace(entry, kind=stat.S_IFDIR) for entry in tree]
    assert digest([replace(entry, size=size) for entry in folders]) == digest(folders)


@given(TREES, st.integers(0, 1 << 20))
def test_what_is_cut_off_is_unreadable(tree: list[Entry], at: int) -> None:
    whole = listing(tree)
    with pytest.raises(Unreadable):
        content.digest(PACKAGES, whole[: at % len(whole)])


@given(st.binary(max_size=200), st.lists(st.sampled_from([b"p ", b"l ", b"n ", b"x ", b"./", b"./", b"\n", b"0 "])))
def test_no_listing_is_more_than_unreadable(some: bytes, words: list[bytes]) -> None:
    for garbage in (some, b"".join(words) + some):
        with pytest.raises(Unreadable):
            content.digest(PACKAGES, garbage + b"\nend\n")


@given(st.permutations(PACKAGES))
def test_the_order_of_packages_is_nothing_and_each_counts(packages: list[dict[str, str]]) -> None:
    tree = listing([])
    whole = content.digest(packages, tree)
    assert whole == content.digest(PACKAGES, tree)
    assert content.digest(packages[1:], tree) != whole
    for key in ("name", "version", "arch"):
        assert content.digest([{**packages[0], key: "other"}, *packages[1:]], tree) != whole
    assert content.digest([*packages, packages[0]], tree) == whole


def test_a_setuid_bit_is_another_content() -> None:
    assert digest([Entry(b"/usr/bin/su", mode=0o4755)]) != digest([Entry(b"/usr/bin/su", mode=0o755)])


def test_bytecode_beside_its_source_is_nothing_and_else_it_counts() -> None:
    source, made = Entry(b"/usr/lib/a.py"), Entry(b"/usr/lib/a.pyc")
    assert digest([source, made]) == digest([source])
    assert digest([made]) != digest([])


def test_a_file_is_its_normal_digest_where_there_is_one_and_goes_where_it_will() -> None:
    own, key = Entry(b"/etc/shadow", hash="11" * 32, size=5), Entry(b"/root/.ssh/authorized_keys")
    normal = b"n " + b"22" * 32 + b" ./etc/shadow"
    other = replace(own, hash="33" * 32, size=6)
    assert digest([own], normal) == digest([other], normal) != digest([own])
    assert digest([own, key], b"x ./root/.ssh/authorized_keys") == digest([own])
    assert digest([own], b"x ./not/there") == digest([own])


def test_the_machine_id_in_the_name_of_a_boot_entry_is_nothing() -> None:
    one, two = ([Entry(f"/boot/loader/entries/{digit * 32}-6.1.conf".encode())] for digit in "ab")
    assert digest(one) == digest(two)
    one, two = ([Entry(f"/srv/{digit * 32}".encode())] for digit in "ab")
    assert digest(one) != digest(two)


def test_busybox_and_older_coreutils_say_the_same() -> None:
    link, file = Entry(b"/it's", stat.S_IFLNK), Entry(b"/usr/bin/ping", capability=b"cap_net_raw=ep")
    said = listing([link, file])
    busybox = said.replace(b"./it's -> there", b"'./it's' -> 'there'").replace(b" cap_net_raw=ep", b" = cap_net_raw+ep")
    assert busybox != said
    assert content.digest(None, busybox) == content.digest(None, said)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"", "not be listed"),
        (None, "not be listed"),
        (b"end\n", "there is no root"),
        (listing([Entry(b"/a")]).replace(b"ab" * 32 + b"  ./a\n", b""), "/a could not be read"),
        (listing([Entry(b"/a", stat.S_IFLNK)]).replace(b"./a -> there", b"who knows"), "where does ./a lead"),
        (listing([Entry(b"/a\nb")]), "what is"),
    ],
)
def test_what_is_not_known_is_none_and_says_why(said: bytes | None, words: str) -> None:
    found, why = content.known_digest(PACKAGES, said)
    assert found is None
    assert words in why
    assert content.known_digest(PACKAGES, listing([])) == (digest([]), "")
