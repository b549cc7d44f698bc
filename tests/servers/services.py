"""Private servers for tests, databases and a message broker: each in a folder of its own, and gone after the tests."""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import amqp
import pytest
import sqlalchemy as sa

D = TypeVar("D", bound="Daemon")
PASSWORD = "open-sesame-42"
_FOLDERS = "imageflow-server-"  # and the tests' process id
_CHANCE = random.SystemRandom()  # Hypothesis seeds the shared one: workers would choose the same ports


def missing(*programs: str) -> list[str]:
    """Those of the programs that this machine lacks."""
    return [p for p in programs if shutil.which(p) is None]


def require(what: str, absent: object) -> None:
    """Skip the test when a real part is absent; under CI=true that is a failure."""
    if absent:
        message = f"{what} is not here: {absent}"
        if os.environ.get("CI") == "true":
            pytest.fail(message, pytrace=False)
        pytest.skip(message)


class Daemon:
    """A server that can be stopped and started again; data stays until `remove`."""

    name: str
    accounts: tuple[str, ...]  # the user it runs as, when the tests run as root
    halt = signal.SIGTERM  # ends it in order, also with open connections
    death = "KILL"  # ends it when the tests are killed

    def __init__(self) -> None:
        _sweep()
        self.folder = Path(tempfile.mkdtemp(prefix=f"{_FOLDERS}{os.getpid()}-"))
        self.data = self.folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._as: list[str] = []
        if os.geteuid() == 0:
            account = next(a for a in (pwd.getpwnam(n) for n in self.accounts if _known(n)))
            os.chown(self.folder, account.pw_uid, account.pw_gid)
            self._as = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
        self._initialise()
        self.start()

    def _initialise(self) -> None:
        raise NotImplementedError

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _environment(self) -> dict[str, str]:
        return dict(os.environ)

    def _answers(self) -> bool:
        raise NotImplementedError

    def run(self, *argv: str) -> None:
        """Run a program of the server's as its user."""
        done = subprocess.run([*self._as, *argv], cwd=self.folder, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{argv[0]}: {done.stdout}{done.stderr}"

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        with open(self.folder / "log", "ab") as log:
            return subprocess.Popen(
                ["setpriv", *(self._as[1:] if self._as else []), "--pdeathsig", self.death, "--", *command],
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C goes to the tests, which stop it in order
            )

    def start(self) -> None:
        """Start it; returns when it answers. Call it from the main thread only: the server dies with the thread that started it."""
        self._process = self._spawn(self._command())
        end = time.monotonic() + 60
        while not self._answers():
            assert self._process.poll() is None, (self.folder / "log").read_text()[-2000:]
            assert time.monotonic() < end, f"{self.name} does not answer"
            time.sleep(0.05)

    @property
    def pid(self) -> int:
        """Its process; of several, the first one."""
        assert self._process is not None
        return self._process.pid

    def stop(self, how: signal.Signals | None = None) -> None:
        """Stop it; returns when it is gone."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(how or self.halt)
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()
        self._process = None

    def remove(self) -> None:
        """Stop it and remove its folder."""
        self.stop(signal.SIGQUIT if self.death == "QUIT" else signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)


class Server(Daemon):
    """A database server, on a unix socket."""

    _home: str

    def url(self, database: str) -> str:
        """SQLAlchemy's URL of a database on this server."""
        raise NotImplementedError

    def _admin(self, statement: str) -> None:
        engine = sa.create_engine(self.url(self._home), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        with engine.connect() as conn:
            conn.exec_driver_sql(statement)

    def _answers(self) -> bool:
        try:
            self._admin("SELECT 1")
        except sa.exc.OperationalError:
            return False
        return True

    @contextlib.contextmanager
    def database(self) -> Iterator[str]:
        """A new database; -> its URL; dropped at the end."""
        name = f"t{uuid.uuid4().hex[:12]}"
        self._admin(f"CREATE DATABASE {name}")
        try:
            yield self.url(name)
        finally:
            self._drop(name)

    def _drop(self, name: str) -> None:
        self._admin(f"DROP DATABASE {name}")


def _sweep() -> None:
    """Remove the folders of tests that were killed; their servers died with them."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDERS}*"):
        owner = folder.name.removeprefix(_FOLDERS).partition("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(folder, ignore_errors=True)


def _known(name: str) -> bool:
    with contextlib.suppress(KeyError):
        return bool(pwd.getpwnam(name))
    return False


class PostgreSQL(Server):
    """PostgreSQL with its newest version on this machine."""

    name = "postgresql"
    accounts = ("postgres", "nobody")
    halt = signal.SIGINT
    death = "QUIT"  # immediate shutdown; a KILL would leave a shared memory segment
    _home = "postgres"

    @staticmethod
    def bin() -> Path | None:
        """The folder with its programs."""
        if found := shutil.which("postgres"):
            return Path(found).parent
        versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda p: float(p.parts[-3]))
        return versions[-1].parent if versions else None

    def _initialise(self) -> None:
        self.run(
            f"{self.bin()}/initdb", "-D", str(self.data), "-U", "imageflow", "--auth=trust", "--no-sync", "-E", "UTF8"
        )

    def _command(self) -> list[str]:
        options = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.folder),
            "max_connections": "200",
            "shared_buffers": "32MB",
            "fsync": "off",
        }
        return [
            f"{self.bin()}/postgres",
            "-D",
            str(self.data),
            *(x for k, v in options.items() for x in ("-c", f"{k}={v}")),
        ]

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://imageflow:{PASSWORD}@/{database}?host={self.folder}"

    def _drop(self, name: str) -> None:
        self._admin(f"DROP DATABASE {name} WITH (FORCE)")


class MariaDB(Server):
    """MariaDB."""

    name = "mariadb"
    accounts = ("mysql", "nobody")
    _home = "mysql"

    def _initialise(self) -> None:
        self.run(
            "mariadb-install-db",
            "--no-defaults",
            f"--datadir={self.data}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            "--innodb-log-file-size=16M",
        )
        # The server reads this at every start: a user with a password, so that tests can look for it in logs.
        (self.folder / "init.sql").write_text(
            f"CREATE USER IF NOT EXISTS imageflow@localhost IDENTIFIED BY '{PASSWORD}';\n"
            "GRANT ALL ON *.* TO imageflow@localhost WITH GRANT OPTION;\n"
        )
        (self.folder / "init.sql").chmod(0o644)

    def _command(self) -> list[str]:
        server = shutil.which("mariadbd") or "/usr/sbin/mariadbd"
        return [
            server,
            "--no-defaults",
            f"--datadir={self.data}",
            f"--socket={self.folder}/s",
            f"--pid-file={self.folder}/pid",
            f"--init-file={self.folder}/init.sql",
            "--skip-networking",
            "--max-connections=200",
            "--innodb-buffer-pool-size=64M",
            "--innodb-log-file-size=16M",
            "--innodb-flush-log-at-trx-commit=0",
        ]

    def url(self, database: str) -> str:
        return f"mysql+pymysql://imageflow:{PASSWORD}@localhost/{database}?unix_socket={self.folder}/s"


class RabbitMQ(Daemon):
    """RabbitMQ on ports of its own on loopback, with an epmd of its own and no plugins."""

    name = "rabbitmq"
    accounts = ("rabbitmq", "nobody")

    @staticmethod
    def program() -> Path | None:
        """The server's own script: the one on PATH must run as root."""
        return next(iter(sorted(Path("/usr/lib/rabbitmq").glob("**/*bin/rabbitmq-server"))), None)

    def _initialise(self) -> None:
        self.port, distribution, self._epmd_port = free_ports(3)
        self._write(
            "rabbitmq.conf",
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\n"
            "distribution.listener.interface = 127.0.0.1\n"
            f"distribution.listener.port_range.min = {distribution}\n"
            f"distribution.listener.port_range.max = {distribution}\n"
            f"default_user = imageflow\ndefault_pass = {PASSWORD}\n"
            "disk_free_limit.absolute = 10MB\nvm_memory_high_watermark.absolute = 512MB\n"
            f"cluster_name = {self.folder.name}\n"  # by which `start` knows it
            "log.console = true\nlog.file = false\n",
        )
        self._write("plugins", "[].\n")
        self._epmd = self._spawn(["epmd", "-port", str(self._epmd_port), "-address", "127.0.0.1"])

    def _write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)
        (self.folder / name).chmod(0o644)

    def _command(self) -> list[str]:
        return [str(self.program())]

    def _environment(self) -> dict[str, str]:
        return dict(os.environ) | {
            "HOME": str(self.folder),  # of the cookie
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_MAX_PORTS": "2048",
            "RABBITMQ_ALLOW_INPUT": "1",  # no shell stays between us and the Erlang machine
            "RABBITMQ_CONFIG_FILE": f"{self.folder}/rabbitmq.conf",
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{self.folder}/plugins",
            "RABBITMQ_LOG_BASE": f"{self.folder}/logs",
            "RABBITMQ_MAX_NUMBER_OF_PROCESSES": "32768",
            "RABBITMQ_MNESIA_BASE": str(self.data),
            "RABBITMQ_NODENAME": "imageflow@localhost",
            "RABBITMQ_PID_FILE": f"{self.folder}/pid",
            # Schedulers with a short busy wait start three times as fast on virtual machines.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-noinput +S 2:2 +SDio 1 +sbwt long +sbwtdio long",
        }

    @property
    def url(self) -> str:
        """kombu's URL."""
        return f"amqp://imageflow:{PASSWORD}@127.0.0.1:{self.port}//"

    @property
    def bus(self) -> str:
        """oslo.messaging's URL."""
        return f"rabbit://imageflow:{PASSWORD}@127.0.0.1:{self.port}/"

    def _connect(self) -> amqp.Connection:
        return amqp.Connection(f"127.0.0.1:{self.port}", "imageflow", PASSWORD, connect_timeout=5)

    def forget(self) -> None:
        """Remove the queues and exchanges that have the usual names: their durability is the next test's affair."""
        with self._connect() as connection:
            channel = connection.channel()
            for queue in ("imageflow", "imageflow.events", "notifications.info", "notifications.error"):
                channel.queue_delete(queue)
            for exchange in ("glance", "nova", "imageflow.events"):
                channel.exchange_delete(exchange)

    def _answers(self) -> bool:
        """Whether this one does, and no other that has got its port meanwhile."""
        try:
            with self._connect() as connection:
                return bool(connection.server_properties["cluster_name"] == self.folder.name)
        except (OSError, amqp.AMQPError):
            return False

    def remove(self) -> None:
        self.stop(signal.SIGKILL)
        self._epmd.kill()
        self._epmd.wait()
        super().remove()


def free_ports(count: int) -> list[int]:
    """Free ports on loopback that no outgoing connection gets by chance."""
    with contextlib.ExitStack() as held:
        found: list[int] = []
        while len(found) < count:
            port = _CHANCE.randrange(20000, 30000)
            sock = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                sock.bind(("127.0.0.1", port))
                found.append(port)
        return found


@contextlib.contextmanager
def running(kind: type[D]) -> Iterator[D]:
    """A server of this kind, or a skip."""
    if kind is PostgreSQL:
        require("PostgreSQL", None if PostgreSQL.bin() else "no server program")
    elif kind is RabbitMQ:
        require("RabbitMQ", missing("erl", "epmd") or (None if RabbitMQ.program() else "no server program"))
    else:
        require(
            "MariaDB",
            missing("mariadb-install-db") or (missing("mariadbd") and not Path("/usr/sbin/mariadbd").exists()),
        )
    require("util-linux", missing("setpriv"))
    server = kind()
    try:
        yield server
    finally:
        server.remove()
