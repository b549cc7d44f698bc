"""The elements that diskimage-builder will use for an image, and the digest of each element's tree."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import stat
from collections.abc import Sequence
from pathlib import Path

import imageflow
from imageflow.config import Config
from imageflow.errors import RecipeError, Refused
from imageflow.recipe import ImageRecipe
from imageflow.recipe.definition import elements as named_elements
from imageflow.recipe.problems import did_you_mean, path_name, short

_IGNORED_FOLDERS = ("__pycache__", ".git")  # side effects of using an element or of version control
_UNUSABLE = set(" \t\n:;,'\"\\$`*?[](){}<>|&!#~")  # diskimage-builder's shell does not quote its paths
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "armhf", "ppc64le": "ppc64el"}


def stock_folder() -> Path:
    """diskimage-builder's own elements."""
    from diskimage_builder import paths

    return Path(paths.get_path("elements"))


def own_folder() -> Path:
    """The elements that imageflow adds to every build."""
    return Path(imageflow.__file__).parent / "dib" / "elements"


def search_path(image: ImageRecipe, folder: Path, config: Config) -> list[Path]:
    """ELEMENTS_PATH of this image's build: the first folder with an element wins, as in diskimage-builder.

    `elements/` beside the recipe, the configuration's, ELEMENTS_PATH of the definition (else of this
    process), ours, diskimage-builder's own. Relative ones are relative to the recipe's folder.
    Raises RecipeError for a missing folder.
    """
    own = image.dib.get("environment", {}).get("ELEMENTS_PATH")
    given = own if isinstance(own, str) else os.environ.get("ELEMENTS_PATH", "")
    wanted = [*config.dib.elements_path, *(Path(part) for part in given.split(":") if part)]
    found = [folder / "elements"] if (folder / "elements").is_dir() else []
    for part in wanted:
        path = Path(os.path.abspath(folder / part))
        if not path.is_dir():
            raise image.error(
                ("dib", "environment", "ELEMENTS_PATH") if own else ("dib",),
                f"the elements folder {path_name(path)} is not there",
                "correct ELEMENTS_PATH, or elements_path in the configuration",
            )
        found.append(path)
    every = list(dict.fromkeys([*found, own_folder(), stock_folder()]))
    for path in every:
        if bad := unusable_in(path.resolve()):  # a symbolic link would not help: it is resolved
            message = f"diskimage-builder can't use elements in {path_name(path)}: the path contains {bad!r}"
            raise image.error(("dib",), message, "move that folder, or rename its parents")
    return every


def unusable_in(path: Path) -> str:
    """A character of a path that would break, or be executed by, diskimage-builder's shell; '' when there is none."""
    return min(_UNUSABLE.intersection(str(path)), default="")


def architecture(image: ImageRecipe) -> str:
    """The image's architecture: the definition's, otherwise this host's."""
    environment = image.dib.get("environment", {})
    machine = platform.machine()
    return str(image.dib.get("arch") or environment.get("ARCH") or _MACHINES.get(machine, machine))


def asked(image: ImageRecipe) -> list[str]:
    """The elements that disk-image-create starts from: the named ones, and those it adds by itself."""
    entry, environment = image.dib, image.dib.get("environment", {})
    names = named_elements(entry)
    if "vm" in names and not any(name.startswith("block-device-") for name in names):
        names.append("block-device-efi" if architecture(image) in ("arm64", "aarch64") else "block-device-mbr")
    if not entry.get("skip-base") and environment.get("SKIP_BASE") != "1":
        names.insert(0, "base")
    if entry.get("ramdisk"):
        names.insert(0, str(entry.get("ramdisk-element") or environment.get("RAMDISK_ELEMENT") or "ramdisk"))
    return list(dict.fromkeys(names))


def added(image: ImageRecipe) -> list[str]:
    """The elements of a build that are not in its definition."""
    names = sorted(entry.name for entry in own_folder().iterdir() if entry.is_dir())
    return [*names, "package-installs"] if image.configure else names


def used(image: ImageRecipe, path: Sequence[Path]) -> dict[str, Path]:
    """Name and folder of each element of the build, dependencies included, by diskimage-builder's own code.

    Raises RecipeError.
    """
    from diskimage_builder import element_dependencies

    # it logs an "override" for each element found twice, which is the purpose of ELEMENTS_PATH
    element_dependencies.logger.setLevel(logging.CRITICAL)
    start = list(dict.fromkeys([*asked(image), *added(image)]))
    try:
        pairs = element_dependencies.get_elements(start, ":".join(map(str, path)))
    except element_dependencies.MissingElementException:
        raise _missing(image, start, path) from None
    except element_dependencies.AlreadyProvidedException as error:
        message = str(error) or "two elements provide the same thing"
        raise image.error(("dib", "elements"), short(message), "take one of them out of 'elements'") from None
    except element_dependencies.MissingOSException:
        hint = "add a distribution, such as debian-minimal"
        raise image.error(("dib", "elements"), "no element provides an operating system", hint) from None
    except (OSError, UnicodeDecodeError, element_dependencies.InvalidElementDir) as error:
        raise image.error(("dib", "elements"), f"the elements can't be read: {short(error)}") from None
    return {name: Path(folder) for name, folder in sorted(pairs)}


def _missing(image: ImageRecipe, start: Sequence[str], path: Sequence[Path]) -> RecipeError:
    """The error for a missing element: its name, the element that needs it, and the searched folders."""
    known = {
        entry.name: Path(entry.path) for folder in reversed(path) for entry in os.scandir(folder) if entry.is_dir()
    }
    looked = f"looked in {', '.join(path_name(folder) for folder in path)}"
    wanted_by = dict.fromkeys(start, "")
    queue = list(start)
    provided: set[str] = set()
    while queue:
        name = queue.pop(0)
        if name in provided:
            continue
        if name not in known:
            near = did_you_mean(name, known)
            who = f", which {short(wanted_by[name])} needs," if wanted_by[name] else ""
            message = f"there is no element {short(name)!r}{who} in ELEMENTS_PATH"
            return image.error(_place(image, name), message, " ".join(filter(None, [near, looked])))
        provided |= _words(known[name] / "element-provides")
        for dependency in sorted(_words(known[name] / "element-deps") - wanted_by.keys() - provided):
            wanted_by[dependency] = name
            queue.append(dependency)
    return image.error(("dib", "elements"), "an element is missing", looked)


def _place(image: ImageRecipe, name: str) -> tuple[str | int, ...]:
    for index, item in enumerate(image.dib.get("elements", [])):
        if name in item.split():
            return ("dib", "elements", index)
    return ("dib", "elements")


def _words(path: Path) -> set[str]:
    try:
        return {line.strip() for line in path.read_text().splitlines() if line.strip()}
    except FileNotFoundError:
        return set()


def tree_digest(folder: Path) -> str:
    """SHA-256 over names, executable bits, link targets and contents of everything below `folder`.

    A link out of the tree counts with the content it points to, because the build follows it.
    """
    digest = hashlib.sha256()
    root = os.path.realpath(folder)
    try:
        _walk(digest, root, root, "")
    except OSError as error:
        raise Refused(f"element {folder} can't be read: {error.strerror}: {error.filename}") from None
    return digest.hexdigest()


def _walk(digest: hashlib._Hash, root: str, folder: str, relative: str) -> None:
    with os.scandir(folder) as scan:
        entries = sorted(scan, key=lambda entry: entry.name)
    for entry in entries:
        name = f"{relative}/{entry.name}" if relative else entry.name
        if entry.is_symlink():
            _add(digest, "link", name, os.readlink(entry.path))
            real = os.path.realpath(entry.path)
            if real != root and not real.startswith(root + os.sep) and os.path.isfile(real):
                _add(digest, "content", name, _content(real))
        elif entry.is_dir():
            if entry.name not in _IGNORED_FOLDERS:
                _add(digest, "folder", name, "")
                _walk(digest, root, entry.path, name)
        elif entry.is_file():
            if not entry.name.endswith(".pyc"):
                kind = "program" if entry.stat().st_mode & stat.S_IXUSR else "file"
                _add(digest, kind, name, _content(entry.path))
        else:
            _add(digest, "special", name, "")  # reading a FIFO would block


def _add(digest: hashlib._Hash, *parts: str) -> None:
    for part in parts:
        data = os.fsencode(part)
        digest.update(len(data).to_bytes(8, "big") + data)  # with its length, so that no two trees give the same bytes


def _content(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
