"""Files: local ones, texts of the recipe, and templates of both."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imageflow.errors import RecipeError
from imageflow.model import Json
from imageflow.provisioners import Context, sources
from imageflow.provisioners.values import resolved
from imageflow.provisioners.wording import listing


class Files:
    """`- files: [{source: site.conf, path: /etc/site.conf, mode: "0644", owner: root, template: true}]`."""

    def title(self, value: Sequence[Json]) -> str:
        return listing("files", [str(entry["path"]) for entry in value])

    def sources(self, value: Sequence[Json]) -> Sequence[str]:
        return [str(entry["source"]) for entry in value if entry.get("source") is not None]

    def check(self, value: Sequence[Json], folder: Path) -> None:
        for entry in value:
            if not entry.get("template"):
                continue
            text = entry.get("content")
            if text is None:
                text = _text((folder / entry["source"]).read_bytes(), entry)
            render(text, None, entry)

    def apply(self, value: Sequence[Json], context: Context) -> None:
        for number, entry in enumerate(value):
            context.progress(number / len(value), str(entry["path"]))
            data = self._content(entry, context)
            context.guest.put(
                data,
                str(entry["path"]),
                mode=str(entry.get("mode") or "0644"),
                owner=str(entry.get("owner") or "root:root"),
                control=context.control,
            )
            context.log(f"wrote {entry['path']}")

    def _content(self, entry: Json, context: Context) -> bytes | Path:
        if entry.get("template"):
            text = entry.get("content")
            if text is None:
                text = _text(sources.read(entry["source"], context), entry)
            return render(text, resolved(entry.get("variables", {}), context.secret), entry).encode()
        if entry.get("source") is None:
            return str(entry["content"]).encode()
        aside = context.work / "file"
        sources.copy(entry["source"], aside, context)
        return aside


def render(text: str, variables: Json | None, entry: Json) -> str:
    """A Jinja2 template with these variables filled in; with None it is only looked whether it is one.

    Templates can do nothing but text: they see no files, and no attributes of Python's. A variable that
    is not there is an error. Raises RecipeError with the template's line.
    """
    import jinja2
    from jinja2.sandbox import SandboxedEnvironment

    name = entry.get("source") or posixpath.basename(str(entry["path"]))
    environment = SandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
    try:
        template = environment.from_string(text)
        return "" if variables is None else template.render(**variables)
    except jinja2.TemplateSyntaxError as error:
        raise RecipeError(f"template {name}, line {error.lineno}: {error.message}") from None
    except jinja2.TemplateError as error:
        raise RecipeError(
            f"template {name}: {error}", hint="variables: {NAME: VALUE} beside 'template: true'"
        ) from None
    except (TypeError, ValueError, ArithmeticError, LookupError, OverflowError) as error:
        raise RecipeError(f"template {name}: {type(error).__name__}: {error}") from None


def _text(data: bytes, entry: Any) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise RecipeError(
            f"template {entry['source']} is not UTF-8 text", hint="only text can be a template; leave 'template' out"
        ) from None
