"""Queries and fetches git repositories without trust: no hooks, no submodules, no credentials in arguments or logs.

A checkout is a folder without `.git`, named by its commit. It appears atomically: an existing one is complete,
and a removed one can be fetched again.
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

from imageflow.config import Config
from imageflow.errors import CommandFailed, Exceeded, NotFound, Refused, TimedOut, Unavailable
from imageflow.fetch.room import Room
from imageflow.host import environment as child_environment
from imageflow.host import process
from imageflow.host.control import Control

SCHEMES = ("https", "http", "ssh", "git", "file")
_SHORT = re.compile(r"(?:[A-Za-z0-9_][\w.-]*@)?[A-Za-z0-9][\w.-]*:(?![:/]/)[^\s:-]\S*", re.ASCII)  # user@host:path
_HOST = re.compile(r"[A-Za-z0-9:][\w.:%-]*|", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_CHECKOUT = re.compile(r"(?P<root>/.*)/(?P<slug>[\w.-]+)/(?P<commit>[0-9a-f]{40}|[0-9a-f]{64})(?:/.*)?", re.ASCII)
_BAD_REF = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock(/|$)|^[-/.]|[/.]$")
_PASSED = (  # what an operator sets for git and ssh; GIT_DIR and the like, set where a hook started us, are not among them
    "GIT_CONFIG_GLOBAL",
    "GIT_CONFIG_SYSTEM",
    "GIT_CONFIG_NOSYSTEM",
    "GIT_EXEC_PATH",
    "GIT_SSL_CAINFO",
    "GIT_SSL_CAPATH",
    "GIT_SSH_VARIANT",
    "GIT_PROXY_COMMAND",
    "SSH_AUTH_SOCK",
    "XDG_RUNTIME_DIR",
    "KRB5CCNAME",
    "KRB5_CONFIG",
)
_QUIET = ("hooksPath=/dev/null", "autocrlf=false", "fsmonitor=false")  # of the section core
_LOOK = 0.5  # seconds between two looks at the size of what comes
_BLOCK = 4096
REFS = 32 << 20  # bytes of what a repository may say about itself: some 300,000 refs
ASKING = ("prlimit", f"--data={1 << 30}", "--")  # git keeps in memory whatever a server tells it
_VERIFIERS = (
    ("gpg.program", "gpg"),
    ("gpg.ssh.program", "ssh-keygen"),
    ("gpg.format", "openpgp"),
)  # whatever is configured
_NEW = ".new-"  # prefix of a checkout being fetched
_OLD = ".old-"  # prefix of a checkout being removed


# -- valid URLs and refs -------------------------------------------------------------------------------


def unusable(url: str) -> str | None:
    """Why git must not get this URL; None when it may. Never quotes the URL: it may contain a secret."""
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
    """Why this is not a valid ref; None when it is."""
    if not ref or len(ref) > 1000 or not ref.isprintable() or _BAD_REF.search(ref):
        return "it is not a branch name; a tag is written refs/tags/NAME"
    if _COMMIT.fullmatch(ref):
        return "a commit never changes: name a branch, or refs/tags/NAME"
    return None


def whole(ref: str) -> str:
    """A recipe's ref as a pattern of full ref names: `main` is refs/heads/main."""
    return ref if ref.startswith("refs/") or any(mark in ref for mark in "*?[") else f"refs/heads/{ref}"


def named(url: str) -> tuple[str, str]:
    """Owner ('' if the URL has none) and name of a repository, from its URL."""
    path = url.partition("://")[2].partition("/")[2] if "://" in url else url.rpartition(":")[2]
    *owner, name = [part for part in path.split("/") if part] or [""]
    local = url.startswith(("/", "file:"))
    return "" if local else "/".join(owner), name.removesuffix(".git")


def told_by(data: Any, url: str, ref: str) -> bool:
    """Whether the data of a git event may be about this ref of this repository.

    A forge below a path, and Bitbucket's /scm/ and Gerrit's /a/, put something before the owner; most forges ignore
    case. Another repository's push costs one look, a push that is not recognised costs the whole period.
    """
    if not isinstance(data, Mapping) or not isinstance(data.get("ref"), str) or whole(data["ref"]) != ref:
        return False
    place = _place(url)
    if place is not None and _place(data.get("url")) == place:
        return True
    name, owner = data.get("repository"), data.get("owner") or ""
    if not isinstance(name, str) or not isinstance(owner, str):
        return False
    ours = [part for part in (*named(url)[0].split("/"), named(url)[1]) if part]
    theirs = [part for part in f"{owner}/{name.removesuffix('.git')}".split("/") if part]
    if len(ours) == 1:  # a URL without an owner
        theirs = theirs[-1:]
    folded = [urllib.parse.unquote(part).casefold() for part in ours]
    return bool(theirs) and folded[-len(theirs) :] == [part.casefold() for part in theirs]


_PORTS = {"http": 80, "https": 443, "ssh": 22, "git": 9418}


def host(url: str) -> str | None:
    """The host in a repository's URL, in lower case; None when it has none."""
    parts = _split(url)
    return parts.hostname if parts else None


def _place(url: Any) -> str | None:
    """Host and path of a repository, however its URL is written; None for anything else."""
    parts = _split(url)
    if parts is None:
        return None
    path = urllib.parse.unquote(parts.path).strip("/").removesuffix(".git").casefold()
    return f"{parts.hostname}:{'' if parts.port in (None, _PORTS.get(parts.scheme)) else parts.port}/{path}"


def _split(url: Any) -> urllib.parse.SplitResult | None:
    """A URL with a host, also one as USER@HOST:PATH."""
    if not isinstance(url, str) or not url:
        return None
    if "://" not in url:
        if not url.isascii() or "@" not in url or not _SHORT.fullmatch(url):
            return None
        place, _, path = url.rpartition("@")[2].partition(":")
        url = f"ssh://{place}/{path.lstrip('/')}"
    try:
        parts = urllib.parse.urlsplit(url)
        return parts if parts.hostname and (parts.port is None or parts.port) else None
    except ValueError:
        return None


def environment() -> dict[str, str]:
    """What git needs of our environment; it never prompts, and uses only the protocols allowed in recipes."""
    ssh = os.environ.get("GIT_SSH_COMMAND") or shlex.quote(os.environ.get("GIT_SSH", "ssh"))
    return child_environment.passed(*_PASSED) | {
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "false",
        "SSH_ASKPASS": "false",
        "SSH_ASKPASS_REQUIRE": "never",
        "GIT_SSH_COMMAND": f"{ssh} -oBatchMode=yes -oConnectTimeout=20",
        "GIT_ALLOW_PROTOCOL": ":".join(SCHEMES),
        "GIT_OPTIONAL_LOCKS": "0",
        "LC_ALL": "C.UTF-8",
    }


# -- querying and fetching -----------------------------------------------------------------------------


def commit_of(url: str, ref: str, *, timeout: float, control: Control) -> str:
    """The current commit of a ref. Raises NotFound when there is no such ref, Unavailable."""
    command = ["ls-remote", "--quiet", "--", url, ref, f"{ref}^{{}}"]
    text = _git(command, Path("/"), f"git ls-remote of {shown(url)}", timeout, control)
    found = {line.partition("\t")[2]: line.partition("\t")[0] for line in text.split("\n")}
    commit = found.get(f"{ref}^{{}}") or found.get(ref)
    if commit is None or not _COMMIT.fullmatch(commit):
        raise NotFound(f"there is no {ref} in {shown(url)}", hint="a branch by its name, a tag as refs/tags/NAME")
    return commit


def place(config: Config, url: str, commit: str) -> Path:
    """The path of the checkout of a commit, existing or not."""
    return config.checkouts_dir / slug(url) / commit


def slug(url: str) -> str:
    """The folder name for a repository's checkouts: safe in a shell."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", named(url)[1]).strip("-")[:40] or "repository"
    return f"{name}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"


@dataclass(frozen=True, slots=True)
class Placed:
    """What the path of a folder in a checkout tells."""

    root: Path  # config.checkouts_dir of the host that fetched it
    slug: str
    commit: str


def placed(folder: Path) -> Placed | None:
    """The checkout that a folder is in; None when it can't be in one."""
    match = _CHECKOUT.fullmatch(str(folder))
    return match and Placed(Path(match["root"]), match["slug"], match["commit"])


def check_out(config: Config, url: str, ref: str, commit: str, *, control: Control) -> Path:
    """The folder with the content of this commit; fetched, as little as possible, if missing.

    Raises Unavailable, and Refused when the repository no longer has the commit.
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
        _fetch(tree, url, ref, commit, config, control)
        shutil.rmtree(tree / ".git")
        process.run(
            ["sync", "--file-system", tree], control=control, name="sync"
        )  # a name must not outlive its content
        try:
            tree.rename(to)
        except OSError:
            if not to.is_dir():  # otherwise another process was faster
                raise
    except OSError as error:
        raise Unavailable(f"{shown(url)} can't be checked out to {to}: {error.strerror}") from error
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)
    return to


def _fetch(tree: Path, url: str, ref: str, commit: str, config: Config, control: Control) -> None:
    """Make a work tree at the commit: by the ref alone if it is still there, else by its id or the ref's history."""
    timeout, signed_by = config.git.fetch_timeout, config.recipes.signed_by
    what = f"git fetch of {ref} from {shown(url)}"
    end = time.monotonic() + timeout

    def git(words: Sequence[str], at: Path = tree) -> str:
        return _git(words, at, what, max(1.0, end - time.monotonic()), control)

    room = Room(config, f"{ref} of {shown(url)}", tree.parent, config.git.max_size, "[git] max_size")
    room.grow(0)
    format = "sha256" if len(commit) == 64 else "sha1"
    git(["init", "--quiet", "--template=", f"--object-format={format}", str(tree)], tree.parent)
    fetch = ["fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head"]
    last: Unavailable | None = None
    with control.watched(lambda: room.grow(_size(tree.parent)), _LOOK):
        for words in (["--depth=1", "--", url, ref], ["--depth=1", "--", url, commit], ["--", url, ref]):
            try:
                git([*fetch, *words])
                git(["cat-file", "-e", f"{commit}^{{commit}}"])
            except Unavailable as error:
                last = error
                continue
            if signed_by:
                _verify(tree, url, commit, Path(signed_by), max(1.0, end - time.monotonic()), control)
            git(["checkout", "--quiet", "--force", "--detach", "--no-recurse-submodules", commit])
            room.grow(_size(tree.parent))
            return
    commit_of(
        url, ref, timeout=max(1.0, end - time.monotonic()), control=control
    )  # raises when the repository is not reachable
    raise Refused(f"commit {commit[:12]} is not in {shown(url)} any more", hint=last.hint if last else "")


def _size(folder: Path) -> int:
    """Bytes that a folder takes on its disk; each file at least a block, as many small ones fill it, too."""
    total = 0
    for place, _folders, names in os.walk(folder):
        total += _BLOCK
        for name in names:
            with contextlib.suppress(OSError):
                total += max(_BLOCK, os.lstat(os.path.join(place, name)).st_blocks * 512)
    return total


def _verify(tree: Path, url: str, commit: str, signed_by: Path, timeout: float, control: Control) -> None:
    """Raise Refused unless git finds the commit signed by one of these keys, and no others: a file of SSH's, or a keyring."""
    if not signed_by.exists():
        raise Refused(f"there is no {signed_by}, so that no commit can be verified", hint="[recipes] signed_by")
    keyring = signed_by if signed_by.is_dir() else tree.parent / "no-keyring"
    keyring.mkdir(mode=0o700, exist_ok=True)
    signers = "/dev/null" if signed_by.is_dir() else str(signed_by)
    words = ["-c", f"gpg.ssh.allowedSignersFile={signers}", "-c", "gpg.minTrustLevel=undefined"]
    words += [word for program in _VERIFIERS for word in ("-c", f"{program[0]}={program[1]}")]
    what = f"the check of the signature of {commit[:12]} from {shown(url)}"
    try:
        _git([*words, "verify-commit", commit], tree, what, timeout, control, {"GNUPGHOME": str(keyring)})
    except Unavailable as error:
        if not isinstance(error.__context__, CommandFailed):
            raise
        raise Refused(
            f"commit {commit[:12]} of {shown(url)} is not signed by a key in {signed_by}",
            hint=f"[recipes] signed_by; git says: {error.hint}",
        ) from None


def _git(
    words: Sequence[str], at: Path, what: str, timeout: float, control: Control, more: Mapping[str, str] | None = None
) -> str:
    """The output of a git command. Raises Unavailable: git does not tell permanent errors from temporary ones."""
    settings = [word for setting in _QUIET for word in ("-c", f"core.{setting}")]
    bounds = ASKING if words[0] == "ls-remote" else ()
    command = [*bounds, "git", *settings, "-c", "gc.auto=0", "-c", "maintenance.auto=false", *words]
    try:
        with control.at_most(timeout, what):
            return process.run(
                command,
                control=control,
                env={**environment(), **(more or {})},
                cwd=at,
                capture=True,
                most=REFS,
                name=what,
            )
    except TimedOut as error:
        raise Unavailable(error.message, hint="[git] timeout and fetch_timeout") from None
    except (CommandFailed, Exceeded) as error:
        raise Unavailable(error.message, hint=error.hint) from None


def shown(url: str) -> str:
    """A URL without user name, for messages."""
    scheme, mark, rest = url.partition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2] if '@' in rest.partition('/')[0] else rest}" if mark else url


# -- removing ------------------------------------------------------------------------------------------


class Idle:
    """Removes unused checkouts on this host; another process may do so at the same time."""

    def __init__(self, config: Config, linger: float = 600.0) -> None:
        """`linger`: seconds; a process that has just read a checkout's name may be about to use it."""
        self._config = config
        self._linger = linger
        self._since: dict[Path, float] = {}

    def collect(self, used: Collection[tuple[str, str]]) -> list[Path]:
        """Remove checkouts that were not among these (slug, commit) for a while; -> the removed ones."""
        idle = {path for path in self._config.checkouts_dir.glob("*/*") if (path.parent.name, path.name) not in used}
        now = time.monotonic()
        self._since = {path: self._since.get(path, now) for path in idle}
        removed = [path for path, since in self._since.items() if now - since >= self._patience(path)]
        for path in removed:
            self._remove(path)
            del self._since[path]
        return removed

    def _patience(self, path: Path) -> float:
        """Seconds before it may be removed: longer for a checkout being fetched, which has no user yet."""
        return self._linger + (2 * self._config.git.fetch_timeout if path.name.startswith(_NEW) else 0.0)

    @staticmethod
    def _remove(path: Path) -> None:
        gone = path
        with contextlib.suppress(OSError):
            if not path.name.startswith("."):
                gone = path.rename(
                    path.with_name(f"{_OLD}{path.name}-{os.getpid()}")
                )  # never a partial checkout under its final name
        shutil.rmtree(gone, ignore_errors=True)
        with contextlib.suppress(OSError):
            path.parent.rmdir()
