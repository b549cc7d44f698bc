"""The options of listeners, the HTTP API, triggers and announcements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from oslo_config import cfg

DAY = 86400.0

LISTENERS: list[cfg.Opt] = [
    cfg.ListOpt(
        "enabled",
        default=["http", "schedule", "git", "watch"],
        help="What 'imageflow serve' listens to: http, schedule, git, watch, notifications, amqp, gerrit.",
    ),
]
EVENTS: list[cfg.Opt] = [
    cfg.FloatOpt("retention", default=30 * DAY, min=0.0, help="Seconds that an event is kept after its verdict."),
    cfg.FloatOpt(
        "proofs",
        default=730 * DAY,
        min=0.0,
        help="Seconds that the signature of a webhook is remembered, so that the same delivery is no news after "
        "'retention' either; and where each ref was. Change the secrets of webhooks more often than that.",
    ),
    cfg.FloatOpt(
        "max_size",
        default=2.0,
        min=0.01,
        help="GiB of all events together. When more come, the oldest that wait for nothing are removed before their time; "
        "when all wait, further ones are answered 503, or stay in the broker.",
    ),
    cfg.IntOpt("max_count", default=1_000_000, min=100, help="How many events are kept, in the same way."),
    cfg.IntOpt("max_proofs", default=1_000_000, min=1, help="How many signatures are remembered, the newest ones."),
    cfg.IntOpt("max_refs", default=100_000, min=1, help="Of how many refs it is remembered where they were."),
    cfg.StrOpt(
        "token",
        secret=True,
        help="Bearer token required by POST /v1/events; by default one that is made at first use, in the file events-token "
        "of state_dir: 'imageflow event token' prints it.",
    ),
]
TRIGGERS: list[cfg.Opt] = [
    cfg.FloatOpt(
        "debounce",
        default=30.0,
        min=0.0,
        help="Seconds after a rebuild of an image in which further events for it are collected into one more rebuild.",
    ),
    cfg.IntOpt(
        "max_per_minute",
        default=30,
        min=1,
        help="Builds that events may start per minute; further ones wait, none is lost.",
    ),
    cfg.FloatOpt(
        "reconcile",
        default=900.0,
        min=1.0,
        help="Seconds between two checks for missed changes: bases, refs, schedules.",
    ),
]
API: list[cfg.Opt] = [
    cfg.StrOpt("listen", default="127.0.0.1:8780", help="HOST:PORT of the http listener; port 0: any free one."),
    cfg.IntOpt("max_body", default=5120, min=1, help="Largest body of a request in KiB."),
    cfg.StrOpt("rate", default="600/minute", help="Requests that one client may send; further ones are answered 429."),
    cfg.FloatOpt(
        "timeout",
        default=30.0,
        min=0.1,
        help="Seconds that a client may take to send a request; it is left sooner when it stands still.",
    ),
    cfg.StrOpt(
        "project",
        default="default",
        help="The project that the builds and images here belong to: a token's, or the id of one of keystone's.",
    ),
    cfg.ListOpt(
        "trusted_proxies",
        default=[],
        help="Addresses and networks of proxies whose X-Forwarded-For is believed: then limits count for each of their "
        "clients. A proxy that is not named counts as one client.",
    ),
    cfg.StrOpt(
        "auth",
        default="token",
        choices=[
            ("token", "tokens of 'imageflow token create'"),
            (
                "keystone",
                "tokens of keystone, which [keystone_authtoken] leads to, and those of 'imageflow token create'",
            ),
        ],
        help="What proves who sends a request. What each role may do: policy.yaml, or [oslo_policy] policy_file.",
    ),
]
WEBHOOKS: list[cfg.Opt] = [
    cfg.StrOpt(f"{forge}_{kind}", secret=True, help=f"{title}; without it /v1/webhooks/{forge} answers 403.")
    for forge, kind, title in (
        ("github", "secret", "Secret of GitHub's webhooks"),
        ("gitlab", "token", "Secret token, or signing token (whsec_…), of GitLab's webhooks"),
        ("gitea", "secret", "Secret of Gitea's webhooks"),
        ("forgejo", "secret", "Secret of Forgejo's webhooks"),
        ("bitbucket", "secret", "Secret of Bitbucket's webhooks"),
        ("gerrit", "token", "Token that Gerrit's webhooks plugin sends"),
        ("generic", "secret", "Secret (whsec_… or plain) of webhooks signed as standardwebhooks.com specifies"),
    )
]
NOTIFICATIONS: list[cfg.Opt] = [
    cfg.StrOpt(
        "transport_url", secret=True, help="oslo.messaging's URL of the bus, rabbit://USER:PASSWORD@HOST:PORT/."
    ),
    cfg.ListOpt("exchanges", default=["glance", "nova"], help="One per service: its control_exchange."),
    cfg.ListOpt(
        "topics", default=["notifications", "versioned_notifications"], help="Topics that the services send to."
    ),
    cfg.StrOpt("pool", default="imageflow", help="Name of our own queues: other consumers still get every message."),
    cfg.BoolOpt(
        "durable", default=False, help="Queues outlive the broker; must match the services' amqp_durable_queues."
    ),
    cfg.IntOpt("prefetch", default=32, min=1, help="Messages that are taken at once."),
    cfg.ListOpt(
        "ignore",
        default=[
            "image.send",
            "image.prepare",
            "instance.exists",
            "instance.update",
            "compute.instance.exists",
            "compute.instance.update",
            "*metrics.update",
            "scheduler.*",
        ],
        help="Event types, exact or as globs, that are too frequent and not useful: they are not kept.",
    ),
]
AMQP: list[cfg.Opt] = [
    cfg.StrOpt(
        "url", secret=True, help="kombu's URL of the broker for CloudEvents, amqp://USER:PASSWORD@HOST:PORT/VHOST."
    ),
    cfg.StrOpt(
        "exchange", default="imageflow.events", help="Topic exchange that CloudEvents are published to; empty: none."
    ),
    cfg.StrOpt("queue", default="imageflow.events", help="Our queue."),
    cfg.ListOpt("routing_keys", default=["#"], help="Routing keys of the messages for our queue."),
    cfg.BoolOpt("durable", default=True, help="Exchange and queue outlive the broker."),
    cfg.DictOpt(
        "transport_options",
        default={},
        help="NAME:VALUE,… for kombu's transport, e.g. data_folder_in:/DIR,data_folder_out:/DIR of 'filesystem'.",
    ),
    cfg.IntOpt("prefetch", default=32, min=1, help="Messages that are taken at once."),
]
GIT: list[cfg.Opt] = [
    cfg.FloatOpt("every", default=300.0, min=1.0, help="Seconds between two looks at a repository's refs."),
    cfg.FloatOpt("timeout", default=60.0, min=1.0, help="Seconds that git may take to answer."),
    cfg.FloatOpt(
        "fetch_timeout", default=600.0, min=1.0, help="Seconds that fetching a repository with recipes may take."
    ),
    cfg.FloatOpt(
        "max_size", default=4.0, min=0.001, help="GiB of one checkout of a repository, with what is fetched for it."
    ),
]
GERRIT: list[cfg.Opt] = [
    cfg.StrOpt("host", help="Gerrit's host, for stream-events over SSH."),
    cfg.PortOpt("port", default=29418, help="Its SSH port."),
    cfg.StrOpt("user", help="User to log in as."),
    cfg.StrOpt("key", help="Private key file."),
    cfg.StrOpt("known_hosts", help="File with Gerrit's host key; the user's own by default."),
]
WATCH: list[cfg.Opt] = [
    cfg.FloatOpt("every", default=60.0, min=1.0, help="Seconds between two looks at files, folders and URLs."),
]
ANNOUNCE: list[cfg.Opt] = [
    cfg.ListOpt("targets", default=[], help="Where announcements go: notifications, http, amqp."),
    cfg.StrOpt(
        "transport_url",
        secret=True,
        help="oslo.messaging's URL for notifications; [notifications] transport_url by default.",
    ),
    cfg.StrOpt("exchange", default="imageflow", help="Exchange of our notifications."),
    cfg.StrOpt("topic", default="notifications", help="Topic of our notifications."),
    cfg.BoolOpt(
        "durable",
        default=False,
        help="Queues of our notifications outlive the broker; must match the consumers' setting.",
    ),
    cfg.StrOpt("http_url", help="URL to which CloudEvents are posted."),
    cfg.StrOpt(
        "http_secret", secret=True, help="Secret that signs them as standardwebhooks.com specifies (whsec_… or plain)."
    ),
    cfg.StrOpt("amqp_url", secret=True, help="kombu's URL for CloudEvents over AMQP; [amqp] url by default."),
    cfg.StrOpt("amqp_exchange", default="imageflow", help="Topic exchange for them; the routing key is their type."),
    cfg.StrOpt(
        "source",
        help="Source of our CloudEvents: //HOST/imageflow by default. Use the same one on all hosts that share a database.",
    ),
    cfg.BoolOpt(
        "cdevents", default=True, help="Also send CDEvents (cdevents.dev) to the targets that take CloudEvents."
    ),
    cfg.FloatOpt("timeout", default=10.0, min=0.1, help="Seconds that a target may take to connect and to answer."),
    cfg.FloatOpt("max_wait", default=60.0, min=0.1, help="Longest wait in seconds between two attempts."),
    cfg.FloatOpt(
        "give_up", default=3 * DAY, min=1.0, help="Seconds after which an announcement goes to the dead letters."
    ),
    cfg.FloatOpt(
        "retention",
        default=7 * DAY,
        min=0.0,
        help="Seconds that an announcement is kept after it was sent to all targets.",
    ),
    cfg.FloatOpt(
        "dead_letters",
        default=30 * DAY,
        min=0.0,
        help="Seconds after 'give_up' that an announcement that could not be sent is kept, for 'imageflow outbox replay'.",
    ),
]

OPTIONS: list[tuple[str, list[cfg.Opt]]] = [
    ("listeners", LISTENERS),
    ("events", EVENTS),
    ("triggers", TRIGGERS),
    ("api", API),
    ("webhooks", WEBHOOKS),
    ("notifications", NOTIFICATIONS),
    ("amqp", AMQP),
    ("git", GIT),
    ("gerrit", GERRIT),
    ("watch", WATCH),
    ("announce", ANNOUNCE),
]


@dataclass(frozen=True, slots=True)
class EventsConfig:
    """The inbox."""

    retention: float
    proofs: float
    max_size: float  # GiB
    max_count: int
    max_proofs: int
    max_refs: int
    token: str | None


@dataclass(frozen=True, slots=True)
class TriggersConfig:
    """From events to builds."""

    debounce: float
    max_per_minute: int
    reconcile: float


@dataclass(frozen=True, slots=True)
class ApiConfig:
    """The HTTP listener."""

    listen: str  # HOST:PORT
    max_body: int  # KiB
    rate: str  # of the library 'limits'
    timeout: float  # seconds
    trusted_proxies: tuple[str, ...]
    project: str  # whose builds and images these are
    auth: str  # token or keystone


@dataclass(frozen=True, slots=True)
class WebhooksConfig:
    """The secret of each forge; None: its endpoint is closed."""

    github_secret: str | None
    gitlab_token: str | None
    gitea_secret: str | None
    forgejo_secret: str | None
    bitbucket_secret: str | None
    gerrit_token: str | None
    generic_secret: str | None


@dataclass(frozen=True, slots=True)
class NotificationsConfig:
    """The listener of oslo.messaging notifications."""

    transport_url: str | None
    exchanges: tuple[str, ...]
    topics: tuple[str, ...]
    pool: str
    durable: bool
    prefetch: int
    ignore: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AmqpConfig:
    """The listener of CloudEvents over AMQP."""

    url: str | None
    exchange: str
    queue: str
    routing_keys: tuple[str, ...]
    durable: bool
    transport_options: Mapping[str, str]
    prefetch: int


@dataclass(frozen=True, slots=True)
class GitConfig:
    """The poller of refs, and recipes in repositories; seconds."""

    every: float
    timeout: float
    fetch_timeout: float
    max_size: float  # GiB


@dataclass(frozen=True, slots=True)
class GerritConfig:
    """The listener of Gerrit's stream-events."""

    host: str | None
    port: int
    user: str | None
    key: str | None
    known_hosts: str | None


@dataclass(frozen=True, slots=True)
class WatchConfig:
    """The watcher of files, folders and URLs."""

    every: float  # seconds


@dataclass(frozen=True, slots=True)
class AnnounceConfig:
    """Announcements; see the options' help."""

    targets: tuple[str, ...]
    transport_url: str | None
    exchange: str
    topic: str
    durable: bool
    http_url: str | None
    http_secret: str | None
    amqp_url: str | None
    amqp_exchange: str
    source: str | None
    cdevents: bool
    timeout: float
    max_wait: float
    give_up: float
    retention: float
    dead_letters: float
