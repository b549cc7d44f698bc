"""The explicit environment of diskimage-builder, and the part of it that may be shown."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from imageflow.config import Config
from imageflow.host.buildlog import MASK
from imageflow.host.environment import PROXIES
from imageflow.host.workspace import Workspace
from imageflow.model import Json
from imageflow.recipe import plain_secrets

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PASSED = (*PROXIES, "TZ")
_PASSED_PREFIX = "PIP_"  # the operator's package index for a recipe's `pip`
_SECRET_NAME = re.compile(r"PASS(_|$)|PRIVATE|(^|_)KEY$|APIKEY", re.IGNORECASE)  # besides what a recipe's names say
_USERINFO = re.compile(r"(?<=://)[^\s/@'\"]+@")  # user:password@ in a URL


def base(work: Workspace) -> dict[str, str]:
    """The environment of every child process of a build."""
    return {
        "PATH": f"{PATH}:{Path(sys.executable).parent}",
        "HOME": str(work.home),
        "USER": "root",
        "LOGNAME": "root",
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",  # otherwise the output of its Python programs arrives in blocks
        "TMPDIR": str(work.tmp),
        **{name: value for name, value in os.environ.items() if name in _PASSED or name.startswith(_PASSED_PREFIX)},
    }


def for_dib(
    work: Workspace,
    config: Config,
    definition: Json,
    mirrors: Mapping[str, str],
    elements_path: str,
    secret: Callable[[str], str],
) -> dict[str, str]:
    """The whole environment of a diskimage-builder run; a recipe's own values win over the mirrors.

    `mirrors` are DIB_* variables made of the host's archive configuration.
    """
    import diskimage_builder.paths

    return {
        **base(work),
        **mirrors,
        **{name: reveal(value, secret) for name, value in definition.get("environment", {}).items()},
        "_LIB": str(diskimage_builder.paths.get_path("lib")),
        "DIB_PYTHON_EXEC": sys.executable,
        "DIB_NO_TIMESTAMP": "1",  # the build's log has its own timestamps
        "DIB_IMAGE_CACHE": str(work.cache),
        "DIB_LOCKFILES": str(config.cache_dir / "locks"),  # with which elements lock parts of the host
        "TMP_DIR": str(work.tmp),
        "ELEMENTS_PATH": elements_path,
    }


def reveal(value: Any, secret: Callable[[str], str]) -> str:
    """A value of a recipe's environment: text, or {"secret": NAME}."""
    return secret(value["secret"]) if isinstance(value, Mapping) else str(value)


def secret_names(definition: Json) -> set[str]:
    """Variables of a definition's environment whose values are secrets."""
    return {name for name, value in definition.get("environment", {}).items() if isinstance(value, Mapping)}


def shown(environment: Mapping[str, str], secrets: set[str]) -> dict[str, str]:
    """The DIB_* variables that may be stored with the image: no secrets, no credentials."""
    return {
        name: MASK if name in secrets or _is_secret(name, value) else plain_secrets.masked(without_userinfo(value))
        for name, value in sorted(environment.items())
        if name.startswith("DIB_")
    }


def _is_secret(name: str, value: str) -> bool:
    named = _SECRET_NAME.search(name) is not None or plain_secrets.keeps_secret(name)
    return named or plain_secrets.what(name, value) is not None


def without_userinfo(text: str) -> str:
    """The text with user names and passwords in URLs masked."""
    return _USERINFO.sub(f"{MASK}@", text)


def userinfo_in(environment: Mapping[str, str]) -> list[str]:
    """Every `user:password@` in a URL of these values."""
    return sorted({found for value in environment.values() for found in _USERINFO.findall(value)})
