"""Whatever bytes a recipe is: images, or RecipeError; never a traceback, never a hang."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, example, given
from hypothesis import strategies as st

from imageflow import recipe
from imageflow.errors import RecipeError
from tests.examples import examples

RELAXED = examples(3, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def load(folder: Path, data: bytes, values: dict[str, str] | None = None) -> recipe.Recipe | None:
    """The recipe, or None where it was refused in a printable way."""
    file = folder / "r.yaml"
    file.write_bytes(data)
    try:
        loaded = recipe.load(file, values)
    except RecipeError as error:
        assert str(error)
        str(error).encode()
        assert all(c.isprintable() or c == "\n" for c in str(error))
        return None
    for image in loaded.images:
        text = json.dumps(image.canonical(), allow_nan=False)
        text.encode()
        assert recipe.ImageRecipe.from_json(json.loads(text)) == recipe.ImageRecipe.from_json(image.canonical())
    return loaded


@RELAXED
@given(data=st.binary(max_size=300))
@example(data=b"\xef\xbb\xbf")
@example(data=b"%YAML 9.9\n---\n")
@example(data=b"!!int ''")
@example(data=b"a: !!bool x")
@example(data=b"a: !!float x")
@example(data=b"a: !!timestamp x")
@example(data=b"a: =")
@example(data=b"=: a")
@example(data=b"<<: a")
@example(data=b"<<: [a]")
@example(data=b"- <<: {a: b}")
@example(data=b"a: 2024-99-99")
@example(data=b"a: 1:99")
@example(data=b"a: 0x")
@example(data=b"a: 0b2")
@example(data=b"? ? ? a")
@example(data=b"&a a: *a")
@example(data=b"&a : *a")
@example(data=b"a: &a !!set {b}")
@example(data=b"- - - -")
@example(data=b'"\\U0010FFFF"')
@example(data=b'"\\UFFFFFFFF"')
def test_any_bytes(tmp_path: Path, data: bytes) -> None:
    load(tmp_path, data)


@RELAXED
@given(text=st.text(alphabet="aimges:-[]{}&*!|>?,#'\"\\ \n\t0159.%@`", max_size=200))
def test_any_text_of_yaml(tmp_path: Path, text: str) -> None:
    load(tmp_path, text.encode())


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["dib", "vm", "../x", "qcow2", "{secret: a}"]),
)
KEYS = st.sampled_from(
    [
        *["images", "name", "method", "dib", "configure", "outputs", "publish", "on_failure", "timeout", "base", "on"],
        *["elements", "environment", "types", "imagename", "image-size", "debug-trace", "packages", "files", "users"],
        *[
            "pip",
            "services",
            "source",
            "content",
            "path",
            "mode",
            "password",
            "secret",
            "enable",
            "keep",
            "build",
            "image",
        ],
    ]
)
TREES: st.SearchStrategy[Any] = st.recursive(
    SCALARS, lambda below: st.lists(below, max_size=3) | st.dictionaries(KEYS, below, max_size=4), max_leaves=12
)


@RELAXED
@given(tree=TREES)
def test_any_tree_of_our_keys(tmp_path: Path, tree: Any) -> None:
    load(tmp_path, yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass"))


@RELAXED
@given(key=KEYS, value=TREES, more=st.dictionaries(KEYS, TREES, max_size=2))
def test_a_good_image_with_anything_in_it(tmp_path: Path, key: str, value: Any, more: dict[str, Any]) -> None:
    image = {"name": "a", "method": "dib", "dib": {"elements": ["vm"]}} | more | {key: value}
    load(tmp_path, yaml.safe_dump({"images": [image]}, allow_unicode=True).encode("utf-8", "surrogatepass"))


@RELAXED
@given(entry=st.dictionaries(KEYS, TREES, max_size=4), first=st.booleans())
def test_any_definition(tmp_path: Path, entry: dict[str, Any], first: bool) -> None:
    entries = [{"elements": ["vm"]}, entry] if first else [entry]
    load(tmp_path, yaml.safe_dump(entries, allow_unicode=True).encode("utf-8", "surrogatepass"))


@RELAXED
@given(
    key=st.text(max_size=30) | st.lists(KEYS | st.just("0"), min_size=1, max_size=5).map(".".join),
    value=st.text(max_size=30),
)
def test_any_setting(tmp_path: Path, key: str, value: str) -> None:
    text = "images:\n  - {name: a, method: dib, dib: {elements: [vm]}, configure: [{packages: [b]}]}\n"
    with contextlib.suppress(RecipeError):
        load(tmp_path, text.encode(), {key: value})
