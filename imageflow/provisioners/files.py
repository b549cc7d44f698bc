"""Files: local ones, texts from the recipe, and templates of either."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imageflow.errors import NotText, RecipeError
from imageflow.host import text
from imageflow.host.control import Control
from imageflow.model import Json
from imageflow.provisioners import Context, sources
from imageflow.provisioners.values import resolved
from imageflow.provisioners.wording import listing

if TYPE_CHECKING:
    import jinja2

_REMEMBERED = 4096  # templates
_VALID: set[bytes] = set()  # digests of templates whose syntax this process has checked


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
            template = entry.get("content")
            if template is None:
                template = _text((folder / entry["source"]).read_bytes(), entry)
            check_template(template, entry)

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
            template = entry.get("content")
            if template is None:
                template = _text(sources.read(entry["source"], context), entry)
            variables = resolved(entry.get("variables", {}), context.secret)
            return render(template, variables, entry, context.control).encode()
        if entry.get("source") is None:
            return str(entry["content"]).encode()
        aside = context.work / "file"
        sources.copy(entry["source"], aside, context)
        return aside


def render(source: str, variables: Json, entry: Json, control: Control) -> str:
    """Render a Jinja2 template with these variables, in a process with bounds: a template may compute without end.

    Templates can do nothing but text: they see no files, and no attributes of Python's. A variable that
    is not there is an error. Raises RecipeError with the template's line, Exceeded.
    """
    return str(_call(_rendered, source, variables, name := _name(entry), name=name, control=control))


def check_template(source: str, entry: Json) -> None:
    """Raise RecipeError with the line of an error in a template's syntax; Exceeded, as Jinja2 computes constants already here."""
    key = hashlib.sha256(source.encode("utf-8", "surrogatepass")).digest()
    if key not in _VALID:  # a recipe is checked again before each of its builds
        _call(_checked, source, name := _name(entry), name=name, control=Control())
        if len(_VALID) >= _REMEMBERED:
            _VALID.clear()
        _VALID.add(key)


def _call(function: Callable[..., Any], *arguments: Any, name: str, control: Control) -> Any:
    from imageflow.host import bounded  # 'recipe validate' needs no process without a template

    bounds = bounded.Bounds(memory=512 << 20, processor=20, wall=120.0, output=16 << 20)
    return bounded.call(function, *arguments, control=control, what=f"template {name}", bounds=bounds)


def _name(entry: Json) -> str:
    return str(entry.get("source") or posixpath.basename(str(entry["path"])))


def _text(data: bytes, entry: Any) -> str:
    try:
        return text.read(data).text
    except NotText as error:
        raise RecipeError(
            f"template {entry['source']}, line {error.line}: {error.message}",
            hint="only text can be a template; leave 'template' out",
        ) from None


# -- in the child ------------------------------------------------------------------------------------


def _compiled(source: str, name: str) -> jinja2.Template:
    import jinja2
    from jinja2.sandbox import SandboxedEnvironment

    environment = SandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
    try:
        return environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise RecipeError(f"template {name}, line {error.lineno}: {error.message}") from None
    except RecursionError:
        raise RecipeError(f"template {name} is nested too deeply", hint="write it flatter") from None


def _checked(source: str, name: str) -> None:
    _compiled(source, name)


def _rendered(source: str, variables: Json, name: str) -> str:
    import jinja2

    try:
        return _compiled(source, name).render(**variables)
    except jinja2.TemplateError as error:
        raise RecipeError(
            f"template {name}: {error}", hint="variables: {NAME: VALUE} beside 'template: true'"
        ) from None
    except (TypeError, ValueError, ArithmeticError, LookupError, OverflowError, RecursionError) as error:
        raise RecipeError(f"template {name}: {type(error).__name__}: {error}") from None
