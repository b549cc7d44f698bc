"""The environment that a child process is given: made for it, from a list of names.

Ours holds secrets that no child has a use for: IMAGEFLOW_SECRET_*, the database's and the message bus's URLs, OS_PASSWORD,
the webhooks' secrets. Whatever is not named here or by the caller stays with us.
"""

from __future__ import annotations

import os

PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
_PASSED = (
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "LANGUAGE",
    "LC_ALL",
    "LC_CTYPE",
    "LC_MESSAGES",
    "TZ",
    "TMPDIR",
    "XDG_CONFIG_HOME",
    "LD_LIBRARY_PATH",
    "all_proxy",
    "ALL_PROXY",
    *PROXIES,
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
)


def passed(*more: str) -> dict[str, str]:
    """The variables of our environment that a child needs to find its programs, folders, proxies and certificates.

    `more` names others that this child needs; the ones that are not set are left out.
    """
    return {name: os.environ[name] for name in (*_PASSED, *more) if name in os.environ}
