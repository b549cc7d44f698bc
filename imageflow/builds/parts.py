"""The parts of imageflow that submitting and running builds use; the service provides all of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from imageflow.compute import Compute
from imageflow.config import Config
from imageflow.host.control import Control
from imageflow.persistence.database import Database
from imageflow.stores import Store

if TYPE_CHECKING:
    from imageflow.images.catalogue import Catalogue
    from imageflow.persistence.flowstore import FlowStore
    from imageflow.persistence.jobboard import SqlJobBoard


class Checkouts(Protocol):
    """The local files of recipes that live in git."""

    def ensure(self, folder: Path, control: Control) -> None:
        """Fetch the folder of a build's recipe if it belongs to a checkout. Raises Unavailable, Refused."""


class Parts(Protocol):
    """Each is opened at first use: a refused recipe leaves no trace."""

    @property
    def config(self) -> Config: ...
    @property
    def database(self) -> Database: ...
    @property
    def store(self) -> Store: ...
    @property
    def compute(self) -> Compute: ...
    @property
    def images(self) -> Catalogue: ...
    @property
    def checkouts(self) -> Checkouts: ...
    @property
    def flows(self) -> FlowStore: ...
    @property
    def board(self) -> SqlJobBoard: ...
