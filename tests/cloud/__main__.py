"""The test cloud's command line."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.cloud.cloud import TOKEN_LIFE, Cloud, launch, prepare, running, sweep
from tests.cloud.settings import root


def main() -> int:
    """Do what the command line says; -> the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.cloud", description="A real one-node OpenStack for tests.")
    parser.add_argument("--name", default="default", help="which one, when several run (default: default)")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in (("start", "start it; it runs until 'stop'"), ("run", "start it, run a command, end it")):
        command = commands.add_parser(name, help=text)
        command.add_argument("--token-life", type=int, default=TOKEN_LIFE, metavar="SECONDS")
        if name == "run":
            command.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    commands.add_parser("prepare", help="make the schemas that every start copies, unless they are made")
    commands.add_parser("stop", help="end it, and remove what killed ones have left")
    commands.add_parser("status", help="what runs, and its memory; exit code 1 unless all does")
    env = commands.add_parser("env", help="print variables for clients, for a shell's eval")
    env.add_argument("--cloud", default="imageflow", help="of clouds.yaml: imageflow, member, outsider, admin, second")
    env.add_argument("--admin", dest="cloud", action="store_const", const="admin")
    enter = commands.add_parser("enter", help="run a program inside: virsh list, ip netns, …")
    enter.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("a cloud needs root")
    folder = root() / arguments.name
    if arguments.command == "prepare":
        prepare(arguments.name)
        return 0
    if arguments.command in ("start", "run"):
        begun = time.monotonic()
        cloud = launch(arguments.name, detached=arguments.command == "start", token_life=arguments.token_life)
        print(f"up after {time.monotonic() - begun:.0f} s: {cloud.auth_url}, {cloud.clouds_yaml}", file=sys.stderr)
        if arguments.command == "start":
            return 0
        try:
            return subprocess.run(_command(arguments.argv), env={**os.environ, **cloud.environment()}).returncode
        finally:
            cloud.end()
    try:
        cloud = running(folder)
    except (FileNotFoundError, AssertionError):
        if arguments.command == "stop":
            sweep()
        print(f"no cloud runs in {folder}", file=sys.stderr)
        return 0 if arguments.command == "stop" else 1
    if arguments.command == "stop":
        cloud.end()
        sweep()
    elif arguments.command == "env":
        for name, value in cloud.environment(arguments.cloud).items():
            print(f"export {name}={value}")
    elif arguments.command == "enter":
        return subprocess.run(cloud.enter(*_command(arguments.argv))).returncode
    else:
        return _status(cloud)
    return 0


def _command(argv: list[str]) -> list[str]:
    return argv[1:] if argv[:1] == ["--"] else argv


def _status(cloud: Cloud) -> int:
    have = cloud.running()
    for service in cloud.services:
        port = cloud.ports.get(service, "")
        print(f"{service:26} {'runs' if service in have else 'DOWN':5} {port}")
    processes = cloud.supervision.processes()
    print(f"{len(processes)} processes, {sum(map(_memory, processes)) >> 10} MiB; logs in {cloud.settings.logs}")
    return 0 if len(have) == len(cloud.services) else 1


def _memory(pid: int) -> int:
    """A process's share of memory, in KiB."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


if __name__ == "__main__":
    sys.exit(main())
