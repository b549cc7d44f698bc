"""Salt states, applied in the machine without a master."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from imageflow.errors import RecipeError
from imageflow.model import Json
from imageflow.provisioners import Context, sources
from imageflow.provisioners.standalone import PLACE, need, uploaded
from imageflow.provisioners.values import resolved
from imageflow.provisioners.wording import short


class Salt:
    """`- salt: {states: salt, apply: web, pillar: {port: 80}}`; without `apply` the highstate of top.sls."""

    def title(self, value: Json) -> str:
        return short(f"salt {value.get('apply') or value['states']}")

    def sources(self, value: Json) -> Sequence[str]:
        return [str(value["states"])]

    def check(self, value: Json, folder: Path) -> None:
        if not value.get("apply") and not (folder / value["states"] / "top.sls").is_file():
            raise RecipeError(
                f"salt: there is no top.sls in {value['states']}", hint="write one, or name a state with 'apply:'"
            )

    def apply(self, value: Json, context: Context) -> None:
        program = need("salt-call", "salt-minion", context)
        sources.copy(value["states"], context.work / "states", context)
        (context.work / "pillar").mkdir()
        (context.work / "pillar/top.sls").write_text(json.dumps({"base": {"*": ["imageflow"]}}))
        pillar = "#!json\n" + json.dumps(resolved(value.get("pillar") or {}, context.secret))
        options = [
            "--local",
            "--retcode-passthrough",
            "--no-color",
            f"--config-dir={PLACE}/config",
            f"--file-root={PLACE}/states",
            f"--pillar-root={PLACE}/pillar",
        ]
        (context.work / "config").mkdir()
        (context.work / "config/minion").write_text(
            json.dumps(
                {"file_client": "local", "root_dir": f"{PLACE}/root", "log_level_logfile": "quiet", "id": "imageflow"}
            )
        )
        state = [value["apply"]] if value.get("apply") else []
        script = shlex.join([program, *options, "state.apply", *state])
        with uploaded(context):
            context.guest.put(pillar.encode(), f"{PLACE}/pillar/imageflow.sls", mode="0600", control=context.control)
            context.guest.run(script, control=context.control, log=context.log, name=self.title(value))
