"""`imageflow build create`: request image versions, and with --wait follow their builds."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from imageflow.cli.builds import ways_in
from imageflow.cli.command import TextLister
from imageflow.cli.present import Clipped, Digest, Optional
from imageflow.cli.recipes import add_recipe_arguments
from imageflow.cli.summary import outcome_lines
from imageflow.errors import Refused
from imageflow.model import BuildState

if TYPE_CHECKING:
    from imageflow.model import Build, Submission, Version
    from imageflow.recipe import ImageRecipe
    from imageflow.service import Service


class Create(TextLister):
    """Build the images of a recipe: built versions are reused, running builds are joined

    Prints one row for each image, always as a list, with -f json too. With --wait the rows are the
    final ones, and the exit code is 0 when all images are built, 1 when a build failed, 3 when one is paused.
    """

    columns = ("id", "image", "state", "reason", "digest", "path", "verdict")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        add_recipe_arguments(parser)
        parser.add_argument(
            "--wait", action="store_true", help="wait until all is done; builds here if nothing is serving"
        )
        parser.add_argument("--force", action="store_true", help="build even if the same version exists")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        from imageflow import recipe
        from imageflow.builds.wanted import bases

        # Loaded once: a base and the images made from it must come from the same recipe.
        loaded = recipe.load(parsed_args.file, dict(parsed_args.settings), parsed_args.images)
        left = list(bases(loaded.pick(parsed_args.images)))
        self._results = []
        self._logins: dict[str, list[str]] = {}
        with self.app.service(builds=parsed_args.wait) as service:
            if parsed_args.wait:
                _require_root(service, [image for image in loaded.images if image.name in left])
            while left:
                submissions = service.submit(loaded, left, force=parsed_args.force)
                builds = self._follow(service, [submission.build for submission in submissions], parsed_args.wait)
                self._results += [
                    (submission, build, _version(service, submission, build))
                    for submission, build in zip(submissions, builds, strict=True)
                ]
                self._logins |= {build.id: ways_in(service, build) for build in builds}
                left = [name for name in left if name not in {submission.build.image for submission in submissions}]
                if left and (self.exit_code or any(build.state is not BuildState.SUCCEEDED for build in builds)):
                    self._tell_of(left, parsed_args.wait)
                    break
        return self.columns, [_row(*result) for result in self._results]

    def _follow(self, service: Service, builds: list[Build], wait: bool) -> list[Build]:
        if wait:
            return self._see_through(service, builds)
        if any(build.state is BuildState.PAUSED for build in builds):
            self.exit_code = 3  # joined, and it does not continue by itself
        elif any(build.state is BuildState.QUEUED for build in builds):
            from imageflow.cli.wait import tell_if_nothing_serves

            tell_if_nothing_serves(self.app, service)
        return builds

    def _tell_of(self, left: Sequence[str], waited: bool) -> None:
        """Report the images that could not be requested yet."""
        names = ", ".join(left)
        if waited:
            self.app.note(f"imageflow: not built: {names}: the base image is not finished")
        else:
            self.app.note(f"imageflow: not requested yet: {names}: the base image is not built")
            self.app.note("(give the same command again then, or now with --wait)")

    def _see_through(self, service: Service, builds: list[Build]) -> list[Build]:
        if all(build.state is BuildState.SUCCEEDED for build in builds):
            return builds
        from imageflow.cli.wait import exit_code, see_through

        builds = see_through(self.app, service, builds)
        self.exit_code = exit_code(builds)
        return builds

    def text(self) -> Iterable[str]:
        for submission, build, version in self._results:
            logins = self._logins[build.id]
            yield from outcome_lines(build, version, submission.verdict, submission.reason, logins)


def _require_root(service: Service, images: Sequence[ImageRecipe]) -> None:
    """Raise Refused for what this process would begin, and could not build; what was built elsewhere may be reused."""
    refused = service.dib_refused()
    made = [image.name for image in images if image.method == "dib"]
    if refused is None or not made or service.conductors():  # the last one opens the database: not for a wrong recipe
        return
    if names := [name for name in made if not service.images.versions(name)]:
        raise Refused(f"{', '.join(names)}: {refused.message}", hint=refused.hint)


def _version(service: Service, submission: Submission, build: Build) -> Version | None:
    if submission.version is not None or build.state is not BuildState.SUCCEEDED:
        return submission.version
    return service.images.made_by(build.id)


def _row(submission: Submission, build: Build, version: Version | None) -> tuple[Any, ...]:
    return (
        build.id,
        build.image,
        str(build.state),
        Clipped(submission.reason),
        Digest(version.digest if version else build.digest),
        Optional(version.path if version else None),
        submission.verdict,
    )
