"""All of imageflow's own tables, for SQLite, PostgreSQL and MariaDB; TaskFlow's are in flowstore.

Times are seconds since the epoch (double). JSON columns hold text, so that all three databases
store and return exactly the same value. This module must stay cheap to import: no taskflow here,
and no option of MariaDB's, for which SQLAlchemy imports all of that dialect. Migrations make the tables, and have them.
"""

from __future__ import annotations

import sqlalchemy as sa

from imageflow.model import DeliveryState, PublicationState, PublicationWish, VersionState
from imageflow.persistence.columns import JsonText, LongText, Word

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}
metadata = sa.MetaData(naming_convention=NAMING)

builds = sa.Table(
    "builds",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String(12), nullable=False, unique=True),
    sa.Column("image", sa.String(255), nullable=False),
    sa.Column("method", sa.String(16), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("wish", sa.String(16)),
    sa.Column("key", sa.String(64), nullable=False),
    # The key again while this build holds it (active, or succeeded and its version still present):
    # the unique index is what makes two conductors that want the same thing make one build.
    sa.Column("claim", sa.String(64), unique=True),
    sa.Column("forced", sa.Boolean, nullable=False, default=False),
    sa.Column("reason", LongText, nullable=False),
    sa.Column("recipe", JsonText, nullable=False),
    sa.Column("folder", sa.Text, nullable=False),
    sa.Column("pins", JsonText, nullable=False),
    sa.Column("flow", sa.String(36), nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("started", sa.Double),
    sa.Column("ended", sa.Double),
    sa.Column("paused", sa.Double),
    sa.Column("deadline", sa.Double),
    sa.Column("conductor", sa.String(191)),
    sa.Column("host", sa.String(191)),
    sa.Column("step", sa.String(64)),
    sa.Column("error", LongText),
    sa.Column("hint", LongText),
    sa.Column("digest", sa.String(64)),
    sa.Index(None, "image", "seq"),
    sa.Index(None, "state", "seq"),
    sa.Index(None, "key"),
    sa.Index(None, "ended"),
)

steps = sa.Table(
    "steps",
    metadata,
    sa.Column("build_id", sa.String(12), sa.ForeignKey("builds.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("progress", sa.Double, nullable=False, default=0.0),
    sa.Column("message", sa.Text),
    sa.Column("started", sa.Double),
    sa.Column("ended", sa.Double),
    sa.Column("error", LongText),
    sa.Column("conductor", sa.String(191)),
    sa.Column("phases", JsonText),
)

versions = sa.Table(
    "versions",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("image", sa.String(255), nullable=False),
    sa.Column("build_id", sa.String(12), nullable=False, unique=True),
    sa.Column("key", sa.String(64), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("store", sa.String(64), nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("artifacts", JsonText, nullable=False),
    sa.Column("properties", JsonText, nullable=False),
    sa.Column("packages", sa.Integer),
    sa.Column("state", Word(VersionState), nullable=False),
    sa.Column("content", sa.String(64)),
    sa.Column("since", sa.Double),
    sa.Column("why", sa.Text),
    sa.Index(None, "state", "image", "id"),  # existing versions stay few, deleted ones grow for ever
    sa.Index(None, "digest"),
)

resources = sa.Table(
    "resources",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("build_id", sa.String(12), nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("name", sa.String(500), nullable=False),
    sa.Column("host", sa.String(191), nullable=False),
    sa.Column("opened", sa.Double, nullable=False),
    sa.Column("closed", sa.Double),
    sa.Column("error", LongText),
    sa.UniqueConstraint("build_id", "kind", "name", "host"),
    sa.Index(None, "closed", "host"),
)

conductors = sa.Table(
    "conductors",
    metadata,
    sa.Column("name", sa.String(191), primary_key=True),
    sa.Column("host", sa.String(191), nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("started", sa.Double, nullable=False),
    sa.Column("until", sa.Double, nullable=False),
    sa.Column("running", sa.Integer, nullable=False, default=0),
)

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("uuid", sa.String(36), nullable=False, unique=True),
    sa.Column("board", sa.String(64), nullable=False),
    sa.Column("name", sa.String(191), nullable=False, unique=True),  # the build's id: one job per build at most
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("details", JsonText, nullable=False),
    sa.Column("book", JsonText),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("owner", sa.String(191)),
    sa.Column("until", sa.Double, nullable=False, default=0.0),
    sa.Column("fence", sa.Integer, nullable=False, default=0),
    sa.Column("trashed", sa.Boolean, nullable=False, default=False),
    sa.Index(None, "board", "trashed", "priority", "seq"),
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("digest", sa.String(64), nullable=False, unique=True),  # of (source, id), which may be long
    sa.Column("proof", sa.String(64), unique=True),  # of a signature that holds no time: the same one again is a replay
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("type", sa.String(255), nullable=False),
    sa.Column("subject", sa.Text),
    sa.Column("time", sa.Double),
    sa.Column("data", JsonText),
    sa.Column("listener", sa.String(32), nullable=False),
    sa.Column("received", sa.Double, nullable=False),
    sa.Column("deliveries", sa.Integer, nullable=False, default=1),
    sa.Column("verdict", sa.String(16)),
    sa.Column("reason", LongText),
    sa.Column("size", sa.Integer, nullable=False, default=0),  # bytes of what its sender wrote
    sa.Index(None, "verdict", "seq"),
    sa.Index(None, "received"),
    sa.Index(None, "size"),  # the sum of all is asked for often
)

reactions = sa.Table(
    "reactions",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("event", sa.Integer, sa.ForeignKey("events.seq", ondelete="CASCADE"), nullable=False),
    sa.Column("image", sa.String(255), nullable=False),
    sa.Column("reason", LongText, nullable=False),
    sa.Column(
        "parent", sa.String(255)
    ),  # the image whose new version it is about: cut off when its content is the same
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("open", sa.Boolean, nullable=False, default=True),  # no outcome yet
    sa.Column("taken", sa.String(32)),  # by which look at its image: what came after the look is not answered by it
    sa.Column("outcome", sa.String(16)),
    sa.Column("build_id", sa.String(12)),
    sa.Column("detail", LongText),
    sa.UniqueConstraint("event", "image"),
    sa.Index(None, "image", "open"),
    sa.Index(None, "build_id"),
)

rebuilds = sa.Table(
    "rebuilds",
    metadata,
    sa.Column("image", sa.String(255), primary_key=True),
    sa.Column("open", sa.Boolean, nullable=False, default=True),
    sa.Column("asked", sa.Double, nullable=False),
    sa.Column("answered", sa.Double),
    sa.Column("held", LongText),
    sa.Column("forced", sa.Boolean, nullable=False, default=False),
    sa.Column("retry", sa.Double, nullable=False, default=0.0),  # not before: what it needs did not answer
    sa.Column("owner", sa.String(191)),  # who finds out what goes into it, for a while
    sa.Column("until", sa.Double, nullable=False, default=0.0),
    sa.Index(None, "open", "asked"),
)

recipes = sa.Table(
    "recipes",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("name", sa.String(191), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("images", JsonText, nullable=False),
    sa.Column("repository", JsonText),
    sa.Column("current", sa.Boolean, nullable=False, default=True),
    sa.UniqueConstraint("name", "version"),
    sa.Index(None, "current", "name"),
)

# The three below hold what the current recipes say, in a form that is quick to search.

recipe_images = sa.Table(
    "recipe_images",
    metadata,
    sa.Column("image", sa.String(255), primary_key=True),
    sa.Column("recipe_id", sa.Integer, sa.ForeignKey("recipes.id", ondelete="CASCADE"), nullable=False),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("published", sa.String(255), nullable=False),  # what others name it by: publish.name
    sa.Index(None, "recipe_id"),
    sa.Index(None, "published"),
)

lineage = sa.Table(
    "lineage",
    metadata,
    sa.Column("image", sa.String(255), primary_key=True),
    sa.Column("parent", sa.String(255), primary_key=True),
    sa.Index(None, "parent"),
)

triggers = sa.Table(
    "triggers",
    metadata,
    sa.Column("image", sa.String(255), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("type", sa.String(255), nullable=False),
    sa.Column("probe", sa.String(32), nullable=False),  # what an event that can match it is found by
    sa.Column("where", JsonText, nullable=False),
    sa.Column("given", JsonText, nullable=False),
    sa.Index(None, "probe"),
    sa.Index(None, "kind"),
    sa.Index(None, "type"),
)

# Recipe files, or folders of them, in followed git repositories.
origins = sa.Table(
    "origins",
    metadata,
    sa.Column("name", sa.String(191), primary_key=True),  # of its recipe; the recipes of a folder are NAME/STEM
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("ref", sa.Text, nullable=False),
    sa.Column("path", sa.Text, nullable=False),  # in the repository
    sa.Column("folder", sa.Boolean, nullable=False),
    sa.Column("head", sa.String(64), nullable=False),  # the commit that was registered, or refused, last
    sa.Column("generation", sa.Integer, nullable=False),  # grows with every change of this row's head or problems
    sa.Column("asked", sa.Integer, nullable=False, default=0),  # pushes that were told of
    sa.Column("looked", sa.Integer, nullable=False, default=0),  # and how many of them had been when it was last seen
    sa.Column("problems", JsonText, nullable=False),  # recipe ('': all of them) -> why its head is not registered
    sa.Column("trouble", LongText),  # why it can't be looked at
)

# What events said about an image's inputs, and is known from nowhere else: the pushed commit.
inputs = sa.Table(
    "inputs",
    metadata,
    sa.Column("image", sa.String(255), primary_key=True),
    sa.Column("name", sa.String(500), primary_key=True),  # of the pin
    sa.Column("value", sa.Text, nullable=False),
    sa.Column("event", sa.Integer, nullable=False),  # its seq
    sa.Column("rule", sa.String(64)),  # digest of the trigger that it was learnt by
)

observations = sa.Table(
    "observations",
    metadata,
    sa.Column("digest", sa.String(64), primary_key=True),  # of the name, which may be long
    sa.Column("name", sa.Text, nullable=False),  # what is watched
    sa.Column("value", LongText, nullable=False),  # as it was last seen
    sa.Column("time", sa.Double, nullable=False),
    sa.Index(None, "time"),
)

refusals = sa.Table(
    "refusals",
    metadata,
    sa.Column("endpoint", sa.String(64), primary_key=True),
    sa.Column("reason", sa.String(64), primary_key=True),
    sa.Column("count", sa.Integer, nullable=False, default=0),
    sa.Column("last", sa.Double, nullable=False),
)

outbox = sa.Table(
    "outbox",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String(36), nullable=False, unique=True),
    sa.Column("build_id", sa.String(12), nullable=False),  # what it is about: its announcements keep their order
    sa.Column("type", sa.String(64), nullable=False),  # imageflow.build.start, …
    sa.Column("time", sa.Double, nullable=False),
    sa.Column("data", JsonText, nullable=False),
    sa.Index(None, "build_id", "seq"),
)

deliveries = sa.Table(
    "deliveries",
    metadata,
    sa.Column("seq", sa.Integer, sa.ForeignKey("outbox.seq", ondelete="CASCADE"), primary_key=True),
    sa.Column("target", sa.String(64), primary_key=True),
    sa.Column("state", Word(DeliveryState), nullable=False),
    sa.Column("since", sa.Double, nullable=False),  # waits since then: it was made, or asked for again
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("next", sa.Double, nullable=False, default=0.0),  # not before
    sa.Column("owner", sa.String(191)),
    sa.Column("until", sa.Double, nullable=False, default=0.0),
    sa.Column("sent", sa.Double),
    sa.Column("error", LongText),
    sa.Index(None, "target", "state", "seq"),
)

# Where a version is published besides its store: one row per target, removed when the target no longer has it.
publications = sa.Table(
    "publications",
    metadata,
    sa.Column("version_id", sa.Integer, sa.ForeignKey("versions.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("target", sa.String(64), primary_key=True),
    sa.Column("wish", Word(PublicationWish), nullable=False),
    sa.Column("state", Word(PublicationState), nullable=False),
    sa.Column("path", sa.Text),  # where it is there, or was; none: it never got there
    sa.Column("error", LongText),
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("refused", sa.Integer, nullable=False, default=0),  # how many of them the target answered with a no
    sa.Column("next", sa.Double, nullable=False, default=0.0),  # not before
    sa.Column("owner", sa.String(191)),
    sa.Column("until", sa.Double, nullable=False, default=0.0),
    sa.Column("since", sa.Double, nullable=False),  # its wish was made, or asked for again
    sa.Column("done", sa.Double),  # when it got there
    sa.Index(None, "target", "state", "next"),
)

# What requests with an Idempotency-Key were answered: the same request again gets the same answer.
api_answers = sa.Table(
    "api_answers",
    metadata,
    sa.Column("project", sa.String(64), primary_key=True),
    sa.Column("name", sa.String(64), primary_key=True),  # SHA-256 of the key: it may be longer than an index takes
    sa.Column("request", sa.String(64), nullable=False),  # SHA-256 of what was asked
    sa.Column("location", sa.Text, nullable=False),
    sa.Column("body", LongText, nullable=False),
    sa.Column("created", sa.Double, nullable=False, index=True),
)

# Who asks for an image under a name of their own, and with that holds the version that the build made.
requests = sa.Table(
    "requests",
    metadata,
    sa.Column("project", sa.String(64), primary_key=True),
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("wanted", JsonText),  # the canonical want; none: the image was asked for by its name
    sa.Column("image", sa.String(255), nullable=False),
    sa.Column("policy", sa.String(16), nullable=False),
    sa.Column("user", JsonText, nullable=False),
    sa.Column("build_id", sa.String(12)),  # none: there is no version, and none may be built
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("changed", sa.Double, nullable=False),
    sa.Index(None, "build_id"),
)

# Builds of wants that no request names any more: their versions go after a while.
unheld = sa.Table(
    "unheld",
    metadata,
    sa.Column("build_id", sa.String(12), primary_key=True),
    sa.Column("since", sa.Double, nullable=False, index=True),
)

api_tokens = sa.Table(
    "api_tokens",
    metadata,
    sa.Column("id", sa.String(12), primary_key=True),
    sa.Column("name", sa.String(255), nullable=False),
    sa.Column("project", sa.String(64), nullable=False),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),  # SHA-256: the token itself is nowhere
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("expires", sa.Double),
    sa.Column("revoked", sa.Double),
    sa.Column("last_used", sa.Double),
)
