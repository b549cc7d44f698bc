"""Chef (or Cinc) cookbooks, run in the machine without a server."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from imageflow.errors import Refused
from imageflow.model import Json
from imageflow.provisioners import Context, sources
from imageflow.provisioners.standalone import PLACE, need, uploaded
from imageflow.provisioners.wording import short


class Chef:
    """`- chef: {cookbooks: cookbooks, run_list: ["recipe[web]"]}`."""

    def title(self, value: Json) -> str:
        return short(f"chef {', '.join(value['run_list'])}")

    def sources(self, value: Json) -> Sequence[str]:
        return [str(value["cookbooks"])]

    def check(self, value: Json, folder: Path) -> None:
        pass

    def apply(self, value: Json, context: Context) -> None:
        try:
            program = need("chef-client", "chef", context)
        except Refused:
            program = need("cinc-client", "cinc", context)
        sources.copy(value["cookbooks"], context.work / "cookbooks", context)
        (context.work / "node.json").write_text(json.dumps({"run_list": value["run_list"]}))
        (context.work / "client.rb").write_text(
            f"local_mode true\nchef_repo_path '{PLACE}'\ncookbook_path '{PLACE}/cookbooks'\n"
            f"node_path '{PLACE}/nodes'\nfile_cache_path '{PLACE}/cache'\nfile_backup_path '{PLACE}/backup'\n"
        )
        script = shlex.join(
            [
                *(program, "--local-mode", "--no-color", "--chef-license", "accept-no-persist"),
                *("--config", f"{PLACE}/client.rb", "--json-attributes", f"{PLACE}/node.json"),
            ]
        )
        with uploaded(context):
            context.guest.run(script, control=context.control, log=context.log, name=self.title(value))
