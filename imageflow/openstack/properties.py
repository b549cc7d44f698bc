"""Image properties in Glance: valid names, those a machine needs, those a snapshot inherits.

Pure: nothing here talks to a cloud.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from imageflow.errors import RecipeError

OURS = "imageflow:"  # prefix of the properties that imageflow sets
LONGEST_NAME, LONGEST_VALUE = 255, 65_535  # characters, bytes: Glance's columns

# Attributes of every image, which are not properties; the two numbers may be given in a recipe all the same.
NUMBERS = ("min_disk", "min_ram")
_ATTRIBUTES = frozenset(
    [
        "id",
        "name",
        "status",
        "visibility",
        "protected",
        "os_hidden",
        "checksum",
        "os_hash_algo",
        "os_hash_value",
        "owner",
        "size",
        "virtual_size",
        "container_format",
        "disk_format",
        "created_at",
        "updated_at",
        "tags",
        "direct_url",
        "self",
        "file",
        "schema",
        "stores",
        "locations",
        "location",
        "deleted",
        "deleted_at",
    ]
)
_ELSEWHERE = {
    "name": "publish.name says it",
    "visibility": "publish.visibility says it",
    "disk_format": "it follows from the outputs",
    "container_format": "it follows from the outputs",
    "protected": "a protected image can't be removed when publish.keep is over; protect it in Glance where you must",
}
_GLANCE = "os_glance"  # Glance's own names begin with it
_CLIENT = frozenset({"backend", "image_id", "remove_props"})  # argument names of glanceclient

# Set by Nova and other services on a snapshot or on its server's image: only valid for that image.
_INHERITED = frozenset(
    [
        "base_image_ref",
        "boot_roles",
        "image_location",
        "image_state",
        "image_type",
        "instance_uuid",
        "instance_owner",
        "user_id",
        "bdm_v2",
        "block_device_mapping",
        "root_device_name",
        "backup_type",
        "clean_attempts",
        "os_shutdown_timeout",
        "hw_rescue_bus",
        "hw_rescue_device",
        "cache_in_nova",
        "bittorrent",
        "signature_verified",
    ]
)
_INHERITED_BEGINNINGS = (OURS, _GLANCE, "owner_", "img_signature", "cinder_encryption_key_", "cinder_img_")

_DISKS = {"qcow2": "qcow2", "raw": "raw", "vhd": "vhd", "vhdx": "vhdx", "vmdk": "vmdk", "vdi": "vdi", "iso": "iso"}
_KERNELS = {"kernel": "aki", "initrd": "ari"}  # the formats by which kernel and ramdisk images are found
_ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64", "i386": "i686", "ppc64el": "ppc64le", "armhf": "armv7l"}


def formats(format: str) -> dict[str, Any]:
    """The attributes of an image for an artifact of this format; unbootable ones are hidden."""
    if (disk := _DISKS.get(format)) is not None:
        return {"disk_format": disk, "container_format": "bare"}
    if (kind := _KERNELS.get(format)) is not None:
        return {"disk_format": kind, "container_format": kind}
    return {"disk_format": "raw", "container_format": "bare", "os_hidden": True}


def is_disk(format: str) -> bool:
    """Whether a server can start from an artifact of this format."""
    return format in _DISKS


def hardware(architecture: str, firmware: str) -> dict[str, str]:
    """The hardware that the image needs to start; nothing for unknown values."""
    said = {}
    if architecture := _ARCHITECTURES.get(architecture, architecture):
        said["architecture"] = architecture
    if firmware == "uefi":
        said["hw_firmware_type"] = "uefi"
        if architecture in ("", "x86_64", "i686"):
            said["hw_machine_type"] = "q35"
    return said


def checked(properties: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's `publish.properties` as Glance accepts them; raises RecipeError for those it would refuse."""
    said: dict[str, Any] = {}
    lower: dict[str, str] = {}
    for name, value in properties.items():
        if problem := _wrong_name(name):
            raise RecipeError(
                f"publish.properties: {name!r} can't be a property of an image: {problem[0]}", hint=problem[1]
            )
        if (other := lower.setdefault(name.lower(), name)) != name:
            raise RecipeError(
                f"publish.properties: {other!r} and {name!r} are the same name in Glance", hint="keep one of them"
            )
        said[name] = _number(name, value) if name in NUMBERS else _text(name, value)
    return said


def _wrong_name(name: str) -> tuple[str, str] | None:
    """The problem with a property's name, and the way out."""
    lower = name.lower()
    if lower in _ATTRIBUTES:
        return "it is an attribute of every image", _ELSEWHERE.get(lower, "leave it out, or give it another name")
    if lower.startswith((OURS, _GLANCE)):
        return f"names that begin with {OURS!r} or {_GLANCE!r} are reserved", "give it another name"
    if lower in _CLIENT or (lower in NUMBERS and lower != name):
        return "the name is taken", "give it another name"
    if not name or len(name) > LONGEST_NAME:
        return f"a name has 1 to {LONGEST_NAME} characters", "give it another name"
    if name != name.strip() or not name.isprintable() or not _plain(name) or "/" in name:
        return (
            "a name can't contain surrounding blanks, '/' or invisible characters",
            "give it another name",
        )
    return None


def _text(name: str, value: Any) -> str:
    text = str(value)
    if len(text.encode(errors="replace")) > LONGEST_VALUE:
        raise RecipeError(f"publish.properties: the value of {name!r} is longer than {LONGEST_VALUE} bytes")
    if not _plain(text) or "\0" in text:
        raise RecipeError(f"publish.properties: the value of {name!r} has characters that Glance does not keep")
    return text


def _plain(text: str) -> bool:
    """Whether every character is in Unicode's BMP and no surrogate: Glance's database stores only those."""
    return all(ord(character) < 0x10000 and not 0xD800 <= ord(character) < 0xE000 for character in text)


def _number(name: str, value: Any) -> int:
    text = str(value).strip()
    if not (text.isascii() and text.isdigit() and int(text) < 2**31):
        unit = "GiB" if name == "min_disk" else "MiB"
        raise RecipeError(f"publish.properties: {name} is a number of {unit}, not {value!r}")
    return int(text)


def product(properties: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The properties of a snapshot that a published image keeps, and the names of those to remove.

    A snapshot inherits properties that describe other objects: its server's image, the server, and their
    owners. Attributes (`id`, `name`, `status` …) are in neither.
    """
    keep, remove = {}, []
    for name, value in properties.items():
        if name in _ATTRIBUTES or name in NUMBERS:
            continue
        if name in _INHERITED or name.startswith(_INHERITED_BEGINNINGS) or value in (None, ""):
            remove.append(name)
        else:
            keep[name] = value
    return keep, sorted(remove)
