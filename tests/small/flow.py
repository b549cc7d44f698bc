"""Steps that leave traces: each runs a real child and makes a folder with a ledger row; its revert removes the folder.

Files in the trace folder steer a step by its name: `fail-STEP` makes it fail (with the words in it), `left-STEP` makes its
revert fail, `die-STEP` and `die-revert-STEP` kill the worker in it, `slow-STEP` holds seconds
to take, `fill-STEP` makes it fill the disk, `tell-STEP` makes a child print a secret and fail, `shout-STEP`
makes the step fail with a secret in its error.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from taskflow.patterns import linear_flow

from imageflow.errors import Refused
from imageflow.host import process
from imageflow.model import ResourceKind
from imageflow.tasks.base import Task


class Trace:
    """The folder where the steps of a test write down what they do."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def add(self, **record: Any) -> None:
        line = json.dumps({**record, "pid": os.getpid(), "time": time.time()}) + "\n"
        with (self.folder / "trace").open("a") as file:
            file.write(line)

    def read(self, **match: Any) -> list[dict[str, Any]]:
        with contextlib.suppress(FileNotFoundError):
            records = [json.loads(line) for line in (self.folder / "trace").read_text().splitlines()]
            return [record for record in records if match.items() <= record.items()]
        return []

    def executed(self, build_id: str) -> list[str]:
        return [record["execute"] for record in self.read(build=build_id) if "execute" in record]

    def reverted(self, build_id: str) -> list[str]:
        return [record["revert"] for record in self.read(build=build_id) if "revert" in record]

    def set(self, name: str, content: str = "") -> None:
        (self.folder / name).write_text(content)

    def unset(self, name: str) -> None:
        (self.folder / name).unlink()

    def has(self, name: str) -> bool:
        return (self.folder / name).exists()

    @contextlib.contextmanager
    def alone(self, build_id: str, step: str) -> Iterator[None]:
        """Records an overlap when the same step of the same build runs twice at once."""
        with (self.folder / f"lock-{build_id}-{step}").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                self.add(overlap=step, build=build_id)
            yield


class Trail(Task):
    """Makes a folder, runs a child in it, leaves traces; takes the folder of the step before."""

    def __init__(self, step: str, folder: str, takes: Sequence[str] = (), **kwargs: Any) -> None:
        self.step = step  # type: ignore[misc]
        super().__init__(requires=[f"made_{name}" for name in takes], **{"provides": f"made_{step}", **kwargs})
        self._trace = Trace(Path(folder))

    def execute(
        self, build: Any, config: Any, ledger: Any, log: Any, control: Any, progress: Any, secret: Any, **_: Any
    ) -> Any:
        made = config.builds_dir / f"{build.id}-{self.step}"
        with self._trace.alone(build.id, self.step):
            self._trace.add(execute=self.step, build=build.id)
            ledger.open(ResourceKind.DIRECTORY, str(made))
            made.mkdir(parents=True, exist_ok=True)
            if self._trace.has(f"die-{self.step}") or self._trace.has(f"die-{self.step}-{build.id}"):
                os.kill(os.getpid(), signal.SIGKILL)
            seconds = 0.02
            if self._trace.has(f"slow-{self.step}"):
                seconds = float((self._trace.folder / f"slow-{self.step}").read_text() or 0.02)
            process.run(
                ["sh", "-c", f"echo $$ >> pids; echo working on {self.step}; sleep {seconds}"],
                control=control,
                log=log,
                cwd=made,
            )
            progress(0.5, "half")
            if self._trace.has(f"fill-{self.step}"):
                with (made / "fill").open("wb", buffering=0) as file:
                    while True:
                        file.write(bytes(1 << 16))
            if self._trace.has(f"tell-{self.step}"):
                value = secret("door")
                process.run(
                    ["sh", "-c", 'echo "the key is $DOOR"; exit 3'], control=control, log=log, env={"DOOR": value}
                )
            if self._trace.has(f"shout-{self.step}"):
                raise Refused(f"the key is {secret('door')}")
            if self._trace.has(f"fail-{self.step}"):
                why = (self._trace.folder / f"fail-{self.step}").read_text(errors="surrogatepass")
                raise Refused(why or f"{self.step} was told to fail", hint="take the file away")
        return {"made": str(made)}

    def revert(self, build: Any, config: Any, ledger: Any, **_: Any) -> None:
        made = config.builds_dir / f"{build.id}-{self.step}"
        self._trace.add(revert=self.step, build=build.id)
        if self._trace.has(f"die-revert-{self.step}"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self._trace.has(f"left-{self.step}"):
            raise Refused(f"{self.step} can't be removed")
        shutil.rmtree(made, ignore_errors=True)
        ledger.close(ResourceKind.DIRECTORY, str(made))

    def survives(self, result: Any) -> bool:
        return Path(result["made"]).is_dir()


class Publish(Trail):
    """Reports an image."""

    def execute(
        self, build: Any, config: Any, ledger: Any, log: Any, control: Any, progress: Any, secret: Any, **_: Any
    ) -> Any:
        super().execute(build, config, ledger, log, control, progress, secret)
        return {
            "image": build.image,
            "store": "none",
            "digest": f"{build.id}{'0' * 52}",
            "path": "nowhere",
            "artifacts": [],
            "packages": None,
            "content": None,
            "properties": {},
        }

    def survives(self, result: Any) -> bool:
        return True


class Tidy(Trail):
    """Removes the folders."""

    def execute(
        self, build: Any, config: Any, ledger: Any, log: Any, control: Any, progress: Any, secret: Any, **_: Any
    ) -> Any:
        super().execute(build, config, ledger, log, control, progress, secret)
        for made in config.builds_dir.glob(f"{build.id}-*"):
            shutil.rmtree(made, ignore_errors=True)
        for step in ALL:
            ledger.close(ResourceKind.DIRECTORY, str(config.builds_dir / f"{build.id}-{step}"))


STEPS = ("fetch", "boot", "configure", "snapshot")
ALL = (*STEPS, "publish", "tidy")


def small(folder: str) -> linear_flow.Flow:
    """Four steps, each from the one before, a publication of all, and the end."""
    steps = [Trail(step, folder, STEPS[:at][-1:]) for at, step in enumerate(STEPS)]
    return linear_flow.Flow("small").add(
        *steps, Publish("publish", folder, STEPS, provides="publication"), Tidy("tidy", folder)
    )
