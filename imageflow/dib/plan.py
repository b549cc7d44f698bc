"""The parameters of a build's diskimage-builder run, derived from the recipe and its pins in each step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from imageflow import inputs
from imageflow.config import Config
from imageflow.dib import blockdevice, command, configure, environment
from imageflow.dib.cache import Cache, bootstrap_key
from imageflow.errors import ConfigError, InputChanged, RecipeError
from imageflow.fetch import guard
from imageflow.host.workspace import Workspace
from imageflow.inputs import archives, elements, pins
from imageflow.inputs.pins import Kind
from imageflow.model import Build
from imageflow.recipe import ImageRecipe
from imageflow.recipe.definition import elements as named_elements

MANIFEST_ELEMENT = "imageflow-manifest"


@dataclass(frozen=True, slots=True)
class DibPlan:
    """One build's run."""

    build: Build
    config: Config
    image: ImageRecipe
    work: Workspace

    @classmethod
    def of(cls, build: Build, config: Config) -> DibPlan:
        """The plan for a build; raises ConfigError when diskimage-builder can't work in its work folder."""
        work = Workspace.of(build, config)
        if bad := elements.unusable_in(work.path):
            raise ConfigError(
                f"diskimage-builder can't work below {config.state_dir}: the path contains {bad!r}",
                hint="choose another state_dir",
            )
        return cls(build, config, ImageRecipe.from_json(build.recipe), work)

    @property
    def name(self) -> str:
        """Base name of the files while diskimage-builder works."""
        return command.base_name(self.build.image)

    @property
    def folder(self) -> Path:
        return Path(self.build.folder)

    @property
    def outputs(self) -> list[str]:
        return list(self.image.outputs)

    def search_path(self) -> list[Path]:
        """Where elements are looked for, before diskimage-builder's own."""
        found = elements.search_path(self.image, self.folder, self.config)
        generated = [self.work.elements] if (self.work.elements / configure.NAME).is_dir() else []
        return [*generated, *(part for part in found if part != elements.stock_folder())]

    def elements(self) -> dict[str, Path]:
        """Every pinned element of the image with its folder."""
        return elements.used(self.image, elements.search_path(self.image, self.folder, self.config))

    def _added(self) -> list[str]:
        return [*([configure.NAME] if self.image.configure else []), MANIFEST_ELEMENT]

    def check_inputs(self) -> None:
        """Raise InputChanged unless elements and files still match their pins."""
        try:
            now = inputs.local(self.image, self.folder, self.config)
        except RecipeError as error:
            raise InputChanged(f"an input is gone: {error.message}") from error
        before = pins.select(self.build.pins, Kind.ELEMENT, Kind.FILE)
        if changed := sorted(name for name in now.keys() | before.keys() if now.get(name) != before.get(name)):
            shown = ", ".join(changed[:5])
            raise InputChanged(f"changed since the build was planned: {shown}{' …' if len(changed) > 5 else ''}")

    def argv(self) -> list[str]:
        """The command."""
        return command.argv_for(
            self.image.dib,
            name=self.name,
            folder=self.work.built,
            outputs=self.outputs,
            elements=[*named_elements(self.image.dib), *self._added()],
        )

    def environment(self, secret: Callable[[str], str]) -> dict[str, str]:
        """The environment without what caches and block devices add."""
        path = ":".join(map(str, self.search_path()))
        recipe_env = {
            name: value for name, value in self.image.dib.get("environment", {}).items() if isinstance(value, str)
        }
        mirrors = archives.mirrors(recipe_env, archives.family(self.elements())).environment()
        env = environment.for_dib(self.work, self.config, self.image.dib, mirrors, path, secret)
        return env | {name: secret(known) for name, known in configure.passwords(self.image.configure).items()}

    def block_devices(self, env: dict[str, str]) -> str | None:
        """A block-device configuration that works on this host; None when the elements' own does."""
        if blockdevice.has_device_mapper():
            return None
        arch = elements.architecture(self.image)
        return blockdevice.without_device_mapper(blockdevice.configuration(self.elements(), env, arch))

    def cache(self, env: dict[str, str]) -> Cache:
        """The caches for this run."""
        key = bootstrap_key(self.elements(), env, self.build.pins, elements.architecture(self.image))
        return Cache(self.config.cache_dir, self.work.cache, key)

    def archives_unchanged(self, env: dict[str, str]) -> bool:
        """Whether the archives still match this build's pins."""
        suites = archives.suites(env, list(self.elements()), elements.architecture(self.image))
        permitted = guard.policy(self.config)
        return all(
            archives.digest(suite, env, permitted) == self.build.pins.get(name) for name, suite in suites.items()
        )

    def shown_environment(self, env: dict[str, str]) -> dict[str, str]:
        """The DIB_* variables without secrets."""
        return environment.shown(env, environment.secret_names(self.image.dib))
