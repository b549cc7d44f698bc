"""Recipes that live in git repositories: registered from a commit, and followed to the next one.

A file is one recipe; of a folder every *.yaml in it is one. A commit becomes the registered one in one
transaction, together with the events that say so; whoever else looked at it at the same time finds it done.
"""

from __future__ import annotations

import functools
import logging
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from imageflow import fingerprint, lineage, recipe_events, repository
from imageflow.config import Config
from imageflow.control import Control
from imageflow.errors import BadInput, Cancelled, Conflict, ImageflowError, RecipeError, Refused, Unavailable
from imageflow.model import Json, Origin, Registered, Verdict
from imageflow.persistence import events, origins, registry
from imageflow.persistence.database import Database
from imageflow.registry import Prepared, Registration, check_name, forget, prepare, refuse_member, registration

LOG = logging.getLogger(__name__)
PATIENCE = 10.0  # seconds that a request waits for a database that is away
_SUFFIXES = (".yaml", ".yml")
_TRIES = 5  # commits that come while one is registered


class _Outrun(Exception):
    """Another process has registered a commit meanwhile."""


@dataclass
class _Found:
    """What is in a commit."""

    checkout: Path
    ready: dict[str, Prepared] = field(default_factory=dict)  # by the recipe's name
    broken: dict[str, str] = field(default_factory=dict)  # recipe ('': all of them) -> why
    differ: dict[str, list[str]] = field(default_factory=dict)  # recipe -> images that would be others


class Hosted:
    """The recipe files and folders in git that are followed."""

    def __init__(self, config: Config, database: Database) -> None:
        self._config = config
        self._database = database

    # -- asked for ---------------------------------------------------------------------------------

    def add(self, path: str, url: str, ref: str = "main", name: str | None = None) -> list[Registration]:
        """Register a file, or each in a folder, as the ref has it now, and follow it from then on.

        Raises BadInput, RecipeError and Conflict, and then registers nothing; Unavailable.
        """
        if why := repository.unusable(url):
            raise BadInput(f"the repository can't be used: {why}", hint="--repository URL")
        if why := repository.unusable_ref(ref):
            raise BadInput(f"{ref!r} can't be followed: {why}", hint="--ref BRANCH")
        inside = _inside(path)
        ref = repository.whole(ref)
        for _ in range(_TRIES):
            control = Control()
            commit = repository.commit_of(url, ref, timeout=self._config.git.timeout, control=control)
            checkout = repository.check_out(self._config, url, ref, commit, control=control)
            folder = _in(checkout, inside).is_dir()
            own = name or (repository.named(url)[1] if folder else PurePosixPath(inside).stem)
            if "/" in own and folder:
                raise BadInput(f"{own!r} can't be a folder's name: its recipes are NAME/FILE", hint="--name NAME")
            check_name(own)
            with self._database.read() as conn:
                known = origins.get(conn, own)
            origin = known or Origin(own, url, ref, inside, folder, "", 0)
            again = (origin.url, origin.ref, origin.path, origin.folder) == (url, ref, inside, folder)
            if not again and (folder or origin.folder):
                raise Conflict(
                    f"{own!r} is the folder {origin.path!r} of {repository.shown(origin.url)} already"
                    if origin.folder
                    else f"{own!r} is a recipe that is followed already",
                    hint=f"--name NAME, or 'imageflow recipe remove {own}' first",
                )
            origin = replace(origin, url=url, ref=ref, path=inside, folder=folder)
            found = self._read(origin, checkout, commit)
            if found.broken:
                raise RecipeError("\n".join(found.broken.values()))
            if not found.ready:
                raise BadInput(f"there is no *.yaml in {inside!r} of the repository", hint="name a folder with recipes")
            try:
                work = functools.partial(self._apply, origin=origin, head=commit, found=found, new=known is None)
                return self._database.transact(functools.partial(work, tell=again and known is not None))
            except (_Outrun, sa.exc.IntegrityError):
                continue
        raise Unavailable(f"{own!r} is changed by others all the time", hint="try again")

    def origins(self) -> list[Origin]:
        """What is followed."""
        with self._database.read() as conn:
            return origins.select(conn)

    def problems(self) -> dict[str, str]:
        """What is wrong with the newest commit of registered recipes: recipe, or folder -> why."""
        found: dict[str, str] = {}
        for origin in self.origins():
            found |= {recipe or origin.name: why for recipe, why in origin.problems.items()}
            if origin.trouble:
                found[origin.name] = "; ".join(filter(None, [found.get(origin.name), origin.trouble]))
        return found

    # -- followed ----------------------------------------------------------------------------------

    def look(self, name: str, control: Control) -> list[str]:
        """See whether there is a new commit, and register it; -> the recipes that changed.

        Raises Unavailable when that can't be found out; who waits for the answer need not any more.
        """
        with self._database.read() as conn:
            known = origins.get(conn, name)
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
        self._database.transact(lambda conn: origins.seen(conn, known, trouble))

    def _follow(self, known: Origin, control: Control) -> list[str]:
        commit = repository.commit_of(known.url, known.ref, timeout=self._config.git.timeout, control=control)
        if commit == known.head and not known.problems:
            return []
        checkout = repository.check_out(self._config, known.url, known.ref, commit, control=control)
        try:
            found = self._read(known, checkout, commit)
            apply = functools.partial(self._apply, origin=known, head=commit, found=found, tell=True)
            try:
                done = self._database.transact(apply)
            except BadInput as error:  # its recipes don't go together, or not with others
                found = _Found(checkout, broken={"": _plain(error, checkout, known)})
                done = self._database.transact(functools.partial(apply, found=found))
        except _Outrun:
            LOG.info("%s: another process has registered a commit of it", known.name)
            return []
        return [one.recipe.name for one in done if one.verdict != "unchanged"]

    def _read(self, origin: Origin, checkout: Path, commit: str) -> _Found:
        """Check every recipe of a commit, and compare it with the registered one."""
        found = _Found(checkout)
        with self._database.read() as conn:
            before = origins.recipes_of(conn, origin)
        for name, path in _files(origin, checkout, found.broken).items():
            told = {"url": origin.url, "ref": origin.ref, "path": path, "commit": commit}
            try:
                check_name(name)
                prepared = prepare(self._config, _in(checkout, path), name, repository=told)
            except BadInput as error:
                found.broken[name] = _plain(error, checkout, origin)
                continue
            found.ready[name] = prepared
            old = before.get(name)
            found.differ[name] = self._differing(old if old and old.repository else None, prepared.recipe)
        return found

    def _differing(self, old: Registered | None, new: Registered) -> list[str]:
        """The images that are not what they were: by their recipes, or by local files that they are made of."""
        earlier = {} if old is None else {str(image["name"]): image for image in old.images}
        found = []
        for image in new.images:
            before = earlier.get(str(image["name"]))
            if before is None or not fingerprint.same(before, image):
                found.append(str(image["name"]))
                continue
            assert old is not None
            then, now = (
                _inputs(each, Path(of.path).parent, self._config) for each, of in ((before, old), (image, new))
            )
            if then is None or then != now:
                found.append(str(image["name"]))
        return found

    # -- one transaction ---------------------------------------------------------------------------

    def _apply(
        self, conn: Connection, *, origin: Origin, head: str, found: _Found, tell: bool, new: bool = False
    ) -> list[Registration]:
        """Make a commit the registered one. Raises _Outrun, Conflict, RecipeError."""
        before = origins.recipes_of(conn, origin)
        if origin.folder:
            for name, recipe in before.items():
                if recipe.repository is None and name in found.ready:
                    raise Conflict(
                        f"there is a recipe {name!r} from {recipe.path}", hint="--name NAME, or remove that one"
                    )
            before = {name: recipe for name, recipe in before.items() if recipe.repository is not None}
        elif (other := origins.of_recipe(conn, origin.name)) is not None:
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
            origins.move(conn, before[name], found.ready[name].recipe)
        stored = {name: registry.add(conn, one.recipe, one.rules, one.parents) for name, one in fresh.items()}
        if fresh and (circle := lineage.cycle(registry.graph(conn))):
            raise RecipeError(
                f"these images would be built from each other: {' → '.join(circle)}",
                hint="an image can't be built from itself; see 'imageflow recipe graph'",
            )
        for image in origins.homeless(conn, _images(before[name] for name in (*gone, *fresh) if name in before)):
            forget(conn, image)
        if tell:
            now = time.time()
            told = [
                recipe_events.changed(origin, head, before.get(name), stored[name], found.differ[name], now)
                for name in fresh
            ]
            told += [recipe_events.changed(origin, head, before[name], None, [], now) for name in gone]
            events.add(conn, told, listener="imageflow", now=now)
            if found.broken != origin.problems or head != origin.head:
                self._complain(conn, origin, head, found.broken, now)
        return [
            registration(
                conn,
                one,
                stored.get(name) or before[name],
                "unchanged" if name not in fresh else "changed" if name in before else "added",
            )
            for name, one in found.ready.items()
        ]

    @staticmethod
    def _write(
        conn: Connection, origin: Origin, head: str, broken: Mapping[str, str], *, new: bool, anything: bool
    ) -> None:
        if new:
            origins.add(conn, replace(origin, head=head, generation=1, problems=dict(broken)))
            return
        values: dict[str, Any] = {"head": head, "problems": dict(broken)}
        values |= {"url": origin.url, "ref": origin.ref, "path": origin.path, "folder": origin.folder}
        known = origins.get(conn, origin.name)
        if known is None or known.generation != origin.generation:
            raise _Outrun
        changed = anything or any(getattr(known, name) != value for name, value in values.items())
        if changed and not origins.change(conn, origin, **values):
            raise _Outrun

    @staticmethod
    def _complain(conn: Connection, origin: Origin, head: str, broken: Mapping[str, str], now: float) -> None:
        """An event in quarantine, and a warning, for each recipe of the commit that can't be registered; once."""
        for recipe, why in sorted(broken.items()):
            name = recipe or origin.name
            event = recipe_events.invalid(origin, head, name, why)
            reason = f"the version before stays: {why}"
            [(_stored, first)] = events.add(
                conn, [event], listener="imageflow", now=now, verdict=Verdict.QUARANTINED, reason=reason
            )
            if first:
                LOG.warning("recipe %s at %.12s can't be registered, %s", name, head, reason)

    # -- where its files are -----------------------------------------------------------------------

    def folder(self, recipe: Registered, control: Control | None = None) -> Path:
        """The folder of a registered recipe on this host; fetched, when it is not here. Raises Unavailable, Refused."""
        if recipe.repository is None:
            return Path(recipe.path).parent
        told = recipe.repository
        checkout = repository.check_out(
            self._config, told["url"], told["ref"], told["commit"], control=control or Control()
        )
        return (checkout / str(told["path"])).parent

    def ensure(self, folder: Path, control: Control) -> None:
        """Have the folder of a build's recipe on this host, if it is one of a checkout. Raises Unavailable, Refused."""
        if folder.is_dir() or (placed := repository.placed(folder)) is None:
            return
        with self._database.read() as conn:
            every = origins.repositories(conn, everything=True)
        told = next((each for each in every if repository.slug(each["url"]) == placed.slug), None)
        if told is None:
            return
        if placed.root != self._config.checkouts_dir:
            raise Refused(
                f"the recipe's files were fetched to {placed.root} by another host, this one has {self._config.checkouts_dir}",
                hint="give all hosts on one database the same state_dir",
            )
        repository.check_out(self._config, told["url"], told["ref"], placed.commit, control=control)

    def used(self) -> set[tuple[str, str]]:
        """The checkouts that something needs, as (slug, commit)."""
        with self._database.read() as conn:
            told = origins.repositories(conn)
            heads = [(repository.slug(origin.url), origin.head) for origin in origins.select(conn)]
            building = [repository.placed(Path(folder)) for folder in origins.folders_in_use(conn)]
        current = {(repository.slug(each["url"]), str(each["commit"])) for each in told}
        return current | set(heads) | {(one.slug, one.commit) for one in building if one is not None}


def _images(recipes: Iterable[Registered]) -> list[str]:
    """Their names, each once."""
    return sorted({str(image["name"]) for recipe in recipes for image in recipe.images})


def _is_new(old: Registered | None, new: Prepared, differ: list[str]) -> bool:
    return old is None or old.repository is None or old.digest != new.recipe.digest or bool(differ)


def _inside(path: str) -> str:
    """A path in a repository, in one way. Raises BadInput."""
    parts = PurePosixPath(path).parts
    if not path or not path.isprintable() or path.startswith("/") or ".." in parts or ".git" in parts:
        raise BadInput(f"{path!r} is no path in a repository", hint="name the recipe from the top of the repository")
    return str(PurePosixPath(path))


def _in(checkout: Path, path: str) -> Path:
    """A path in a checkout; raises BadInput for what is not there, or leads out of it."""
    at = checkout / path
    real, root = os.path.realpath(at), os.path.realpath(checkout)
    if os.path.commonpath([real, root]) != root:
        raise BadInput(f"{path} leads out of the repository", hint="recipes are files of the repository itself")
    if not os.path.exists(real):
        raise BadInput(f"there is no {path} in the repository", hint="name the recipe from the top of the repository")
    return at


def _files(origin: Origin, checkout: Path, broken: dict[str, str]) -> dict[str, str]:
    """The recipes of a commit: name -> path in the repository. What is wrong with one is added to `broken`."""
    try:
        at = _in(checkout, origin.path)
        if at.is_dir() != origin.folder:
            raise BadInput(f"{origin.path} is {'not a' if origin.folder else 'a'} folder now")
    except BadInput as error:
        broken[""] = str(error)
        return {}
    if not origin.folder:
        return {origin.name: origin.path}
    found: dict[str, str] = {}
    for entry in sorted(at.iterdir()):
        if entry.suffix not in _SUFFIXES or entry.name.startswith(".") or not entry.name.isprintable():
            continue
        name = f"{origin.name}/{entry.stem}"
        if name in found:
            broken[name] = f"{found[name]} and {entry.name} would both be the recipe {name}"
        found[name] = str(PurePosixPath(origin.path, entry.name))
    return {name: path for name, path in found.items() if name not in broken}


def _plain(error: BadInput, checkout: Path, origin: Origin) -> str:
    """What is wrong, with places as the repository has them."""
    return str(error).replace(f"{checkout}/", "").replace(str(checkout), repository.named(origin.url)[1])


def _inputs(canonical: Json, folder: Path, config: Config) -> dict[str, str] | None:
    """The local files that an image is made of, as digests; None when they can't be read (any more)."""
    from imageflow import pins
    from imageflow.pins import files
    from imageflow.recipe import ImageRecipe, inputs

    try:
        found = pins.local(ImageRecipe.from_json(canonical), folder, config)
        for named in inputs.of_image(canonical):
            if named.path[0] in ("base", "iso") and not os.path.isabs(named.name):
                found[f"{'.'.join(map(str, named.path))}"] = files.digest(named.at(folder))
    except ImageflowError:
        return None
    return found
