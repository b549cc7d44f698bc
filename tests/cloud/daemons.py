"""The programs of a cloud: how each is run, and when it answers."""

from __future__ import annotations

import http.client
import signal
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import amqp

from tests.cloud.settings import ADDRESS, Settings

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Daemon:
    """A program; `needs` are the programs that must answer before it can start."""

    name: str
    argv: tuple[str, ...]
    answers: Callable[[], bool]
    needs: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    halt: signal.Signals = signal.SIGTERM
    patience: float = 10  # seconds it may take to end in order
    on_demand: bool = False  # only some tests need it, and start it themselves


def environment(settings: Settings, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """A clean environment: no Python of a virtual environment and no proxy setting reaches the services."""
    return {"PATH": _PATH, "HOME": str(settings.state), "LC_ALL": "C.UTF-8", **(more or {})}


def daemons(settings: Settings) -> dict[str, Daemon]:
    """All of them, in the order in which they are started."""
    return {d.name: d for d in (*_infrastructure(settings), *_services(settings), *_agents(settings), *_heat(settings))}


def _infrastructure(settings: Settings) -> tuple[Daemon, ...]:
    state, etc, ports = settings.state, settings.configuration, settings.ports
    options = {
        "user": "mysql",
        "datadir": state / "mysql",
        "port": ports["mariadb"],
        "bind-address": ADDRESS,
        "socket": state / "mysql/socket",
        "pid-file": state / "mysql/pid",
        "init-file": state / "mysql/first.sql",
        "max-connections": 400,
        "character-set-server": "utf8mb3",
        "innodb-log-file-size": "32M",
        "innodb-buffer-pool-size": "128M",
        "innodb-flush-log-at-trx-commit": 0,
        "innodb-doublewrite": 0,
        "performance-schema": 0,
    }
    mariadb = ("mariadbd", "--no-defaults", "--skip-name-resolve", *(f"--{k}={v}" for k, v in options.items()))
    erlang = {
        "HOME": str(state / "rabbit"),
        "ERL_EPMD_ADDRESS": ADDRESS,
        "ERL_EPMD_PORT": str(ports["epmd"]),
        "ERL_MAX_PORTS": "4096",
        "RABBITMQ_ALLOW_INPUT": "1",  # no shell stays between us and the Erlang machine
        "RABBITMQ_CONFIG_FILE": str(etc / "rabbitmq.conf"),
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(etc / "rabbitmq-plugins"),
        "RABBITMQ_LOG_BASE": str(state / "rabbit/log"),
        "RABBITMQ_MNESIA_BASE": str(state / "rabbit/mnesia"),
        "RABBITMQ_NODENAME": "cloud@localhost",
        "RABBITMQ_PID_FILE": str(state / "rabbit/pid"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-noinput +S 2:2 +SDio 1 +sbwt none +sbwtdcpu none +sbwtdio none",
    }
    own_run = state / "run"
    return (
        Daemon("mariadb", mariadb, lambda: _accepts(socket.AF_UNIX, str(state / "mysql/socket")), patience=30),
        Daemon(
            "epmd",
            ("epmd", "-address", ADDRESS, "-port", str(ports["epmd"])),
            lambda: _accepts(socket.AF_INET, (ADDRESS, ports["epmd"])),
        ),
        Daemon("rabbit", (str(rabbit_program()),), lambda: _rabbit_answers(settings), ("epmd",), erlang, patience=30),
        Daemon(
            "virtlogd",
            ("virtlogd", "--config", f"{etc}/virtlogd.conf", "--pid-file", "/run/virtlogd.pid"),
            lambda: _accepts(socket.AF_UNIX, str(own_run / "libvirt/virtlogd-sock")),
        ),
        Daemon(
            "libvirtd",
            ("libvirtd", "--config", f"{etc}/libvirtd.conf", "--pid-file", "/run/libvirtd.pid"),
            lambda: _accepts(socket.AF_UNIX, str(own_run / "libvirt/libvirt-sock")),
        ),
    )


def _services(settings: Settings) -> tuple[Daemon, ...]:
    etc = settings.configuration
    base = ("mariadb", "rabbit")
    nova = ("--config-file", f"{etc}/nova.conf")

    def speaks(name: str) -> Callable[[], bool]:
        return lambda: _speaks_http(settings, name)

    def api(name: str, *argv: str, **environment: str) -> Daemon:
        return Daemon(name, argv, speaks(name), base, environment)

    return (
        api(
            "keystone", "uwsgi_python3", "--ini", f"{etc}/keystone-uwsgi.ini", OS_KEYSTONE_CONFIG_DIR=f"{etc}/keystone"
        ),
        api(
            "placement",
            "uwsgi_python3",
            "--ini",
            f"{etc}/placement-uwsgi.ini",
            OS_PLACEMENT_CONFIG_DIR=f"{etc}/placement",
        ),
        Daemon(
            "neutron-server",
            ("neutron-server", "--config-file", f"{etc}/neutron.conf", "--config-file", f"{etc}/ml2.ini"),
            lambda: _speaks_http(settings, "neutron-server") and _consumed(settings, "q-plugin", "q-reports-plugin"),
            base,
        ),
        Daemon("nova-conductor", ("nova-conductor", *nova), lambda: _consumed(settings, "conductor"), base),
        api("nova-api", "nova-api", *nova),
        api("glance-api", "glance-api", "--config-file", f"{etc}/glance-api.conf"),
        api("glance-second", "glance-api", "--config-file", f"{etc}/glance-second.conf"),
        Daemon("nova-scheduler", ("nova-scheduler", *nova), lambda: _consumed(settings, "scheduler"), base),
    )


def _agents(settings: Settings) -> tuple[Daemon, ...]:
    etc = settings.configuration
    neutron = ("--config-file", f"{etc}/neutron.conf")
    return (
        Daemon(
            "nova-compute",
            ("nova-compute", "--config-file", f"{etc}/nova.conf"),
            lambda: _consumed(settings, "compute"),
            ("nova-conductor", "keystone", "placement", "libvirtd"),
        ),
        # The agents' first calls wait 30 s for an answer when the server's RPC worker does not listen yet.
        Daemon(
            "neutron-linuxbridge-agent",
            ("neutron-linuxbridge-agent", *neutron, "--config-file", f"{etc}/ml2.ini"),
            lambda: _consumed(settings, "q-agent-notifier-network-update"),
            ("neutron-server",),
        ),
        Daemon(
            "neutron-dhcp-agent",
            ("neutron-dhcp-agent", *neutron, "--config-file", f"{etc}/dhcp.ini"),
            lambda: _consumed(settings, "dhcp_agent"),
            ("neutron-server",),
        ),
    )


def _heat(settings: Settings) -> tuple[Daemon, ...]:
    argv = ("--config-file", f"{settings.configuration}/heat.conf")
    return (
        Daemon(
            "heat-engine",
            ("heat-engine", *argv),
            lambda: _consumed(settings, "engine", "engine_worker"),
            ("mariadb", "rabbit", "keystone"),
            {"PYTHONPATH": str(settings.heat_python)},
            on_demand=True,
        ),
        Daemon(
            "heat-api",
            ("heat-api", *argv),
            lambda: _speaks_http(settings, "heat-api"),
            ("mariadb", "rabbit", "keystone"),
            on_demand=True,
        ),
    )


def rabbit_program() -> Path | None:
    """The server's own script: the one on PATH needs an account of its own."""
    return next(iter(sorted(Path("/usr/lib/rabbitmq").glob("**/*bin/rabbitmq-server"))), None)


def _accepts(family: socket.AddressFamily, address: str | tuple[str, int]) -> bool:
    with socket.socket(family) as peer:
        try:
            peer.connect(address)
        except OSError:
            return False
    return True


def _speaks_http(settings: Settings, name: str) -> bool:
    connection = http.client.HTTPConnection(ADDRESS, settings.ports[name], timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status < 500
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _consumed(settings: Settings, *queues: str) -> bool:
    """Whether each of these queues has a consumer."""
    try:
        with amqp.Connection(
            f"{ADDRESS}:{settings.ports['rabbit']}", "openstack", settings.password, connect_timeout=5
        ) as bus:
            return all(bus.channel().queue_declare(q, passive=True).consumer_count > 0 for q in queues)
    except (OSError, amqp.AMQPError):
        return False


def _rabbit_answers(settings: Settings) -> bool:
    return _consumed(settings)
