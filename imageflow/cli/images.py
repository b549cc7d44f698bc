"""`imageflow image …`: the versions in the store."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from imageflow.cli.command import Lister, ShowOne
from imageflow.cli.present import Age, Digest, LinesColumn, Optional, Pairs, Published, Size, size
from imageflow.model import VersionState

if TYPE_CHECKING:
    from imageflow.cli.app import App
    from imageflow.model import Publication, Version

REF = "IMAGE (its newest version), IMAGE@DIGEST or DIGEST; the first digits of a digest are enough"


class List(Lister):
    """List the image versions in the store, the newest first"""

    nothing = "no image versions"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("image", metavar="IMAGE", nargs="?", help="only versions of this image")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        with self.app.service() as service:
            versions = service.images.versions(parsed_args.image)
            targets: dict[int, dict[str, str]] = {version.id: {} for version in versions}
            for one in service.publications.select(image=parsed_args.image):
                if one.version_id in targets:
                    targets[one.version_id][one.target] = one.state
            published = bool(service.config.publish.targets) or any(targets.values())
        columns = ("image", "digest", "created", "size", "packages", "state", "build")
        rows: list[tuple[Any, ...]] = [
            (
                version.image,
                Digest(version.digest),
                Age(version.created),
                Size(version.artifacts[0].size if version.artifacts else None),
                Optional(version.packages),
                version.state,
                version.build_id,
            )
            for version in versions
        ]
        if not published:
            return columns, rows
        where = [(Published(targets[version.id]),) for version in versions]
        return (*columns, "targets"), [(*row, *more) for row, more in zip(rows, where, strict=True)]


class _OneVersion(ShowOne):
    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("ref", metavar="IMAGE", help=REF)
        return parser

    def describe(self, version: Version, **more: Any) -> tuple[Sequence[str], Iterable[Any]]:
        """All that is known about a version."""
        rows = {
            "image": version.image,
            "digest": version.digest,
            "state": version.state,
            "created": Age(version.created),
            "store": version.store,
            "path": version.path,
            "packages": Optional(version.packages),
            "content": Optional(version.content),
            "artifacts": LinesColumn(
                [
                    {name: getattr(artifact, name) for name in ("name", "format", "size", "digest", "virtual_size")}
                    for artifact in version.artifacts
                ],
                [f"{artifact.name}  {artifact.format}  {size(artifact.size)}" for artifact in version.artifacts],
            ),
            "properties": Pairs(dict(version.properties)),
            "build": version.build_id,
            "key": version.key,
        }
        if version.why is not None:
            rows |= {"since": Age(version.since), "why": version.why}
        return self.dict2columns(rows | more)


class Show(_OneVersion):
    """Show an image version: its files, where they are, and the build that made it"""

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        with self.app.service() as service:
            version = service.images.version(parsed_args.ref)
            build = service.build(version.build_id)
            publications = service.publications.of(version)
        from imageflow.cli.summary import boot_command

        more = {"targets": _targets(publications)} if publications else {}
        return self.describe(version, **more, boot=Optional(boot_command(build, version)))


def _targets(publications: Sequence[Publication]) -> LinesColumn:
    """Each target: its state, where the version is in it, and the error."""
    names = ("target", "state", "path", "attempts", "error")
    return LinesColumn(
        [{name: getattr(one, name) for name in names} for one in publications],
        [" ".join(filter(None, (f"{one.target}:", one.state, one.path, one.error))) for one in publications],
    )


class Verify(_OneVersion):
    """Read every byte of an image version and check it against its digest

    Exit code 1 when it is corrupt; it is never reused from then on.
    """

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        from imageflow.host.control import Control

        with self.app.service() as service, _Percent(self.app, "verifying") as percent:
            version = service.images.verify(parsed_args.ref, Control(), percent)
        return self.describe(version)


class Export(ShowOne):
    """Copy an image out of the store"""

    columns = ("image", "digest", "path", "size")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("ref", metavar="IMAGE", help=REF)
        parser.add_argument("to", metavar="PATH", type=_path, help="the file to write, or the folder to write it into")
        parser.add_argument("--artifact", metavar="NAME", help="this file of the version (default: the image itself)")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        from imageflow.host.control import Control

        with self.app.service() as service:
            version = service.images.version(parsed_args.ref)
            path = service.images.export(version.digest, parsed_args.to, parsed_args.artifact, Control())
        return self.dict2columns(
            {"image": version.image, "digest": version.digest, "path": str(path), "size": Size(path.stat().st_size)}
        )


class Delete(ShowOne):
    """Delete an image version from the store and from publication targets, unless a build uses it

    'imageflow serve' removes it from the targets, from one that is down as soon as it is back.
    """

    columns = ("image", "digest", "state")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("ref", metavar="IMAGE", help=REF)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        with self.app.service() as service:
            version = service.images.delete(parsed_args.ref)
        return self.dict2columns({"image": version.image, "digest": version.digest, "state": VersionState.DELETED})


def _path(text: str) -> Path:
    if not text:  # a script's variable that was not set
        raise argparse.ArgumentTypeError("an empty string is not a path")
    return Path(text)


class _Percent:
    """A counter on stderr, shown only on a terminal."""

    def __init__(self, app: App, word: str) -> None:
        self._out = app.stderr if app.stderr.isatty() else None
        self._word = word
        self._shown = -1

    def __call__(self, fraction: float) -> None:
        percent = int(fraction * 100)
        if self._out is not None and percent != self._shown:
            self._out.write(f"\r{self._word} {percent} %")
            self._out.flush()
            self._shown = percent

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._out is not None and self._shown >= 0:
            self._out.write("\r\033[K")
            self._out.flush()
