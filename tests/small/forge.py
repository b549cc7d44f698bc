"""A repository of recipes with a working tree, which others fetch from."""

from __future__ import annotations

from pathlib import Path

from tests.small.polled import git

IMAGE = """
images:
  - name: {name}
    method: dib
    dib: {{elements: [tiny], skip-base: true{more}}}
    configure: [{{files: [{{path: /etc/motd, source: {name}.motd}}]}}]
    on: [{{schedule: "0 3 * * *"}}]
"""


class Forge:
    """A bare repository that others fetch from, and a working tree that commits to it."""

    def __init__(self, folder: Path) -> None:
        self.bare = folder / "acme" / "infra.git"
        self.work = folder / "work"
        git("init", "--quiet", "--bare", "--initial-branch=main", self.bare)
        git("init", "--quiet", "--initial-branch=main", self.work)
        self.url = f"file://{self.bare}"

    def write(self, name: str, text: str | None) -> None:
        file = self.work / name
        if text is None:
            file.unlink()
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)

    def image(self, name: str, motd: str = "0", more: str = "", folder: str = "recipes") -> None:
        self.write(f"{folder}/{name}.yaml", IMAGE.format(name=name, more=more))
        self.write(f"{folder}/{name}.motd", motd)

    def push(self, *words: str, branch: str = "main") -> str:
        """Commit what was written; -> the commit."""
        git("add", "--all", at=self.work)
        git("commit", "--quiet", "--allow-empty", "--message", "a change", at=self.work)
        git("push", "--quiet", *words, self.bare, f"HEAD:refs/heads/{branch}", at=self.work)
        return git("rev-parse", "HEAD", at=self.work)
