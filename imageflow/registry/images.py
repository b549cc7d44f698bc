"""The images of the registered recipes: what each would be built from now, by name."""

from __future__ import annotations

from sqlalchemy import Connection

from imageflow.builds.submission import Answer, Submitter
from imageflow.builds.wanted import Wanted
from imageflow.config import Config
from imageflow.errors import Conflict
from imageflow.model import Json, Registered, Submission
from imageflow.persistence import registry
from imageflow.persistence.database import Database
from imageflow.recipe import ImageRecipe
from imageflow.registry import trust
from imageflow.registry.checkouts import Checkouts


class RegisteredImages:
    """Pins their inputs, and asks for them."""

    def __init__(self, config: Config, database: Database, submitter: Submitter, checkouts: Checkouts) -> None:
        self._config = config
        self._database = database
        self._submitter = submitter
        self._checkouts = checkouts

    def recipe(self, image: str) -> tuple[Registered, Json]:
        """The recipe that contains an image now, and the image's canonical recipe; raises NotFound."""
        with self._database.read() as conn:
            return registry.of_image(conn, image)

    def wanted(self, recipe: Registered, canonical: Json) -> Wanted:
        """An image of a recipe as it would be built now.

        Raises RecipeError for what can't be built as it stands or may not be built here, and what pinning inputs raises.
        """
        folder = self._checkouts.folder(recipe)
        trust.check(self._config, recipe, [ImageRecipe.from_json(canonical)], folder)
        return self._submitter.wanted(canonical, folder)

    def ask(self, image: str, *, force: bool = False, cause: str = "", answer: Answer | None = None) -> Submission:
        """Request an image; `force`, `cause` and `answer`: see Submitter.ask.

        Raises what `recipe` and `wanted` raise, and Conflict when the recipe is changed at this moment.
        """
        recipe, canonical = self.recipe(image)

        def answered(conn: Connection, submission: Submission) -> None:
            if registry.current(conn, image) != recipe.id:
                raise Conflict(f"the recipe of {image} was changed at this moment", hint="ask again")
            if answer is not None:
                answer(conn, submission)

        return self._submitter.ask(self.wanted(recipe, canonical), force=force, cause=cause, answer=answered)
