"""requirements/*.txt, what is installed to develop and test: they fit setup.cfg, each other, and every Python."""

from __future__ import annotations

import configparser
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "requirements"
LOCKS = sorted(path.name for path in FOLDER.glob("*.txt"))
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
EXTRAS = {
    "run.txt": ("kickstart", "keystone"),
    "test.txt": ("test",),
    "lint.txt": ("test", "lint"),
    "bench.txt": ("bench", "kickstart"),
}

Pins = dict[str, tuple[Requirement, str]]  # name -> as it is written, version


def environment(python: str) -> dict[str, str]:
    return {
        "python_version": python,
        "python_full_version": f"{python}.1",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "sys_platform": "linux",
        "os_name": "posix",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
        "extra": "",
    }


def entries(lock: str) -> list[str]:
    """Each requirement with its hashes, on one line."""
    text = (FOLDER / lock).read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def pins(lock: str, python: str) -> Pins:
    found: Pins = {}
    for entry in entries(lock):
        requirement = Requirement(entry.partition("--hash")[0])
        if requirement.marker is None or requirement.marker.evaluate(environment(python)):
            name = canonicalize_name(requirement.name)
            assert name not in found, f"{lock} has {name} twice for Python {python}"
            (specifier,) = requirement.specifier
            found[name] = (requirement, specifier.version)
    return found


def wanted(lock: str) -> list[Requirement]:
    """What the lock is made from."""
    if lock not in EXTRAS:
        lines = (FOLDER / lock).with_suffix(".in").read_text().splitlines()
        return [Requirement(line) for line in lines if not line.startswith("#")]
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    texts = [parser["options"]["install_requires"]]
    texts += [parser["options.extras_require"][extra] for extra in EXTRAS[lock]]
    return [Requirement(line) for text in texts for line in text.split("\n") if line]


def test_every_lock_is_looked_at() -> None:
    assert {*EXTRAS, "tools.txt", "lock.txt"} == set(LOCKS)


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("lock", LOCKS)
def test_setup_cfg_allows_what_is_locked(lock: str, python: str) -> None:
    """When this fails: `make lock`."""
    found = pins(lock, python)
    for requirement in wanted(lock):
        if requirement.marker is not None and not requirement.marker.evaluate(environment(python)):
            continue
        name = canonicalize_name(requirement.name)
        assert name in found, f"{lock} lacks {name} for Python {python}"
        version = found[name][1]
        assert requirement.specifier.contains(version), f"{lock} has {name} {version}, setup.cfg wants {requirement}"


def test_the_build_backend_is_locked() -> None:
    """It is not downloaded again to install imageflow itself."""
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    found = pins("tools.txt", "3.11")
    for requirement in map(Requirement, required):
        assert requirement.specifier.contains(found[canonicalize_name(requirement.name)][1])


@pytest.mark.parametrize("python", PYTHONS)
def test_no_two_locks_disagree(python: str) -> None:
    """They are installed into one environment, one after the other."""
    seen: dict[str, tuple[str, str]] = {}
    for lock in LOCKS:
        for name, (_, version) in pins(lock, python).items():
            other = seen.setdefault(name, (version, lock))
            assert other[0] == version, f"{name}: {version} in {lock}, {other[0]} in {other[1]}"


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_is_versions_and_hashes(lock: str) -> None:
    """And nothing of where it was made: no address, no path, no option."""
    for entry in entries(lock):
        pin, *hashes = entry.split("--hash=")
        assert re.fullmatch(r"[\w.-]+(\[[\w,-]+\])?==[\w.]+ *(;[^/@]*)?", pin.strip()), pin
        assert hashes
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", one.strip()) for one in hashes), pin
