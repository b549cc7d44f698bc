"""Local files of recipes that live in git: fetched when needed, and which of them are still in use."""

from __future__ import annotations

from pathlib import Path

from imageflow.config import Config
from imageflow.errors import Refused
from imageflow.fetch import git
from imageflow.host.control import Control
from imageflow.model import Registered
from imageflow.persistence import git_origins
from imageflow.persistence.database import Database


class Checkouts:
    """The folders of registered recipes, and of builds, on this host."""

    def __init__(self, config: Config, database: Database) -> None:
        self._config = config
        self._database = database

    def folder(self, recipe: Registered, control: Control | None = None) -> Path:
        """The folder of a registered recipe on this host; fetched if missing. Raises Unavailable, Refused."""
        if recipe.repository is None:
            return Path(recipe.path).parent
        told = recipe.repository
        checkout = git.check_out(self._config, told["url"], told["ref"], told["commit"], control=control or Control())
        return (checkout / str(told["path"])).parent

    def ensure(self, folder: Path, control: Control) -> None:
        """Fetch the folder of a build's recipe to this host, if it belongs to a checkout. Raises Unavailable, Refused."""
        if folder.is_dir() or (placed := git.placed(folder)) is None:
            return
        with self._database.read() as conn:
            every = git_origins.repositories(conn, everything=True)
        told = next((each for each in every if git.slug(each["url"]) == placed.slug), None)
        if told is None:
            return
        if placed.root != self._config.checkouts_dir:
            raise Refused(
                f"the recipe's files were fetched to {placed.root} by another host, this one has {self._config.checkouts_dir}",
                hint="give all hosts on one database the same state_dir",
            )
        git.check_out(self._config, told["url"], told["ref"], placed.commit, control=control)

    def used(self) -> set[tuple[str, str]]:
        """The checkouts in use, as (slug, commit)."""
        with self._database.read() as conn:
            told = git_origins.repositories(conn)
            heads = [(git.slug(origin.url), origin.head) for origin in git_origins.select(conn)]
            building = [git.placed(Path(folder)) for folder in git_origins.folders_in_use(conn)]
        current = {(git.slug(each["url"]), str(each["commit"])) for each in told}
        return current | set(heads) | {(one.slug, one.commit) for one in building if one is not None}
