"""What changed while nobody watched: found by what the last build was made from."""

from __future__ import annotations

from tests.integration.watch.watched_site import BOOT, built, look, sha
from tests.small.polled import Site, images


def test_a_change_while_nobody_watched_is_made_up_for(site: Site) -> None:
    (site.folder / "site.conf").write_text("new")
    (site.folder / "same.conf").write_text("same")
    (site.folder / "never.conf").write_text("x")
    site.register(images(web="{watch: ./site.conf}, {watch: same.conf}, {watch: never.conf}"))
    built(site, {"file:site.conf": sha(b"old"), "file:same.conf": sha(b"same")})
    look(site)
    look(site)
    [event] = site.events()
    assert (event.data["input"], event.data["before"], event.data["after"]) == ("site.conf", sha(b"old"), sha(b"new"))


def test_folders_that_changed_while_nobody_watched(site: Site) -> None:
    from imageflow.inputs.elements import tree_digest

    for name in ("role", "same", "element"):
        (site.folder / name).mkdir()
        (site.folder / name / "main.yml").write_text("new")
    site.register(images(web="{watch: role}, {watch: same}, {watch: element}"))
    built(
        site,
        {
            "file:role/main.yml": sha(b"old"),
            "file:same/main.yml": sha(b"new"),
            "element:element": tree_digest(site.folder / "same"),
        },
    )
    look(site)
    assert [event.data["input"] for event in site.events()] == ["role"]
    (site.folder / "element" / "main.yml").write_text("newer")
    look(site)
    assert [event.data["input"] for event in site.events()] == ["role", "element"]


def test_the_file_of_a_base(site: Site) -> None:
    base = site.folder / "base.qcow2"
    base.write_bytes(b"new")
    site.register(BOOT.format(base="{file: base.qcow2}"))
    built(site, {"base:file": sha(b"old")})
    look(site)
    base.write_bytes(b"newer")
    look(site)
    assert [event.data["input"] for event in site.events()] == ["base", "base"]
    assert [event.data["before"] for event in site.events()] == [sha(b"old"), sha(b"new")]
