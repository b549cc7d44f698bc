"""Recognizes secrets that are written in a recipe as plain text: by the name of a value, and by its form. Pure.

The one detector for all places: what `validate` warns of, what is stored as a reference, what a published manifest
does not carry, what a reason does not quote.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from imageflow.host.buildlog import MASK
from imageflow.recipe.problems import Path

_WORDS = ("PASSWORD", "PASSWD", "PASSPHRASE", "SECRET", "TOKEN", "CREDENTIAL", "PRIVATE_KEY", "API_KEY")
# Last word of a name: the value is the secret itself. PWD alone is a folder.
_LAST = re.compile(
    r"PASS|PASSCODE|PW|ROOTPW|USERPW|ADMINPW|PWD|PSK|KEY|APIKEY|AUTH|AUTHTOKEN|CREDS?|COOKIE|COMMUNITY|OTP|PIN|SAS|DSN"
    r"|\w+(?:PASSWORD|PASSWD|PASSPHRASE|(?<!COM)(?<!BY)PASS|TOKEN|SECRET|APIKEY)"
)
_FOLDERS = ("PWD", "OLDPWD")
# Last word of a name that says something about a secret, or where it is.
_ABOUT = re.compile(
    r"FILE|PATH|DIR|FOLDER|URL|URI|HOST|PORT|NAME|USER|USERNAME|ID|TTL|LENGTH|SIZE|TYPE|METHOD|MODE|COUNT|AGE|DAYS|LIFETIME"
    r"|EXPIRY|EXPIRES|TIMEOUT|POLICY|ENABLED?|DISABLED?|REQUIRED|HEADER|FORMAT|ALGORITHM|PROVIDER|BACKEND|VERSION|HASH"
)
_NO_SECRET_KEYS = (
    "PUBLIC",
    "PUB",
    "HOST",
    "GPG",
    "APT",
    "REPO",
    "RPM",
    "PRIMARY",
    "SORT",
    "PARTITION",
    "CACHE",
    "AUTHORIZED",
)
_FLAGS = ("", "0", "1", "true", "false", "yes", "no", "on", "off", "none", "null")
_HARMLESS = re.compile(
    r"\$\w+|\$\{[^}]*\}|\$\([^)]*\)|\{\{.*\}\}|/[^\s]*|[A-Za-z][A-Za-z0-9+.-]*://\S*|(ssh|ecdsa|sk-ssh)-\S+ .*",
    re.DOTALL,
)
_SPLIT = re.compile(r"[^A-Za-z0-9]+|(?<=[a-z0-9])(?=[A-Z])")
_CREDENTIALS = re.compile(r"://(?P<user>[^\s/?#@:'\"<>]*)(?P<rest>:[^\s/?#@'\"<>]*)?@")
_SCHEME = re.compile(
    r"[A-Za-z][A-Za-z0-9+.-]{0,30}\Z"
)  # looked for from its end: in a long text everything else begins one
_LONGEST = 31  # characters of a scheme
_FILLED_IN = re.compile(r"\$|\{\{|%\(|\*\*\*|^:?x+$", re.IGNORECASE)  # by a shell or a template, or masked
_FORMS = (
    (re.compile(r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----[^-]*(?:-----END [A-Z0-9 ]*-----)?"), "a private key"),
    (re.compile(r"\bAGE-SECRET-KEY-1[A-Z0-9]{40,}"), "a private key"),
    (re.compile(r"\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_[A-Za-z0-9_]{22,}"), "a token of GitHub"),
    (re.compile(r"\bgl(?:pat|dt|rt|ptt|cbt|ft|imt|agent|oas|soat)-[A-Za-z0-9_-]{20,}"), "a token of GitLab"),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), "an access key of AWS"),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{10,}"), "a JSON Web Token"),
    (re.compile(r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}|https://hooks\.slack\.com/services/[\w/]{20,}"), "a token of Slack"),
    (re.compile(r"\bAIza[A-Za-z0-9_-]{35}|\bya29\.[A-Za-z0-9_-]{20,}"), "a key of Google"),
    (re.compile(r"\b[rs]k_live_[A-Za-z0-9]{16,}"), "a key of Stripe"),
    (re.compile(r"\bnpm_[A-Za-z0-9]{36}|\bpypi-AgE[A-Za-z0-9_-]{50,}|\bdckr_pat_[A-Za-z0-9_-]{20,}"), "a token of a registry"),
    (re.compile(r"\bhv[sb]\.[A-Za-z0-9_-]{20,}"), "a token of Vault"),
    (re.compile(r"\bdop_v1_[0-9a-f]{64}|\bhf_[A-Za-z]{34}|\bsk-(?:ant-|proj-)?[A-Za-z0-9_-]{32,}"), "a token"),
    (re.compile(r"\bSG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}"), "a key of SendGrid"),
    (re.compile(r"\bAccountKey=[A-Za-z0-9+/=]{60,}"), "a key of Azure"),
)  # fmt: skip
VALUES = ("environment", "variables", "pillar", "properties")  # keys of mappings from free names to values


@dataclass(frozen=True, slots=True)
class Plain:
    """A value that should not be plain text."""

    path: Path
    what: str  # 'a password or token, by its name', 'a private key', …


def is_reference(value: Any) -> bool:
    """Whether a value of a recipe is `{secret: NAME}`."""
    return isinstance(value, Mapping) and set(value) == {"secret"}


def keeps_secret(name: str) -> bool:
    """Whether a name implies that its value is secret, or is about a secret."""
    return any(word in name.upper() for word in _WORDS) or _is_last(name)


def is_secret(name: str, value: str) -> bool:
    """Whether a plain value of diskimage-builder's environment must not be stored or shown."""
    if any(word in name.upper() for word in _WORDS) and value.lower() not in _FLAGS:
        return True
    return has_credentials(value) or what(name, value) is not None


def what(name: str, value: str) -> str | None:
    """What secret a plain value is, because of its name or its form; None when it is none."""
    if (form := form_of(value)) is not None:
        return form
    if not keeps_secret(name) or _ABOUT.fullmatch(_words(name)[-1]) or harmless(value):
        return None
    return "a password, key or token, by its name"


def harmless(value: str) -> bool:
    """Whether a value is a flag, a path, a URL without credentials, a public key, or filled in somewhere else."""
    value = value.strip()
    return value.lower() in _FLAGS or (_HARMLESS.fullmatch(value) is not None and not has_credentials(value))


def form_of(text: str) -> str | None:
    """What secret a text holds by its form, such as 'a private key'; None when it holds none."""
    return next((name for form, name in _FORMS if form.search(text)), None)


def has_credentials(text: str) -> bool:
    """Whether a URL in the text holds a password, or, of http, a user (often a token)."""
    return any(_is_secret_part(match) for match in _CREDENTIALS.finditer(text))


def masked(text: str) -> str:
    """The text without what is secret by its form."""
    for form, _ in _FORMS:
        text = form.sub(MASK, text)
    return _CREDENTIALS.sub(lambda match: f"://{MASK}@" if _is_secret_part(match) else match[0], text)


def public(image: Any, name: str = "", named: bool = False) -> Any:
    """A canonical recipe, or a part of one, as anyone may read it: without plain secrets and hashes of passwords."""
    if isinstance(image, Mapping):
        if is_reference(image):
            return dict(image)
        return {key: public(item, key, named or key in VALUES) for key, item in image.items()}
    if isinstance(image, list | tuple):
        return [public(item, name, named) for item in image]
    if not isinstance(image, str):
        return MASK if named and not isinstance(image, bool) and image is not None and what(name, str(image)) else image
    if name == "password" or (named and what(name, image) is not None):
        return MASK
    return masked(image)


def of_image(image: Any, path: Path = (), named: bool = False) -> Iterator[Plain]:
    """Every plain secret of an image's recipe, raw or canonical."""
    if isinstance(image, Mapping):
        for key, item in () if is_reference(image) else image.items():
            yield from of_image(item, (*path, key), named or key in VALUES)
    elif isinstance(image, list | tuple):
        for index, item in enumerate(image):
            yield from of_image(item, (*path, index), named)
    elif isinstance(image, str | int | float) and not isinstance(image, bool):
        name = next((part for part in reversed(path) if isinstance(part, str)), "")
        if (found := what(name, str(image)) if named else form_of(str(image))) is not None:
            yield Plain(path, found)
        elif has_credentials(str(image)):
            yield Plain(path, "credentials in a URL")


def _is_secret_part(match: re.Match[str]) -> bool:
    at = match.start()
    scheme = _SCHEME.search(match.string, max(0, at - _LONGEST), at)
    if scheme is None:
        return False
    password = (match["rest"] or "")[1:]
    if match["rest"] is not None:
        return bool(password) and not _FILLED_IN.search(password)
    return scheme[0].lower() in ("http", "https") and bool(match["user"]) and not _FILLED_IN.search(match["user"])


def _is_last(name: str) -> bool:
    words = _words(name)
    if name.upper() in _FOLDERS or not _LAST.fullmatch(words[-1]):
        return False
    return not (words[-1] == "KEY" and len(words) > 1 and words[-2] in _NO_SECRET_KEYS)


def _words(name: str) -> list[str]:
    """The words of a name in any style, in capitals, without a number at the end."""
    words = [word.upper().rstrip("0123456789") for word in _SPLIT.split(name)]
    return [word for word in words if word] or [""]
