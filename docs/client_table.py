"""Which call of which published client does what: the tables of docs/protocol.md, from what the tests found."""

import json
from collections.abc import Sequence
from typing import TypedDict

from docs.blocks import ROOT, code, table

FOUND = ROOT / "docs" / "clients.json"
"""Written by tests/integration/test_client_calls.py."""

LIBRARIES = (
    "tritonclient.http",
    "tritonclient.http.aio",
    "tritonclient.grpc",
    "tritonclient.grpc.aio",
    "kserve REST",
    "kserve gRPC",
)
PROGRAMS = ("perf_analyzer HTTP", "perf_analyzer gRPC")
CLIENTS = (*LIBRARIES, *PROGRAMS)
ABSENT = ""
"""The cell of a call that a client does not have."""

Cells = dict[str, tuple[str, str]]
"""(state, text) by call: works, refused or failing, and what was told."""


class Found(TypedDict):
    """What one client met."""

    version: str
    calls: Cells


def clients_block() -> str:
    """A table of calls for the libraries, one for the programs, and the words of every refusal."""
    found: dict[str, Found] = json.loads(FOUND.read_text(encoding="utf-8"))
    parts = [_table(found, "call", LIBRARIES), _table(found, "measurement", PROGRAMS)]
    words: dict[str, list[str]] = {}
    for client in found.values():
        for call, (state, text) in client["calls"].items():
            if state == "refused" and call not in words.setdefault(text, []):
                words[text].append(call)
    lines = [f"- {', '.join(map(code, sorted(calls)))}: {text}" for text, calls in sorted(words.items())]
    return "\n\n".join((*parts, "What is refused, and in which words:\n\n" + "\n".join(lines)))


def _table(found: dict[str, Found], title: str, clients: Sequence[str]) -> str:
    present = [client for client in clients if client in found]
    calls = sorted({call for client in present for call in found[client]["calls"]})
    rows = [(code(call), *(found[client]["calls"].get(call, (ABSENT, ""))[0] for client in present)) for call in calls]
    return table((title, *(f"{client} {found[client]['version']}" for client in present)), rows)
