"""`on:` in a recipe: its canonical form, every problem with its place and the way out, and what it does not decide."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from imageflow import recipe
from imageflow.errors import RecipeError
from imageflow.events import triggers
from imageflow.inputs import fingerprint
from tests.cpu import spent
from tests.examples import examples

HEAD = "images:\n  - name: web\n    method: boot\n    base: {image: debian-base}\n    on:\n"


def load(folder: Path, text: str) -> recipe.Recipe:
    file = folder / "recipe.yaml"
    file.write_text(text)
    return recipe.load(file)


def on(folder: Path, *entries: str) -> list[dict[str, Any]]:
    """The canonical form of these entries."""
    canonical = load(folder, HEAD + "".join(f"      - {entry}\n" for entry in entries)).images[0].canonical()
    assert len(triggers.triggers_of(canonical)) == len(entries)
    found: list[dict[str, Any]] = json.loads(json.dumps(canonical["on"]))
    return found


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load(folder, text)
    return str(caught.value).replace(f"{folder}/", "").replace(str(folder), "FOLDER").splitlines()


def test_the_canonical_form(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "base").touch()
    found = on(
        tmp_path,
        "{schedule: ' 0  3 * * MON-FRI', timezone: Europe/Berlin, jitter: 300}",
        "{schedule: '*/5 * * * *'}",
        "{image: debian-base}",
        "{event: git.push, where: {repository: infra, any: [{ref: {glob: refs/*}}, {not: {n: {in: [1, yes]}}}]}}",
        "{event: glance.image.*}",
        "{git: git@forge.example:acme/infra.git, ref: main, every: 60}",
        "{git: https://forge.example/acme/infra, ref: refs/tags/v*}",
        "{watch: ./site/}",
        "{watch: ./base, every: 5}",
        f"{{watch: {tmp_path.parent}}}",
        "{watch: 'https://x.example/y'}",
    )
    assert found == [
        {"schedule": "0 3 * * MON-FRI", "timezone": "Europe/Berlin", "jitter": 300},
        {"schedule": "*/5 * * * *", "timezone": "UTC", "jitter": 0},
        {"image": "debian-base"},
        {
            "event": "git.push",
            "where": {
                "repository": "infra",
                "any": [{"ref": {"glob": "refs/*"}}, {"not": {"n": {"in": [1, True]}}}],
            },
        },
        {"event": "glance.image.*", "where": {}},
        {"git": "git@forge.example:acme/infra.git", "ref": "refs/heads/main", "every": 60},
        {"git": "https://forge.example/acme/infra", "ref": "refs/tags/v*", "every": None},
        {"watch": "site", "every": None},
        {"watch": "./base", "every": 5},
        {"watch": str(tmp_path.parent), "every": None},
        {"watch": "https://x.example/y", "every": None},
    ]


WRONG = {
    "{schedule: '0 25 * * *'}": "schedule: '0 25 * * *' is not a cron expression: bad hour"
    " (minute, hour, day of month, month, day of week, such as '0 3 * * *')",
    "{schedule: '@daily'}": "schedule: '@daily' is not a cron expression of five fields (write '0 0 * * *')",
    "{schedule: '0 0 3 * * *'}": "schedule: '0 0 3 * * *' is not a cron expression of five fields"
    " (minute, hour, day of month, month, day of week, such as '0 3 * * *')",
    "{schedule: '0 0 31 2 *'}": "schedule: '0 0 31 2 *' is not a cron expression: bad day-of-month"
    " (minute, hour, day of month, month, day of week, such as '0 3 * * *')",
    "{schedule: '0 3 * * *', timezone: Europe/Berln}": "timezone: 'Europe/Berln' is not a time zone"
    " (did you mean 'Europe/Berlin'?)",
    "{schedule: '0 3 * * *', timezone: ../../etc/passwd}": "timezone: '../../etc/passwd' is not a time zone"
    " (a name such as Europe/Berlin, or UTC)",
    "{schedule: '0 3 * * *', jitter: -1}": "jitter: -1 is too small (0 or more)",
    "{schedule: '0 3 * * *', image: x}": "image: there is no such key (write it as an entry of its own: - {image: …})",
    "{schedule: '0 3 * * *', every: 3}": "every: there is no such key (it belongs to {git: …} or {watch: …})",
    "{image: web}": "image: an image can't ask for itself (remove the entry)",
    "{image: 'a b'}": "image: 'a b' is not a usable name"
    " (letters, digits, '.', '_' and '-', beginning with a letter or digit, at most 128)",
    "{event: push}": "event: nothing sends events of type 'push' (write git.push)",
    "{event: Tag_Push}": "event: nothing sends events of type 'Tag_Push' (write git.tag)",
    "{event: git.psuh}": "event: there are no events of type 'git.psuh' (did you mean 'git.push'?)",
    "{event: imageflow.image.foo}": "event: there are no events of type 'imageflow.image.foo'"
    " (did you mean 'imageflow.image.publish'?)",
    "{event: ''}": "event: is not the type of an event (such as git.push, or glance.image.*)",
    "{event: a, ref: main}": "ref: there is no such key (conditions on the event go below 'where:': where: {ref: …})",
    "{event: a, wehre: {}}": "wehre: there is no such key (did you mean 'where'?)",
    "{event: a, where: [b]}": "where: is a list, expected a mapping",
    "{event: a, where: {$subjet: x}}": "where.$subjet: an event has no such attribute (did you mean '$subject'?)",
    "{event: a, where: {b: {eq: x}}}": "where.b.eq: there is no such comparison (write the value itself)",
    "{event: a, where: {b: {golb: x}}}": "where.b.golb: there is no such comparison (did you mean 'glob'?)",
    "{event: a, where: {b: [x]}}": "where.b: is not a single value (for one of several, {in: […]})",
    "{event: a, where: {b: }}": "where.b: is empty (for a field that is not there, {exists: false})",
    "{event: a, where: {b: {}}}": "where.b: is empty"
    " (name a value, or one of glob, regex, in, ne, lt, le, gt, ge, exists)",
    "{event: a, where: {b: {regex: '('}}}": "where.b.regex: is not a regular expression of RE2: missing ): ("
    " (its syntax: github.com/google/re2/wiki)",
    "{event: a, where: {b: {glob: 3}}}": 'where.b.glob: 3 is a number, expected text (write it in quotes: "3")',
    "{event: a, where: {b: {in: x}}}": "where.b.in: x is text, expected a list (write [x])",
    "{event: a, where: {b: {in: []}}}": "where.b.in: is empty (add a value)",
    "{event: a, where: {b: {in: [x, {}]}}}": "where.b.in[1]: is not a single value",
    "{event: a, where: {b: {exists: 1}}}": "where.b.exists: 1 is a number, expected true or false",
    "{event: a, where: {b: {lt: yes}}}": "where.b.lt: true and false have no order (compare with a number or a text)",
    "{event: a, where: {b: {all: []}}}": "where.b.all: 'all' comes before fields, not after one (all: {b: …})",
    "{event: a, where: {any: {b: c}}}": "where.any: is a mapping, expected a list",
    "{event: a, where: {any: []}}": "where.any: is empty (add a condition, or remove the key)",
    "{event: a, where: {all: [{b: c}, {b: {ne: }}]}}": "where.all[1].b.ne: is empty"
    " (for a field that is not there, {exists: false})",
    "{event: a, where: {not: [b]}}": "where.not: is a list, expected a mapping",
    "{event: a, where: {$time: {gt: tomorrow}}}": "where.$time.gt: is not a time"
    ' (in quotes, such as "2026-01-31T12:00:00Z")',
    "{git: 'https://me:pw@h/x', ref: main}": "git: has a user's credentials in its URL"
    " (keep them in git's own configuration, or ~/.netrc)",
    "{git: 'ext::sh -c id', ref: main}": "git: is not a repository's URL"
    " (https://…, ssh://…, git://…, file://…, USER@HOST:PATH or /PATH)",
    "{git: --upload-pack=id, ref: main}": "git: is not a repository's URL"
    " (https://…, ssh://…, git://…, file://…, USER@HOST:PATH or /PATH)",
    "{git: 'https://h/x'}": "ref: is missing (add 'ref: main', or another branch)",
    "{git: 'https://h/x', ref: HEAD}": "ref: HEAD is not a ref that can be watched (name the branch, such as main)",
    "{git: 'https://h/x', ref: --all}": "ref: '--all' is not a ref (a branch such as main, or refs/tags/v*)",
    "{git: 'https://h/x', ref: main, every: 0}": "every: 0 is too small (1 or more)",
    "{watch: base}": "watch: its base is an image (write {image: debian-base} instead)",
    "{watch: iso}": "watch: the image has no 'iso' (a file of this name is written ./iso)",
    "{watch: nope}": "watch: there is no file or folder nope (paths are relative to FOLDER)",
    "{watch: ''}": "watch: can't be watched (base, iso, a file, a folder, or a URL)",
    "{watch: 'ftp://x/y'}": "watch: has a URL that can't be watched"
    " (http://, https:// or file://; a repository is {git: URL})",
    "{imgae: x}": None,
    "{}": "is not a trigger (each entry has one of schedule, image, event, git or watch)",
    "foo": "foo is text, expected a mapping",
}


@pytest.mark.parametrize("entry", WRONG)
def test_what_is_wrong_is_said_with_its_place(entry: str, tmp_path: Path) -> None:
    found = problems(tmp_path, HEAD + "      - {image: debian-base}\n" + f"      - {entry}\n")
    said = WRONG[entry]
    if said is None:
        assert found == [
            "recipe.yaml:7: images[0].on[1].image: is missing",
            "recipe.yaml:7: images[0].on[1].imgae: there is no such key (did you mean 'image'?)",
        ]
    elif said.startswith(("is not a trigger", "foo")):
        assert found == [f"recipe.yaml:7: images[0].on[1]: {said}"]
    else:
        assert found == [f"recipe.yaml:7: images[0].on[1].{said}"]


def test_each_line_is_named(tmp_path: Path) -> None:
    text = HEAD + (
        "      - event: git.push\n        where:\n          repository: infra\n          any:\n"
        "            - ref: {glob: x}\n            - ref:\n                globe: x\n"
    )
    (line,) = problems(tmp_path, text)
    assert line.startswith("recipe.yaml:12: images[0].on[0].where.any[1].ref.globe: there is no such comparison")


def test_limits(tmp_path: Path) -> None:
    deep = "{b: c}"
    for _ in range(9):
        deep = f"{{not: {deep}}}"
    many = ", ".join(f"f{n}: 1" for n in range(201))
    for entry, said in (
        (f"{{event: a, where: {deep}}}", "is nested deeper than 8 conditions"),
        (f"{{event: a, where: {{{many}}}}}", "is one field more than the 200"),
        (f"{{event: a, where: {{b: {'x' * 1001}}}}}", "is longer than 1000 characters"),
    ):
        (line,) = problems(tmp_path, HEAD + f"      - {entry}\n")
        assert said in line
    (line,) = problems(tmp_path, HEAD + "      - {image: b}\n" * 101)
    assert "on: has too many entries (at most 100)" in line


def test_a_cron_expression_can_not_be_used_to_keep_us_busy(tmp_path: Path) -> None:
    with spent() as seconds:
        for schedule in ("1" * 5000, "0 0 29 2 0#5", ",".join(["*"] * 90) + " * * * *", "0 0 L 2 *", "1-1/0 * * * *"):
            try:
                on(tmp_path, f"{{schedule: '{schedule}'}}")
            except RecipeError as error:
                assert str(error).isprintable()
    assert seconds() < 5


# -- between images ------------------------------------------------------------------------------


def images(*lines: str) -> str:
    return "images:\n" + "".join(
        f"  - {{name: {line.split()[0]}, method: dib, dib: {{elements: [vm]}}, on: {line.partition(' ')[2] or '[]'}}}\n"
        for line in lines
    )


def test_images_that_wait_for_each_other(tmp_path: Path) -> None:
    assert problems(
        tmp_path, images("a [{image: b}]", "b [{schedule: '0 3 * * *'}, {image: c}]", "c [{image: a}]")
    ) == [
        "recipe.yaml:2: images[0].on[0].image: cyclic base and 'on': a → b → c → a"
        " (an image can't be built after itself: remove one of them)"
    ]
    text = images("a [{image: b}]") + "  - {name: b, method: boot, base: {image: a}}\n"
    assert problems(tmp_path, text) == [
        "recipe.yaml:2: images[0].on[0].image: cyclic base and 'on': a → b → a"
        " (an image can't be built after itself: remove one of them)"
    ]


def test_a_diamond_is_no_circle(tmp_path: Path) -> None:
    text = images("a", "b [{image: a}]", "c [{image: a}]", "d [{image: b}, {image: c}, {image: elsewhere}]")
    assert len(load(tmp_path, text).images) == 4


def test_many_images_in_circles_are_told_shortly_and_soon(tmp_path: Path) -> None:
    count = 1500
    names = [f"i{n} [{{image: i{(n + 1) % count}}}, {{image: i{(n * 7) % count}}}]" for n in range(2, count)]
    with spent() as seconds:
        found = problems(tmp_path, images("i0 [{image: i1}]", "i1 [{image: i2}]", *names))
    assert seconds() < 20
    assert len(found) <= 31
    assert all(len(line) < 400 for line in found)


@examples(0.6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    edges=st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 5)).filter(lambda edge: edge[0] != edge[1]), max_size=8, unique=True
    )
)
def test_a_recipe_is_refused_exactly_when_it_has_a_circle(tmp_path: Path, edges: list[tuple[int, int]]) -> None:
    from imageflow.registry import lineage

    above = {f"i{n}": [f"i{of}" for at, of in edges if at == n] for n in range(6)}
    text = images(*(f"{name} [{', '.join(f'{{image: {of}}}' for of in parents)}]" for name, parents in above.items()))
    if lineage.cycle(above) is None:
        assert len(load(tmp_path, text).images) == 6
    else:
        assert all("cyclic" in line for line in problems(tmp_path, text))


def test_a_base_that_can_be_watched(tmp_path: Path) -> None:
    (tmp_path / "disk.qcow2").touch()
    for base in ("file: disk.qcow2", "url: 'http://x/d', checksums: 'http://x/SHA256SUMS'"):
        text = HEAD.replace("image: debian-base", base) + "      - {watch: base}\n"
        assert load(tmp_path, text).images[0].canonical()["on"] == [{"watch": "base", "every": None}]
    fixed = HEAD.replace("image: debian-base", f"url: 'http://x/d', sha256: '{'0' * 64}'") + "      - {watch: base}\n"
    assert problems(tmp_path, fixed) == [
        "recipe.yaml:6: images[0].on[0].watch: its base can't change: its sha256 is in the recipe"
        " (use 'checksums:' instead)"
    ]


# -- what it does not decide ---------------------------------------------------------------------


def test_triggers_decide_nothing_about_the_image(tmp_path: Path) -> None:
    plain = load(tmp_path, HEAD.removesuffix("    on:\n")).images[0].canonical()
    asked = load(tmp_path, HEAD + "      - {image: debian-base}\n").images[0].canonical()
    old = {key: value for key, value in plain.items() if key != "on"}
    assert plain["on"] == [] and asked["on"] == [{"image": "debian-base"}]
    keys = {fingerprint.build_key(each, {"base:image:debian-base": "0" * 64}) for each in (old, plain, asked)}
    assert len(keys) == 1


def test_recipes_stored_before_there_were_triggers() -> None:
    image = recipe.ImageRecipe.from_json({"name": "old", "method": "dib", "dib": {"elements": ["vm"]}})
    assert triggers.triggers_of(image.canonical()) == ()


# -- the schema for editors ----------------------------------------------------------------------


def test_the_schema_agrees_with_the_loader(tmp_path: Path) -> None:
    schema = recipe.schema()
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    good = [
        "{schedule: '0 3 * * *', timezone: UTC, jitter: 3}",
        "{image: a}",
        "{event: x, where: {a: b, c: {glob: x}, all: [{n: {in: [1]}}], not: {m: {exists: false}}}}",
        "{git: 'https://h/x', ref: main, every: 5}",
        "{watch: 'https://h/x'}",
    ]
    assert on(tmp_path, *good)
    text = HEAD + "".join(f"      - {entry}\n" for entry in good)
    assert [error.message for error in validator.iter_errors(yaml.safe_load(text.replace(" on:", " 'on':")))] == []
    for bad in (
        "{}",
        "{image: a, event: b}",
        "{git: 'https://h/x'}",
        "{event: x, where: {a: {golb: x}}}",
        "{event: x, where: {a: }}",
        "{event: x, where: {all: []}}",
        "{watch: x, every: 0}",
        "text",
    ):
        spoiled = HEAD + f"      - {bad}\n"
        assert not validator.is_valid(yaml.safe_load(spoiled.replace(" on:", " 'on':"))), bad
        problems(tmp_path, spoiled)


# -- hostile -------------------------------------------------------------------------------------

WORDS = st.sampled_from(
    ["schedule", "timezone", "jitter", "image", "event", "where", "git", "ref", "every", "watch", "all", "any", "not"]
)
VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | WORDS
TREES: st.SearchStrategy[Any] = st.recursive(
    VALUES | st.sampled_from(["0 3 * * *", "UTC", "git.push", "main", "https://h/x", "base"]),
    lambda below: (
        st.lists(below, max_size=3)
        | st.dictionaries(
            WORDS | st.sampled_from(["glob", "in", "$time", "a"]) | st.text(max_size=3), below, max_size=4
        )
    ),
    max_leaves=12,
)


@examples(3, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(value=TREES | st.lists(st.dictionaries(WORDS, TREES, max_size=3), max_size=3))
def test_anything_is_a_recipe_or_refused_in_words(tmp_path: Path, value: Any) -> None:
    image = {"name": "a", "method": "dib", "dib": {"elements": ["vm"]}, "on": value}
    file = tmp_path / "recipe.yaml"
    file.write_bytes(yaml.safe_dump({"images": [image]}, allow_unicode=True).encode("utf-8", "surrogatepass"))
    try:
        loaded = recipe.load(file)
    except RecipeError as error:
        assert all(c.isprintable() or c == "\n" for c in str(error))
        return
    canonical = json.loads(json.dumps(loaded.images[0].canonical(), allow_nan=False))
    for trigger in triggers.triggers_of(canonical):
        assert len(triggers.probe(trigger)) <= 32
