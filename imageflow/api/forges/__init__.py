"""The supported forges, one module each: how a delivery is verified, named and read."""

from __future__ import annotations

from imageflow.api.forges import bitbucket, generic, gerrit, gitea, github, gitlab
from imageflow.api.forges.delivery import Forge

FORGES: tuple[Forge, ...] = (
    github.GITHUB,
    gitlab.GITLAB,
    gitea.GITEA,
    gitea.FORGEJO,
    bitbucket.BITBUCKET,
    gerrit.GERRIT,
    generic.GENERIC,
)
