"""A build's state is written in one module: what may follow what is said there, and nowhere else."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import imageflow
from imageflow.builds import transitions
from imageflow.model import BuildState

ROOT = Path(imageflow.__file__).parent
OURS = "builds/transitions.py"
TABLE = "persistence/builds.py"  # the door to the table itself


def _writers() -> Iterator[str]:
    """The modules that change builds, by persistence.builds.change or by a statement of their own."""
    for path in ROOT.rglob("*.py"):
        tree = ast.parse(path.read_text())
        named = _names(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and (ast.unparse(node.func) in named or _updates(node)):
                yield str(path.relative_to(ROOT))


def _updates(call: ast.Call) -> bool:
    into = ast.unparse(call.args[0]) if call.args else ""
    return ast.unparse(call.func).endswith("update") and into.rpartition(".")[2] == "builds"


def _names(tree: ast.Module) -> set[str]:
    """What `imageflow.persistence.builds.change` is called in a module."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for name in node.names:
                if (node.module, name.name) == ("imageflow.persistence", "builds"):
                    found.add(f"{name.asname or name.name}.change")
                if (node.module, name.name) == ("imageflow.persistence.builds", "change"):
                    found.add(name.asname or name.name)
        if isinstance(node, ast.Import):
            found |= {
                f"{name.asname or name.name}.change"
                for name in node.names
                if name.name == "imageflow.persistence.builds"
            }
    return found


def test_no_other_module_writes_the_state_of_a_build() -> None:
    assert set(_writers()) == {OURS, TABLE}


def test_every_state_is_reached_and_every_build_can_end() -> None:
    after = transitions.NEXT
    assert set(after) == {state for state in BuildState if not state.ended}
    assert set().union(*after.values()) == set(BuildState)
    for state in after:
        reached, waiting = set(), [state]
        while waiting:
            for one in after.get(waiting.pop(), frozenset()) - reached:
                reached.add(one)
                waiting.append(one)
        assert any(one.ended for one in reached), state


def test_the_table_in_the_docstring_is_the_one_that_is_kept() -> None:
    text = transitions.__doc__ or ""
    told: dict[str, set[str]] = {}
    before = ""
    for line in text.splitlines()[3:]:
        if not line.startswith("    "):
            break
        before = line[4:15].strip() or before
        to = line[15:35].replace(",", " ").split()
        told.setdefault(before, set()).update(to)
    assert told == {str(state): set(map(str, after)) for state, after in transitions.NEXT.items()}
