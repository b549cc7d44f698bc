"""The start of every cloud, made once and copied: databases with schemas, users and catalogue, and Keystone's keys."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.cloud import identity
from tests.cloud.programs import Programs
from tests.cloud.settings import DATABASES, HOST, REGION, Settings, root, write
from tests.cloud.supervision import Supervision

_PACKAGES = ("keystone", "glance-api", "placement-api", "nova-api", "neutron-server", "heat-engine", "mariadb-server")
_CODE = ("configuration.py", "identity.py", "template.py")
_CAPABILITIES = "libvirt/cache/qemu/capabilities"


class Template:
    """The folder with the template, for these packages and this code."""

    def __init__(self) -> None:
        versions = subprocess.run(
            ["dpkg-query", "-W", *_PACKAGES], capture_output=True, text=True, check=True, timeout=60
        ).stdout
        code = b"".join(Path(__file__).with_name(name).read_bytes() for name in _CODE)
        self.folder = root() / f"template-{hashlib.sha256(versions.encode() + code).hexdigest()[:12]}"

    @property
    def made(self) -> bool:
        return self.folder.exists()

    def facts(self) -> dict[str, str]:
        """password, and the application credential's id and secret."""
        facts: dict[str, str] = json.loads((self.folder / "facts.json").read_text())
        return facts

    def copy(self, settings: Settings) -> None:
        """Give a cloud its databases and keys."""
        subprocess.run(
            [
                "cp",
                "-a",
                "--reflink=auto",
                "--sparse=always",
                f"{self.folder}/mysql",
                f"{self.folder}/keystone",
                settings.state,
            ],
            check=True,
            timeout=300,
        )
        if (self.folder / "capabilities").exists():
            shutil.copytree(self.folder / "capabilities", settings.state / _CAPABILITIES)
        _first_statements(settings, identity.statements(settings))

    def keep_capabilities(self, settings: Settings) -> None:
        """Keep what libvirt found out about this machine's emulators; that takes a dozen seconds."""
        kept, found = self.folder / "capabilities", settings.state / _CAPABILITIES
        if self.made and not kept.exists() and found.exists():
            new = root() / f"template.capabilities-{os.getpid()}"
            shutil.copytree(found, new)
            with contextlib.suppress(OSError):  # another process was first
                new.rename(kept)
            shutil.rmtree(new, ignore_errors=True)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes from making it at the same time."""
        root().mkdir(parents=True, exist_ok=True)
        with open(root() / "template.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def make(self, settings: Settings, supervision: Supervision) -> None:
        """Make it in a cloud that has nothing yet, and leave that cloud without databases again."""
        new = root() / "template.new"
        shutil.rmtree(new, ignore_errors=True)
        programs = Programs(settings, supervision)
        _initialise_database(settings, programs)
        programs.start("mariadb", "epmd", "rabbit")
        _schemas(settings, programs)
        programs.start("keystone")
        credential = identity.provision(settings)
        for name in ("keystone", "rabbit", "epmd", "mariadb"):
            programs.stop(name)
        new.mkdir(mode=0o700)
        for name in ("mysql", "keystone"):
            shutil.move(settings.state / name, new / name)
        shutil.rmtree(settings.state / "rabbit", ignore_errors=True)
        write(new / "facts.json", json.dumps({"password": settings.password, **credential}))
        for old in root().glob("template-*"):
            shutil.rmtree(old, ignore_errors=True)
        new.rename(self.folder)


def _initialise_database(settings: Settings, programs: Programs) -> None:
    folder = settings.state / "mysql"
    folder.mkdir(parents=True)
    shutil.chown(folder, "mysql", "mysql")
    programs.run(
        (
            "mariadb-install-db",
            "--no-defaults",
            "--user=mysql",
            f"--datadir={folder}",
            "--auth-root-authentication-method=socket",
            "--auth-root-socket-user=root",
            "--skip-test-db",
            "--innodb-log-file-size=32M",
        ),
        name="mariadb-install",
    ).wait()
    _first_statements(
        settings,
        [
            *(f"CREATE DATABASE {name}" for name in DATABASES),
            f"CREATE USER openstack@'%' IDENTIFIED BY '{settings.password}'",
            "GRANT ALL ON *.* TO openstack@'%'",
        ],
    )


def _first_statements(settings: Settings, statements: list[str]) -> None:
    """What the database server does when it starts."""
    path = settings.state / "mysql/first.sql"
    write(path, "".join(f"{s};\n" for s in statements))
    shutil.chown(path, "mysql", "mysql")


def _schemas(settings: Settings, programs: Programs) -> None:
    etc, url = settings.configuration, settings.auth_url
    keystone = ("keystone-manage", "--config-dir", f"{etc}/keystone")
    as_root = ("--keystone-user", "root", "--keystone-group", "root")
    nova = ("nova-manage", "--config-file", f"{etc}/nova.conf")
    # Cells hold no address: Nova fills it in from its own configuration.
    server = "{scheme}://{username}:{password}@{hostname}:{port}"
    jobs = [
        programs.run(
            (*keystone, "fernet_setup", *as_root),
            (*keystone, "credential_setup", *as_root),
            (*keystone, "db_sync"),
            (
                *(*keystone, "bootstrap", "--bootstrap-region-id", REGION),
                *(x for i in ("admin", "public", "internal") for x in (f"--bootstrap-{i}-url", url)),
            ),
            ("placement-manage", "--config-dir", f"{etc}/placement", "db", "sync"),
            *(
                ("glance-manage", "--config-file", f"{etc}/{n}.conf", "db_sync")
                for n in ("glance-api", "glance-second")
            ),
            name="schemas-keystone",
            OS_BOOTSTRAP_PASSWORD=settings.password,
        ),
        programs.run(
            (*nova, "api_db", "sync"),
            (*nova, "cell_v2", "map_cell0", "--database_connection", f"{server}/nova_cell0"),
            (*nova, "db", "sync"),
            (
                *(*nova, "cell_v2", "create_cell", "--name", "cell1"),
                *("--database_connection", f"{server}/nova_cell1", "--transport-url", f"{server}/"),
            ),
            (
                *("mariadb", "--no-defaults", f"--socket={settings.state}/mysql/socket", "nova_api", "-e"),
                # As `nova-manage cell_v2 discover_hosts` would, when nova-compute has started for the first time.
                f"INSERT INTO host_mappings (created_at, cell_id, host) SELECT NOW(), id, '{HOST}'"
                " FROM cell_mappings WHERE name = 'cell1'",
            ),
            name="schemas-nova",
        ),
        programs.run(
            (
                *("neutron-db-manage", "--config-file", f"{etc}/neutron.conf", "--config-file", f"{etc}/ml2.ini"),
                *("upgrade", "heads"),
            ),
            name="schemas-neutron",
        ),
        programs.run(("heat-manage", "--config-file", f"{etc}/heat.conf", "db_sync"), name="schemas-heat"),
    ]
    for job in jobs:
        job.wait()
