"""Bad recipes given to `build create`: exit code 2, one readable message, and not even a state folder is made."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.small.program import Program

HEAD = "images:\n  - name: web\n    method: dib\n"
GOOD = HEAD + "    dib: {elements: [debian-minimal]}\n"
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 8)}]\n" for n in range(1, 12)
)

RECIPES: dict[str, tuple[str | bytes, str]] = {
    "unknown key": (GOOD + "    comand: x\n", "comand"),
    "unknown key with a likely meaning": (GOOD + "    outputz: [raw]\n", "outputs"),
    "wrong type": (HEAD + "    dib: {elements: debian-minimal}\n", "dib.elements"),
    "missing dib": (HEAD, "dib"),
    "missing name": ("images:\n  - method: dib\n    dib: {elements: [debian-minimal]}\n", "name"),
    "unknown method": ("images:\n  - {name: web, method: magic}\n", "method"),
    "cyclic base": (
        "images:\n  - {name: a, method: boot, base: {image: b}}\n  - {name: b, method: boot, base: {image: a}}\n",
        "cyclic base",
    ),
    "path outside the folder": (
        GOOD + "    configure:\n      - files: [{source: ../../etc/passwd, path: /x}]\n",
        "source",
    ),
    "missing file": (GOOD + "    configure:\n      - files: [{source: nowhere.conf, path: /x}]\n", "nowhere.conf"),
    "bad element name": (HEAD + "    dib: {elements: ['../evil']}\n", "evil"),
    "element that is not there": (HEAD + "    dib: {elements: [debian-minimall]}\n", "did you mean 'debian-minimal'"),
    "NUL": (b'images:\n  - name: "we\x00b"\n', "NUL"),
    "10 MB string": (HEAD + "    dib: {elements: ['" + "a" * 10_000_000 + "']}\n", "1 MiB"),
    "aliases bomb": (BOMB + "images: *a11\n", "aliases"),
    "not YAML": ("images: [\n", "recipe.yaml:"),
    "not UTF-8": (b"images:\n  - name: \xff\xfe\n", "UTF-8"),
    "empty file": ("", "images"),
    "a scalar": ("42\n", "images"),
    "two of one name": (GOOD + GOOD.removeprefix("images:\n"), "web"),
    "duplicate key": (GOOD + "    method: dib\n", "method"),
    "mode as a number": (GOOD + "    configure:\n      - files: [{content: x, path: /x, mode: 0644}]\n", "mode"),
    "python tag": ("images: !!python/object/apply:os.system [touch /tmp/imageflow-was-here]\n", "python"),
    "deep nesting": ("images: " + "[" * 5000 + "]" * 5000 + "\n", "nest"),
    "negative timeout": (GOOD + "    timeout: {build: -1}\n", "timeout"),
    "unknown output": (GOOD + "    outputs: [vmdk]\n", "outputs"),
    "plain password": (GOOD + "    configure:\n      - users: [{name: ops, password: hunter2}]\n", "password"),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_bad_recipe_changes_nothing(tmp_path: Path, name: str) -> None:
    content, words = RECIPES[name]
    file = tmp_path / "recipe.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    program = Program(tmp_path / "state")
    done = program.run("build", "create", str(file), "--wait", expect=2, seconds=30)
    assert done.stdout == ""
    assert words in done.stderr
    assert str(file) in done.stderr
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stderr
    assert len(done.stderr) < 1500
    assert done.stderr.count("\n(") <= done.stderr.count(f"{file}")  # each problem has at most one way out
    assert not program.state_dir.exists()
    assert not Path("/tmp/imageflow-was-here").exists()


def test_a_missing_recipe_and_a_folder(tmp_path: Path) -> None:
    program = Program(tmp_path / "state")
    for file in (tmp_path / "nowhere.yaml", tmp_path):
        done = program.run("build", "create", str(file), expect=2, seconds=30)
        assert str(file) in done.stderr
        assert not program.state_dir.exists()
