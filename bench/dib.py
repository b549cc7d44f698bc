"""A real Debian image: imageflow against bare disk-image-create, and the unchanged rebuild.

Both sides run on this machine in turn, with their caches warm: the bootstrapped system and the packages.
The bare side is `disk-image-create` as its manual has it, with the same elements, mirrors, arguments and
zstd compression, in namespaces that die with this program. imageflow does more in the same time, all of
it counted: the process and its imports, pins (elements, tools, the archives' Release files), the queue,
step records, a package manifest, the SHA-256 of the image, and a store whose files are on the disk when
it ends. It does one thing faster: qemu-img compresses with threads (-m 16 -W), which diskimage-builder
can't be told to.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.measure import Result, Side, alternate, timed
from bench.site import write_config
from imageflow.inputs import archives

ELEMENTS = ("debian-minimal", "openssh-server")
RELEASE = "bookworm"
RECIPE = f"""\
images:
  - name: bench
    method: dib
    dib:
      arch: amd64
      elements: [{", ".join(ELEMENTS)}]
      environment: {{DIB_RELEASE: {RELEASE}}}
    outputs: [qcow2]
"""
# A killed measurement leaves no mount behind: the bare side builds in namespaces that die with it.
ALONE = ("setpriv", "--pdeathsig", "KILL", "--", "unshare", "--mount", "--propagation", "private")
ALONE = (*ALONE, "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "--")
BIN = Path(sys.executable).parent


class Bare:
    """diskimage-builder by itself."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        (folder / "tmp").mkdir()
        hosts = archives.mirrors({}, archives.family(ELEMENTS)).environment()
        self._env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("DIB_")},
            "PATH": f"{BIN}:{os.environ['PATH']}",
            **hosts,
            "DIB_RELEASE": RELEASE,
            "TMPDIR": str(folder / "tmp"),
            "DIB_IMAGE_CACHE": str(folder / "cache"),
            "DIB_DEBIAN_USE_DEBOOTSTRAP_CACHE": "1",
            "DIB_DEBOOTSTRAP_CACHE": "1",  # without it the cache is read, but never written
        }
        self.log = folder / "log"

    def build(self) -> None:
        """One image, to its end."""
        out = self._folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        argv = [*ALONE, "disk-image-create", "-a", "amd64", "-o", str(out / "bench"), "-t", "qcow2"]
        argv += ["--qemu-img-options", "compression_type=zstd", *ELEMENTS]
        _run(argv, self.log, self._env)
        assert (out / "bench.qcow2").stat().st_size > 50 << 20


class Ours:
    """The same with imageflow, each time in a new process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._config = write_config(folder)
        self._state = folder / "state"
        self._recipe = folder / "recipe.yaml"
        self._recipe.write_text(RECIPE)
        self.log = folder / "log"

    def create(self, *options: str) -> dict[str, Any]:
        """`imageflow build create`; -> its row."""
        argv = [str(BIN / "imageflow"), "--state-dir", str(self._state), "build", "create", "-f", "json"]
        said = _run([*argv, *options, str(self._recipe)], self._folder / "log", dict(os.environ))
        [row] = json.loads(said)
        return dict(row)

    def build(self) -> None:
        """One image, to its end."""
        row = self.create("--wait", "--force")
        assert row["verdict"] == "created", row
        assert row["state"] == "succeeded", row
        assert Path(row["path"]).stat().st_size > 50 << 20
        self.log = self._state / "logs" / f"{row['id']}.log"

    def rebuild(self) -> None:
        """The same inputs again."""
        row = self.create()
        assert row["verdict"] == "reused", row

    def steps(self) -> str:
        """Where the time of the last build went."""
        listed = json.loads(self._imageflow("build", "list", "-f", "json"))
        return self._imageflow("build", "show", listed[0]["id"] if "id" in listed[0] else listed[0]["ID"])

    def _imageflow(self, *arguments: str) -> str:
        return _run([str(BIN / "imageflow"), "--state-dir", str(self._state), *arguments], self._folder / "log", None)


def _warm(log: Path) -> str:
    """What a build fetched, from apt's output; '' unless it began with a bootstrapped system from its cache."""
    text = log.read_text("utf-8", "replace")
    fetched = re.findall(r"Need to get ([\d.,]+ k?M?B)", text)
    return f"apt fetched {', '.join(fetched) or 'nothing'}" if "found in cache. Using." in text else ""


def _run(argv: list[str], log: Path, env: dict[str, str] | None) -> str:
    with log.open("ab") as file:
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=file, env=env, cwd=log.parent, check=False)
        file.write(done.stdout)
    if done.returncode:
        tail = "\n".join(log.read_text("utf-8", "replace").splitlines()[-15:])
        raise SystemExit(f"{argv[0]} ended with exit code {done.returncode}:\n{tail}")
    return done.stdout.decode()


def run(rounds: int = 5) -> list[Result]:
    """Wall seconds of whole processes."""
    if os.geteuid() != 0:
        raise SystemExit("diskimage-builder needs root: run this benchmark as root")
    with tempfile.TemporaryDirectory(prefix="imageflow-bench-") as name:
        bare, ours = Bare(Path(name) / "bare"), Ours(Path(name) / "ours")
        processor: dict[str, list[float]] = {"ours": [], "bare": []}

        fetched: dict[str, list[str]] = {"ours": [], "bare": []}

        def counted(side: str, maker: Ours | Bare) -> Callable[[], None]:
            def run() -> None:
                before = resource.getrusage(resource.RUSAGE_CHILDREN)
                maker.build()
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                fetched[side].append(_warm(maker.log))
                processor[side].append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)

            return run

        sides = (
            Side("imageflow, s", timed(counted("ours", ours))),
            Side("disk-image-create, s", timed(counted("bare", bare))),
        )
        alternate(sides, rounds, warm_up=2)  # the first fills the caches, the second uses what it filled
        again = Side("imageflow again, s", timed(ours.rebuild))
        alternate((again,), rounds)
        print(ours.steps(), flush=True)
    cold = [side for side, words in fetched.items() if not all(words[-rounds:])]
    used = [statistics.median(values[-rounds:]) for values in processor.values()]
    pairs = [one / other for one, other in zip(sides[0].values, sides[1].values, strict=True)]
    return [
        Result(
            "a Debian image through imageflow against disk-image-create",
            sides[0].median,
            sides[1].median,
            "s",
            1.03,
            failed=f"cold caches: {', '.join(cold)}" if cold else "",
            notes=(
                f"pair by pair: {' '.join(f'{pair:.3f}' for pair in pairs)}; their median {statistics.median(pairs):.3f}",
                f"processor time: {used[0]:.1f} s against {used[1]:.1f} s, ratio {used[0] / used[1]:.3f}",
                f"caches warm on both sides; ours: {fetched['ours'][-1]}; bare: {fetched['bare'][-1]}",
                "ours includes pins, manifest, SHA-256 and durable storage; its convert uses qemu-img's threads",
            ),
        ),
        Result("unchanged rebuild against the build itself", again.median, sides[0].median, "s", 0.02),
    ]
