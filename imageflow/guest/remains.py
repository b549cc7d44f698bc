"""Finds remains of earlier builds' keys in a raw disk, which may be based on one of their layers."""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path

from imageflow.guest import keys, scrub
from imageflow.host.control import Control

_PUBLIC = 68  # characters of an ed25519 public key in base64
_PRIVATE = b"b3BlbnNzaC1rZXktdjEAAAAABG5vbmU"  # start of every OpenSSH private key without a passphrase
_LARGEST = 700  # bytes of a private ed25519 key as text, in any quoting
_BASE64 = re.compile(rb"[A-Za-z0-9+/=]+")


def key_material(raw: Path, control: Control) -> list[bytes]:
    """Byte strings of client or host keys that any imageflow build made.

    A public key is recognized by its comment, a private one by containing such a public key: keys that a recipe
    puts into its image are left alone.
    """
    with raw.open("rb") as file:

        def read(at: int, size: int) -> bytes:
            file.seek(max(0, at))
            return file.read(size)

        comments = [f" {comment}".encode() for comment in (keys.COMMENT, keys.HOST_COMMENT)]
        public = {
            blob
            for at in scrub.find(raw, comments, control)
            if len(blob := read(at - _PUBLIC, _PUBLIC)) == _PUBLIC and _BASE64.fullmatch(blob)
        }
        found = set(public)
        for at in scrub.find(raw, [_PRIVATE], control) if public else ():
            words = _BASE64.findall(read(at, _LARGEST).replace(b"\\n", b"\n"))
            if any(base64.b64decode(blob) in _decoded(b"".join(words)) for blob in public):
                found |= {word for word in words if len(word) >= 40 and not word.startswith(_PRIVATE)}
    return sorted(found)


def _decoded(text: bytes) -> bytes:
    """The decoded leading part that is valid base64."""
    text = text.split(b"=")[0]
    try:
        return base64.b64decode(text[: len(text) // 4 * 4])
    except binascii.Error:
        return b""
