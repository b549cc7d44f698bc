"""Writes the data for a machine's first boot: a NoCloud volume, and systemd's credentials for the SMBIOS.

Both may hold private keys: files of mode 0600, nothing on a command line.
"""

from __future__ import annotations

import base64
import io
import json
import os
from pathlib import Path

from imageflow.compute import Seed

VOLUME = "seed.iso"
LABEL = "cidata"  # the volume label that cloud-init looks for
_CREDENTIALS = "credential-"


def write(seed: Seed, folder: Path) -> list[str]:
    """Write both into the machine's folder; -> names of the files with SMBIOS strings."""
    remove(folder)
    meta = f"instance-id: {json.dumps(seed.instance_id)}\nlocal-hostname: {json.dumps(seed.hostname)}\n"
    _private(folder / VOLUME, _volume({"meta-data": meta, "user-data": seed.user_data}))
    names = []
    for number, (name, value) in enumerate(sorted(seed.credentials.items())):
        text = base64.b64encode(value.encode()).decode()
        names.append(f"{_CREDENTIALS}{number}")
        _private(folder / names[-1], f"io.systemd.credential.binary:{name}={text}".encode())
    return names


def blank(folder: Path) -> None:
    """Write a volume with nothing on it."""
    _private(folder / VOLUME, bytes(2048))


def remove(folder: Path) -> None:
    """Remove the seed, if there is one."""
    for file in (folder / VOLUME, *folder.glob(f"{_CREDENTIALS}*")):
        file.unlink(missing_ok=True)


def _volume(files: dict[str, str]) -> bytes:
    import pycdlib

    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=LABEL)
    for name, text in files.items():
        data = text.encode()
        short = f"/{name.replace('-', '_').upper()[:8]}.;1"
        iso.add_fp(io.BytesIO(data), len(data), short, rr_name=name, joliet_path=f"/{name}")
    out = io.BytesIO()
    iso.write_fp(out)
    iso.close()
    return out.getvalue()


def _private(path: Path, data: bytes) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
