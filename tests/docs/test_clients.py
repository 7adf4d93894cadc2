"""The table of clients and calls is complete, and nothing in it fails."""

import json

from docs.client_table import ABSENT, CLIENTS, FOUND, LIBRARIES, clients_block


def test_every_client_was_tried_and_no_call_fails() -> None:
    found = json.loads(FOUND.read_text(encoding="utf-8"))
    assert list(found) == list(CLIENTS)
    for client in found.values():
        assert client["calls"]
        for state, text in client["calls"].values():
            assert (state, text) == ("works", "") or (state == "refused" and text)


def test_the_table_has_a_row_for_each_call_and_every_refusal_its_words() -> None:
    found = json.loads(FOUND.read_text(encoding="utf-8"))
    text = clients_block()
    for client in LIBRARIES:
        for call, (_, words) in found[client]["calls"].items():
            assert f"| `{call}` |" in text
            assert words in text
    row = next(line for line in text.splitlines() if line.startswith("| `stream_infer` |"))
    assert [cell.strip() for cell in row.split("|")[2:-1]] == [ABSENT, ABSENT, ABSENT, "works", ABSENT, ABSENT]
