"""The driver nova: floating addresses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from imageflow.compute.nova.driver import NovaCompute
from tests.drivers.nova.nova_machine import NAME, ensure
from tests.servers.nova import PORT, Nova, configured


def test_a_floating_address_whose_answer_got_lost_is_one(nova: Nova, tmp_path: Path) -> None:
    compute = NovaCompute(configured(nova, tmp_path, floating_network="outside"))
    lost = []

    def lose(request: str) -> tuple[int, Any] | None:
        if request.startswith("POST /v2.0/floatingips") and not lost:
            lost.append(request)
            (server,) = nova.servers
            nova.floating.append({"id": "floating-0", "port_id": PORT + server, "description": NAME})
            return 504, None
        return None

    nova.before = lose
    machine = ensure(compute)
    assert len(lost) == 1
    assert [entry["port_id"] for entry in nova.floating] == [PORT + machine.process]


def test_a_floating_address_follows_the_machine_to_its_next_server(nova: Nova, tmp_path: Path) -> None:
    compute = NovaCompute(configured(nova, tmp_path, floating_network="outside"))
    first = ensure(compute)
    nova.servers.clear()
    for entry in nova.floating:
        entry["port_id"] = None
    second = ensure(compute)
    assert first.process != second.process
    assert [entry["port_id"] for entry in nova.floating] == [PORT + second.process]
    nova.seen.clear()
    ensure(compute)
    assert not [request for request in nova.seen if request.startswith(("POST /v2.0", "PUT /v2.0"))]
