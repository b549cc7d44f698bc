"""Chooses the block-device configuration for diskimage-builder on this host."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from imageflow.dib.environment import PATH
from imageflow.errors import NotText, RecipeError, Refused
from imageflow.host import process, text
from imageflow.recipe import parsing

VARIABLE = "DIB_BLOCK_DEVICE_CONFIG"
_FILE = "file://"
_SAMPLE = "a list such as: [{local_loop: {name: image0}}, {mkfs: {name: root, base: image0, type: ext4}}]"


def has_device_mapper() -> bool:
    """Whether kpartx and LVM can work on this host."""
    if not Path("/dev/mapper/control").exists() or not shutil.which("kpartx", path=PATH):
        return False
    try:
        process.output(["dmsetup", "version"], env={"PATH": PATH})
    except Refused:
        return False
    return True


def configuration(elements: Mapping[str, Path], environment: Mapping[str, str], arch: str) -> str:
    """The configuration that diskimage-builder would use, as YAML; '' when it would use its fallback.

    `elements`: all elements of the image with their folders.
    """
    own = environment.get(VARIABLE, "")
    if own.startswith(_FILE):
        try:
            return text.read(Path(own.removeprefix(_FILE)).read_bytes()).text
        except NotText as error:
            raise RecipeError(f"{VARIABLE}: {own.removeprefix(_FILE)}: {error.message}", hint=error.hint) from None
        except OSError as error:
            hint = "an absolute path of this host: file:///etc/…"
            raise RecipeError(f"{VARIABLE}: {own.removeprefix(_FILE)}: {error.strerror}", hint=hint) from None
    if own:
        return own
    special = "ppc64el" if arch in ("ppc64le", "ppc64el") else arch
    for folder in elements.values():
        for name in (f"block-device-{special}.yaml", "block-device-default.yaml"):
            if (folder / name).is_file():
                return text.read((folder / name).read_bytes()).text
    return ""


def read(given: str) -> Any:
    """A configuration as data; None when it is empty.

    Raises RecipeError when it is not YAML, or not what diskimage-builder reads: a list of mappings with one key each.
    """
    try:
        config = parsing.load(given) if given else None
    except parsing.TooMuch as error:
        raise RecipeError(f"{VARIABLE}: line {error.line}: {error.message}", hint=error.hint) from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{VARIABLE} is not YAML: {' '.join(str(error).split())}", hint=_SAMPLE) from None
    if config is None:
        return None
    if not isinstance(config, list):
        raise RecipeError(f"{VARIABLE} is not a list", hint=_SAMPLE)
    for number, entry in enumerate(config, 1):
        if not isinstance(entry, dict) or len(entry) != 1 or not isinstance(next(iter(entry.values())), dict):
            raise RecipeError(f"{VARIABLE}: entry {number} is not one plugin's name with a mapping", hint=_SAMPLE)
    return config


def without_device_mapper(given: str) -> str | None:
    """The same configuration with our partitioning plugin; None when it needs no change.

    Raises Refused for what needs device-mapper: LVM, encryption.
    """
    config = read(given)
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
