"""What each role may do: registered defaults, which a policy file may change.

The roles are keystone's own, each implying the one before: a rule names the least one, in the project that the thing
belongs to. What belongs to no project (announcements, layers, resources, conductors) is for `admin`, as in other services.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from oslo_config import cfg
from oslo_policy import policy

from imageflow.access import Caller
from imageflow.access.options import parsed
from imageflow.background.remembered import Remembered
from imageflow.config import Config
from imageflow.errors import ConfigError, NotText
from imageflow.host.text import read

PREFIX = "imageflow:"
_PROJECT = "project_id:%(project_id)s"
_ADMIN = "admin_required"
_HINT = "see etc/policy.yaml.sample"
_DECIDED = 60.0  # seconds; it follows from the rules alone, which takes oslo.policy 0.3 ms each time
_BY_OPERATOR = (cfg.Locations.user, cfg.Locations.environment, cfg.Locations.command_line)
BASE = [
    policy.RuleDefault(_ADMIN, "role:admin", "Operators, in every project."),
    policy.RuleDefault("project_reader", f"role:reader and {_PROJECT}", "Who may look."),
    policy.RuleDefault("project_member", f"role:member and {_PROJECT}", "Who may build."),
    policy.RuleDefault(
        "project_manager",
        f"role:manager and {_PROJECT}",
        "Who decides what is built on events, and goes into production.",
    ),
]


def _rule(name: str, least: str, description: str, *operations: str) -> policy.DocumentedRuleDefault:
    """`operations`: METHOD PATH."""
    split: list[Any] = [dict(zip(("method", "path"), one.split(" "), strict=True)) for one in operations]
    check = f"rule:{_ADMIN}" if least == "admin" else f"rule:project_{least} or rule:{_ADMIN}"
    return policy.DocumentedRuleDefault(f"{PREFIX}{name}", check, description, split, scope_types=["project"])


RULES = [
    _rule("builds:list", "reader", "List builds.", "GET /v1/builds"),
    _rule(
        "builds:get",
        "reader",
        "Show a build: its steps, graph and log.",
        "GET /v1/builds/{id}",
        "GET /v1/builds/{id}/steps",
        "GET /v1/builds/{id}/graph",
        "GET /v1/builds/{id}/why",
        "GET /v1/builds/{id}/log",
    ),
    _rule("builds:create", "member", "Ask for a version of an image.", "POST /v1/builds"),
    _rule("builds:resume", "member", "Let a paused build go on.", "POST /v1/builds/{id}/resume"),
    _rule("builds:abort", "member", "Give a build up.", "POST /v1/builds/{id}/abort"),
    _rule("builds:cancel", "member", "Stop a build.", "POST /v1/builds/{id}/cancel"),
    _rule(
        "builds:console",
        "member",
        "See what a build's machine prints and shows, which may be a secret.",
        "GET /v1/builds/{id}/console",
        "GET /v1/builds/{id}/screenshot",
    ),
    _rule("images:list", "reader", "List images.", "GET /v1/images"),
    _rule(
        "images:get",
        "reader",
        "Show the versions of an image.",
        "GET /v1/images/{name}/versions",
        "GET /v1/images/{name}/versions/{digest}",
    ),
    _rule(
        "images:download",
        "reader",
        "Download the files of a version.",
        "GET /v1/images/{name}/versions/{digest}/files/{file}",
    ),
    _rule("recipes:list", "reader", "List registered recipes.", "GET /v1/recipes"),
    _rule("recipes:get", "reader", "Show a registered recipe.", "GET /v1/recipes/{name}"),
    _rule("recipes:add", "manager", "Register a recipe: events build it from then on.", "POST /v1/recipes"),
    _rule("recipes:remove", "manager", "Remove a registered recipe.", "DELETE /v1/recipes/{name}"),
    _rule("catalog:list", "reader", "See what may be asked for by its content.", "GET /v1/catalog"),
    _rule("requests:list", "reader", "List the requests for images.", "GET /v1/requests"),
    _rule("requests:get", "reader", "Show a request and its image.", "GET /v1/requests/{name}"),
    _rule("requests:put", "member", "Request an image, and claim it.", "PUT /v1/requests/{name}"),
    _rule("requests:delete", "member", "Take a claim back.", "DELETE /v1/requests/{name}"),
    _rule("rebuilds:list", "reader", "List what events have asked for.", "GET /v1/rebuilds"),
    _rule("rebuilds:release", "manager", "Let a held rebuild go on.", "POST /v1/rebuilds/{image}/release"),
    _rule("rebuilds:drop", "manager", "Drop a rebuild.", "DELETE /v1/rebuilds/{image}"),
    _rule("publications:list", "reader", "List which version is in which target.", "GET /v1/publications"),
    _rule("publications:retry", "manager", "Publish a version again.", "POST /v1/publications/retry"),
    _rule("outbox:list", "admin", "List announcements.", "GET /v1/outbox"),
    _rule("outbox:replay", "admin", "Send announcements again.", "POST /v1/outbox/replay"),
    _rule("layers:list", "admin", "List the saved disks of this host.", "GET /v1/layers"),
    _rule("resources:list", "admin", "List what builds made and have not removed.", "GET /v1/resources"),
    _rule("resources:reap", "admin", "Remove what ended builds left.", "POST /v1/resources/reap"),
    _rule("conductors:list", "admin", "List the conductors.", "GET /v1/conductors"),
]


def list_rules() -> list[policy.RuleDefault]:
    """The entry point oslo.policy.policies."""
    return [*BASE, *RULES]


class Policy:
    """The rules in force: read once, so that a mistake in the file stops a start and not a request."""

    def __init__(self, config: Config) -> None:
        """Raises ConfigError for a policy file that can't be read, or has a rule that does not exist."""
        conf = parsed(config)
        self._enforcer = policy.Enforcer(conf)
        self._enforcer.register_defaults(list_rules())
        named = str(conf.oslo_policy.policy_file)
        found = conf.find_file(named)
        if found is not None:
            _check_file(Path(found))
        elif (place := conf.get_location("policy_file", "oslo_policy")) and place.location in _BY_OPERATOR:
            raise ConfigError(f"[oslo_policy] policy_file: there is no file {named}", hint=_HINT)
        try:
            self._enforcer.load_rules()
            self._enforcer.check_rules(raise_on_violation=True)
        except (policy.InvalidDefinitionError, cfg.Error, ValueError, AttributeError, OSError) as error:
            raise ConfigError(f"[oslo_policy]: {error}", hint=_HINT) from error
        for name, rule in self._enforcer.file_rules.items():
            if name.startswith(PREFIX) and name not in self._enforcer.registered_rules:
                raise ConfigError(f"{found or named}: there is no rule {name}", hint=_HINT)
            # oslo.policy logs what it can't parse, and refuses everybody
            if str(rule.check) == "!" and str(rule.check_str).strip() != "!":
                raise ConfigError(f"{found or named}: {name}: {rule.check_str!r} is no rule", hint=_HINT)
            if "http:" in str(rule.check) or "https:" in str(rule.check):
                raise ConfigError(f"{found or named}: {name}: every request would wait for another server", hint=_HINT)
        self._enforcer.use_conf = False
        self._decided: Remembered[bool] = Remembered()

    def allows(self, caller: Caller, rule: str, project: str) -> bool:
        """Whether the caller may do this ("builds:list") in a project."""
        name = f"{PREFIX}{rule}"
        if name not in self._enforcer.registered_rules:
            raise LookupError(f"there is no rule {name}")
        key = json.dumps([caller.project, caller.user, sorted(caller.roles), rule, project])
        if (known := self._decided.get(key)) is not None:
            return known
        credentials = {"project_id": caller.project, "user_id": caller.user, "roles": sorted(caller.roles)}
        decision = bool(self._enforcer.enforce(name, {"project_id": project}, credentials))
        self._decided.set(key, decision, time=_DECIDED)
        return decision


def _check_file(path: Path) -> None:
    try:
        rules = yaml.safe_load(read(path.read_bytes()).text)
    except OSError as error:
        raise ConfigError(f"[oslo_policy] policy_file: {path}: {error.strerror}", hint=_HINT) from error
    except (NotText, yaml.YAMLError) as error:
        raise ConfigError(f"[oslo_policy] policy_file: {path} is not YAML: {error}", hint=_HINT) from error
    if rules is None:
        return
    if not isinstance(rules, dict) or not all(isinstance(one, str) for pair in rules.items() for one in pair):
        raise ConfigError(f"[oslo_policy] policy_file: {path} is not a mapping of names to rules", hint=_HINT)
