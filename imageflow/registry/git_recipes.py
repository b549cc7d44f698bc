"""Recipes that live in git repositories: registered from a commit, and followed to the next one.

A file is one recipe; in a folder, every *.yaml is one. A commit is registered in one transaction, together
with its events; another process that looked at it at the same time finds it done.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from imageflow.config import Config
from imageflow.errors import BadInput, Cancelled, Conflict, RecipeError, TooLarge, Unavailable
from imageflow.fetch import git
from imageflow.host.control import Control
from imageflow.model import Origin, Registered, Verdict
from imageflow.persistence import events, git_origins, registry
from imageflow.persistence.database import Database
from imageflow.persistence.patience import REQUEST
from imageflow.registry import change_events, examination, lineage, trust
from imageflow.registry.recipes import (
    Prepared,
    Registration,
    RegistrationVerdict,
    check_name,
    forget,
    refuse_member,
    registration,
)

LOG = logging.getLogger(__name__)
_SUFFIXES = (".yaml", ".yml")
_COSTLY = 3600.0  # seconds until a commit that took too much is checked again
_TRIES = 5  # commits that may arrive while one is registered


class _Outrun(Exception):
    """Another process has registered a commit in the meantime."""


class GitRecipes:
    """The followed recipe files and folders in git."""

    def __init__(self, config: Config, database: Database) -> None:
        self._config = config
        self._database = database
        self._costly: dict[str, tuple[str, float]] = {}  # origin -> commit, and when it may be checked again
        self._too_large: dict[str, tuple[str, float, TooLarge | None]] = {}  # the same, of what is not even fetched

    # -- on request --------------------------------------------------------------------------------

    def add(self, path: str, url: str, ref: str = "main", name: str | None = None) -> list[Registration]:
        """Register a file, or each recipe in a folder, at the ref's current commit, and follow it from then on.

        Raises BadInput, RecipeError, Conflict, and then registers nothing; Unavailable.
        """
        if why := git.unusable(url):
            raise BadInput(f"the repository can't be used: {why}", hint="--repository URL")
        if why := git.unusable_ref(ref):
            raise BadInput(f"{ref!r} can't be followed: {why}", hint="--ref BRANCH")
        if (refused := trust.refused_repository(self._config, url)) is not None:
            raise BadInput(refused.message, hint=refused.hint)
        inside = examination.inside(path)
        ref = git.whole(ref)
        for _ in range(_TRIES):
            control = Control()
            commit = git.commit_of(url, ref, timeout=self._config.git.timeout, control=control)
            checkout = git.check_out(self._config, url, ref, commit, control=control)
            folder = examination.in_checkout(checkout, inside).is_dir()
            own = name or (git.named(url)[1] if folder else PurePosixPath(inside).stem)
            if "/" in own and folder:
                raise BadInput(f"{own!r} can't be a folder's name: its recipes are NAME/FILE", hint="--name NAME")
            check_name(own)
            known = self._database.look(functools.partial(git_origins.get, name=own), REQUEST)
            origin = known or Origin(own, url, ref, inside, folder, "", 0)
            again = (origin.url, origin.ref, origin.path, origin.folder) == (url, ref, inside, folder)
            if not again and (folder or origin.folder):
                raise Conflict(
                    f"{own!r} is already the folder {origin.path!r} of {git.shown(origin.url)}"
                    if origin.folder
                    else f"{own!r} is a recipe that is already followed",
                    hint=f"--name NAME, or 'imageflow recipe remove {own}' first",
                )
            origin = replace(origin, url=url, ref=ref, path=inside, folder=folder)
            found = self._read(origin, checkout, commit, control, REQUEST)
            if found.broken:
                raise RecipeError("\n".join(found.broken.values()))
            if not found.ready:
                raise BadInput(f"there is no *.yaml in {inside!r} of the repository", hint="name a folder with recipes")
            try:
                tell = again and known is not None
                work = functools.partial(self._apply, origin=origin, head=commit, found=found, new=known is None)
                return self._database.transact(functools.partial(work, tell=tell), patience=REQUEST)
            except (_Outrun, sa.exc.IntegrityError):
                continue
        raise Unavailable(f"{own!r} keeps changing", hint="try again")

    def origins(self) -> list[Origin]:
        """The followed files and folders."""
        with self._database.read() as conn:
            return git_origins.select(conn)

    def problems(self) -> dict[str, str]:
        """Problems with the newest commit of registered recipes: recipe, or folder -> why."""
        found: dict[str, str] = {}
        for origin in self.origins():
            found |= {recipe or origin.name: why for recipe, why in origin.problems.items()}
            if origin.trouble:
                found[origin.name] = "; ".join(filter(None, [found.get(origin.name), origin.trouble]))
        return found

    # -- following ---------------------------------------------------------------------------------

    def look(self, name: str, control: Control) -> list[str]:
        """Check for a new commit, and register it; -> the recipes that changed.

        Raises Unavailable when that can't be found out; rebuilds that wait for the look then stop waiting.
        """
        with self._database.read() as conn:
            known = git_origins.get(conn, name)
        if known is None:
            return []
        try:
            done = self._follow(known, control)
        except Cancelled:
            raise
        except Exception as error:
            self._seen(known, f"can't be looked at: {error}")
            raise
        self._seen(known, None)
        return done

    def _seen(self, known: Origin, trouble: str | None) -> None:
        self._database.transact(lambda conn: git_origins.seen(conn, known, trouble))

    def _follow(self, known: Origin, control: Control) -> list[str]:
        if (refused := trust.refused_repository(self._config, known.url)) is not None:
            raise refused
        commit = git.commit_of(known.url, known.ref, timeout=self._config.git.timeout, control=control)
        if commit == known.head and (not known.problems or self._is_costly(known)):
            return []
        checkout = self._check_out(known, commit, control)
        try:
            found = self._read(known, checkout, commit, control)
            if found.exceeded:
                self._costly[known.name] = (commit, time.monotonic() + _COSTLY)
            apply = functools.partial(self._apply, origin=known, head=commit, found=found, tell=True)
            try:
                done = self._database.transact(apply)
            except BadInput as error:  # its recipes conflict with each other, or with others
                found = examination.Examined(checkout, broken={"": examination.plain(str(error), checkout, known)})
                done = self._database.transact(functools.partial(apply, found=found))
        except _Outrun:
            LOG.info("%s: another process has registered a commit of it", known.name)
            return []
        return [one.recipe.name for one in done if one.verdict is not RegistrationVerdict.UNCHANGED]

    def _check_out(self, known: Origin, commit: str, control: Control) -> Path:
        """The checkout; one that was too large just now is not fetched at every look."""
        before, until, error = self._too_large.get(known.name, ("", 0.0, None))
        if error is not None and before == commit and time.monotonic() < until:
            raise TooLarge(error.message, hint=error.hint)
        try:
            return git.check_out(self._config, known.url, known.ref, commit, control=control)
        except TooLarge as found:
            self._too_large[known.name] = (commit, time.monotonic() + _COSTLY, found)
            raise

    def _is_costly(self, known: Origin) -> bool:
        """Whether its newest commit has just taken too much: then it is not checked at every look."""
        commit, until = self._costly.get(known.name, ("", 0.0))
        return commit == known.head and time.monotonic() < until

    def _read(
        self, origin: Origin, checkout: Path, commit: str, control: Control, patience: float = 0.0
    ) -> examination.Examined:
        before = self._database.look(lambda conn: git_origins.recipes_of(conn, origin), patience)
        return examination.examine(self._config, origin, checkout, commit, before, control)

    # -- one transaction ---------------------------------------------------------------------------

    def _apply(
        self, conn: Connection, *, origin: Origin, head: str, found: examination.Examined, tell: bool, new: bool = False
    ) -> list[Registration]:
        """Register a commit. Raises _Outrun, Conflict, RecipeError."""
        before = git_origins.recipes_of(conn, origin)
        if origin.folder:
            for name, recipe in before.items():
                if recipe.repository is None and name in found.ready:
                    raise Conflict(
                        f"there is a recipe {name!r} from {recipe.path}", hint="--name NAME, or remove that one"
                    )
            before = {name: recipe for name, recipe in before.items() if recipe.repository is not None}
        elif (other := git_origins.of_recipe(conn, origin.name)) is not None:
            refuse_member(other, origin.name)
        fresh = {name: one for name, one in found.ready.items() if _is_new(before.get(name), one, found.differ[name])}
        gone = [] if "" in found.broken else sorted(before.keys() - found.ready.keys() - found.broken.keys())
        moved = {
            name for name in found.ready if name not in fresh and before[name].path != found.ready[name].recipe.path
        }
        self._write(conn, origin, head, found.broken, new=new, anything=bool(fresh or gone or moved))
        for name in (*gone, *fresh):
            registry.withdraw(conn, name)
        for name in moved:
            git_origins.move(conn, before[name], found.ready[name].recipe)
        stored = {name: registry.add(conn, one.recipe, one.rules, one.parents) for name, one in fresh.items()}
        if fresh and (circle := lineage.cycle(registry.graph(conn))):
            raise RecipeError(
                f"these images would be built from each other: {' → '.join(circle)}",
                hint="an image can't be built from itself; see 'imageflow recipe graph'",
            )
        for image in git_origins.homeless(conn, _images(before[name] for name in (*gone, *fresh) if name in before)):
            forget(conn, image)
        if tell:
            now = time.time()
            told = [
                change_events.changed(origin, head, before.get(name), stored[name], found.differ[name], now)
                for name in fresh
            ]
            told += [change_events.changed(origin, head, before[name], None, [], now) for name in gone]
            events.add(conn, told, listener="imageflow", now=now)
            if found.broken != origin.problems or head != origin.head:
                self._complain(conn, origin, head, found.broken, now)
        return [
            registration(
                conn,
                one,
                stored.get(name) or before[name],
                RegistrationVerdict.UNCHANGED
                if name not in fresh
                else RegistrationVerdict.CHANGED
                if name in before
                else RegistrationVerdict.ADDED,
            )
            for name, one in found.ready.items()
        ]

    @staticmethod
    def _write(
        conn: Connection, origin: Origin, head: str, broken: Mapping[str, str], *, new: bool, anything: bool
    ) -> None:
        if new:
            git_origins.add(conn, replace(origin, head=head, generation=1, problems=dict(broken)))
            return
        values: dict[str, Any] = {"head": head, "problems": dict(broken)}
        values |= {"url": origin.url, "ref": origin.ref, "path": origin.path, "folder": origin.folder}
        known = git_origins.get(conn, origin.name)
        if known is None or known.generation != origin.generation:
            raise _Outrun
        changed = anything or any(getattr(known, name) != value for name, value in values.items())
        if changed and not git_origins.change(conn, origin, **values):
            raise _Outrun

    @staticmethod
    def _complain(conn: Connection, origin: Origin, head: str, broken: Mapping[str, str], now: float) -> None:
        """An event in quarantine, and a warning, for each recipe of the commit that can't be registered; once."""
        for recipe, why in sorted(broken.items()):
            name = recipe or origin.name
            event = change_events.invalid(origin, head, name, why)
            reason = f"the previous version stays: {why}"
            [(_stored, first)] = events.add(
                conn, [event], listener="imageflow", now=now, verdict=Verdict.QUARANTINED, reason=reason
            )
            if first:
                LOG.warning("recipe %s at %.12s can't be registered, %s", name, head, reason)


def _images(recipes: Iterable[Registered]) -> list[str]:
    """Their names, each once."""
    return sorted({str(image["name"]) for recipe in recipes for image in recipe.images})


def _is_new(old: Registered | None, new: Prepared, differ: list[str]) -> bool:
    return old is None or old.repository is None or old.digest != new.recipe.digest or bool(differ)
