"""Secrets are found in every form, wherever a file holds them."""

from __future__ import annotations

import base64
import bz2
import gzip
import html
import io
import json
import lzma
import os
import random
import tarfile
import time
import tracemalloc
import urllib.parse
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imageflow.content.forms import forms, parts
from imageflow.content.needles import Needles
from imageflow.content.secret_search import SecretSearch
from imageflow.errors import Cancelled

SECRET = "pa/ss'w+rd&\"ü?"
_KEY = "\n".join(f"{base64.b64encode(random.Random(n).randbytes(48)).decode()}" for n in range(20))
PEM = f"-----BEGIN PRIVATE KEY-----\n{_KEY}\n-----END PRIVATE KEY-----\n"


def hits(tmp_path: Path, data: bytes, *secrets: str) -> list[tuple[str, tuple[int, ...]]]:
    (tmp_path / "file").write_bytes(data)
    return [tuple(hit) for hit in SecretSearch(secrets or [SECRET]).in_file(tmp_path / "file", lambda: None)]


def credentials(user: str) -> bytes:
    return json.dumps({"auths": {"r": {"auth": base64.b64encode(f"{user}:{SECRET}".encode()).decode()}}}).encode()


WRITTEN = {
    "literal": SECRET.encode(),
    "docker-0": credentials("ab"),
    "docker-1": credentials("abc"),
    "docker-2": credentials("abcd"),
    "url-safe": base64.urlsafe_b64encode(f">>?{SECRET}".encode()),
    "wrapped": base64.encodebytes(b"x" * 50 + SECRET.encode() + b"y" * 50),
    "git-credentials": b"https://u:%s@h/" % urllib.parse.quote(SECRET, safe="").lower().encode(),
    "form": urllib.parse.urlencode({"p": SECRET}).encode(),
    "json": json.dumps({"p": SECRET}).encode(),
    "json-utf-8": json.dumps({"p": SECRET}, ensure_ascii=False).encode(),
    "json-php": json.dumps({"p": SECRET}).replace("/", "\\/").encode(),
    "json-twice": json.dumps(json.dumps({"p": SECRET})).encode(),
    "xml": html.escape(SECRET).encode(),
    "shell": b"P='%s'" % SECRET.replace("'", "'\\''").encode(),
    "hex": SECRET.encode().hex().encode(),
    "HEX": SECRET.encode().hex().upper().encode(),
}


@pytest.mark.parametrize("written", WRITTEN.values(), ids=list(WRITTEN))
@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress, bz2.compress], ids=["", "gzip", "xz", "bzip2"])
@pytest.mark.parametrize("at", [0, 1, (256 << 10) - 5, 300_001])
def test_each_form_is_found(tmp_path: Path, written: bytes, pack: object, at: int) -> None:
    noise = random.Random(1).randbytes(300_001)
    data = noise[:at] + pack(written) + noise[:77]  # type: ignore[operator]
    assert hits(tmp_path, data)
    assert not hits(tmp_path, noise + pack(written[:4]) + noise)  # type: ignore[operator]


def test_the_place_is_told(tmp_path: Path) -> None:
    noise = random.Random(1).randbytes(1000).hex().encode()[:1000]
    inner = gzip.compress(noise + SECRET.encode() + noise)
    assert hits(tmp_path, noise + SECRET.encode()) == [("as it is", (1000,))]
    assert hits(tmp_path, noise + inner) == [("as it is", (1000, 1000))]
    assert hits(tmp_path, noise + lzma.compress(noise * 9 + inner)) == [("as it is", (1000, 9000, 1000))]


def test_in_a_packed_archive_of_packed_files(tmp_path: Path) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for number in range(50):
            text = random.Random(number).randbytes(5000).hex().encode()
            data = gzip.compress(text + (SECRET.encode() if number == 30 else b"") + text)
            entry = tarfile.TarInfo(f"doc-{number}.gz")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    [(form, at)] = hits(tmp_path, made.getvalue())
    assert (form, at[0], at[2]) == ("as it is", 0, 10000)


def test_a_sparse_file_is_read_where_it_has_data(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        file.truncate(1 << 40)
        file.seek(1 << 39)
        file.write(b"x" + SECRET.encode())
    before = time.process_time()
    [hit] = SecretSearch([SECRET]).in_file(tmp_path / "file", lambda: None)
    assert hit.at == ((1 << 39) + 1,)
    assert time.process_time() - before < 5


@given(st.binary(max_size=40), st.text(min_size=6, max_size=30), st.integers(0, 2**32))
def test_base64_of_anything_around_it(before: bytes, secret: str, seed: int) -> None:
    if not parts(secret):
        return
    data = base64.b64encode(before + parts(secret)[0].encode() + random.Random(seed).randbytes(seed % 7))
    assert SecretSearch([secret]).in_text(data.decode())


@given(st.lists(st.binary(min_size=1, max_size=4), max_size=6), st.binary(max_size=60))
def test_needles_finds_what_find_finds(needles: list[bytes], data: bytes) -> None:
    expected = {(at, needle) for needle in needles for at in range(len(data)) if needle and data.startswith(needle, at)}
    found = list(Needles(needles).find(data))
    assert set(found) == expected
    assert len(found) == len(expected)


def test_what_stands_for_a_secret() -> None:
    assert parts("short") == []
    assert parts("sixsix") == ["sixsix"]
    assert parts("$6$saltsalt$" + "h" * 86) == []  # a hash is made for /etc/shadow
    assert parts("one-line\n\nx\nother-line\n") == ["other-line", "one-line"]
    assert parts("https://me:hunter22@host/") == ["https://me:hunter22@host/", "hunter22"]
    assert parts("https://me:a%40b@host/") == ["https://me:a%40b@host/", "me:a%40b@"]
    assert not {"-----BEGIN PRIVATE KEY-----", _KEY.splitlines()[0]} & set(parts(PEM))
    assert len(parts(PEM)) == 8
    assert len(forms([SECRET])) < 40


def test_a_key_is_found_and_other_keys_are_not(tmp_path: Path) -> None:
    assert hits(tmp_path, PEM.encode(), PEM)
    assert hits(tmp_path, base64.encodebytes(PEM.encode()), PEM)
    assert hits(tmp_path, json.dumps({"key": PEM}).encode(), PEM)
    assert not hits(tmp_path, PEM.replace(_KEY, _KEY.swapcase()).encode(), PEM)


def test_memory_stays_bounded_whatever_is_packed(tmp_path: Path) -> None:
    bomb = gzip.compress(bytes(200 << 20) + SECRET.encode())
    (tmp_path / "file").write_bytes(bomb)
    search = SecretSearch([SECRET])
    tracemalloc.start()
    assert list(search.in_file(tmp_path / "file", lambda: None))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


def test_it_stops_when_it_is_told_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(gzip.compress(bytes(50 << 20)))
    left = iter(range(20))

    def check() -> None:
        if next(left, None) is None:
            raise Cancelled

    with pytest.raises(Cancelled):
        list(SecretSearch([SECRET]).in_file(tmp_path / "file", check))


def test_many_secrets_are_searched_for_at_a_useful_speed(tmp_path: Path) -> None:
    data = b"".join(path.read_bytes() for path in sorted(Path("/usr/bin").iterdir())[:400] if path.is_file())[
        : 40 << 20
    ]
    (tmp_path / "file").write_bytes(data)
    values = [base64.b64encode(os.urandom(15)).decode() for _ in range(10)]
    before = time.process_time()
    assert list(SecretSearch(values).in_file(tmp_path / "file", lambda: None)) == []
    speed = len(data) / (time.process_time() - before) / 1e6
    print(f"{speed:.0f} MB/s")
    assert speed > 40
