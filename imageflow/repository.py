"""Git repositories, asked and fetched with distrust: no hooks, no submodules, no credentials in an argument or a log.

A checkout is a folder without `.git`, named by its commit. It is there whole or not at all: whoever finds it
may use it, and whoever removes it can have it again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import shutil
import tempfile
import time
import urllib.parse
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imageflow import process
from imageflow.config import Config
from imageflow.control import Control
from imageflow.errors import CommandFailed, NotFound, Refused, TimedOut, Unavailable

SCHEMES = ("https", "http", "ssh", "git", "file")
_SHORT = re.compile(r"(?:[A-Za-z0-9_][\w.-]*@)?[A-Za-z0-9][\w.-]*:(?![:/]/)[^\s:-]\S*", re.ASCII)  # user@host:path
_HOST = re.compile(r"[A-Za-z0-9:][\w.:%-]*|", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_CHECKOUT = re.compile(r"(?P<root>/.*)/(?P<slug>[\w.-]+)/(?P<commit>[0-9a-f]{40}|[0-9a-f]{64})(?:/.*)?", re.ASCII)
_BAD_REF = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock(/|$)|^[-/.]|[/.]$")
_FOREIGN = re.compile(  # of a hook or an alias that started us: git would look at that repository, or print more
    r"GIT_(DIR|WORK_TREE|INDEX_FILE|OBJECT_DIRECTORY|ALTERNATE_OBJECT_DIRECTORIES|COMMON_DIR|NAMESPACE|PREFIX"
    r"|SHALLOW_FILE|GRAFT_FILE|QUARANTINE_PATH|CONFIG_PARAMETERS|CONFIG_COUNT|TRACE.*|CURL_VERBOSE)"
)
_QUIET = ("hooksPath=/dev/null", "autocrlf=false", "fsmonitor=false")  # of the section core
_NEW = ".new-"  # begins the name of what is being fetched
_OLD = ".old-"  # and of what is being removed


# -- what may be asked for -----------------------------------------------------------------------------


def unusable(url: str) -> str | None:
    """Why git must not be given this URL; None when it may. Never says what the URL is: there may be a secret in it."""
    if not url or len(url) > 1500 or not url.isprintable() or " " in url or url.startswith("-"):
        return "it is no URL"
    if "://" not in url:
        if url.startswith("/") or _SHORT.fullmatch(url):
            return None
        return "it is no URL: one of https://…, ssh://…, git://…, file:///…, /PATH, USER@HOST:PATH"
    try:
        parts = urllib.parse.urlsplit(url)
        host, password = parts.hostname or "", parts.password
    except ValueError:
        return "it is no URL"
    if parts.scheme not in SCHEMES:
        return f"only {', '.join(SCHEMES)} are possible"
    if password is not None or (parts.scheme.startswith("http") and "@" in parts.netloc):
        return "it holds credentials; give them to git's credential helper, or to ~/.netrc"
    if not _HOST.fullmatch(host) or bool(host) == (parts.scheme == "file") or parts.netloc.startswith("-"):
        return "its host is not usable"
    return None


def unusable_ref(ref: str) -> str | None:
    """Why this can't be one ref; None when it can."""
    if not ref or len(ref) > 1000 or not ref.isprintable() or _BAD_REF.search(ref):
        return "it is no name of a branch; a tag is written refs/tags/NAME"
    if _COMMIT.fullmatch(ref):
        return "a commit never changes: name a branch, or refs/tags/NAME"
    return None


def whole(ref: str) -> str:
    """The pattern over whole ref names that a recipe's ref is: `main` is refs/heads/main."""
    return ref if ref.startswith("refs/") or any(mark in ref for mark in "*?[") else f"refs/heads/{ref}"


def named(url: str) -> tuple[str, str]:
    """Owner ('' where that says nothing) and name of a repository, from its URL."""
    path = url.partition("://")[2].partition("/")[2] if "://" in url else url.rpartition(":")[2]
    *owner, name = [part for part in path.split("/") if part] or [""]
    local = url.startswith(("/", "file:"))
    return "" if local else "/".join(owner), name.removesuffix(".git")


def told_by(data: Any, url: str, ref: str) -> bool:
    """Whether the data of a git event may be about this ref of this repository."""
    if not isinstance(data, Mapping) or data.get("ref") != ref:
        return False
    owner, name = named(url)
    said = data.get("owner") or ""
    return data.get("repository") == name and (said == owner or not said or not owner)


def environment() -> dict[str, str]:
    """Our own, with git told to ask nobody, and to use no other way than those that recipes may name."""
    kept = {name: value for name, value in os.environ.items() if not _FOREIGN.fullmatch(name)}
    ssh = kept.pop("GIT_SSH_COMMAND", None) or shlex.quote(kept.get("GIT_SSH", "ssh"))
    return kept | {
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "false",
        "SSH_ASKPASS": "false",
        "SSH_ASKPASS_REQUIRE": "never",
        "GIT_SSH_COMMAND": f"{ssh} -oBatchMode=yes -oConnectTimeout=20",
        "GIT_ALLOW_PROTOCOL": ":".join(SCHEMES),
        "GIT_OPTIONAL_LOCKS": "0",
        "LC_ALL": "C.UTF-8",
    }


# -- asking and fetching -------------------------------------------------------------------------------


def commit_of(url: str, ref: str, *, timeout: float, control: Control) -> str:
    """The commit that a ref is at now. Raises NotFound when there is no such ref, Unavailable."""
    command = ["ls-remote", "--quiet", "--", url, ref, f"{ref}^{{}}"]
    text = _git(command, Path("/"), f"git ls-remote of {shown(url)}", timeout, control)
    found = {line.partition("\t")[2]: line.partition("\t")[0] for line in text.split("\n")}
    commit = found.get(f"{ref}^{{}}") or found.get(ref)
    if commit is None or not _COMMIT.fullmatch(commit):
        raise NotFound(f"there is no {ref} in {shown(url)}", hint="a branch by its name, a tag as refs/tags/NAME")
    return commit


def place(config: Config, url: str, commit: str) -> Path:
    """Where the checkout of a commit is, or would be."""
    return config.checkouts_dir / slug(url) / commit


def slug(url: str) -> str:
    """The name of the folder that has a repository's checkouts: nothing in it that a shell would trip over."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", named(url)[1]).strip("-")[:40] or "repository"
    return f"{name}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"


@dataclass(frozen=True, slots=True)
class Placed:
    """What the name of a folder in a checkout tells."""

    root: Path  # config.checkouts_dir of the host that fetched it
    slug: str
    commit: str


def placed(folder: Path) -> Placed | None:
    """None for a folder that can't be in a checkout."""
    match = _CHECKOUT.fullmatch(str(folder))
    return match and Placed(Path(match["root"]), match["slug"], match["commit"])


def check_out(config: Config, url: str, ref: str, commit: str, *, control: Control) -> Path:
    """The folder with what is in this commit; fetched, as little as possible, when it is not here yet.

    Raises Unavailable, and Refused when the repository does not have the commit any more.
    """
    to = place(config, url, commit)
    if to.is_dir():
        return to
    work: Path | None = None
    try:
        config.checkouts_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        to.parent.mkdir(exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=_NEW, dir=to.parent))
        tree = work / "tree"
        _fetch(tree, url, ref, commit, config.git.fetch_timeout, control)
        shutil.rmtree(tree / ".git")
        process.run(
            ["sync", "--file-system", tree], control=control, name="sync"
        )  # a name must not outlive its content
        try:
            tree.rename(to)
        except OSError:
            if not to.is_dir():  # else another process was faster
                raise
    except OSError as error:
        raise Unavailable(f"{shown(url)} can't be checked out to {to}: {error.strerror}") from error
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)
    return to


def _fetch(tree: Path, url: str, ref: str, commit: str, timeout: float, control: Control) -> None:
    """A work tree at the commit: by the ref alone if it is still there, else by its id, or with the ref's history."""
    what = f"git fetch of {ref} from {shown(url)}"
    end = time.monotonic() + timeout

    def git(words: Sequence[str], at: Path = tree) -> str:
        return _git(words, at, what, max(1.0, end - time.monotonic()), control)

    format = "sha256" if len(commit) == 64 else "sha1"
    git(["init", "--quiet", "--template=", f"--object-format={format}", str(tree)], tree.parent)
    fetch = ["fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head"]
    last: Unavailable | None = None
    for words in (["--depth=1", "--", url, ref], ["--depth=1", "--", url, commit], ["--", url, ref]):
        try:
            git([*fetch, *words])
            git(["cat-file", "-e", f"{commit}^{{commit}}"])
        except Unavailable as error:
            last = error
            continue
        git(["checkout", "--quiet", "--force", "--detach", "--no-recurse-submodules", commit])
        return
    commit_of(url, ref, timeout=max(1.0, end - time.monotonic()), control=control)  # raises when it is not reachable
    raise Refused(f"commit {commit[:12]} is not in {shown(url)} any more", hint=last.hint if last else "")


def _git(words: Sequence[str], at: Path, what: str, timeout: float, control: Control) -> str:
    """What a git command prints. Raises Unavailable: git does not tell what would fail again from what would not."""
    settings = [word for setting in _QUIET for word in ("-c", f"core.{setting}")]
    command = ["git", *settings, "-c", "gc.auto=0", "-c", "maintenance.auto=false", *words]
    try:
        with control.at_most(timeout, what):
            return process.run(command, control=control, env=environment(), cwd=at, capture=True, name=what)
    except TimedOut as error:
        raise Unavailable(error.message, hint="[git] timeout and fetch_timeout") from None
    except CommandFailed as error:
        raise Unavailable(error.message, hint=error.hint) from None


def shown(url: str) -> str:
    """A URL without user name, for people."""
    scheme, mark, rest = url.partition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2] if '@' in rest.partition('/')[0] else rest}" if mark else url


# -- removing ------------------------------------------------------------------------------------------


class Idle:
    """Removes checkouts on this host that nobody has used for a while; another process may do so, too."""

    def __init__(self, config: Config, linger: float = 600.0) -> None:
        """`linger`: seconds; who has just read a name of a checkout may be about to use it."""
        self._config = config
        self._linger = linger
        self._since: dict[Path, float] = {}

    def collect(self, used: Collection[tuple[str, str]]) -> list[Path]:
        """Remove what is not among these (slug, commit), and was not for a while; -> what was removed."""
        idle = {path for path in self._config.checkouts_dir.glob("*/*") if (path.parent.name, path.name) not in used}
        now = time.monotonic()
        self._since = {path: self._since.get(path, now) for path in idle}
        removed = [path for path, since in self._since.items() if now - since >= self._patience(path)]
        for path in removed:
            self._remove(path)
            del self._since[path]
        return removed

    def _patience(self, path: Path) -> float:
        """What is being fetched is nobody's yet."""
        return self._linger + (2 * self._config.git.fetch_timeout if path.name.startswith(_NEW) else 0.0)

    @staticmethod
    def _remove(path: Path) -> None:
        gone = path
        with contextlib.suppress(OSError):
            if not path.name.startswith("."):
                gone = path.rename(
                    path.with_name(f"{_OLD}{path.name}-{os.getpid()}")
                )  # never half of it under its name
        shutil.rmtree(gone, ignore_errors=True)
        with contextlib.suppress(OSError):
            path.parent.rmdir()
