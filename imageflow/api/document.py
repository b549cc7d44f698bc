"""The OpenAPI document: what FastAPI can't know of it; `python -m imageflow.api.document` prints it, for doc/openapi.json."""

from __future__ import annotations

import json
import sys
import tempfile

from fastapi import FastAPI

_WITH_TOKEN = ("builds", "images", "requests")
_SECURITY = {
    "apiToken": {
        "type": "apiKey",
        "in": "header",
        "name": "X-Auth-Token",
        "description": "What 'imageflow token create' prints, or a token of keystone.",
    },
    "apiBearer": {"type": "http", "scheme": "bearer", "description": "What 'imageflow token create' prints."},
    "eventsToken": {"type": "http", "scheme": "bearer", "description": "What 'imageflow event token' prints."},
    "gerritToken": {
        "type": "apiKey",
        "in": "header",
        "name": "X-Gerrit-Token",
        "description": "[webhooks] gerrit_token",
    },
    "gerritBasic": {"type": "http", "scheme": "basic", "description": "[webhooks] gerrit_token as the password"},
}


def complete(app: FastAPI) -> None:
    """Complete the OpenAPI document: who may ask, and our own answer to what is invalid."""
    document = app.openapi()
    document["components"]["securitySchemes"] = _SECURITY
    for operations in document["paths"].values():
        for operation in operations.values():
            if operation["tags"][0] in _WITH_TOKEN:
                operation["security"] = [{"apiToken": []}, {"apiBearer": []}]
            if "HTTPValidationError" in json.dumps(operation["responses"].get("422", "")):
                del operation["responses"]["422"]  # FastAPI writes it wherever there are parameters; ours is 400
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)


def main() -> None:
    """Print the document of this version."""
    from imageflow import config
    from imageflow.api.app import create_app
    from imageflow.events.inbox import SqlInbox
    from imageflow.listeners import Surroundings
    from imageflow.registry.watched import SqlWatched
    from imageflow.service import Service

    with tempfile.TemporaryDirectory() as folder, Service.open(config.load(["/dev/null"], folder)) as service:
        inbox, watched = SqlInbox(service.database), SqlWatched(service.database)
        app = create_app(Surroundings(service.config, inbox, watched, lambda _: None, service))
        sys.stdout.write(json.dumps(app.openapi(), indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
