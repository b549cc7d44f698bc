"""`imageflow serve`: the service in the foreground, as service managers want it."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import socket
import time
from types import FrameType

from imageflow.cli.command import Command
from imageflow.host.visible import VisibleFormatter

LOG = logging.getLogger(__name__)
_CHATTY = (  # libraries whose own messages do not help an operator
    "taskflow",
    "alembic",
    "stevedore",
    "sqlalchemy",
    "uvicorn",
    "amqp",
    "kombu",
    "oslo",
    "oslo_service",
    "oslo_messaging",
    "paramiko",
)


class Serve(Command):
    """Serve until SIGTERM: listen for events, rebuild what they ask for, run queued builds, announce

    [listeners] enabled names the listeners; HTTP has POST /v1/events and POST /v1/webhooks/FORGE.

    SIGTERM, SIGINT and, unless ignored, SIGHUP drain: nothing new is started, running steps may end within [conductor]
    drain_timeout, then their builds are handed back, to continue where they were. A second signal stops at once.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--listen",
            metavar="HOST:PORT",
            help="address of the HTTP listener (default: [api] listen, 127.0.0.1:8780; port 0: any free one); none: no HTTP",
        )
        parser.add_argument("--log-json", action="store_true", help="log one JSON object per line")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        _configure_logging(parsed_args.log_json, self.app.options.verbose_level)
        config = self.app.config()
        if parsed_args.listen is not None:
            config = config.listening(parsed_args.listen)
        with self.app.service(config) as service:
            from imageflow.serving import Serving

            serving = Serving(service)
            stops = 0

            def stop(number: int, _frame: FrameType | None) -> None:
                nonlocal stops
                stops += 1
                notify("STOPPING=1")
                serving.stop(now=stops > 1)

            def ready() -> None:
                notify("READY=1")
                LOG.info("%s serves, up to %d builds at once", serving.name, config.conductor.max_builds)

            numbers = [signal.SIGTERM, signal.SIGINT]
            if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup: it outlives its terminal
                numbers.append(signal.SIGHUP)
            before = {number: signal.signal(number, stop) for number in numbers}
            try:
                serving.run(ready)
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)
            LOG.info("%s has stopped", serving.name)


def notify(state: str) -> None:
    """Notify the service manager, as sd_notify(3) does; without one, do nothing."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]  # the abstract namespace
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.sendto(state.encode(), address)
    except OSError as error:
        LOG.warning("the service manager can't be told %s: %s", state, error)


class JsonFormatter(logging.Formatter):
    """One JSON object per line, with the values of `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "thread": record.threadName,
        }
        for name in ("build", "step", "request"):
            if hasattr(record, name):
                entry[name] = getattr(record, name)
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


def _configure_logging(as_json: bool, verbosity: int) -> None:
    """The service's own messages are shown without -v; TaskFlow's are not."""
    root = logging.getLogger()
    for handler in root.handlers:
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            handler.setFormatter(
                JsonFormatter() if as_json else VisibleFormatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
            )
            if handler.level > logging.INFO and verbosity > 0:
                handler.setLevel(logging.INFO)
    if verbosity < 3:
        for name in _CHATTY:
            logging.getLogger(name).setLevel(logging.WARNING)
