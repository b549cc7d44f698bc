"""The records that the layers exchange: frozen, plain, with the same words everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

Json = Mapping[str, Any]


class BuildState(StrEnum):
    """Where a build is in its life cycle."""

    QUEUED = "queued"  # waits for a conductor
    RUNNING = "running"  # a conductor holds it
    PAUSED = "paused"  # a step failed; everything finished is kept; no conductor holds it
    REVERTING = "reverting"  # everything it made is being removed
    SUCCEEDED = "succeeded"  # the image version is stored
    FAILED = "failed"  # a step failed and all was reverted (on_failure: revert)
    ABORTED = "aborted"  # given up by a user or by pause_ttl
    CANCELLED = "cancelled"  # stopped while running or queued
    SUPERSEDED = "superseded"  # never started: a newer event replaced it with a newer build

    @property
    def ended(self) -> bool:
        return self in ENDED


ENDED = frozenset(
    {BuildState.SUCCEEDED, BuildState.FAILED, BuildState.ABORTED, BuildState.CANCELLED, BuildState.SUPERSEDED}
)


class Wish(StrEnum):
    """What a build was asked to do; stored first, so that any conductor can finish it."""

    ABORT = "abort"  # revert everything, end as aborted
    CANCEL = "cancel"  # stop the running step, revert everything, end as cancelled
    REVERT = "revert"  # a step failed under on_failure: revert; end as failed

    @property
    def outcome(self) -> BuildState:
        """The state in which a build with this wish ends."""
        return _OUTCOMES[self]


_OUTCOMES = {Wish.ABORT: BuildState.ABORTED, Wish.CANCEL: BuildState.CANCELLED, Wish.REVERT: BuildState.FAILED}


class StepState(StrEnum):
    """The state of one step (a TaskFlow task of one build)."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REVERTING = "reverting"
    REVERTED = "reverted"
    REVERT_FAILED = "revert-failed"  # something is left over; the ledger lists it


class ResourceKind(StrEnum):
    """What could leak; the janitor knows how to remove each kind."""

    DIRECTORY = "directory"  # name: absolute path
    MOUNT = "mount"  # name: absolute path of the mount point
    LOOP = "loop"  # name: absolute path; every loop device backed by a file below it
    MACHINE = "machine"  # name: of a machine of the compute driver, 'BUILD-main'
    LAYERS = "layers"  # name: the build's id; the driver's layers that it holds, and its unfinished ones
    PUBLICATION = "publication"  # name: STORE:DIGEST of an image that no version owns yet


@dataclass(frozen=True, slots=True)
class Build:
    """One run that makes one image version."""

    id: str  # 12 hex digits; the names of everything it makes derive from it
    image: str
    method: str
    state: BuildState
    reason: str  # why it was built, in words for an operator
    key: str  # build key: SHA-256, 64 hex digits, over recipe + pins
    flow: str  # uuid of its TaskFlow flow detail
    created: float  # seconds since the epoch, like all times here
    seq: int = 0  # order of creation
    wish: Wish | None = None
    forced: bool = False
    recipe: Json = field(default_factory=dict)  # the canonical recipe of this image (recipe.ImageRecipe as JSON)
    folder: str = ""  # absolute folder of the recipe file; local inputs are relative to it
    pins: Json = field(default_factory=dict)  # name of input -> what it was pinned to
    started: float | None = None  # first time a step ran
    ended: float | None = None
    paused: float | None = None
    deadline: float | None = None  # when the build's own timeout expires
    conductor: str | None = None  # the conductor that runs it, or ran it last
    host: str | None = None  # where that conductor runs; the log is there
    error: str | None = None  # what went wrong, one line
    hint: str | None = None  # what to do about it
    digest: str | None = None  # of the image version it made
    step: str | None = None  # the running or failed step


@dataclass(frozen=True, slots=True)
class Step:
    """One execution (attempt) of one step of a build."""

    build_id: str
    name: str
    attempt: int  # 1, 2, …: a resume or a takeover runs a step again
    position: int  # in the flow, from 0
    state: StepState
    progress: float = 0.0  # 0 … 1
    message: str | None = None  # its current phase
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


class VersionState(StrEnum):
    """What is known about a version in its store."""

    STORED = "stored"
    CORRUPT = "corrupt"  # its bytes are not what was stored
    MISSING = "missing"  # the store lost it, or it was removed from outside
    DELETED = "deleted"  # deleted by us, for good


@dataclass(frozen=True, slots=True)
class Version:
    """One version of an image in a store."""

    id: int
    image: str
    build_id: str
    key: str
    digest: str  # of the primary artifact; names the version in the store
    created: float
    store: str  # name of the store driver
    path: str  # where the primary artifact is, in the store's terms
    artifacts: tuple[Artifact, ...] = ()
    properties: Json = field(default_factory=dict)
    packages: int | None = None
    state: VersionState = VersionState.STORED
    content: str | None = None  # content digest: SHA-256 over packages and normalised file tree; None: unknown
    since: float | None = None  # when it entered its state, unless that is its first
    why: str | None = None  # the reason for its state


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
    until: float  # its heartbeat is valid until then
    running: int = 0


class SubmissionVerdict(StrEnum):
    """The outcome of a request to build one image."""

    CREATED = "created"  # a new build
    JOINED = "joined"  # an unfinished build of the same inputs
    REUSED = "reused"  # an existing version


@dataclass(frozen=True, slots=True)
class Submission:
    """The answer to a request to build one image."""

    build: Build
    verdict: SubmissionVerdict
    reason: str
    version: Version | None = None  # when reused


class Verdict(StrEnum):
    """The outcome of an event; one without a verdict has not been examined yet."""

    MATCHED = "matched"  # a trigger of at least one image matched; its reactions have the outcomes
    NO_TRIGGER = "no trigger"  # no trigger waits for such an event
    SUPERSEDED = "superseded"  # every build that it requested was replaced by a newer one before it began
    QUARANTINED = "quarantined"  # unreadable; the reason says why


class Outcome(StrEnum):
    """The outcome of one image's reaction to one event; None: its rebuild is waiting."""

    CREATED = "created"  # a new build
    JOINED = "joined"  # a running build of the same inputs
    UNCHANGED = "unchanged"  # its base has a new version with the same content: the cascade stops here
    REUSED = "reused"  # no input of the image changed: its existing version stands
    SUPERSEDED = "superseded"  # its build was replaced by a newer one before it began
    REFUSED = "refused"  # the recipe can't be built as it stands; the reason says why
    DROPPED = "dropped"  # an operator's decision


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, as a CloudEvent; `(source, id)` names it."""

    source: str  # URI-reference of the sender, e.g. 'glance', 'https://github.com/acme/infra'
    id: str  # unique within the source
    type: str  # e.g. 'git.push', 'glance.image.activate'
    subject: str | None = None  # what it is about, e.g. an image's name or a ref
    time: float | None = None  # when it happened
    data: Any = None  # JSON
    # what the inbox adds
    seq: int = 0  # order of arrival
    listener: str = (
        ""  # the listener that received it: http, notifications, amqp, git, gerrit, schedule, watch, cli, imageflow
    )
    received: float = 0.0
    deliveries: int = 1  # how often it was delivered
    verdict: Verdict | None = None
    reason: str | None = None  # of the verdict


@dataclass(frozen=True, slots=True)
class Receipt:
    """The event is stored durably: only now may the sender get its acknowledgement."""

    event: Event
    new: bool  # False: it was already stored


@dataclass(frozen=True, slots=True)
class Reaction:
    """One image's answer to one event."""

    id: int
    event: int  # its seq
    image: str
    reason: str  # the trigger, and what it matched in the event
    created: float
    outcome: Outcome | None = None
    build_id: str | None = None
    detail: str | None = None  # details of the outcome, e.g. which pin changed
    parent: str | None = None  # the image whose new version it is about


@dataclass(frozen=True, slots=True)
class Rebuild:
    """An image that events want rebuilt, and that has no build for it yet."""

    image: str
    asked: float  # when it was first requested
    events: int  # number of events that requested it
    held: str | None = None  # why it waits, in words for an operator
    answered: float | None = None  # when the previous rebuild became a build, or was found unnecessary
    forced: bool = False  # released by an operator: waits for nothing


@dataclass(frozen=True, slots=True)
class Trigger:
    """A rule of an image: which events request a rebuild."""

    image: str
    position: int  # in the image's `on:` list, from 0
    kind: str  # event, image, schedule, git, watch
    type: str  # the event type it wants: exact, or a glob
    where: Json  # its condition over the event, canonical; {}: any event of the type
    given: Json  # the entry as in the recipe, canonical: what pollers read ('schedule', 'git', 'watch', …)


@dataclass(frozen=True, slots=True)
class Registered:
    """One version of a registered recipe."""

    id: int
    name: str
    version: int  # 1, 2, …
    digest: str  # SHA-256 of its images' canonical recipes
    path: str  # absolute path of the file it came from
    created: float
    images: tuple[Json, ...] = field(default=(), repr=False)  # canonical recipes; secrets are references
    repository: Json | None = None  # {"url", "ref", "path", "commit"} for a recipe that lives in git
    current: bool = True


@dataclass(frozen=True, slots=True)
class Origin:
    """A recipe file, or a folder of them, in a followed git repository."""

    name: str  # of its recipe; the recipes of a folder are NAME/STEM
    url: str
    ref: str  # in full: refs/heads/main
    path: str  # in the repository, '.' for all of it
    folder: bool
    head: str  # the last commit that was registered or refused
    generation: int = 1
    asked: int = 0  # pushes that were reported
    looked: int = 0  # how many of them had been reported when it was last fetched
    problems: Mapping[str, str] = field(default_factory=dict)  # recipe ('': all) -> why its head is not registered
    trouble: str | None = None  # why it can't be fetched


@dataclass(frozen=True, slots=True)
class Announcement:
    """Something that we announce, as kept in the outbox."""

    id: str  # a UUID: the same for every delivery
    build_id: str  # the build it is about; announcements of a build keep their order
    type: str  # imageflow.build.start, …
    time: float
    data: Json
    seq: int = 0  # order of creation


class DeliveryState(StrEnum):
    """How far the delivery of an announcement to one target is."""

    WAITING = "waiting"
    SENT = "sent"
    DEAD = "dead"  # given up, until an operator replays it


@dataclass(frozen=True, slots=True)
class Delivery:
    """One announcement on its way to one target."""

    announcement: Announcement
    target: str  # notifications, http, amqp
    state: DeliveryState
    since: float  # when it began to wait
    attempts: int = 0  # attempts that the target refused
    next: float = 0.0  # not before
    sent: float | None = None
    error: str | None = None  # of the last attempt


class PublicationWish(StrEnum):
    """What should happen to a version in a publication target."""

    STORED = "stored"
    REMOVED = "removed"  # the version was deleted here, and has to be deleted there, too


class PublicationState(StrEnum):
    """How far the publication is."""

    WAITING = "waiting"
    STORED = "stored"
    FAILED = "failed"  # given up, until it is requested again
    MISSING = "missing"  # it was deleted there from outside


@dataclass(frozen=True, slots=True)
class Publication:
    """One image version on its way to, or in, one publication target."""

    version_id: int
    image: str
    digest: str  # of the version
    build_id: str
    target: str
    wish: PublicationWish
    state: PublicationState
    since: float  # when its wish was set, or set again
    path: str | None = None  # where it is there, or was: an image's id, or a file
    error: str | None = None  # of the last attempt
    attempts: int = 0
    refused: int = 0  # how many attempts the target refused
    next: float = 0.0  # not before
    owner: str | None = None  # the publisher that works on it
    until: float = 0.0  # no other publisher takes it before this time
    done: float | None = None  # when it was published
