"""The records that the layers hand to each other: frozen, plain, and the same words everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

Json = Mapping[str, Any]


class BuildState(StrEnum):
    """Where a build is in its life."""

    QUEUED = "queued"  # waits for a conductor
    RUNNING = "running"  # a conductor holds it
    PAUSED = "paused"  # a step failed; everything finished is kept; holds no conductor
    REVERTING = "reverting"  # everything it made is being removed
    SUCCEEDED = "succeeded"  # the image version is stored
    FAILED = "failed"  # a step failed and all was reverted (on_failure: revert)
    ABORTED = "aborted"  # somebody, or pause_ttl, gave it up
    CANCELLED = "cancelled"  # stopped while it was running or queued
    SUPERSEDED = "superseded"  # never begun: a newer event asked for a newer one in its place

    @property
    def ended(self) -> bool:
        return self in ENDED


ENDED = frozenset(
    {BuildState.SUCCEEDED, BuildState.FAILED, BuildState.ABORTED, BuildState.CANCELLED, BuildState.SUPERSEDED}
)


class Wish(StrEnum):
    """What a build was asked to do; stored first, so that any worker can finish it."""

    ABORT = "abort"  # revert everything, end as aborted
    CANCEL = "cancel"  # stop the running step, revert everything, end as cancelled
    REVERT = "revert"  # a step failed under on_failure: revert; end as failed

    @property
    def outcome(self) -> BuildState:
        """The state that a build with this wish ends in."""
        return _OUTCOMES[self]


_OUTCOMES = {
    Wish.ABORT: BuildState.ABORTED,
    Wish.CANCEL: BuildState.CANCELLED,
    Wish.REVERT: BuildState.FAILED,
}


class StepState(StrEnum):
    """Where one step (a TaskFlow task of one build) is."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REVERTING = "reverting"
    REVERTED = "reverted"
    REVERT_FAILED = "revert-failed"  # something is left; the ledger knows what


class ResourceKind(StrEnum):
    """What could leak; the janitor knows how to remove each."""

    DIRECTORY = "directory"  # name: absolute path
    MOUNT = "mount"  # name: absolute path of the mount point
    LOOP = "loop"  # name: absolute path; every loop device backed by a file below it
    MACHINE = "machine"  # name: of a machine of the compute driver, 'BUILD-main'
    LAYERS = "layers"  # name: the build's id; what it holds of the compute driver's layers, and its half-made ones
    PUBLICATION = "publication"  # name: STORE:DIGEST of an image that no version owns yet


@dataclass(frozen=True, slots=True)
class Build:
    """One run that makes one image version."""

    id: str  # 12 hex digits; the names of all it makes derive from it
    image: str
    method: str
    state: BuildState
    reason: str  # why it was built, in words an operator understands
    key: str  # build key: SHA-256, 64 hex digits, over recipe + pins
    flow: str  # uuid of its TaskFlow flow detail
    created: float  # seconds since the epoch, as all times here
    seq: int = 0  # order of creation
    wish: Wish | None = None
    forced: bool = False
    recipe: Json = field(default_factory=dict)  # the canonical recipe of this image (recipe.ImageRecipe as JSON)
    folder: str = ""  # absolute folder of the recipe file; local inputs are relative to it
    pins: Json = field(default_factory=dict)  # name of input -> what it was pinned to
    started: float | None = None  # first time a step ran
    ended: float | None = None
    paused: float | None = None
    deadline: float | None = None  # when the build's own timeout is over
    conductor: str | None = None  # who runs it, or ran it last
    host: str | None = None  # where that conductor runs; the log is there
    error: str | None = None  # what went wrong, one line
    hint: str | None = None  # what to do about it
    digest: str | None = None  # of the image version it made
    step: str | None = None  # the step that runs, or failed


@dataclass(frozen=True, slots=True)
class Step:
    """One execution (attempt) of one step of a build."""

    build_id: str
    name: str
    attempt: int  # 1, 2, … : a resume or a takeover runs a step again
    position: int  # in the flow, from 0
    state: StepState
    progress: float = 0.0  # 0 … 1
    message: str | None = None  # the phase it is in
    started: float | None = None
    ended: float | None = None
    error: str | None = None
    conductor: str | None = None
    phases: tuple[tuple[str, float], ...] = ()  # (phase, seconds after the step's start)


@dataclass(frozen=True, slots=True)
class Artifact:
    """One file of an image version."""

    name: str  # file name in the store, e.g. 'debian.qcow2'
    format: str  # qcow2, raw, tar, tgz, squashfs, vhd, kernel, initrd, manifest
    size: int  # bytes on disk as stored (compressed)
    digest: str  # SHA-256 of the file as stored
    virtual_size: int | None = None  # bytes, for disk formats


@dataclass(frozen=True, slots=True)
class Version:
    """One version of an image, as it lies in a store."""

    id: int
    image: str
    build_id: str
    key: str
    digest: str  # of the primary artifact; names the version in the store
    created: float
    store: str  # name of the store driver
    path: str  # where the primary artifact is, as the store says it
    artifacts: tuple[Artifact, ...] = ()
    properties: Json = field(default_factory=dict)
    packages: int | None = None
    state: str = "stored"  # stored, corrupt, missing (its store lost it, or somebody took it away), deleted
    content: str | None = None  # content digest: SHA-256 over packages and normalised file tree; None: not known
    since: float | None = None  # when it came into its state, where that is not its first
    why: str | None = None  # and what happened


@dataclass(frozen=True, slots=True)
class Resource:
    """A row of the ledger: something a build made, or was about to make."""

    id: int
    build_id: str
    kind: ResourceKind
    name: str
    host: str
    opened: float
    closed: float | None = None
    error: str | None = None  # why the last removal failed


@dataclass(frozen=True, slots=True)
class Conductor:
    """A process that claims builds."""

    name: str
    host: str
    pid: int
    started: float
    until: float  # its heartbeat is good until then
    running: int = 0


@dataclass(frozen=True, slots=True)
class Submission:
    """What became of a request to build one image."""

    build: Build
    verdict: str  # created, joined, reused
    reason: str
    version: Version | None = None  # when reused


class Verdict(StrEnum):
    """What became of an event; one that has none yet is still to be looked at."""

    MATCHED = "matched"  # a trigger of at least one image wanted it; its reactions say what came of that
    NO_TRIGGER = "no trigger"  # nothing waits for such an event
    SUPERSEDED = "superseded"  # every build that it asked for was replaced by a newer one before it began
    QUARANTINED = "quarantined"  # nobody could read it; the reason says why


class Outcome(StrEnum):
    """What came of one image's reaction to one event; none yet: its rebuild waits."""

    CREATED = "created"  # a build
    JOINED = "joined"  # the build of the same inputs that runs already
    UNCHANGED = "unchanged"  # its base has a new version with the same content: the cascade stops here
    REUSED = "reused"  # nothing that goes into the image changed: the version that is there stands
    SUPERSEDED = "superseded"  # its build was replaced by a newer one before it began
    REFUSED = "refused"  # the recipe can't be built as it is; the reason says why
    DROPPED = "dropped"  # an operator's decision


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, as a CloudEvent; `(source, id)` names it."""

    source: str  # URI-reference of who says it, e.g. 'glance', 'https://github.com/acme/infra'
    id: str  # unique within the source
    type: str  # e.g. 'git.push', 'glance.image.activate'
    subject: str | None = None  # what it is about, e.g. an image's name or a ref
    time: float | None = None  # when it happened
    data: Any = None  # JSON
    # what the inbox adds
    seq: int = 0  # order of arrival
    listener: str = ""  # who received it: http, notifications, amqp, git, gerrit, schedule, watch, cli, imageflow
    received: float = 0.0
    deliveries: int = 1  # how often it came
    verdict: Verdict | None = None
    reason: str | None = None  # of the verdict


@dataclass(frozen=True, slots=True)
class Receipt:
    """The inbox has it, durably: only now may the sender be told so."""

    event: Event
    new: bool  # False: it was there already


@dataclass(frozen=True, slots=True)
class Reaction:
    """One image's answer to one event."""

    id: int
    event: int  # its seq
    image: str
    reason: str  # which trigger, and what of the event it wanted
    created: float
    outcome: Outcome | None = None
    build_id: str | None = None
    detail: str | None = None  # of the outcome, e.g. which pin changed
    parent: str | None = None  # the image whose new version it is about


@dataclass(frozen=True, slots=True)
class Rebuild:
    """An image that events asked to be built again, and that is not a build yet."""

    image: str
    asked: float  # since when
    events: int  # how many asked
    held: str | None = None  # why it waits, in words an operator understands
    answered: float | None = None  # when the one before became a build, or was found unnecessary
    forced: bool = False  # released by an operator: waits for nobody


@dataclass(frozen=True, slots=True)
class Trigger:
    """A rule of an image: which events ask for a rebuild."""

    image: str
    position: int  # in the image's `on:` list, from 0
    kind: str  # event, image, schedule, git, watch
    type: str  # the event type it wants: exact, or a glob
    where: Json  # its condition over the event, canonical; {}: any event of the type
    given: Json  # the entry as the recipe has it, canonical: what pollers read ('schedule', 'git', 'watch', …)


@dataclass(frozen=True, slots=True)
class Registered:
    """One version of a registered recipe."""

    id: int
    name: str
    version: int  # 1, 2, …
    digest: str  # SHA-256 of its images' canonical recipes
    path: str  # of the file it came from, absolute
    created: float
    images: tuple[Json, ...] = field(default=(), repr=False)  # canonical recipes; secrets are references
    repository: Json | None = None  # {"url", "ref", "path", "commit"}: of a recipe that lives in git
    current: bool = True


@dataclass(frozen=True, slots=True)
class Origin:
    """A recipe file, or a folder of them, in a git repository that is followed."""

    name: str  # of its recipe; the recipes of a folder are NAME/STEM
    url: str
    ref: str  # whole: refs/heads/main
    path: str  # in the repository, '.' for all of it
    folder: bool
    head: str  # the commit that was registered, or refused, last
    generation: int = 1
    asked: int = 0  # pushes that were told of
    looked: int = 0  # and how many of them had been when it was last seen
    problems: Mapping[str, str] = field(default_factory=dict)  # recipe ('': all) -> why its head is not registered
    trouble: str | None = None  # why it can't be looked at


@dataclass(frozen=True, slots=True)
class Announcement:
    """Something that we tell others, as it is kept in the outbox."""

    id: str  # a UUID: the same one however often it is sent
    build_id: str  # what it is about; its announcements keep their order
    type: str  # imageflow.build.start, …
    time: float
    data: Json
    seq: int = 0  # order of creation


@dataclass(frozen=True, slots=True)
class Delivery:
    """One announcement on its way to one target."""

    announcement: Announcement
    target: str  # notifications, http, amqp
    state: str  # waiting, sent, dead
    since: float  # waits since then
    attempts: int = 0  # that the target answered with a no
    next: float = 0.0  # not before
    sent: float | None = None
    error: str | None = None  # of the last attempt


@dataclass(frozen=True, slots=True)
class Publication:
    """One image version on its way to, or in, one publication target."""

    version_id: int
    image: str
    digest: str  # of the version
    build_id: str
    target: str
    wish: str  # stored; removed: the version was deleted here, and goes there, too
    state: str  # waiting, stored, failed (given up until it is asked for again), missing (somebody deleted it there)
    since: float  # its wish was made, or asked for again
    path: str | None = None  # where it is there, or was: an image's id, or a file
    error: str | None = None  # of the last attempt
    attempts: int = 0
    refused: int = 0  # how many of them the target answered with a no
    next: float = 0.0  # not before
    owner: str | None = None  # who works on it
    until: float = 0.0  # nobody else does before
    done: float | None = None  # when it got there
