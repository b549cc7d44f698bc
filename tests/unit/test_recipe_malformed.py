"""Malformed recipes: one readable line for each problem, with file, line, key path and the way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from imageflow import recipe
from imageflow.errors import RecipeError
from tests.cpu import spent

HEAD = "images:\n  - name: web\n    method: dib\n"
DIB = "    dib: {elements: [debian-minimal]}\n"
GOOD = HEAD + DIB


def message(folder: Path, text: str | bytes, settings: dict[str, str] | None = None) -> str:
    """What a user reads, with the folder's name taken out."""
    file = folder / "recipe.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RecipeError) as caught:
        recipe.load(file, settings)
    assert caught.value.exit_code == 2
    return str(caught.value).replace(f"{folder}/", "").replace(str(folder), "FOLDER")


MALFORMED = {
    "unknown key": (
        GOOD + "    outptus: [raw]\n",
        "recipe.yaml:5: images[0].outptus: there is no such key (did you mean 'outputs'?)",
    ),
    "unknown key deep down": (
        GOOD + "    configure:\n      - files:\n          - {content: x, path: /x, moed: '0644'}\n",
        "recipe.yaml:7: images[0].configure[0].files[0].moed: there is no such key (did you mean 'mode'?)",
    ),
    "unknown key at the top": (
        "imags: []\n",
        "recipe.yaml:1: imags: there is no such key (did you mean 'images'?)",
    ),
    "unknown key of diskimage-builder": (
        HEAD + "    dib:\n      elements: [vm]\n      enviroment: {A: b}\n",
        "recipe.yaml:6: images[0].dib.enviroment: diskimage-builder knows no such key (did you mean 'environment'?)",
    ),
    "wrong type": (
        HEAD + "    dib:\n      elements: vm\n",
        "recipe.yaml:5: images[0].dib.elements: vm is text, expected a list (write [vm])",
    ),
    "number for text": (
        HEAD + "    dib:\n      elements: [vm]\n      environment:\n        DIB_RELEASE: 12\n",
        'recipe.yaml:7: images[0].dib.environment.DIB_RELEASE: 12 is a number, expected text (write it in quotes: "12")',
    ),
    "boolean for text": (
        HEAD + "    dib:\n      elements: [vm]\n      environment:\n        DIB_X: yes\n",
        'recipe.yaml:7: images[0].dib.environment.DIB_X: yes is a boolean, expected text (write it in quotes: "yes")',
    ),
    "mode without quotes": (
        GOOD + "    configure:\n      - files:\n          - content: x\n            path: /x\n            mode: 0644\n",
        "recipe.yaml:9: images[0].configure[0].files[0].mode: 0644 is a number, expected text"
        ' (write it in quotes: "0644")',
    ),
    "secret of the wrong type is not shown": (
        HEAD + "    dib:\n      elements: [vm]\n      environment: {MY_PASSWORD: 4711}\n",
        "recipe.yaml:6: images[0].dib.environment.MY_PASSWORD: is a number, expected text (write it in quotes)",
    ),
    "secret that is too large a number is not shown": (
        HEAD + "    dib:\n      elements: [vm]\n      environment: {MY_PASSWORD: " + "4711" * 9 + "}\n",
        "recipe.yaml:6: this value is too large a number (write it in quotes if it is text)",
    ),
    "cyclic base": (
        "images:\n  - {name: a, method: boot, base: {image: b}}\n  - {name: b, method: boot, base: {image: a}}\n",
        "recipe.yaml:2: images[0].base: cyclic base: a → b → a (an image can't be built from itself)",
    ),
    "unknown method": (
        "images:\n  - {name: a, method: docker, dib: {elements: [vm]}}\n",
        "recipe.yaml:2: images[0].method: 'docker' is not possible (dib, boot or install)",
    ),
    "no method": (
        "images:\n  - {name: a, dib: {elements: [vm]}}\n",
        "recipe.yaml:2: images[0].method: is missing (add 'method: dib', boot or install)",
    ),
    "file outside": (
        GOOD + "    configure:\n      - files: [{source: ../../etc/shadow, path: /x}]\n",
        "recipe.yaml:6: images[0].configure[0].files[0].source: ../../etc/shadow is outside the recipe's folder"
        " (copy it into that folder)",
    ),
    "missing file": (
        GOOD + "    configure:\n      - files: [{source: nope.conf, path: /x}]\n",
        "recipe.yaml:6: images[0].configure[0].files[0].source: there is no file nope.conf"
        " (paths are relative to FOLDER)",
    ),
    "bad element name": (
        HEAD + "    dib:\n      elements:\n        - vm\n        - ../evil\n",
        "recipe.yaml:7: images[0].dib.elements[1]: '../evil' is not an element's name"
        " (letters, digits, '.', '_', '+' and '-')",
    ),
    "NUL": (
        GOOD + "    publish: {name: a\0b}\n",
        "recipe.yaml:5:22: there is a NUL in the text (remove it)",
    ),
    "escaped NUL": (
        GOOD + '    publish: {name: "a\\0b"}\n',
        "recipe.yaml:5: there is a NUL in the text (remove it)",
    ),
    "escaped surrogate": (
        GOOD + '    publish: {name: "a\\uD800b"}\n',
        None,
    ),
    "escape character": (
        GOOD + "    publish: {name: a\x1b[31mb}\n",
        "recipe.yaml:5:22: there is the control character U+001B in the text (remove it)",
    ),
    "10 MB string": (
        HEAD + "    dib: " + "x" * 10_000_000,
        "recipe.yaml: is larger than 1 MiB, a recipe never is"
        " (put long content in a file beside the recipe and name it with 'source:')",
    ),
    "alias bomb": (
        "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)),
        "recipe.yaml:5: expands to more than 100,000 values (use fewer aliases)",
    ),
    "alias of itself": ("images: &a [*a]\n", "recipe.yaml:1: *a refers to itself (an alias can't contain itself)"),
    "alias of nothing": ("images: *a\n", "recipe.yaml:1: *a refers to nothing (define &a before it)"),
    "duplicate key": (
        GOOD + "    method: dib\n",
        "recipe.yaml:5: the key 'method' is there twice, first in line 3 (keep one of them)",
    ),
    "not UTF-8": (
        GOOD.encode() + b"    publish: {name: \xff}\n",
        "recipe.yaml:5: byte 0xff is not UTF-8 (save it as UTF-8)",
    ),
    "UTF-16": (GOOD.encode("utf-16"), "recipe.yaml:1: is UTF-16 (save it as UTF-8)"),
    "tab": (
        "images:\n\t- name: web\n",
        None,
    ),
    "not YAML": ("images: [\n  {name: web\n", None),
    "nested too deeply": (
        "images: " + "[" * 500_000,
        "recipe.yaml:1: is nested deeper than 40 levels (a recipe never is)",
    ),
    "key that is a number": (
        HEAD + "    dib: {elements: [vm], environment: {1: a}}\n",
        'recipe.yaml:4: the key 1 is a number (write it in quotes: "1")',
    ),
    "key that is a list": ("? [a, b]\n: c\n", "recipe.yaml:1: a key is a list (keys are text)"),
    "tag that makes objects": (
        "images: !!python/object/apply:os.system [id]\n",
        "recipe.yaml:1: the tag !!python/object/apply:os.system is not allowed"
        " (a recipe is plain text, numbers, lists and mappings)",
    ),
    "binary": ("images: !!binary aGVsbG8=\n", None),
    "date": (
        HEAD + "    dib: {elements: [vm], environment: {DIB_DATE: 2024-01-01}}\n",
        "recipe.yaml:4: 2024-01-01 is a date in YAML (write it in quotes)",
    ),
    "name with a slash": (
        "images:\n  - {name: a/b, method: dib, dib: {elements: [vm]}}\n",
        "recipe.yaml:2: images[0].name: 'a/b' is not a usable name"
        " (letters, digits, '.', '_' and '-', beginning with a letter or digit, at most 128)",
    ),
    "name with dots": ("images:\n  - {name: .., method: dib, dib: {elements: [vm]}}\n", None),
    "two images of one name": (
        GOOD + "  - name: web\n    method: dib\n" + DIB,
        "recipe.yaml:5: images[1].name: a second image 'web', the first is in line 2 (give it another name)",
    ),
    "no images": ("images: []\n", "recipe.yaml:1: images: is empty (add at least one image)"),
    "images of nothing": (
        "images:\n",
        "recipe.yaml:1: images: is empty, expected a list (write '- name: …' for each image)",
    ),
    "empty": ("", "recipe.yaml:1: is empty (write 'images:' and a list of images)"),
    "only a comment": ("# nothing\n", "recipe.yaml:1: is empty (write 'images:' and a list of images)"),
    "a word": ("hello\n", "recipe.yaml:1: the recipe hello is text (write 'images:' and a list of images)"),
    "an empty list": ("[]\n", "recipe.yaml:1: is an empty list (add at least one image)"),
    "an image that is text": ("images: [web]\n", "recipe.yaml:1: images[0]: web is text, expected a mapping"),
    "two documents": (
        GOOD + "---\n" + GOOD,
        "recipe.yaml:5: a second YAML document begins (a recipe is one document: remove the '---')",
    ),
    "huge number": (
        GOOD + "    publish: {keep: " + "9" * 400 + "}\n",
        None,
    ),
    "number of 6,000 digits": (GOOD + "    timeout: {build: " + "9" * 6000 + "}\n", None),
    "infinity": (
        GOOD + "    timeout: {build: .inf}\n",
        "recipe.yaml:5: .inf is not a finite number (write it in quotes if it is text)",
    ),
    "negative time": (
        GOOD + "    timeout: {step: -1}\n",
        "recipe.yaml:5: images[0].timeout.step: -1 is too small (more than 0)",
    ),
    "keep nothing": (
        GOOD + "    publish: {keep: 0}\n",
        "recipe.yaml:5: images[0].publish.keep: 0 is too small (1 or more)",
    ),
    "boolean as a number": (
        GOOD + "    publish: {keep: true}\n",
        "recipe.yaml:5: images[0].publish.keep: true is a boolean, expected a whole number",
    ),
    "impossible output": (
        GOOD + "    outputs: [qcow]\n",
        "recipe.yaml:5: images[0].outputs[0]: 'qcow' is not possible (did you mean 'qcow2'?)",
    ),
    "impossible type of diskimage-builder": (
        HEAD + "    dib: {elements: [vm], types: [qcow3]}\n",
        "recipe.yaml:4: images[0].dib.types[0]: 'qcow3' is not possible (did you mean 'qcow2'?)",
    ),
    "several images in one definition": (
        HEAD + "    dib:\n      - {imagename: a, elements: [vm]}\n      - {imagename: b}\n",
        "recipe.yaml:4: images[0].dib: defines 2 images: a, b (write one entry of 'images:' for each imagename)",
    ),
    "no elements": (
        HEAD + "    dib: {elements: []}\n",
        "recipe.yaml:4: images[0].dib: names no elements"
        " (add 'elements:' with at least a distribution, such as [debian-minimal])",
    ),
    "dib of nothing": (HEAD + "    dib:\n", None),
    "dib is text": (HEAD + "    dib: debian\n", None),
    "dib is an empty list": (
        HEAD + "    dib: []\n",
        "recipe.yaml:4: images[0].dib: is empty (write at least 'elements')",
    ),
    "option instead of a package": (
        GOOD + "    configure:\n      - packages: [--allow-unauthenticated]\n",
        "recipe.yaml:6: images[0].configure[0].packages[0]: '--allow-unauthenticated' is not a package name"
        " (a name such as nginx, or nginx=1.22*)",
    ),
    "option instead of a requirement": (
        GOOD + "    configure:\n      - pip: [--index-url=http://evil/]\n",
        None,
    ),
    "two steps in one": (
        GOOD + "    configure:\n      - packages: [a]\n        pip: [b]\n",
        "recipe.yaml:6: images[0].configure[0]: is not one step"
        " (one of packages, pip, files, users, services in each entry of the list)",
    ),
    "step of a later version": (
        GOOD + "    configure:\n      - shell: echo hi\n",
        "recipe.yaml:6: images[0].configure[0].shell: there is no such key"
        " (known keys: packages, pip, files, users, services)",
    ),
    "plain password": (
        GOOD + "    configure:\n      - users: [{name: bob, password: hunter2}]\n",
        "recipe.yaml:6: images[0].configure[0].users[0].password: is neither a reference to a secret nor a crypt hash"
        " (write {secret: NAME}, or the output of 'openssl passwd -6')",
    ),
    "secret that leads elsewhere": (
        HEAD + "    dib:\n      elements: [vm]\n      environment: {A: {secret: ../../etc/shadow}}\n",
        "recipe.yaml:6: images[0].dib.environment.A: is not a reference to a secret"
        " ({secret: NAME}; a name is letters, digits, '_', '.' and '-')",
    ),
    "forged place of a secret": (
        HEAD + "    dib:\n      elements: [vm]\n      environment: {A: {secret: 'recipe:/etc/x#a/B'}}\n",
        None,
    ),
    "variable with an equals sign": (
        HEAD + "    dib:\n      elements: [vm]\n      environment: {'A=B': c}\n",
        None,
    ),
    "relative path in the image": (
        GOOD + "    configure:\n      - files: [{content: a, path: etc/motd}]\n",
        "recipe.yaml:6: images[0].configure[0].files[0].path: is not an absolute path (begin it with '/')",
    ),
    "path in the image that climbs": (
        GOOD + "    configure:\n      - files: [{content: a, path: /etc/../../x}]\n",
        None,
    ),
    "source and content": (
        GOOD + "    configure:\n      - files: [{content: a, source: recipe.yaml, path: /x}]\n",
        "recipe.yaml:6: images[0].configure[0].files[0]: needs one of 'source' and 'content'"
        " (source: FILE beside the recipe, or content: TEXT)",
    ),
    "service on and off": (
        GOOD + "    configure:\n      - services: {enable: [ssh], disable: [ssh]}\n",
        "recipe.yaml:6: images[0].configure[0].services: enables and disables 'ssh' (keep one of them)",
    ),
    "merge of a list": (
        "x: &x [1]\nimages:\n  - <<: *x\n",
        None,
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_one_readable_line(case: str, tmp_path: Path) -> None:
    text, expected = MALFORMED[case]
    said = message(tmp_path, text)
    if expected is not None:
        assert said == expected
    assert said.startswith("recipe.yaml")
    assert "Traceback" not in said and "pydantic" not in said and "jsonschema" not in said
    assert all(len(line) < 400 for line in said.splitlines())
    assert all(c.isprintable() or c == "\n" for c in said)
    assert said.rstrip().endswith(")") or ", expected " in said, "no way out"


def test_no_malformed_recipe_takes_long(tmp_path: Path) -> None:
    with spent() as seconds:
        for text, _ in MALFORMED.values():
            message(tmp_path, text)
    assert seconds() < 5


def test_all_problems_are_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = (
        "images:\n"
        "  - name: bad name\n"
        "    method: dib\n"
        "    dib:\n"
        "      elements: [vm]\n"
        "      environment: {DIB_RELEASE: 12}\n"
        "    configure:\n"
        "      - files: [{source: nope, path: x}]\n"
        "    keep: 3\n"
    )
    lines = message(tmp_path, text).splitlines()
    assert [line.split(":")[1] for line in lines] == ["2", "6", "8", "8", "9"]


def test_many_problems_do_not_flood(tmp_path: Path) -> None:
    said = message(tmp_path, GOOD + "    configure:\n" + "      - packages: ['-x']\n" * 200)
    assert len(said.splitlines()) == 31
    assert said.endswith("… and 170 more problems")


SETTINGS = {
    "unknown key": (
        "dib.enviroment.A",
        "b",
        "--set dib.enviroment.A: images[0].dib.enviroment: diskimage-builder knows no such key",
    ),
    "below a value": ("name.first", "b", "--set name.first: there is no such path"),
    "no such entry": ("dib.elements.7", "b", "--set dib.elements.7: there is no entry 7"),
    "a word as an index": ("dib.elements.first", "b", "--set dib.elements.first: there is no such path"),
    "empty part": ("dib..x", "b", "--set dib..x: is not a path of keys"),
    "empty": ("", "b", "--set : is not a path of keys"),
    "wrong type": (
        "publish.keep",
        "many",
        "--set publish.keep: images[0].publish.keep: many is text, expected a whole number",
    ),
    "not YAML": ("outputs", "[raw", "--set outputs: the value is not YAML"),
    "secret": ("dib.environment.MY_TOKEN", "abcdef", "--set dib.environment.MY_TOKEN: is secret"),
    "NUL": ("dib.environment.A", "a\0b", "--set dib.environment.A: the value has control characters"),
    "bomb": ("dib.elements", "[" * 100_000, "--set dib.elements: the value is not YAML"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_that_can_not_be(case: str, tmp_path: Path) -> None:
    key, value, expected = SETTINGS[case]
    said = message(tmp_path, GOOD, {key: value})
    assert said.startswith(expected)
    assert "abcdef" not in said
