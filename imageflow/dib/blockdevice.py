"""Which block-device configuration diskimage-builder is given on this machine."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from imageflow import process
from imageflow.dib.environment import PATH
from imageflow.errors import RecipeError, Refused

VARIABLE = "DIB_BLOCK_DEVICE_CONFIG"
_FILE = "file://"


def has_device_mapper() -> bool:
    """Whether kpartx and LVM can work here."""
    if not Path("/dev/mapper/control").exists() or not shutil.which("kpartx", path=PATH):
        return False
    try:
        process.output(["dmsetup", "version"], env={"PATH": PATH})
    except Refused:
        return False
    return True


def configuration(elements: Mapping[str, Path], environment: Mapping[str, str], arch: str) -> str:
    """The configuration that diskimage-builder would use, as YAML; '' where it has only its fallback.

    `elements`: all elements of the image with their folders.
    """
    own = environment.get(VARIABLE, "")
    if own.startswith(_FILE):
        try:
            return Path(own.removeprefix(_FILE)).read_text()
        except OSError as error:
            raise RecipeError(f"{VARIABLE}: {own.removeprefix(_FILE)}: {error.strerror}") from error
    if own:
        return own
    special = "ppc64el" if arch in ("ppc64le", "ppc64el") else arch
    for folder in elements.values():
        for name in (f"block-device-{special}.yaml", "block-device-default.yaml"):
            if (folder / name).is_file():
                return (folder / name).read_text()
    return ""


def without_device_mapper(text: str) -> str | None:
    """The same configuration with our partitioning plugin; None when it needs no change.

    Raises Refused for what can't be done without device-mapper: LVM, encryption.
    """
    try:
        config = yaml.safe_load(text) if text else None
    except yaml.YAMLError as error:
        raise RecipeError(f"{VARIABLE} is not YAML: {error}") from error
    words = _keys(config)
    for word in ("lvm", "luks"):
        if word in words:
            raise Refused(
                f"the image's block devices use {word}, which needs device-mapper, and this machine has none",
                hint="build it where /dev/mapper/control exists, or without that element",
            )
    if "partitioning" not in words:
        return None
    return yaml.safe_dump(_replaced(config), sort_keys=False)


def _keys(config: Any) -> set[str]:
    if isinstance(config, Mapping):
        return {str(key) for key in config}.union(*map(_keys, config.values()))
    if isinstance(config, list):
        return set().union(*map(_keys, config))
    return set()


def _replaced(config: Any) -> Any:
    if isinstance(config, Mapping):
        return {
            "partx_partitioning" if key == "partitioning" else key: _replaced(value) for key, value in config.items()
        }
    if isinstance(config, list):
        return [_replaced(value) for value in config]
    return config
