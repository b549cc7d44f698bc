"""A Puppet manifest, applied in the machine without a server."""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import Sequence
from pathlib import Path

from imageflow.errors import RecipeError
from imageflow.model import Json
from imageflow.provisioners import Context, sources
from imageflow.provisioners.standalone import PLACE, need, uploaded
from imageflow.provisioners.wording import short


class Puppet:
    """`- puppet: {manifest: site.pp, modules: [modules/ntp]}`; a module is named as its folder."""

    def title(self, value: Json) -> str:
        return short(f"puppet {value['manifest']}")

    def sources(self, value: Json) -> Sequence[str]:
        return [str(value["manifest"]), *map(str, value.get("modules") or ())]

    def check(self, value: Json, folder: Path) -> None:
        names = [posixpath.basename(module.rstrip("/")) for module in value.get("modules") or ()]
        if len(set(names)) != len(names):
            raise RecipeError("puppet: two modules have the same name", hint="a module is named as its folder")

    def apply(self, value: Json, context: Context) -> None:
        program = need("puppet", "puppet-agent", context)
        sources.copy(value["manifest"], context.work / "site.pp", context)
        modules = context.work / "modules"
        modules.mkdir()
        for module in value.get("modules") or ():
            sources.copy(module, modules / posixpath.basename(module.rstrip("/")), context)
        # 0: as it was, 2: changed; 4 and 6: something failed
        script = f"""
{shlex.quote(program)} apply --detailed-exitcodes --color=false --vardir {PLACE}/var --modulepath {PLACE}/modules {PLACE}/site.pp
code=$?
[ "$code" = 2 ] || exit "$code"
"""
        with uploaded(context):
            context.guest.run(script, control=context.control, log=context.log, name=self.title(value))
