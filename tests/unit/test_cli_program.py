"""The program itself: help, errors, exit codes, formats, and what it imports."""

from __future__ import annotations

import ast
import configparser
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import imageflow
from imageflow.cli.app import BROKEN_PIPE, App
from tests.small.program import ROOT, Program

RECIPE = ROOT / "etc/recipes/debian.yaml"
COMMANDS = sorted(name for name, _ in App().command_manager)


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path / "state")


def test_the_help_lists_every_command(program: Program) -> None:
    text = program.run("--help").stdout
    missing = [name for name in COMMANDS if f"\n  {name} " not in text]
    assert missing == []
    assert program.run("help").stdout == text


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_of_its_own(command: str) -> None:
    app = App()
    factory, name, _ = app.command_manager.find_command(command.split())
    parser = factory(app, None).get_parser(f"imageflow {name}")
    text = parser.format_help()
    assert text.startswith(f"usage: imageflow {name}")
    assert (parser.description or "").strip()


def test_help_of_one_command(program: Program) -> None:
    assert "usage: imageflow build create " in program.run("build", "create", "--help").stdout
    assert "usage: imageflow build create " in program.run("help", "build", "create").stdout


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        ((), "which command?", "--help"),
        (("build",), "'build' what?", "build abort, build cancel, build console, build create"),
        (("bild", "list"), "there is no command 'bild list'", "build list"),
        (("build", "lsit", "x"), "there is no command 'build lsit'", "build list"),
        (("build", "plan", "r.yaml"), "there is no command 'build plan'", "did you mean recipe plan?"),
        (("qqq",), "there is no command 'qqq'", "--help"),
        (("--nope",), "there is no option --nope", "--help"),
        (("build", "show"), "there is no build yet", "build create"),
        (("build", "show", "abc"), "there is no build 'abc'", "build list"),
        (("build", "resume", "abc"), "there is no build 'abc'", "build list"),
        (("build", "list", "-c", "nope"), "there is no column nope", "id, image"),
        (("image", "show", "nope"), "there is no image 'nope'", "image list"),
        (("recipe", "validate", "/nonexistent.yaml"), "/nonexistent.yaml", ""),
        (("recipe", "plan", str(RECIPE), "nope"), "nope", ""),
        (("--config-file", "/nonexistent.conf", "build", "list"), "/nonexistent.conf", ""),
    ],
)
def test_bad_input_is_exit_code_2_one_message_and_the_way_out(
    program: Program, words: tuple[str, ...], message: str, hint: str
) -> None:
    done = program.run(*words, expect=2)
    first = next(line for line in done.stderr.splitlines() if not line.startswith("usage:"))
    assert first.startswith("imageflow: ")
    assert message in first
    assert hint in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    "words",
    [
        ("build", "list", "--state", "sleeping"),
        ("build", "list", "--limit", "0"),
        ("build", "list", "--lim", "3"),  # an abbreviation
        ("build", "resume"),
        ("build", "create"),
        ("build", "create", str(RECIPE), "--set", "novalue"),
        ("build", "list", "-f", "xml"),
    ],
)
def test_bad_arguments_are_exit_code_2(program: Program, words: tuple[str, ...]) -> None:
    done = program.run(*words, expect=2)
    assert "error:" in done.stderr
    assert "Traceback" not in done.stderr


def test_options_of_a_command_are_not_taken_for_global_ones(program: Program) -> None:
    """--state must not be read as an abbreviation of --state-dir."""
    assert program.json("build", "list", "--state", "running") == []
    assert not (Path.cwd() / "running").exists()


def test_global_options_may_come_after_the_command(program: Program, tmp_path: Path) -> None:
    program.run("build", "list", "--state-dir", str(tmp_path / "other"))
    assert (tmp_path / "other" / "imageflow.db").exists()
    assert not program.state_dir.exists()


def test_debug_shows_where_an_error_came_from(program: Program) -> None:
    assert "Traceback" in program.run("--debug", "build", "show", "abc", expect=2).stderr


def test_a_bug_shows_a_traceback_and_asks_for_a_report(program: Program, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import json\njson.dumps = None\n")
    program.env["PYTHONPATH"] += f":{tmp_path}"
    done = program.run("recipe", "schema", expect=1)
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1] == "(this is a bug in imageflow; please report it with the lines above)"


def test_a_state_directory_that_can_not_be_made_is_no_bug(program: Program, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = program.run("--state-dir", str(tmp_path / "file" / "state"), "build", "list", expect=None)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert str(tmp_path / "file") in done.stderr


def test_a_reader_that_leaves_early_hears_nothing_of_it(program: Program) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*program.argv, "recipe", "schema"], env=program.env, stdout=writing, stderr=subprocess.PIPE, timeout=60
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (BROKEN_PIPE, b"")


def test_every_format_of_an_empty_list(program: Program) -> None:
    assert program.json("build", "list") == []
    assert yaml.safe_load(program.run("build", "list", "-f", "yaml").stdout) == []
    assert program.run("build", "list", "-f", "value").stdout == ""
    table = program.run("build", "list")
    assert (table.stdout, table.stderr) == ("", "(no builds)\n")


def test_a_recipe_is_validated_and_shown(program: Program) -> None:
    assert program.run("recipe", "validate", str(RECIPE)).stdout == f"{RECIPE}: right (2 images: debian, web)\n"
    assert program.json("recipe", "validate", str(RECIPE)) == [
        {"image": "debian", "method": "dib", "remarks": []},
        {"image": "web", "method": "boot", "remarks": []},
    ]
    shown = yaml.safe_load(program.run("recipe", "show", str(RECIPE)).stdout)
    rows = program.json("recipe", "show", str(RECIPE))  # one column for each key that any of the images has
    assert shown["images"] == [{key: value for key, value in row.items() if value is not None} for row in rows]
    assert shown["images"][0]["outputs"] == ["qcow2"]
    changed = program.json("recipe", "show", str(RECIPE), "--set", "publish.keep=7")
    assert changed[0]["publish"]["keep"] == 7


def test_plain_secrets_are_remarked_and_not_shown(program: Program, tmp_path: Path) -> None:
    step = "{shell: {run: 'curl https://u:pw-1234@h', environment: {DB_PASS: hunter22}}}"
    (tmp_path / "disk.raw").write_bytes(b"x")
    text = f"images: [{{name: web, method: boot, base: {{file: disk.raw}}, configure: [{step}]}}]"
    (tmp_path / "plain.yaml").write_text(text)
    file = str(tmp_path / "plain.yaml")
    said = program.run("recipe", "validate", file)
    assert said.stderr == ""
    assert said.stdout == (
        f"{file}: right (1 image: web)\n"
        f"remark: {file}:1: images[0].configure[0].shell.run: holds credentials in a URL, in plain text"
        " (take it out: everyone who reads the recipe, or the image's manifest, could read it)\n"
        f"remark: {file}:1: images[0].configure[0].shell.environment.DB_PASS: holds a password, key or token, by its name,"
        " in plain text (write {secret: NAME}: everyone who reads the recipe can read it)\n"
    )
    for words in (("recipe", "show", file), ("recipe", "show", file, "-f", "json")):
        shown = program.run(*words).stdout
        assert "hunter22" not in shown
        assert "pw-1234" not in shown
        assert "https://******@h" in shown


def test_what_is_shown_is_a_recipe_again(program: Program, tmp_path: Path) -> None:
    again = tmp_path / "again.yaml"
    again.write_text(program.run("recipe", "show", str(RECIPE)).stdout)
    assert program.json("recipe", "show", str(again)) == program.json("recipe", "show", str(RECIPE))


def test_the_schema_is_json_and_yaml(program: Program) -> None:
    schema = json.loads(program.run("recipe", "schema").stdout)
    assert yaml.safe_load(program.run("recipe", "schema", "-f", "yaml").stdout) == schema


def test_a_verdict_is_text_in_every_format(program: Program) -> None:
    added = program.run("recipe", "add", str(RECIPE), "-f", "yaml")
    assert yaml.safe_load(added.stdout)["verdict"] == "added", added
    assert program.json("recipe", "add", str(RECIPE))["verdict"] == "unchanged"


def test_completion(program: Program) -> None:
    text = program.run("complete").stdout
    assert "cmds_build='abort cancel console create" in text


def test_the_database_is_upgraded_and_checked(program: Program) -> None:
    assert program.json("db", "check", expect=1)["differences"] != []
    assert program.json("db", "upgrade")["state"] == "up to date"
    assert program.json("db", "upgrade")["state"] == "up to date"
    assert program.json("db", "check") == {"database": "sqlite", "state": "up to date", "differences": []}


@pytest.mark.parametrize(
    ("words", "forbidden"),
    [
        (
            ["--help"],
            {"taskflow", "sqlalchemy", "alembic", "pydantic", "rich", "oslo_config", "yaml", "cmd2"}
            | {"oslo_policy", "keystonemiddleware", "imageflow.access.tokens"},
        ),
        (
            ["build", "list"],
            {"taskflow", "alembic", "pydantic", "rich", "diskimage_builder", "cmd2", "yaml", "tenacity", "psutil"}
            | {"sqlalchemy.dialects.mysql", "sqlalchemy.dialects.postgresql"}
            | {
                f"imageflow.{room}"
                for room in ("access", "builds", "images", "stores", "compute", "recipe", "announce", "events")
            },
        ),
        (
            ["recipe", "validate", str(RECIPE)],
            {"taskflow", "sqlalchemy", "alembic", "rich", "cmd2", "tenacity", "psutil", "requests", "debian"}
            | {"imageflow.inputs.archives", "imageflow.inputs.download", "imageflow.host.process"},
        ),
    ],
)
def test_start_up_imports_nothing_heavy(program: Program, words: list[str], forbidden: set[str]) -> None:
    program.run("db", "upgrade")
    code = (
        "import sys; from imageflow.cli.app import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print('modules', *sorted(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], env=program.env, capture_output=True, text=True, check=True, timeout=60
    )
    loaded = set(done.stdout.splitlines()[-1].split()[1:])
    assert "cliff" in loaded
    assert loaded & forbidden == set()


def test_the_sample_configuration_is_what_the_options_say(tmp_path: Path) -> None:
    generator = Path(sys.executable).with_name("oslo-config-generator")
    subprocess.run(
        [generator, "--namespace", "imageflow", "--output-file", tmp_path / "sample"], check=True, timeout=60
    )
    assert (tmp_path / "sample").read_text() == (ROOT / "etc/imageflow.conf.sample").read_text(), "run: make sample"


def test_the_service_unit_has_more_patience_than_the_conductor() -> None:
    from imageflow import config

    unit = configparser.ConfigParser()
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(ROOT / "etc/systemd/imageflow.service")
    assert unit["Service"]["Type"] == "notify"
    assert float(unit["Service"]["TimeoutStopSec"]) > config.load(["/dev/null"]).conductor.drain_timeout


def test_only_the_engine_knows_taskflow_engines() -> None:
    """import-linter sees no deeper than the name of a package that is not ours."""
    package = Path(imageflow.__file__).parent
    importers = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        for name in _imports(path)
        if name == "taskflow.engines"
    }
    assert importers == {"builds/engine.py"}


def _imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        names |= {".".join(name.split(".")[:2]) for name in found}
    return names


def test_what_a_stranger_wrote_acts_on_no_terminal(program: Program, tmp_path: Path) -> None:
    hostile = "deb\u009b31m\u202egpj\u200b\nforged: yes"
    event = {
        "specversion": "1.0",
        "source": "test",
        "id": "1",
        "type": "a.b",
        "subject": hostile,
        "data": {"x": f"{hostile}\x1b[2J"},
    }
    (tmp_path / "event.json").write_text(json.dumps(event))
    shown = [program.run("event", "send", str(tmp_path / "event.json"))]
    [listed] = program.json("event", "list")
    assert listed["subject"] == hostile  # as it came
    identity = str(listed["event"])
    for words in (("event", "list"), ("event", "show", identity)):
        shown += [program.run(*words), program.run(*words, "-f", "table"), program.run(*words, "-f", "value")]
    for one in shown:
        text = one.stdout + one.stderr
        assert not [c for c in "\x1b\u009b\u202e\u200b" if c in text], text
        assert not [line for line in text.splitlines() if line.startswith("forged")], text
    assert "deb\\x9b31m\\u202egpj\\u200b\\nforged: yes" in shown[2].stdout
