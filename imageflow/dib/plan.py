"""What a build's diskimage-builder run is made of, worked out anew from the recipe and its pins at each step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from imageflow import pins
from imageflow.config import Config
from imageflow.dib import blockdevice, command, configure, environment
from imageflow.dib.cache import Cache, bootstrap_key
from imageflow.errors import ConfigError, InputChanged, RecipeError
from imageflow.model import Build
from imageflow.pins import archives, elements
from imageflow.recipe import ImageRecipe
from imageflow.recipe.definition import elements as named_elements
from imageflow.workspace import Workspace

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
        """Raises ConfigError when diskimage-builder could not work in the build's work folder."""
        work = Workspace.of(build, config)
        if bad := elements.unusable_in(work.path):
            raise ConfigError(
                f"diskimage-builder can't work below {config.state_dir}: the path contains {bad!r}",
                hint="choose another state_dir",
            )
        return cls(build, config, ImageRecipe.from_json(build.recipe), work)

    @property
    def name(self) -> str:
        """How the files are called while diskimage-builder works."""
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
        """Raise InputChanged unless elements and files are still what they were pinned to."""
        try:
            now = pins.local(self.image, self.folder, self.config)
        except RecipeError as error:
            raise InputChanged(f"an input is gone: {error.message}") from error
        before = {name: pin for name, pin in self.build.pins.items() if name.startswith(("element:", "file:"))}
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
        """The environment, but for what caches and block devices add."""
        path = ":".join(map(str, self.search_path()))
        recipe_env = {
            name: value for name, value in self.image.dib.get("environment", {}).items() if isinstance(value, str)
        }
        mirrors = archives.mirrors(recipe_env, archives.family(self.elements())).environment()
        env = environment.for_dib(self.work, self.config, self.image.dib, mirrors, path, secret)
        return env | {name: secret(known) for name, known in configure.passwords(self.image.configure).items()}

    def block_devices(self, env: dict[str, str]) -> str | None:
        """A block-device configuration that works here, where the elements' own would not."""
        if blockdevice.has_device_mapper():
            return None
        arch = elements.architecture(self.image)
        return blockdevice.without_device_mapper(blockdevice.configuration(self.elements(), env, arch))

    def cache(self, env: dict[str, str]) -> Cache:
        """The caches for this run."""
        key = bootstrap_key(self.elements(), env, self.build.pins, elements.architecture(self.image))
        return Cache(self.config.cache_dir, self.work.cache, key)

    def archives_unchanged(self, env: dict[str, str]) -> bool:
        """Whether the archives are still what this build is pinned to."""
        suites = archives.suites(env, list(self.elements()), elements.architecture(self.image))
        return all(archives.digest(suite, env) == self.build.pins.get(name) for name, suite in suites.items())

    def shown_environment(self, env: dict[str, str]) -> dict[str, str]:
        """The DIB_* variables without secrets."""
        return environment.shown(env, environment.secret_names(self.image.dib))
